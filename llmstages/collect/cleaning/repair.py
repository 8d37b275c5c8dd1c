"""Unicode repair: what was broken on the way is mended, what is sound is returned as it is.

Mended are text decoded with the wrong encoding (ftfy, Speer 2019), byte order marks, line ends,
control characters and the Unicode form (NFC). Quotes, dashes, ligatures, widths, indentation and
blank lines belong to the author and stay.
"""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_PAGE_BREAK = re.compile("[\x0b\x0c]")
_WRONGLY_DECODED = re.compile(
    "[^\x00-\x7f\xa0\u2013\u2014\u2018\u2019\u201c\u201d\u2026]"
    "(?:[^\x00-\x7f]|(?<=[ÂÃÎÐ]) |(?<=[\x80-\x9f]))"
)
"""A character of several bytes read in another encoding: an odd character that is no quote or dash,
and another; or one and a space that was a byte A0; or a control character. Cheap to look for,
unlike ftfy's measure."""
_TERMINAL_ESCAPE = re.compile("\x1b\\[[0-9;]*[A-Za-z]")

_MOJIBAKE_ONLY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)


def repair(text: str) -> str:
    """The text, mended; `repair(repair(x)) == repair(x)`."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        # Windows-1252 read as Latin-1 gives control characters: mend before these are removed.
        if _WRONGLY_DECODED.search(text):
            # Line by line: a text may have been put together from sound and broken parts.
            text = "\n".join(map(_mend_line, text.split("\n")))
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if _CONTROL.search(text):
        text = _PAGE_BREAK.sub("\n", _TERMINAL_ESCAPE.sub("", text))
        text = _CONTROL.sub("", text)
    return text


def _mend_line(line: str) -> str:
    if line.isascii() or not _WRONGLY_DECODED.search(line) or not is_bad(line):
        return line
    return ftfy.fix_encoding(line, _MOJIBAKE_ONLY)
