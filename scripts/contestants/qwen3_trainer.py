"""transformers: `Qwen3ForCausalLM`, stepped as its Trainer does with `bf16=True`.

The Trainer itself needs accelerate and brings callbacks and a data loader of its own. What it does
in a step is written out here: loss from the labels under autocast, backward, clipping at 1, fused
AdamW, the scheduler. Its default rate is for fine-tuning; the rate here is that of the others, with
warmup and cosine.
"""

import torch
from torch import Tensor, nn

from contestants.contestant import Order, Peer, warmup_then_cosine, with_peak_rates


class Qwen3Trainer(Peer):
    """The same layout and shape as llmstages, in transformers' own implementation."""

    name = "transformers"

    def __init__(self, order: Order) -> None:
        self.how = "Qwen3ForCausalLM, the Trainer's step written out: AdamW fused, autocast, clip 1"
        super().__init__(order)

    def build(self) -> nn.Module:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        shape = self.order.shape
        config = Qwen3Config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=self.order.data.context_length,
            tie_word_embeddings=shape.tie_embeddings,
            use_cache=False,
        )
        config._attn_implementation = "sdpa"
        model: nn.Module = Qwen3ForCausalLM(config)
        return model

    def lookups(self) -> list[nn.Parameter]:
        embedding = self.module.get_input_embeddings().weight  # type: ignore[operator]
        return [] if self.order.shape.tie_embeddings else [embedding]

    def mean_loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        # Its labels are shifted inside; these are shifted already, and told so.
        loss: Tensor = self.model(input_ids=tokens, labels=targets, shift_labels=targets).loss
        return loss

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=6e-4, weight_decay=0.0, fused=True
        )
        return [with_peak_rates(optimizer, self.order.lr_factor)]

    def lr_share(self, step: int, steps: int) -> float:
        return warmup_then_cosine(step, steps, round(0.02 * steps), 0.0)
