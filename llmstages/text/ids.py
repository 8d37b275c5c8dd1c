"""Arrays of ids, as small as the vocabulary lets them be."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.unsignedinteger[Any]]


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Little-endian uint16 when every id fits in, or else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
