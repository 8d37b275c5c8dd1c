"""Four public labelled sets: this toolkit's classifier, TF-IDF, and the same model from nothing.

    python scripts/bench_classify.py [SET ...] [--data $LLMSTAGES_DATA] [--base RUN] [--seeds 5]
        [--texts FOLDER] [--directory bench_classify] [--jobs 1] [--json FILE] [-- WORD ...]

The whole journey, each step as typed in a shell: `collect` makes a corpus of public English text
and of the training texts of the sets, without their labels; `pretrain` makes a base of it (leave
both out with --base). With --texts, a folder that `scripts/dialogue_texts.py` wrote, that base is
trained further, on 12 million tokens of dialogues and questions too. `finetune-classify` tunes it
on the rows of each SET, with --seeds seeds; and once more the same from random weights. The split
is the same for all seeds. Tests are read by no step before the last, but to take their texts out of
what --texts brings. WORDs go to `finetune-classify`.

The table gives macro F1 and accuracy on the test rows: the mean over the seeds with its 95 %
interval (Student's t), the same from random weights, and of TF-IDF + logistic regression.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from measurement import widen_output, write_results
from rich.markup import escape
from scipy.stats import t as student

from llmstages.report.terminal import output_console, table
from llmstages.train.checkpoint import CheckpointInfo, Lineage, load_checkpoint, save_checkpoint
from llmstages.train.device import choose_device

ENGLISH = [
    "web_text_demo/c4_demo.jsonl",
    "web_text_demo/wiki_demo.txt",
    "wikitext2/train_5k.txt",
    "cc_text_jsonl",
    "instruct/llamafactory/alpaca_en_demo.json",
    "instruct/self_instruct",
]
NOVELS = ["Burnett_Garden_1911", "Chesterton_Thursday_1908", "Doyle_Lost_1912"]
NOVELS += ["Forster_Howards_1910", "Galsworthy_Saints_1919"]
WEIGHTS = {"english": 0.38, "novels": 0.10, "korean_3i4k": 0.20}
WEIGHTS |= {"banking77": 0.12, "snips": 0.11, "sms_spam": 0.09}
TALK = {
    "dialogues": ("dstc8-schema-guided-dialogue", "Taskmaster"),
    "questions": (
        *("oos-eval", "NLU-Evaluation-Data", "dstc11-track2-intent-induction"),
        "banking-faq-bot",
    ),
}
"""Files of --texts, by source."""
TALK_WEIGHTS = {"dialogues": 0.34, "questions": 0.18, "english": 0.08, "novels": 0.02}
TALK_WEIGHTS |= {"korean_3i4k": 0.12, "banking77": 0.10, "snips": 0.09, "sms_spam": 0.07}
TALK_TOKENS = 12_000_000
TALK_LR = 0.004
"""Two thirds of the rate that the base began with: what it reads now is more than what it has."""
EPOCHS = {"sms_spam": 6, "banking77": 12, "snips": 4, "korean_3i4k": 3}
"""Until validation rows gain nothing more."""
RECIPE = ["experiment=thorough", "optim.lr=0.001", "validation_share=0.02", "split_seed=0"]
RECIPE += ["evaluate.every_steps=1000000", "overlap=keep"]
"""The last checkpoint: the loss of few rows is least in the middle, where labels are not best.
All training rows of the set, as TF-IDF has and published figures."""
TEST_SHARE = 0.2
"""Of a set that comes without a test file."""

Row = tuple[str, str]
"""Text and label."""


@dataclass(frozen=True)
class Files:
    """What `finetune-classify` is given for a set."""

    train: Path
    test: Path


# -------------------------------------------------------------------------------------------------
# the sets


def delimited(path: Path, label_column: str) -> list[Row]:
    """Rows of a CSV file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row[label_column]) for row in csv.DictReader(file)]


def label_first(path: Path) -> list[Row]:
    """Rows of a file of `label<TAB>text`; a header is no row."""
    lines = path.read_text("utf-8-sig").splitlines()
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    return [(text, label) for label, text in pairs if label.lower() != "label"]


def split_off_test(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """(training, test) of rows without duplicates, always the same."""
    once = list(dict(reversed(list(rows))).items())
    random.Random(0).shuffle(once)
    size = round(TEST_SHARE * len(once))
    return once[size:], once[:size]


def read_sets(data: Path) -> dict[str, tuple[list[Row], list[Row]]]:
    """(training, test) rows of each set."""
    folder = data / "classify"
    banking, snips = folder / "banking77", folder / "snips"
    korean = folder / "korean_3i4k"
    return {
        "sms_spam": split_off_test(label_first(folder / "sms_spam" / "SMSSpamCollection")),
        "banking77": (
            delimited(banking / "train.csv", "category"),
            delimited(banking / "test.csv", "category"),
        ),
        "snips": (
            delimited(snips / "train.csv", "intent") + delimited(snips / "valid.csv", "intent"),
            delimited(snips / "test.csv", "intent"),
        ),
        "korean_3i4k": (
            label_first(korean / "fci_train_val.txt"),
            label_first(korean / "fci_test.txt"),
        ),
    }


def write_rows(rows: Iterable[Row], path: Path, *, labels: bool) -> None:
    """JSON Lines of texts, with their labels or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            entry = {"text": text, "label": label} if labels else {"text": text}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_sets(arguments: argparse.Namespace) -> dict[str, Files]:
    """Every set as files of one form; texts alone for the corpus."""
    found = {}
    for name, (train, test) in read_sets(arguments.data).items():
        folder = arguments.directory / "sets"
        files = Files(folder / f"{name}-train.jsonl", folder / f"{name}-test.jsonl")
        write_rows(train, files.train, labels=True)
        write_rows(test, files.test, labels=True)
        write_rows(train, arguments.directory / "texts" / f"{name}.jsonl", labels=False)
        found[name] = files
    return found


# -------------------------------------------------------------------------------------------------
# the journey


def llmstages(*words: str) -> None:
    """Run a command as typed in a shell."""
    output_console().rule(escape("llmstages " + " ".join(words)), align="left")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "llmstages", *words], check=True)


def make_base(arguments: argparse.Namespace) -> str:
    """A corpus of text that is like the sets', and the base that reads it."""
    corpora, runs = arguments.directory / "corpora", arguments.directory / "runs"
    common = ("model=nano", "mask_documents=true", f"runs_dir={runs}", "overwrite=true")
    weights = collect(arguments, "classify", WEIGHTS)
    llmstages(
        *("pretrain", str(corpora / "classify"), "name=base", *common, *weights),
        f"budget.tokens={arguments.tokens}",
    )
    if arguments.texts is None:
        return str(runs / "base")
    tests = ",".join(str(path) for path in sorted((arguments.directory / "sets").glob("*-test*")))
    against = (f"decontaminate.against=[{tests}]", "decontaminate.min_ngram_words=4")
    weights = collect(arguments, "talk", TALK_WEIGHTS, *against)
    llmstages(
        *("pretrain", str(corpora / "talk"), "name=talk", f"base={runs / 'base'}", *common[1:]),
        *(f"budget.tokens={TALK_TOKENS}", f"optim.lr={TALK_LR}", *weights),
    )
    return str(runs / "talk")


def collect(
    arguments: argparse.Namespace, name: str, shares: dict[str, float], *words: str
) -> list[str]:
    """Make a corpus of sources; returns the words by which pretraining takes each one's share."""
    paths = {
        "english": [arguments.data / name for name in ENGLISH],
        "novels": [arguments.data / "english_novels" / f"{name}.txt.gz" for name in NOVELS],
    }
    for source in shares.keys() - paths.keys() - TALK.keys():
        paths[source] = [arguments.directory / "texts" / f"{source}.jsonl"]
    for source, files in TALK.items() if arguments.texts is not None else ():
        paths[source] = [arguments.texts / f"{file}.jsonl" for file in files]
    sources = [
        f"+corpus.sources.{source}.paths=[{','.join(map(str, paths[source]))}]" for source in shares
    ]
    # Messages are shorter than what the filters of web pages let through.
    llmstages(
        *("collect", "corpus=local", f"name={name}", f"corpora_dir={arguments.directory}/corpora"),
        *("quality=off", "dedup=exact", "tokenizer.vocab_size=8192", "overwrite=true"),
        *(*sources, *words),
    )
    return [f"+corpus.sources.{source}.weight={share}" for source, share in shares.items()]


def from_nothing(base: str, seed: int, directory: Path) -> str:
    """A checkpoint of the base's shape and tokenizer with random weights."""
    path = directory / f"random-{seed}"
    if path.exists():
        return str(path)
    checkpoint = load_checkpoint(base)
    checkpoint.model.initialize(torch.Generator().manual_seed(seed))
    info = CheckpointInfo("pretrain", 0, 0, {}, Lineage())
    save_checkpoint(path, checkpoint.model, checkpoint.tokenizer, info)
    return str(path)


def tune(
    files: Files, name: str, base: str, seed: int, epochs: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The summary of a classifier."""
    runs = arguments.directory / "runs"
    llmstages(
        *("finetune-classify", str(files.train), f"test_data={files.test}", f"base={base}"),
        *(f"runs_dir={runs}", f"name={name}", f"seed={seed}"),  # one that is finished is kept
        *("baselines=false", *RECIPE, f"epochs={epochs}", *arguments.words),
    )
    summary: dict[str, Any] = json.loads((runs / name / "summary.json").read_text())
    return summary


def compare(name: str, files: Files, base: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs of a set."""
    seeds = range(arguments.seeds)
    random_bases = [from_nothing(base, seed, arguments.directory) for seed in seeds]
    jobs = [(f"{name}-{seed}", base, seed) for seed in seeds]
    jobs += [(f"{name}-random-{seed}", random_bases[seed], seed) for seed in seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = [pool.submit(tune, files, *job, EPOCHS[name], arguments) for job in jobs]
        summaries = [each.result() for each in running]
    figures = [{key: s["metrics"][key] for key in ("macro_f1", "accuracy")} for s in summaries]
    return {
        "set": name,
        "examples": summaries[0]["examples"],
        "seconds": [s["seconds"] for s in summaries],
        "pretrained": figures[: len(seeds)],
        "random": figures[len(seeds) :],
        "tfidf": baseline(files),
    }


def baseline(files: Files) -> dict[str, float]:
    """TF-IDF + logistic regression on all training rows, as `finetune-classify` reports it."""
    from llmstages.evaluate.baselines import tfidf_baseline

    train, test = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (files.train, files.test)
    )
    return tfidf_baseline(
        [row["text"] for row in train],
        [row["label"] for row in train],
        [row["text"] for row in test],
        [row["label"] for row in test],
        sorted({row["label"] for row in train}),
    )


def with_interval(values: list[float]) -> str:
    """Mean and its 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.4f} ± {half:.4f}"


def main(argv: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sets", nargs="*", metavar="SET")
    default = os.environ.get("LLMSTAGES_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default))
    parser.add_argument("--base", default=None, help="run or checkpoint to tune")
    parser.add_argument("--tokens", type=int, default=8_000_000, help="that the base reads")
    parser.add_argument("--texts", type=Path, default=None, help="dialogues to read further")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="classifiers tuned at a time")
    parser.add_argument("--directory", type=Path, default=Path("bench_classify"))
    parser.add_argument("--json", type=Path, default=None)
    own, words = argv, []
    if "--" in argv:
        own, words = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    arguments = parser.parse_args(own)
    arguments.words = words
    if arguments.data is None:
        parser.error("--data or LLMSTAGES_DATA names the folder of data sets")
    widen_output()
    files = write_sets(arguments)
    if unknown := set(arguments.sets) - files.keys():
        parser.error(f"no set {', '.join(sorted(unknown))}; there are {', '.join(files)}")
    base = arguments.base or make_base(arguments)
    results = []
    for name in arguments.sets or files:
        results.append(compare(name, files[name], base, arguments))
        if arguments.json is not None:
            device = choose_device("auto")
            write_results(arguments.json, __file__, argv, device, results)
    rows = []
    for result in results:
        for key, label in (("macro_f1", "macro F1"), ("accuracy", "accuracy")):
            rows.append(
                [
                    f"{result['set']} ({result['examples']['test']:,} test rows)",
                    label,
                    with_interval([figures[key] for figures in result["pretrained"]]),
                    with_interval([figures[key] for figures in result["random"]]),
                    f"{result['tfidf'][key]:.4f}",
                ]
            )
    columns = ["set", "figure", "from the base", "from random weights", "TF-IDF"]
    table("", columns, rows, to_output=True)


if __name__ == "__main__":
    main(sys.argv[1:])
