"""The whole stage on small folders: what is written, what is equal, what is refused."""

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmstages.config.collect_groups import (
    CorpusConfig,
    DedupConfig,
    LanguageConfig,
    PiiConfig,
    QualityConfig,
    SourceConfig,
    TokenizerConfig,
)
from llmstages.config.stages import CollectConfig
from llmstages.data.corpus import SPLITS, Corpus
from llmstages.data.shards import open_token_shards
from llmstages.errors import UserError
from llmstages.stages.collect import run, tokenizer_sample

WORDS = ("the", "lion", "is", "in", "grass", "looks", "at", "a", "zebra", "that", "drinks", "river")


def story(index: int, words: int = 60) -> str:
    """A text of its own for each index."""
    pieces = [f"{WORDS[(index + i * (index % 5 + 1)) % len(WORDS)]}{index}" for i in range(words)]
    return f"Story {index}\n" + " ".join(pieces)


def write_folder(folder: Path, count: int = 30) -> Path:
    """A folder of stories, a duplicate and an empty file."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:02d}.txt").write_text(story(index))
    (folder / "copy.md").write_text("  " + story(3).upper() + "\n\n")
    (folder / "empty.txt").write_text(" \n")
    return folder


def config(folder: Path, corpora: Path, **settings: object) -> CollectConfig:
    """Collect one folder with a small tokenizer."""
    values = {
        "corpus": CorpusConfig(validation_share=0.1),
        "tokenizer": TokenizerConfig(vocab_size=400),
        "paths": [str(folder)],
        "corpora_dir": str(corpora),
    }
    return CollectConfig(**(values | settings))  # type: ignore[arg-type]


def test_a_folder_becomes_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "in")
    words = run(config(folder, tmp_path / "corpora"))
    assert capsys.readouterr().out == ""  # notes and tables are no result
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    train, validation = list(corpus.documents("train")), list(corpus.documents("validation"))
    assert len(train) + len(validation) == 30
    assert 1 <= len(validation) <= 4
    assert words == sum(len(document.text.split()) for document in train)
    assert [document.id for document in train] == sorted(document.id for document in train)
    assert {document.text for document in train + validation} >= {story(0), story(29)}

    dropped = {entry.rule: entry for entry in corpus.dropped()}
    assert set(dropped) == {"duplicate", "empty"}
    kept = {document.id: document for document in train + validation}
    twins = {
        dropped["duplicate"].text.split()[0],
        kept[dropped["duplicate"].duplicate_of or ""].text.split()[0],
    }
    assert {twin.upper() for twin in twins} == {"STORY"}

    (source,) = corpus.manifest.sources
    assert source.extracted.documents == 32
    assert {rule: counts.documents for rule, counts in source.dropped.items()} == {
        "duplicate": 1,
        "empty": 1,
    }
    assert source.dropped["duplicate"].words == 62
    assert source.train.documents + source.validation.documents == 30
    assert [entry.locator for entry in source.inputs][:2] == ["00.txt", "01.txt"]
    text = (corpus.directory / "manifest.json").read_text()
    assert str(tmp_path) not in text

    record = json.loads((corpus.directory / "collect.json").read_text())
    assert record["documents"] == 30
    (tokens,) = (corpus.directory / "tokens").iterdir()
    assert open_token_shards(tokens).of_split("train")
    assert sorted(path.name for path in corpus.directory.iterdir()) == [
        *("collect.json", "documents", "dropped", "manifest.json", "tokenizer", "tokens"),
    ]
    assert sorted(path.name for path in (tmp_path / "corpora").iterdir()) == ["local", "local.work"]


def test_the_manifest_is_equal_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "texts", tmp_path / "two" / "deep" / "other"
    write_folder(first)
    second.parent.mkdir(parents=True)
    shutil.copytree(first, second)
    hashes = set()
    for folder, corpora in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        run(config(folder, corpora))
        hashes.add(Corpus.open(corpora / "local").manifest_hash)
    assert len(hashes) == 1


# Daft leaves the pipes of its worker processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_worker_processes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "in")
    (folder / "latin.txt").write_bytes(("Größe und Straße " + story(40)).encode("latin-1"))
    (folder / "bad.jsonl").write_text('{"foo": 1, "bar": 2}\n')
    run(config(folder, tmp_path / "a"))
    capsys.readouterr()
    for step in ("read", "measure", "write"):
        monkeypatch.setattr(f"llmstages.collect.steps.{step}.PARALLEL_BYTES", 0)
    monkeypatch.setattr("llmstages.collect.steps.read.TASK_BYTES", 2_000)
    monkeypatch.setattr("llmstages.collect.steps.measure.BUCKET_BYTES", 4_000)
    run(config(folder, tmp_path / "b"))
    said = capsys.readouterr().err
    assert "latin.txt: read as latin-1" in said
    assert "bad.jsonl: no text column" in said
    texts = [
        [
            (document.id, document.text)
            for document in Corpus.open(path / "local").documents("train")
        ]
        for path in (tmp_path / "a", tmp_path / "b")
    ]
    assert texts[0] == texts[1]
    with pytest.raises(UserError, match=r"bad\.jsonl: no text column"):
        run(config(folder, tmp_path / "d", bad_rows="refuse"))
    gc.collect()


def test_one_book_gives_its_end_for_validation(tmp_path: Path) -> None:
    book = "\n\n".join(story(index) for index in range(30))
    (tmp_path / "book.txt").write_text(book)
    run(config(tmp_path / "book.txt", tmp_path / "corpora"))
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    (head,), (tail,) = corpus.documents("train"), corpus.documents("validation")
    assert head.text + tail.text == book
    assert tail.id == f"{head.id}-end"
    assert (head.metadata["part"], tail.metadata["part"]) == ("start", "end")
    assert 0.05 < len(tail.text) / len(book) < 0.15


def test_paths_are_added_to_a_recipe_and_recipes_mix(tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "one"), tmp_path / "two.jsonl"
    two.write_text("".join(json.dumps({"text": story(100 + i)}) + "\n" for i in range(30)))
    recipe = CorpusConfig(
        name="mix", sources={"books": SourceConfig(paths=[str(one)], license="CC0-1.0")}
    )
    run(config(two, tmp_path / "corpora", corpus=recipe, dedup=DedupConfig(False, False)))
    corpus = Corpus.open(tmp_path / "corpora" / "mix")
    assert corpus.sources == ["books", "files"]
    assert corpus.weights == {}
    assert corpus.manifest.sources[0].license == "CC0-1.0"
    assert set(corpus.manifest.sources[0].dropped) == {"empty"}  # the duplicate stays
    assert len(list(corpus.documents("train", "files"))) > 20


def test_paths_beside_weights_are_refused(tmp_path: Path) -> None:
    source = SourceConfig(paths=[str(tmp_path)], weight=0.5)
    recipe = CorpusConfig(name="mix", sources={"books": source})
    with pytest.raises(UserError, match="the sources of the recipe mix have weights"):
        run(config(tmp_path / "more.txt", tmp_path, corpus=recipe))


def test_a_finished_corpus_is_kept_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, corpora = write_folder(tmp_path / "in"), tmp_path / "corpora"
    run(config(folder, corpora))
    before = (corpora / "local" / "collect.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run(config(folder, corpora)) == Corpus.open(corpora / "local").manifest.train.words
    assert "up to date" in capsys.readouterr().err
    assert (corpora / "local" / "collect.json").stat().st_mtime_ns == before
    changed = config(folder, corpora, quality=QualityConfig(min_words=2))
    with pytest.raises(UserError, match=r"other settings: replace it with overwrite=true"):
        run(changed)
    (folder / "more.txt").write_text(story(50))
    with pytest.raises(UserError, match="other inputs"):
        run(config(folder, corpora))
    run(config(folder, corpora, overwrite=True))
    assert Corpus.open(corpora / "local").manifest.sources[0].extracted.documents == 33
    assert sorted(path.name for path in corpora.iterdir()) == ["local", "local.work"]


def test_too_little_text_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ten words are here and they are far too few")
    corpora = tmp_path / "deep" / "corpora"
    with pytest.raises(UserError, match=r"a\.txt: 10 words are too few: at least 1,000"):
        run(config(tmp_path / "a.txt", corpora))
    assert not (tmp_path / "deep").exists()


def test_a_broken_file_leaves_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl:3: broken JSON"):
        run(config(folder, tmp_path / "corpora", bad_rows="refuse"))
    assert not (tmp_path / "corpora").exists()


def test_what_is_not_a_corpus_is_never_replaced(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    precious = tmp_path / "corpora" / "local" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a finished corpus"):
        run(config(folder, tmp_path / "corpora", overwrite=True))
    assert precious.exists()


@pytest.mark.parametrize("name", ["a/b", "..", " ", "x.tmp"])
def test_names_that_are_no_directory_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="must be made of letters"):
        run(config(tmp_path, tmp_path, name=name))


def test_a_recipe_without_sources_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llmstages collect corpus=local my_texts/"):
        run(CollectConfig(corpora_dir=str(tmp_path)))


def test_the_tokenizer_sample_is_bounded_and_spread(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", count=60)
    run(config(folder, tmp_path / "corpora"))
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    size = corpus.manifest.train.bytes
    texts = [document.text for document in corpus.documents("train")]
    sample = list(tokenizer_sample(corpus, size // 4))
    assert 0.15 * size < sum(map(len, sample)) <= 0.3 * size
    places = [texts.index(text) / len(texts) for text in sample]
    assert min(places) < 0.2
    assert max(places) > 0.8
    assert list(tokenizer_sample(corpus, size)) == texts


def test_collecting_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    code = (
        "import sys\n"
        "from llmstages import cli\n"
        "status = cli.main()\n"
        "sys.exit(status or not {'torch', 'ray'}.isdisjoint(sys.modules))\n"
    )
    arguments = ["collect", str(folder), f"corpora_dir={tmp_path}", "tokenizer.vocab_size=400"]
    command = [sys.executable, "-c", code, *arguments, "pii=replace", "language=identify"]
    assert subprocess.run(command, check=False).returncode == 0


def tale(index: int) -> str:
    """A text that shares no two words in a row with others."""
    return f"Tale {index}\n" + " ".join(f"{WORDS[i % 12]}{index}x{i}" for i in range(200))


def mixed(tmp_path: Path, **settings: object) -> Corpus:
    """Two sources that share a text, another one nearly, and one of which nothing is shared."""
    for name in ("web", "books"):
        folder = tmp_path / name
        folder.mkdir()
        for index in range(25):
            (folder / f"{index}.txt").write_text(tale(index + (100 if name == "web" else 0)))
    (tmp_path / "web" / "same.txt").write_text(tale(3))
    (tmp_path / "web" / "nearly.txt").write_text(tale(4) + " and one word more")
    recipe = CorpusConfig(
        name="mix",
        validation_share=0.2,
        sources={
            "books": SourceConfig(paths=[str(tmp_path / "books")], priority=1),
            "web": SourceConfig(paths=[str(tmp_path / "web")]),
        },
    )
    values = {"corpus": recipe, "paths": []} | settings
    run(config(tmp_path, tmp_path / "corpora", **values))
    return Corpus.open(tmp_path / "corpora" / "mix")


def test_of_duplicates_the_source_of_higher_priority_keeps_its_own(tmp_path: Path) -> None:
    corpus = mixed(tmp_path)
    dropped = {entry.rule: entry for entry in corpus.dropped()}
    assert {rule: entry.source for rule, entry in dropped.items()} == {
        "duplicate": "web",
        "near_duplicate": "web",
    }
    survivor = corpus.find(dropped["near_duplicate"].duplicate_of or "")
    assert isinstance(survivor, tuple)
    assert survivor[1].text == tale(4)
    assert 0.8 <= (dropped["near_duplicate"].value or 0) < 1
    assert dropped["near_duplicate"].threshold == 0.8


@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_that_stay_never_straddle_the_split(tmp_path: Path, seed: int) -> None:
    corpus = mixed(tmp_path, dedup=DedupConfig(False, False), seed=seed)
    sides = {}
    for split in ("train", "validation"):
        for document in corpus.documents(split):  # type: ignore[arg-type]
            sides.setdefault(document.text.split("\n")[0], set()).add(split)
    assert len(sides) == 50
    assert all(len(where) == 1 for where in sides.values())


def test_evaluation_text_is_cut_out(tmp_path: Path) -> None:
    question = " ".join(f"question{index}" for index in range(20))
    (tmp_path / "test.jsonl").write_text(json.dumps({"query": question, "gold": 1}) + "\n")
    folder = write_folder(tmp_path / "in")
    before, after = story(200, 100), story(201, 100)
    (folder / "leak.txt").write_text(f"{before} {question} {after}")
    (folder / "small.txt").write_text(f"It says: {question}, and no more.")
    cleaned = config(folder, tmp_path / "corpora")
    cleaned.decontaminate.against = [str(tmp_path / "test.jsonl")]
    run(cleaned)
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    texts = [document for split in SPLITS for document in corpus.documents(split)]
    assert not any("question7" in document.text for document in texts)
    pieces = [document for document in texts if "-" in document.id]
    assert sorted(document.id[-2:] for document in pieces) == ["-0", "-1"]
    assert all(document.text in f"{before} {after}" for document in pieces)
    assert {entry.rule for entry in corpus.dropped()} == {"duplicate", "empty", "contaminated"}
    assert corpus.manifest.config["decontaminate"]["against"]  # a hash, no path


def test_copies_of_a_leak_are_no_common_speech(tmp_path: Path) -> None:
    question = " ".join(f"question{index}" for index in range(20))
    (tmp_path / "test.jsonl").write_text(json.dumps({"query": question}) + "\n")
    folder = write_folder(tmp_path / "in")
    for index in range(12):
        (folder / f"leak{index}.txt").write_text(f"{tale(7)} {question} {tale(8)}")
    cleaned = config(folder, tmp_path / "corpora", dedup=DedupConfig(False, False))
    cleaned.decontaminate.against = [str(tmp_path / "test.jsonl")]
    run(cleaned)
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    texts = [document.text for split in SPLITS for document in corpus.documents(split)]
    assert not any("question7" in text for text in texts)
    assert sum(tale(7)[:40] in text for text in texts) == 12


def test_a_contaminated_book_still_gives_its_end(tmp_path: Path) -> None:
    question = " ".join(f"question{index}" for index in range(20))
    (tmp_path / "test.txt").write_text(question)
    book = " ".join(tale(index) for index in range(20))
    (tmp_path / "book.txt").write_text(f"{book[:9000]} {question} {book[9000:]}")
    cleaned = config(tmp_path / "book.txt", tmp_path / "corpora")
    cleaned.decontaminate.against = [str(tmp_path / "test.txt")]
    run(cleaned)
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    train, (end,) = list(corpus.documents("train")), corpus.documents("validation")
    assert [document.id[-2:] for document in train] == ["-0", "-1"]
    assert end.id == train[0].id.replace("-0", "-end")
    assert book.endswith(end.text)
    assert not any("question7" in document.text for document in [*train, end])


def test_values_on_the_bound_are_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    lines = [f"line {index} of ten different ones" for index in range(7)]
    (folder / "lines.txt").write_text("\n".join([*lines, *lines[:3]]))  # a share of 0.3
    run(config(folder, tmp_path / "corpora", quality=QualityConfig(max_duplicate_lines_share=0.3)))
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    assert {entry.rule for entry in corpus.dropped()} == {"duplicate", "empty"}


def test_personal_data_and_language(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    (folder / "mail.txt").write_text("Please write to jane.roe@example.com, she will know. " * 9)
    (folder / "fremd.txt").write_text("Der Hund läuft schnell über die Straße zum alten Haus. " * 9)
    run(
        config(
            folder,
            tmp_path / "corpora",
            pii=PiiConfig(replace_emails=True),
            language=LanguageConfig(identify=True),
        )
    )
    corpus = Corpus.open(tmp_path / "corpora" / "local")
    found = {
        document.text[:8]: document for split in SPLITS for document in corpus.documents(split)
    }
    assert "<email>" in found["Please w"].text
    assert "jane" not in found["Please w"].text
    assert found["Der Hund"].language == "de"
    assert found["Please w"].language == "en"
