"""Which weights of the base a method of fine-tuning trains."""

import torch

from llmstages.config.groups import BLOCK_MATRICES, MethodConfig
from llmstages.config.stages import FinetuneConfig
from llmstages.errors import UserError
from llmstages.model.counts import embedding_parameters, num_parameters
from llmstages.model.layouts import rows_together
from llmstages.model.lora import EMBEDDING, EMBEDDING_SHARE, Lora, add_lora, is_adapter
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.terminal import say
from llmstages.stages.shared.setup import Machine
from llmstages.train import parallel


def lora_targets(method: MethodConfig, config: TransformerConfig) -> tuple[str, ...]:
    """The matrices that get an adapter."""
    if method.targets is not None:
        return tuple(method.targets)
    has_embedding = embedding_parameters(config) >= EMBEDDING_SHARE * num_parameters(config)
    return (*BLOCK_MATRICES, *([EMBEDDING] if has_embedding and not method.decomposed else []))


def choose_weights(model: Transformer, config: FinetuneConfig, machine: Machine) -> None:
    """Leave as they are all weights that `method` does not train, or put adapters beside them."""
    method = config.method
    if method.name == "lora":
        if method.rank > model.config.hidden_size:
            raise UserError(
                f"method.rank={method.rank}: the base's matrices have a side of "
                f"{model.config.hidden_size}, and no more ranks than that: method=full trains them "
                "whole"
            )
        fused = len(rows_together("blocks.0.attention.query", model.config.layout)) > 1
        if fused and method.decomposed:
            raise UserError(
                f"method.decomposed=true: a {model.config.layout} model has several matrices in "
                "one on disk, for which there is no decomposed adapter: leave it out"
            )
        lora = Lora(
            rank=method.rank,
            alpha=method.alpha,
            targets=lora_targets(method, model.config),
            rank_stabilised=method.rank_stabilised,
            decomposed=method.decomposed,
            quantised=method.quantised,
        )
        # Where memory is short, and unless FSDP wants one type in a block.
        sharded = config.parallel == "fsdp" and parallel.size() > 1
        rounded = method.quantised or (machine.device.type == "cuda" and not sharded)
        dtype = machine.dtype if rounded else torch.float32
        add_lora(model, lora, config.seed, dtype, machine.device)
        if not any(is_adapter(name) for name, _ in model.named_parameters()):
            raise UserError(
                f"method.targets={method.targets}: a {model.config.layout} model has no such "
                "matrix: name others"
            )
    elif method.name != "full":
        model.requires_grad_(False)
        trained: list[torch.nn.Module] = [] if model.head is None else [model.head]
        if method.name == "last":
            if method.last_blocks > model.config.num_layers:
                raise UserError(
                    f"method.last_blocks={method.last_blocks}: the base has "
                    f"{model.config.num_layers} blocks: method=full trains them all"
                )
            trained += [*model.blocks[-method.last_blocks :], model.norm]
        for module in trained:
            module.requires_grad_(True)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = num_parameters(model.config)
    if method.name != "full":
        beside = ", beside matrices in 4 bits" if method.quantised else ""
        say(
            f"method={method.name}: {count:,} weights are trained, {count / total:.1%} of "
            f"{total:,}{beside}"
        )
