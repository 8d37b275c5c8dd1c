"""What a trained classifier learns from its validation rows: how sure it may be of its labels.

All of it is kept in the run's best checkpoint, for `predict`, `evaluate` and whoever opens it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmstages.config.groups import DecideConfig
from llmstages.data.examples import Example
from llmstages.errors import UserError
from llmstages.evaluate.classification import confusion_matrix
from llmstages.evaluate.decision import (
    Decision,
    LabelCounts,
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
from llmstages.stages.classifying.probabilities import probabilities
from llmstages.stages.shared.setup import Machine
from llmstages.train import parallel
from llmstages.train.checkpoint import best_of_run, revise_classifier, undivided_head
from llmstages.train.run import Run

TOO_FEW = f"it takes {MIN_ROWS} validation rows, and {MIN_MISTAKES} wrong labels among them"
THRESHOLD_KEYS = ("cost", "min_precision", "min_recall")
"""Settings by which a threshold is found."""


@dataclass(frozen=True)
class Decided:
    """What was found on the validation rows."""

    temperature: float | None = None
    decision: Decision = field(default_factory=Decision)
    counts: LabelCounts | None = None
    """Of the label with a threshold, on these rows."""

    def as_dict(self) -> dict[str, Any]:
        """As `llmstages.json` has it."""
        return {"temperature": self.temperature, "decision": self.decision.as_dict()}


def decide(
    run: Run,
    config: DecideConfig,
    labels: Sequence[str],
    model: Transformer,
    validation: Sequence[Sequence[Example]],
    machine: Machine,
) -> Decided:
    """Find what `decide.*` asks for, and put it into the best checkpoint.

    The model, which has that checkpoint's weights, and the checkpoint are changed alike. A
    temperature is divided into the head: of a text of one window the likeliest label stays.
    """
    calibrating = is_calibrated(config, len(validation))
    if config.calibrate and not calibrating:
        say(f"no temperature: {TOO_FEW}")
    if not (calibrating or config.is_asked):
        return Decided()
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
    targets = np.array(truth)
    decision = parallel.from_first(found_decision(config, labels, shares, targets))
    counts = None
    if decision.positive is not None:
        given = confusion_matrix(targets, decision.labels(shares), len(labels))
        counts = LabelCounts.of(given.tolist(), decision.positive)
    decided = Decided(temperature, decision, counts)
    log_decided(run, config, labels, decided)
    parallel.wait_for_all()  # all have read the checkpoint
    if parallel.is_first():
        revise_classifier(directory, decided.as_dict())
    parallel.wait_for_all()
    return decided


def log_decided(run: Run, config: DecideConfig, labels: Sequence[str], decided: Decided) -> None:
    """Say which labels are given, and where too few rows show that they are as asked."""
    counts = decided.counts
    for sentence in decided.decision.sentences(labels):
        run.log(sentence)
    if counts is None:
        return
    run.log(
        f"of {counts.rows:,} validation rows {counts.given:,} get it, {counts.right:,} rightly, "
        f"and {counts.missed:,} are missed"
    )
    if (asked := asked_share(config)) is None:
        return
    figure, least = asked
    found = counts.measured(figure)
    if found is not None and found.low < least:
        warn(
            f"decide.min_{figure}={least:g}: the validation rows are too few to be sure of it on "
            f"others: {figure} {found}"
        )


def asked_share(config: DecideConfig) -> tuple[str, float] | None:
    """`precision` or `recall`, and the least that is asked of it."""
    if config.min_precision is not None:
        return "precision", config.min_precision
    return None if config.min_recall is None else ("recall", config.min_recall)


def decision_record(
    run: Run,
    config: DecideConfig,
    labels: Sequence[str],
    decided: Decided,
    confusion: Sequence[Sequence[int]],
) -> dict[str, Any] | None:
    """The rule for `summary.json`, with the counts behind it; None without one.

    Says what became of a precision or recall that was asked for. confusion: of the test rows.
    """
    record = decided.decision.by_label(labels)
    positive = decided.decision.positive
    if decided.counts is None or positive is None:
        return record or None
    test = LabelCounts.of(confusion, positive)
    record |= {"validation": decided.counts._asdict(), "test": test._asdict()}
    if (asked := asked_share(config)) is not None:
        figure, least = asked
        found = test.measured(figure)
        none = "no row gets the label" if figure == "precision" else "no row has the label"
        shown = none if found is None else f"{figure} {found}"
        run.log(f"decide.min_{figure}={least:g}: on the test rows {shown}")
        record["asked"] = {f"min_{figure}": least}
    return record


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
    """The rule that validation texts give; warns where no threshold does as asked."""
    refused_below = None
    if config.refuse_share:
        refused_below = min_probability(probabilities, config.refuse_share)
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
    return Decision(index, threshold, min_probability=refused_below)
