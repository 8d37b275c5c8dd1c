"""Media types that are no text, in few groups, so that what was skipped can be counted."""


def media_group(media_type: str) -> str:
    """The group of a media type: "image", "PDF", "XML", ..."""
    if media_type == "application/pdf":
        return "PDF"
    if "javascript" in media_type or media_type in ("text/css", "application/json"):
        return "script, style or JSON"
    if "xml" in media_type:
        return "XML"
    major = media_type.partition("/")[0]
    return major if major in ("image", "audio", "video", "font") else "other media type"
