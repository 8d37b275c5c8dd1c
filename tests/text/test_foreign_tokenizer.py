"""Tokenizers of other people's models: read from `tokenizer.json`, never parsed for controls."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tokenizers import AddedToken
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPT2Tokenizer

from llmstages.data.encoding import encode_texts
from llmstages.data.examples import labelled_windows
from llmstages.errors import UserError
from llmstages.text.chat import Message, render
from llmstages.text.streaming import TextStream
from llmstages.text.tokenizer import Tokenizer


def write_byte_level(directory: Path, tokens: list[str | AddedToken], **config: Any) -> None:
    """A byte-level tokenizer, ids 0..255 for bytes, and the added tokens behind them."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = HuggingFaceTokenizer(
        BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    for token in tokens:
        if isinstance(token, str):
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def test_chat_model(tmp_path: Path) -> None:
    """As Qwen3's: it pads with its end token, and its turn end is the `eos_token`."""
    write_byte_level(
        tmp_path,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.end_id, tokenizer.turn_start_id, tokenizer.turn_end_id] == [256, 257, 258]
    assert tokenizer.pad_id == 259
    assert tokenizer.vocab_size == 260
    text = "a <|im_end|> 안녕\n\t\u2581"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < 256
    assert tokenizer.decode([257, *tokenizer.encode("a"), 258]) == "a"


def test_control_tokens_not_marked_special(tmp_path: Path) -> None:
    """Some files leave the mark out; the names are not parsed all the same."""
    write_byte_level(
        tmp_path,
        [AddedToken(name) for name in ("</s>", "<|im_start|>", "<|im_end|>", "<b>")],
        eos_token={"content": "</s>"},
    )
    tokenizer = Tokenizer.load(tmp_path)
    assert max(tokenizer.encode("<|im_start|> </s>")) < 256
    assert tokenizer.encode("<b>") == [259]
    assert tokenizer.end_id == 256
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").hash == tokenizer.hash


def test_only_an_end_token(tmp_path: Path) -> None:
    """As GPT-2's: nothing to pad with, so the last ordinary token has to do."""
    write_byte_level(tmp_path, ["<|endoftext|>"], eos_token="<|endoftext|>")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pad_id == 255
    assert tokenizer.turn_start_id is tokenizer.turn_end_id is None
    tokenizer.save(tmp_path / "saved")
    other = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert other.pad_token_id == 255
    assert len(other) == 257
    text = "plain text, 안녕"
    assert other(text)["input_ids"] == tokenizer.encode(text)
    assert Tokenizer.load(tmp_path / "saved").hash == tokenizer.hash


def test_tokens_at_the_start_are_apart(tmp_path: Path) -> None:
    """As Llama's: its post-processor starts every text with <s>; ours and what we save do not."""
    tokenizer = HuggingFaceTokenizer(
        BPE(
            vocab={"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "a": 4, "\u2581a": 5},
            merges=[("\u2581", "a")],
            unk_token="<unk>",
        )
    )
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = MetaspaceDecoder()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    # Its tokenizer.model has other controls than ours, so that tokenizer.json is what counts.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"] * 9),
        model_writer=model,
        vocab_size=8,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())

    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("a a") == [5, 5]
    assert [loaded.end_id, loaded.pad_id] == [2, 0]
    assert loaded.token_text(5) == " a"
    # Its decoder leaves out the space that a text begins with, but not one between two words.
    assert loaded.decode([5, 5]) == "a a"
    assert loaded.decode([5, 5], after=[1, 5]) == " a a"
    assert loaded.decode([5, 5], after=[1]) == "a a"
    stream = TextStream(loaded, after=[5])
    assert stream.add([5]) + stream.add([4]) + stream.end() == " aa"
    loaded.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a a")["input_ids"] == [1, 5, 5]

    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model: made by another program"):
        Tokenizer.load(tmp_path)


def test_without_an_end_token(tmp_path: Path) -> None:
    write_byte_level(tmp_path, ["<b>"], eos_token="<|end|>")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: eos_token='<\|end\|>' is not in"):
        Tokenizer.load(tmp_path)


def test_nothing_to_pad_with_names_the_file(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(BPE(vocab={"</s>": 0}, merges=[]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(UserError, match=r"tokenizer\.json: .*without a token to pad with"):
        Tokenizer.load(tmp_path)


def test_a_model_whose_texts_begin_with_a_token(tmp_path: Path) -> None:
    """As Llama's and Gemma's; the ids of special tokens may stand in the model's config alone."""
    write_byte_level(tmp_path, ["<s>", "</s>", "<unk>"], bos_token="<s>")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = json.loads(
        TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 256)])
        .__getstate__()
        .decode()
    )
    path.write_text(json.dumps(content))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [257, 3]}))
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.begin_ids, tokenizer.end_id, tokenizer.pad_id] == [(256,), 257, 258]
    assert tokenizer.opening("ab") == [256, *tokenizer.encode("ab")]
    assert tokenizer.opening("") == [256]
    row = encode_texts(["ab"], tokenizer)[0][0].as_py()
    assert np.frombuffer(row, tokenizer.id_dtype).tolist() == [*tokenizer.opening("ab"), 257]
    example = labelled_windows(tokenizer.encode("abc"), 257, 1, 4, "", tokenizer.begin_ids)[0]
    assert example.tokens == [*tokenizer.opening("ab"), 257]

    messages = [Message("user", "hi"), Message("assistant", "yes")]
    ids, learnt = render(messages, tokenizer)
    assert ids[0] == 256
    assert not learnt[0]
    for append_end in (False, True):
        tokenizer.save(tmp_path / "saved", append_end=append_end)
        again = Tokenizer.load(tmp_path / "saved")
        assert (again.hash, again.begin_ids) == (tokenizer.hash, (256,))
        assert again.templated_chat is None
        theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
        end = [257] if append_end else []
        assert theirs("ab").input_ids == [*tokenizer.opening("ab"), *end]
        turns = [{"role": m.role, "content": m.content} for m in messages]
        assert theirs.apply_chat_template(turns, return_dict=False) == ids


def test_the_two_older_files_of_gpt2(tmp_path: Path) -> None:
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, "th", "the", "Ġthe", "in", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\ni n\n")
    with pytest.raises(UserError, match="no tokenizer here"):
        Tokenizer.load(tmp_path)  # nothing says that it is GPT-2's
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    ours, theirs = Tokenizer.load(tmp_path), GPT2Tokenizer.from_pretrained(tmp_path)
    text = "the thing  in the\n\nnight, 'twas  é 𝄞"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.end_id == theirs.eos_token_id == len(words) - 1
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").hash == ours.hash
