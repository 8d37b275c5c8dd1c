"""Language identification among 97 languages: py3langid, after langid.py (Lui and Baldwin 2012)."""

SAMPLE_CHARACTERS = 4000
"""Read of a text to tell its language: far more than the identifier needs, little of a novel."""


def identify_language(text: str) -> str:
    """ISO 639-1 code of the likeliest language, judged by the middle of the text."""
    import py3langid

    # Titles, licences and menus stand at the start: the middle is more often the text itself.
    start = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    return str(py3langid.classify(text[start : start + SAMPLE_CHARACTERS])[0])
