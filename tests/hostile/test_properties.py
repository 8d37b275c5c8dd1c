"""The properties of scripts/hostile.py, a few inputs each; `make fuzz` tries many more."""

from collections import Counter

import pytest

INPUTS = {
    "labelled: any bytes": 20,
    "labelled: damaged files": 20,
    "labelled: tables of hostile cells": 40,
    "labelled: JSON of any values": 20,
    "checkpoints": 15,
    "records of runs": 8,
    "pictures of runs": 2,
    "pages of runs": 8,
    "corpora": 15,
    "configs": 40,
    "chat templates": 8,
    "terminal": 40,
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_reader_keeps_its_promise(name: str) -> None:
    from fuzz import run_property
    from hostile import PROPERTIES

    assert PROPERTIES.keys() == INPUTS.keys()
    tried: Counter[str] = Counter()
    assert run_property(PROPERTIES[name], 1, INPUTS[name], tried, name) is None
    assert tried[name] >= INPUTS[name] // 2


def test_a_broken_promise_is_found() -> None:
    from fuzz import run_property
    from hostile import Property
    from hypothesis import strategies as st

    def check(folder: object, number: int) -> None:
        assert number < 100

    failed = run_property(Property(st.integers(0, 1000), check), 1, 100, Counter(), "x")
    assert failed is not None
    assert "AssertionError" in failed
    assert "case=100" in failed
