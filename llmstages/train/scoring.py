"""What a classifier makes of whole texts: one way for `predict` and for figures on held-out rows.

Promise: in float32 a text's figures are the same to 1e-5 alone, padded, and in any batch or order;
in bfloat16 its label is, unless the two likeliest are within 0.01 of each other.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmstages.data.batch import Batch
from llmstages.data.examples import LENGTH_STEP, Example, by_length
from llmstages.model.transformer import Transformer
from llmstages.train import parallel
from llmstages.train.losses import label_probabilities

MOST_TOKENS_AT_ONCE = 65_536
"""Padded tokens of all batches that are computed side by side, which bounds memory."""


def per_text(
    model: Transformer,
    texts: Sequence[Sequence[Example]],
    compute: Callable[[Transformer, Batch], Tensor] = label_probabilities,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    micro_batch_tokens: int,
    batch_size: int | None = None,
) -> NDArray[np.float64]:
    """[n, size]: what `compute` gives for a text, as the mean over its windows, in their order.

    The mean of probabilities, and not of their logarithms, is what is least sensitive to a window
    that is wrong and sure of it (Kittler et al. 1998, "On Combining Classifiers").

    texts: the windows of each (`labelled_windows`), at least one. compute: a row a window, [B,
    size]. micro_batch_tokens, batch_size: most padded tokens and most windows of a batch.
    """
    windows = [window for text in texts for window in text]
    order = sorted(range(len(windows)), key=lambda i: len(windows[i].tokens), reverse=True)
    # New shapes cost a float32 product on a CPU nothing, and padding a quarter of the time.
    exact = device.type == "cpu" and dtype == torch.float32
    batches = by_length(
        [windows[index] for index in order],
        micro_batch_tokens,
        model.config.context_length,
        length_step=1 if exact else LENGTH_STEP,
        batch_size=batch_size,
    )
    was_training = model.training
    model.eval()

    def of_batch(batch: Batch) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return spread(compute, model, batch, device)

    parts = side_by_side(of_batch, list(batches), device)
    model.train(was_training)
    rows = parallel.add_up(torch.cat(parts)).numpy()
    in_order = np.empty_like(rows)
    in_order[order] = rows
    counts = np.array([len(text) for text in texts])
    sums: NDArray[np.float64] = np.add.reduceat(in_order, counts.cumsum() - counts)
    means: NDArray[np.float64] = sums / counts[:, None]
    return means


def side_by_side(
    compute: Callable[[Batch], Tensor], batches: Sequence[Batch], device: torch.device
) -> list[Tensor]:
    """What `compute` gives for each batch, in their order.

    On a CPU several batches at a time, each on one core: products of short texts are too small to
    be shared well (on two cores a quarter more texts a second). What they give is the same.
    """
    num_threads = torch.get_num_threads()
    largest = max(batch.tokens.numel() for batch in batches)
    at_once = min(num_threads, len(batches), max(1, MOST_TOKENS_AT_ONCE // largest))
    if at_once == 1 or device.type != "cpu" or parallel.size() > 1:
        return [compute(batch) for batch in batches]
    each = num_threads // at_once
    try:
        with ThreadPoolExecutor(
            at_once, initializer=torch.set_num_threads, initargs=(each,)
        ) as pool:
            return list(pool.map(compute, batches))
    finally:
        torch.set_num_threads(num_threads)  # MKL has one number for all threads


def spread(
    compute: Callable[[Transformer, Batch], Tensor],
    model: Transformer,
    batch: Batch,
    device: torch.device,
) -> Tensor:
    """[B, size] float64 on the CPU: what `compute` gives for this process's rows of a batch, and
    zeros for those of the others."""
    own = compute(model, parallel.own_rows(batch).to(device)).double().cpu()
    rows = own.new_zeros(len(batch.tokens), own.shape[1])
    rows[parallel.rank() :: parallel.size()] = own
    return rows
