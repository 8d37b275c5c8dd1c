"""Rows out of files: JSON Lines, JSON, CSV, TSV and Parquet, plain or compressed, in any encoding.

`read_rows` finds out by itself what a file is (by its suffix, and by its content where there is no
telling suffix), which encoding and delimiter it has and whether it has a header, and hands out its
rows one by one with their line numbers. Nothing is guessed in silence: an encoding other than UTF-8
is said through the `llmstages` logger, and a row that cannot be read either ends the reading with
one line that names it (`bad_rows="refuse"`) or is left out, counted and said (`"skip"`).

Rows are streamed: files of any size need constant memory, except JSON (one value), which is read
whole. No row that is handed out holds a NUL, a lone surrogate, `NaN` or `Infinity` in its JSON.
"""

import csv
import gzip
import io
import itertools
import json
import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, Literal, cast

from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "lines"]
BadRowsPolicy = Literal["refuse", "skip"]

# Names by which the columns of labelled files are known, likeliest first. A first row that holds
# one of them is a header.
TEXT_NAMES = (
    *("text", "sentence", "sms", "message", "content", "review", "query", "utterance", "tweet"),
    *("document", "body", "comment", "comments", "post", "review_text", "review_body", "title"),
    *("headline", "description", "question", "prompt", "input", "sentences", "phrase", "v2"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "class", "intent", "sentiment", "target", "airline_sentiment"),
    *("emotion", "topic", "polarity", "tag", "stars", "rating", "spam", "is_spam", "toxic"),
    *("label_text", "category_name", "y", "v1"),
)
PROMPT_NAMES = ("instruction", "prompt", "question", "query", "q", "input")
ANSWER_NAMES = ("output", "completion", "response", "answer", "a")
INPUT_NAMES = ("input", "context")
SYSTEM_NAMES = ("system", "system_prompt")
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue")
OTHER_NAMES = ("id", "idx", "index", "url", "source", "language", "lang", "date", "author", "name")
HEADER_NAMES = frozenset(
    TEXT_NAMES + LABEL_NAMES + PROMPT_NAMES + ANSWER_NAMES + INPUT_NAMES + SYSTEM_NAMES
) | frozenset(MESSAGES_NAMES + OTHER_NAMES)

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

# An encoding is judged by the first 64 MiB; a later byte that does not fit makes its row a bad row.
ENCODING_BYTES = 64 * 2**20
SAMPLE_CHARACTERS = 2**20
SAMPLE_BYTES = 2**20
# Encodings looked for when a text is not Unicode and not western European.
EAST_ASIAN = ("euc_jp", "shift_jis", "cp949", "gb18030", "big5")
SINGLE_BYTE = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874", "latin_1")
# One field may be this long; the csv module's own limit of 131,072 is less than one novel.
FIELD_CHARACTERS = 2**27
COLUMN_ROWS = 200

_SURROGATES = re.compile("[\ud800-\udfff]")
_HIGH_RUNS = re.compile(rb"[\x80-\xff]+")
_NOT_JSON = object()


def column_key(name: str) -> str:
    """A column's name as it is compared: case, spaces and hyphens folded."""
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the line it starts on (for Parquet the row number), 1-based, and its values."""

    line: int
    values: dict[str, Any]


@dataclass
class BadRows:
    """Rows that cannot be used, and what happens to them."""

    path: Path
    policy: BadRowsPolicy
    rows: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        """Count a bad row."""
        self.rows.append((line, reason))

    def finish(self) -> None:
        """Raise (`refuse`) or warn (`skip`) once the whole file has been looked at."""
        if not self.rows:
            return
        self.rows.sort(key=lambda bad: bad[0])
        line, reason = self.rows[0]
        count = f"{len(self.rows):,} bad row{'s' if len(self.rows) > 1 else ''}"
        if self.policy == "refuse":
            raise UserError(
                f"{self.path}:{line}: {reason} ({count} in the file; "
                "correct them, or leave them out with bad_rows=skip)"
            )
        logger.warning("%s: %s skipped, the first on line %d: %s", self.path, count, line, reason)


@dataclass
class Table:
    """An opened file; iterate `rows` once.

    `bad` collects the rows left out; a reader on top may add the rows it cannot use. With
    `bad_rows="refuse"` the `UserError` comes when `rows` is exhausted, so that it can say how many
    rows are bad; what was handed out until then is to be dropped.
    """

    path: Path
    format: Format
    encoding: str
    columns: list[str]
    has_header: bool
    rows: Iterator[Row]
    bad: BadRows
    delimiter: str | None = None

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """Line and reason of the rows left out so far."""
        return self.bad.rows


def read_rows(
    path: Path | str,
    *,
    bad_rows: str = "refuse",
    format: str | None = None,
    column_names: Sequence[str] = (),
    quiet: bool = False,
) -> Table:
    """Open a file of rows.

    Args:
        path: the file; `.gz` and `.zst` are unpacked (known by their first bytes).
        bad_rows: `refuse` or `skip`.
        format: `jsonl`, `json`, `csv`, `tsv`, `parquet` or `lines`; found out when None.
        column_names: names given by the user; a first row that holds one of them is a header.
        quiet: say nothing about encoding and skipped rows, and never refuse (for a first look).

    Raises:
        UserError: the file is missing, empty, a directory or unreadable; and, from `rows`, with
            `bad_rows="refuse"`, the first bad row.
    """
    path = Path(path)
    check_file(path)
    bad = BadRows(path, "skip" if quiet else cast(BadRowsPolicy, bad_rows))
    kind = cast(Format | None, format) or SUFFIXES.get(_inner_suffix(path))
    head = _read_start(path, 4)
    if kind == "parquet" or head == b"PAR1":
        return _parquet_table(path, bad, quiet)

    data = _read_start(path, ENCODING_BYTES)
    if not data.strip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"):
        raise UserError(f"{path}: the file is empty")
    encoding = detect_encoding(data)
    whole = len(data) < ENCODING_BYTES
    sample_bytes = data[: SAMPLE_CHARACTERS * (2 if encoding.startswith("utf-16") else 1)]
    sample = sample_bytes.decode(encoding, errors="replace")
    if len(sample_bytes) < len(data) or not whole:
        # The last line of a sample that is cut off is no evidence of anything.
        sample = sample[: sample.rfind("\n") + 1] or sample
    del data
    if not quiet and encoding != "utf-8":
        logger.info("%s: read as %s", path, encoding)
    kind = _content_format(sample, kind)
    if kind == "jsonl":
        return _peeked(
            Table(path, kind, encoding, [], True, _jsonl(path, encoding, bad), bad), quiet
        )
    if kind == "json":
        return _peeked(
            Table(path, kind, encoding, [], True, _json(path, encoding, bad), bad), quiet
        )
    if kind == "lines":
        lines = _lines(path, encoding, bad)
        return Table(path, kind, encoding, ["text"], False, _guarded(lines, bad, quiet), bad)
    # The columns of a file without header are named by their numbers.
    given = (column_key(name) for name in column_names if not name.isdigit())
    header_names = HEADER_NAMES.union(given)
    return _delimited_table(path, kind, encoding, sample, header_names, bad, quiet)


# -------------------------------------------------------------------------------------------------
# files and bytes


def check_file(path: Path) -> None:
    """Raise a `UserError` unless `path` is a file that is not empty."""
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.is_file())[:3]
        hint = f": name one of its files, such as {', '.join(inside)}" if inside else ""
        raise UserError(f"{path}: a directory where a file is expected{hint}")
    if not path.exists():
        near: list[str] = []
        if path.parent.is_dir():
            names = [child.name for child in path.parent.iterdir()]
            near = get_close_matches(path.name, names, n=1)
            hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        else:
            hint = f"there is no directory {path.parent} either"
        raise UserError(f"{path}: no such file: {hint}")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _inner_suffix(path: Path) -> str:
    """The suffix that tells the format: that before `.gz` or `.zst`."""
    name = path.name.lower()
    for packed in (".gz", ".zst"):
        name = name.removesuffix(packed)
    return Path(name).suffix


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked when it is gzip or Zstandard data."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
        if magic[:2] == b"\x1f\x8b":
            return cast(IO[bytes], gzip.open(path, "rb"))
        if magic == b"\x28\xb5\x2f\xfd":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _read_start(path: Path, size: int) -> bytes:
    """The first `size` bytes after unpacking."""
    try:
        with open_bytes(path) as stream:
            return stream.read(size)
    except (EOFError, OSError, zlib.error) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: broken or cut-off compressed data ({error}): fetch the file again")


def _text(path: Path, encoding: str, newline: str | None) -> Iterator[str]:
    """Lines of a text file; a byte that does not fit the encoding becomes a lone surrogate."""
    errors = "strict" if encoding.startswith("utf-16") else "surrogateescape"
    with (
        open_bytes(path) as stream,
        io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline=newline) as text,
    ):
        try:
            yield from text
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: broken {encoding} text ({error.reason})") from None
        except (EOFError, OSError, zlib.error) as error:
            raise _broken(path, error) from None


# -------------------------------------------------------------------------------------------------
# encodings


def decode_bytes(data: bytes, name: str | None = None) -> tuple[str, str]:
    """Decode the bytes of a text file; returns the text (without byte order mark) and the encoding.

    UTF-8 with a few broken bytes stays UTF-8 and the broken bytes become U+FFFD. With `name`, an
    encoding other than UTF-8 is said through the logger.
    """
    encoding = detect_encoding(data)
    if name is not None and encoding != "utf-8":
        logger.info("%s: read as %s", name, encoding)
    return data.decode(encoding, errors="replace"), encoding


def detect_encoding(data: bytes) -> str:
    """Name of the Python codec that reads `data`; marks at the start are taken off by the codec.

    In this order: byte order marks, UTF-16 by its zero bytes, UTF-8 (also when it is damaged in a
    few places), then western single-byte text by its short runs of high bytes, then
    charset-normalizer among the encodings in wide use.
    """
    for mark, codec in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return codec
    unmarked = _utf16_without_mark(data)
    if unmarked:
        return unmarked
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        # Bytes cut off at the end of a sample are no sign of another encoding.
        if error.reason == "unexpected end of data" and len(data) - error.start < 4 < error.start:
            return "utf-8"
        # The neighbourhood of the first foreign byte tells enough, in bounded time and memory.
        near = data[max(0, error.start - SAMPLE_BYTES) : error.start + SAMPLE_BYTES]
    text = near.decode("utf-8", errors="surrogateescape")
    num_broken = len(_SURROGATES.findall(text))
    num_valid = len(text) - len(text.encode("ascii", errors="ignore")) - num_broken
    if num_valid > 10 * num_broken:
        return "utf-8"
    return _legacy_encoding(data, near)


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 shows by zero bytes that are all on even or all on odd places."""
    start = data[: 2**16]
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if even + odd < max(1, len(start) // 200):
        return None
    if odd >= 10 * even + 1 and odd > 0:
        codec = "utf-16-le"
    elif even >= 10 * odd + 1 and even > 0:
        codec = "utf-16-be"
    else:
        return None
    if even + odd < len(start) / 10:
        # Few zeros: East Asian UTF-16, or UTF-8 with a stray NUL.
        try:
            start.decode("utf-8")
            return None
        except UnicodeDecodeError:
            pass
    try:
        start[: len(start) // 2 * 2].decode(codec, errors="strict")
    except UnicodeDecodeError as error:
        if len(start) - error.start > 4:
            return None
    return codec


def _legacy_encoding(data: bytes, near: bytes) -> str:
    """The 8-bit or East Asian encoding of bytes that are not Unicode, judged by some of them."""
    lines = [line for line in near.split(b"\n") if not line.isascii()]
    sample = b"\n".join(lines[:20_000])[: 2**18]
    sample = sample[: sample.rfind(b"\n")] if sample.count(b"\n") > 1 else sample
    runs = [len(run) for run in _HIGH_RUNS.findall(sample)]
    # In western text accented letters stand among ASCII ones, so runs of high bytes are short;
    # in Korean, Chinese, Japanese, Cyrillic or Greek text whole words are high bytes.
    if sum(runs) / len(runs) < 3:
        return _western(data)
    shares = {codec: _everyday_share(sample, codec) for codec in EAST_ASIAN}
    codec = max(shares, key=lambda codec: shares[codec])
    if shares[codec] > 0.6:
        return codec
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(SINGLE_BYTE), threshold=0.5).best()
    return str(best.encoding) if best is not None else _western(data)


def _everyday_share(sample: bytes, codec: str) -> float:
    """Share of the characters above ASCII that texts in this encoding mostly consist of.

    Korean: the syllables of KS X 1001. Japanese: any, provided that a fifth are kana. Chinese: the
    commoner half of the characters (level 1), in each standard the lower rows. Read in a wrong
    encoding, text comes out as rare characters or none.
    """
    text = sample.decode(codec, errors="replace")
    above = [character for character in text if character > "\x7f"]
    if not above or above.count("\ufffd") > len(above) / 100:
        return 0.0
    if codec == "cp949":
        # Python spells a syllable that KS X 1001 lacks in eight bytes.
        hangul = (character for character in above if "\uac00" <= character <= "\ud7a3")
        return sum(len(character.encode("euc_kr")) == 2 for character in hangul) / len(above)
    if codec in ("shift_jis", "euc_jp"):
        kana = sum("\u3041" <= character <= "\u30fe" for character in above)
        return 1.0 if kana > len(above) / 5 else 0.0
    lowest, highest = (0xB0, 0xD7) if codec == "gb18030" else (0xA4, 0xC6)
    common = sum(lowest <= character.encode(codec)[0] <= highest for character in above)
    # Just below Korean: its syllables are all level-1 bytes to GB 18030.
    return 0.99 * common / len(above)


def _western(data: bytes) -> str:
    """Latin-1, or Windows-1252 where bytes that are controls in Latin-1 are letters or quotes."""
    if not any(0x80 <= byte <= 0x9F for byte in set(data)):
        return "latin-1"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


# -------------------------------------------------------------------------------------------------
# what a file is


def _content_format(sample: str, by_suffix: Format | None) -> Format:
    """The format, from the start of the text and, where that leaves a choice, from the suffix."""
    if by_suffix in ("csv", "tsv", "lines"):
        return by_suffix
    body = sample.lstrip("\ufeff \t\r\n")
    first_line, _, rest = body.partition("\n")
    if by_suffix == "jsonl":
        # A JSON array in a .jsonl file is common; a line that is a whole value is JSON Lines.
        return "json" if body.startswith("[") and not _is_json(first_line) else "jsonl"
    if by_suffix == "json":
        return "jsonl" if body.startswith("{") and _is_json(first_line) and rest.strip() else "json"
    if body.startswith("{") and _is_json(first_line):
        return "jsonl"
    if re.match(r'\[\s*[\[{]|\{\s*"', body):
        return "json"
    lines = [line for line in io.StringIO(sample) if line.strip()][:1000]
    for delimiter, kind in (("\t", "tsv"), (",", "csv"), (";", "csv")):
        num_fields = lines[0].count(delimiter) + 1
        named = any(
            column_key(cell.strip('"')) in HEADER_NAMES for cell in lines[0].split(delimiter)
        )
        if num_fields < 2:
            continue
        if delimiter == "\t":
            fits = sum(line.count("\t") + 1 == num_fields for line in lines) / len(lines)
            if fits > 0.9 or named:
                return "tsv"
        elif named:
            return cast(Format, kind)
    return "lines"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# -------------------------------------------------------------------------------------------------
# rows of each format


def _peeked(table: Table, quiet: bool) -> Table:
    """Fill in `columns` from the first rows; they are handed out all the same."""
    first = list(itertools.islice(table.rows, COLUMN_ROWS))
    table.columns = list(dict.fromkeys(key for row in first for key in row.values))
    table.rows = _guarded(itertools.chain(first, table.rows), table.bad, quiet)
    return table


def _guarded(rows: Iterable[Row], bad: BadRows, quiet: bool) -> Iterator[Row]:
    """The rows, then the verdict on the bad ones."""
    yield from rows
    if not quiet:
        bad.finish()


def _constant(_: str) -> object:
    return _NOT_JSON


_DECODER = json.JSONDecoder(parse_constant=_constant)


def _shown(text: str, width: int = 60) -> str:
    """The start of a broken row, on one line, for a message."""
    flat = " ".join(_SURROGATES.sub("\ufffd", text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _fault(value: object) -> str | None:
    """Why a parsed value cannot be used: what text may not hold and JSON does not have."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            if "\x00" in part:
                return "a NUL character"
            if not part.isascii() and (found := _SURROGATES.search(part)):
                if "\udc80" <= found.group() <= "\udcff":
                    return "bytes that do not fit the encoding, or a lone surrogate"
                return "a lone surrogate (half of a character)"
        elif isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            pending += part
        elif part is _NOT_JSON:
            return "NaN and Infinity are no JSON values"
        elif isinstance(part, float) and math.isinf(part):
            return "a number too large"
    return None


def _json_row(line: int, value: object) -> Row | str:
    """A parsed JSON value as a row, or why it is none."""
    fault = _fault(value)
    if fault:
        return fault
    if isinstance(value, dict):
        return Row(line, value)
    if isinstance(value, list):
        return Row(line, {str(index): part for index, part in enumerate(value, 1)})
    return f"an object is expected, found {_shown(json.dumps(value, ensure_ascii=False), 30)}"


def _jsonl(path: Path, encoding: str, bad: BadRows) -> Iterator[Row]:
    """One object a line; blank lines are passed over."""
    for number, line in enumerate(_text(path, encoding, "\n"), 1):
        text = line.strip(" \t\r\n\ufeff")
        if not text:
            continue
        try:
            value, end = _DECODER.raw_decode(text)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            bad.add(number, f"broken JSON ({error.msg} at column {error.colno}): {_shown(text)}")
            continue
        except (ValueError, RecursionError) as error:
            bad.add(number, f"broken JSON ({_shown(str(error))}): {_shown(text)}")
            continue
        row = _json_row(number, value)
        if isinstance(row, str):
            bad.add(number, row)
        else:
            yield row


def _json(path: Path, encoding: str, bad: BadRows) -> Iterator[Row]:
    """A list of objects, or an object that holds one such list (`{"data": [...]}`).

    The text is walked element by element, so that each row knows its line. After broken JSON
    nothing can be read, so that it is refused whatever `bad_rows` says.
    """
    text = "".join(_text(path, encoding, None))
    position = _blank_end(text, 0)
    wrapper = re.compile(r'\{\s*"[^"\\]*"\s*:\s*(?=\[\s*\{)').match(text, position)
    if wrapper and text.rstrip().endswith("}"):
        position = wrapper.end()
    if not text.startswith("[", position):
        value, end = _decode_at(path, text, position)
        if not isinstance(value, dict):
            found = _shown(text[position:end], 30)
            raise UserError(f"{path}: a list of objects is expected, found {found}")
        _check_end(path, text, end)
        yield from _checked(_json_row(1, value), 1, bad)
        return
    line, counted = 1, 0
    position = _blank_end(text, position + 1)
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        value, position = _decode_at(path, text, position)
        yield from _checked(_json_row(line, value), line, bad)
        position = _blank_end(text, position)
        if text.startswith(",", position):
            position = _blank_end(text, position + 1)
        elif not text.startswith("]", position):
            raise _broken_json(path, text, position, "Expecting ',' or ']'")
    end = _blank_end(text, position + 1)
    if wrapper and text.startswith(",", end):
        # Further keys of the object around the list: read over, but they must be JSON.
        _, rest_end = _decode_at(path, "{" + text[end + 1 :], 0)
        end += rest_end
    elif wrapper:
        if not text.startswith("}", end):
            raise _broken_json(path, text, end, "Expecting ',' or '}'")
        end += 1
    _check_end(path, text, end)


def _check_end(path: Path, text: str, position: int) -> None:
    """Raise a `UserError` when anything follows the JSON value."""
    position = _blank_end(text, position)
    if position < len(text):
        raise _broken_json(path, text, position, "Extra data")


def _checked(row: Row | str, line: int, bad: BadRows) -> Iterator[Row]:
    if isinstance(row, str):
        bad.add(line, row)
    else:
        yield row


def _blank_end(text: str, position: int) -> int:
    """The first position from `position` on that is not JSON white space (or a stray mark)."""
    while position < len(text) and text[position] in " \t\r\n\ufeff":
        position += 1
    return position


def _decode_at(path: Path, text: str, position: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _broken_json(path, text, error.pos, error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _broken_json(path, text, position, _shown(str(error))) from None


def _broken_json(path: Path, text: str, position: int, message: str) -> UserError:
    line = text.count("\n", 0, position) + 1
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", start)
    shown = _shown(text[start : end if end >= 0 else len(text)])
    return UserError(
        f"{path}:{line}: broken JSON ({message} at column {position - start + 1}): {shown}"
    )


def _lines(path: Path, encoding: str, bad: BadRows) -> Iterator[Row]:
    """Plain text, one text a line; blank lines are passed over."""
    for number, line in enumerate(_text(path, encoding, None), 1):
        text = line.rstrip("\n")
        if text.strip():
            fault = _fault(text)
            if fault:
                bad.add(number, f"{fault}: {_shown(text)}")
            else:
                yield Row(number, {"text": text})


def _parquet_table(path: Path, bad: BadRows, quiet: bool) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: no readable Parquet file ({_shown(str(error))})") from None

    def rows() -> Iterator[Row]:
        line = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    for values in batch.to_pylist():
                        line += 1
                        fault = _fault(values)
                        if fault:
                            bad.add(line, fault)
                        else:
                            yield Row(line, values)
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: broken Parquet data after row {line} ({error})") from None

    return Table(path, "parquet", "utf-8", columns, True, _guarded(rows(), bad, quiet), bad)


# -------------------------------------------------------------------------------------------------
# delimited text


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart."""

    delimiter: str
    quoted: bool
    escaped: bool = False

    def reader(self, lines: Iterable[str]) -> Any:
        """A strict `csv.reader`: a quote that is never closed must not swallow rows in silence."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            doublequote=not self.escaped,
            escapechar="\\" if self.escaped else None,
            strict=True,
        )


def _records(dialect: Dialect, lines: Iterable[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Line on which each record starts, and its fields, or why it has none."""
    csv.field_size_limit(FIELD_CHARACTERS)
    reader = dialect.reader(lines)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if "unexpected end of data" in reason:
                reason = "a quote opened here is never closed"
            yield start, f"broken quoting ({reason})"
            continue
        yield start, fields


def _find_dialect(sample: str, kind: Format) -> Dialect:
    """Delimiter and quoting of delimited text, from its first lines."""
    preferred = "\t" if kind == "tsv" else ","
    lines = [line for line in io.StringIO(sample, newline="") if line.strip()]
    best, delimiter = -1.0, preferred
    csv.field_size_limit(FIELD_CHARACTERS)  # one open quote swallows all the lines after it
    for candidate in dict.fromkeys((preferred, ",", "\t", ";", "|")):
        widths = [len(line) for line in csv.reader(lines[:500], delimiter=candidate)]
        if widths and widths[0] > 1:
            evenness = sum(width == widths[0] for width in widths) / len(widths)
            if evenness > best + 0.05:
                best, delimiter = evenness, candidate
    if delimiter != "\t":
        broken = _num_broken(Dialect(delimiter, quoted=True), lines)
        escaped = Dialect(delimiter, quoted=True, escaped=True)
        if broken and '\\"' in sample and _num_broken(escaped, lines) < broken:
            return escaped
        return Dialect(delimiter, quoted=True)
    # In tab-separated text a quote is a character, unless the fields are really quoted: every quote
    # is closed, and either most lines have quoted fields or some field needs its quotes.
    quoted = Dialect(delimiter, quoted=True)
    num_quoted = sum(line.startswith('"') or '\t"' in line for line in lines)
    needs_quotes = re.search(r'(?:^|\t)"[^"]*(?:""|\t|\n)(?:[^"]|"")*"(?=\t|\r?$)', sample, re.M)
    if (
        num_quoted
        and (needs_quotes or num_quoted > len(lines) / 2)
        and not _num_broken(quoted, lines)
    ):
        return quoted
    return Dialect(delimiter, quoted=False)


def _num_broken(dialect: Dialect, lines: list[str]) -> int:
    """Records of a sample that do not parse; one that is cut off by its end does not count."""
    records = [fields for _, fields in _records(dialect, lines)]
    return sum(isinstance(fields, str) for fields in records[:-1])


def _has_header(
    first: list[str], others: list[list[str]], kind: Format, known: frozenset[str]
) -> bool:
    """Whether the first record names the columns.

    It does when it holds a known column name. Otherwise only CSV is given the benefit of the
    doubt, when its first record looks like names: short, different, no numbers, and not values
    that come again in their columns.
    """
    names = [name.strip() for name in first]
    if any(column_key(name) in known for name in names):
        return True
    given = [name for name in names if name]
    if kind == "tsv" or not given or len(set(given)) < len(given):
        return False
    if not all(re.fullmatch(r"[^\W\d][\w .:/()#%-]{0,39}", name) for name in given):
        return False
    again = {(index, cell.strip()) for record in others for index, cell in enumerate(record)}
    return not any((index, name) in again for index, name in enumerate(names) if name)


def _column_names(first: list[str], has_header: bool) -> list[str]:
    """Names of the columns: the header's, or the column's number where it has none."""
    names: list[str] = []
    for index, cell in enumerate(first, 1):
        name = cell.strip() if has_header else ""
        if not name:
            name = str(index)
        while name in names:
            name = f"{name} ({index})"
        names.append(name)
    return names


def _delimited_table(
    path: Path,
    kind: Format,
    encoding: str,
    sample: str,
    header_names: frozenset[str],
    bad: BadRows,
    quiet: bool,
) -> Table:
    dialect = _find_dialect(sample, kind)
    sampled = [
        fields
        for _, fields in itertools.islice(_records(dialect, io.StringIO(sample, newline="")), 1000)
        if isinstance(fields, list) and any(cell.strip() for cell in fields)
    ]
    if not sampled:
        raise UserError(f"{path}: no readable row in it: is it really {kind.upper()}?")
    has_header = _has_header(sampled[0], sampled[1:], kind, header_names)
    columns = _column_names(sampled[0], has_header)
    # Excel writes blank columns at the end; they are kept only where some row fills them.
    while len(columns) > 1 and not any(
        cell.strip() for record in sampled for cell in record[len(columns) - 1 :]
    ):
        columns.pop()

    def rows() -> Iterator[Row]:
        # Quoted fields may hold any line break; without quotes only the real one ends a row.
        newline = "" if dialect.quoted or "\n" not in sample else "\n"
        header_pending = has_header
        for line, fields in _records(dialect, _text(path, encoding, newline)):
            if isinstance(fields, str):
                bad.add(line, fields)
                continue
            if not any(cell.strip() for cell in fields):
                continue
            if header_pending:
                header_pending = False
                continue
            if len(fields) != len(columns):
                extra = fields[len(columns) :]
                if len(fields) < len(columns) or any(cell.strip() for cell in extra):
                    expected = "the header has" if has_header else "the first row has"
                    bad.add(line, f"{_count(fields)} where {expected} {len(columns)}")
                    continue
            values = dict(zip(columns, fields, strict=False))
            fault = _fault(values)
            if fault:
                bad.add(line, f"{fault}: {_shown(dialect.delimiter.join(fields))}")
            else:
                yield Row(line, values)

    return Table(
        path,
        kind,
        encoding,
        columns,
        has_header,
        _guarded(rows(), bad, quiet),
        bad,
        delimiter=dialect.delimiter,
    )


def _count(fields: Sequence[str]) -> str:
    return f"{len(fields)} field{'s' if len(fields) != 1 else ''}"
