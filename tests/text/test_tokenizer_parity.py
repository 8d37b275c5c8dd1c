"""What `save` writes gives the same ids and texts through transformers' `AutoTokenizer`."""

import json
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmstages.text.tokenizer import Tokenizer


def varied_strings() -> list[str]:
    """Cuttings of real text, runs of one character and random mixtures; no control token's name."""
    random_numbers = random.Random(0)
    texts = list(topics.values())
    strings = ["", *texts[:5], "".join(texts)]
    for _ in range(500):
        text = random_numbers.choice(texts)
        start = random_numbers.randrange(len(text))
        strings.append(text[start : start + random_numbers.randrange(1, 300)])
    for count in range(1, 60):
        strings += [character * count for character in " \n-=a\t"]
        strings.append("x" + " " * count + "y" + "\n" * count + "z")
    mixture = list(" \n\t\r\0\x1fab.(:-=#1290안녕한국어🙂é日本\u00a0\u3000\u200b<>|_")
    mixture += ["    ", "\n\n", "def ", "return", "<0x0A>", "  \n", "\u2585", "\ufffd"]
    for _ in range(800):
        length = random_numbers.randrange(40)
        strings.append("".join(random_numbers.choice(mixture) for _ in range(length)))
    return strings


def load_with_transformers(tokenizer: Tokenizer, directory: Path, **settings: Any) -> Any:
    """Save as in a checkpoint, where transformers also looks into the model's config."""
    tokenizer.save(directory, **settings)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return AutoTokenizer.from_pretrained(directory)


def test_ids_and_texts_are_equal(tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = load_with_transformers(tokenizer, tmp_path)
    strings = varied_strings()
    assert len(strings) > 1700
    ours = tokenizer.encode_batch(strings)
    assert other(strings)["input_ids"] == ours
    assert other(strings, add_special_tokens=False)["input_ids"] == ours
    assert [other.decode(ids) for ids in ours] == strings
    assert other.batch_decode([[*ids, tokenizer.end_id] for ids in ours[:50]]) == [
        text + "<|endoftext|>" for text in strings[:50]
    ]


def test_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    other = load_with_transformers(tokenizer, tmp_path, model_max_length=48)
    assert other.eos_token_id == tokenizer.end_id
    assert other.pad_token_id == tokenizer.pad_id
    assert other.model_max_length == 48
    assert len(other) == tokenizer.vocab_size
    assert other("<|im_start|>")["input_ids"] == [tokenizer.turn_start_id]
    assert other.decode([3, 4, 1, 0, 2], skip_special_tokens=True) == ""


def test_append_end(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = trained["bpe"]
    other = load_with_transformers(tokenizer, tmp_path, append_end=True)
    end = tokenizer.end_id
    first, second = tokenizer.encode("one text"), tokenizer.encode("another text")
    assert other("")["input_ids"] == [end]
    assert other("one text")["input_ids"] == [*first, end]
    assert other("one text", "another text")["input_ids"] == [*first, *second, end]
    assert other("one text", truncation=True, max_length=2)["input_ids"] == [first[0], end]
    assert other("one text", add_special_tokens=False)["input_ids"] == first
    padded = other(["", "one text"], padding=True)["input_ids"]
    assert padded == [[end] + [tokenizer.pad_id] * len(first), [*first, end]]


@pytest.mark.parametrize("without_model", [True, False])
def test_append_end_does_not_outlive_a_save(
    trained: dict[str, Tokenizer], tmp_path: Path, without_model: bool
) -> None:
    """A language model that starts from a classifier's checkpoint adds nothing again."""
    trained["bpe"].save(tmp_path / "classifier", append_end=True)
    if without_model:
        (tmp_path / "classifier" / "tokenizer.model").unlink()
    loaded = Tokenizer.load(tmp_path / "classifier")
    other = load_with_transformers(loaded, tmp_path / "lm")
    assert other("one text")["input_ids"] == loaded.encode("one text")
    assert tmp_path.joinpath("lm", "tokenizer.model").is_file() is not without_model
