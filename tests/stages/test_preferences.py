"""Direct preference optimisation: its loss, its data, its runs."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from llmstages.config.groups import EvaluateConfig, MethodConfig, ReplayConfig
from llmstages.config.stages import FinetuneClassifyConfig, FinetuneInstructConfig
from llmstages.data.batch import IGNORED, Batch
from llmstages.data.examples import Example, Pair, PreferenceData, pair_batches
from llmstages.errors import UserError
from llmstages.stages import finetune_instruct
from llmstages.train import losses
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.losses import preference_loss

DPO = MethodConfig(objective="preferences")
BETA = 0.1


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_checkpoint(tiny_run).model.eval()


@pytest.fixture(scope="module")
def preference_file(tmp_path_factory, instruct_file):
    """The pairs' answers are chosen; rejected are the same words turned round."""
    path = tmp_path_factory.mktemp("preferences") / "liked.jsonl"
    pairs = [json.loads(line) for line in instruct_file.read_text("utf-8").splitlines()]
    rows = [
        {
            "prompt": pair["prompt"],
            "chosen": pair["completion"],
            "rejected": " ".join(reversed(pair["completion"].split())),
        }
        for pair in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(instruct_config, preference_file, tmp_path):
    """config(**settings): 6 steps of DPO on `preference_file`."""

    def make(**settings):
        return instruct_config(tmp_path, **{"data": str(preference_file), "method": DPO} | settings)

    return make


def example(length, learnt, shift):
    """Tokens of which the last `learnt` predictions count."""
    tokens = [(7 * place + shift) % 400 + 3 for place in range(length + 1)]
    targets = [IGNORED] * (length - learnt) + tokens[-learnt:]
    return Example(tokens[:-1], targets, f"rows:{shift}")


def pairs_of(count):
    return [
        Pair(example(9 + n % 5, 4, 2 * n), example(12 + n % 3, 6, 2 * n + 1)) for n in range(count)
    ]


def test_loss_by_hand(monkeypatch):
    """Margins of 1 and -2 nats where the base has 0.5 and 0; beta 0.1."""
    monkeypatch.setattr(losses, "preference_margins", lambda *_: torch.tensor([1.0, -2.0]))
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tokens = torch.zeros(2, 2, dtype=torch.int64)
    batch = Batch(tokens, tokens, None, tokens, weights, ("a", "b"), 4, torch.tensor([0.5, 0.0]))
    loss, count = preference_loss(0.1)(None, batch)
    assert count == 2
    expected = math.log(1 + math.exp(-0.05)) + math.log(1 + math.exp(0.2))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.66846 + 0.79814, abs=1e-5)


def test_loss_and_gradient_are_those_of_separate_passes(model):
    """As in other programs: four sums of log probabilities, each answer read by itself."""
    pairs = pairs_of(5)
    references = [0.3, -1.0, 0.0, 2.0, 0.7]
    parameters = list(model.parameters())

    def log_probability(one):
        logits = model.logits(model(torch.tensor([one.tokens])))[0].float()
        targets = torch.tensor(one.targets)
        there = targets != IGNORED
        return logits[there].log_softmax(-1).gather(1, targets[there].unsqueeze(1)).sum()

    parts = [
        preference_loss(BETA)(model, batch) for batch, _ in pair_batches(pairs, 64, references)
    ]
    assert len(parts) > 1
    mine = sum(loss for loss, _ in parts) / sum(count for _, count in parts)
    theirs = torch.stack(
        [
            -F.logsigmoid(BETA * (log_probability(p.chosen) - log_probability(p.rejected) - r))
            for p, r in zip(pairs, references, strict=True)
        ]
    ).mean()
    torch.testing.assert_close(mine, theirs)
    for one, other in zip(
        torch.autograd.grad(mine, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_steps_are_pure_and_an_epoch_has_each_pair_once():
    def data():
        margins = [float(n) for n in range(10)]
        return PreferenceData(
            pairs_of(10), margins, pairs_per_step=4, micro_batch_tokens=64, seed=1
        )

    def step(source, number):
        return [tensor.tolist() for b in source.micro_batches(number) for tensor in b.tensors()]

    whole = data()
    in_order = [step(whole, number) for number in range(6)]
    assert step(data(), 5) == in_order[5]
    assert whole.steps_per_epoch == 3
    seen = []
    for number in range(3, 6):
        for batch in whole.micro_batches(number):
            margins = batch.reference_margins.tolist()
            for reference, margin in zip(batch.document_refs, margins, strict=True):
                assert reference == f"rows:{2 * int(margin)},rows:{2 * int(margin) + 1}"
            assert batch.weights.sum(dim=1).tolist() == [1.0] * len(margins)
            assert (batch.targets[batch.weights > 0] != IGNORED).all()
            seen += margins
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize("name", ["full", "lora"])
def test_preferences_are_learnt_and_a_killed_run_is_the_same(name, config, tmp_path, monkeypatch):
    from llmstages.train.loop import Loop

    method = MethodConfig(name=name, objective="preferences")
    settings = {"method": method, "optim": lively(), "steps": 6}
    loss = finetune_instruct.run(config(name="whole", **settings))
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text("utf-8"))
    before, after = summary["metrics_before"], summary["metrics"]
    assert before["val_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert before["preference_accuracy"] == 0.5
    assert before["reward_margin"] == 0.0
    assert after["val_loss"] == loss < before["val_loss"]
    assert after["preference_accuracy"] > 0.5
    low, high = after["intervals"]["reward_margin"]
    assert after["reward_margin"] > 0
    assert low < after["reward_margin"] < high
    assert after["base_bits_per_byte"] != before["base_bits_per_byte"]

    step, done = Loop.step, []

    def killed(loop):
        done.append(1)
        if len(done) > 5:
            raise SystemExit
        return step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", killed)
        with pytest.raises(SystemExit):
            finetune_instruct.run(config(name="pieces", **settings))
    finetune_instruct.run(config(name="pieces", **settings))
    again = json.loads((tmp_path / "pieces" / "summary.json").read_text("utf-8"))
    assert (again["metrics_before"], again["metrics"]) == (before, after)
    weights = [(tmp_path / run / "last" / "model.safetensors") for run in ("whole", "pieces")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def lively():
    """A rate at which six steps show."""
    from llmstages.config.groups import OptimConfig

    return OptimConfig(lr=0.003)


def test_each_file_has_its_method(config, instruct_file, preference_file, tmp_path):
    looking = EvaluateConfig(num_samples=0, num_generations=1)
    with pytest.raises(UserError, match=r"pairs\.jsonl: method=dpo needs the columns chosen and"):
        finetune_instruct.run(config(data=str(instruct_file), evaluate=looking))
    with pytest.raises(UserError, match=r"liked\.jsonl: .*: set method=dpo"):
        finetune_instruct.run(config(method=MethodConfig(), evaluate=looking))
    with pytest.raises(ValueError, match=r"replay\.share=0\.1 has no place in method=dpo"):
        FinetuneInstructConfig(method=DPO, replay=ReplayConfig(share=0.1))
    with pytest.raises(ValueError, match="method=dpo is for finetune-instruct"):
        FinetuneClassifyConfig(method=DPO)
