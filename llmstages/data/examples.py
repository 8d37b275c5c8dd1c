"""Fine-tuning batches: conversations packed into rows, texts with labels; steps are pure functions.

The order of the examples in an epoch depends on the seed and the epoch alone, so step s can be made
without the steps before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from llmstages.data.batch import IGNORED, Batch
from llmstages.data.order import generator_for, permutation

LENGTH_STEP = 16
"""Batches of texts are padded to multiples of this: each new shape costs a kernel made for it (on a
CPU in bf16 more than the step itself), and there are few shapes this way."""

MOST_ROW_TOKENS = 1024
"""Of several labelled texts in one row, unless one of them is longer."""


@dataclass(frozen=True)
class Example:
    """One sequence and what is learnt from it."""

    tokens: list[int]
    """Ids."""
    targets: list[int]
    """As long as `tokens`: the id or label to predict at each position, or `IGNORED`."""
    reference: str
    """Where it came from, such as `reviews.jsonl:17`."""
    num_begin: int = 0
    """Tokens that begin it as they begin every text of its tokenizer."""


def conversation_example(
    ids: Sequence[int], supervised: Sequence[bool], context_length: int, reference: str
) -> Example | None:
    """Next-token example of a rendered conversation; None when no supervised token is left.

    ids and supervised are as long as each other; supervised[i] says that ids[i] is to be predicted.
    What does not fit into the context is cut off at the end.
    """
    ids = ids[: context_length + 1]
    targets = [
        token if wanted else IGNORED
        for token, wanted in zip(ids[1:], supervised[1 : len(ids)], strict=True)
    ]
    if all(target == IGNORED for target in targets):
        return None
    return Example(list(ids[:-1]), targets, reference)


def labelled_example(
    ids: Sequence[int],
    end_id: int,
    label: int,
    context_length: int,
    reference: str,
    begin_ids: Sequence[int] = (),
) -> Example:
    """A text and its label: the label is the target of the end token. A long text loses its end."""
    tokens = [*begin_ids, *ids[: context_length - 1 - len(begin_ids)], end_id]
    targets = [IGNORED] * (len(tokens) - 1) + [label]
    return Example(tokens, targets, reference, len(begin_ids))


def labelled_windows(
    ids: Sequence[int],
    end_id: int,
    label: int,
    context_length: int,
    reference: str,
    begin_ids: Sequence[int] = (),
) -> list[Example]:
    """`labelled_example`s that together hold all of a text: one, or overlapping windows.

    Windows of a long text are full, evenly spread, and share a quarter or more of their tokens with
    the next, as Pappagari et al. 2019 cut ("Hierarchical Transformers for Long Document
    Classification": 200 tokens, 50 shared). Each has the label of the text.
    """
    room = context_length - 1 - len(begin_ids)
    last = max(0, len(ids) - room)
    steps = -(-last // max(1, room - room // 4))
    begins = [last * step // max(1, steps) for step in range(steps + 1)]
    return [
        labelled_example(
            ids[begin : begin + room], end_id, label, context_length, reference, begin_ids
        )
        for begin in begins
    ]


def pack(examples: Sequence[Example], context_length: int) -> list[list[Example]]:
    """Put examples, in their order, into rows of at most `context_length` tokens.

    An example goes into the first of the few last open rows that has room: nearly full rows at a
    cost that does not grow with the number of rows.
    """
    rows: list[list[Example]] = []
    open_rows: list[tuple[int, int]] = []  # (row, room left)
    for example in examples:
        needed = len(example.tokens)
        for place, (row, room) in enumerate(open_rows):
            if room >= needed:
                rows[row].append(example)
                open_rows[place] = (row, room - needed)
                break
        else:
            rows.append([example])
            open_rows.append((len(rows) - 1, context_length - needed))
            if len(open_rows) > 32:
                open_rows.remove(min(open_rows, key=lambda entry: entry[1]))
    return rows


def make_batch(rows: Sequence[Sequence[Example]], length: int | None = None) -> Batch:
    """Batch of rows, each of one or more examples; attention stays inside an example.

    length: T; None takes the longest row. Rows of one example need no attention mask: padding comes
    after it, where causal attention never looks.
    """
    totals = [sum(len(example.tokens) for example in row) for row in rows]
    length = max(totals) if length is None else length
    shape = (len(rows), length)
    tokens = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    document_ids = np.full(shape, -1, dtype=np.int64)
    for index, row in enumerate(rows):
        begin = 0
        for number, example in enumerate(row):
            end = begin + len(example.tokens)
            tokens[index, begin:end] = example.tokens
            targets[index, begin:end] = example.targets
            position_ids[index, begin:end] = np.arange(end - begin)
            document_ids[index, begin:end] = number
            begin = end
    packed = any(len(row) > 1 for row in rows)
    return Batch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        position_ids=torch.from_numpy(position_ids) if packed else None,
        document_ids=torch.from_numpy(document_ids) if packed else None,
        weights=torch.from_numpy((targets != IGNORED).astype(np.float32)),
        document_refs=tuple(",".join(example.reference for example in row) for row in rows),
        num_real_tokens=sum(totals),
    )


class PackedData:
    """Instruction tuning: examples packed into rows of the context length, a few rows a step."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        context_length: int,
        rows_per_step: int,
        rows_per_micro_batch: int,
        seed: int,
    ) -> None:
        self.examples = list(examples)
        self.context_length = context_length
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = rows_per_micro_batch
        self.seed = seed
        self.epoch = -1
        self.rows: list[list[Example]] = []
        self.steps_per_epoch = -(-len(self.epoch_rows(0)) // rows_per_step)

    def epoch_rows(self, epoch: int) -> list[list[Example]]:
        """The packed rows of an epoch."""
        if epoch != self.epoch:
            order = permutation(len(self.examples), "examples", self.seed, epoch)
            self.rows = pack([self.examples[index] for index in order], self.context_length)
            # A lucky order may need fewer rows than there are steps; each step needs one.
            while epoch > 0 and len(self.rows) < self.steps_per_epoch:
                fullest = max(self.rows, key=len)
                self.rows.append([fullest.pop()])
            self.epoch = epoch
        return self.rows

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0.

        Every epoch has the steps of the first; packing may need a row more or fewer in another
        order, and the last step takes what is left, so that each example is seen once an epoch.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self.epoch_rows(epoch)
        first = place * len(rows) // self.steps_per_epoch
        last = (place + 1) * len(rows) // self.steps_per_epoch
        for begin in range(first, last, self.rows_per_micro_batch):
            chosen = rows[begin : min(begin + self.rows_per_micro_batch, last)]
            yield make_batch(chosen, self.context_length)


class ShuffledData:
    """Classification: `batch_size` texts a step, packed into rows without padding.

    Of a text of several windows an epoch reads one, the next epoch the next: every text weighs and
    costs the same.

    With `classes` each class is read equally often an epoch: of a large one some texts, of a small
    one some several times, and over the epochs all texts of a class equally often.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[Example]],
        *,
        batch_size: int,
        micro_batch_tokens: int,
        seed: int,
        least_rows: int = 1,
        token_dropout: float = 0.0,
        classes: Sequence[int] | None = None,
    ) -> None:
        """texts: the windows of each (`labelled_windows`). least_rows: of a step, as many as there
        are processes to share them. token_dropout: share of the tokens that is left out, others
        each time (`without_some`). classes: the class of each."""
        self.texts = list(texts)
        self.batch_size = batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.least_rows = least_rows
        self.token_dropout = token_dropout
        self.context_length = max(len(window.tokens) for text in texts for window in text)
        self.members: dict[int, list[int]] = {}
        for index, number in enumerate(classes or ()):
            self.members.setdefault(number, []).append(index)
        per_class = -(-len(self.texts) // max(1, len(self.members)))
        self.per_class = per_class
        num_reads = per_class * len(self.members) if self.members else len(self.texts)
        self.steps_per_epoch = -(-num_reads // batch_size)
        self.epoch = -1
        self.reads = self.epoch_reads(0)

    def epoch_reads(self, epoch: int) -> list[tuple[int, int]]:
        """(number of a text, times it was read before), in the order of an epoch."""
        if epoch != self.epoch:
            if self.members:
                reads = [read for number in self.members for read in self._reads_of(number, epoch)]
            else:
                reads = [(index, epoch) for index in range(len(self.texts))]
            order = permutation(len(reads), "examples", self.seed, epoch)
            self.epoch, self.reads = epoch, [reads[place] for place in order.tolist()]
        return self.reads

    def _reads_of(self, number: int, epoch: int) -> Iterator[tuple[int, int]]:
        """Those of one class: its texts in a random order, again and again, over all epochs."""
        members = self.members[number]
        begin = epoch * self.per_class
        while begin < (epoch + 1) * self.per_class:
            times, place = divmod(begin, len(members))
            order = permutation(len(members), "class", self.seed, number, times).tolist()
            count = min(len(members) - place, (epoch + 1) * self.per_class - begin)
            yield from ((members[index], times) for index in order[place : place + count])
            begin += count

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        reads = self.epoch_reads(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        # Counted from the text's number, so that a step has beginnings, middles and ends.
        windows = [
            self.texts[text][(text + times) % len(self.texts[text])] for text, times in reads
        ]
        if self.token_dropout:
            random = generator_for("token_dropout", self.seed, step)
            windows = [without_some(window, self.token_dropout, random) for window in windows]
        yield from packed_batches(windows, self.micro_batch_tokens, self.least_rows)


def without_some(example: Example, share: float, random: np.random.Generator) -> Example:
    """A labelled text without some of its tokens, so that no single word decides (Iyyer et al.
    2015, "Deep Unordered Composition Rivals Syntactic Methods"); what begins and ends it stays."""
    kept = random.random(len(example.tokens)) >= share
    kept[: example.num_begin] = kept[-1] = True
    if kept.sum() == example.num_begin + 1:  # nothing of the text
        return example
    tokens = np.array(example.tokens)[kept].tolist()
    return replace(example, tokens=tokens, targets=example.targets[-len(tokens) :])


def packed_batches(
    examples: Sequence[Example], micro_batch_tokens: int, least_rows: int
) -> Iterator[Batch]:
    """Batches of rows of several examples, of at most `micro_batch_tokens` tokens or one row each.

    Rows are long enough for matrix products to be at their best and short enough for the mask of
    attention, which grows as their square, to be small beside them.
    """
    ordered = sorted(examples, key=lambda example: len(example.tokens), reverse=True)
    total = sum(len(example.tokens) for example in ordered)
    num_rows = min(len(ordered), max(least_rows, -(-total // MOST_ROW_TOKENS)))
    rows: list[list[Example]] = [[] for _ in range(num_rows)]
    lengths = [0] * num_rows
    for example in ordered:  # the longest first, into the shortest row: they end up nearly equal
        shortest = lengths.index(min(lengths))
        rows[shortest].append(example)
        lengths[shortest] += len(example.tokens)
    length = -(-max(lengths) // LENGTH_STEP) * LENGTH_STEP
    rows_at_once = max(1, least_rows, micro_batch_tokens // length)
    for begin in range(0, num_rows, rows_at_once):
        batch = make_batch(rows[begin : begin + rows_at_once], length)
        if batch.position_ids is None:  # padding may reach beyond the context
            positions = torch.arange(length).clamp(max=max(lengths) - 1)
            batch = replace(batch, position_ids=positions.expand(len(batch.tokens), -1))
        yield batch


def by_length(
    examples: Sequence[Example],
    micro_batch_tokens: int,
    context_length: int,
    *,
    length_step: int = LENGTH_STEP,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Batches of examples of similar length, the longest first, of at most `micro_batch_tokens`
    padded tokens and `batch_size` rows each.

    length_step: they are padded to multiples of this.
    """
    ordered = sorted(examples, key=lambda example: len(example.tokens), reverse=True)
    begin = 0
    while begin < len(ordered):
        length = -(-len(ordered[begin].tokens) // length_step) * length_step
        length = min(length, context_length)
        rows = max(1, min(micro_batch_tokens // length, batch_size or len(ordered)))
        yield make_batch([[example] for example in ordered[begin : begin + rows]], length)
        begin += rows


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected answer to the same prompt."""

    chosen: Example
    rejected: Example

    @property
    def num_tokens(self) -> int:
        """Tokens of both, the prompt twice."""
        return len(self.chosen.tokens) + len(self.rejected.tokens)


def pair_batches(
    pairs: Sequence[Pair], micro_batch_tokens: int, reference_margins: Sequence[float] | None = None
) -> Iterator[tuple[Batch, list[int]]]:
    """Batches with a pair in each row, of similar length, and the numbers of their pairs.

    Of the weights of a row that of its first target is 1, the others are 0. reference_margins: one
    a pair, in nats.
    """
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].num_tokens, reverse=True)
    begin = 0
    while begin < len(order):
        length = -(-pairs[order[begin]].num_tokens // LENGTH_STEP) * LENGTH_STEP
        chosen = order[begin : begin + max(1, micro_batch_tokens // length)]
        rows = [[pairs[index].chosen, pairs[index].rejected] for index in chosen]
        batch = make_batch(rows, length)
        weights = torch.zeros_like(batch.weights)
        weights[torch.arange(len(rows)), (batch.targets != IGNORED).int().argmax(dim=1)] = 1.0
        margins = None
        if reference_margins is not None:
            margins = torch.tensor([reference_margins[index] for index in chosen])
        yield replace(batch, weights=weights, reference_margins=margins), chosen
        begin += len(chosen)


class PreferenceData:
    """Preferences: `pairs_per_step` pairs of the epoch's permutation a step."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference_margins: Sequence[float],
        *,
        pairs_per_step: int,
        micro_batch_tokens: int,
        seed: int,
    ) -> None:
        """reference_margins: of each pair, what the starting model gives the chosen answer more."""
        self.pairs = list(pairs)
        self.reference_margins = list(reference_margins)
        self.pairs_per_step = pairs_per_step
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.context_length = max(pair.num_tokens for pair in self.pairs)
        self.steps_per_epoch = -(-len(self.pairs) // pairs_per_step)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = permutation(len(self.pairs), "examples", self.seed, epoch)
        chosen = order[place * self.pairs_per_step : (place + 1) * self.pairs_per_step]
        batches = pair_batches(
            [self.pairs[index] for index in chosen],
            self.micro_batch_tokens,
            [self.reference_margins[index] for index in chosen],
        )
        for batch, _ in batches:
            yield batch
