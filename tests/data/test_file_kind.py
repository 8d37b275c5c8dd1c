"""What a file is for is seen from its columns, or it is asked."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstages.data.file_kind import detect_kind


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("text,label", "classify"),
        ("Sentence,Category", "classify"),
        ("question,label", "classify"),
        ("instruction,input,output", "instruct"),
        ("prompt,completion", "instruct"),
        ("question,answer,label", "instruct"),
        ("id,messages", "instruct"),
    ],
)
def test_by_columns(write: Callable[..., Path], header: str, kind: str) -> None:
    cells = ",".join(f"c{index}" for index in range(header.count(",") + 1))
    assert detect_kind(write("x.csv", f"{header}\n{cells}\n")) == kind


def test_neither_and_both(write: Callable[..., Path], refusal: Callable[..., str]) -> None:
    path = write("x.csv", "foo,bar\na,b\n")
    message = refusal(detect_kind, path)
    assert "(foo, bar)" in message
    assert "label_column=..." in message
    path = write("y.csv", "text,label,prompt,completion\na,b,c,d\n")
    assert "both" in refusal(detect_kind, path)


def test_headerless(write: Callable[..., Path], refusal: Callable[..., str]) -> None:
    labels = "".join(f"{n % 2}\ttext number {n}\n" for n in range(100))
    assert detect_kind(write("a.tsv", labels)) == "classify"
    pairs = "".join(f"word {n}\tWort {n}\n" for n in range(100))
    assert detect_kind(write("b.tsv", pairs)) == "instruct"
    few = "".join(f"{n % 2}\t{n % 3}\n" for n in range(100))
    assert "both columns" in refusal(detect_kind, write("c.tsv", few))


def test_a_tenth_distinct_is_no_label(write: Callable[..., Path]) -> None:
    # Fewer than 10 %: 9 of 100 are a label's values, 10 of 100 are not.
    nine = "".join(f"t{n % 9}\ttext number {n}\n" for n in range(100))
    ten = "".join(f"t{n % 10}\ttext number {n}\n" for n in range(100))
    assert detect_kind(write("a.tsv", nine)) == "classify"
    assert detect_kind(write("b.tsv", ten)) == "instruct"


def test_no_rows_and_plain_text(write: Callable[..., Path], refusal: Callable[..., str]) -> None:
    assert "an object is expected" in refusal(detect_kind, write("x.json", '["a", "b"]'))
    assert "plain text" in refusal(detect_kind, write("x.txt", "a b\nc d\n"))


def test_imports_nothing_heavy() -> None:
    code = (
        "import sys; import llmstages.data.file_kind, llmstages.data.preferences; "
        "print([m for m in ('torch', 'daft', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
