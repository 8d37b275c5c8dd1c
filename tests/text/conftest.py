"""Tokenizers of each kind, trained once on the texts of Python's `help()` topics."""

from pydoc_data.topics import topics

import pytest

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.text.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZES = {"bpe": 1024, "unigram": 1024, "char": 400}


@pytest.fixture(scope="session")
def trained() -> dict[str, Tokenizer]:
    """One tokenizer of each kind; some Korean and emoji so that not all of it is bytes."""
    texts = [*topics.values(), "안녕하세요 세계 🙂 안녕\n" * 50]
    return {
        kind: train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=size))
        for kind, size in VOCAB_SIZES.items()
    }


@pytest.fixture(params=["bpe", "unigram", "char"])
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Tokenizer]) -> Tokenizer:
    """Each of the trained tokenizers in turn."""
    return trained[request.param]
