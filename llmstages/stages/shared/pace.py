"""How fast this machine trains and evaluates a model: from a few timed batches, never assumed."""

import time
from collections.abc import Callable

import torch

from llmstages.data.streams import PretrainingData
from llmstages.model.transformer import Transformer
from llmstages.stages.shared.setup import Machine
from llmstages.train import parallel
from llmstages.train.losses import dense_loss

PROBE_BATCHES = 3
"""Micro-batches timed, after one that is not, to foresee how much a time budget trains on."""
PROBE_SHARE = 0.02
"""Share of the time left after which no further micro-batch is timed."""
EVALUATION_SHARE = 0.01
"""Share of a time budget that one evaluation on the way takes at most."""
LAST_EVALUATION_SHARE = 0.1
"""Share of a time budget that is kept for the last evaluation at most."""
FORWARD_SHARE = 1 / 3
"""Of the FLOPs of training, forward and backward, those of the forward pass."""
MIN_EVALUATION_TOKENS = 4096


def seconds_per_token(
    model: Transformer, data: PretrainingData, machine: Machine, left: float
) -> float:
    """Seconds that training takes a token, the optimizer not counted; gradients are thrown away.

    left: seconds of the time budget; little of it is spent here.
    """
    took: list[float] = []
    for step in range(PROBE_BATCHES + 1):
        begin = time.monotonic()
        batch = parallel.own_rows(next(data.micro_batches(step))).to(machine.device)
        with torch.autocast(
            machine.device.type, dtype=machine.dtype, enabled=machine.dtype != torch.float32
        ):
            loss, _ = dense_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        _ = loss.item()  # waits for the device
        model.zero_grad(set_to_none=True)
        took.append((time.monotonic() - begin) / batch.num_real_tokens)
        # The second is worth its time, unless the first took very long.
        share = PROBE_SHARE if step > 0 else 5 * PROBE_SHARE
        if parallel.from_first(sum(took) * batch.num_real_tokens > share * left):
            break
    # The fastest is the machine's own speed: the first warms up, others may have been disturbed.
    return min(took)


def affordable_evaluation(max_tokens: int, training_seconds_per_token: float, left: float) -> int:
    """Validation tokens of an evaluation on the way: `max_tokens`, fewer in a short budget."""
    affordable = EVALUATION_SHARE * left / (FORWARD_SHARE * training_seconds_per_token)
    return min(max_tokens, max(MIN_EVALUATION_TOKENS, int(affordable)))


class TimedEvaluation:
    """An evaluation that knows what it costs: evaluation(max_tokens) -> metrics.

    also: more metrics, whose cost does not depend on the tokens.
    """

    def __init__(
        self,
        evaluate: Callable[[int | None], dict[str, float]],
        validation_tokens: int,
        also: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.evaluate = evaluate
        self.validation_tokens = validation_tokens
        self.also = also
        self.seconds = 0.0
        """Of the last call, all of it."""
        self.fixed_seconds = 0.0
        """Of it, what does not depend on the tokens."""
        self.tokens = 0
        """Read in the last call."""

    def __call__(self, max_tokens: int) -> dict[str, float]:
        begin = time.monotonic()
        metrics = self.evaluate(None if max_tokens >= self.validation_tokens else max_tokens)
        self.tokens = min(max_tokens, self.validation_tokens)
        read = time.monotonic()
        metrics |= self.also()
        self.seconds = time.monotonic() - begin
        self.fixed_seconds = time.monotonic() - read
        return metrics

    def tokens_within(self, seconds: float) -> int:
        """Tokens that can be read in so many seconds at the last speed, at most all."""
        left = max(0.0, seconds - self.fixed_seconds)
        reading = self.seconds - self.fixed_seconds
        return min(int(self.tokens * left / reading), self.validation_tokens)
