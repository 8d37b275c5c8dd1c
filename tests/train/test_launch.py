"""The host one step ahead of the device: same figures, and nothing broken is kept."""

import json
import re
import threading

import pytest
import torch
from torch.nn.attention import SDPBackend

from llmstages.config.groups import BudgetConfig
from llmstages.stages import pretrain
from llmstages.train import device, loop
from llmstages.train.figures import Figures
from llmstages.train.gradients import scale_and_clip
from llmstages.train.loop import Loop
from llmstages.train.optimizer import optimizer_tensors


def lines(run_dir):
    entries = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in entry.items() if "second" not in k} for entry in entries]


@pytest.fixture
def ahead(monkeypatch):
    """Let the loop treat the CPU as a device that works by itself."""
    monkeypatch.setattr(loop, "works_apart", lambda device: True)


def test_the_same_lines_in_the_same_order(tiny_run, tmp_path, pretrain_config, ahead, monkeypatch):
    unread = []
    whole = Loop.step

    def step(self):
        entry = whole(self)
        unread.append(len(self.unread))
        return entry

    monkeypatch.setattr(Loop, "step", step)
    pretrain.run(pretrain_config(tmp_path))
    assert lines(tmp_path / "pretrain") == lines(tiny_run)
    assert unread == [1] * 8
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    speeds = [
        json.loads(line).get("tokens_per_second", 1)
        for line in (tmp_path / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    assert min(speeds) > 0


def losing(monkeypatch, broken_steps, what="loss"):
    """A loss that is no number, or has no finite gradient, in some steps, counted from 1."""
    whole, loops = Loop.launch, []

    def launch(self, step, share):
        loops.append((self, step + 1))
        return whole(self, step, share)

    def loss(model, batch):
        hidden = model(batch.tokens)
        value = hidden.square().sum()
        if loops[-1][1] in broken_steps:
            if what == "loss":
                value = value * float("nan")
            else:
                hidden.register_hook(lambda gradient: gradient * float("inf"))
        return value, batch.weights.sum()

    monkeypatch.setattr(Loop, "launch", launch)
    monkeypatch.setattr(pretrain, "pretraining_loss", lambda z_loss: loss)
    return loops


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("late", [True, False])
def test_a_broken_step_changes_nothing(what, late, tmp_path, pretrain_config, monkeypatch, request):
    """Step 3 is broken: neither weights nor optimizers move. The host may look or the device."""
    if late:
        request.getfixturevalue("ahead")
    losing(monkeypatch, {3}, what)
    whole, states = Loop.launch, []

    def launch(self, step, share):
        launched = whole(self, step, share)
        tensors = {**self.t.model.state_dict(), **optimizer_tensors(self.t.model, self.optimizers)}
        states.append({name: tensor.clone() for name, tensor in tensors.items()})
        return launched

    monkeypatch.setattr(Loop, "launch", launch)
    pretrain.run(pretrain_config(tmp_path))
    assert states[1].keys() == states[2].keys()
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    moved = [name for name in states[2] if not torch.equal(states[2][name], states[3][name])]
    assert len(moved) > len(states[2]) / 2
    entries = [e for e in lines(tmp_path / "pretrain") if "event" not in e]
    assert [entry["step"] for entry in entries if "skipped" in entry] == [3]
    assert all(("loss" in entry) != ("skipped" in entry) for entry in entries)
    summary = json.loads((tmp_path / "pretrain" / "summary.json").read_text("utf-8"))
    assert summary["skipped_steps"] == 1
    log = (tmp_path / "pretrain" / "log.txt").read_text("utf-8")
    assert re.search(r"step 3: the .*read: (topics|texts)/.*skipped", log)


@pytest.mark.parametrize("late", [True, False])
def test_three_broken_steps_in_a_row_end_the_run(
    late, tmp_path, pretrain_config, monkeypatch, request
):
    if late:
        request.getfixturevalue("ahead")
    loops = losing(monkeypatch, {2, 4, 5, 6})
    with pytest.raises(FloatingPointError, match=r"step 6: the loss is nan.*read: (topics|texts)/"):
        pretrain.run(pretrain_config(tmp_path))
    assert all(bool(p.isfinite().all()) for p in loops[0][0].t.model.parameters())
    entries = [e for e in lines(tmp_path / "pretrain") if "event" not in e]
    assert [entry["step"] for entry in entries if "skipped" in entry] == [2, 4, 5, 6]
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_scale_and_clip_as_torch_does_it():
    generator = torch.Generator().manual_seed(0)
    for limit in (0.5, 1e9, float("inf")):
        gradients = [torch.randn(4, 5, generator=generator), torch.randn(7, generator=generator)]
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient / 8.0
        expected = torch.nn.utils.clip_grad_norm_(parameters, limit)
        norm = scale_and_clip(gradients, torch.tensor(8.0), limit)
        torch.testing.assert_close(norm, expected)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_figures_are_what_was_given():
    assert Figures(torch.tensor([1.5, -2.0], requires_grad=True)).read() == [1.5, -2.0]


def test_attention_kernels_by_device(monkeypatch):
    assert device.attention_backends(torch.device("cpu")) == []
    assert "attention" not in device.machine_facts(torch.device("cpu"))
    for capability, first in (
        ((9, 0), SDPBackend.CUDNN_ATTENTION),
        ((8, 9), SDPBackend.FLASH_ATTENTION),
        ((12, 0), SDPBackend.FLASH_ATTENTION),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        backends = device.attention_backends(torch.device("cuda"))
        assert backends[0] == first
        assert backends[-1] == SDPBackend.MATH
        assert len(set(backends)) == len(backends) == 4


def test_kernels_are_chosen_for_training_only(monkeypatch):
    order, precision = torch._C._get_sdp_priority_order(), torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with device.training_kernels(torch.device("cuda"), torch.bfloat16):
        assert torch._C._get_sdp_priority_order()[0] == int(SDPBackend.CUDNN_ATTENTION.value)
        assert torch.get_float32_matmul_precision() == "high"
    assert torch._C._get_sdp_priority_order() == order
    assert torch.get_float32_matmul_precision() == precision
    with device.training_kernels(torch.device("cuda"), torch.float32):
        assert torch.get_float32_matmul_precision() == precision
    with device.training_kernels(torch.device("cpu"), torch.bfloat16):
        assert torch._C._get_sdp_priority_order() == order
        assert torch.get_float32_matmul_precision() == precision


def test_a_probe_that_fails_leaves_no_thread(tmp_path, pretrain_config, ahead, monkeypatch):
    def broken(model, batch):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(pretrain, "pretraining_loss", lambda z_loss: broken)
    with pytest.raises(torch.OutOfMemoryError):
        pretrain.run(pretrain_config(tmp_path, budget=BudgetConfig(seconds=5)))
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
