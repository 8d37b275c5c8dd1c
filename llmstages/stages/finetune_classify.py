"""`llmstages finetune-classify`: a base model and labelled texts -> a classifier."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.data.examples import ShuffledData
from llmstages.disk import require_writable
from llmstages.errors import UserError
from llmstages.evaluate.classification import FIGURES, ClassificationReport
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.class_pictures import draw_classification
from llmstages.report.terminal import say, table, warn
from llmstages.report.trackers import ended_trackers
from llmstages.stages.classifying.baselines import (
    HEADLINES,
    MULTI_LABEL_HEADLINES,
    compare,
    show_comparison,
)
from llmstages.stages.classifying.deciding import (
    Decided,
    check_decision,
    decide,
    decision_record,
    is_calibrated,
    named_as_labels,
    undivided,
)
from llmstages.stages.classifying.members import members_of, run_members
from llmstages.stages.classifying.probabilities import (
    LabelSets,
    Report,
    assess,
    examples_of,
    measure,
    probabilities,
)
from llmstages.stages.classifying.rows import ClassRows, class_rows
from llmstages.stages.shared.methods import choose_weights
from llmstages.stages.shared.setup import (
    Clock,
    Machine,
    choose_machine,
    fine_tune,
    finetune_base,
    finished_before,
    input_hashes,
    place,
    write_summary,
)
from llmstages.train import parallel
from llmstages.train.checkpoint import (
    Checkpoint,
    add_test_figures,
    best_of_run,
    load_checkpoint,
    restore_weights,
)
from llmstages.train.heads import head_path, made_by, save_head
from llmstages.train.loop import Goal, TrainingResult
from llmstages.train.losses import LossFn, balanced_class_weights, label_loss, multi_label_loss
from llmstages.train.records import seal_of
from llmstages.train.run import Run

DEFAULT_EPOCHS = 4
LR_SHARE = 0.2
"""Of the pretraining rate: a first choice that served on small sets, not swept yet."""


@ended_trackers()
def run(config: FinetuneClassifyConfig, *, is_proof: bool = False) -> float:
    """Tune a base model on labelled texts; returns the macro F1 on the test rows, of several
    trainings (`seeds`, `folds`) the mean.

    is_proof: only the weights and the record of the steps are asked for: no more is made, and 0
    returned.
    """
    if config.data is None:
        raise UserError("finetune-classify needs a file: llmstages finetune-classify FILE")
    directory = config.run_dir
    if members := members_of(config):
        return run_members(run, members, directory, config)
    clock = Clock()
    found = class_rows(config)
    rows, labels, sets = found.rows, found.labels, found.sets
    check_several_labels(config, found)
    rule = named_as_labels(config.decide, labels)
    check_decision(rule, labels)
    machine = choose_machine(config)
    base = finetune_base(
        config, num_labels=len(labels), pooling=config.pooling, multi_label=sets is not None
    )
    model, tokenizer = base.model, base.tokenizer
    the_run = Run(directory, "finetune-classify", config, input_hashes(config, base))
    if (headline := finished_before(the_run)) is not None:
        return headline
    if config.head is not None and not is_proof:
        check_head(base, config.head, the_run, has_begun=the_run.resume_from is not None)
    context_length = model.config.context_length

    training, validation, test = (
        examples_of(part, labels, tokenizer, context_length, sets)
        for part in (rows.train, rows.validation, rows.test)
    )
    if num_long := sum(len(windows) > 1 for windows in training):
        say(
            f"{num_long:,} of {len(training):,} texts are longer than the {context_length} tokens "
            "that the model reads at once: each epoch reads another window of them"
        )
    targets = [windows[0].targets[-1] for windows in training]
    data = ShuffledData(
        training,
        batch_size=config.batch_size,
        micro_batch_tokens=machine.micro_batch_tokens,
        seed=config.seed,
        least_rows=parallel.size(),
        token_dropout=config.token_dropout,
        classes=targets if config.sampling == "balanced" else None,
    )
    say(
        f"{len(training):,} training, {len(validation):,} validation and {len(test):,} test texts, "
        f"{len(labels)} labels; base {base.directory}"
    )
    if config.pooling != "last":
        say(
            f"pooling={config.pooling}: `predict` follows it; transformers' pipeline cannot, and "
            "config.json names no architecture"
        )
    choose_weights(model, config, machine)
    place(model, config, machine)
    if the_run.resume_from is None:
        baselines = compare(config.chosen_baselines, found, model, training, test, machine)
        before = baselines.pop("probe", {})
    else:
        before = the_run.plan.get("metrics_before", {})
        baselines = the_run.plan.get("baselines", {})
    loss = loss_of(config, found, targets, machine)
    record: dict[str, Any] = {
        "pooling": config.pooling,
        "task": "single_label" if sets is None else "multi_label",
        "windows": "mean",
        **({} if found.template is None else found.template.as_record()),
    }

    # Windows that are read after training: of the test texts, again without a temperature, and of
    # the validation texts.
    calibrating = sets is None and is_calibrated(rule, len(validation))
    num_last = sum(map(len, test)) * (1 + calibrating)
    num_last += sum(map(len, validation)) * (calibrating or rule.is_asked)

    num_tokens = sum(len(training[text][0].tokens) for text, _ in data.epoch_reads(0))

    def evaluate(model: Transformer) -> dict[str, float]:
        figures = measure(model, validation, labels, machine, sets).figures
        return {"val_loss": figures["log_loss"], **headlines(figures, sets)}

    def tune(run: Run, base: Checkpoint, clock: Clock) -> TrainingResult:
        return fine_tune(
            run,
            config,
            base,
            machine,
            clock,
            data=data,
            num_rows=len(training),
            num_tokens=round(num_tokens * (1 - config.token_dropout)),
            default_epochs=DEFAULT_EPOCHS,
            lr_share=LR_SHARE,
            evaluate=lambda: evaluate(base.model),
            plan={"metrics_before": before, "baselines": baselines},
            loss=loss,
            labels=labels,
            classifier=record,
            # The loss of few rows is least half-way through, while labels still get better.
            goal=Goal("macro_f1", lower_is_better=False),
            last_evaluation=max(1.0, num_last / sum(map(len, validation))),
        )

    result = tune(the_run, base, clock)
    decided = Decided()
    uncalibrated: ClassificationReport | None = None
    if sets is None:
        decided = decide(the_run, rule, labels, model, validation, machine)
    if is_proof:
        return 0.0
    if decided.temperature is not None:
        with undivided(model, best_of_run(directory)):
            measured = measure(model, test, labels, machine)
            assert isinstance(measured, ClassificationReport)
            uncalibrated = measured
            parallel.shard_again(model)
    if config.head is not None:
        add_head(base, config.head, labels, the_run, record | decided.as_dict())
    report, predictions = assess(
        *(probabilities(model, test, machine), rows.test, test, labels),
        *(config.seed, decided.decision),
        sets=sets,
        title=f"test rows of {Path(config.test_data or config.data).name}",
    )
    the_run.keep_lines("predictions.jsonl", (row.as_dict() for row in predictions))
    if "random_weights" in config.chosen_baselines:
        fresh = random_base(base, config, machine)
        tune_random(the_run, fresh, tune)
        figures = measure(fresh.model, test, labels, machine, sets).figures
        baselines = {**baselines, "random_weights": headlines(figures, sets)}
    calibration = None
    if uncalibrated is not None:
        calibration = {"temperature": decided.temperature, "validation_rows": len(validation)}
        calibration |= {
            f"{name}_before": uncalibrated.figures[name] for name in ("log_loss", "ece")
        }
        show_calibration(report, uncalibrated.figures, of_likeliest=decided.decision.has_rule)
    decision = None
    if isinstance(report, ClassificationReport):
        decision = decision_record(the_run, rule, labels, decided, report.confusion)
    if isinstance(report, ClassificationReport) and config.report.curves and parallel.is_first():
        draw(directory, report, uncalibrated)
    if parallel.is_first():
        add_test_figures(best_of_run(directory), report.figures)
    show_comparison(report, ({"probe": before} if before else {}) | baselines)
    words = sum(  # of a long text one window is read an epoch
        len(rows.train[text].text.split()) / len(training[text]) for text, _ in data.epoch_reads(0)
    )
    write_summary(
        the_run,
        result,
        headline="macro_f1",
        metrics=report.as_dict(),
        metrics_before=before,
        model=model,
        machine=machine,
        context_length=context_length,
        words=round(words * result.progress.step / data.steps_per_epoch),
        clock=clock,
        baselines=baselines,
        calibration=calibration,
        decision=decision,
        examples={"train": len(training), "validation": len(validation), "test": len(test)},
        set_aside=found.set_aside,
        overlap=rows.overlap,
    )
    return report.figures["macro_f1"]


def check_several_labels(config: FinetuneClassifyConfig, found: ClassRows) -> None:
    """Raise `UserError` where texts have any number of labels and the config asks for what is of
    texts with one."""
    if found.sets is None:
        return
    asked = {
        "loss=focal": config.loss == "focal",
        "label_smoothing": config.label_smoothing > 0,
        "class_weights=balanced": config.class_weights != "none",
        "sampling=balanced": config.sampling != "natural",
        "head": config.head is not None,
        "decide": config.decide.is_asked,
    }
    if unfit := [name for name, is_asked in asked.items() if is_asked]:
        raise UserError(
            f"{config.data}: its texts have any number of labels; {', '.join(unfit)} is for texts "
            "with one label each"
        )


def loss_of(
    config: FinetuneClassifyConfig, found: ClassRows, targets: list[int], machine: Machine
) -> LossFn:
    """The loss that is trained on; targets are those of the training texts."""
    if found.sets is not None:
        members = torch.tensor(found.sets.members, dtype=torch.float32, device=machine.device)
        return multi_label_loss(members)
    is_balanced = config.class_weights == "balanced"
    return label_loss(
        focal_gamma=config.focal_gamma if config.loss == "focal" else 0.0,
        label_smoothing=config.label_smoothing,
        class_weights=balanced_class_weights(targets, len(found.labels)) if is_balanced else None,
    )


def check_head(base: Checkpoint, name: str, run: Run, *, has_begun: bool) -> None:
    """Raise `UserError` where a head cannot be put beside the base, or one of the name is there
    already, unless the run has begun and wrote it."""
    if base.source is not None:
        raise UserError(
            f"head={name} is put beside the base, and {base.source} lies in a cache: copy "
            f"{base.directory} and name the copy"
        )
    path = head_path(base.directory, name)
    if parallel.is_first():
        require_writable(path, "base=")
    if run.config.overwrite or not path.exists():
        return
    if not has_begun:
        raise UserError(f"{path}: is there already: another head=NAME, or overwrite=true")
    if made_by(path) != seal_of(run.settings):
        raise UserError(f"{path}: is there already, and not of this run: move it away to go on")


def add_head(
    base: Checkpoint, name: str, labels: list[str], run: Run, classifier: Mapping[str, Any]
) -> None:
    """Put the head of the base's model beside the base; `UserError` where another run did so.

    classifier: as the run's own checkpoint has it.
    """
    check_head(base, name, run, has_begun=True)
    assert base.model.head is not None
    weight = parallel.whole(base.model.head.weight.detach())
    if parallel.is_first():
        path = save_head(
            *(base, name, weight.cpu(), labels),
            classifier=classifier,
            made_by=seal_of(run.settings),
        )
        say(f"head {name}: {path}")


def headlines(figures: Mapping[str, float], sets: LabelSets | None) -> dict[str, float]:
    """Those of the figures that are shown while training, and beside those of baselines."""
    names = HEADLINES if sets is None else MULTI_LABEL_HEADLINES
    return {name: figures[name] for name in names}


def random_base(base: Checkpoint, config: FinetuneClassifyConfig, machine: Machine) -> Checkpoint:
    """The base with random weights."""
    model = random_model(base.model.config, config.seed)
    place(model, config, machine)
    return replace(base, model=model)


def random_model(config: TransformerConfig, seed: int) -> Transformer:
    """A classifier of the shape with new weights, as pretraining starts with, and a new head."""
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.output_weight.zero_()
    return model


def tune_random(
    run: Run, base: Checkpoint, tune: Callable[[Run, Checkpoint, Clock], TrainingResult]
) -> None:
    """Do the run's training from a base of random weights, in a run inside it."""
    say("baseline: the same training from random weights")
    config = replace(run.config, logger=[])  # trackers are at the outer run
    inner = Run(run.directory / "random_weights", run.stage, config, run.settings["inputs"])
    if inner.summary is not None:
        restore_weights(base.model, load_checkpoint(inner.directory))
        return
    tune(inner, base, Clock())
    inner.finish({"headline": "macro_f1", "metrics": {}})


def draw(
    directory: Path, report: ClassificationReport, uncalibrated: ClassificationReport | None
) -> None:
    """Pictures of the test rows; the training matters more, whatever goes wrong."""
    try:
        draw_classification(directory, f"{directory.name} (test rows)", report, uncalibrated)
    except Exception as error:
        warn(f"no pictures of the test rows: {type(error).__name__}: {error}")


def show_calibration(report: Report, before: Mapping[str, float], *, of_likeliest: bool) -> None:
    """Log loss and calibration error, without the temperature and with it.

    of_likeliest: say that they are of the likeliest label, where a rule gives another one.
    """
    rows = [(FIGURES[name], before[name], report.figures[name]) for name in ("log_loss", "ece")]
    of = "the likeliest label, on the test rows" if of_likeliest else "on the test rows"
    table(f"temperature, {of}", ("", "before", "after"), rows)
