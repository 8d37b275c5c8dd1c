"""One number that makes a classifier's probabilities as often right as they say (Guo et al. 2017).

Logits are divided by a temperature, found on held-out texts: above 1 a classifier was too sure,
below 1 too modest.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

MIN_ROWS = 100
MIN_MISTAKES = 20
"""Texts, and wrong labels among them, from which a temperature is fitted: with fewer it follows
single mistakes, and makes other texts' probabilities worse; see docs/architecture.md."""
MAX_TEMPERATURE = 20.0
"""A temperature above this, or below 1 over this, is no calibration: texts that are all right, or
guesses, have none."""


def fitted_temperature(
    probabilities: NDArray[np.float64], num_windows: Sequence[int], truth: Sequence[int]
) -> float | None:
    """The temperature at which the true labels are likeliest; None where there is none to be had.

    The probabilities of a text are the means of those of its windows.

    Args:
        probabilities: [w, k] of all windows, text by text; their logarithms are logits.
        num_windows: [n] windows of each text, which add up to w.
        truth: [n] index of each text's label.
    """
    wrong = averaged(probabilities, num_windows, 1.0).argmax(axis=1) != np.array(truth)
    if len(truth) < MIN_ROWS or wrong.sum() < MIN_MISTAKES:
        return None
    counts = torch.as_tensor(num_windows)
    text_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    label_of = torch.as_tensor(truth)[text_of][:, None]
    # What float32 rounds to 0 still has a logit.
    logits = torch.from_numpy(probabilities).clamp_min(torch.finfo(torch.float32).tiny).log()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def nats() -> torch.Tensor:
        log_p = (logits / log_temperature.exp()).log_softmax(1).gather(1, label_of)[:, 0]
        of_text = torch.zeros(len(counts), dtype=torch.float64).index_add(0, text_of, log_p.exp())
        return -(of_text / counts).clamp_min(torch.finfo(torch.float64).tiny).log().mean()

    def closure() -> float:
        log_temperature.grad = None
        loss = nats()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")
    with torch.no_grad():
        before = nats().item()
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        improved = nats().item() < before
    found = log_temperature.item()
    if not (improved and abs(found) < math.log(MAX_TEMPERATURE)):
        return None
    return math.exp(found)


def averaged(
    probabilities: NDArray[np.float64], num_windows: Sequence[int], temperature: float
) -> NDArray[np.float64]:
    """[n, k] of texts at a temperature: the mean over their windows, [w, k] of which are given."""
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    counts = np.array(num_windows)
    sums = np.add.reduceat(shares, counts.cumsum() - counts)
    means: NDArray[np.float64] = sums / counts[:, None]
    return means
