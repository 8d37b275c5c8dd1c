"""`model=auto`: what is picked, that it is said, kept, and found again."""

import json
from dataclasses import asdict

import pytest

from llmstages.config.groups import PICKED_KEYS, BudgetConfig, ModelConfig
from llmstages.data.corpus import Corpus
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.scaling import shape_flops_per_token
from llmstages.model.transformer import TransformerConfig
from llmstages.stages import pretrain
from llmstages.stages.shared import model_size
from llmstages.train.checkpoint import load_checkpoint

UNPICKED = dict.fromkeys((*PICKED_KEYS, "context_length"), 0)


def auto(**more):
    return ModelConfig(**{"name": "auto", **UNPICKED, **more})


def plan_of(runs_dir):
    return json.loads((runs_dir / "pretrain" / "plan.json").read_text(encoding="utf-8"))


def summary_of(runs_dir):
    return json.loads((runs_dir / "pretrain" / "summary.json").read_text(encoding="utf-8"))


def test_flops_pick_a_size_that_is_kept(tmp_path, pretrain_config, capfd):
    flops = 2e10
    pretrain.run(pretrain_config(tmp_path, model=auto(), budget=BudgetConfig(flops=flops)))
    shape = TransformerConfig(**plan_of(tmp_path)["model_shape"])
    assert load_checkpoint(tmp_path / "pretrain").model.config == shape
    line = next(x for x in capfd.readouterr().err.splitlines() if x.startswith("model=auto: "))
    assert f"{shape.num_layers} blocks of width {shape.hidden_size}, context " in line
    assert f"{num_parameters(shape):,} parameters, for 2e+10 FLOPs" in line
    expected = flops / (512 * flops_per_token(shape, shape.context_length))
    assert summary_of(tmp_path)["steps"] == round(expected)


def test_a_resumed_run_has_the_same_size(tmp_path, pretrain_config, monkeypatch, capfd):
    """Whatever would be picked now."""
    config = pretrain_config(tmp_path, model=auto(context_length=32), steps=4)
    pretrain.run(config)
    run = tmp_path / "pretrain"
    shape = plan_of(tmp_path)["model_shape"]
    assert shape["context_length"] == 32
    (run / "summary.json").unlink()
    monkeypatch.setattr(pretrain, "pick_size", None)
    pretrain.run(config)
    assert plan_of(tmp_path)["model_shape"] == shape
    assert "continuing at step 4 of 4" in capfd.readouterr().err


def test_time_picks_by_measured_speed(tmp_path, pretrain_config, tiny_corpus, monkeypatch):
    """A machine on which only one size is fast gets that size, whatever else is in the budget."""
    timed = []

    def seconds_per_token(model, data, machine, left):
        assert data.context_length == model.config.context_length
        timed.append(num_parameters(model.config))
        flops_per_second = 1e11 if model.config.hidden_size > 64 else 1e7
        return shape_flops_per_token(model.config) / flops_per_second

    monkeypatch.setattr(model_size, "seconds_per_token", seconds_per_token)
    config = pretrain_config(tmp_path, model=auto(), budget=BudgetConfig(seconds=60))
    corpus = Corpus.open(tiny_corpus)
    picked = []
    monkeypatch.setattr(
        model_size.Clock, "spent", lambda clock: 0.0
    )  # the machine's own speed does not matter

    def pick(*arguments):
        picked.append(model_size.pick_size(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "pick_size", pick)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(config)
    (size,) = picked
    assert timed[0] == num_parameters(
        TransformerConfig(corpus_vocabulary(corpus), 4, 128, 2, 2, 64, 320, 256)
    )
    assert size.shape.hidden_size > 64
    assert size.tokens == pytest.approx(60 / size.seconds_per_token)
    assert 1 <= len(timed) <= model_size.MAX_PROBED_SIZES


def corpus_vocabulary(corpus):
    from llmstages.text.tokenizer import Tokenizer

    return Tokenizer.load(corpus.tokenizer_dir).vocab_size


def test_nothing_given_takes_what_the_corpus_supports(tmp_path, pretrain_config):
    config = pretrain_config(tmp_path, model=auto(), budget=BudgetConfig(), stop_after=1)
    assert asdict(config)["steps"] is None
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(config)
    plan = plan_of(tmp_path)
    parameters = num_parameters(TransformerConfig(**plan["model_shape"]))
    # 230,000 tokens: even the smallest would want more than four passes
    assert plan["expected_tokens"] < 20 * parameters
    assert plan["model_shape"]["hidden_size"] == 64
