"""Small files of rows, and what is said of those that cannot be used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmstages.errors import UserError


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """write(name, content) -> the file."""

    def call(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return call


@pytest.fixture
def jsonl(write: Callable[[str, str], Path]) -> Callable[..., Path]:
    """jsonl(row, ...) -> a file with these rows."""

    def call(*rows: Any) -> Path:
        return write("x.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    return call


@pytest.fixture
def refusal() -> Callable[..., str]:
    """refusal(reader, ...) -> the one line by which a reader refuses a file."""

    def call(reader: Callable[..., Any], *arguments: Any, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            list(reader(*arguments, **options))
        message = str(caught.value)
        assert "\n" not in message
        return message

    return call
