"""Long noisy curves made readable: a running mean, and fewer points that look the same."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def smoothed(values: Values) -> Values:
    """[n] running mean over about a twenty-fifth of the curve; as it is with fewer than 50 values.

    The mean is centred, so that a falling curve is not drawn late. Near the beginning, where losses
    fall fast, the window stays centred and gets narrow; near the end it loses its right half only,
    so that the last values are not as noisy as the raw ones.
    """
    n = len(values)
    index = np.arange(n)
    left = np.minimum(n // 50, index)
    right = np.minimum(left, n - 1 - index)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    means: Values = (sums[index + right + 1] - sums[index - left]) / (left + right + 1)
    return means


def thinned(x: Values, y: Values, limit: int) -> tuple[Values, Values]:
    """At most `limit` of the points [n]: the lowest and the highest of each stretch, in order.

    So no peak is lost, and a band of noise keeps its height. First and last point stay.
    """
    n = len(y)
    if n <= limit:
        return x, y
    edges = np.linspace(0, n, (limit - 2) // 2 + 1).astype(int)
    kept = {0, n - 1}
    for begin, end in pairwise(edges):
        kept |= {begin + int(np.argmin(y[begin:end])), begin + int(np.argmax(y[begin:end]))}
    order = sorted(kept)
    return x[order], y[order]
