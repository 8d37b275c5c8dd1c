"""Pretraining as a stage: its metrics are exact, and its derived values are what the text says."""

import json
import re
from unittest import mock

import pytest
import torch

from llmstages.config.collect_groups import CorpusConfig, SourceConfig
from llmstages.config.groups import BudgetConfig, EvaluateConfig, ModelConfig, OptimConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import write_token_shards
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.evaluate.held_out import held_out_metrics
from llmstages.stages import pretrain
from llmstages.stages.pretrain import CONTINUED_LR_SHARE
from llmstages.stages.shared.mixture import warn_of_repeats
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.optimizer import derived_lr


class Stopped(Exception):
    """Ends a stage where training would begin."""


@pytest.fixture
def validation(tiny_corpus):
    corpus = Corpus.open(tiny_corpus)
    shards = write_token_shards(corpus, Tokenizer.load(corpus.tokenizer_dir))
    return shards.of_split("validation")


def test_headline_is_that_of_the_best_checkpoint(validation, tiny_run):
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    model = load_checkpoint(tiny_run).model
    metrics = held_out_metrics(
        model,
        validation,
        context_length=model.config.context_length,
        rows_per_batch=4,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert metrics == pytest.approx(summary["metrics"], abs=1e-6)
    assert {f"val_bits_per_byte/{source}" for source in ("texts", "topics")} < metrics.keys()


def test_evaluations_say_when(tiny_run):
    lines = (tiny_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    evaluations = [entry for entry in entries if "event" in entry]
    assert len(evaluations) == 2
    steps = {entry["step"]: entry for entry in entries if "event" not in entry}
    for entry in evaluations:
        step = steps[entry["step"]]
        assert entry["tokens"] == step["tokens"]
        assert entry["seconds"] >= step["seconds"]
        assert "val_bits_per_byte/texts" in entry


def test_a_table_by_source_at_the_end(tmp_path, pretrain_config, capfd):
    pretrain.run(pretrain_config(tmp_path, steps=1))
    shown = capfd.readouterr().err.partition("validation text by source (before: on a sample)")[2]
    assert re.search(r"topics +│ +[\d,]+ │ +[\d.]+ │ +[\d.]+ │", shown)


def test_repeats_are_said_for_each_source(make_shard, capfd):
    def warning(tokens, weights=(None, None), measured=False):
        shards = [
            make_shard([1] * size, name, weight=weight)
            for name, size, weight in zip("ab", (1000, 3000), weights, strict=True)
        ]
        data = PretrainingData(
            shards, context_length=8, rows_per_step=1, rows_per_micro_batch=1, seed=0
        )
        warn_of_repeats(data, tokens, measured=measured)
        return capfd.readouterr().err.strip()

    rest = "; beyond 4 passes repeated text teaches little"
    assert warning(16_000) == ""
    assert warning(20_000) == f"warning: 20,000 tokens read the corpus 5.0 times{rest}"
    assert warning(10_000, (0.5, 0.5)) == f"warning: 10,000 tokens read a 5.0 times{rest}"
    assert warning(8_000, (0.5, 0.5)) == ""
    assert warning(10_000, (0.5, 0.5), measured=True).startswith("warning: about 10,000 tokens")


def test_a_corpus_too_small_is_said_before_the_first_step(tmp_path, pretrain_config, capfd):
    model = ModelConfig(hidden_size=256, context_length=64)
    config = pretrain_config(tmp_path, budget=BudgetConfig(), model=model)
    with mock.patch.object(pretrain, "train", side_effect=Stopped), pytest.raises(Stopped):
        pretrain.run(config)
    shown = capfd.readouterr().err
    assert re.search(r"training tokens are few for [\d,]+ parameters: read 4 times", shown)


def test_weights_at_pretraining_decide_the_mixture(tmp_path, pretrain_config):
    def started(**weights):
        sources = {name: SourceConfig(weight=weight) for name, weight in weights.items()}
        config = pretrain_config(tmp_path, corpus=CorpusConfig(sources=sources))
        with mock.patch.object(pretrain, "train", side_effect=Stopped) as train:
            with pytest.raises(Stopped):
                pretrain.run(config)
            return train.call_args.args[0]

    assert started().data.shares.tolist() == [0.25, 0.75]  # as collected: texts, topics
    training = started(texts=3, topics=1)
    assert training.data.shares.tolist() == [0.75, 0.25]
    assert "3" in training.run.settings["inputs"]["weights"]  # another run than the one without
    seen = [
        reference.split("/")[0]
        for step in range(10)
        for batch in training.data.micro_batches(step)
        for reference in batch.document_refs
    ]
    assert seen.count("texts") == pytest.approx(60, abs=2)
    with pytest.raises(UserError, match=r"sources\.books\.weight is given.*texts, topics"):
        started(books=1)


def test_masking_documents_trains_and_evaluates(tmp_path, pretrain_config):
    plain, masked = (
        pretrain.run(pretrain_config(tmp_path / str(mask), mask_documents=mask))
        for mask in (False, True)
    )
    assert masked != plain
    assert masked == pytest.approx(plain, rel=0.05)


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


@pytest.mark.parametrize("micro_batch_tokens", [32, 512])
def test_how_a_step_is_cut_up_changes_no_context(
    micro_batch_tokens, tiny_run, tmp_path, pretrain_config
):
    pretrain.run(
        pretrain_config(
            tmp_path, base=str(tiny_run), steps=1, micro_batch_tokens=micro_batch_tokens
        )
    )
    plan = json.loads((tmp_path / "pretrain" / "plan.json").read_text(encoding="utf-8"))
    assert plan["context_length"] == 64
    assert plan["rows_per_micro_batch"] == max(1, micro_batch_tokens // 64)


def test_rows_of_a_base_are_no_longer_than_needed(capsys):
    assert pretrain.continued_context(256, 10**6) == 256
    assert capsys.readouterr().err == ""
    assert pretrain.continued_context(131_072, 10**9) == pretrain.MAX_CONTINUED_CONTEXT
    assert "the base could read 131,072 at once" in capsys.readouterr().err
    assert pretrain.continued_context(4096, 5000) == 2500


def test_a_base_is_not_replaced_by_its_own_child(tiny_run, pretrain_config):
    before = sorted(path.name for path in tiny_run.rglob("*"))
    for base in (tiny_run, tiny_run / "best"):
        config = pretrain_config(tiny_run.parent, base=str(base), overwrite=True)
        with pytest.raises(UserError, match=r"lies in the directory of this run.*name="):
            pretrain.run(config)
    assert sorted(path.name for path in tiny_run.rglob("*")) == before


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


def test_a_new_model_of_another_family(tmp_path, pretrain_config):
    shape = {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 4, "head_dim": 8}
    model = ModelConfig("test", "gpt2", **shape, intermediate_size=128, context_length=64)
    pretrain.run(pretrain_config(tmp_path, model=model, steps=8))
    lines = (tmp_path / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [entry["val_loss"] for entry in map(json.loads, lines) if "val_loss" in entry]
    assert losses[-1] < losses[0] < 6.5  # 512 pieces
    loaded = load_checkpoint(tmp_path / "pretrain").model
    assert loaded.config.learned_positions
    assert loaded.config.layer_norm


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


@pytest.mark.slow
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


def test_blocks_computed_again_and_a_z_loss(tiny_run, tmp_path, pretrain_config):
    def entries(run):
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    pretrain.run(pretrain_config(tmp_path, name="again", activation_checkpointing="on"))
    pretrain.run(pretrain_config(tmp_path, name="z", z_loss=0.1))
    plan = json.loads((tmp_path / "again" / "plan.json").read_text(encoding="utf-8"))
    assert plan["activation_checkpointing"] is True
    before, again, z = (entries(run) for run in (tiny_run, tmp_path / "again", tmp_path / "z"))
    assert [e.get("loss") for e in again] == [e.get("loss") for e in before]
    assert z[0]["loss"] > before[0]["loss"] + 1
    assert z[-1]["val_loss"] < 7  # the likelihood alone


def test_fp8_is_refused_before_anything_is_made(tmp_path, pretrain_config):
    with pytest.raises(UserError, match="fp8=true: cpu has no 8-bit"):
        pretrain.run(pretrain_config(tmp_path / "runs", fp8=True))
    assert not (tmp_path / "runs").exists()
