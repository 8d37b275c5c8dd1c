"""How likely a language model finds a text after another: nats, and whether it would say just that.

Texts are cut into tokens as EleutherAI's lm-evaluation-harness does, so log probabilities are its
own, in float32 to rounding: white space between the two belongs to what follows, and what follows
nothing follows the token that begins a text, or else the one that ends it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmstages.data.batch import IGNORED, Batch
from llmstages.errors import UserError
from llmstages.evaluate.perplexity import row_values
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import progress, warn
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.cross_entropy import capped_logits

LOGITS_AT_ONCE = 1 << 24
"""Most logits that are held; 64 MiB."""


@dataclass(frozen=True)
class Subject:
    """A language model that is asked, and how it computes."""

    model: Transformer
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Autocast type of matrix products; float32 gives the harness's figures."""
    batch_tokens: int = 4096
    """Tokens that go through the model at once, padding counted."""
    quiet: bool = False
    """Say nothing of prompts that are cut."""


def continuation_scores(subject: Subject, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """[n, 2] of contexts and what follows them: its log probability in nats, and 1 where each of
    its tokens was the likeliest.

    What does not fit the model's context loses its beginning. Of several processes each reads some;
    all have the whole.

    Raises:
        UserError: what follows is longer than the context.
    """
    context_length = subject.model.config.context_length
    encoded = encoded_pairs(subject.tokenizer, pairs)
    longest = max((len(following) for _, following in encoded), default=0)
    if longest > context_length:
        raise UserError(
            f"{longest:,} tokens of an answer do not fit the model's context of {context_length:,}"
        )
    num_cut = sum(len(c) + len(following) > context_length + 1 for c, following in encoded)
    if num_cut and not subject.quiet:
        warn(
            f"{num_cut:,} of {len(encoded):,} texts are longer than the model's context of "
            f"{context_length:,} tokens: their beginnings are left out"
        )
    rows = [
        ((*context, *following)[-(context_length + 1) :], len(following))
        for context, following in encoded
    ]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
    scores = np.zeros((len(rows), 2))
    scores[:, 1] = 1.0  # of nothing, which is certain to follow
    kept = [index for index in order if rows[index][1] > 0]
    if kept:
        batches = _batches([rows[index] for index in kept], subject.batch_tokens)
        with counted(batches, len(kept), quiet=subject.quiet) as seen:
            scores[kept] = row_values(
                subject.model, following_scores, seen, subject.device, subject.dtype
            )
    return scores


@contextmanager
def counted(batches: Iterable[Batch], num_rows: int, *, quiet: bool) -> Iterator[Iterator[Batch]]:
    """The same batches, whose rows are counted in a bar of progress."""

    def seen() -> Iterator[Batch]:
        for batch in batches:
            yield batch
            advance(len(batch.tokens))

    with nullcontext(_nothing) if quiet else progress("reading", num_rows, "texts") as advance:
        yield seen()


def _nothing(count: int) -> None:
    """No progress is shown."""


def encoded_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Ids of each context and of what follows it."""
    contexts = [context.rstrip() for context, _ in pairs]
    wholes = [context + following for context, following in pairs]
    different = list(dict.fromkeys(contexts))
    ids = iter(tokenizer.encode_batch([*different, *wholes]))
    by_context = {context: next(ids) for context in different}
    heads = [by_context[context] for context in contexts]
    found = []
    for context, head, whole in zip(contexts, heads, ids, strict=True):
        if context:
            found.append(([*tokenizer.begin_ids, *head], whole[len(head) :]))
        else:
            found.append(([prefix_id(tokenizer)], whole))
    return found


def prefix_id(tokenizer: Tokenizer) -> int:
    """What a text without context is scored after: its first token has to follow something."""
    names = tokenizer.special_tokens
    return tokenizer.backend.vocabulary[names.get("bos_token", names["eos_token"])]


def following_scores(model: Transformer, batch: Batch) -> Tensor:
    """[B, 2] float32: sum of the log probabilities of each row's targets in nats, and 1 where each
    of them was the likeliest token."""
    hidden = model(batch.tokens, batch.position_ids, batch.document_ids)
    supervised = batch.targets != IGNORED
    nats, best = token_scores(model, hidden[supervised], batch.targets[supervised])
    rows = supervised.nonzero()[:, 0]
    sums = torch.zeros(len(batch.tokens), 2, device=nats.device)
    return torch.stack(
        [
            sums[:, 0].index_add(0, rows, nats),
            (sums[:, 1].index_add(0, rows, (~best).float()) == 0).float(),
        ],
        dim=1,
    )


@torch.no_grad()
def token_scores(model: Transformer, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens after hidden states: log probabilities [N] float32 in nats, and whether likeliest.

    states: [N, hidden_size]. targets: [N].
    """
    weight = model.output_weight
    size = max(1, LOGITS_AT_ONCE // len(weight))
    nats, best = [], []
    for own, wanted in zip(torch.split(states, size), torch.split(targets, size), strict=True):
        logits = torch.nn.functional.linear(own, weight.to(own.dtype))
        logits = capped_logits(logits, model.config.logit_softcap).float()
        nats.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1))
        best.append(logits.argmax(dim=1) == wanted)
    return torch.cat(nats), torch.cat(best)


def _batches(rows: Sequence[tuple[tuple[int, ...], int]], batch_tokens: int) -> Iterator[Batch]:
    """Rows of ids, longest first, the last so many of which are targets."""
    begin = 0
    while begin < len(rows):
        length = len(rows[begin][0]) - 1
        own = rows[begin : begin + max(1, batch_tokens // length)]
        begin += len(own)
        tokens = np.zeros((len(own), length), dtype=np.int64)
        targets = np.full((len(own), length), IGNORED, dtype=np.int64)
        for row, (ids, num_targets) in enumerate(own):
            last = len(ids) - 1
            tokens[row, :last] = ids[:-1]
            targets[row, last - num_targets : last] = ids[-num_targets:]
        yield Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            position_ids=None,
            document_ids=None,
            weights=torch.from_numpy((targets != IGNORED).astype(np.float32)),
            document_refs=("",) * len(own),
            num_real_tokens=sum(len(ids) - 1 for ids, _ in own),
        )
