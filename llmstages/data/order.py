"""Random orders as pure functions of a seed: any step can be found again without history."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def generator_for(*parts: object) -> np.random.Generator:
    """A generator that depends on its arguments alone, not on the process."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def permutation(length: int, *parts: object) -> NDArray[np.int64]:
    """A permutation of 0..length-1 that depends on its arguments alone."""
    return generator_for(*parts).permutation(length)
