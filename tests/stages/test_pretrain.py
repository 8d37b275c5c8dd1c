"""Pretraining as a stage: its metrics are exact, and its derived values are what the text says."""

import json
import math
import os

import pytest
import torch

from llmstages.config.groups import EvaluateConfig, ModelConfig, OptimConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import write_token_shards
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.stages import pretrain
from llmstages.stages.pretrain import CONTINUED_LR_SHARE, evaluator
from llmstages.stages.training import Machine
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.optimizer import derived_lr

MACHINE = Machine(torch.device("cpu"), torch.float32, 1024)


@pytest.fixture
def validation(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    shards = write_token_shards(corpus, Tokenizer.load(corpus.tokenizer_dir))
    return shards.of_split("validation")


def test_bits_per_byte_of_a_uniform_model_are_exact(validation):
    vocab_size = 512
    model = Transformer(TransformerConfig(vocab_size, 1, 8, 2, 1, 4, 8, 64))
    with torch.no_grad():
        model.embedding.weight.zero_()  # every logit is 0
    metrics = evaluator(model, validation, MACHINE, model.config.context_length, 4)(None)
    num_targets = sum(shard.info.tokens - 1 for shard in validation)
    num_bytes = sum(shard.info.bytes for shard in validation)
    assert metrics["val_loss"] == pytest.approx(math.log(vocab_size), rel=1e-6)
    expected = num_targets * math.log2(vocab_size) / num_bytes
    assert metrics["val_bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    part = evaluator(model, validation, MACHINE, model.config.context_length, 4)(500)
    assert part["val_bits_per_byte"] == pytest.approx(expected, rel=0.2)


def test_evaluation_does_not_depend_on_the_batch(validation, tiny_run):
    model = load_checkpoint(tiny_run).model
    one, many = (
        evaluator(model, validation, MACHINE, model.config.context_length, rows)(None)
        for rows in (1, 16)
    )
    assert one == pytest.approx(many, abs=1e-5)


def test_headline_is_that_of_the_best_checkpoint(validation, tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    model = load_checkpoint(tiny_run).model
    metrics = evaluator(model, validation, MACHINE, model.config.context_length, 4)(None)
    assert metrics == pytest.approx(summary["metrics"], abs=1e-6)


def test_it_goes_on_from_a_base(tiny_run, tmp_path, pretrain_config):
    pretrain.run(pretrain_config(tmp_path, base=str(tiny_run), steps=2))
    summary = json.loads((tmp_path / "pretrain" / "summary.json").read_text(encoding="utf-8"))
    before = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert summary["metrics_before"]["val_loss"] == pytest.approx(
        before["metrics"]["val_loss"], abs=0.1
    )
    info = load_checkpoint(tmp_path / "pretrain").info
    assert info.tokens_seen == 8 * 512 + 2 * 512
    assert info.lineage.parent == load_checkpoint(tiny_run).hash
    lr = json.loads((tmp_path / "pretrain" / "plan.json").read_text(encoding="utf-8"))["lr"]
    assert lr == CONTINUED_LR_SHARE * derived_lr("muon", 32)


def test_a_rate_that_is_given_holds_with_a_base(tiny_run, tmp_path, pretrain_config):
    optim = OptimConfig(lr=0.004)
    pretrain.run(pretrain_config(tmp_path, base=str(tiny_run), steps=1, optim=optim))
    entry = json.loads((tmp_path / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()[0])
    assert entry["lr"] == 0.004


@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_weight_decay(tmp_path, pretrain_config, weight_decay, monkeypatch):
    seen = []
    monkeypatch.setattr(
        pretrain, "train", lambda training: seen.append(training) or 1 / 0
    )  # far enough
    with pytest.raises(ZeroDivisionError):
        pretrain.run(pretrain_config(tmp_path, optim=OptimConfig(weight_decay=weight_decay)))
    (training,) = seen
    expected = 1 / (training.lr * 8) if weight_decay is None else 0.1
    assert training.optim.weight_decay == pytest.approx(expected)


def test_the_first_step_is_reported(tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    assert 0 < summary["seconds_to_first_step"] < summary["seconds"]
    log = (tiny_run / "log.txt").read_text(encoding="utf-8")
    assert f"first step after {summary['seconds_to_first_step']:.1f} s" in log


def test_samples_are_shown(tmp_path, pretrain_config, capfd):
    looking = EvaluateConfig(every_steps=1, max_tokens=100, num_samples=1)
    config = pretrain_config(tmp_path, steps=1, evaluate=looking, sample_prompts=["The [b]x"])
    pretrain.run(config)
    assert "'The [b]x' -> " in capfd.readouterr().err


def test_untied_embeddings_and_bfloat16(tmp_path, pretrain_config):
    model = ModelConfig(
        name="test",
        num_layers=1,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        context_length=32,
        tie_embeddings=False,
    )
    loss = pretrain.run(pretrain_config(tmp_path, model=model, dtype="bfloat16"))
    assert loss < 4.5
    loaded = load_checkpoint(tmp_path / "pretrain")
    assert loaded.model.head is not None
    assert loaded.model.embedding.weight.dtype == torch.float32


@pytest.mark.skipif(
    not os.environ.get("LLMSTAGES_TEST_SLOW"), reason="half a minute: LLMSTAGES_TEST_SLOW=1"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at import
def test_compiled_losses_equal_eager_ones(tiny_run, tmp_path, pretrain_config):
    from llmstages.train.device import has_compiler

    if not has_compiler():
        pytest.skip("no C++ compiler")
    pretrain.run(pretrain_config(tmp_path, compile="on"))
    eager, compiled = (
        [
            json.loads(line)
            for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for run in (tiny_run, tmp_path / "pretrain")
    )
    for one, two in zip(eager, compiled, strict=True):
        assert one.get("loss") == pytest.approx(two.get("loss"), abs=1e-4)
        assert one.get("val_loss") == pytest.approx(two.get("val_loss"), abs=1e-4)
