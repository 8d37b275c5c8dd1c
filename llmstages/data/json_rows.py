"""Rows of JSON Lines, and of JSON: one list of objects, or an object around one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from llmstages.data.rows import (
    NOT_JSON,
    BadRows,
    Limits,
    Opener,
    Record,
    Row,
    decoded,
    fault_of,
    shown,
    text_lines,
)
from llmstages.errors import UserError


def _constant(_: str) -> object:
    return NOT_JSON


_DECODER = json.JSONDecoder(parse_constant=_constant)


def is_json(line: str) -> bool:
    """Whether a line is a whole JSON value."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _reason(error: json.JSONDecodeError) -> str:
    """What is wrong, without the "at" and ":" that some messages of the parser end in."""
    return re.sub(r"(?: starting)? at$|: ?$", "", error.msg)


def _json_row(line: int, value: object) -> Row | str:
    """A parsed JSON value as a row, or why it is none."""
    fault = fault_of(value)
    if fault:
        return fault
    if isinstance(value, dict):
        return Row(line, value)
    if isinstance(value, list):
        return Row(line, {str(index): part for index, part in enumerate(value, 1)})
    return f"an object is expected, found {shown(json.dumps(value, ensure_ascii=False), 30)}"


def json_lines(open_stream: Opener, encoding: str, bad: BadRows, limits: Limits) -> Iterator[Row]:
    """One object a line; blank lines are passed over."""
    for number, line in enumerate(text_lines(open_stream, encoding, "\n", bad, limits), 1):
        text = line.strip(" \t\r\n\ufeff")
        if not text:
            continue
        try:
            value, end = _DECODER.raw_decode(text)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            bad.add(
                number, f"broken JSON ({_reason(error)} at column {error.colno}): {shown(text)}"
            )
            continue
        except (ValueError, RecursionError) as error:
            bad.add(number, f"broken JSON ({shown(str(error))}): {shown(text)}")
            continue
        row = _json_row(number, value)
        if isinstance(row, str):
            bad.add(number, row)
        else:
            yield row


def json_list(open_stream: Opener, encoding: str, bad: BadRows, limits: Limits) -> Iterator[Row]:
    """A list of objects, or an object that holds one such list (`{"data": [...]}`).

    The text is walked element by element, so that each row knows its line,
    or its number where all stand on one. After broken JSON
    nothing can be read, so that it is refused whatever `bad_rows` says.
    """
    path = bad.path
    text = _whole_text(open_stream, encoding, path, limits.json_characters)
    position = _blank_end(text, 0)
    wrapper = re.compile(r'\{\s*"[^"\\]*"\s*:\s*(?=\[\s*\{)').match(text, position)
    if wrapper and text.rstrip().endswith("}"):
        position = wrapper.end()
    if not text.startswith("[", position):
        value, end = _decode_at(path, text, position)
        if not isinstance(value, dict):
            found = shown(text[position:end], 30)
            raise UserError(f"{path}: a list of objects is expected, found {found}")
        _check_end(path, text, end)
        yield from _checked(_json_row(1, value), 1, bad)
        return
    line, counted, number = 1, 0, 0
    on_one_line = "\n" not in text.rstrip()
    position = _blank_end(text, position + 1)
    while not text.startswith("]", position):
        line, counted = line + text.count("\n", counted, position), position
        number += 1
        where = Record(number) if on_one_line else line
        value, position = _decode_at(path, text, position)
        yield from _checked(_json_row(where, value), where, bad)
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


def _whole_text(open_stream: Opener, encoding: str, path: Path | str, longest: int | None) -> str:
    with decoded(open_stream(), encoding, None) as file:
        try:
            text = file.read() if longest is None else file.read(longest + 1)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: broken {encoding} text ({error.reason})") from None
    if longest is not None and len(text) > longest:
        raise UserError(
            f"{path}: one JSON value of more than {longest:,} characters: convert it to JSON Lines "
            "(one object a line, as `jq -c '.[]'` does), which is read line by line"
        )
    return text


def _check_end(path: Path | str, text: str, position: int) -> None:
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


def _decode_at(path: Path | str, text: str, position: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _broken_json(path, text, error.pos, _reason(error)) from None
    except (ValueError, RecursionError) as error:
        raise _broken_json(path, text, position, shown(str(error))) from None


def _broken_json(path: Path | str, text: str, position: int, message: str) -> UserError:
    line = text.count("\n", 0, position) + 1
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", start)
    there = shown(text[start : end if end >= 0 else len(text)])
    return UserError(
        f"{path}:{line}: broken JSON ({message} at column {position - start + 1}): {there}"
    )
