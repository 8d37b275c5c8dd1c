"""A model of llama2.c as a Hugging Face directory: python scripts/import_llama2c.py MODEL.bin
TOKENIZER.bin DIRECTORY.

Reads the format of its `run.c` (version 0: seven numbers, then float32 weights) and its tokenizers.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, processors
from torch import Tensor

from llmstages.model.counts import num_parameters
from llmstages.model.layouts import config_to_disk, make_config, to_disk
from llmstages.model.transformer import Transformer
from llmstages.train.checkpoint import write_tensors

SPACE = "\u2581"
NAMES = ("<unk>", "<s>", "</s>")
"""Of the first three tokens. Stories begin with the second, and nothing ends them but the next."""
BEGIN_ID = 1


def read_model(path: Path) -> Transformer:
    """The model in a file."""
    content = path.read_bytes()
    width, inner, layers, heads, kv_heads, vocab_size, context = struct.unpack_from("<7i", content)
    head_dim = width // heads
    config = make_config(
        "llama",
        vocab_size=abs(vocab_size),
        num_layers=layers,
        hidden_size=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        context_length=context,
        norm_eps=1e-5,
        tie_embeddings=vocab_size > 0,
    )
    model = Transformer(config)
    numbers = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy())
    place = 0

    def take(name: str) -> None:
        """The next of a kind of weights, of all blocks where it is theirs."""
        nonlocal place
        for layer in range(layers if name.startswith("blocks.") else 1):
            parameter = model.get_parameter(name.format(layer))
            taken = numbers[place : place + parameter.numel()].view(parameter.shape)
            place += parameter.numel()
            if name.endswith(("query.weight", "key.weight")):
                taken = in_halves(taken, head_dim)
            parameter.data.copy_(taken)

    take("embedding.weight")
    take("blocks.{}.attention_norm.weight")
    for name in ("query", "key", "value", "output"):
        take(f"blocks.{{}}.attention.{name}.weight")
    take("blocks.{}.feed_forward_norm.weight")
    for name in ("gate", "down", "up"):
        take(f"blocks.{{}}.feed_forward.{name}.weight")
    take("norm.weight")
    place += context * head_dim  # cosines and sines
    if not config.tie_embeddings:
        take("head.weight")
    if place != len(numbers):
        raise ValueError(f"{path}: {len(numbers):,} weights, its shape has {place:,}")
    return model


def in_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a matrix that rotates neighbours, for one that rotates the halves of a head."""
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a file: pieces of SentencePiece with their scores, merges by the score."""
    content, place = path.read_bytes(), 4
    pieces: list[str] = []
    scores: list[float] = []
    while place < len(content):
        score, length = struct.unpack_from("<fi", content, place)
        place += 8 + length
        pieces.append(content[place - length : place].decode().replace(" ", SPACE))
        scores.append(score)
    pieces[: len(NAMES)] = NAMES
    ids = {piece: index for index, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(ids, key=lambda piece: -scores[ids[piece]])
        if ids[piece] >= len(NAMES)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    model = models.BPE(ids, merges, unk_token=NAMES[0], fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    begin = NAMES[BEGIN_ID]
    made.post_processor = processors.TemplateProcessing(
        f"{begin} $A", f"{begin} $A $B", [(begin, BEGIN_ID)]
    )
    made.add_special_tokens(list(NAMES))
    return made


def main(model_path: str, tokenizer_path: str, directory: str) -> None:
    """Write the directory."""
    model, tokenizer = read_model(Path(model_path)), read_tokenizer(Path(tokenizer_path))
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": NAMES[1], "eos_token": NAMES[1], "unk_token": NAMES[0]}
    config = config_to_disk(model.config, end_id=BEGIN_ID, pad_id=0, labels=None, begin_id=BEGIN_ID)
    for name, entries in (
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}),
        ("config.json", config),
        ("generation_config.json", {"bos_token_id": BEGIN_ID, "eos_token_id": BEGIN_ID}),
    ):
        (folder / name).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    weights = to_disk({name: p.detach() for name, p in model.named_parameters()}, model.config)
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    size = num_parameters(model.config)
    print(f"{folder}: {size:,} parameters, vocabulary of {model.config.vocab_size:,} tokens")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
