"""What a trained classifier learns from its validation rows: how sure it may be of its labels.

All of it is kept in the run's best checkpoint, for `predict`, `evaluate` and whoever opens it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.config.groups import DecideConfig
from llmstages.data.examples import Example
from llmstages.errors import UserError
from llmstages.evaluate.decision import (
    Decision,
    cheapest_threshold,
    min_probability,
    threshold_of_precision,
    threshold_of_recall,
)
from llmstages.evaluate.temperature import (
    MIN_MISTAKES,
    MIN_ROWS,
    averaged,
    fitted_temperature,
)
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, warn
from llmstages.stages.classifying import probabilities
from llmstages.stages.training import Machine
from llmstages.train import parallel
from llmstages.train.checkpoint import best_of_run, revise_classifier, undivided_head
from llmstages.train.run import Run

TOO_FEW = f"it takes {MIN_ROWS} validation rows, and {MIN_MISTAKES} wrong labels among them"
THRESHOLD_KEYS = ("cost", "min_precision", "min_recall")
"""Settings by which a threshold is found."""


def decide(
    run: Run,
    config: DecideConfig,
    labels: Sequence[str],
    model: Transformer,
    validation: Sequence[Sequence[Example]],
    machine: Machine,
) -> dict[str, Any]:
    """Find what `decide.*` asks for; returns it as `llmstages.json` of the best checkpoint has it.

    The model, which has that checkpoint's weights, and the checkpoint are changed alike. A
    temperature is divided into the head: of a text of one window the likeliest label stays.
    """
    calibrating = is_calibrated(config, len(validation))
    if config.calibrate and not calibrating:
        say(f"no temperature: {TOO_FEW}")
    if not (calibrating or config.is_asked):
        return {"temperature": None, "decision": {}}
    directory = best_of_run(run.directory)
    # A run that was killed before its summary has divided the head already.
    parallel.load_weights(model, undivided_head(directory))
    windows = [[window] for text in validation for window in text]
    found = probabilities(model, windows, machine)
    parallel.shard_again(model)
    num_windows = [len(text) for text in validation]
    truth = [text[0].targets[-1] for text in validation]
    temperature = None
    if calibrating:
        temperature = parallel.from_first(fitted_temperature(found, num_windows, truth))
        say(
            f"no temperature: {TOO_FEW}"
            if temperature is None
            else f"temperature {temperature:.3f}"
        )
        with torch.no_grad():
            model.output_weight.div_(temperature or 1.0)
    shares = averaged(found, num_windows, temperature or 1.0)
    decision = parallel.from_first(found_decision(config, labels, shares, np.array(truth)))
    decided = {"temperature": temperature, "decision": decision.as_dict()}
    parallel.wait_for_all()  # all have read the checkpoint
    if parallel.is_first():
        revise_classifier(directory, decided)
    parallel.wait_for_all()
    return decided


def is_calibrated(config: DecideConfig, num_rows: int) -> bool:
    """Whether so many validation rows are read to fit a temperature."""
    return config.calibrate and num_rows >= MIN_ROWS


@contextmanager
def undivided(model: Transformer, directory: Path) -> Iterator[None]:
    """Inside, a classifier has the head that training left it with, of its checkpoint."""
    divided = model.output_weight.detach().clone()
    parallel.load_weights(model, undivided_head(directory))
    yield
    with torch.no_grad():
        model.output_weight.copy_(divided)


def named_as_labels(config: DecideConfig, labels: Sequence[str]) -> DecideConfig:
    """The rule with its labels named as the rows have them: `true` and 1 are no text in a config,
    and labels of booleans and numbers are."""

    def named(value: Any) -> str:
        text = str(value)
        forms = (text, text.lower(), text.upper(), text.removesuffix(".0"))
        return next((form for form in forms if form in labels), text)

    positive = None if config.positive is None else named(config.positive)
    cost = config.cost
    if is_matrix(cost):
        cost = {
            named(true): {named(given): number for given, number in row.items()}
            for true, row in cost.items()
        }
    return replace(config, positive=positive, cost=cost)


def check_decision(config: DecideConfig, labels: Sequence[str]) -> None:
    """Raise `UserError` where a rule does not fit the labels: before anything is trained."""
    if config.positive is not None:
        if len(labels) != 2:
            raise UserError(
                f"decide.positive={config.positive} is for two labels, not {len(labels)}: "
                "decide.cost={TRUE: {GIVEN: 5}} is for any number"
            )
        if config.positive not in labels:
            raise UserError(
                f"decide.positive={config.positive}: choose one of {labels[0]!r} and {labels[1]!r}"
            )
    if is_matrix(config.cost):
        named = [*config.cost, *(label for row in config.cost.values() for label in row)]
        for label in named:
            if label not in labels:
                raise UserError(f"decide.cost: no training row has the label {label!r}")
    elif rule := next((key for key in THRESHOLD_KEYS if getattr(config, key)), None):
        if config.positive is None:
            shown = f": {labels[0]!r} or {labels[1]!r}" if len(labels) == 2 else ", of two labels"
            raise UserError(f"decide.{rule} needs decide.positive{shown}")
        if rule == "cost" and not (
            config.cost.keys() == {"fp", "fn"} and any(config.cost.values())
        ):
            raise UserError("decide.cost: give fp and fn, not both 0: decide.cost={fp: 1, fn: 5}")


def is_matrix(cost: Any) -> bool:
    """Whether costs are given by label."""
    return bool(cost) and all(isinstance(row, dict) for row in cost.values())


def found_decision(
    config: DecideConfig,
    labels: Sequence[str],
    probabilities: NDArray[np.float64],
    truth: NDArray[np.int64],
) -> Decision:
    """The rule that validation texts give; says what it does with them."""
    refused_below = None
    if config.refuse_share:
        refused_below = min_probability(probabilities, config.refuse_share)
        say(f"out of scope: texts whose likeliest label is less likely than {refused_below:.3f}")
    if is_matrix(config.cost):
        costs = [
            [float(config.cost.get(true, {}).get(given, true != given)) for given in labels]
            for true in labels
        ]
        return Decision(costs=costs, min_probability=refused_below)
    if config.positive is None:
        return Decision(min_probability=refused_below)
    index = list(labels).index(config.positive)
    scores, positive = probabilities[:, index], truth == index
    threshold: float | None
    if config.cost:
        threshold = cheapest_threshold(scores, positive, config.cost["fp"], config.cost["fn"])
    elif config.min_precision is not None:
        threshold = threshold_of_precision(scores, positive, config.min_precision)
    else:
        assert config.min_recall is not None
        threshold = threshold_of_recall(scores, positive, config.min_recall)
    if threshold is None:
        warn(
            "on the validation rows no threshold does what decide asks for: the likelier label is "
            "given"
        )
        return Decision(min_probability=refused_below)
    given = scores >= threshold
    hits = int((given & positive).sum())
    say(
        f"{config.positive!r} from a probability of {threshold:.3f} on: of the validation rows "
        f"{given.sum():,} get it, {hits:,} rightly, and {positive.sum() - hits:,} are missed"
    )
    return Decision(index, threshold, min_probability=refused_below)
