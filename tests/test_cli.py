"""The command line from the outside: what is typed, what a stage receives, what a user is told."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstages import __version__
from llmstages.cli import main
from llmstages.config.words import USAGES
from llmstages.errors import UserError

Stage = Callable[[Any], float | None]


class Received(list[Any]):
    """The configs that stages were started with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        for subcommand in USAGES:
            self.stage(subcommand, self._take)

    def _take(self, config: Any) -> float:
        self.append(config)
        return 0.5

    def stage(self, subcommand: str, run: Stage) -> None:
        name = f"llmstages.stages.{subcommand.replace('-', '_')}"
        module = ModuleType(name)
        module.run = run  # type: ignore[attr-defined]
        self.monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Received:
    """Stand-ins for the stages, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return Received(monkeypatch)


# --- what is shown without a stage


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_subcommand(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    shown = capsys.readouterr().out
    for subcommand, usage in USAGES.items():
        assert f"\n  {subcommand} {usage.shown}  " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["pretrain", "--version"]) == 0
    assert capsys.readouterr().out == f"llmstages {__version__}\n" * 2


def seconds_of(argv: list[str], code: str | None = None) -> float:
    """What the command takes in a process of its own. code: Python to run instead."""
    what = ["-m", "llmstages", *argv] if code is None else ["-c", code]
    start = time.perf_counter()
    subprocess.run([sys.executable, *what], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def fastest_seconds(argv: list[str], tries: int = 7) -> float:
    """Best of several runs of the command: what it needs undisturbed."""
    seconds = [seconds_of(argv)]
    while min(seconds) >= 0.2 and len(seconds) < tries:
        seconds.append(seconds_of(argv))
    return min(seconds)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []])
def test_help_and_version_answer_at_once(argv: list[str]) -> None:
    assert fastest_seconds(argv) < 0.3


def test_a_config_is_shown_at_once() -> None:
    """In 0.6 s, or three times what importing Hydra takes where the machine is slow for a while."""
    imports = "import hydra.main, hydra._internal.hydra, omegaconf"
    # In turns, so that what else the machine does falls on both.
    pairs = [(seconds_of(["pretrain", "--cfg", "job"]), seconds_of([], imports)) for _ in range(7)]
    shown, hydra = map(min, zip(*pairs, strict=True))
    assert shown < max(0.6, 3 * hydra)


@pytest.mark.parametrize(
    ("argv", "unwanted"),
    [
        (["--help"], ["hydra", "omegaconf", "yaml", "torch", "llmstages.config.stages"]),
        (["collect", "--cfg", "job"], ["torch", "daft", "pyarrow", "numpy"]),
        (["pretrain", "--help"], ["torch", "daft", "numpy", "transformers"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(
    argv: list[str], unwanted: list[str]
) -> None:
    code = (
        "import sys; from llmstages.cli import main; status = main(sys.argv[1:]); "
        f"print(sorted(set({unwanted!r}) & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], check=True, capture_output=True, text=True
    )
    assert done.stderr == "[]\n"


def test_help_of_a_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "model=nano", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("llmstages pretrain [CORPUS_DIR] [key=value ...]\n")
    assert "\n  model=auto|gpt3-175b|large|medium|micro|nano|small|tiny|xl\n" in shown
    assert "\n  experiment=airline|legal|novels|shakespeare-char|" in shown
    assert "quality" not in shown  # a group of collect
    assert "finetune" not in shown  # experiments of other subcommands
    assert "\n  # Transformer blocks.\n  num_layers: 4\n" in shown
    assert (
        "\n# Seed of the initial weights, of the order of the data and of the samples.\nseed: 0\n"
    )


def test_every_key_is_explained_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    for subcommand in USAGES:
        if subcommand == "finetune":
            continue
        assert main([subcommand, "--help"]) == 0
        keys = capsys.readouterr().out.partition("Keys (key=value)")[2].splitlines()[1:]
        for before, line in pairwise(keys):
            name, colon, _ = line.strip().partition(":")
            if colon and name.isidentifier() and not line.startswith("#"):
                is_section = line.endswith(":")
                in_dict = name.startswith("python_")
                assert is_section or in_dict or "# " in before, f"{subcommand}: {line}"


def test_hydra_flags_keep_their_values(
    received: Received, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["pretrain", "--package", "model.num_layers", "model=nano", "--cfg", "job"]) == 0
    assert main(["pretrain", "--cfg", "job", "--resolve", "--package", "data"]) == 0
    assert capsys.readouterr().out == "4\ncorpora/python\n"
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    (mine / "wide.yaml").write_text("hidden_size: 512\n")
    assert main(["pretrain", "model=wide", "--config-dir", "mine", "corpora/x", "seed=3"]) == 0
    assert (received[0].model.hidden_size, received[0].data, received[0].seed) == (
        512,
        "corpora/x",
        3,
    )
    assert main(["pretrain", "--info", "defaults", "--config-dir=mine"]) == 0
    assert "model/micro" in capsys.readouterr().out


# --- bare words


def test_bare_words(received: Received) -> None:
    assert main(["collect", "some dir", "b,c.txt", "it's=1"]) == 0
    assert main(["collect", "x", "corpus=python"]) == 0
    assert main(["collect"]) == 0
    assert main(["generate", "runs/a", "The", "lion", "is in the", "top=10"]) == 0
    assert main(["generate", "--", "runs/a", "top=10"]) == 0
    assert main(["predict", "runs/a", "a text, with words"]) == 0
    assert main(["inspect", "runs/a"]) == 0
    assert main(["chat", "runs/a", "system=Be brief."]) == 0
    assert main(["generate", "runs/a", "data=prompts.jsonl"]) == 0
    collected, added, default, generated, literal, predicted, inspected, chat, answers = received
    assert (chat.checkpoint_dir, chat.system) == ("runs/a", "Be brief.")
    assert (answers.checkpoint_dir, answers.data, answers.prompt) == (
        "runs/a",
        "prompts.jsonl",
        None,
    )
    assert collected.paths == ["some dir", "b,c.txt", "it's=1"]
    assert collected.corpus.name == "local"
    assert (added.paths, added.corpus.name) == (["x"], "python")
    assert (default.paths, default.corpus.name) == ([], "python")
    assert (generated.checkpoint_dir, generated.prompt, generated.top) == (
        "runs/a",
        "The lion is in the",
        10,
    )
    assert (literal.prompt, literal.top) == ("top=10", None)
    assert (predicted.checkpoint_dir, predicted.data) == ("runs/a", "a text, with words")
    assert inspected.path == "runs/a"


awkward = st.text(
    alphabet=st.one_of(
        st.sampled_from("\\'\"${}[](),= :?~+-\n\tab"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def prompts() -> Iterator[list[str]]:
    """Prompts that the stand-in for `generate` received."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        taken: list[str] = []
        received = Received(monkeypatch)
        received.stage("generate", lambda config: taken.append(config.prompt))
        yield taken


@settings(max_examples=15, deadline=None)
@given(prompt=awkward)
def test_a_prompt_arrives_exactly_as_typed(prompt: str, prompts: list[str]) -> None:
    assert main(["generate", "--", "runs/a", prompt]) == 0
    assert prompts[-1] == prompt


AWKWARD = [
    *("", " a ", "???", "null", "${HOME}", r"\${a", "a\\", "a=b", "--x", "[1,2]", "a\nb", "사자 🦁")
]


def test_paths_arrive_exactly_as_typed(received: Received) -> None:
    assert main(["collect", "--", *AWKWARD, *AWKWARD]) == 0
    assert received[0].paths == [*AWKWARD, *AWKWARD]


@pytest.mark.parametrize("text", AWKWARD)
def test_words_arrive_exactly_as_typed_in_a_sweep(text: str, received: Received) -> None:
    seeds = "1,2" if text == "a=b" else "1"
    assert main(["generate", "-m", f"seed={seeds}", "--", text, text]) == 0
    assert [(got.checkpoint_dir, got.prompt, str(got.seed)) for got in received] == [
        (text, text, seed) for seed in seeds.split(",")
    ]


# --- finetune looks into the file


def test_finetune_takes_the_stage_that_fits_the_file(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = "".join(f'{{"text": "text {n}", "label": "{n % 2}"}}\n' for n in range(40))
    pairs = "".join(f'{{"prompt": "say {n}", "completion": "{n}"}}\n' for n in range(40))
    Path("a,b c.jsonl").write_text(labels)
    Path("pairs.jsonl").write_text(pairs)
    assert main(["finetune", "a,b c.jsonl", "batch_size=4"]) == 0
    assert main(["finetune", "data=pairs.jsonl", "experiment=smoke"]) == 0
    classify, instruct = received
    assert type(classify).__name__ == "FinetuneClassifyConfig"
    assert (classify.data, classify.batch_size, classify.base) == (
        "a,b c.jsonl",
        4,
        "runs/pretrain",
    )
    assert type(instruct).__name__ == "FinetuneInstructConfig"
    assert (instruct.data, instruct.steps, instruct.base) == ("pairs.jsonl", 20, "runs/smoke")
    said = capsys.readouterr().err
    assert said == ("a,b c.jsonl is for finetune-classify\npairs.jsonl is for finetune-instruct\n")


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        (["prompt_column=ask", "answer_column=reply"], "FinetuneInstructConfig"),
        (["text_column=ask", "label_column=null"], "FinetuneClassifyConfig"),
        (["method=dpo"], "FinetuneInstructConfig"),
    ],
)
def test_finetune_takes_the_stage_of_the_columns_named(
    received: Received, settings: list[str], stage: str
) -> None:
    Path("faq.csv").write_text("ticket_no,ask,reply\n1,How?,So.\n")
    assert main(["finetune", "faq.csv", *settings]) == 0
    assert type(received[0]).__name__ == stage


def test_finetune_takes_several_files_of_one_kind(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("labels.csv").write_text("text,label\na,b\nc,d\n")
    Path("folder").mkdir()
    for name in ("a,b.jsonl", "folder/c.jsonl"):
        Path(name).write_text('{"prompt": "say", "completion": "so"}\n')
    assert main(["finetune", "a,b.jsonl", "folder", "data_weights=[3,1]"]) == 0
    assert main(["finetune-instruct", "data=[x.csv,folder]"]) == 0
    assert main(["finetune-instruct", "data=12"]) == 0
    assert [config.data for config in received] == [
        ["a,b.jsonl", "folder"],
        ["x.csv", "folder"],
        "12",
    ]
    assert received[0].data_weights == [3.0, 1.0]
    assert received[2].data_paths == ["12"]
    capsys.readouterr()
    assert main(["finetune", "labels.csv", "folder"]) == 2
    assert "cannot be mixed" in capsys.readouterr().err
    assert main(["finetune-instruct", "a,b.jsonl", "folder", "data_weights=[1]"]) == 2
    assert "data_weights has 1 numbers and data 2" in capsys.readouterr().err
    assert main(["finetune-instruct", "data={a:1}"]) == 2
    assert "data is a path, or a list of paths" in capsys.readouterr().err


# --- one line for every mistake


MISTAKES = [
    ("pretain", "pretain is no subcommand: did you mean pretrain?"),
    ("pretrain stepz=1", "pretrain has no key stepz: did you mean steps?"),
    ("pretrain lr=1", "pretrain has no key lr: did you mean optim.lr?"),
    (
        "pretrain model.num_layer=1",
        "pretrain has no key model.num_layer: did you mean model.num_layers?",
    ),
    ("pretrain +typo=1", "pretrain has no key typo: did you mean dtype?"),
    ("pretrain +typo=1 --cfg job", "pretrain has no key typo: did you mean dtype?"),
    ("pretrain modell=small", "pretrain has no key modell: did you mean model?"),
    ("pretrain model=smal", "model=smal is unknown: did you mean small?"),
    (
        "pretrain quality=off",
        "pretrain has no group quality: its groups are optim, schedule, corpus, model, experiment",
    ),
    (
        "inspect x method=dpo",
        "inspect has no key method: llmstages inspect --help shows its keys; "
        "words with an = go after --",
    ),
    ("pretrain experiment=smok", "pretrain has no experiment smok: did you mean smoke?"),
    ("pretrain steps=abc", "steps=abc: steps is a whole number, or null"),
    ("pretrain steps=1.5", "steps=1.5: steps is a whole number, or null"),
    ("pretrain overwrite=maybe", "overwrite=maybe: overwrite is true or false"),
    (
        "pretrain budget=5",
        "budget=5: budget is a section with keys of its own "
        "(budget.seconds, budget.minutes, budget.tokens, ...)",
    ),
    (
        "pretrain model.num_layers=null",
        "model.num_layers=null: model.num_layers is a whole number",
    ),
    (
        "pretrain steps=1,2",
        "steps=1,2 holds several values: add --multirun to run each, or write \"steps='1,2'\" for "
        "one value with a comma, steps=[1,2] for a list",
    ),
    (
        "pretrain name=it's",
        "cannot read name=it's: put quotes around the value, as in 'name=\"it's\"'",
    ),
    ("pretrain name=${nme}", "name: ${nme} names no key"),
    (
        "pretrain corpus.sources.wiki.weight=0.1",
        "corpus.sources has no entry wiki here: +corpus.sources.wiki.weight=... adds it",
    ),
    (
        "pretrain data/x=1.txt",
        "pretrain has no key data/x: for a path with an = sign write ./data/x=..., "
        "or put it after --",
    ),
    ("pretrain ~steps", "~steps: a key cannot be taken away, write steps=null"),
    (
        "pretrain steps=1 epochs=2 model.layout=x device=gpu",
        "model.layout=x is unknown: choose one of qwen3, nanochat, gpt2; device=gpu is unknown: "
        "did you mean cpu?; steps=1 and epochs=2.0 are given: keep one of them",
    ),
    (
        "pretrain model=auto model.num_layers=2 steps=1 budget.flops=1e9 budget.cost=2",
        "model.num_layers=2 is given with model=auto, which picks it; "
        "steps=1 and budget.flops=1000000000.0 and budget.cost=2.0 are given: keep one of "
        "them; budget.cost is given without budget.price_per_hour: give both",
    ),
    (
        "plan budget.cost=1 budget.price_per_hour=2 price_per_hour=3",
        "price_per_hour and budget.price_per_hour: keep one",
    ),
    (
        "pretrain budget.cost=0.0001 budget.price_per_hour=2",
        "budget.cost=0.0001 at budget.price_per_hour=2 buys 0.18 s: it must be at least 1 s",
    ),
    (
        "finetune-classify x batch_tokens=5 batch_size=0 steps=0",
        "steps=0 must be at least 1; batch_size=0 must be at least 1; "
        "batch_tokens=5 is not used by a classifier: set batch_size",
    ),
    ("pretrain a b", "'b' is one word too many: llmstages pretrain [CORPUS_DIR] [key=value ...]"),
    ("pretrain a data=b", "data is given twice, as the word 'a' and as data=b: keep one"),
    ("generate a", "prompt missing: llmstages generate CHECKPOINT PROMPT [key=value ...]"),
    (
        "predict",
        "checkpoint_dir and data missing: llmstages predict CHECKPOINT FILE [key=value ...]",
    ),
    ("chat", "checkpoint_dir missing: llmstages chat CHECKPOINT [key=value ...]"),
    ("serve", "checkpoint_dir missing: llmstages serve CHECKPOINT [key=value ...]"),
    (
        "chat a b",
        "'b' is one word too many: llmstages chat CHECKPOINT [key=value ...]",
    ),
    (
        "generate a b data=c top=0",
        "top=0 must be between 1 and 1000; data=c and prompt=b are given: keep one; "
        "data=c and top=0 are given: keep one",
    ),
    ("finetune", "data is missing: llmstages finetune FILE ... [key=value ...]"),
    ("finetune-instruct", "data missing: llmstages finetune-instruct FILE ... [key=value ...]"),
    ("inspect", "path missing: llmstages inspect PATH [key=value ...]"),
    ("inspect --cfg jb", "--cfg jb is unknown: did you mean job?"),
    ("inspect --cfg", "--cfg needs a value after it"),
    ("inspect --confg-dir x", "--confg-dir is no option: did you mean --config-dir?"),
    (
        "inspect --num-examples 5",
        "--num-examples is no option: settings are written num_examples=5",
    ),
    ("inspect x --5", "--5 is no option: put words that start with a dash after --"),
    ("pretrain --config-dir nowhere", "Additional config directory '{cwd}/nowhere' not found"),
    (
        "pretrain --cfg job --resolve --multirun",
        "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified",
    ),
    (
        "generate a b experiment=smoke",
        "generate has no experiments yet: put one in DIR/experiment/generate/NAME.yaml and add "
        "--config-dir DIR",
    ),
]


@pytest.mark.parametrize(("typed", "line"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_is_one_line(
    typed: str, line: str, received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    assert capsys.readouterr().err == f"error: {line.replace('{cwd}', os.getcwd())}\n"
    assert not received
    assert os.listdir() == []


FILE_MISTAKES = [
    (
        "model/a.yaml",
        "num_layers: 3\nnun_heads: 2\n",
        "model=a",
        "mine/model/a.yaml:2: pretrain has no key model.nun_heads: did you mean model.num_heads?",
    ),
    (
        "model/a.yaml",
        "num_layers: [3\nhidden_size: 2\n",
        "model=a",
        "mine/model/a.yaml:2: broken YAML: expected ',' or ']', but got ':'",
    ),
    (
        "model/a.yaml",
        "num_layers: three\n",
        "model=a",
        "mine/model/a.yaml:1: model.num_layers=three: model.num_layers is a whole number",
    ),
    (
        "model/a.yaml",
        "num_layers: 3\nnum_layers: 2\n",
        "model=a",
        "mine/model/a.yaml:2: broken YAML: found duplicate key num_layers",
    ),
    (
        "model/a.yaml",
        "- 3\n",
        "model=a",
        "mine/model/a.yaml: model is a section with keys of its own (model.name, model.layout, "
        "model.num_layers, ...); one of its files is chosen in the defaults list "
        "(- override /model: [3])",
    ),
    (
        "experiment/pretrain/a.yaml",
        "# @package _global_\ndefaults:\n  - override /model: nanoo\n",
        "experiment=a",
        "mine/experiment/pretrain/a.yaml: model=nanoo is unknown: did you mean nano?",
    ),
    (
        "experiment/pretrain/a.yaml",
        "# @package _global_\ndefaults:\n  - override /modl: nano\n",
        "experiment=a",
        "mine/experiment/pretrain/a.yaml: pretrain has no group modl: did you mean model?",
    ),
    (
        "experiment/pretrain/a.yaml",
        "# @package _global_\nseed: 1\nsteps: 1e3\n",
        "experiment=a",
        "mine/experiment/pretrain/a.yaml:3: steps=1000.0: steps is a whole number, or null: "
        "write 1000",
    ),
    (
        "experiment/pretrain/a.yaml",
        "# @package _global_\ncompile: off\n",
        "experiment=a",
        "compile: YAML reads a bare off as false: write 'off' in quotes",
    ),
    (
        "experiment/pretrain/abc.yaml",
        "# @package _global_\n",
        "experiment=abd",
        "pretrain has no experiment abd: did you mean abc?",
    ),
]


@pytest.mark.parametrize(("file", "text", "override", "line"), FILE_MISTAKES)
def test_a_mistake_in_a_file_names_it(
    file: str,
    text: str,
    override: str,
    line: str,
    received: Received,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = Path("mine", file)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert main(["pretrain", "--config-dir", "mine", override]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    assert not received


# --- numbers, sources, experiments


def test_whole_numbers_may_be_written_short(received: Received) -> None:
    assert main(["pretrain", "steps=1e4", "optim.lr=1e-3"]) == 0
    assert main(["pretrain", "budget.tokens=2.5e9"]) == 0
    assert main(["pretrain", "-m", "steps=1e3,20"]) == 0
    assert [config.steps for config in received] == [10_000, None, 1000, 20]
    assert received[0].optim.lr == 0.001
    assert received[1].budget.tokens == 2_500_000_000


def test_a_source_is_added_and_a_weight_overridden(received: Received) -> None:
    assert main(["pretrain", "+corpus.sources.wiki.weight=0.5", "corpus=local"]) == 0
    sources = ("python_topics", "python_stdlib", "python_packages")
    assert main(["pretrain", *(f"corpus.sources.{name}.weight=3" for name in sources)]) == 0
    assert list(received[0].corpus.sources) == ["wiki"]
    assert received[0].corpus.sources["wiki"].weight == 0.5
    assert received[1].corpus.sources["python_topics"].weight == 3.0


def test_weights_are_given_to_all_sources_or_to_none(
    received: Received, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "corpus.sources.python_topics.weight=3"]) == 2
    assert not received
    assert "python_stdlib has no weight but others have" in capfd.readouterr().err


def test_what_is_typed_wins_over_the_experiment_and_that_over_the_file(received: Received) -> None:
    assert main(["pretrain", "experiment=smoke", "steps=3"]) == 0
    assert (received[0].steps, received[0].batch_tokens, received[0].model.name) == (
        3,
        2048,
        "nano",
    )


# --- how it ends


def test_a_failure_at_run_time_is_status_1(
    received: Received, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Any) -> None:
        raise RuntimeError("out of memory\nmany more lines")

    received.stage("pretrain", fail)
    assert main(["pretrain"]) == 1
    assert capsys.readouterr().err == (
        "error: pretrain failed: RuntimeError: out of memory "
        "(set HYDRA_FULL_ERROR=1 for the traceback)\n"
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["pretrain"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.endswith("error: pretrain failed: RuntimeError: out of memory\n")


def test_a_mistake_found_by_the_stage_is_status_2(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: Any) -> None:
        raise UserError("x.jsonl:3: broken JSON")

    received.stage("pretrain", refuse)
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == "error: x.jsonl:3: broken JSON\n"


@pytest.mark.parametrize("argv", [["pretrain"], ["pretrain", "-m", "seed=1,2"]])
def test_an_interrupt_is_status_130(
    argv: list[str], received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: Any) -> None:
        raise KeyboardInterrupt

    received.stage("pretrain", interrupt)
    assert main(argv) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_to_the_process_is_an_interrupt(name: str) -> None:
    program = f"""
import signal, sys
from llmstages import cli

cli._run = lambda argv: signal.raise_signal(signal.{name})
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_reader_that_has_gone_is_no_error() -> None:
    program = f"{sys.executable} -m llmstages pretrain --help | head -1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("llmstages pretrain")
    assert done.stderr == ""


def test_jobs_of_a_sweep_have_directories_of_their_own(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--multirun", "optim.lr=1e-3,1e-4", "name=x"]) == 0
    assert [(got.name, got.name_suffix, got.optim.lr) for got in received] == [
        ("x", "0", 1e-3),
        ("x", "1", 1e-4),
    ]
    assert "optim.lr=0.0001" in capsys.readouterr().err
    assert main(["pretrain", "-m", "seed=7,8", "name_suffix=seed${seed}"]) == 0
    assert [got.name_suffix for got in received[2:]] == ["seed7", "seed8"]


def test_a_sweep_goes_on_after_a_job_that_failed(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = []

    def fail_once(config: Any) -> float:
        seeds.append(config.seed)
        if config.seed == 1:
            raise UserError("not this seed")
        return 0.0

    received.stage("pretrain", fail_once)
    assert main(["pretrain", "-m", "seed=1,2"]) == 2
    assert seeds == [1, 2]
    said = capsys.readouterr().err
    assert "['seed=1']" in said
    assert said.endswith("error: not this seed\n")


def test_a_sweeper_gets_the_headline_metric(
    received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    values = []
    launch = BasicLauncher.launch

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        results = launch(self, *args, **kwargs)
        values.extend(result.return_value for result in results)
        return results

    monkeypatch.setattr(BasicLauncher, "launch", spy)
    assert main(["pretrain", "-m", "seed=1,2"]) == 0
    assert values == [0.5, 0.5]


def test_a_run_leaves_the_process_and_the_folder_as_they_were(received: Received) -> None:
    before = (sys.argv, dict(os.environ), os.getcwd())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for argv, status in [
        (["pretrain"], 0),
        (["pretrain", "stepz=1"], 2),
        (["collect"], 0),
        (["pretrain", "--help"], 0),
        (["pretrain", "seed=2"], 0),
    ]:
        assert main(argv) == status
        assert (sys.argv, dict(os.environ), os.getcwd()) == before
        assert (root.handlers, root.level) == (handlers, level)
    assert [type(config).__name__ for config in received] == [
        "PretrainConfig",
        "CollectConfig",
        "PretrainConfig",
    ]
    assert os.listdir() == []


def test_notices_of_llmstages_are_plain_lines_on_stderr(
    received: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(config: Any) -> None:
        logging.getLogger("llmstages").info("read as latin-1")
        logging.getLogger("elsewhere").info("chatter")

    received.stage("inspect", speak)
    assert main(["inspect", "x"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "read as latin-1\n")


# --- tab completion


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("llmstages pre", "pretrain predict"),
        ("llmstages ch", "chat"),
        ("llmstages chat runs/x sys", "system="),
        ("llmstages pretrain model=na", "model=nano"),
        ("./bin/llmstages pretrain mod", "model. model="),
        ("llmstages pretrain corpora/x model.num_", None),
        ("llmstages pretrain corpora/x exp", "experiment="),
        ("llmstages pretrain experiment=sm", "experiment=smoke"),
        ("llmstages pretrain qual", ""),
        ("llmstages generate runs/x --cfg job max_", "max_new_tokens="),
        ("llmstages inspect --config-", "--config-path --config-name --config-dir"),
        ("llmstages pretrain ./da", ""),
        ("llmstages pretrain model=zzz see", ""),
        ("llmstages finetune x.jsonl batch_s", "batch_size="),
        ("llmstages nothing x", ""),
    ],
)
def test_completion(
    line: str,
    answers: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if answers is None:
        answers = "model.num_heads= model.num_kv_heads= model.num_layers="
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{answers}\n"
    assert captured.err == ""


def test_completion_in_fish(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", "llmstages pretrain corpora/x model.num_")
    assert main(["--shell-completion", "query=fish"]) == 0
    answers = ["model.num_heads=", "model.num_kv_heads=", "model.num_layers="]
    assert capsys.readouterr().out.splitlines() == answers


def test_completion_in_bash(tmp_path: Path) -> None:
    program = tmp_path / "llmstages"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmstages "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(llmstages -sc install=bash)"
        COMP_LINE="llmstages pretrain model=s"; COMP_POINT=${#COMP_LINE}
        COMP_WORDS=(llmstages pretrain model=s); COMP_CWORD=2
        hydra_bash_completion
        echo "${COMPREPLY[*]}"; [[ $COMP_WORDBREAKS != *=* ]]
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "model=small\n"


def test_completion_script_of_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("-F hydra_bash_completion llmstages")
