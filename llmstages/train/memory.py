"""What a training step needs of a device's memory, and the largest micro-batch that fits.

The estimate is by part, from the shape alone; it is what decides what is tried. On the device the
answer is then made sure of by a forward and a backward pass, since an allocator, a kernel's work
space and fragments are in no formula.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmstages.data.batch import Batch
from llmstages.errors import UserError
from llmstages.model.counts import num_parameters
from llmstages.model.four_bits import BYTES_PER_NUMBER
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.train.cross_entropy import CHUNK_ELEMENTS, rows_of_chunk
from llmstages.train.losses import LossFn
from llmstages.train.muon import MAX_BATCH_ELEMENTS

USABLE_SHARE = 0.92
"""Share of the free memory that is planned with; the rest is for work space and fragments."""
STEP_COPIES = 5
"""Float32 copies of the matrices treated at once that a step of Muon holds."""
MAX_MICRO_BATCH_TOKENS = 65_536
"""Most tokens tried at once; an estimate: matrices are large enough then to fill a device."""


@dataclass(frozen=True)
class MemoryNeeded:
    """Bytes of a training step by part, at the moment when most is held."""

    weights: int
    """Float32 weights, and their copies in the type of the matrix products; of matrices in 4 bits
    the largest is such a copy, for the time of its product."""
    gradients: int
    """Float32."""
    optimizer: int
    """Momentum of Muon, both moments of AdamW; float32."""
    activations: int
    """What the blocks keep for the backward pass."""
    logits: int
    """One chunk of logits with its gradient, and the gradient of the head that is gathered."""

    step: int
    """What a step of the optimizer takes for a while, when activations and logits are gone."""

    @property
    def total(self) -> int:
        """The most that is held at once."""
        kept = self.weights + self.gradients + self.optimizer
        return kept + max(self.activations + self.logits, self.step)


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model at once, and whether blocks are computed again."""

    rows: int
    checkpoint_blocks: bool


def matrix_parameters(config: TransformerConfig) -> int:
    """Parameters that Muon treats: the matrices inside the blocks."""
    attention = 2 * config.head_dim * (config.num_heads + config.num_kv_heads)
    feed_forward = (3 if config.is_gated else 2) * config.intermediate_size
    return config.num_layers * config.hidden_size * (attention + feed_forward)


def block_bytes_per_token(config: TransformerConfig, dtype: torch.dtype) -> int:
    """Bytes that one block keeps for the backward pass, for each token, in eager mode.

    In the order of the forward pass; the residual stream and the norms are float32, `size` is that
    of a number in the type of the matrix products, in which norms give their results. Attention
    keeps no scores, as on a GPU, but the sum of each row.
    """
    size = dtype.itemsize
    h, f = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    before = 4 * h + 4 * h if config.norms_before else 0  # what each of the two norms reads
    after = 2 * size * h if config.norms_after else 0  # the same of those behind
    normed = 2 * size * h  # what q, k, v and gate, up read
    heads = size * (q + kv) if config.query_key_norm else 0  # what norms of queries and keys read
    attended = size * (q + 2 * kv + q) + 4 * config.num_heads  # q, k, v, result; row sums
    projected = size * q  # what the output matrix reads
    scales = 4 * (2 + config.num_heads + config.num_kv_heads)  # of each norm, a number a row
    # gate, silu(gate), up and their product; or max(up, 0) and its square
    inner = size * f * (4 if config.is_gated else 2)
    return before + after + normed + heads + attended + projected + scales + inner


def memory_needed(
    config: TransformerConfig,
    *,
    rows: int,
    length: int,
    dtype: torch.dtype,
    checkpoint_blocks: bool,
    optimizer: str = "muon",
    device: str = "cuda",
    adapters: int = 0,
    adapted_head: bool = False,
    quantised: bool = False,
) -> MemoryNeeded:
    """Bytes for micro-batches of `rows` sequences of `length` tokens.

    dtype: of the matrix products. optimizer: `muon` or `adamw`. adapters: their number of weights,
    where they alone are trained beside all matrices of the blocks, which are kept in `dtype` then,
    or in 4 bits when quantised. adapted_head: the output matrix has one of them.
    """
    parameters = num_parameters(config)
    matrices = matrix_parameters(config)
    tokens = rows * length
    outputs = config.vocab_size if config.num_labels is None else config.num_labels
    head = outputs * config.hidden_size
    copies = 0 if dtype == torch.float32 else dtype.itemsize
    trained = adapters or parameters
    under_muon = (adapters or matrices) if optimizer == "muon" else 0
    if adapters:
        held = dtype.itemsize * matrices
        if quantised:
            widest = max(config.intermediate_size, config.num_heads * config.head_dim)
            taken_out = dtype.itemsize * config.hidden_size * widest
            held = round(BYTES_PER_NUMBER * matrices) + taken_out
        weights = 4 * (parameters - matrices + adapters) + held + copies * head
    else:
        weights = 4 * parameters + copies * (matrices + head)
    block = tokens * block_bytes_per_token(config, dtype)
    stream = 4 * tokens * config.hidden_size
    if checkpoint_blocks:  # what enters each block, and the inside of one
        activations = config.num_layers * stream + block
    else:
        activations = config.num_layers * block
    limit = CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"])
    chunk_rows = rows_of_chunk(tokens, outputs, limit)
    # Logits in the type of the products and in float32, exponentials, gradient, its copy.
    chunk = chunk_rows * outputs * (2 * copies + 3 * 4)
    # Of the head, where it is trained: summed up, and times the scalar.
    is_trained = adapted_head or not adapters
    gathered = 2 * 4 * head if chunk_rows < tokens and is_trained else 0
    if adapted_head:  # the sum of matrix and adapter, and its gradient
        gathered = 4 * head + (gathered or 4 * head)
    return MemoryNeeded(
        weights=weights,
        gradients=4 * trained,
        optimizer=4 * under_muon + 8 * (trained - under_muon),
        activations=activations + 2 * stream,  # what the last norm reads and gives
        logits=chunk + gathered,
        step=STEP_COPIES * 4 * min(under_muon, MAX_BATCH_ELEMENTS),
    )


def sharded(
    needed: MemoryNeeded, config: TransformerConfig, dtype: torch.dtype, processes: int
) -> MemoryNeeded:
    """The same in each of several processes among which the model is sharded (`parallel=fsdp`).

    Each holds its part of weights, gradients and optimizer state, and for a while the whole weights
    of the block that computes and of the next, or the output matrix, and their gradients, in the
    type of the products. What a step of Muon gathers is whole in each.
    """
    block = matrix_parameters(config) // config.num_layers
    head = config.vocab_size * config.hidden_size
    gathered = dtype.itemsize * 2 * max(block, head)
    own = -(-4 * num_parameters(config) // processes)
    return replace(
        needed,
        weights=own + gathered,
        gradients=-(-needed.gradients // processes) + gathered // 2,
        optimizer=-(-needed.optimizer // processes),
    )


def fit_micro_batch(
    fits: Callable[[MicroBatch], bool], most_rows: int, setting: str = "auto"
) -> MicroBatch:
    """The largest power of two of rows, at most `most_rows`, that fits.

    fits: whether a micro-batch has room. setting: `on` computes blocks again, `off` never, `auto`
    where not even one row fits otherwise. Raises `UserError` when nothing fits.
    """
    for checkpoint_blocks in {"auto": (False, True), "on": (True,), "off": (False,)}[setting]:
        rows = 1 << (max(1, most_rows).bit_length() - 1)
        while rows >= 1:
            if fits(micro_batch := MicroBatch(rows, checkpoint_blocks)):
                return micro_batch
            rows //= 2
    raise UserError(
        "not even one row fits the device's memory: a smaller model=, a shorter "
        "model.context_length" + (", or activation_checkpointing=auto" if setting == "off" else "")
    )


def fits_device(
    model: Transformer,
    loss: LossFn,
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    optimizer: str,
) -> Callable[[MicroBatch], bool]:
    """Whether a micro-batch has room on a cuda device: by the estimate, then by trying it.

    The model is on the device already. While it is tried, memory of the optimizer's size is held.
    """
    free, _ = torch.cuda.mem_get_info(device)
    room = USABLE_SHARE * (free + torch.cuda.memory_reserved(device))

    def fits(micro_batch: MicroBatch) -> bool:
        needed = memory_needed(
            model.config,
            rows=micro_batch.rows,
            length=length,
            dtype=dtype,
            checkpoint_blocks=micro_batch.checkpoint_blocks,
            optimizer=optimizer,
        )
        if needed.total > room:
            return False
        return runs_through(model, loss, device, dtype, length, micro_batch, needed.optimizer)

    return fits


def runs_through(
    model: Transformer,
    loss: LossFn,
    device: torch.device,
    dtype: torch.dtype,
    length: int,
    micro_batch: MicroBatch,
    held_bytes: int,
) -> bool:
    """Whether forward and backward have room beside `held_bytes`; the model is left as it was."""
    before = (model.training, model.checkpoint_blocks)
    model.train()
    model.checkpoint_blocks = micro_batch.checkpoint_blocks
    held: Tensor | None = None
    try:
        held = torch.empty(held_bytes, dtype=torch.uint8, device=device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            total, _ = loss(model, blank_batch(micro_batch.rows, length).to(device))
        total.backward()  # type: ignore[no-untyped-call]
        _ = total.item()
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        del held
        model.zero_grad(set_to_none=True)
        model.train(before[0])
        model.checkpoint_blocks = before[1]
        if device.type == "cuda":
            torch.cuda.empty_cache()


def blank_batch(rows: int, length: int) -> Batch:
    """A batch in which every position has a target, all ids 0."""
    ids = torch.zeros(rows, length, dtype=torch.int64)
    weights = torch.ones(rows, length)
    return Batch(ids, ids, None, None, weights, ("",) * rows, rows * length)


def checkpoint_blocks_here(
    setting: str,
    config: TransformerConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tokens: int,
    optimizer: str,
    adapters: int = 0,
    adapted_head: bool = False,
    quantised: bool = False,
) -> bool:
    """Whether blocks are computed again: as set, or (`auto`) where the estimate exceeds the device.

    tokens: of a micro-batch that is fixed already. The last three are those of `memory_needed`.
    """
    if setting != "auto" or device.type != "cuda":
        return setting == "on"
    length = min(tokens, config.context_length)
    needed = memory_needed(
        config,
        rows=-(-tokens // length),
        length=length,
        dtype=dtype,
        checkpoint_blocks=False,
        optimizer=optimizer,
        adapters=adapters,
        adapted_head=adapted_head,
        quantised=quantised,
    )
    return needed.total > USABLE_SHARE * torch.cuda.mem_get_info(device)[1]
