"""The model behind `generate`, `chat` and `serve`, ready to speak."""

from dataclasses import dataclass

import torch

from llmstages.config.uses import AnswerConfig
from llmstages.errors import UserError
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling
from llmstages.train.checkpoint import Checkpoint, load_checkpoint
from llmstages.train.device import choose_device, choose_dtype, keep_freed_memory


@dataclass(frozen=True)
class Speaker:
    """A language model's checkpoint on its device, and how it is sampled."""

    checkpoint: Checkpoint
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype

    def decoder(self) -> Decoder:
        """The model as generation uses it."""
        return Decoder(self.checkpoint.model, self.dtype)

    @property
    def context_length(self) -> int:
        """Tokens that the model reads."""
        return self.checkpoint.model.config.context_length

    @property
    def is_tuned(self) -> bool:
        """Whether a prompt is a user's turn."""
        return self.checkpoint.is_tuned


def open_speaker(config: AnswerConfig, subcommand: str) -> Speaker:
    """Load the checkpoint that a config names. Raises `UserError` for a classifier."""
    if config.checkpoint_dir is None:
        raise UserError(f"{subcommand} needs a checkpoint: llmstages {subcommand} RUN")
    checkpoint = load_checkpoint(config.checkpoint_dir)
    if checkpoint.labels is not None:
        raise UserError(f"{config.checkpoint_dir}: a classifier; use llmstages predict")
    return speaker_of(checkpoint, config)


def speaker_of(checkpoint: Checkpoint, config: AnswerConfig) -> Speaker:
    """A language model on the device that a config names."""
    device = choose_device(config.device)
    keep_freed_memory(device)
    dtype = torch.float32
    if config.dtype != "auto" or device.type == "cuda":
        dtype = choose_dtype(config.dtype, device)
    checkpoint.model.to(device).eval()
    return Speaker(
        checkpoint, Sampling(config.temperature, config.top_k, config.top_p), device, dtype
    )
