"""Pretraining batches: windows of a token stream, mixed over sources, each step a pure function.

Row r of the endless training order belongs to a source chosen by a low-discrepancy sequence
(multiples of the golden ratio, so that every stretch of rows has the asked-for shares), and is the
k-th row of that source; k falls into an epoch and, by that epoch's permutation, onto a window.
Nothing is remembered between steps, so a run can start at any step.

Validation text is read in windows of the same length, one after the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.data.batch import IGNORED, Batch
from llmstages.data.order import generator_for, permutation
from llmstages.data.shards import Shard
from llmstages.errors import UserError

GOLDEN_RATIO = (5**0.5 - 1) / 2


def mixture_shares(
    shards: Sequence[Shard], asked: Mapping[str, float] | None = None
) -> NDArray[np.float64]:
    """Share of the training rows for each shard, adding up to 1.

    Weights as `asked` for by source, else as the corpus has them; in proportion to tokens when none
    is given. Raises `UserError` when only some of the sources have a weight or none is above 0.
    """
    asked = asked or {}
    weights = [asked.get(shard.info.source, shard.info.weight) for shard in shards]
    if all(weight is None for weight in weights):
        amounts = np.array([shard.info.tokens for shard in shards], dtype=np.float64)
    elif any(weight is None for weight in weights):
        without = [s.info.source for s, w in zip(shards, weights, strict=True) if w is None]
        raise UserError(
            f"source {without[0]} has no weight but others have: give all of them one "
            f"(corpus.sources.{without[0]}.weight=...) or none"
        )
    else:
        amounts = np.array(weights, dtype=np.float64)
    if amounts.sum() <= 0:
        raise UserError("all source weights are 0: give at least one source a weight above 0")
    shares: NDArray[np.float64] = amounts / amounts.sum()
    return shares


@dataclass(frozen=True)
class SourceEpoch:
    """One pass over a source: the order of its windows and where the first begins."""

    number: int
    order: NDArray[np.int64]
    shift: int


class PretrainingData:
    """Training rows of `context_length` tokens; a step takes `rows_per_step` of them."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        context_length: int,
        rows_per_step: int,
        rows_per_micro_batch: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        mask_documents: bool = False,
    ) -> None:
        """mask_documents: attention and positions stay inside a document."""
        self.shards = list(shards)
        self.context_length = context_length
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = rows_per_micro_batch
        self.seed = seed
        self.mask_documents = mask_documents
        self.shares = mixture_shares(shards, weights)
        self.bounds = self.shares.cumsum()
        self.start = generator_for("mixture", seed).random()
        self.counted_rows = 0
        self.counts = np.zeros(len(self.shards), dtype=np.int64)
        self.epochs: dict[int, SourceEpoch] = {}

    @property
    def tokens_per_step(self) -> int:
        """Targets of one optimizer step."""
        return self.rows_per_step * self.context_length

    @property
    def num_tokens(self) -> int:
        """Tokens of all sources."""
        return sum(shard.info.tokens for shard in self.shards)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0."""
        first = step * self.rows_per_step
        sources = self.sources_of(first, self.rows_per_step)
        ranks = self.counts_before(first)
        rows = []
        for source in sources.tolist():
            rows.append(self.window(source, int(ranks[source])))
            ranks[source] += 1
        for begin in range(0, len(rows), self.rows_per_micro_batch):
            yield stack_windows(
                rows[begin : begin + self.rows_per_micro_batch], self.mask_documents
            )

    def sources_of(self, first: int, count: int) -> NDArray[np.int64]:
        """Source number of rows first..first+count-1."""
        points = (self.start + GOLDEN_RATIO * np.arange(first, first + count)) % 1.0
        found = np.searchsorted(self.bounds, points, side="right")
        return np.minimum(found, len(self.shards) - 1)

    def counts_before(self, row: int) -> NDArray[np.int64]:
        """How many of the rows before `row` each source has had."""
        if row < self.counted_rows:
            self.counted_rows = 0
            self.counts[:] = 0
        while self.counted_rows < row:  # in blocks, so that a resume at a late step stays small
            count = min(row - self.counted_rows, 1_000_000)
            sources = self.sources_of(self.counted_rows, count)
            self.counts += np.bincount(sources, minlength=len(self.shards))
            self.counted_rows += count
        return self.counts.copy()

    def window(self, source: int, rank: int) -> "Window":
        """Row number `rank` of a source."""
        shard = self.shards[source]
        epoch = self.source_epoch(source, rank)
        begin = epoch.shift + int(epoch.order[rank % len(epoch.order)]) * self.context_length
        return Window(shard, begin, min(self.context_length, len(shard.ids) - 1 - begin))

    def source_epoch(self, source: int, rank: int) -> SourceEpoch:
        """The pass over a source in which its row number `rank` falls."""
        windows = self.windows_of(source)
        number = rank // windows
        known = self.epochs.get(source)
        if known is None or known.number != number:
            shard = self.shards[source]
            room = max(0, len(shard.ids) - 1 - windows * self.context_length)
            shift = generator_for("shift", self.seed, shard.info.source, number)
            known = SourceEpoch(
                number,
                permutation(windows, "windows", self.seed, shard.info.source, number),
                int(shift.integers(0, room + 1)),
            )
            self.epochs[source] = known
        return known

    def windows_of(self, source: int) -> int:
        """Windows in one pass over a source.

        Of many windows one is left out, which gives room to begin each pass at another token, so
        that the borders between windows do not repeat.
        """
        windows = (len(self.shards[source].ids) - 1) // self.context_length
        return max(1, windows - 1 if windows >= 8 else windows)

    @property
    def rows_per_epoch(self) -> int:
        """Rows in one pass over all sources."""
        return sum(self.windows_of(source) for source in range(len(self.shards)))


@dataclass(frozen=True)
class Window:
    """A stretch of a shard: `length` tokens from `begin` on, each of which predicts the next."""

    shard: Shard
    begin: int
    length: int

    @property
    def ids(self) -> NDArray[np.int64]:
        """Its tokens and the one after them, [length + 1]."""
        return self.shard.part(self.begin, self.begin + self.length + 1)

    @property
    def reference(self) -> str:
        """Document at its beginning, and position in the shard."""
        return f"{self.shard.document_at(self.begin)}+{self.begin}"

    def borders(self) -> NDArray[np.int64]:
        """Where in the window a document begins, other than at its first token.

        The end token in front of a document counts as its beginning: so the first token of a text
        is predicted from that alone, and not from the document before.
        """
        return self._starts(self.begin + 2, self.begin + self.length) - 1

    def ends(self) -> NDArray[np.int64]:
        """Where in the window the next token is an end token."""
        found = self._starts(self.begin + 2, self.begin + self.length + 1) - 2
        last = len(self.shard.ids) - 2 - self.begin
        return np.append(found, last) if last < self.length else found

    def _starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Starts of documents from position `first` to `last`, counted from the window's begin."""
        starts = self.shard.starts
        low, high = np.searchsorted(starts, (first, last + 1))
        found: NDArray[np.int64] = starts[low:high] - self.begin
        return found


def stack_rows(rows: Sequence[tuple[NDArray[np.int64], str]]) -> Batch:
    """Batch of rows of ids, each predicting its own next ids; short rows are padded."""
    length = max(len(ids) for ids, _ in rows) - 1
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for row, (ids, _) in enumerate(rows):
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
    supervised = targets != IGNORED
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        position_ids=None,
        document_ids=None,
        weights=torch.from_numpy(supervised.astype(np.float32)),
        document_refs=tuple(reference for _, reference in rows),
        num_real_tokens=int(supervised.sum()),
    )


def stack_windows(windows: Sequence[Window], mask_documents: bool = False) -> Batch:
    """Batch of windows, with the documents they are in when attention is to stay inside these."""
    batch = stack_rows([(window.ids, window.reference) for window in windows])
    if not mask_documents:
        return batch
    begins = np.zeros(batch.tokens.shape, dtype=bool)
    for row, window in enumerate(windows):
        begins[row, window.borders()] = True
    places = np.arange(begins.shape[1])
    begin = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return replace(
        batch,
        position_ids=torch.from_numpy(places - begin),
        document_ids=torch.from_numpy(begins.cumsum(axis=1)),
    )


def validation_windows(
    shards: Sequence[Shard], *, context_length: int, max_tokens: int | None = None
) -> list[list[Window]]:
    """For each shard the windows that it is measured on, in order.

    All of them: every token but the first of the shard is predicted once, from the tokens of its
    window before it.

    max_tokens: only so many predictions, shared out over the shards by size, in windows spread
    evenly over each: the same ones whenever it is called.
    """
    total = sum(len(shard.ids) - 1 for shard in shards)
    windows = []
    for shard in shards:
        end = wanted = len(shard.ids) - 1
        if max_tokens is not None and total > max_tokens:
            wanted = min(end, max(1, round(max_tokens * end / total)))
        # Of each of `count` equal stretches of the shard's windows the one in the middle.
        count, of = -(-wanted // context_length), -(-end // context_length)
        chosen = [(2 * index + 1) * of // (2 * count) for index in range(count)]
        lengths = [min(context_length, end - number * context_length) for number in chosen]
        if lengths:
            lengths[0] -= max(0, sum(lengths) - wanted)
        windows.append(
            [
                Window(shard, number * context_length, length)
                for number, length in zip(chosen, lengths, strict=True)
            ]
        )
    return windows


def validation_batches(
    windows: Sequence[Window], rows_per_batch: int, *, mask_documents: bool = False
) -> Iterator[Batch]:
    """Batches of windows in which end tokens are no targets: what is measured is the text."""
    for first in range(0, len(windows), rows_per_batch):
        rows = windows[first : first + rows_per_batch]
        batch = stack_windows(rows, mask_documents)
        for number, row in enumerate(rows):
            ends = torch.from_numpy(row.ends())
            batch.targets[number, ends] = IGNORED
            batch.weights[number, ends] = 0.0
        yield batch
