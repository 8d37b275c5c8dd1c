"""Which encoding the bytes of a web page are in.

In the order of the WHATWG Encoding and HTML standards: a byte order mark, what the server says,
what the page says in its first kilobytes, and last what the bytes look like. Labels mean what they
mean in a browser: `iso-8859-1` is Windows-1252, `gb2312` is GB 18030.

Two things differ from a browser, which must show any page at once, right or wrong. A declaration
that the bytes do not bear out is passed over, and bytes that are valid UTF-8 are not read as a
single-byte encoding: that declaration is then a server's default, not a fact.
"""

import codecs
import re

from llmstages.data.encodings import decode_bytes

BROKEN_SHARE = 0.001
"""A declaration holds where no more than this share of the characters cannot be decoded."""

_PRESCAN_BYTES = 4096  # the standard says 1,024; pages with long comments in front need more
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_COMMENT = re.compile(rb"<!--.*?-->", re.S)
_DECLARED = re.compile(
    rb"<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.I
)
# What browsers decode these as: the supersets in use, which Python keeps under other names.
_SUPERSETS = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
}
_SINGLE_BYTE = ("cp125", "iso8859", "koi8", "mac-", "cp866", "cp874")


def decode_page(data: bytes, charset: str | None = None) -> tuple[str, str]:
    """The page as text and the name of the codec that read it; `charset` is what the server says.

    What cannot be decoded becomes U+FFFD.
    """
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace"), codec
    for codec in _declared(data, charset):
        if codec.startswith(_SINGLE_BYTE) and _is_utf8(data):
            return data.decode("utf-8"), "utf-8"
        if codec.startswith("utf-16") and b"\0" not in data[:_PRESCAN_BYTES]:
            continue  # any bytes decode as UTF-16, but its tags have zeros in them
        text = data.decode(codec, "replace")
        if text.count("\ufffd") <= BROKEN_SHARE * len(text):
            return text, codec
    return decode_bytes(data)


def _declared(data: bytes, charset: str | None) -> list[str]:
    """The codecs named by the server and by the page, as far as there are such."""
    within = _DECLARED.search(_COMMENT.sub(b"", data[:_PRESCAN_BYTES]))
    labels = [charset or "", within.group(1).decode("ascii") if within else ""]
    codecs_found = [_codec(label) for label in labels]
    if codecs_found[1] and codecs_found[1].startswith("utf-16"):
        codecs_found[1] = "utf-8"  # it could not be read here if it were true, says the standard
    return [codec for codec in codecs_found if codec]


def _codec(label: str) -> str | None:
    """The codec that a label means on the web, or nothing where it means none."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    name = map_encoding_to_html5(label.strip(" \t\r\n\f\"'").lower(), fallback_utf8=False)
    if not name:
        return None
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        return None
    return _SUPERSETS.get(codec, codec)


def _is_utf8(data: bytes) -> bool:
    """Whether there are characters beyond ASCII, all of them sound UTF-8."""
    if data.isascii():
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
