"""However llmstages is installed, it finds its configs: wheel, sdist, editable, plain checkout.

Builds without a network, with the build backend of the environment the tests run in.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "pyproject.toml").is_file(), reason="needs the files of a checkout"
)


def run(*command: str | Path, cwd: Path, pythonpath: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(pythonpath or "")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def assert_works(package: Path, conf: Path, cwd: Path, pythonpath: Path | None = None) -> None:
    """`python` in `cwd` imports the package from `package`, with the configs in `conf`."""
    places = "import llmstages; from llmstages.config.folders import conf_dir; "
    places += "print(llmstages.__file__, conf_dir())"
    found = run(sys.executable, "-c", places, cwd=cwd, pythonpath=pythonpath)
    assert found.split() == [str(package / "__init__.py"), str(conf)]
    shown = run(
        *(sys.executable, "-m", "llmstages", "pretrain", "experiment=smoke", "--cfg", "job"),
        cwd=cwd,
        pythonpath=pythonpath,
    )
    assert "\nsteps: 20\n" in shown
    assert "  hidden_size: 128\n" in shown


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel made from it."""
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CHECKOUT, cwd=out)
    return out


def test_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = {
        path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "conf").rglob("*.yaml")
    }
    assert {name for name in names if name.endswith(".yaml")} == {
        f"llmstages/{name}" for name in shipped
    }
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "conf/"))]
    target = tmp_path / "target"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--no-compile", "--target", target, wheel, cwd=tmp_path)
    assert_works(target / "llmstages", target / "llmstages" / "conf", tmp_path, target)
    entry_points = next(target.glob("llmstages-*.dist-info/entry_points.txt")).read_text()
    assert "llmstages = llmstages.cli:main" in entry_points


def test_sdist_is_a_checkout_that_works(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert_works(unpacked / "llmstages", unpacked / "conf", unpacked)
    for name in ("LICENSE", "README.md", "Makefile", "constraints.txt", "pyproject.toml", "tests"):
        assert (unpacked / name).exists(), name
    assert not (unpacked / ".venv").exists()
    assert not (unpacked / "runs").exists()


def test_plain_checkout() -> None:
    assert_works(CHECKOUT / "llmstages", CHECKOUT / "conf", CHECKOUT)


def test_editable(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run(sys.executable, "-c", build, tmp_path, cwd=CHECKOUT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        lines = [
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".pth")
        ]
    assert [Path(line.strip()) for line in lines] == [CHECKOUT]
    # Which is what this line does to a Python that starts:
    assert_works(CHECKOUT / "llmstages", CHECKOUT / "conf", tmp_path, CHECKOUT)


def test_every_dependency_says_why_it_is_there() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(item for extra in extras.values() for item in extra)]
    outside = [requirement for requirement in listed if not requirement.startswith("llmstages[")]
    for requirement in outside:
        (line,) = (
            line for line in text.splitlines() if line.strip().startswith(f'"{requirement}"')
        )
        assert len(line.partition("#")[2].strip()) > 3, line


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.partition("==")[0].lower()
        for line in (CHECKOUT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(item for extra in extras.values() for item in extra)]
    names = {item.partition(">=")[0].partition("[")[0].lower() for item in listed if ">=" in item}
    assert names <= pinned


def test_make_help_lists_every_target() -> None:
    shown = run("make", "help", cwd=CHECKOUT)
    for target in ("help", "install", "demo", "smoke", "test", "check", "bench"):
        assert f"\n  make {target} " in f"\n{shown}"
