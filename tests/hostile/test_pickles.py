"""No pickle is ever opened: malicious ones lie wherever a path can be given; nothing happens."""

import ast
import io
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmstages
from llmstages.config.compose import from_file
from llmstages.data.corpus import Corpus
from llmstages.errors import UserError
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import load_checkpoint

FORBIDDEN = {"pickle", "_pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def evil_files(marker: Path) -> dict[str, bytes]:
    """Pickles under the names and in the containers that other programs would open."""
    plain = pickle.dumps(Evil(marker))
    array = io.BytesIO()
    np.save(array, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:  # as torch.save writes them
        file.writestr("archive/data.pkl", plain)
        file.writestr("archive/version", "3")
    names = ("pytorch_model.bin", "model.pth", "model.ckpt", "data.pkl", "model.joblib")
    return {
        **dict.fromkeys(names, plain),
        "model.pt": packed.getvalue(),
        "array.npy": array.getvalue(),
        "rows.jsonl": plain,
        "rows.parquet": plain,
        "rows.csv": array.getvalue(),
    }


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "opened"


def test_a_pickle_does_what_it_says(marker: Path) -> None:
    pickle.loads(evil_files(marker)["data.pkl"]).close()  # noqa: S301
    assert marker.exists()


def test_every_reader_of_a_path(tmp_path: Path, marker: Path) -> None:
    from hostile import check_file

    for name, content in evil_files(marker).items():
        path = tmp_path / name
        path.write_bytes(content)
        check_file(path)
        for read in (load_checkpoint, Corpus.open, Tokenizer.load):
            with pytest.raises(UserError):
                read(path)  # type: ignore[operator]
        with pytest.raises(UserError):
            from_file("pretrain", path)
        assert not marker.exists(), name


@pytest.mark.parametrize("name", ["model.pt", "data.pkl"])
def test_pickles_on_the_command_line(
    cli: Any, tmp_path: Path, marker: Path, labelled_file: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(evil_files(marker)[name])
    for words in (
        ("finetune", path),
        ("finetune-classify", labelled_file, f"base={path}"),
        ("generate", path, "prompt"),
        ("predict", path, labelled_file),
        ("pretrain", path),
        ("pretrain", "x", f"experiment={path}"),
    ):
        status, _, err = cli(*words)
        assert status == 2, (words, err)
        assert len(err.splitlines()) == 1
    assert cli("inspect", path)[0] in (0, 2)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer.model"),
        *("tokenizer_config.json", "generation_config.json", "pytorch_model.bin", "model.pt"),
    ],
)
def test_pickles_in_a_foreign_checkpoint(
    cli: Any, tmp_path: Path, marker: Path, tiny_run: Path, name: str
) -> None:
    directory = tmp_path / "foreign"
    shutil.copytree((tiny_run / "best").resolve(), directory)
    (directory / "llmstages.json").unlink()
    (directory / name).write_bytes(evil_files(marker)["data.pkl"])
    status, _, err = cli("generate", directory, "prompt", "max_new_tokens=2")
    # The others are not looked at where there is a tokenizer.model of our own.
    needed = name in ("model.safetensors", "config.json", "tokenizer.model")
    assert status == (2 if needed else 0), err
    cli("inspect", directory)
    assert not marker.exists()


def test_pickles_in_a_run_and_a_corpus(
    cli: Any, run_copy: Path, tiny_corpus: Path, tmp_path: Path, marker: Path
) -> None:
    evil = evil_files(marker)
    corpus = tmp_path / "corpora" / "tiny"
    shutil.copytree(tiny_corpus, corpus)
    last = sorted((run_copy / "checkpoints").iterdir())[-1]
    for path in (last / "trainer" / "state.safetensors", last / "trainer" / "state.json"):
        path.write_bytes(evil["data.pkl"])
    (run_copy / "metrics.jsonl").write_bytes(evil["data.pkl"])
    for path in (*corpus.rglob("*.parquet"), *corpus.rglob("*.bin")):
        path.write_bytes(evil["array.npy"])
    for words in (("inspect", run_copy), ("inspect", run_copy, "prove=true"), ("inspect", corpus)):
        cli(*words)
        assert not marker.exists()
    assert cli("pretrain", corpus)[0] == 2
    assert not marker.exists()


def calls_and_imports(path: Path) -> list[tuple[int, str]]:
    """Lines of a module where something is imported or called that may open a pickle."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            never = ("torch.load", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle")
            numpy = called in ("np.load", "numpy.load") and words.get("allow_pickle") != "False"
            if called in never or numpy or words.get("allow_pickle", "False") != "False":
                names = [called]
                found.append((node.lineno, called))
                continue
        found += [(node.lineno, name) for name in names if name.partition(".")[0] in FORBIDDEN]
    return found


def test_no_module_could_open_a_pickle() -> None:
    package = Path(llmstages.__file__).parent
    modules = sorted(package.rglob("*.py"))
    assert len(modules) > 100
    assert {str(m): found for m in modules if (found := calls_and_imports(m))} == {}


def test_a_module_that_could_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "import pickle\nfrom joblib import load\nimport numpy as np, torch\n"
        "torch.load('x')\nnp.load('x')\nnp.load('x', allow_pickle=False)\n"
        "np.load('x', allow_pickle=True)\n"
    )
    assert [line for line, _ in sorted(set(calls_and_imports(path)))] == [1, 2, 2, 4, 5, 7]
