"""What the tests of `inspect` share."""

import pytest

from llmstages.config.uses import InspectConfig
from llmstages.stages import inspect


@pytest.fixture
def look(monkeypatch, capsys):
    """look(path, **settings) -> what is printed, lines joined to one space."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(path, **settings):
        inspect.run(InspectConfig(path=str(path), **settings))
        return " ".join(capsys.readouterr().out.split())

    return call
