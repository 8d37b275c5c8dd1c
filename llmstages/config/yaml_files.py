"""YAML files of users, looked at before they are taken in: text, not too deep, not too large.

A few lines of YAML may stand for more values than memory holds, by aliases of lists of aliases; and
what is nested a thousand deep ends in a traceback. Nothing is built here: events are counted.
"""

from pathlib import Path

import yaml

from llmstages.errors import UserError

DEEPEST = 50
MOST_VALUES = 100_000
"""Values in a file, with every alias counted as what it stands for."""
MOST_DIGITS = 100
LARGEST_BYTES = 2**22


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file. Raises `UserError` for what no config can be."""
    if path.stat().st_size > LARGEST_BYTES:
        raise UserError(f"{path}: more than {LARGEST_BYTES:,} bytes are no config")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from None
    try:
        problem = _problem(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: a character that YAML does not allow") from None
    except yaml.YAMLError:
        problem = None  # Hydra meets it again, and it is told with its line
    if problem is not None:
        raise UserError(f"{path}:{problem}")
    return text


def _problem(text: str) -> str | None:
    """Line and reason why a YAML text is no config; None when it may be one."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor of each open list or object, values before
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes and any(event.anchor == name for name, _ in opened):
                return f"{line}: *{event.anchor} stands for itself"
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if len(event.value) > MOST_DIGITS and event.style is None and event.value.isdigit():
                return f"{line}: a number of {len(event.value):,} digits"
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        if len(opened) > DEEPEST:
            return f"{line}: nested more than {DEEPEST} deep"
        if count > MOST_VALUES:
            return f"{line}: it stands for more than {MOST_VALUES:,} values"
    return None
