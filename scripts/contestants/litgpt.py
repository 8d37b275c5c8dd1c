"""litgpt: `GPT` of its `litgpt/model.py` in the Llama layout, AdamW, as its `pretrain.py` steps.

The package's `__init__` imports lightning and more, which the model does not need: the module alone
is loaded, so that lightning need not be installed. Mixed precision, AdamW (fused on a GPU),
clipping at 1, rates and cosine are those of its configurations for pretraining.
"""

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from contestants.checkout import bare_package, load_function
from contestants.contestant import Order, Peer, warmup_then_cosine, with_peak_rates


class LitGPT(Peer):
    """litgpt with RMSNorm and SwiGLU at exactly the shape asked for."""

    name = "litgpt"

    def __init__(self, order: Order, directory: Path) -> None:
        bare_package(directory / "litgpt")
        bare_package(directory / "litgpt" / "scripts")
        # Only converting checkpoints needs this one, and it needs lightning.
        conversion = ModuleType("litgpt.scripts.convert_hf_checkpoint")
        conversion.qkv_reassemble = None  # type: ignore[attr-defined]
        sys.modules[conversion.__name__] = conversion
        from litgpt.config import Config  # type: ignore[import-not-found]
        from litgpt.model import GPT  # type: ignore[import-not-found]

        self.config_class, self.model_class = Config, GPT
        names: dict[str, Any] = {"torch": torch}
        utilities = directory / "litgpt" / "utils.py"
        self.loss_function = load_function(utilities, "chunked_cross_entropy", names)
        self.how = "AdamW, autocast bf16, clip 1, Llama layout; model loaded without lightning"
        super().__init__(order)

    def build(self) -> nn.Module:
        shape = self.order.shape
        config = self.config_class(
            block_size=self.order.data.context_length,
            vocab_size=shape.vocab_size,
            padded_vocab_size=shape.vocab_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_query_groups=shape.num_kv_heads,
            head_size=shape.head_dim,
            n_embd=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            norm_qk=True,
        )
        model: nn.Module = self.model_class(config)
        std = math.sqrt(2 / (5 * shape.hidden_size))
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(parameter, std=1 / math.sqrt(shape.hidden_size) / shape.num_layers)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
        if shape.tie_embeddings:
            model.transformer.wte.weight = model.lm_head.weight  # type: ignore[union-attr]
        return model

    def lookups(self) -> list[nn.Parameter]:
        embedding = self.module.transformer.wte.weight  # type: ignore[union-attr]
        return [] if self.order.shape.tie_embeddings else [embedding]  # type: ignore[list-item]

    def mean_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.loss_function(self.model(tokens), targets)
        return loss

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=6e-4,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            fused=self.order.device.type == "cuda",
        )
        return [with_peak_rates(optimizer, self.order.lr_factor)]

    def lr_share(self, step: int, steps: int) -> float:
        return warmup_then_cosine(step, steps, round(0.02 * steps), 0.1)
