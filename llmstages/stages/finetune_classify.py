"""`llmstages finetune-classify`: a base model and labelled texts -> a classifier."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.data.examples import Example, ShuffledData
from llmstages.data.labelled_texts import LabelledText, read_labelled_texts
from llmstages.errors import UserError
from llmstages.evaluate.baselines import linear_probe, majority_baseline, tfidf_baseline
from llmstages.evaluate.classification import FIGURES, ClassificationReport
from llmstages.evaluate.decision import Decision
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.class_pictures import draw_classification
from llmstages.report.classification import render_classification
from llmstages.report.terminal import error_console, progress, say, table
from llmstages.stages.classifying import assess, examples_of, features, measure
from llmstages.stages.deciding import check_decision, decide
from llmstages.stages.finetune_rows import finetune_rows
from llmstages.stages.members import members_of, run_members
from llmstages.stages.methods import choose_weights
from llmstages.stages.training import (
    Clock,
    Machine,
    choose_machine,
    fine_tune,
    finetune_base,
    finished_before,
    input_hashes,
    place,
    run_dir,
    write_summary,
)
from llmstages.train import parallel
from llmstages.train.checkpoint import Checkpoint, load_checkpoint, restore_weights
from llmstages.train.heads import head_path, save_head
from llmstages.train.loop import TrainingResult
from llmstages.train.losses import balanced_class_weights, label_loss
from llmstages.train.run import Run

DEFAULT_EPOCHS = 4
LR_SHARE = 0.2
"""Of the pretraining rate: a first choice that served on small sets, not swept yet."""


def run(config: FinetuneClassifyConfig) -> float:
    """Tune a base model on labelled texts; returns the macro F1 on the test rows, of several
    trainings (`seeds`, `folds`) the mean."""
    if config.data is None:
        raise UserError("finetune-classify needs a file: llmstages finetune-classify FILE")
    directory = run_dir(config, f"{Path(config.data).stem}-classify")
    if members := members_of(config):
        return run_members(run, members, directory, config)
    clock = Clock()
    aside: Counter[str] = Counter()
    rows = finetune_rows(
        config,
        lambda path: read_labelled_texts(
            path, config.text_column, config.label_column, config.bad_rows, aside
        ),
        lambda row: row.text,
        lambda row: row.label,
        fold=None if config.fold is None else (config.fold, config.folds),
    )
    labels = sorted({row.label for row in rows.train})
    check_labels([*rows.validation, *rows.test], labels)
    check_decision(config.decide, labels)
    machine = choose_machine(config)
    base = finetune_base(config, num_labels=len(labels), pooling=config.pooling)
    model, tokenizer = base.model, base.tokenizer
    the_run = Run(directory, "finetune-classify", config, input_hashes(config, base))
    if (headline := finished_before(the_run)) is not None:
        return headline
    if config.head is not None and the_run.resume_from is None:
        taken = head_path(base.directory, config.head)
        if taken.exists() and not config.overwrite:
            raise UserError(f"{taken}: is there already: another head=NAME, or overwrite=true")
    context_length = model.config.context_length

    training, validation, test = (
        examples_of(part, labels, tokenizer, context_length)
        for part in (rows.train, rows.validation, rows.test)
    )
    if num_long := sum(len(windows) > 1 for windows in training):
        say(
            f"{num_long:,} of {len(training):,} texts are longer than the {context_length} tokens "
            "that the model reads at once: each epoch reads another window of them"
        )
    label_numbers = [windows[0].targets[-1] for windows in training]
    data = ShuffledData(
        training,
        batch_size=config.batch_size,
        micro_batch_tokens=machine.micro_batch_tokens,
        context_length=context_length,
        seed=config.seed,
        classes=label_numbers if config.sampling == "balanced" else None,
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
    before: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    if config.chosen_baselines and the_run.resume_from is None:
        before, baselines = compare(
            config, rows.train, rows.test, labels, model, training, test, machine
        )
    before = the_run.plan.get("metrics_before", before) if the_run.resume_from else before
    baselines = the_run.plan.get("baselines", baselines) if the_run.resume_from else baselines

    def evaluate(model: Transformer) -> dict[str, float]:
        figures = measure(model, validation, labels, machine).figures
        return {
            "val_loss": figures["log_loss"],
            "accuracy": figures["accuracy"],
            "macro_f1": figures["macro_f1"],
        }

    loss = label_loss(
        focal_gamma=config.focal_gamma if config.loss == "focal" else 0.0,
        label_smoothing=config.label_smoothing,
        class_weights=balanced_class_weights(label_numbers, len(labels))
        if config.class_weights == "balanced"
        else None,
    )

    def tune(run: Run, base: Checkpoint, clock: Clock) -> TrainingResult:
        return fine_tune(
            run,
            config,
            base,
            machine,
            clock,
            data=data,
            num_tokens=sum(len(training[text][0].tokens) for text, _ in data.epoch_reads(0)),
            default_epochs=DEFAULT_EPOCHS,
            lr_share=LR_SHARE,
            evaluate=lambda: evaluate(base.model),
            plan={"metrics_before": before, "baselines": baselines},
            loss=loss,
            labels=labels,
            classifier={"pooling": config.pooling, "task": "single_label", "windows": "mean"},
        )

    result = tune(the_run, base, clock)
    uncalibrated = measure(model, test, labels, machine)
    parallel.shard_again(model)
    decided = decide(the_run, config.decide, labels, model, validation, machine)
    if config.head is not None:
        add_head(base, config.head, labels)
    decision = Decision.of(decided, len(labels))
    report, predictions = assess(model, rows.test, test, labels, machine, config.seed, decision)
    the_run.keep_lines("predictions.jsonl", (row.as_dict() for row in predictions))
    error_console().print(
        render_classification(
            report, title=f"test rows of {Path(config.data).name}", predictions=predictions
        )
    )
    if "random_weights" in config.chosen_baselines:
        say("baseline: the same training from random weights")
        inner = Run(directory / "random_weights", the_run.stage, config, the_run.settings["inputs"])
        fresh = replace(base, model=random_model(model.config, config.seed))
        place(fresh.model, config, machine)
        if inner.summary is None:
            tune(inner, fresh, Clock())
            inner.finish({"headline": "macro_f1", "metrics": {}})
        else:
            restore_weights(fresh.model, load_checkpoint(inner.directory))
        figures = measure(fresh.model, test, labels, machine).figures
        of_random = {name: figures[name] for name in ("accuracy", "macro_f1")}
        baselines = {**baselines, "random_weights": of_random}
    calibration = None
    if decided["temperature"] is not None:
        calibration = {"temperature": decided["temperature"], "validation_rows": len(validation)}
        calibration |= {
            f"{name}_before": uncalibrated.figures[name] for name in ("log_loss", "ece")
        }
        show_calibration(report, uncalibrated.figures)
    if config.report.curves and parallel.is_first():
        draw_classification(
            directory,
            f"{directory.name} (test rows)",
            report,
            None if calibration is None else uncalibrated,
        )
    show_comparison(report, before, baselines)
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
        examples={"train": len(training), "validation": len(validation), "test": len(test)},
        set_aside=dict(aside),
    )
    return report.figures["macro_f1"]


def add_head(base: Checkpoint, name: str, labels: list[str]) -> None:
    """Put the head of the base's model beside the base."""
    assert base.model.head is not None
    weight = parallel.whole(base.model.head.weight.detach())
    if parallel.is_first():
        say(f"head {name}: {save_head(base, name, weight.cpu(), labels)}")


def random_model(config: TransformerConfig, seed: int) -> Transformer:
    """A classifier of the shape with new weights, as pretraining starts with, and a new head."""
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.output_weight.zero_()
    return model


def check_labels(rows: Sequence[LabelledText], labels: Sequence[str]) -> None:
    """Raise `UserError` when a held-out row has a label that no training row has."""
    for row in rows:
        if row.label not in labels:
            raise UserError(
                f"{row.path}:{row.line}: label {row.label!r} does not occur in the training rows"
            )


def compare(
    config: FinetuneClassifyConfig,
    train_rows: Sequence[LabelledText],
    test_rows: Sequence[LabelledText],
    labels: list[str],
    model: Transformer,
    training: Sequence[Sequence[Example]],
    test: Sequence[Sequence[Example]],
    machine: Machine,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(linear probe on the frozen base, {majority, tfidf}): what the classifier has to beat.

    Those that are asked for; random weights are trained after it.
    """
    train_labels = [row.label for row in train_rows]
    test_labels = [row.label for row in test_rows]
    chosen = config.chosen_baselines
    probe: dict[str, float] = {}
    found: dict[str, dict[str, float]] = {}
    quick = [name for name in chosen if name != "random_weights"]
    with progress("baselines", total=len(quick), unit="done") as advance:
        if "majority" in chosen:
            found["majority"] = majority_baseline(train_labels, test_labels, labels)
            advance(note="majority")
        if "tfidf" in chosen:
            found["tfidf"] = tfidf_baseline(
                [row.text for row in train_rows],
                train_labels,
                [row.text for row in test_rows],
                test_labels,
                labels,
            )
            advance(note="TF-IDF + logistic regression")
        if "probe" in chosen:
            probe = linear_probe(
                features(model, [windows[:1] for windows in training], machine),
                train_labels,
                features(model, test, machine),
                test_labels,
                labels,
            )
            advance(note="linear probe on the base")
    return probe, found


def show_calibration(report: ClassificationReport, before: Mapping[str, float]) -> None:
    """Log loss and calibration error, without the temperature and with it."""
    rows = [(FIGURES[name], before[name], report.figures[name]) for name in ("log_loss", "ece")]
    table("temperature, on the test rows", ("", "before", "after"), rows)


def show_comparison(
    report: ClassificationReport,
    before: dict[str, float],
    baselines: dict[str, dict[str, float]],
) -> None:
    """One table: this classifier beside what it has to beat."""
    own = report.figures
    rows: list[tuple[str, float, float]] = [("this classifier", own["accuracy"], own["macro_f1"])]
    if before:
        rows.append(("linear probe on the frozen base", before["accuracy"], before["macro_f1"]))
    names = {
        "majority": "majority class",
        "tfidf": "TF-IDF + logistic regression",
        "random_weights": "the same from random weights",
    }
    rows += [(names[key], b["accuracy"], b["macro_f1"]) for key, b in baselines.items()]
    table("on the test rows", ("", "accuracy", "macro F1"), rows)
