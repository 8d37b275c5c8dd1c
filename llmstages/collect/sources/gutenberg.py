"""Books of Project Gutenberg without what Project Gutenberg wrapped them in.

Its files begin with a header and end with a licence, both worded differently from year to year.
What lies between them is handed out with its hard line breaks, as PG-19 (Rae et al. 2019) does:
verse, letters and tables depend on them. Credits of the volunteers that stand directly after the
header go as well; notes further down belong to the book.
"""

import re

from llmstages.collect.sources.records import RawDocument

# The marks stand this near to the beginning or the end, behind a style sheet or the licence.
NEAR_CHARACTERS = 64 * 1024

_GUTENBERG = r"PROJE[CK]T[ \t]+GUTENBERG"
# A long title runs over several lines before the closing stars.
_TO_STARS = r"[^\n*]*(?:\n[^\n*]+){0,4}\*{3}[ \t]*$|[^\n]*$"
_FLAGS = re.IGNORECASE | re.MULTILINE

_START = re.compile(
    rf"^[ \t]*\*{{3,}}[ \t]*START[ \t]+OF[ \t]+(?:THE|THIS)[ \t]+{_GUTENBERG}(?:{_TO_STARS})",
    _FLAGS,
)
_END = re.compile(
    rf"^[ \t]*\*{{3,}}[ \t]*END[ \t]+OF[ \t]+(?:THE|THIS)[ \t]+{_GUTENBERG}(?:{_TO_STARS})", _FLAGS
)
# "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*": until 2003 the licence stood
# in front; it went to the end of the file in 2002 and kept its name for a while.
_SMALL_PRINT = re.compile(r"^[ \t]*\*{2,}[ \t]*START\**[ \t]*THE SMALL PRINT![^\n]*$", _FLAGS)
_SMALL_PRINT_END = re.compile(r"^[ \t]*\**END[ \t*]*THE SMALL PRINT![^\n]*$", _FLAGS)
# "End of Project Gutenberg's Etext of ...", and what its translators made of it.
_END_LINE = re.compile(
    r"^[ \t*_]*(?:(?:this|here) (?:is|ends) )?(?:the )?"
    rf"(?:end|ende|einde|fin|fine|fim|loppu)\b[^\n]{{0,30}}?{_GUTENBERG}[^\n]*"
    r"(?:\n[ \t]*\S[^\n]*){0,2}",
    _FLAGS,
)
# The licence without a mark before it.
_LICENCE = re.compile(
    r"^[ \t*]*(?:"
    r"START: FULL LICENSE"
    rf"|THE FULL {_GUTENBERG}(?:-tm|™)? LICENSE"
    rf"|Section\s+1\.\s+General Terms of Use and Redistributing\s+{_GUTENBERG}"
    r"|This file should be named \S+\.(?:txt|zip|html?)\b"
    r"|Updated editions will replace the previous one"
    r")",
    _FLAGS,
)
# Stands between the plays of the collected Shakespeare.
_WORLD_LIBRARY = re.compile(r"<<THIS ELECTRONIC VERSION OF THE COMPLETE WORKS[^>]{0,2000}>>", re.I)
_HEADER = re.compile(
    rf"\b{_GUTENBERG}(?:['’]s)?[ \t]+(?:\w+[ \t]+)?e-?(?:book|text)"
    rf"|\bthe {_GUTENBERG}(?:-tm|™)? License included",
    re.IGNORECASE,
)

_FIELD = re.compile(
    r"^[ \t]*(Title|Author|Translator|Language|Release Date|Posting Date)[ \t]*:[ \t]*"
    r"(\S[^\n]*(?:\n(?![ \t]*\n)(?![A-Z][A-Za-z ]{1,30}:)[ \t]*\S[^\n]*){0,3})",
    re.MULTILINE,
)
_NUMBERED_DATE = re.compile(r"^[ \t]*([^\n\[]{0,40}\d{4})[ \t]*\[e-?(?:text|book) ?#\d+\]", _FLAGS)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DATE = re.compile(rf"({'|'.join(_MONTHS)})(?:\s+(\d{{1,2}}))?,?\s+(\d{{4}})", re.IGNORECASE)
_OF_BY = re.compile(
    rf"{_GUTENBERG}(?:['’]s)?[ \t]+e-?(?:book|text)[ \t]+of[ \t]+([^\n*]{{1,200}}?)"
    r"(?:,?[ \t]+by[ \t]+([^\n*]{1,100}))?[ \t]*\**$",
    _FLAGS,
)

# Who made the electronic text: paragraphs directly after the header.
_CREDIT = re.compile(
    r"[\s\[(_*]{0,20}(?:"
    r"(?:this\s+)?(?:project\s+gutenberg\s+)?(?:e-?text|e-?book|file|text)?\s*"
    r"(?:(?:was|is)\s+)?(?:originally\s+)?(?:produced|prepared|transcribed|scanned|typed|proofed"
    r"|proofread|digiti[sz]ed|converted|keyed|entered|provided|created|updated|corrected)\b"
    r"[^\n]{0,60}?\b(?:by|from)\b"
    r"|(?:html|text) version by\b"
    r"|additional (?:editing|proofing|proofreading) by\b"
    r"|credits?\s*:"
    r"|(?:transcriber|producer)(?:['’]?s|s['’])?\s+notes?\b"
    r"|images of the original pages are available"
    r"|(?:and the )?(?:online )?distributed proofread"
    r"|this file was first posted"
    r"|(?:see )?https?://"
    rf"|[^\n]{{0,80}}{_GUTENBERG}"
    r")",
    re.IGNORECASE,
)
_VOLUNTEERS = re.compile(
    r"\bdistributed\s+proofread|\bpgdp\.net\b|\be-?texts?\b|\be-?books?\b", re.IGNORECASE
)
CREDIT_CHARACTERS = 800
_NOTE_HEADING = re.compile(
    r"[\s\[(_*]{0,20}transcriber(?:['’]?s|s['’])?\s+notes?[\s:.\])_*]*\Z", re.I
)
_HEADER_PARAGRAPH = re.compile(
    rf"{_GUTENBERG}|^(?:Title|Author|Language|Release Date|Posting Date|Character set encoding):"
    r"|\bthis e-?(?:book|text) is for the use\b|\bcopyright laws\b",
    _FLAGS,
)
_PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")
FRONT_PARAGRAPHS = 20


def is_gutenberg(text: str) -> bool:
    """Whether a text (or the source of a page) carries a mark of Project Gutenberg."""
    head, tail = text[:NEAR_CHARACTERS], text[-NEAR_CHARACTERS:]
    return any(mark.search(head) for mark in (_START, _SMALL_PRINT_END, _HEADER)) or any(
        mark.search(tail) for mark in (_END, _END_LINE, _LICENCE)
    )


def read_gutenberg(text: str, locator: str, ordinal: int = 0) -> RawDocument:
    """The book in a file of Project Gutenberg; a text without its marks stays as it is."""
    if not is_gutenberg(text):
        return RawDocument(locator, ordinal, text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    header, body = _header_and_body(text)
    for mark in (_START, _END, _END_LINE, _WORLD_LIBRARY):
        body = mark.sub("", body)
    return RawDocument(locator, ordinal, _without_credits(body), metadata=_fields(header))


def _header_and_body(text: str) -> tuple[str, str]:
    """What stands before the first mark of a beginning, and what lies between the marks."""
    begins = [match.span() for match in _START.finditer(text)]
    ends = [match.span() for match in _END.finditer(text)]
    # Volumes of a series end so too, within their file; only the last line is its end.
    ends += [match.span() for match in _END_LINE.finditer(text)][-1:]
    for match in _SMALL_PRINT_END.finditer(text):
        is_footer = any(mark < match.span() for mark in begins + ends)
        (ends if is_footer else begins).append(match.span())
    ends += [match.span() for match in (*_SMALL_PRINT.finditer(text), *_LICENCE.finditer(text))]
    if not begins:
        begins = [(0, _unmarked_header_end(text[: min(ends)[0] if ends else None]))]

    pieces: list[str] = []
    opened: int | None = None
    for (start, end), begin in sorted([(m, True) for m in begins] + [(m, False) for m in ends]):
        # Two beginnings follow each other where a header has two parts, but not so far apart.
        if opened is not None and (not begin or start - opened > NEAR_CHARACTERS):
            pieces.append(text[opened:start])
            opened = None
        if begin:
            opened = end
    if opened is not None:
        pieces.append(text[opened:])
    header_end = min(min(begins)[1], NEAR_CHARACTERS)
    return text[:header_end], "\n\n".join(piece.strip("\n") for piece in pieces)


def _unmarked_header_end(text: str) -> int:
    """Where a header without a closing mark ends."""
    end = 0
    for number, paragraph in enumerate(_PARAGRAPH.finditer(text[:NEAR_CHARACTERS])):
        if number == FRONT_PARAGRAPHS:
            break
        if _HEADER_PARAGRAPH.search(paragraph[0]):
            end = paragraph.end()
    return end


def _without_credits(body: str) -> str:
    """The book from its first paragraph on that does not tell who made the electronic text."""
    begin = 0
    in_note = False
    for number, paragraph in enumerate(_PARAGRAPH.finditer(body)):
        is_credit = _CREDIT.match(paragraph[0]) or (
            len(paragraph[0]) <= CREDIT_CHARACTERS and _VOLUNTEERS.search(paragraph[0])
        )
        if number == FRONT_PARAGRAPHS or not (in_note or is_credit):
            begin = paragraph.start()
            break
        # The note itself is the paragraph after its heading.
        in_note = bool(_NOTE_HEADING.match(paragraph[0]))
    return body[begin:].rstrip()


def _fields(header: str) -> dict[str, str]:
    """What a header says of the book."""
    fields = {match[1].lower(): " ".join(match[2].split()) for match in _FIELD.finditer(header)}
    metadata = {
        key: fields[key] for key in ("title", "author", "translator", "language") if key in fields
    }
    if "title" not in metadata:
        for named in _OF_BY.finditer(header):
            metadata.setdefault("title", named[1])
            if named[2]:
                metadata.setdefault("author", named[2])
    released = fields.get("release date") or fields.get("posting date")
    if released is None and (numbered := _NUMBERED_DATE.search(header)):
        released = numbered[1]
    if released and (date := _DATE.search(released)):
        month = _MONTHS.index(date[1].lower()) + 1
        metadata["date"] = f"{date[3]}-{month:02d}" + (f"-{int(date[2]):02d}" if date[2] else "")
    return metadata
