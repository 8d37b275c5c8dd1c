"""What `plan` foretells, beside what was published, what the trainer counts, what a run takes."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmstages.config.collect_groups import CorpusConfig, SourceConfig
from llmstages.config.groups import PICKED_KEYS, BudgetConfig, ModelConfig
from llmstages.config.stages import PlanConfig, PretrainConfig
from llmstages.errors import CheckFailed, UserError
from llmstages.model.counts import flops_per_token
from llmstages.model.layouts import make_config
from llmstages.model.scaling import MAX_USEFUL_EPOCHS
from llmstages.stages import plan
from llmstages.stages.planning.text import Source
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.gpus import GPUS, find_gpu
from llmstages.train.memory import memory_needed, sharded

HUGE = {
    **{"name": "huge", "num_layers": 40, "hidden_size": 5120, "num_heads": 40, "num_kv_heads": 40},
    **{"head_dim": 128, "intermediate_size": 13_824, "context_length": 64},
}
A100 = next(gpu for gpu in GPUS if gpu.name == "A100")


@pytest.fixture
def planned(
    pretrain_config: Callable[..., PretrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, Any]]:
    """planned(settings of the run, **settings of the plan): the plan of a tiny run as JSON."""

    def make(run: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        config = vars(pretrain_config(tmp_path, **(run or {})))
        try:
            plan.run(PlanConfig(**{**config, "probe": False, **settings}, json=True))
            failed = ""
        except CheckFailed as error:
            failed = str(error)
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "; ".join(record["problems"]) == failed
        return record

    return make


def test_gpt3_is_what_was_published(cli: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = cli("plan", "model=gpt3-175b", "corpus=gpt3", "device=cpu", "json=true")
    assert status == 1  # on this machine
    assert "it does not fit" in err
    record = json.loads(out)
    epochs = {s["name"]: (s["epochs"], s["published_epochs"]) for s in record["corpus"]["sources"]}
    assert epochs["commoncrawl"] == (pytest.approx(0.435, abs=5e-4), 0.44)
    assert epochs["books1"] == (pytest.approx(1.98, abs=5e-3), 1.9)
    ours, told = record["published"]["this_plan"], record["published"]["of_published_flops"]
    # Of the published FLOPs, rounded to three digits there, to three digits.
    assert [f"{told[key]:.3g}" for key in told] == [
        "1.75e+11",
        "3e+11",
        "3.14e+23",
        "355",
        "4.67e+06",
    ]
    assert record["published"]["published_cost"] == 4.6e6
    # Of the exact number of parameters.
    assert record["model"]["parameters"] == ours["parameters"] == 174_604_259_328
    assert ours["flops"] == pytest.approx(3.143e23, rel=2e-4)
    assert {key: ours[key] / told[key] for key in ours} == pytest.approx(
        dict.fromkeys(ours, 1.0), rel=0.0025
    )


def test_gpt3_on_a_thousand_gpus(cli: Callable[..., tuple[int, str, str]]) -> None:
    """34 days on 1,024 A100s at 140 TFLOP/s, a quarter of which computes activations again
    (Narayanan et al. 2021, section 5)."""
    share = 0.75 * 140 / 312
    status, out, _ = cli(
        *("plan", "model=gpt3-175b", "corpus=gpt3", "gpu=a100", "gpus=1024"),
        *(f"utilisation={share}", "price_per_hour=2"),
    )
    assert status == 0
    days = float(out.partition("│ time            │")[2].split()[0])
    assert days == pytest.approx(34, rel=0.03)
    for shown in ("174,604,259,328", "3.143e+23", "355.7", "4.677 million", "4.6 million"):
        assert shown in out
    assert "the model sharded: it fits" in " ".join(out.split())


def test_it_counts_what_the_trainer_counts(
    planned: Callable[..., dict[str, Any]], tiny_run: Path
) -> None:
    record = planned()
    summary = json.loads((tiny_run / "summary.json").read_text("utf-8"))
    begun = json.loads((tiny_run / "plan.json").read_text("utf-8"))
    shape = summary["model_shape"]
    assert record["model"]["parameters"] == shape.pop("parameters")
    assert record["length"]["steps"] == summary["steps"]
    assert record["length"]["tokens"] == summary["tokens"]
    assert record["memory"]["rows_per_micro_batch"] == begun["rows_per_micro_batch"]
    config = make_config(**shape)
    needed = memory_needed(
        config,
        rows=begun["rows_per_micro_batch"],
        length=begun["context_length"],
        dtype=torch.float32,
        checkpoint_blocks=begun["activation_checkpointing"],
        device="cpu",
    )
    assert {key: record["memory"][key] for key in asdict(needed)} == asdict(needed)
    assert record["memory"]["fits"]
    assert record["flops"]["total"] == summary["tokens"] * flops_per_token(config, 64)


def test_epochs_of_each_source(
    planned: Callable[..., dict[str, Any]], tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Tokenizer.load(tiny_corpus / "tokenizer").hash[:16]  # other tests may add others' ids
    index = tiny_corpus / "tokens" / own / "index.json"
    shards = json.loads(index.read_text("utf-8"))["shards"]
    tokens = {s["source"]: s["tokens"] for s in shards if s["split"] == "train"}
    real = plan.planned_text

    def with_an_empty_one(*arguments: Any) -> Any:
        text = real(*arguments)
        return replace(text, sources=[*text.sources, Source("empty", 0, 0.0, None)])

    monkeypatch.setattr(plan, "planned_text", with_an_empty_one)
    record = planned()
    found = {source["name"]: source["epochs"] for source in record["corpus"]["sources"]}
    assert found.pop("empty") is None
    read = record["length"]["tokens"]
    assert found == pytest.approx(
        {"topics": 0.75 * read / tokens["topics"], "texts": 0.25 * read / tokens["texts"]}
    )


def test_a_source_that_is_read_too_often_is_named(
    planned: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(plan, "warn", warnings.append)
    record = planned({"epochs": 3.9})
    passes = {source["name"]: source["epochs"] for source in record["corpus"]["sources"]}
    said = " ".join(warnings)
    assert min(passes.values()) < 4 < max(passes.values())
    for name, times in passes.items():
        assert (f"{name} {times:.1f} times" in said) == (times > 4.2)


@pytest.mark.parametrize(("epochs", "problems"), [(16, 0), (17, 1)])
def test_data_that_are_too_few(
    planned: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    epochs: int,
    problems: int,
) -> None:
    assert 16 < MAX_USEFUL_EPOCHS < 17
    record = planned({"epochs": epochs})
    assert record["length"]["epochs"] == pytest.approx(epochs, rel=0.01)
    assert [text.partition(":")[0] for text in record["problems"]] == [
        "the data are too few"
    ] * problems


def test_what_fits_and_what_does_not(planned: Callable[..., dict[str, Any]]) -> None:
    huge = {"model": ModelConfig(**HUGE), "batch_tokens": 4096, "steps": 2}
    one = planned(huge, gpu="A100")
    assert one["problems"][0].startswith("it does not fit: ")
    assert not one["memory"]["fits"]
    some = planned(huge, gpu="A100", gpus=8)
    assert some["problems"] == []
    assert some["memory"]["parallel"] == "fsdp"
    fits = {row["gpus"]: row["fits"] for row in some["numbers_of_gpus"]}
    assert fits == {1: False, 8: True, 64: True, 512: True, 4096: True}
    assert {row["gpus"]: row["working_gpus"] for row in some["numbers_of_gpus"]}[512] == 64
    fewest = {row["gpu"]: row["fewest_gpus"] for row in some["other_gpus"]}
    assert fewest["H200"] <= fewest["H100"] <= fewest["RTX 4090"]
    enough, too_few = (
        planned(huge, gpu="RTX 5090", gpus=gpus)["memory"]
        for gpus in (fewest["RTX 5090"], fewest["RTX 5090"] - 1)
    )
    assert (enough["fits"], too_few["fits"]) == (True, False)
    shares = {row["gpu"]: row["share_of_peak"] for row in some["other_gpus"]}
    assert not enough["activation_checkpointing"]
    assert shares["RTX 5090"] == 0.4
    tight = planned(huge, gpu="RTX 4090", gpus=fewest["RTX 4090"])["memory"]
    assert tight["activation_checkpointing"]
    assert shares["RTX 4090"] == pytest.approx(0.3)
    assert planned({**huge, "parallel": "ddp"}, gpu="A100", gpus=8)["problems"] != []


def test_a_sharded_model() -> None:
    config = make_config("qwen3", vocab_size=512, **{k: v for k, v in HUGE.items() if k != "name"})
    settings: dict[str, Any] = {"rows": 1, "length": 64, "dtype": torch.bfloat16}
    whole = memory_needed(config, checkpoint_blocks=False, **settings)
    found = sharded(whole, config, torch.bfloat16, 16)
    block = 4 * 5120 * 5120 + 3 * 5120 * 13_824  # larger than the output matrix
    assert found.optimizer == -(-whole.optimizer // 16)
    assert found.gradients == -(-whole.gradients // 16) + 2 * block
    assert found.weights == -(-whole.gradients // 16) + 2 * 2 * block
    assert (found.activations, found.logits) == (whole.activations, whole.logits)


def test_time_energy_and_money(planned: Callable[..., dict[str, Any]]) -> None:
    settings = {"gpu": "A100", "gpus": 2, "utilisation": 0.5}
    record = planned(**settings, price_per_hour=3.0, price_per_kwh=0.5)
    speed = 0.5 * A100.float32_flops / record["flops"]["per_token"]  # the tiny run is in float32
    hours = record["length"]["tokens"] / (2 * speed) / 3600
    assert record["time"]["hours"] == pytest.approx(hours)
    assert record["kwh"] == pytest.approx(2 * hours * 0.4)
    assert record["money"] == pytest.approx(2 * hours * 3.0 + 2 * hours * 0.4 * 0.5)
    assert planned(**settings)["money"] is None
    budget = BudgetConfig(cost=0.01, price_per_hour=36.0)  # a second
    bought = planned({"budget": budget}, **settings)
    assert bought["length"]["tokens"] == pytest.approx(2 * speed, rel=0.01)
    assert bought["time"]["seconds"] == pytest.approx(1.0, rel=0.01)
    assert bought["money"] == pytest.approx(0.01, rel=0.01)  # the price is of both together


def test_all_wait_for_the_one_with_most_rows(planned: Callable[..., dict[str, Any]]) -> None:
    """8 rows on 6 GPUs take as long as on 4."""
    for run in ({"steps": 8}, {"budget": BudgetConfig(seconds=1)}):
        on_six, on_four = (planned(run, gpu="A100", gpus=gpus, utilisation=0.5) for gpus in (6, 4))
        assert on_six["time"]["busiest_rows"] == on_four["time"]["busiest_rows"] == 2
        assert on_six["length"] == on_four["length"]
        assert on_six["time"]["seconds"] == pytest.approx(on_four["time"]["seconds"])


def test_other_sizes_for_the_same_flops(planned: Callable[..., dict[str, Any]]) -> None:
    sizes = dict.fromkeys(PICKED_KEYS, 0)
    auto = ModelConfig("auto", **sizes, context_length=0, tie_embeddings=False)
    record = planned({"model": auto, "budget": BudgetConfig(flops=1e12)})
    own, *laws, picked = record["alternatives"]
    for law in laws:
        assert 6 * law["parameters"] * law["tokens"] == pytest.approx(record["flops"]["six_n_d"])
    assert picked["parameters"] == own["parameters"]


def test_a_corpus_that_is_not_there_yet(
    planned: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    sources = {"a": SourceConfig(paths=["a"]), "b": SourceConfig(paths=["b"])}
    run = {"data": str(tmp_path / "none"), "corpus": CorpusConfig("mine", sources)}
    with pytest.raises(UserError, match=r"none: no corpus yet.*corpus_tokens="):
        planned(run)
    record = planned(run, corpus_tokens=1e6, vocab_size=100)
    assert (record["corpus"]["tokens"], record["model"]["vocab_size"]) == (1_000_000, 100)


def test_a_plan_from_a_few_steps(
    planned: Callable[..., dict[str, Any]], tiny_run: Path, tmp_path: Path
) -> None:
    record = planned(probe=True)
    summary = json.loads((tiny_run / "summary.json").read_text("utf-8"))
    assert record["time"]["speed_source"] == "a few steps, measured"
    # A machine that does other things at the same time may be ten times slower for a moment.
    assert 0.1 < record["time"]["tokens_per_second"] / summary["tokens_per_second"] < 10
    assert record["time"]["seconds"] > record["time"]["around_seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    without = {"data": str(tmp_path / "none"), "steps": 8}
    assert planned(without, probe=True, corpus_tokens=1e5)["time"]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("RTX-4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400", None),
        ("NVIDIA GeForce GT 430", None),
        ("Radeon", None),
    ],
)
def test_a_gpu_by_its_name(name: str, found: str | None) -> None:
    gpu = find_gpu(name)
    assert (gpu and gpu.name) == found


def test_by_default_a_new_model_wants_20_tokens_a_parameter(
    planned: Callable[..., dict[str, Any]], tiny_run: Path
) -> None:
    record = planned({"steps": None})
    parameters, vocab_size = record["model"]["parameters"], record["model"]["vocab_size"]
    new = {"steps": None, "data": "none"}
    assert planned(new, corpus_tokens=2 * parameters, vocab_size=vocab_size)["problems"] == []
    (problem,) = planned(new, corpus_tokens=parameters, vocab_size=vocab_size)["problems"]
    assert "20.0 passes" in problem
    assert planned({"steps": None}, base=str(tiny_run))["problems"] == []
