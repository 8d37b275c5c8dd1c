"""What `doctor` says of this machine and of the extras."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmstages.stages import doctor

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of the project as an installation records them, of which two are not as they should."""
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    versions = {"daft": "0.0.1", "gguf": None, "ray": None, "SQLAlchemy": "1.4.54"}
    monkeypatch.setattr(doctor, "installed_version", lambda name: versions.get(name, "9999.0"))
    found = [f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines]
    others = {
        "llmstages": ["torch>=2", *found],
        "daft": ['ray>1; extra == "ray"', "x>1", "y; extra == 'z'"],
    }
    monkeypatch.setattr(doctor, "requires", lambda name: others[name])
    return found


def test_what_is_missing_is_named_with_the_command(
    requirements: list[str], cli: Callable[..., tuple[int, str, str]]
) -> None:
    found = doctor.needed_by_extras(requirements)
    names = {item.requirement.name for item in found if item.extra == "export"}
    assert names == {"gguf", "onnx"}
    assert "pytest" not in {item.requirement.name for item in found}
    status, out, _ = cli("doctor")
    assert status == 0
    assert "pip install 'llmstages[export]'  brings gguf\n" in out
    assert "pip install 'llmstages[collect]'  brings daft\n" in out
    assert "pip install 'llmstages[ray]'  brings daft, ray\n" in out
    assert "daft 0.0.1 (>=0.7 wanted)" in out
    assert out.count("pip install") == 3
    assert torch.__version__ in out
    assert f"threads             │ {torch.get_num_threads()}" in out
