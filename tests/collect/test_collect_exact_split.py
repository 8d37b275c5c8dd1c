"""An exact share of the characters is held out; long files stay on one side: the whole stage."""

import os
from pathlib import Path

import pytest

from llmstages import cli
from llmstages.config.collect_groups import (
    CorpusConfig,
    DedupConfig,
    QualityConfig,
    TokenizerConfig,
)
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import open_token_shards
from llmstages.stages.collect import run
from llmstages.text.tokenizer import Tokenizer

DATA = os.environ.get("LLMSTAGES_DATA")
WORDS = ("the", "lion", "is", "in", "grass", "looks", "at", "a", "zebra", "that", "drinks", "river")


def tale(index: int, words: int = 1200) -> str:
    """A text that shares no two words in a row with others, in paragraphs."""
    return "".join(
        f"{WORDS[place % 12]}{index}x{place}{chr(10) * 2 if place % 20 == 19 else ' '}"
        for place in range(words)
    )


def halves(text: str) -> tuple[str, str]:
    """The split everybody knows."""
    return text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]


def texts(corpus: Corpus, split: str) -> dict[str, str]:
    """Texts by file; between the pieces of a file stands a NUL."""
    found: dict[str, list[str]] = {}
    for document in corpus.documents(split):  # type: ignore[arg-type]
        found.setdefault(document.metadata["file"], []).append(document.text)
    return {name: "\0".join(pieces) for name, pieces in found.items()}


def check_characters(corpora_dir: Path, data: str) -> None:
    """The experiment's corpus holds the two halves of a text, a token a character."""
    corpus = Corpus.open(corpora_dir / "shakespeare-char")
    (train,), (validation,) = (
        [document.text for document in corpus.documents(split)] for split in ("train", "validation")
    )
    assert (train, validation) == halves(data)
    (directory,) = (corpus.directory / "tokens").iterdir()
    tokenizer = Tokenizer.load(corpus.tokenizer_dir)
    for text, shard in zip((train, validation), open_token_shards(directory).shards, strict=True):
        assert shard.info.tokens == len(text) + 1
        assert tokenizer.decode(shard.ids[:-1].tolist()) == text
        assert [tokenizer.decode([id]) for id in shard.ids[:500].tolist()] == list(text[:500])


def test_the_experiment_by_characters_changes_nothing(tmp_path: Path) -> None:
    # All that collect would mend, fold or find: line ends, spaces, lines that repeat, e + accent.
    data = (
        "  \r\n" + tale(0) + "\t same line\n" * 400 + "cafe\u0301\n\n\n" + tale(1) + "same  \n \n"
    )
    (tmp_path / "input.txt").write_bytes(data.encode())
    words = ["collect", str(tmp_path / "input.txt"), "experiment=shakespeare-char"]
    assert cli.main([*words, f"corpora_dir={tmp_path}"]) == 0
    check_characters(tmp_path, data)


@pytest.mark.skipif(DATA is None, reason="LLMSTAGES_DATA names no real data")
def test_tiny_shakespeare_is_split_as_everybody_does(tmp_path: Path) -> None:
    path = Path(str(DATA)) / "tinyshakespeare" / "input.txt"
    assert (
        cli.main(["collect", str(path), "experiment=shakespeare-char", f"corpora_dir={tmp_path}"])
        == 0
    )
    data = path.read_text("utf-8")
    assert len(data) == 1_115_394
    check_characters(tmp_path, data)
    tokenizer = Tokenizer.load(tmp_path / "shakespeare-char" / "tokenizer")
    assert len(set(tokenizer.encode(data))) == len(set(data)) == 65


def collected(folder: Path, corpus: CorpusConfig) -> Corpus:
    """A corpus of a folder, in which only empty documents are dropped."""
    run(
        CollectConfig(
            corpus=corpus,
            tokenizer=TokenizerConfig(vocab_size=400),
            quality=QualityConfig(name="off"),
            dedup=DedupConfig(exact=False, near=False),
            paths=[str(folder)],
            corpora_dir=str(folder.parent),
        )
    )
    return Corpus.open(folder.parent / corpus.name)


def pieces_of_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more than 1,000 characters are long."""
    monkeypatch.setattr("llmstages.collect.sources.text.DOCUMENT_CHARACTERS", 1000)


def test_a_long_file_is_cut_at_the_character_of_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces_of_1000(monkeypatch)
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.txt").write_text(tale(index, 500 + 60 * index))
    (folder / "short.txt").write_text("nineteen characters")
    share = CorpusConfig(split="characters", validation_share=0.1)
    corpus = collected(folder, share)
    assert corpus.manifest.train.documents > 10
    for name in ("0.txt", "1.txt", "2.txt", "short.txt"):
        data = (folder / name).read_text()
        for side, split in zip(halves(data), ("train", "validation"), strict=True):
            pieces = texts(corpus, split)[name].split("\0")
            assert sum(map(len, pieces)) == len(side)
            assert all(piece in side for piece in pieces)


@pytest.mark.parametrize("seed", range(3))
def test_long_books_are_held_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pieces_of_1000(monkeypatch)
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(8):
        (folder / f"{index}.txt").write_text(tale(10 * seed + index, 300))
    whole = CorpusConfig(validation_share=0.3, min_documents_to_split=2)
    corpus = collected(folder, whole)
    train, validation = texts(corpus, "train"), texts(corpus, "validation")
    assert not train.keys() & validation.keys()
    assert len(validation) == 2
    assert all("\0" in text for text in validation.values())
    # With few files it is the end of each that is held out, however many pieces they are in.
    ends = collected(folder, CorpusConfig(name="ends", validation_share=0.1))
    held_out = texts(ends, "validation")
    assert held_out.keys() == {f"{index}.txt" for index in range(8)}
    for name, text in held_out.items():
        data = (folder / name).read_text()
        size = sum(map(len, text.split("\0"))) / len(data)
        assert 0.02 < size < 0.18
        assert all(data.rindex(piece) > 0.8 * len(data) for piece in text.split("\0"))
