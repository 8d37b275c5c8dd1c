"""Corpus text between conversations, so that a tuned model forgets less of its base.

Every optimizer step has the conversations of `PackedData` and as many rows of the corpus, cut like
those of pretraining, as make up the share asked for of its tokens on the average. A row predicts
each of its tokens; a target weighs the same wherever it is, so the loss is one per token over the
whole step. Steps are pure functions, as those of both parts are.
"""

from collections.abc import Iterator, Sequence

from llmstages.data.batch import Batch
from llmstages.data.examples import PackedData
from llmstages.data.shards import Shard
from llmstages.data.streams import PretrainingData


class ReplayedData:
    """`share` of the tokens of each step are corpus text; the rest are conversations."""

    def __init__(
        self,
        conversations: PackedData,
        shards: Sequence[Shard],
        share: float,
        *,
        mask_documents: bool = False,
    ) -> None:
        """share: above 0, below 1. shards: the corpus's training text."""
        self.conversations = conversations
        self.steps_per_epoch = conversations.steps_per_epoch
        self.context_length = conversations.context_length
        learnt = sum(len(example.tokens) for example in conversations.examples)
        wanted = share / (1 - share) * learnt / self.steps_per_epoch
        rows = max(1, -(-round(wanted) // self.context_length))
        self.text = PretrainingData(
            shards,
            context_length=max(1, round(wanted / rows)),
            rows_per_step=rows,
            rows_per_micro_batch=min(rows, conversations.rows_per_micro_batch),
            seed=conversations.seed,
            mask_documents=mask_documents,
        )

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of optimizer step `step`, counted from 0."""
        yield from self.conversations.micro_batches(step)
        yield from self.text.micro_batches(step)
