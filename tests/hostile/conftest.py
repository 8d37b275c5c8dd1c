"""The scripts as modules: what hostile input is stands in scripts/hostile.py."""

from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import hostile`, as a script finds its neighbours."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
