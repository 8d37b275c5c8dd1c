"""What a file is: by its suffix where that tells, else by its first bytes.

The formats have the names that `format` of a source takes. Signs are strict: what is no known
format is none, unless it may be text, which anything readable is.
"""

import re

from llmstages.data.encodings import decode_bytes
from llmstages.data.opening import inner_name, inner_suffix

TEXT_SUFFIXES = frozenset(
    (
        *(".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc", ".asc", ".log"),
        *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".js", ".ts"),
        *(".kt", ".lua", ".php", ".pl", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift"),
    )
)
BY_SUFFIX: dict[str, str] = (
    dict.fromkeys(TEXT_SUFFIXES, "text")
    | dict.fromkeys((".html", ".htm", ".xhtml"), "html")
    | dict.fromkeys(
        (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq"), "table"
    )
    | dict.fromkeys((".warc", ".arc", ".wet"), "warc")
    | {".epub": "epub", ".pdf": "pdf", ".eml": "mail", ".mbox": "mail", ".mbx": "mail"}
    | dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tzst"), "archive")
)
READABLE = ".txt .md .html .jsonl .json .csv .tsv .parquet .warc .epub .pdf .xml .eml .zip .tar"
"""For messages."""
SNIFF_BYTES = 8192

_MAIL = re.compile(
    rb"From \S+.*\d\d:\d\d.*\r?\n[A-Za-z-]+:"  # the line between the messages of a mailbox
    rb"|(?:Return-Path|Received|Delivered-To|Message-I[Dd]|X-[\w-]+): .*\r?\n(?:[A-Za-z-]+:|[ \t])"
)
_JATS = re.compile(
    r"JATS|NLM//DTD|journal-?publishing|archivearticle|jats\.nlm\.nih\.gov"
    r"|<article[^>]*\s(?:article-type|dtd-version)=|<article[^>]*>\s*<front>|<journal-meta"
)


def find_format(name: str, head: bytes, maybe_text: bool = True) -> str | None:
    """The format of a file; None when it is no readable one.

    Args:
        name: its name; suffixes such as `.gz` are passed over.
        head: its first bytes, unpacked; `SNIFF_BYTES` are enough. With a telling suffix, none are.
        maybe_text: whether a file of unknown suffix is text when it looks like text.
    """
    suffix = inner_suffix(name)
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if inner_name(name).endswith((".warc.wat", ".wat")):
        return None  # about pages, not pages
    return _by_signs(head, suffix) or ("text" if maybe_text and looks_like_text(head) else None)


def needs_head(name: str) -> bool:
    """Whether `find_format` looks at the first bytes of a file of this name."""
    return inner_suffix(name) not in BY_SUFFIX


def is_tar(head: bytes) -> bool:
    """Whether bytes begin a tar archive (POSIX or GNU)."""
    return head[257:262] == b"ustar"


def is_zip(head: bytes) -> bool:
    """Whether bytes begin a zip archive."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _by_signs(head: bytes, suffix: str) -> str | None:
    if head.startswith((b"WARC/1.", b"WARC/0.", b"filedesc://")):
        return "warc"
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(b"PAR1"):
        return "table"
    if is_tar(head):
        return "archive"
    if is_zip(head):
        if head[30:].startswith(b"mimetypeapplication/epub+zip"):
            return "epub"
        return None if suffix else "archive"  # office documents, programs: zip inside, no texts
    if _MAIL.match(head):
        return "mail"
    return _markup(head)


def _markup(head: bytes) -> str | None:
    """Which page or XML document begins so; UTF-16 is read too."""
    start = head[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")
    if not start.startswith(b"<"):
        return None
    text = decode_bytes(head)[0].lstrip("\ufeff \t\r\n")
    if "<mediawiki" in text[:1024]:
        return "wikipedia"
    if re.search(r"<!doctype\s+html|<html[\s>]", text[:1024], re.I):
        return "html"
    if re.search(r"<article[\s>]|<!DOCTYPE\s+article\s", text) and _JATS.search(text):
        return "jats"
    return None


def looks_like_text(head: bytes) -> bool:
    """Whether bytes are text in some encoding."""
    text, _ = decode_bytes(head)
    odd = sum(character < " " and character not in "\t\n\r\f" for character in text)
    return bool(text) and (odd + text.count("\ufffd")) * 100 <= len(text)
