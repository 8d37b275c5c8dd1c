"""Tokenizers trained here: lossless, no control ids from text, the same after save and load."""

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.errors import UserError
from llmstages.text.sentencepiece_training import spread_sample
from llmstages.text.tokenizer import Tokenizer, train_tokenizer
from llmstages.text.unicode import well_formed

CONTROLS = ["<|pad|>", "<|endoftext|>", "<|unk|>", "<|im_start|>", "<|im_end|>"]

AWKWARD = [
    *[" ", "   ", "\n", "\n\n\n", "\t", "\r\n", "\0", "\x1f", "\x7f", "\u2581", "\u2585"],
    *["안녕", "한", "🙂", "👩\u200d👩\u200d👧", "e\u0301", "\ufeff", "\ufffd", "\u3000", "<0x0A>"],
    *["\ud800", "\udfff", "\ud83d\ude42", *CONTROLS],
]
# Any characters, with more of the ones that tokenizers tend to lose than chance would give.
STRINGS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(AWKWARD),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=STRINGS)
@example(text="")
@example(text="\u2581")
@example(text="a\u2581\u2581 b\n\u2581\n" * 900)
def test_every_string_survives(trained: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in trained.values():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == well_formed(text)
        assert min(ids, default=5) >= 5
        assert max(ids, default=5) < tokenizer.vocab_size


def test_surrogates() -> None:
    assert well_formed("a\ud800b") == "a\ufffdb"
    assert well_formed("\ud83d\ude42") == "🙂"
    assert well_formed("\ufeffa 한") == "\ufeffa 한"


def test_control_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.pad_id, tokenizer.end_id] == [0, 1]
    assert [tokenizer.turn_start_id, tokenizer.turn_end_id] == [3, 4]
    assert [tokenizer.token_text(id) for id in range(5)] == CONTROLS
    hello = tokenizer.encode("hello")
    assert tokenizer.decode([3, *hello, 4, 1, 0, 2]) == "hello"


def test_batch_gives_the_ids_of_single_texts(tokenizer: Tokenizer) -> None:
    texts = [*list(topics.values())[:40], "", "\u2581", "x\u2581y"]
    batch = tokenizer.encode_batch(texts)
    assert batch == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts[-3:]) == batch[-3:]
    assert tokenizer.encode_batch([]) == []


def test_token_text(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["bpe"]
    the = tokenizer.encode("in the")[-1]
    assert tokenizer.token_text(the) == " the"
    assert tokenizer.token_text(tokenizer.encode("\0")[0]) == "<0x00>"
    assert tokenizer.decode([the]) == " the"


def test_broken_utf8_becomes_replacement_characters(tokenizer: Tokenizer) -> None:
    first, second, third = tokenizer.encode("\u2581")
    assert tokenizer.decode([first, second]) == "\ufffd"
    assert tokenizer.decode([first, second, third]) == "\u2581"


def test_code_and_prose_are_short(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["bpe"]
    assert len(tokenizer.encode(" " * 16)) == 1
    assert len(tokenizer.encode("\n\n")) == 1
    assert len(tokenizer.encode(":\n")) == 1
    assert len(tokenizer.encode("def f(x):\n        return x\n")) <= 13
    text = "".join(topics.values())
    assert len(text.encode()) / len(tokenizer.encode(text)) > 2.75


def test_no_piece_goes_on_after_a_newline(tokenizer: Tokenizer) -> None:
    """So that a chat header has the same ids whatever follows it."""
    pieces = [tokenizer.token_text(id) for id in range(tokenizer.vocab_size)]
    assert not [piece for piece in pieces if "\n" in piece.rstrip("\n")]


@pytest.mark.parametrize(("split", "most"), [(True, 1), (False, 4)])
def test_split_digits(split: bool, most: int) -> None:
    config = TokenizerConfig(vocab_size=300, split_digits=split)
    tokenizer = train_tokenizer(["In 2024 and 2024 and 2024 and 2024 again."] * 20, config)
    pieces = [tokenizer.token_text(id) for id in range(261, tokenizer.vocab_size)]
    assert max(len(piece.strip()) for piece in pieces if piece.strip().isdigit()) == most


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic(kind: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        train_tokenizer(
            topics.values(), TokenizerConfig(kind=kind, vocab_size=600, sample_bytes=100_000)
        ).save(tmp_path / name)
    for file in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_sample_is_spread_over_all_text() -> None:
    texts = (f"{number:04d} " + "x" * 94 + "\n" for number in range(2000))
    sample = spread_sample(texts, 20_000)
    numbers = [int(chunk[:4]) for chunk in sample]
    assert numbers == list(range(0, 2000, 16))
    assert sum(len(chunk) for chunk in sample) <= 20_000
    assert "".join(spread_sample(["ab\n\n" * 3000, "한" * 4000], 10**6)) == (
        "ab\n\n" * 3000 + "한" * 4000
    )


def test_small_text_gives_a_small_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(["hello world"], TokenizerConfig(vocab_size=4096))
    assert 261 < tokenizer.vocab_size < 300
    assert "tokenizer.vocab_size=4096 is made smaller" in capsys.readouterr().err
    assert tokenizer.decode(tokenizer.encode("한 zebra")) == "한 zebra"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_more_characters_than_vocabulary(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(chr(0xAC00 + index) for index in range(1000)) + "가나 다라 " * 100
    tokenizer = train_tokenizer([text], TokenizerConfig(kind=kind, vocab_size=300))
    assert tokenizer.vocab_size <= 300
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("가")) == 1
    assert kind == "char" or "has no room" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("texts", [[], [""], ["  \n", "\t\0"]])
def test_no_text_is_the_users_mistake(kind: str, texts: list[str]) -> None:
    with pytest.raises(UserError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, TokenizerConfig(kind=kind))


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a" / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "a" / "tokenizer")
    loaded.save(tmp_path / "b", append_end=True, model_max_length=64)
    again = Tokenizer.load(tmp_path / "b")
    text = topics["strings"] + " \u2581 <|im_end|> 한"
    for other in (loaded, again):
        assert other.hash == tokenizer.hash
        assert other.encode(text) == tokenizer.encode(text)
        assert other.vocab_size == tokenizer.vocab_size
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 64


def test_tokenizer_json_alone_gives_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    loaded = Tokenizer.load(tmp_path)
    text = topics["strings"] + " <|im_end|> <0x0A> 한\t\0"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    for name in ("end_id", "pad_id", "turn_start_id", "turn_end_id", "vocab_size"):
        assert getattr(loaded, name) == getattr(tokenizer, name)


def test_hash_tells_tokenizers_apart(trained: dict[str, Tokenizer]) -> None:
    others = [
        train_tokenizer(topics.values(), TokenizerConfig(vocab_size=size)) for size in (700, 701)
    ]
    hashes = {tokenizer.hash for tokenizer in [*trained.values(), *others]}
    assert len(hashes) == 5
    assert all(len(digest) == 64 for digest in hashes)


def test_missing_and_broken_files_are_named(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no tokenizer here"):
        Tokenizer.load(tmp_path / "nowhere")
    whole = tmp_path / "whole"
    trained["bpe"].save(whole)
    for name, cut in [("tokenizer.model", 5000), ("tokenizer.model", 0), ("tokenizer.json", 9000)]:
        broken = tmp_path / f"{name}-{cut}"
        shutil.copytree(whole, broken)
        if name != "tokenizer.model":
            (broken / "tokenizer.model").unlink()
        (broken / name).write_bytes((whole / name).read_bytes()[:cut])
        with pytest.raises(UserError) as caught:
            Tokenizer.load(broken)
        message = str(caught.value)
        assert str(broken / name) in message
        assert "broken" in message
        assert "\n" not in message
    for content, word in [(b"{", "broken JSON"), (b"[]", "not a JSON object")]:
        (whole / "tokenizer_config.json").write_bytes(content)
        (whole / "tokenizer.model").unlink(missing_ok=True)
        with pytest.raises(UserError, match=rf"tokenizer_config\.json: {word}"):
            Tokenizer.load(whole)
