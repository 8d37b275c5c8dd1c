"""The same training several times: with other seeds, or with other test rows (cross-validation).

Each is a run of its own in the directory of all, `seed-N` or `fold-N`, and its config says how to
do it alone. One that is finished is not done again. `summary.json` beside them has the mean, the
standard deviation and an interval of their figures.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.errors import UserError
from llmstages.report.terminal import say, table
from llmstages.stages.classifying.baselines import NAMES as BASELINES
from llmstages.train import parallel
from llmstages.train.records import read_record, write_sealed
from llmstages.train.run import FORMAT_VERSION

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss (nats)"}
MULTI_LABEL_FIGURES = {"micro_f1": "micro F1", "macro_f1": "macro F1", "log_loss": "log loss"}
"""What is compared, and how it is called in the table."""
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom (scipy.stats.t.ppf).
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)

Members = Mapping[str, FinetuneClassifyConfig]


def members_of(config: FinetuneClassifyConfig) -> Members:
    """The config of each training by its folder; none where the config is that of one training."""
    if config.folds > 1 and config.fold is None:
        return {
            f"fold-{number}": replace(
                config, fold=number, name_suffix=inside(config, f"fold-{number}")
            )
            for number in range(config.folds)
        }
    if config.seeds > 1:
        split_seed = config.seed if config.split_seed is None else config.split_seed
        return {
            f"seed-{seed}": replace(
                config,
                seeds=1,
                seed=seed,
                split_seed=split_seed,
                # Their rows are the same, and so would be all baselines that have no seed.
                baselines=config.baselines
                if seed == config.seed
                else [name for name in config.chosen_baselines if name == "random_weights"],
                name_suffix=inside(config, f"seed-{seed}"),
            )
            for seed in range(config.seed, config.seed + config.seeds)
        }
    return {}


def inside(config: FinetuneClassifyConfig, folder: str) -> str:
    """A folder in the run directory, or in that of a sweep's job."""
    return folder if config.name_suffix is None else f"{config.name_suffix}/{folder}"


def run_members(
    run: Callable[[FinetuneClassifyConfig], float],
    members: Members,
    directory: Path,
    config: FinetuneClassifyConfig,
) -> float:
    """Do each training that is not finished, and sum up; returns the mean macro F1.

    Raises `UserError` where the directory holds a single run.
    """
    if (directory / "plan.json").exists():
        raise UserError(
            f"{directory}: holds a run of one training, and cannot hold {len(members)}: name=... "
            "for another place"
        )
    for number, (name, member) in enumerate(members.items(), 1):
        say(f"training {number} of {len(members)}: {directory / name}")
        run(member)
    parallel.wait_for_all()  # the first process writes the summaries that all read
    summaries = {name: read_record(directory / name / "summary.json") for name in members}
    figures = FIGURES.keys()
    if not all(figures <= s["metrics"].keys() for s in summaries.values()):
        figures = MULTI_LABEL_FIGURES.keys()
    found = {
        figure: spread([float(s["metrics"][figure]) for s in summaries.values()])
        for figure in figures
    }
    baselines = baselines_of(list(summaries.values()))
    if parallel.is_first():
        temporary = directory / "summary.json.tmp"
        write_sealed(
            temporary,
            {
                "format_version": FORMAT_VERSION,
                "stage": "finetune-classify",
                "status": "finished",
                "headline": "macro_f1",
                "members": list(members),
                "metrics": {figure: entry["mean"] for figure, entry in found.items()},
                "spread": found,
                "baselines": baselines,
            },
        )
        temporary.replace(directory / "summary.json")
        show(summaries, found, baselines)
    return float(found["macro_f1"]["mean"])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample), and the 95 % interval of the mean by Student's t.

    Folds share training rows, so that theirs is too narrow (Bengio & Grandvalet 2004, "No Unbiased
    Estimator of the Variance of K-Fold Cross-Validation").
    """
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    margin = t_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return {
        "mean": mean,
        "standard_deviation": deviation,
        "interval": [mean - margin, mean + margin],
        "values": list(values),
    }


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t, to 1e-3; past the table by its expansion about the normal
    one (Abramowitz & Stegun 1964, 26.7.5)."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def baselines_of(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean figures of what the members were compared with, over those that were: of seeds one,
    but for random weights."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for summary in summaries:
        probe = {"probe": summary["metrics_before"]} if summary["metrics_before"] else {}
        for name, figures in (probe | summary["baselines"]).items():
            found.setdefault(name, []).append(figures)
    return {
        name: {figure: statistics.fmean(each[figure] for each in entries) for figure in entries[0]}
        for name, entries in found.items()
    }


def show(
    summaries: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, float]],
    *,
    to_output: bool = False,
) -> None:
    """One table: each member, their mean and spread, and what they have to beat."""
    names = FIGURES if FIGURES.keys() <= found.keys() else MULTI_LABEL_FIGURES
    rows: list[tuple[str | float | None, ...]] = [
        (name, *(summary["metrics"][figure] for figure in names))
        for name, summary in summaries.items()
    ]
    spreads = [found[figure] for figure in names]
    rows.append(("mean", *(entry["mean"] for entry in spreads)))
    rows.append(("standard deviation", *(entry["standard_deviation"] for entry in spreads)))
    rows.append(("95 % interval, from", *(entry["interval"][0] for entry in spreads)))
    rows.append(("to", *(entry["interval"][1] for entry in spreads)))
    rows += [
        (BASELINES[name], *(figures.get(figure) for figure in names))
        for name, figures in baselines.items()
    ]
    table("on the test rows of each", ("", *names.values()), rows, to_output=to_output)
