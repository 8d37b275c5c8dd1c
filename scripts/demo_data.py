"""Writes the demo's labelled files, from the documentation installed on this machine.

functions.jsonl   instruction-answer pairs: what does this function do? -> the first sentence of its
                  docstring
packages.jsonl    labelled texts: the first paragraph of a docstring -> the package it comes from

Nothing is invented and nothing is imported: sources are read as text. Usage:

    python scripts/demo_data.py OUTPUT_DIR
"""

import importlib.util
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from llmstages.collect.sources.python_docs import Docstring, iter_docstrings

PACKAGES = ("torch", "numpy", "sklearn", "scipy", "pyarrow", "transformers", "daft", "email")
"""Well documented, and about different things; those that are not installed are left out."""
MAX_FILES_A_PACKAGE = 200
"""Spread evenly over the package; all of them would take half a minute to parse."""
MAX_PAIRS = 3_000
MAX_TEXTS_A_PACKAGE = 300
SEED = 0


def docstrings_of(package: str) -> Iterator[Docstring]:
    """Docstrings of an installed package, tests left out, in the order of the files."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return
    root = Path(found.origin).parent
    modules = {
        ".".join([package, *path.relative_to(root).with_suffix("").parts]): path
        for path in sorted(root.rglob("*.py"))
        if "tests" not in path.parts and path.stat().st_size > 1_000
    }
    every = -(-len(modules) // MAX_FILES_A_PACKAGE)
    for module, path in list(modules.items())[::every]:
        yield from iter_docstrings(path.read_bytes(), module.removesuffix(".__init__"))


def first_paragraph(text: str) -> str:
    """Up to the first empty line, on one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    return re.split(r"(?<=[.!?])\s", first_paragraph(text), maxsplit=1)[0]


def pairs(docstrings: list[Docstring]) -> Iterator[dict[str, str]]:
    """Instruction and answer for each function whose docstring begins with a plain sentence."""
    for docstring in docstrings:
        answer = first_sentence(docstring.text)
        is_sentence = re.fullmatch(r"[A-Z][^`|<>{}\[\]]{15,120}\.", answer) is not None
        if docstring.kind == "function" and is_sentence:
            name = docstring.qualified_name
            yield {"instruction": f"What does the function {name} do?", "output": answer}


def texts(docstrings: list[Docstring], package: str) -> Iterator[dict[str, str]]:
    """Text and label for each docstring that says something without naming its package."""
    for docstring in docstrings:
        text = first_paragraph(docstring.text)
        if 40 <= len(text) <= 300 and package not in text.lower():
            yield {"text": text, "label": package}


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows):,} rows")


def main() -> None:
    """Write both files."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    shuffle = random.Random(SEED)
    questions: list[dict[str, str]] = []
    labelled: list[dict[str, str]] = []
    for package in PACKAGES:
        docstrings = list(docstrings_of(package))
        questions += pairs(docstrings)
        of_package = list(texts(docstrings, package))
        shuffle.shuffle(of_package)
        labelled += of_package[:MAX_TEXTS_A_PACKAGE]
    shuffle.shuffle(questions)
    # One question an answer: many functions share their first sentence ("Fit the model."), and it
    # must not be both learnt and asked.
    questions = list({pair["output"]: pair for pair in questions}.values())
    write_lines(directory / "functions.jsonl", questions[:MAX_PAIRS])
    shuffle.shuffle(labelled)
    write_lines(directory / "packages.jsonl", labelled)


if __name__ == "__main__":
    main()
