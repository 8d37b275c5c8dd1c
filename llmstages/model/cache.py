"""Keys and values of the positions already seen, so that generation computes each position once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from llmstages.model.transformer import TransformerConfig


class KVCache:
    """Preallocated keys and values of a batch of texts that end at the same slot.

    A shorter text begins at a later slot. Slots before its beginning are never attended to, and
    positions count from it, so a row's result does not depend on the others.
    """

    def __init__(
        self,
        config: TransformerConfig,
        lengths: list[int],
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Room for texts of these lengths, up to the slot `capacity`; nothing is stored yet."""
        shape = (len(lengths), config.num_kv_heads, capacity, config.head_dim)
        self.layers = [
            (
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in range(config.num_layers)
        ]
        self.length = max(lengths)
        self.begins = torch.tensor([self.length - length for length in lengths], device=device)
        self._look_at_rows()

    def _look_at_rows(self) -> None:
        """The mask of all rows: nothing to add to the scores of a row's slots, else -inf."""
        self.mask: Tensor | None = None
        if bool(self.begins.any()):
            keys, _ = self.layers[0]
            slots = torch.arange(keys.shape[2], device=keys.device)
            hidden = slots[None, :] < self.begins[:, None]
            mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=keys.device)
            self.mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None, :]

    @property
    def capacity(self) -> int:
        """Slots that there are."""
        return self.layers[0][0].shape[2]

    @property
    def lengths(self) -> Tensor:
        """[B] tokens of each text."""
        return self.length - self.begins

    def reserve(self, capacity: int) -> None:
        """Make room up to the slot `capacity`, and some more, so that this is seldom needed."""
        have = self.capacity
        if capacity > have:
            more = (0, 0, 0, max(capacity, 2 * have) - have)
            self.layers = [(F.pad(keys, more), F.pad(values, more)) for keys, values in self.layers]
            self._look_at_rows()

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, kv_heads, 1, head_dim] of a layer in the slot before `length`.

        Returns all keys and values so far.
        """
        keys, values = self.layers[layer]
        keys[:, :, self.length - 1 : self.length] = key
        values[:, :, self.length - 1 : self.length] = value
        return keys[:, :, : self.length], values[:, :, : self.length]

    def take_rows(self, rows: Tensor) -> None:
        """Keep these rows (indices), in this order; one that is named twice is copied."""
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        self.begins = self.begins[rows]
        self._look_at_rows()
