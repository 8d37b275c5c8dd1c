"""What the schemas say: keys, types, meanings, nearest names."""

import re
from dataclasses import is_dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmstages.config.compose import to_dataclass
from llmstages.config.groups import BudgetConfig, MethodConfig
from llmstages.config.overrides import for_hydra, one_length
from llmstages.config.schema import all_keys, find_key, key_doc, nearest_key, no_such_key
from llmstages.config.stages import CollectConfig, FinetuneClassifyConfig, PretrainConfig
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.uses import GenerateConfig
from llmstages.errors import UserError


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_key_has_a_type_and_a_meaning(subcommand: str) -> None:
    schema = SUBCOMMANDS[subcommand]
    keys = list(all_keys(schema))
    assert len(keys) == len(set(keys))
    for dotted in keys:
        key = find_key(schema, dotted)
        assert key is not None
        if not (isinstance(key.type, type) and is_dataclass(key.type)):
            doc = key_doc(schema, dotted)
            assert doc, f"{subcommand}: {dotted} has no docstring"
            assert doc[-1] in ".;)"


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_class_has_its_usage_as_docstring(subcommand: str) -> None:
    doc = SUBCOMMANDS[subcommand].__doc__ or ""
    assert re.match(rf"`llmstages {subcommand}( [^`]+)?`: ", doc)


def test_find_key() -> None:
    steps = find_key(PretrainConfig, "steps")
    assert steps is not None
    assert (steps.type, steps.optional) == (int, True)
    weight = find_key(PretrainConfig, "corpus.sources.anything.weight")
    assert weight is not None
    assert weight.type is float
    assert find_key(PretrainConfig, "sample_prompts.0") is not None
    assert find_key(PretrainConfig, "steps.x") is None
    assert find_key(PretrainConfig, "corpus.sources.anything.nothing") is None


@pytest.mark.parametrize(
    ("schema", "typed", "nearest"),
    [
        (PretrainConfig, "stpes", "steps"),
        (PretrainConfig, "lr", "optim.lr"),
        (PretrainConfig, "hiden_size", "model.hidden_size"),
        (PretrainConfig, "optim.weigth_decay", "optim.weight_decay"),
        (PretrainConfig, "corpus.sources.wiki.wieght", "corpus.sources.wiki.weight"),
        (PretrainConfig, "tokens", "budget.tokens"),
        (FinetuneClassifyConfig, "text_colum", "text_column"),
        (GenerateConfig, "temprature", "temperature"),
        (CollectConfig, "vocab_size", "tokenizer.vocab_size"),
        (CollectConfig, "qqqqqq", None),
    ],
)
def test_nearest_key(schema: type, typed: str, nearest: str | None) -> None:
    assert nearest_key(schema, typed) == nearest


def test_no_such_key_always_says_what_to_do() -> None:
    assert no_such_key("collect", "qqqqqq") == (
        "collect has no key qqqqqq: llmstages collect --help shows its keys; "
        "words with an = go after --"
    )


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("experiment=a", "experiment/pretrain=a"),
        ("+experiment=a", "experiment/pretrain=a"),
        ("experiment=a,b", "experiment/pretrain=a,b"),
        ("~experiment", "~experiment/pretrain"),
        ("steps=1e4", "steps=10000"),
        ("steps=1e3,2.5e3,7", "steps=1000,2500,7"),
        ("steps=1.5", "steps=1.5"),
        ("steps=1e99999", "steps=1e99999"),
        ("steps=null", "steps=null"),
        ("epochs=1e1", "epochs=1e1"),
        ("name=1e4", "name='1e4'"),
        ("nothing=1e4", "nothing=1e4"),
        ("+corpus.sources.a.weight=1", "+corpus.sources={a:{weight:1}}"),
        ("++corpus.sources.a={kind: files}", "++corpus.sources={a:{kind: files}}"),
        ("corpus.sources.a.weight=1", "corpus.sources.a.weight=1"),
        ("model=nano", "model=nano"),
    ],
)
def test_overrides_for_hydra(typed: str, read: str) -> None:
    assert for_hydra("pretrain", typed) == read


def composed(subcommand: str, **values: Any) -> Any:
    schema = OmegaConf.structured(SUBCOMMANDS[subcommand])
    OmegaConf.set_struct(schema, False)
    return OmegaConf.merge(schema, values)


def test_the_dataclasses_hold_the_values_and_nothing_of_omegaconf() -> None:
    config = to_dataclass(
        "pretrain",
        composed("pretrain", steps=3, corpus={"sources": {"a": {"paths": ["x"]}}}, name="${seed}"),
    )
    assert type(config) is PretrainConfig
    assert (config.steps, config.name) == (3, "0")
    assert config.corpus.sources["a"].paths == ["x"]
    assert type(config.corpus.sources) is dict
    assert type(config.corpus.sources["a"].paths) is list


def test_settings_of_adapters_are_for_adapters() -> None:
    with pytest.raises(UserError, match=r"method\.rank is for adapters.*method=lora"):
        MethodConfig(rank=4)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        to_dataclass(
            "finetune-classify",
            composed(
                "finetune-classify",
                optim={"lr": -1},
                schedule={"name": "wds"},
                batch_size=0,
                seed=1,
            ),
        )
    assert str(caught.value) == (
        "data missing: llmstages finetune-classify FILE [key=value ...]; "
        "optim.lr=-1 must be between 0 and 10; "
        "schedule.name=wds is unknown: did you mean wsd?; "
        "batch_size=0 must be at least 1"
    )


def test_keys_that_are_in_no_schema_are_refused_wherever_they_are() -> None:
    with pytest.raises(UserError) as caught:
        to_dataclass(
            "pretrain",
            OmegaConf.create({"stpes": 1, "corpus": {"sources": {"a": {"path": "x"}}}}),
        )
    assert str(caught.value) == (
        "pretrain has no key stpes: did you mean steps?; "
        "pretrain has no key corpus.sources.a.path: did you mean corpus.sources.a.paths?"
    )


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [
        (BudgetConfig(seconds=5), 5),
        (BudgetConfig(minutes=1.5), 90),
        (BudgetConfig(cost=3, price_per_hour=12), 900),
        (BudgetConfig(tokens=5), None),
        (BudgetConfig(flops=5), None),
    ],
)
def test_seconds_of_a_budget(budget: BudgetConfig, seconds: float | None) -> None:
    assert budget.wall_seconds == seconds


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"class_weights": "balanced", "sampling": "balanced"}, "even out the labels twice"),
        ({"loss": "focal", "label_smoothing": 0.1}, "leave one of them out"),
        ({"focal_gamma": 1.0}, "focal_gamma=1 is not used by loss=cross_entropy"),
        ({"seeds": 2, "folds": 2}, "seeds=2 and folds=2 are given: keep one"),
        ({"folds": 2, "test_data": "x"}, "test_data=x is given: keep one"),
        ({"folds": 2, "fold": 2}, "fold=2 must be between 0 and 1"),
        ({"fold": 0}, "give folds too"),
    ],
)
def test_what_makes_no_sense_for_a_classifier(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        FinetuneClassifyConfig(**settings)


def test_a_length_that_is_typed_takes_the_place_of_an_experiments() -> None:
    lengths = ["experiment/finetune-classify=spam-filter", "budget.seconds=100"]
    found = one_length("finetune-classify", lengths)
    assert found[:2] == lengths
    assert {"epochs=null", "steps=null", "budget.cost=null"} < set(found[2:])
    assert "budget.seconds=null" not in found
    for alone in (["budget.seconds=100"], ["experiment/finetune-classify=spam-filter", "seed=1"]):
        assert one_length("finetune-classify", alone) == alone
    assert one_length("evaluate", ["experiment/evaluate=x", "seed=1"])[2:] == []
