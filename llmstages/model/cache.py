"""Keys and values of the positions already seen, so that generation computes each position once."""

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values for a batch of left-padded prompts.

    padding: [B], number of padding positions before each prompt. They are never attended to, and
    positions count from the first real token, so a row's result does not depend on its padding.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        padding: Tensor,
        dtype: torch.dtype,
    ) -> None:
        batch = padding.shape[0]
        shape = (num_layers, batch, num_kv_heads, capacity, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=padding.device)
        self.values = torch.zeros(shape, dtype=dtype, device=padding.device)
        self.padding = padding
        self.padded = bool(padding.any())
        self.length = 0

    def positions_and_mask(self, new: int) -> tuple[Tensor, Tensor | None]:
        """Positions [B, new] of the next tokens, and the mask [B, 1, new, length + new]."""
        device = self.padding.device
        slots = torch.arange(self.length, self.length + new, device=device)
        positions = (slots[None, :] - self.padding[:, None]).clamp(min=0)
        if not self.padded and (new == 1 or self.length == 0):
            return positions, None  # every key is visible, or plainly causal
        keys = torch.arange(self.length + new, device=device)
        visible = (keys[None, :] >= self.padding[:, None])[:, None, None, :]
        causal = keys[None, :] <= slots[:, None]
        # A padding query sees itself, or its softmax would be over nothing and give NaN.
        own = keys[None, :] == slots[:, None]
        return positions, (visible & causal) | own

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, kv_heads, new, head_dim] of a layer; returns all keys and values so far."""
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, new: int) -> None:
        """Count the positions that every layer has stored."""
        self.length += new

    def keep_rows(self, rows: Tensor) -> None:
        """Drop the rows of finished answers; rows: indices to keep."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]
        self.padding = self.padding[rows]
        self.padded = bool(self.padding.any())
