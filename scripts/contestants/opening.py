"""Which contestant is meant by a name on the command line."""

from collections.abc import Callable
from pathlib import Path

from contestants.contestant import Order, Peer
from llmstages.errors import UserError

TRANSFORMERS = "transformers"


def peer_name(where: str) -> str:
    """Whose checkout a folder is, by its files; `transformers` is the installed package.

    Raises `UserError` for a folder that is none of those known.
    """
    if where == TRANSFORMERS:
        return TRANSFORMERS
    directory = Path(where)
    if (directory / "nanochat" / "gpt.py").is_file():
        return "nanochat"
    if (directory / "litgpt" / "model.py").is_file():
        return "litgpt"
    if (directory / "model.py").is_file() and (directory / "train.py").is_file():
        return "nanoGPT"
    raise UserError(
        f"--peer {where}: no checkout of nanoGPT, nanochat or litgpt, and not the word "
        f"{TRANSFORMERS}: clone one of them there"
    )


def open_peer(where: str, order: Order) -> Peer:
    """The peer, built as the order says. What its imports raise is raised."""
    directory = Path(where).resolve()

    def nanogpt() -> Peer:
        from contestants.nanogpt import NanoGPT

        return NanoGPT(order, directory)

    def nanochat() -> Peer:
        from contestants.nanochat import Nanochat

        return Nanochat(order, directory)

    def litgpt() -> Peer:
        from contestants.litgpt import LitGPT

        return LitGPT(order, directory)

    def transformers() -> Peer:
        from contestants.qwen3_trainer import Qwen3Trainer

        return Qwen3Trainer(order)

    openers: dict[str, Callable[[], Peer]] = {
        "nanoGPT": nanogpt,
        "nanochat": nanochat,
        "litgpt": litgpt,
        TRANSFORMERS: transformers,
    }
    return openers[peer_name(where)]()
