"""Every config that is shipped composes into a valid config of its subcommand."""

import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from llmstages.config.compose import to_dataclass
from llmstages.config.folders import conf_dir, group_choices
from llmstages.config.schema import register_schema
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import USAGES, experiments_of
from llmstages.errors import UserError

CHOICES = {subcommand: group_choices(subcommand, [conf_dir()]) for subcommand in SUBCOMMANDS}


def config_of(subcommand: str, *overrides: str) -> Any:
    needed = [f"{key}=x" for key in USAGES[subcommand].required]
    register_schema(subcommand)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_dataclass(subcommand, compose(subcommand, [*needed, *overrides]))


# A classifier has a head and no answers, instruction tuning the other way round.
REFUSED = {("finetune-instruct", "method", "head"), ("finetune-classify", "method", "dpo")}


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_the_defaults_of_every_subcommand(subcommand: str) -> None:
    assert type(config_of(subcommand)) is SUBCOMMANDS[subcommand]


@pytest.mark.parametrize(
    ("subcommand", "group", "choice"),
    [
        (subcommand, group, choice)
        for subcommand, groups in CHOICES.items()
        for group, choices in groups.items()
        for choice in choices
    ],
)
def test_every_choice_of_every_group(subcommand: str, group: str, choice: str) -> None:
    name = experiments_of(subcommand) if group == "experiment" else group
    if (subcommand, group, choice) in REFUSED:
        with pytest.raises(UserError, match=f"{group}={choice}"):
            config_of(subcommand, f"{name}={choice}")
        return
    config = config_of(subcommand, f"{name}={choice}")
    assert type(config) is SUBCOMMANDS[subcommand]


def test_every_shipped_file_is_a_primary_config_or_a_choice() -> None:
    reached = {f"{subcommand}.yaml" for subcommand in SUBCOMMANDS} | {"hydra/default.yaml"}
    reached |= {"hydra/job_logging/llmstages.yaml", "hydra/hydra_logging/llmstages.yaml"}
    for subcommand, groups in CHOICES.items():
        for group, choices in groups.items():
            folder = experiments_of(subcommand) if group == "experiment" else group
            reached |= {f"{folder}/{choice}.yaml" for choice in choices}
    files = {path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml")}
    assert files == reached


def test_no_key_that_takes_a_path_shares_its_name_with_a_group() -> None:
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    words = {key for usage in USAGES.values() for key in usage.keys}
    assert not groups & words


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    lines = [line for line in path.read_text("utf-8").splitlines() if "@package" not in line]
    assert re.match(r"# \S.{20,}", lines[0])
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize("name", sorted({*CHOICES["pretrain"]["model"]} - {"auto"}))
def test_a_model_says_its_number_of_parameters(name: str) -> None:
    first = (conf_dir() / "model" / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    said = re.match(r"# ([\d,]+) parameters with a vocabulary of ([\d,]+): ", first)
    assert said is not None
    parameters, vocab_size = (int(number.replace(",", "")) for number in said.groups())
    model = config_of("pretrain", f"model={name}").model
    assert model.name == name
    assert model.tie_embeddings
    if model.layout == "gpt2":  # biases, LayerNorm and learned positions
        h, f = model.hidden_size, model.intermediate_size
        block = 4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h
        outside = (vocab_size + model.context_length) * h + 2 * h
        assert parameters == outside + model.num_layers * block
        return
    attention = model.hidden_size * model.head_dim * 2 * (model.num_heads + model.num_kv_heads)
    feed_forward = 3 * model.hidden_size * model.intermediate_size
    norms = 2 * model.hidden_size + 2 * model.head_dim
    assert parameters == (
        vocab_size * model.hidden_size
        + model.num_layers * (attention + feed_forward + norms)
        + model.hidden_size
    )


@pytest.mark.parametrize("group", ["corpus", "model", "optim", "schedule"])
def test_a_choice_is_named_like_its_file(group: str) -> None:
    for choice in CHOICES["pretrain"][group]:
        assert getattr(config_of("pretrain", f"{group}={choice}"), group).name == choice
