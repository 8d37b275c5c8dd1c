"""Do test items occur in the text that a model has read? (Brown et al. 2020, appendix C.)

An item occurs where 13 words in a row of one of its texts stand in a document, whatever their case
and punctuation; of a shorter text, of 8 words or more, all of them. These are the rules by which
`collect` takes evaluation text out, and the same index finds it. The corpus is read once, in
constant memory.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmstages.collect.duplicates.decontamination import EvaluationIndex, Hit, row_ngrams
from llmstages.collect.duplicates.evaluation_texts import read_evaluation_rows
from llmstages.config.collect_groups import DecontaminateConfig
from llmstages.data.class_folders import (
    are_rows,
    files_below,
    is_mail,
    read_documents,
    said_aside,
)
from llmstages.data.corpus import Corpus, Document
from llmstages.data.labelled_files import holds_rows
from llmstages.data.split import normalised_text
from llmstages.data.table import read_rows
from llmstages.duplicates.words import BLOCK_CHARACTERS

MAX_SHOWN_CHARACTERS = 300
GENERATED = "answers.jsonl"
"""File of a run whose rows hold answers of models beside the questions."""


@dataclass(frozen=True)
class Occurrence:
    """Where an item was found first."""

    item: int
    document: str
    text: str


@dataclass(frozen=True)
class Overlap:
    """Which items occur in corpora. Items are numbered from 1, in the order of their rows."""

    num_items: int
    too_short: list[int]
    """No text of theirs has enough words to be looked for."""
    overlapping: list[int]
    common: list[int]
    """Of these the ones whose n-grams each stand in many documents: common speech, it may be."""
    examples: list[Occurrence]
    documents: int
    bytes: int
    seconds: float

    @property
    def percent(self) -> float:
        """Of the items that are long enough."""
        num_searched = self.num_items - len(self.too_short)
        return 100 * len(self.overlapping) / num_searched if num_searched else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "num_items": self.num_items,
            "percent": self.percent,
            "overlapping": self.overlapping,
            "common": self.common,
            "too_short": self.too_short,
            "examples": [vars(example) for example in self.examples],
            "documents": self.documents,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


def test_rows(path: Path) -> list[list[str]]:
    """The texts of each item of a file, or of a folder of rows, mails or texts.

    Of a run's generated answers what was asked for alone. Raises `UserError` where no items are.
    """
    if path.name == GENERATED:
        rows = read_rows(path, bad_rows="skip", quiet=True).rows
        return [
            [str(row.values.get(key) or "") for key in ("question", "reference")] for row in rows
        ]
    files = files_below(path) if path.is_dir() else [path]
    if is_mail(path) or (path.is_dir() and not are_rows(files) and not all(map(holds_rows, files))):
        aside: Counter[str] = Counter()
        rows_of_texts = [[document.text] for document in read_documents(files, aside)]
        said_aside(path, aside)
        return rows_of_texts
    return list(read_evaluation_rows([str(path)]))


def learnt_items(rows: Sequence[list[str]], files: Sequence[Path]) -> list[int]:
    """Items, numbered from 1, whose longest text is that of a row in files of fine-tuning, whatever
    its case and white space."""

    def longest(row: Sequence[str]) -> str:
        return max(map(normalised_text, row), key=len, default="")

    known = {longest(row) for file in files for row in test_rows(file)} - {""}
    return [number for number, row in enumerate(rows, start=1) if longest(row) in known]


def find_overlap(
    rows: Sequence[list[str]],
    corpora: Sequence[Corpus],
    num_examples: int,
    advance: Callable[[float], None] | None = None,
) -> Overlap:
    """Look for items, each the texts of a row, in the training text of corpora.

    advance: is told of bytes that were read.
    """
    config = DecontaminateConfig()
    began = time.monotonic()
    index = EvaluationIndex.of_rows(rows, config)
    num_documents = np.zeros(len(index.ngrams), np.int64)
    first: dict[int, tuple[str, str]] = {}
    documents = read_bytes = 0
    for block in blocks_of(corpora):
        hits = index.hits([document.text for document in block])
        for number, of_document in hits.items():
            document = block[number]
            for hit in of_document:
                first.setdefault(hit["ngram"], (document.id, passage(document, hit)))
            num_documents[list({hit["ngram"] for hit in of_document})] += 1
        size = sum(len(document.text.encode()) for document in block)
        documents, read_bytes = documents + len(block), read_bytes + size
        if advance is not None:
            advance(size)
    overlapping, common, too_short = [], [], []
    examples: list[Occurrence] = []
    for item, found in enumerate(row_ngrams(rows, config), start=1):
        if not found.ngrams:
            too_short.append(item)
            continue
        numbers = np.searchsorted(index.ngrams, np.concatenate(found.ngrams))
        counts = num_documents[numbers]
        if counts.any():
            overlapping.append(item)
            if counts[counts > 0].min() > config.max_documents:
                common.append(item)
            if len(examples) < num_examples:
                ngram = int(numbers[np.flatnonzero(counts)[0]])
                examples.append(Occurrence(item, *first[ngram]))
    return Overlap(
        *(len(rows), too_short, overlapping, common, examples),
        *(documents, read_bytes, time.monotonic() - began),
    )


def blocks_of(corpora: Sequence[Corpus]) -> Iterator[list[Document]]:
    """Training documents, some `BLOCK_CHARACTERS` at a time."""
    block: list[Document] = []
    size = 0
    for corpus in corpora:
        for document in corpus.documents("train", columns=["id", "text"]):
            block.append(document)
            size += len(document.text)
            if size >= BLOCK_CHARACTERS:
                yield block
                block, size = [], 0
    if block:
        yield block


def passage(document: Document, hit: Hit) -> str:
    """The text of a hit, on one line."""
    return " ".join(document.text[hit["start"] : hit["end"]][:MAX_SHOWN_CHARACTERS].split())
