"""What README.md, docs/architecture.md and docs/recipes.md name exists, and what they tell to type
works."""

import importlib
import json
import re
import shlex
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from llmstages.cli import main
from llmstages.config.folders import conf_dir, group_choices
from llmstages.config.groups import ModelConfig
from llmstages.config.schema import find_key
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import USAGES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
RECIPES = ROOT / "docs" / "recipes.md"
PAGES = [README, ARCHITECTURE, RECIPES]
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHOICES = {subcommand: group_choices(subcommand, [conf_dir()]) for subcommand in SUBCOMMANDS}
STAND_INS = {"key", "group", "typo"}
"""Names that the pages use to speak of keys as such."""


# --- reading the pages


def blocks(page: Path, language: str) -> list[str]:
    """Contents of a page's fenced blocks in a language."""
    return [content for found, content in FENCE.findall(TEXTS[page]) if found == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", TEXTS[page])


def spans(text: str) -> list[str]:
    """Inline code."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", text)]


def table(page: Path, first_header: str) -> list[list[str]]:
    """Cells of the table whose first column has this heading, without its header."""
    lines = TEXTS[page].splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(rf"\| {first_header} +\|", line)]
    assert len(starts) == 1, f"{page.name} has {len(starts)} tables of {first_header}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def tree(page: Path, root: str) -> dict[str, str]:
    """Paths of an indented tree below its first line, `/` at the end of directories."""
    block = next(block for block in blocks(page, "text") if block.startswith(root))
    paths: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in block.splitlines():
        found = re.match(r"( *)(\S+)(?:  +(\S.*))?$", line)
        assert found is not None, line
        width = len(found[1])
        above = [(outer, name) for outer, name in above if outer < width]
        above.append((width, found[2]))
        path = "".join(name for _, name in above)
        paths[path.removeprefix(root)] = found[3] or ""
    paths.pop("", None)
    assert len(paths) > 5
    return paths


def commands(page: Path) -> list[list[str]]:
    """Every `llmstages ...` line that a page tells to type, as arguments."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [span for span in spans(prose(page)) if span.startswith("llmstages ")]
    typed = [shlex.split(part) for line in lines for part in line.split(" && ")]
    return [words[1:] for words in typed if words[0] == "llmstages" and "SUBCOMMAND" not in words]


COMMANDS = sorted({shlex.join(words) for page in PAGES for words in commands(page)})


# --- what is typed


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Configs that stages were started with, in a directory with the files that README names."""
    monkeypatch.chdir(tmp_path)
    (rows,) = blocks(README, "json")
    for name, row in zip(("pairs.jsonl", "reviews.jsonl"), rows.splitlines(), strict=True):
        (tmp_path / name).write_text(row + "\n", encoding="utf-8")
    for name in ("spam", "ham"):
        (tmp_path / "mails" / name).mkdir(parents=True)
        (tmp_path / "mails" / name / "0001.eml").write_text("Subject: a\n\nb\n", encoding="utf-8")
    for name, content in re.findall(
        r"`(my_conf/\S+)`:\n\n```yaml\n(.*?)^```", TEXTS[README], re.S | re.M
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    received: list[Any] = []

    def run(config: Any) -> float:
        received.append(config)
        return 0.5

    for subcommand in USAGES:
        name = f"llmstages.stages.{subcommand.replace('-', '_')}"
        module = ModuleType(name)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return received


def test_the_pages_tell_what_to_type() -> None:
    assert len(COMMANDS) > 25
    assert {words[0] for page in PAGES for words in commands(page)} >= set(USAGES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(
    command: str, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    if any(word.startswith("hydra/") for word in words):
        # Their jobs may run where no stage is a stand-in: what is set alone is looked at.
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
        words = [word for word in words if word != "-m" and not {",", "("} & set(word)]
        words += ["--cfg", "hydra"]
    assert main(words) == 0, capsys.readouterr().err
    jobs = 1
    if "--multirun" in words:
        for word in words:
            jobs *= word.count(",") + 1
    shows = {"--help", "--cfg", "--version", "-sc"} & set(words)
    assert len(started) == (0 if shows else jobs)


def test_the_rows_shown_are_what_finetune_takes_them_for(started: list[Any]) -> None:
    for name, stage in (("pairs", "finetune-instruct"), ("reviews", "finetune-classify")):
        assert main(["finetune", f"{name}.jsonl"]) == 0
        assert type(started[-1]) is SUBCOMMANDS[stage]


def test_the_recipe_and_the_experiment_are_shown_whole(started: list[Any]) -> None:
    names = {path.as_posix() for path in Path("my_conf").rglob("*.yaml")}
    assert names == {"my_conf/corpus/mix.yaml", "my_conf/experiment/pretrain/night.yaml"}
    main(["collect", "--config-dir", "my_conf", "corpus=mix"])
    assert {name: source.weight for name, source in started[0].corpus.sources.items()} == {
        "novels": 0.75,
        "python_topics": 0.25,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_in_the_text_exists(page: Path) -> None:
    groups = {"experiment"}.union(*CHOICES.values())
    settings = {
        found[1]
        for span in spans(prose(page))
        if span.split()[0] not in ("llmstages", "eval", "make", "python")
        for word in span.split()
        if (found := re.match(r"[+~]*([a-z_][\w.]*)=", word))
    }
    assert len(settings - STAND_INS) >= 8
    for key in settings - STAND_INS - groups:
        if key.startswith("hydra."):
            continue  # of a plugin; the commands of the page are composed with it
        assert any(find_key(schema, key) for schema in SUBCOMMANDS.values()), key


def test_the_keys_of_the_table_exist() -> None:
    keys = [key for row in table(README, "key") for key in spans(row[0])]
    assert len(keys) > 15
    for key in keys:
        assert any(find_key(schema, key) for schema in SUBCOMMANDS.values()), key


# --- tables


def test_every_group_with_its_choices_and_subcommands() -> None:
    told = {
        spans(row[0])[0]: (set(spans(row[1])), set(spans(row[2]))) for row in table(README, "group")
    }
    true: dict[str, tuple[set[str], set[str]]] = {}
    for subcommand, groups in CHOICES.items():
        for group, names in groups.items():
            entry = true.setdefault(group, (set(), set()))
            entry[0].update(names)
            entry[1].add(subcommand)
    assert told == true


def test_every_model_with_its_size() -> None:
    from llmstages.model.counts import num_parameters
    from llmstages.stages.pretrain import transformer_config

    rows = {
        spans(row[0])[0]: [int(cell.replace(",", "")) for cell in row[1:]]
        for row in table(README, "model")
    }
    assert set(rows) == {path.stem for path in (conf_dir() / "model").glob("*.yaml")} - {"auto"}
    for name, (layers, width, context, parameters, vocabulary) in rows.items():
        shape = ModelConfig(**yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text()))
        assert (shape.num_layers, shape.hidden_size, shape.context_length) == (
            layers,
            width,
            context,
        )
        assert num_parameters(transformer_config(shape, vocabulary)) == parameters


def test_every_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert {spans(row[0])[0] for row in table(README, "target")} == {f"make {t}" for t in targets}
    for page in PAGES:
        shown = "\n".join([*spans(prose(page)), *blocks(page, "sh")])
        for target, rest in re.findall(r"^make ([a-z-]+)(.*)$", shown, re.MULTILINE):
            assert target in targets
            for variable in re.findall(r"([A-Z_]+)=", rest):
                assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), variable


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    line = re.search(r"The extra .*?tests\s+need\.", README.read_text("utf-8"), re.DOTALL)
    assert line is not None
    assert set(spans(line[0])) - {"llmstages collect"} == set(project["optional-dependencies"])


def test_the_subcommands_and_their_words() -> None:
    usages = next(b for b in blocks(ARCHITECTURE, "text") if b.startswith("llmstages collect"))
    told = dict(re.findall(r"^llmstages (\S+) (.*?)  +\[overrides\]", usages, re.MULTILINE))
    assert told == {name: usage.shown for name, usage in USAGES.items()}


def test_the_constants() -> None:
    rows = table(ARCHITECTURE, "constant")
    assert len(rows) > 5
    for name, value, meaning in rows:
        module, _, constant = spans(name)[0].rpartition(".")
        assert repr(getattr(importlib.import_module(module), constant)) == spans(value)[0], name
        assert meaning


# --- files


def test_the_tree_of_the_repository() -> None:
    block = next(block for block in blocks(README, "text") if block.startswith("conf/"))
    paths: list[str] = []
    for line in block.splitlines():
        found = re.match(r"( *)(\S+)(  +\S.*)?$", line)
        assert found is not None, line
        above = (
            ""
            if not found[1]
            else next(p for p in reversed(paths) if p.count("/") == 1 and p.endswith("/"))
        )
        paths.append(above + found[2])
    for path in paths:
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    for folder in ("conf", "llmstages"):
        inside = {f"{folder}/{path.name}/" for path in (ROOT / folder).iterdir() if path.is_dir()}
        assert inside - {f"{folder}/__pycache__/"} <= set(paths)
    for script in (ROOT / "scripts").glob("*.py"):
        assert f"scripts/{script.name}" in paths


def test_the_rooms() -> None:
    rooms = {spans(row[0])[0] for row in table(ARCHITECTURE, "room")}
    assert all((ROOT / room).exists() for room in rooms)
    packages = {f"llmstages/{path.parent.name}/" for path in (ROOT / "llmstages").glob("*/*.py")}
    assert packages <= rooms


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_named_in_the_text_exists(page: Path) -> None:
    named = {
        span
        for span in [*spans(prose(page)), *(word for b in blocks(page, "sh") for word in b.split())]
        if re.match(r"(llmstages|conf|docs|scripts|tests)/[\w./-]+$", span)
    }
    assert len(named) >= 1
    for name in named - {"llmstages/conf"}:  # that one is in a wheel only
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(
                r"^#+ (.+)$", FENCE.sub("", file.read_text("utf-8")), re.MULTILINE
            )
            anchors = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in anchors, target


# --- directories


PICTURES = ("report/confusion.png", "report/reliability.png")


def pattern(path: str) -> str:
    return re.sub(r"<\w+>", "*", path.rstrip("/"))


def inside(directory: Path) -> set[str]:
    """Files and links below a directory, links not followed."""
    paths = (path for path in directory.rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(directory).as_posix() for path in paths}


@pytest.fixture(scope="session")
def finished(
    tiny_corpus: Path, tiny_run: Path, instruct_run: Path, classifier_run: Path
) -> dict[str, list[Path]]:
    """What the stages made, by the first line of the tree that tells of it."""
    runs = [tiny_run, instruct_run, classifier_run]
    checkpoints = [run / "best" for run in runs]
    return {
        "corpora/<name>/": [tiny_corpus],
        "runs/<name>/": runs,
        "<checkpoint>/": checkpoints,
        "checkpoints/step-<step>/": checkpoints,
    }


@pytest.mark.parametrize(
    ("page", "root"),
    [
        (README, "corpora/<name>/"),
        (README, "runs/<name>/"),
        (README, "<checkpoint>/"),
        (ARCHITECTURE, "corpora/<name>/"),
        (ARCHITECTURE, "runs/<name>/"),
        (ARCHITECTURE, "checkpoints/step-<step>/"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_directory_holds_what_its_tree_shows(
    page: Path, root: str, finished: dict[str, list[Path]]
) -> None:
    shown = tree(page, root)
    for directory in finished[root]:
        for path in shown:
            # Only where something was dropped, where answers were generated, and of a classifier.
            sometimes = (
                "dropped/",
                "answers.jsonl",
                "predictions.jsonl",
                "trainer/head.",
                *PICTURES,
            )
            if not path.startswith(sometimes):
                assert list(directory.glob(pattern(path))), path
        if page == ARCHITECTURE:
            for file in inside(directory):
                if root == "runs/<name>/" and file.startswith("checkpoints/"):
                    continue
                assert any(fnmatch(file, pattern(path)) for path in shown), file


def test_every_file_has_the_keys_of_the_table(finished: dict[str, list[Path]]) -> None:
    rows = table(ARCHITECTURE, "file")
    assert len(rows) > 8
    directories = [directory for group in finished.values() for directory in group]
    for file, always, sometimes in rows:
        name, *entry = spans(file)
        found = {path for directory in directories for path in directory.rglob(name)}
        found = {path for path in found if path.parent.name != "tokenizer"}
        assert found, name
        required, optional = set(spans(always)), set(spans(sometimes))
        seen: set[str] = set()
        for path in found:
            contents = json.loads(path.read_text("utf-8"))
            for key in entry:
                contents = contents[key]
            for value in contents if isinstance(contents, list) else [contents]:
                assert required <= set(value) <= required | optional, path
                seen |= set(value)
        # These need a time budget, a slow machine, replay, adapters and preferences.
        unseen = {"evaluation_tokens", "changed", "mask_documents", "rank", "objective"}
        assert seen >= optional - unseen, name


def test_the_metrics_are_those_that_the_page_names(finished: dict[str, list[Path]]) -> None:
    section = prose(ARCHITECTURE).partition("### Run")[2].partition("### Checkpoint")[0]
    named = set(spans(section))
    for run in finished["runs/<name>/"]:
        summary = json.loads((run / "summary.json").read_text("utf-8"))
        measured = {*summary["metrics"], *summary["metrics_before"]}
        assert {re.sub("/.*", "/<source>", name) for name in measured} <= named
        for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
            entry = json.loads(line)
            names = {key for key in entry if not ("event" in entry and key.startswith("val_"))}
            assert names <= named


def test_transformers_opens_a_checkpoint_as_the_page_says(
    tiny_run: Path,
    classifier_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (code,) = (code for code in blocks(README, "python") if "transformers" in code)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pretrain").symlink_to(tiny_run)
    (tmp_path / "runs" / "reviews-classify").symlink_to(classifier_run)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("The lion is in the")
    assert re.search(r"'label': '(integers|strings)', 'score': 0\.\d", printed)
