"""Word by word gives the ids of the whole text, whatever the text, the blocks and the memory."""

import io
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.text import word_encoder
from llmstages.text.huggingface_backend import HuggingFaceBackend
from llmstages.text.ids import id_dtype
from llmstages.text.sentencepiece_backend import SentencePieceBackend
from llmstages.text.tokenizer import Tokenizer, train_tokenizer
from llmstages.text.unicode import well_formed

AWKWARD = [
    *[" ", "  ", "    ", "\n", "\n\n", " \n", "\n ", "\t", "\r\n", "\0", "\x1f", "\x7f", "\u2581"],
    *["\u2581\u2581", " \u2581", "\u2585", "안녕", "한", "🙂", "👩\u200d👩\u200d👧", "e\u0301"],
    *["\ufeff", "\ufffd", "\u00a0", "\u3000", "<0x0A>", "1", "2024", "the", " the", "The", "():"],
    *["def f(x):\n    return x\n", "<|im_end|>", "<|endoftext|>", "\U0010ffff", "\ud800"],
]
STRINGS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(AWKWARD)), min_size=0, max_size=30
).map("".join)


def model_of(tokenizer: Tokenizer) -> SentencePieceBackend:
    backend = tokenizer._backend
    assert isinstance(backend, SentencePieceBackend)
    assert backend._words is not None
    return backend


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    """The model is asked directly, in small parts: around space marks."""
    texts = [well_formed(text) for text in texts]
    arrays = tokenizer.encode_arrays(texts)
    assert {array.dtype for array in arrays} <= {np.dtype("<u2")}
    assert [array.tolist() for array in arrays] == model_of(tokenizer)._encode_whole(texts)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(STRINGS, max_size=4))
def test_equal_ids(trained: dict[str, Tokenizer], texts: list[str]) -> None:
    for tokenizer in trained.values():
        check(tokenizer, texts)


def mixtures(count: int) -> list[str]:
    """Random strings of what is awkward and of cuttings of real text."""
    choose = random.Random(0)
    prose = list(topics.values())
    made = []
    for _ in range(count):
        parts = choose.choices(AWKWARD, k=choose.randrange(12))
        text = choose.choice(prose)
        start = choose.randrange(len(text))
        parts.insert(choose.randrange(len(parts) + 1), text[start : start + choose.randrange(200)])
        made.append("".join(parts))
    return made


def test_equal_ids_of_many_mixtures(tokenizer: Tokenizer) -> None:
    check(tokenizer, mixtures(2000))


def test_equal_ids_of_long_texts(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text longer than a block is cut; one without any place to cut it stays whole."""
    monkeypatch.setattr(word_encoder, "BLOCK_CHARACTERS", 1000)
    monkeypatch.setattr(word_encoder, "TAIL_CHARACTERS", 50)
    text = "".join(list(topics.values())[:20])
    parts = list(model_of(tokenizer)._words._parts(text))  # type: ignore[union-attr]
    assert "".join(parts) == text
    assert len(parts) > 50
    assert max(map(len, parts)) <= 1000
    endless = "-" * 3000
    check(tokenizer, [text, "", endless, endless + text + endless, "short", text[:999]])
    check(tokenizer, mixtures(200))


def test_equal_ids_when_pairs_share_numbers(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words then run on, over space marks too."""
    monkeypatch.setattr(word_encoder, "PAIR_BITS", 8)
    fresh = Tokenizer(SentencePieceBackend(model_of(tokenizer)._model), "<|endoftext|>", "<|pad|>")
    check(fresh, mixtures(300))


def test_equal_ids_while_forgetting(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_encoder, "MAX_WORDS", 40)
    monkeypatch.setattr(word_encoder, "MAX_WORD_BYTES", 4 * 8)
    words = SentencePieceBackend(model_of(tokenizer)._model)._words
    assert words is not None
    texts = mixtures(50)
    expected = model_of(tokenizer)._encode_whole([well_formed(text) for text in texts])
    for text, ids in zip(texts, expected, strict=True):
        assert words.encode([well_formed(text)])[0].tolist() == ids
        assert len(words._known) <= 40
        assert max(map(len, words._known), default=0) <= 4 * 8


def test_equal_ids_from_many_threads(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_encoder, "MAX_WORDS", 100)
    backend = SentencePieceBackend(model_of(tokenizer)._model)
    texts = [well_formed(text) for text in mixtures(200)]
    with ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(lambda text: backend.encode_arrays([text])[0].tolist(), texts))
    assert encoded == backend._encode_whole(texts)


def test_few_words_go_through_the_model(tokenizer: Tokenizer) -> None:
    """This is what makes it fast: of a text read before, none does."""
    text = "".join(topics.values())
    asked: list[str] = []

    class Watched(SentencePieceBackend):
        def _encode_whole(self, texts):  # type: ignore[no-untyped-def]
            asked.extend(texts)
            return super()._encode_whole(texts)

    backend = Watched(model_of(tokenizer)._model)
    backend.encode_arrays([text])
    assert len("".join(asked)) < len(text) / 5
    asked.clear()
    backend.encode_arrays([text])
    assert min(map(len, asked), default=65) > 64  # rulers of dashes are not remembered


def test_models_that_do_more_than_cut_are_asked_for_the_whole_text() -> None:
    base = {"vocab_size": 300, "hard_vocab_limit": False, "byte_fallback": True, "minloglevel": 2}
    plain = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    }
    texts = ["one two  three ﬁ", " a b c "] * 400
    for changes in (
        plain | {"normalization_rule_name": "nfkc"},
        plain | {"add_dummy_prefix": True},
        plain | {"remove_extra_whitespaces": True},
        plain | {"user_defined_symbols": ["o t"]},
        plain | {"model_type": "word"},
    ):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, **(base | changes)
        )
        backend = SentencePieceBackend(model.getvalue())
        assert backend._words is None, changes
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        expected = processor.encode(texts)
        assert [ids.tolist() for ids in backend.encode_arrays(texts)] == expected
        assert backend.encode_batch(texts) == expected


def test_long_batches_and_short_ones_are_lists_of_ints(tokenizer: Tokenizer) -> None:
    text = topics["strings"]
    short, long = tokenizer.encode_batch([text[:100]])[0], tokenizer.encode_batch([text])[0]
    assert len(text) > 4000
    assert type(short[0]) is type(long[0]) is int
    assert tokenizer.encode_arrays([]) == tokenizer.encode_batch([]) == []
    assert [ids.tolist() for ids in tokenizer.encode_arrays(["", ""])] == [[], []]


def test_arrays_are_as_small_as_the_vocabulary_lets_them_be(trained: dict[str, Tokenizer]) -> None:
    assert id_dtype(2**16) == np.dtype("<u2")
    assert id_dtype(2**16 + 1) == np.dtype("<u4")
    backend = model_of(trained["char"])  # no piece holds a pair of characters
    wide = word_encoder.WordEncoder([], backend._encode_whole, np.dtype("<u4"))
    encoded = wide.encode(["no \u2581 way"])[0]
    assert encoded.dtype == np.dtype("<u4")
    assert encoded.tolist() == backend._encode_whole(["no \u2581 way"])[0]


def test_foreign_tokenizers_give_arrays(trained: dict[str, Tokenizer]) -> None:
    foreign = HuggingFaceBackend(json.dumps(trained["bpe"]._backend.tokenizer_json()))
    texts = ["one two", "", topics["strings"]]
    arrays = foreign.encode_arrays(texts)
    assert [array.dtype.str for array in arrays] == ["<u2"] * 3
    assert [array.tolist() for array in arrays] == trained["bpe"].encode_batch(texts)


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA is not set")
@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize(
    "name",
    [
        "wikitext2/valid.txt",
        "classify/korean_3i4k/fci_test.txt",
        "instruct/eng_fra_tatoeba/eng-fra.txt",
    ],
)
def test_real_text(kind: str, name: str) -> None:
    text = (Path(os.environ["LLMSTAGES_DATA"]) / name).read_text(encoding="utf-8")[:200_000]
    tokenizer = train_tokenizer([text], TokenizerConfig(kind=kind, vocab_size=2000))
    check(tokenizer, [text, text[::-1], text.replace(" ", ""), text.replace("\n", "\t\n ")])
