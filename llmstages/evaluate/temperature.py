"""One number that makes a classifier's probabilities as often right as they say (Guo et al. 2017).

Logits are divided by a temperature, found on held-out texts: above 1 a classifier was too sure,
below 1 too modest.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_ROWS = 100
MIN_MISTAKES = 20
"""Texts, and wrong labels among them, from which a temperature is fitted: with fewer it follows
single mistakes, and makes other texts' probabilities worse; see docs/architecture.md."""
MAX_TEMPERATURE = 20.0
"""A temperature above this, or below 1 over this, is no calibration: texts that are all right, or
guesses, have none."""
GOLDEN = (math.sqrt(5) - 1) / 2
PRECISION = 1e-6
"""Of the logarithm of a temperature."""


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
    rows, labels = np.arange(len(truth)), np.array(truth)

    def nats(log_temperature: float) -> float:
        shares = averaged(probabilities, num_windows, math.exp(log_temperature))[rows, labels]
        return float(-np.log(np.maximum(shares, np.finfo(np.float64).tiny)).mean())

    # Golden-section search (Kiefer 1953): for a function of one valley.
    left, right = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    low, high = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
    at_low, at_high = nats(low), nats(high)
    while right - left > PRECISION:
        if at_low < at_high:
            right, high, at_high = high, low, at_low
            low = right - GOLDEN * (right - left)
            at_low = nats(low)
        else:
            left, low, at_low = low, high, at_high
            high = left + GOLDEN * (right - left)
            at_high = nats(high)
    found = (left + right) / 2
    at_bound = math.log(MAX_TEMPERATURE) - abs(found) < 2 * PRECISION
    return None if at_bound or nats(found) >= nats(0.0) else math.exp(found)


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
