"""Hostile input for every reader of files, and what each reader promises about it.

A property is a strategy of hypothesis for an input and a check that fails unless the promise is
kept: a `UserError` of one line, or values that really stand in the file. `scripts/fuzz.py` runs
them as long as asked, the tests in tests/hostile a few times each.
"""

import contextlib
import csv
import gzip
import io
import json
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import torch
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.config.compose import from_file
from llmstages.config.stages import PretrainConfig
from llmstages.config.uses import InspectConfig
from llmstages.data.conversations import read_conversations
from llmstages.data.corpus import (
    DOCUMENT_SCHEMA,
    FORMAT_VERSION,
    SPLITS,
    Corpus,
    Counts,
    Manifest,
    SourceManifest,
)
from llmstages.data.file_kind import detect_kind
from llmstages.data.labelled_texts import read_labelled_texts, read_texts
from llmstages.data.shards import write_token_shards
from llmstages.errors import CheckFailed, UserError
from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer
from llmstages.report.curves import draw_curves
from llmstages.report.html.contents import page_of
from llmstages.report.html.records import read_records
from llmstages.report.html.render import render as render_page
from llmstages.report.plain import visible
from llmstages.report.terminal import say, table
from llmstages.stages.inspect import (
    inspect_checkpoint,
    inspect_corpus,
    inspect_run,
)
from llmstages.stages.seeing.data_file import inspect_data_file
from llmstages.text.chat import Message, render, stop_ids
from llmstages.text.tokenizer import Tokenizer, train_tokenizer
from llmstages.train.checkpoint import (
    CheckpointInfo,
    Lineage,
    load_checkpoint,
    resolve_checkpoint,
    save_checkpoint,
)
from llmstages.train.records import seal_of, write_sealed
from llmstages.train.run import read_plan

SECONDS = 30
"""One input may take so long; a reader that takes longer hangs."""
MEMORY_BYTES = 3 * 2**30
"""An input of some kilobytes may take so much address space more than there was before."""


class TooSlow(Exception):
    """A reader did not come to its end."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Inside, a hang is `TooSlow` and a blow-up a `MemoryError`."""

    def late(number: int, frame: object) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def refused(*names: str) -> Iterator[None]:
    """Let a `UserError` that names one of the files pass, or a `CheckFailed`, and nothing else."""
    try:
        yield
    except (UserError, CheckFailed) as error:
        message = str(error)
        assert any(name in message for name in names), f"no file named: {message}"
        assert len(message) < 20_000, f"a message of {len(message)} characters"


@contextlib.contextmanager
def silent() -> Iterator[io.StringIO]:
    """What is printed, caught; nothing in it may reach a terminal as a control character."""
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught), contextlib.redirect_stderr(io.StringIO()):
        yield caught
    printed = caught.getvalue()
    assert printed == visible(printed), "a control character was printed"


def sound(*texts: str) -> None:
    """Fail unless texts hold what a text may hold."""
    for text in texts:
        assert "\0" not in text, "a NUL in a text"
        text.encode()  # a lone surrogate has no bytes


# -------------------------------------------------------------------------------------------------
# inputs


HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 10**12, 10**30, 10**400, 1e308, float("inf"), float("nan"), 0.5),
    *("", "x", "\0", "\ud800", "../../x", "/etc/passwd", "[", "\x1b]0;x\x07", "a" * 300),
    *([], {}, [[]], [1], ["x"], {"x": 1}, {"0": "x", "1": "x"}, [None]),
)


@dataclass(frozen=True)
class Mutation:
    """One change of the bytes of a file."""

    kind: str
    place: float
    """Share of the file."""
    data: bytes

    def apply(self, content: bytes) -> bytes:
        """The changed bytes."""
        at = int(self.place * len(content))
        if self.kind == "truncate":
            return content[:at]
        if self.kind == "insert":
            return content[:at] + self.data + content[at:]
        if self.kind == "overwrite":
            return content[:at] + self.data + content[at + len(self.data) :]
        if self.kind == "delete":
            return content[:at] + content[at + len(self.data) :]
        if self.kind == "repeat":
            return content[:at] + content[max(0, at - 40) :]
        assert self.kind == "flip"
        flipped = bytes([content[at] ^ (1 << len(self.data) % 8)]) if at < len(content) else b""
        return content[:at] + flipped + content[at + 1 :]


KINDS = ("truncate", "insert", "overwrite", "delete", "repeat", "flip")
BITS = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [
            b"\0",
            b'"',
            b"\n",
            b"\r",
            b"\t",
            b",",
            b";",
            b"[",
            b"{",
            b"\\",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
        ]
    ),
)
MUTATIONS = st.lists(
    st.builds(Mutation, st.sampled_from(KINDS), st.floats(0, 1), BITS), min_size=1, max_size=4
)
# Nothing in a cell may be lost; CSV has no way to keep a NUL, and no file keeps half a character.
CELLS = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="ab\"',;|\t\n\r\\ =", max_size=12),
    st.sampled_from(
        [
            "=cmd|'/C calc'!A0",
            "\0",
            "null",
            "NaN",
            "1e5",
            '"',
            '""',
            "a,b",
            "\ufeffa",
            " a ",
            "\x85",
        ]
    ),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inside: st.one_of(
        st.lists(inside, max_size=3), st.dictionaries(st.text(max_size=6), inside, max_size=3)
    ),
    max_leaves=8,
)
LABELLED = [{"text": f"text {n}, of some words", "label": "ab"[n % 2]} for n in range(12)]
PAIRS = [
    {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": "a"}]}
    for n in range(4)
]


def as_csv(rows: list[tuple[str, str]], delimiter: str = ",", quoting: Any = csv.QUOTE_ALL) -> str:
    """Rows of a text and a label, with a header."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return file.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def sound_files() -> dict[str, bytes]:
    """A sound file of each format, by name."""
    lines = "".join(json.dumps(row) + "\n" for row in LABELLED).encode()
    cells = [(row["text"], row["label"]) for row in LABELLED]
    return {
        "rows.jsonl": lines,
        "rows.json": json.dumps(LABELLED, indent=1).encode(),
        "rows": json.dumps({"data": LABELLED}).encode(),
        "rows.csv": as_csv(cells).encode(),
        "rows16.csv": as_csv(cells).encode("utf-16"),
        "rows.tsv": as_csv(cells, "\t").encode(),
        "rows.txt": "".join(f"{text}\t{label}\n" for text, label in cells).encode(),
        "rows.parquet": as_parquet(LABELLED),
        "rows.jsonl.gz": gzip.compress(lines, mtime=0),
        "rows.jsonl.zst": pa.compress(lines, "zstd", asbytes=True),
        "pairs.jsonl": "".join(json.dumps(row) + "\n" for row in PAIRS).encode(),
        "pairs.parquet": as_parquet(PAIRS),
    }


SOUND = sound_files()


# -------------------------------------------------------------------------------------------------
# labelled files


def check_file(path: Path) -> None:
    """Every reader of labelled files, in both modes."""
    with bounded():
        with refused(path.name):
            detect_kind(path)
        for bad_rows in ("refuse", "skip"):
            with refused(path.name):
                for example in read_labelled_texts(path, bad_rows=bad_rows):
                    sound(example.text, example.label)
            with refused(path.name):
                for conversation in read_conversations(path, bad_rows=bad_rows):
                    sound(*(turn.content for turn in conversation.messages))
            with refused(path.name):
                sound(*(text for _, text in read_texts(path, bad_rows=bad_rows)))
        with refused(path.name), silent():
            inspect_data_file(path, InspectConfig(num_examples=2))


def check_bytes(folder: Path, case: tuple[str, bytes]) -> None:
    """Any bytes under any name."""
    (folder / case[0]).write_bytes(case[1])
    check_file(folder / case[0])


def check_mutated_file(folder: Path, case: tuple[str, list[Mutation]]) -> None:
    """A sound file, damaged."""
    content = SOUND[case[0]]
    for mutation in case[1]:
        content = mutation.apply(content)
    check_bytes(folder, (case[0], content))


def check_table(folder: Path, case: tuple[list[tuple[str, str]], str, str, str, bool, str]) -> None:
    """A table written by the csv module comes back exactly, or is refused."""
    cells, delimiter, ending, encoding, quote_all, bad_rows = case
    written = [("text, that is", "label"), ("another", "second"), *cells]
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    path = folder / f"table.{ending}"
    try:
        path.write_bytes(as_csv(written, delimiter, quoting).encode(encoding))
    except (UnicodeEncodeError, csv.Error):
        return
    with bounded(), refused(path.name):
        found = read_labelled_texts(path, "text", "label", bad_rows=bad_rows)
        left = [(text, label.strip()) for text, label in written]
        kept = [(example.text, example.label) for example in found]
        if encoding == "latin-1":
            return  # nothing in the file says so: its bytes may mean other characters
        if bad_rows == "refuse":
            assert kept == [row for row in left if row[1] or row[0].strip()], "rows differ"
        rest = iter(left)
        assert all(row in rest for row in kept), "a row that does not stand in the file"


def check_json_rows(folder: Path, case: tuple[list[Any], str]) -> None:
    """JSON Lines of any values; a text and label that come back stand in one object."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in case[0]), encoding="utf-8")
    with bounded(), refused(path.name):
        for example in read_labelled_texts(path, "text", "label", bad_rows=case[1]):
            row = case[0][example.line - 1]
            sound(example.text, example.label)
            if isinstance(row["text"], str):
                assert example.text == row["text"]
            if isinstance(row["label"], str):
                assert example.label == row["label"].strip()
    check_file(path)


# -------------------------------------------------------------------------------------------------
# checkpoints, runs, corpora: made once, copied and damaged


TEXT = "A small text of some words that come again, and again. " * 40


def make_tokenizer() -> Tokenizer:
    """A tokenizer for a few words."""
    return train_tokenizer([TEXT], TokenizerConfig(vocab_size=300, sample_bytes=10_000))


def make_checkpoint(folder: Path, tokenizer: Tokenizer) -> None:
    """A checkpoint of a classifier of two labels."""
    config = make_config(
        "qwen3",
        **{"vocab_size": tokenizer.vocab_size, "num_layers": 1, "hidden_size": 8, "num_heads": 2},
        **{"num_kv_heads": 1, "head_dim": 4, "intermediate_size": 16, "context_length": 16},
        num_labels=2,
    )
    info = CheckpointInfo("finetune-classify", 1, 10, {"val_loss": 1.0}, Lineage())
    save_checkpoint(folder, Transformer(config), tokenizer, info, labels=["a", "b"])


def make_run(folder: Path) -> None:
    """The records of a run."""
    (folder / "checkpoints").mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": n, "loss": 3.0 / n, "lr": 0.1, "tokens": n, "seconds": n} for n in (1, 2, 3)
    ]
    lines.append({"step": 3, "event": "evaluation", "val_loss": 1.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    settings = {"inputs": {"corpus": "x"}, "steps": 3}
    plan = {"stage": "pretrain", "settings": settings, "steps": 3, "lr": 0.1, "changed": [[1, 3]]}
    write_sealed(folder / "plan.json", plan)
    summary = {
        "stage": "pretrain",
        "status": "finished",
        "steps": 3,
        "metrics": {"val_loss": 1.0},
        "metrics_before": {"val_loss": 2.0},
        "baselines": {"linear": {"val_loss": 1.5}},
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    config = asdict(PretrainConfig(data="x"))
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")


def make_classifier_run(folder: Path) -> None:
    """What a page reads of a run of a classifier."""
    make_run(folder)
    (folder / "best").mkdir()
    figures = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    bins = {"above": 0.4, "up_to": 0.6, "num_examples": 4, "confidence": 0.5, "accuracy": 0.5}
    metrics = {
        "accuracy": 0.5,
        "macro_f1": 0.5,
        "intervals": {"accuracy": [0.4, 0.6]},
        "labels": ["a", "b"],
        "per_class": [{"label": label, **figures} for label in "ab"],
        "confusion": [[1, 1], [1, 1]],
        "reliability": [bins],
    }
    summary = {"stage": "finetune-classify", "status": "finished", "metrics": metrics}
    row = {"text": "t", "label": "a", "predicted": "b", "probabilities": {"a": 0.1, "b": 0.9}}
    answer = {"question": "q", "reference": "r", "before": "b", "after": "a"}
    info = {"step": 3, "lineage": {"parent": "x"}, "files": {"model.safetensors": "y"}}
    for name, record in (
        ("summary.json", summary),
        ("predictions.jsonl", row),
        ("answers.jsonl", answer),
        ("best/llmstages.json", info),
    ):
        (folder / name).write_text(json.dumps(record), encoding="utf-8")


def make_corpus(folder: Path, tokenizer: Tokenizer) -> None:
    """A corpus of two documents a split, with its token shards."""
    for split in SPLITS:
        (folder / "documents" / split).mkdir(parents=True)
        columns = [["1", "2"], [TEXT, TEXT[:100]], ["s", "s"], [None, None], ["en", None]]
        documents = pa.table([*columns, ["{}", "{}"]], schema=DOCUMENT_SCHEMA)
        pq.write_table(documents, folder / "documents" / split / "s-00000.parquet")
    counts = Counts(2, 500, len(TEXT) + 100)
    source = SourceManifest(
        name="s",
        kind="files",
        license=None,
        weight=None,
        priority=0,
        published_tokens=None,
        published_epochs=None,
        inputs=[],
        skipped={},
        extracted=counts,
        dropped={},
        decontaminated=Counts(),
        train=counts,
        validation=counts,
        documents_sha256="",
    )
    Manifest(FORMAT_VERSION, "local", [source], {}, {}).write(folder)
    write_token_shards(Corpus.open(folder), tokenizer)


class Samples:
    """A checkpoint, a run and a corpus, made once a process in a folder that ends with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llmstages-hostile-")
        self.folder = Path(self._folder.name)
        self.tokenizer = make_tokenizer()
        torch.manual_seed(0)
        make_checkpoint(self.folder / "checkpoint", self.tokenizer)
        make_run(self.folder / "run")
        make_classifier_run(self.folder / "classifier")
        make_corpus(self.folder / "corpus", self.tokenizer)

    def files(self, kind: str) -> list[str]:
        """The files of a sample."""
        root = self.folder / kind
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


_samples: list[Samples] = []


def samples() -> Samples:
    """The samples of this process."""
    if not _samples:
        _samples.append(Samples())
    return _samples[0]


@dataclass(frozen=True)
class Damage:
    """What is done to one file of a directory."""

    file: int
    """Chooses the file."""
    how: str
    mutations: list[Mutation]
    place: int
    """Chooses the value in a JSON file."""
    value: Any
    sealed: bool
    """A record that has a seal is sealed anew; else the record of a checkpoint is taken away."""

    def apply(self, root: Path, names: list[str]) -> str:
        """Damage a copy; returns the file's name."""
        name = names[self.file % len(names)]
        path = root / name
        if self.how == "directory":
            path.unlink()
            path.mkdir()
        elif self.how == "link":
            path.unlink()
            path.symlink_to("nowhere")
        elif self.how == "gone":
            path.unlink()
        elif self.how == "value" and name.endswith((".json", ".jsonl", ".yaml")):
            self._change_value(path)
        else:
            content = path.read_bytes()
            for mutation in self.mutations:
                content = mutation.apply(content)
            path.write_bytes(content)
        return name

    def _change_value(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else None
        record = json.loads(lines[0] if lines else path.read_text(encoding="utf-8"))
        places = list(_places(record))
        holder, key = places[self.place % len(places)]
        if key == "sha256" and holder is record:
            return
        holder[key] = self.value
        if self.place % 7 == 0:
            del holder[key]
        if "sha256" in record and self.sealed:
            del record["sha256"]
            record["sha256"] = seal_of(record)
        path.write_text("\n".join([json.dumps(record), *(lines or [])[1:]]), encoding="utf-8")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a parsed JSON value, by what holds it and under which key; few of a list."""
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index in range(min(3, len(value))):
            yield value, index
            yield from _places(value[index])


DAMAGES = st.builds(
    Damage,
    st.integers(0, 100),
    st.sampled_from(["mutate", "mutate", "value", "value", "value", "directory", "link", "gone"]),
    MUTATIONS,
    st.integers(0, 10_000),
    st.sampled_from(HOSTILE_VALUES),
    st.booleans(),
)


def damaged(folder: Path, kind: str, damage: Damage, names: list[str]) -> Path:
    """A damaged copy of a sample."""
    root = folder / kind
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(samples().folder / kind, root)
    damage.apply(root, names)
    return root


def check_checkpoint(folder: Path, damage: Damage) -> None:
    """What loads has the shape its files say, and a tokenizer whose ids fit."""
    names = [n for n in samples().files("checkpoint") if n not in ("generation_config.json",)]
    root = damaged(folder, "checkpoint", damage, names)
    if not damage.sealed and not (root / "llmstages.json").is_dir():
        (root / "llmstages.json").unlink(missing_ok=True)
    with bounded():
        with refused(root.name):
            loaded = load_checkpoint(root)
            assert loaded.tokenizer.vocab_size <= loaded.model.config.vocab_size
            assert loaded.labels is None or len(set(loaded.labels)) == len(loaded.labels)
            ids = loaded.tokenizer.encode("some text \x00 é")
            tokens = torch.tensor([[*ids[:5], loaded.tokenizer.end_id]])
            with torch.no_grad():
                loaded.model(tokens)
        with refused(root.name), silent():
            inspect_checkpoint(root, InspectConfig(path=str(root)))


def check_run(folder: Path, damage: Damage) -> None:
    """The records of a run, as `inspect`, a resumed run and `prove` read them."""
    root = damaged(folder, "run", damage, samples().files("run"))
    with bounded():
        with refused(root.name):
            read_plan(root)
        with refused(root.name):
            from_file("pretrain", root / "config.yaml")
        with refused(root.name), silent():
            inspect_run(root)
        with refused(root.name), silent():
            inspect_checkpoint(resolve_checkpoint(str(root)), InspectConfig(path=str(root)))


def check_pictures(folder: Path, damage: Damage) -> None:
    """Curves are drawn of whatever is left of the metrics."""
    root = damaged(folder, "run", damage, ["metrics.jsonl"])
    with bounded(), refused(root.name):
        draw_curves(root, "a title with $, _ and\nnewline")


def check_page(folder: Path, damage: Damage) -> None:
    """A page is made of whatever is left; what is left of a text is no markup."""
    kind = ("run", "classifier", "corpus")[damage.place % 3]
    root = damaged(folder, kind, damage, samples().files(kind))
    with bounded(), refused(root.name):
        html = render_page(page_of(read_records([root])))
        sound(html)
        assert html.count("<script") == 1
        assert not re.search(r'="(nan|-?inf)', html), "a number that cannot be drawn"


def check_corpus(folder: Path, damage: Damage) -> None:
    """Documents that come out are texts; ids that come out are the tokenizer's."""
    root = damaged(folder, "corpus", damage, samples().files("corpus"))
    tokenizer = samples().tokenizer
    with bounded():
        with refused(root.name):
            corpus = Corpus.open(root)
            for split in SPLITS:
                for document in corpus.documents(split):
                    assert isinstance(document.text, str)
                    sound(document.text)
            for shard in write_token_shards(corpus, tokenizer).shards:
                ids = shard.part(0, len(shard.ids))
                assert ids.size == 0 or ids.max() < tokenizer.vocab_size
                assert ids.size == 0 or shard.document_at(len(ids) - 1)
        with refused(root.name), silent():
            inspect_corpus(root, InspectConfig(path=str(root)))


# -------------------------------------------------------------------------------------------------
# chat templates of foreign tokenizers


NUM_BYTES = 256
"""Ids of the foreign tokenizer below that are no control tokens."""
SOUND_TEMPLATES = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>"
    "{% generation %}{{ m.content | trim }}{% endgeneration %}{{ eos_token }}{% else %}"
    "{{ '<|' + m.role + '|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)
TEMPLATE_PIECES = (
    *("{% for m in messages %}", "{% endfor %}", "{% if add_generation_prompt %}", "{% endif %}"),
    *("{% generation %}", "{% endgeneration %}", "{% set x %}", "{% endset %}", "{{ x[0] }}"),
    *("{{ x[1:] }}", "{{ m.content }}", "{{ m.content[0] }}", "{{ m.content[::-1] }}"),
    *("{{ m.content ~ m.content }}", "{{ m.content[0] ~ '99' ~ m.content[0] }}", "{{ m }}"),
    *("{{ messages }}", "{{ messages[0].content }}", "{{ '<|' ~ m.role ~ '|>' }}", "</s>"),
    *("<|assistant|>", "{{ eos_token }}", "{{ '\\ud800' }}", "{{ '\\x00\\x1b' }}", "{{ 1 / 0 }}"),
    *("{{ raise_exception('no\\nno') }}", "{{ raise_exception('x' * 10 ** 7) }}", "{{ 9 ** 9 }}"),
    *("{{ 'a' * 10 ** 8 }}", "{{ ''.__class__ }}", "{{ strftime_now('%s') }}", "{{ x | random }}"),
    *(
        "{{ m.content | length }}",
        "{{ lipsum() }}",
        "{{ '%c' | format(983040) }}",
        "{{",
        "%}",
        "\n",
    ),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% break %}", "{% set messages = [] %}"),
)
TURNS = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant", "system"]),
        st.one_of(
            st.text(max_size=8),
            st.lists(
                st.sampled_from(
                    ["<|system|>", "<|user|>", "</s>", "\ud800", "\U000f0000", "0", " ", "{{ x }}"]
                ),
                max_size=4,
            ).map("".join),
        ),
    ),
    max_size=4,
)
TEMPLATES = st.one_of(
    st.lists(st.sampled_from(TEMPLATE_PIECES), max_size=5).map("".join),
    st.tuples(
        st.sampled_from(SOUND_TEMPLATES), st.sampled_from(TEMPLATE_PIECES), st.floats(0, 1)
    ).map(lambda made: _inserted(*made)),
    st.tuples(st.sampled_from(SOUND_TEMPLATES), MUTATIONS).map(lambda made: _mutated(*made)),
    st.sampled_from(SOUND_TEMPLATES),
    st.sampled_from(HOSTILE_VALUES),
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["default", "x", [], None]),
                "template": st.sampled_from([*SOUND_TEMPLATES, {}, 7]),
            },
        ),
        max_size=2,
    ),
)


def _inserted(template: str, piece: str, place: float) -> str:
    """A piece between two tags."""
    parts = re.split("(?<=})(?={)", template)
    parts.insert(round(place * len(parts)), piece)
    return "".join(parts)


def _mutated(template: str, mutations: list[Mutation]) -> str:
    """A template with its bytes changed."""
    content = template.encode()
    for mutation in mutations:
        content = mutation.apply(content)
    return content.decode(errors="replace")


def write_foreign_tokenizer(folder: Path, template: Any) -> None:
    """A tokenizer of bytes whose turn tokens are not marked as special, with a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([f"<|{role}|>" for role in ("user", "assistant", "system")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def check_template(folder: Path, case: tuple[Any, list[tuple[Any, str]]]) -> None:
    """Any template: ids that are the tokenizer's and the same again, or a refusal.

    No message adds a control token, and a prompt is what its conversation begins with.
    """
    template, turns = case
    write_foreign_tokenizer(folder, template)
    messages = [Message(role, content) for role, content in turns]
    with bounded(), refused("tokenizer_config.json"):
        tokenizer = Tokenizer.load(folder)
        stops = stop_ids(tokenizer)
        assert set(stops) <= set(range(tokenizer.vocab_size))
        for asked in ([*messages, Message("user", "?")], [Message("user", "?")]):
            prompt, _ = render(asked, tokenizer, open_answer=True)
            ids, learnt = render([*asked, Message("assistant", "!")], tokenizer)
            assert len(ids) == len(learnt)
            assert all(0 <= index < tokenizer.vocab_size for index in ids)
            assert ids[: len(prompt)] == prompt, "a prompt that no conversation begins with"
            assert render(asked, tokenizer, open_answer=True)[0] == prompt
            if template in SOUND_TEMPLATES:
                plain = [Message(message.role, "x") for message in asked]
                found, expected = (
                    [index for index in one if index >= NUM_BYTES]
                    for one in (prompt, render(plain, tokenizer, open_answer=True)[0])
                )
                assert found == expected, "a message writes control tokens"


def check_yaml(folder: Path, text: str) -> None:
    """Any text as the config of a run."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with bounded(), refused(path.name):
        from_file("pretrain", path)


def check_terminal(folder: Path, text: str) -> None:
    """No control character is printed, whatever is to be shown."""
    with silent():
        table(text, (text, "b"), [(text, 1)], to_output=True)
    caught = io.StringIO()
    with contextlib.redirect_stderr(caught):
        say(text)
    assert caught.getvalue() == visible(caught.getvalue())


# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Property:
    """A promise: inputs, and a check that gets an empty folder and one of them."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Path, Any], None]
    cost: int = 1
    """How much longer one takes than of the others."""


FILE_NAMES = st.sampled_from(
    [*SOUND, "rows.ndjson", "rows.tab", "rows.dat", "rows.npy", "data.pkl"]
)
POLICIES = st.sampled_from(["refuse", "skip"])
YAML_PIECES = st.sampled_from(
    [
        *("steps: 1\n", "a: &a [x]\n", "b: *a\n", "optim:\n  lr: 1\n", "model: {", "}\n", "- x\n"),
        *("<<: *a\n", "!!python/object/apply:os.system [x]\n", "? ", ": ", "name: '", "'\n"),
        *("${steps}", "${oc.env:HOME}", "\t", "---\n", "...\n", "%YAML 9.9\n", "!!binary =\n"),
        *("steps: .inf\n", "seed: 9e999\n", "steps: null\n", "data: x\n", "0: 1\n", "~: 1\n"),
    ]
)
PROPERTIES = {
    "labelled: any bytes": Property(st.tuples(FILE_NAMES, st.binary(max_size=300)), check_bytes),
    "labelled: damaged files": Property(
        st.tuples(st.sampled_from(list(SOUND)), MUTATIONS), check_mutated_file
    ),
    "labelled: tables of hostile cells": Property(
        st.tuples(
            st.lists(st.tuples(CELLS, CELLS), max_size=6),
            st.sampled_from([",", "\t", ";", "|"]),
            st.sampled_from(["csv", "tsv"]),
            st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]),
            st.booleans(),
            POLICIES,
        ),
        check_table,
    ),
    "labelled: JSON of any values": Property(
        st.tuples(
            st.lists(
                st.one_of(
                    st.fixed_dictionaries({"text": JSON_VALUES, "label": JSON_VALUES}),
                    st.fixed_dictionaries(
                        {
                            "messages": st.lists(
                                st.fixed_dictionaries(
                                    {},
                                    optional={
                                        "role": st.one_of(
                                            st.sampled_from(["user", "gpt", "system"]), JSON_VALUES
                                        ),
                                        "content": st.one_of(CELLS, JSON_VALUES),
                                    },
                                ),
                                max_size=3,
                            )
                        }
                    ),
                    JSON_VALUES,
                ),
                min_size=1,
                max_size=5,
            ),
            POLICIES,
        ),
        check_json_rows,
    ),
    "checkpoints": Property(DAMAGES, check_checkpoint),
    "records of runs": Property(DAMAGES, check_run),
    "pictures of runs": Property(DAMAGES, check_pictures, cost=10),
    "pages of runs": Property(DAMAGES, check_page, cost=4),
    "corpora": Property(DAMAGES, check_corpus),
    "configs": Property(
        st.one_of(
            st.text(max_size=60),
            st.lists(YAML_PIECES, max_size=6).map(lambda parts: "".join(parts)),
        ),
        check_yaml,
    ),
    "chat templates": Property(st.tuples(TEMPLATES, TURNS), check_template, cost=8),
    "terminal": Property(st.text(max_size=40), check_terminal),
}
