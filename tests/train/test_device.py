"""The measured ceiling of matrix products."""

import pytest
import torch

from llmstages.train import device


def test_the_fastest_product_is_the_ceiling(monkeypatch):
    speeds = {8: 3.0, 16: 5.0, 24: 4.0}
    shapes = tuple((rows, 8, 4) for rows in speeds)
    monkeypatch.setattr(device, "CEILING_SHAPES", {"cpu": shapes})

    def product_flops(x, weight, seconds):
        assert x.shape[1] == weight.shape[1] == 8
        assert x.dtype == weight.dtype == torch.bfloat16
        assert seconds == 0.5
        return speeds[x.shape[0]]

    monkeypatch.setattr(device, "product_flops", product_flops)
    found = device.measured_peak_flops(torch.device("cpu"), torch.bfloat16, 1.5)
    assert found == (5.0, (16, 8, 4))


def test_flops_of_a_product_are_counted(monkeypatch):
    """A clock that advances by 25 ms at each look: so long takes one product."""
    ticks = iter(range(1000))
    monkeypatch.setattr(device.time, "perf_counter", lambda: 0.025 * next(ticks))
    x, weight = torch.ones(4, 8), torch.ones(16, 8)
    assert device.product_flops(x, weight, 0.0) == pytest.approx(2 * 4 * 8 * 16 / 0.025)


def test_hardware_facts_name_the_processor():
    facts = device.hardware_facts(torch.device("cpu"))
    assert facts["processor_name"]
    assert facts["cores"] >= 1
