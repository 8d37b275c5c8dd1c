"""What `plan` foretells, beside what was published, what the trainer counts, and what a run takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmstages.config.collect_groups import CorpusConfig, SourceConfig
from llmstages.config.groups import BudgetConfig, ModelConfig
from llmstages.config.stages import PlanConfig, PretrainConfig
from llmstages.errors import CheckFailed, UserError
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.scaling import MAX_USEFUL_EPOCHS, optimal_for_flops, predicted_loss
from llmstages.model.transformer import TransformerConfig
from llmstages.stages import plan
from llmstages.train.gpus import GPUS, find_gpu
from llmstages.train.memory import memory_needed, sharded

Cli = Callable[..., tuple[int, str, str]]
GPT3 = ("plan", "model=gpt3-175b", "corpus=gpt3", "device=cpu")


@pytest.fixture
def planned(
    pretrain_config: Callable[..., PretrainConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, Any]]:
    """planned(**settings): the plan of a tiny run as JSON, not probed; `problems` where it failed."""

    def make(**settings: object) -> dict[str, Any]:
        config = pretrain_config(tmp_path, **{"parallel": "auto", **settings, **{}})
        own = {"probe": False, "json": True} | {
            key: value for key, value in settings.items() if key in PLAN_KEYS
        }
        shared = {k: v for k, v in vars(config).items() if k not in own}
        try:
            plan.run(PlanConfig(**shared, **own))
        except CheckFailed as failed:
            printed = json.loads(capsys.readouterr().out)
            assert "; ".join(printed["problems"]) == str(failed)
            return printed
        printed = json.loads(capsys.readouterr().out)
        assert printed["problems"] == []
        return printed

    return make


PLAN_KEYS = {"gpus", "gpu", "utilisation", "probe", "corpus_tokens", "price_per_hour", "watts"}
