"""Text from data made safe to show: no control character reaches the terminal.

A corpus, a label, a file's name or a model's answer may hold escape sequences that move the cursor,
rename the window or write to the clipboard. Whatever is printed for people goes through `visible`.
"""

import logging
import re
from typing import IO

# C0, DEL and C1 but line feeds and tabs, what turns the direction of a line, and surrogates, which
# stand for the bytes of a file name that is no UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
)


def visible(text: str) -> str:
    """The text with control characters spelled out: `\\x1b`."""
    return _UNSAFE.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def for_stream(text: str, stream: IO[str]) -> str:
    """A result as it is written: as it is to a file or a pipe, visibly to a terminal."""
    return visible(text) if stream.isatty() else text


class VisibleFormatter(logging.Formatter):
    """Notices of the logger, as the terminal shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
