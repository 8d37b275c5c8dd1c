"""Mail: single messages (.eml) and mailboxes (mbox), one document a message.

What a message repeats of others is taken out: lines quoted with ">" and the line that says who
wrote them, all that follows "-----Original Message-----", the signature after "-- ", and the
footer of a mailing list. Senders and recipients are not kept. The text begins with the subject.

Mail comes from anybody, so that nothing in a message may end the reading: what Python's parser
cannot make sense of is counted.
"""

import re
from collections.abc import Iterator
from email.header import decode_header
from email.message import Message
from email.parser import BytesFeedParser
from email.policy import compat32
from email.utils import parsedate_to_datetime
from typing import IO, Any

from llmstages.collect.sources.markup import XHTML, flow_text, local_name, parse_markup
from llmstages.collect.sources.records import Found, RawDocument, Skipped

MESSAGE_BYTES = 50_000_000
# Python's parser compares each line with the borders of all parts around it.
MAX_BOUNDARIES = 100
MAX_PARTS = 1000
# The time Python takes over the parameters of a header grows with the square of its length.
CONTENT_HEADER_BYTES = 16 * 1024
# Longer parts are logs and lists; they count as attachments.
TEXT_CHARACTERS = 8_000_000
HEADER_CHARACTERS = 2000
# Other dates are wrong clocks.
FIRST_YEAR, LAST_YEAR = 1970, 2100
LINE_BYTES = 64 * 1024
FED_BYTES = 256 * 1024

# "From " begins a message when an empty line stands before it and it ends in a time and a year, as
# in "From ada@example.org Mon Jan  4 10:22:00 2021".
_SEPARATOR = re.compile(rb"From (?:\S+ *|.{0,200}\d\d?:\d\d.{0,40}\d{4}.{0,40})$")
_QUOTED_SEPARATOR = re.compile(rb">+From ")
# Codecs of Python that no mail uses, and that take long over hostile bytes.
_NO_CHARSETS = frozenset(("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"))

# Who is quoted, in the words of the commoner programs.
_ATTRIBUTION = re.compile(
    r"\b(?:wrote|writes|said|schrieb|écrit|escribió|escreveu|scritto|schreef|skrev|napisał(?:\(a\))?"
    r"|пишет|написал)\b[^\n]{0,80}:\s*$",
    re.IGNORECASE,
)
_ATTRIBUTION_START = re.compile(
    r"\W*(?:On|At|In|Am|Le|El|Il|Em|Op|Den|W dniu|\d{1,4}[-/.]\d)\b", re.IGNORECASE
)
ATTRIBUTION_LINES = 3
_ORIGINAL = re.compile(r"-{2,} ?(?:Original|Forwarded|Ursprüngliche) (?:Message|Nachricht)\b", re.I)
_PGP_START = "-----BEGIN PGP SIGNED MESSAGE-----"
_PGP_END = "-----BEGIN PGP SIGNATURE-----"
# Mailing lists set their footer off by a line; "--" without its space is a signature only there.
_LIST_FOOTER = re.compile(r"(?:[_-]{25,}|--)$")
FOOTER_LINES = 12
_QUOTE_CLASSES = re.compile(
    r"\b(?:gmail_quote|gmail_attr|gmail_signature|yahoo_quoted|moz-signature|moz-cite-prefix)\b"
)


def read_mail(stream: IO[bytes], locator: str) -> Iterator[Found]:
    """The messages of a mailbox, or the one message of a file."""
    for ordinal, message in enumerate(_messages(stream)):
        if isinstance(message, Skipped):
            yield message
        else:
            yield from _read_message(message, locator, ordinal)


class _Parser:
    """Puts one message together, and gives up where that would take too much."""

    def __init__(self) -> None:
        self._parser = BytesFeedParser(policy=compat32)
        self._lines: list[bytes] = []
        self._pending_bytes = 0
        self._num_boundaries = 0
        self._content_bytes = 0
        self._at_line_start = True
        self._reason: str | None = None
        self.num_bytes = 0

    def feed(self, line: bytes) -> None:
        """Add a line, or a piece of a long one."""
        self.num_bytes += len(line)
        if self._reason:
            return
        self._num_boundaries += b"boundary" in line.lower()
        if self._at_line_start and line[:8].lower() == b"content-":
            self._content_bytes = len(line)
        elif self._content_bytes and (line[:1] in b" \t" or not self._at_line_start):
            self._content_bytes += len(line)
        else:
            self._content_bytes = 0
        self._at_line_start = line.endswith(b"\n")
        if self.num_bytes > MESSAGE_BYTES:
            self._give_up("message over 50 MB")
        elif self._num_boundaries > MAX_BOUNDARIES:
            self._give_up("message of too many parts")
        elif self._content_bytes > CONTENT_HEADER_BYTES:
            self._give_up("message that cannot be parsed")
        else:
            self._lines.append(line)
            self._pending_bytes += len(line)
            if self._pending_bytes > FED_BYTES:
                self._parse()

    def finish(self) -> Message | Skipped:
        """The message, or why there is none."""
        self._parse()
        if self._reason:
            return Skipped(self._reason)
        try:
            return self._parser.close()
        except Exception:  # the parser fails in many ways, a RecursionError among them
            return Skipped("message that cannot be parsed")

    def _parse(self) -> None:
        lines, self._lines, self._pending_bytes = self._lines, [], 0
        if self._reason:
            return
        try:
            self._parser.feed(b"".join(lines))
        except Exception:
            self._give_up("message that cannot be parsed")

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        self._lines = []
        self._parser = BytesFeedParser(policy=compat32)


def _messages(stream: IO[bytes]) -> Iterator[Message | Skipped]:
    """Messages one after the other; of one that cannot be parsed, why."""
    parser = _Parser()
    is_mailbox = False
    after_blank = at_line_start = True
    while line := stream.readline(LINE_BYTES):
        is_start = at_line_start and after_blank and _SEPARATOR.match(line.rstrip(b"\r\n"))
        if is_start and (is_mailbox or not parser.num_bytes):
            if parser.num_bytes:
                yield parser.finish()
            parser = _Parser()
            is_mailbox = True
        elif is_mailbox and at_line_start and _QUOTED_SEPARATOR.match(line):
            parser.feed(line[1:])  # mboxrd: one ">" is put before such lines
        elif parser.num_bytes or line.strip():
            parser.feed(line)
        after_blank = at_line_start and not line.strip()
        at_line_start = line.endswith(b"\n")
    if parser.num_bytes:
        yield parser.finish()


def _read_message(message: Message, locator: str, ordinal: int) -> Iterator[Found]:
    try:
        body, num_attachments = _body(message)
        title = _header(message, "Subject")
        date = _date(message)
    except Exception:  # headers and parts of hostile mail raise what the parser let through
        yield Skipped("message that cannot be parsed")
        return
    if num_attachments:
        yield Skipped("attachment", num_attachments)
    if not body:
        yield Skipped("message without text")
        return
    metadata = {key: value for key, value in (("title", title), ("date", date)) if value}
    text = f"{title}\n\n{body}" if title else body
    yield RawDocument(locator, ordinal, text, metadata=metadata)


def _body(message: Message) -> tuple[str, int]:
    """What the sender wrote, and the number of parts that are attachments."""
    texts: list[str] = []
    num_attachments = 0
    pending: list[Message] = [message]
    for _ in range(MAX_PARTS):
        if not pending:
            break
        part = pending.pop()
        content_type = part.get_content_type()
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            parts = [each for each in part.get_payload() if isinstance(each, Message)]
            if content_type == "multipart/alternative":
                parts = _best_alternative(parts)
            pending += reversed(parts)
        elif content_type not in ("text/plain", "text/html") or _is_attachment(part):
            num_attachments += 1
        elif text := _part_text(part):
            texts.append(text)
    return "\n\n".join(texts), num_attachments


def _best_alternative(parts: list[Message]) -> list[Message]:
    """The plain text of several forms of one text, unless there is nothing in it."""
    for part in parts:
        if part.get_content_type() == "text/plain" and _part_text(part):
            return [part]
    rich = [part for part in parts if part.is_multipart() or part.get_content_subtype() == "html"]
    return rich[-1:]


def _is_attachment(part: Message) -> bool:
    if part.get_content_disposition() == "attachment" or part.get_filename():
        return True
    payload = part.get_payload()
    return isinstance(payload, str) and len(payload) > TEXT_CHARACTERS


def _part_text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    text = _decode(payload, part.get_content_charset()).replace("\r\n", "\n").replace("\r", "\n")
    if part.get_content_type() == "text/html":
        root = parse_markup(text.encode("utf-8", "replace"), "utf-8")
        text = "" if root is None else flow_text(root, XHTML, _instead)
    is_flowed = str(part.get_param("format", "")).lower() == "flowed"
    return own_text(text, is_flowed)


def _instead(element: Any) -> str | None:
    """Nothing in the place of what an HTML message quotes."""
    if local_name(element) == "blockquote" and element.get("type") == "cite":
        return ""
    return "" if _QUOTE_CLASSES.search(element.get("class", "")) else None


def own_text(text: str, is_flowed: bool = False) -> str:
    """A message without quotes, signature and footer; flowed lines (RFC 3676) joined."""
    lines = text.split("\n")
    if _PGP_START in lines:
        begin = lines.index(_PGP_START)
        while begin < len(lines) and lines[begin].strip():
            begin += 1  # its headers, up to an empty line
        lines = lines[begin:]
    for number, line in enumerate(lines):
        is_near_end = number >= len(lines) - FOOTER_LINES
        if line in ("-- ", _PGP_END) or _ORIGINAL.match(line):
            lines = lines[:number]
            break
        if is_near_end and _LIST_FOOTER.match(line.rstrip()):
            lines = lines[:number]
            break
    kept: list[str] = []
    in_quote = False
    for line in lines:
        if line.startswith((">", " >")):
            if not in_quote:
                _drop_attribution(kept)
            in_quote = True
            continue
        in_quote = in_quote and not line.strip()
        if is_flowed and kept and kept[-1].endswith(" ") and kept[-1].strip() and line.strip():
            kept[-1] += line.removeprefix(" ")
        else:
            kept.append(line.removeprefix(" ") if is_flowed else line)
    joined = "\n".join(line.rstrip() for line in kept)
    return re.sub(r"\n{3,}", "\n\n", joined).strip("\n")


def _drop_attribution(lines: list[str]) -> None:
    """Take the line before a quote away when it says who wrote it; it may be two or three lines."""
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    if not end or not _ATTRIBUTION.search(lines[end - 1]):
        return
    begin = end - 1
    for first in range(end - 1, max(-1, end - 1 - ATTRIBUTION_LINES), -1):
        if not lines[first].strip():
            break
        if _ATTRIBUTION_START.match(lines[first]):
            begin = first
            break
    del lines[begin:]


def _decode(data: bytes, charset: str | None) -> str:
    """Text in the character set that is declared; when it does not fit, the one that does."""
    import codecs

    from llmstages.data.encodings import decode_bytes

    if charset:
        try:
            codec = codecs.lookup(charset)
            if codec.name not in _NO_CHARSETS:
                return data.decode(codec.name)
        except (LookupError, UnicodeError, ValueError):
            pass
    return decode_bytes(data)[0]


def _header(message: Message, name: str) -> str:
    """A header on one line, its encoded words decoded."""
    raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    data = str(raw)[:HEADER_CHARACTERS].encode("utf-8", "surrogateescape")
    if not data.isascii():  # against the rules, but common
        return " ".join(_decode(data, "utf-8").split())
    value = data.decode("ascii")
    try:
        parts = decode_header(value)
    except Exception:  # broken encoded words
        return " ".join(value.split())
    text = "".join(
        part if isinstance(part, str) else _decode(part, charset) for part, charset in parts
    )
    return " ".join(text.split())


def _date(message: Message) -> str:
    """When the message was sent, in ISO 8601; nothing when that cannot be told."""
    try:
        date = parsedate_to_datetime(str(message.get("Date", ""))[:HEADER_CHARACTERS])
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
    return date.isoformat() if FIRST_YEAR <= date.year <= LAST_YEAR else ""
