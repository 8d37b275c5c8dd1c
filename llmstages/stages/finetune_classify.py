"""`llmstages finetune-classify`: a base model and labelled texts -> a classifier."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from llmstages.config.stages import FinetuneClassifyConfig
from llmstages.data.examples import Example, ShuffledData
from llmstages.data.labelled_texts import (
    LabelledText,
    as_names,
    found_template,
    read_labelled_texts,
)
from llmstages.errors import UserError
from llmstages.evaluate.baselines import (
    commonest_set_baseline,
    labels_probe,
    linear_probe,
    majority_baseline,
    tfidf_baseline,
    tfidf_labels_baseline,
)
from llmstages.evaluate.classification import FIGURES
from llmstages.evaluate.multi_label import MULTI_LABEL_FIGURES, MultiLabelReport
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import progress, say, table, warn
from llmstages.stages.classifying import (
    LabelSets,
    Report,
    assess,
    examples_of,
    features,
    measure,
)
from llmstages.stages.finetune_rows import Rows, finetune_rows
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
from llmstages.train.losses import LossFn, multi_label_loss, sparse_loss
from llmstages.train.run import Run

DEFAULT_EPOCHS = 4
HEADLINES = ("accuracy", "macro_f1")
MULTI_LABEL_HEADLINES = ("micro_f1", "macro_f1")
"""Figures shown while training, and beside those of the baselines."""
LABELS_LISTED = 8
LR_SHARE = 0.2
"""Of the pretraining rate: a first choice that served on small sets, not swept yet."""


def run(config: FinetuneClassifyConfig) -> float:
    """Tune a base model on labelled texts; returns the macro F1 on the test rows."""
    clock = Clock()
    if config.data is None:
        raise UserError("finetune-classify needs a file: llmstages finetune-classify FILE")
    aside: Counter[str] = Counter()
    frequency: Counter[str] = Counter()
    template = found_template(
        Path(config.data), config.text_column, config.label_column, config.text_template
    )

    def read(path: Path) -> list[LabelledText]:
        found = read_labelled_texts(
            path,
            config.text_column or (None if template is None else template.columns),
            config.label_column,
            config.bad_rows,
            aside,
            label_separator=config.label_separator,
            template=template,
        )
        frequency.update(label for row in found for label in row.all_labels)
        return found

    rows = finetune_rows(config, read, lambda row: row.text, lambda row: stratum(row, frequency))
    labels = labels_of(rows.train, config.label_column)
    rows = known_rows(rows, labels, config.bad_rows, aside)
    sets = LabelSets.of([*rows.train, *rows.validation, *rows.test], labels)
    machine = choose_machine(config)
    base = finetune_base(config, num_labels=len(labels), multi_label=sets is not None)
    model, tokenizer = base.model, base.tokenizer
    directory = run_dir(config, f"{Path(config.data).stem}-classify")
    the_run = Run(directory, "finetune-classify", config, input_hashes(config, base))
    if (headline := finished_before(the_run)) is not None:
        return headline
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
    data = ShuffledData(
        training,
        batch_size=config.batch_size,
        micro_batch_tokens=machine.micro_batch_tokens,
        context_length=context_length,
        seed=config.seed,
    )
    say(
        f"{len(training):,} training, {len(validation):,} validation and {len(test):,} test texts, "
        f"{len(labels)} labels; base {base.directory}"
    )
    choose_weights(model, config, machine)
    place(model, config, machine)
    before: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    if config.baselines and the_run.resume_from is None:
        compared = (rows.train, rows.test, labels, model, training, test, machine, sets)
        before, baselines = compare(*compared)
    before = the_run.plan.get("metrics_before", before) if the_run.resume_from else before
    baselines = the_run.plan.get("baselines", baselines) if the_run.resume_from else baselines

    shown = HEADLINES if sets is None else MULTI_LABEL_HEADLINES

    def evaluate() -> dict[str, float]:
        figures = measure(model, validation, labels, machine, sets).figures
        return {"val_loss": figures["log_loss"], **{name: figures[name] for name in shown}}

    loss: LossFn = sparse_loss
    record: dict[str, Any] = {} if template is None else template.as_record()
    if sets is not None:
        members = torch.tensor(sets.members, dtype=torch.float32, device=machine.device)
        loss, record = multi_label_loss(members), {**record, "task": "multi_label"}

    result = fine_tune(
        the_run,
        config,
        base,
        machine,
        clock,
        data=data,
        num_tokens=sum(len(windows[0].tokens) for windows in training),
        default_epochs=DEFAULT_EPOCHS,
        lr_share=LR_SHARE,
        evaluate=evaluate,
        plan={"metrics_before": before, "baselines": baselines},
        loss=loss,
        labels=labels,
        classifier=record,
    )
    title = f"test rows of {Path(config.data).name}"
    report, predictions = assess(model, rows.test, test, labels, machine, config.seed, sets, title)
    the_run.keep_lines("predictions.jsonl", (asdict(row) for row in predictions))
    show_comparison(report, before, baselines, shown)
    words = sum(  # of a long text one window is read an epoch
        len(row.text.split()) / len(windows)
        for row, windows in zip(rows.train, training, strict=True)
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
        examples={"train": len(training), "validation": len(validation), "test": len(test)},
        set_aside=dict(aside),
        overlap=rows.overlap,
    )
    return report.figures["macro_f1"]


def stratum(row: LabelledText, frequency: Mapping[str, int]) -> str:
    """By what a split keeps its proportions: the label; of several the rarest, as those are the
    ones that a part would miss (after Sechidis et al. 2011)."""
    if row.labels is None:
        return row.label
    return min(row.labels, key=lambda label: (frequency[label], label), default="")


def labels_of(rows: Sequence[LabelledText], label_column: Any) -> list[str]:
    """The labels of training rows, sorted; those with columns of their own as these were named."""
    found = {label for row in rows for label in row.all_labels}
    named = as_names(label_column) if isinstance(label_column, list) else []
    if not found <= set(named):
        return sorted(found)
    if missing := [label for label in named if label not in found]:
        warn(f"no training row has the label {', '.join(missing)}: it is never learnt")
    return named


def known_rows(
    rows: Rows[LabelledText], labels: Sequence[str], bad_rows: str, aside: Counter[str]
) -> Rows[LabelledText]:
    """The rows without those held out that have a label of no training row; counted in `aside`.

    Says which labels no test row has.

    Raises:
        UserError: there is such a row and `bad_rows` is `refuse`, or no other is left.
    """

    known = set(labels)

    def unknown(row: LabelledText) -> list[str]:
        return [label for label in row.all_labels if label not in known]

    odd = [row for row in [*rows.validation, *rows.test] if unknown(row)]
    if odd:
        first = odd[0]
        message = (
            f"{first.path}:{first.line}: label {unknown(first)[0]!r} does not occur in the "
            f"training rows ({len(odd):,} such row{'s' if len(odd) > 1 else ''}"
        )
        if bad_rows == "refuse":
            raise UserError(f"{message}; leave them out with bad_rows=skip)")
        warn(f"{message}, left out)")
        aside["a label that does not occur in the training rows"] += len(odd)
        validation, test = (
            [row for row in part if not unknown(row)] for part in (rows.validation, rows.test)
        )
        if not validation or not test:
            raise UserError(f"{first.path}: no row with a label that occurs in the training rows")
        rows = replace(rows, validation=validation, test=test)
    measured = {label for row in rows.test for label in row.all_labels}
    if unmeasured := [label for label in labels if label not in measured]:
        more = ", ..." if len(unmeasured) > LABELS_LISTED else ""
        listed = ", ".join(unmeasured[:LABELS_LISTED]) + more
        say(f"no test row has the label {listed} ({len(unmeasured):,} of {len(labels):,} labels)")
    return rows


def compare(
    train_rows: Sequence[LabelledText],
    test_rows: Sequence[LabelledText],
    labels: list[str],
    model: Transformer,
    training: Sequence[Sequence[Example]],
    test: Sequence[Sequence[Example]],
    machine: Machine,
    sets: LabelSets | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(linear probe on the frozen base, {majority, tfidf}): what the classifier has to beat."""
    if sets is not None:
        texts = [[row.text for row in part] for part in (train_rows, test_rows)]
        train, held_out = (
            sets.members[[windows[0].targets[-1] for windows in part]] for part in (training, test)
        )
        with progress("baselines", total=3, unit="done") as advance:
            majority = commonest_set_baseline(train, held_out)
            advance(note="majority")
            tfidf = tfidf_labels_baseline(texts[0], train, texts[1], held_out)
            advance(note="TF-IDF + logistic regression")
            firsts = [windows[:1] for windows in training]
            found = features(model, firsts, machine), features(model, test, machine)
            probe = labels_probe(found[0], train, found[1], held_out)
            advance(note="linear probe on the base")
        return probe, {"majority": majority, "tfidf": tfidf}
    train_labels = [row.label for row in train_rows]
    test_labels = [row.label for row in test_rows]
    with progress("baselines", total=3, unit="done") as advance:
        majority = majority_baseline(train_labels, test_labels, labels)
        advance(note="majority")
        tfidf = tfidf_baseline(
            [row.text for row in train_rows],
            train_labels,
            [row.text for row in test_rows],
            test_labels,
            labels,
        )
        advance(note="TF-IDF + logistic regression")
        probe = linear_probe(
            features(model, [windows[:1] for windows in training], machine),
            train_labels,
            features(model, test, machine),
            test_labels,
            labels,
        )
        advance(note="linear probe on the base")
    return probe, {"majority": majority, "tfidf": tfidf}


def show_comparison(
    report: Report,
    before: dict[str, float],
    baselines: dict[str, dict[str, float]],
    shown: Sequence[str],
) -> None:
    """One table: this classifier beside what it has to beat, by the figures `shown`."""
    multi_label = isinstance(report, MultiLabelReport)
    compared = {"this classifier": report.figures}
    if before:
        compared["linear probe on the frozen base"] = before
    names = {
        "majority": "commonest set of labels" if multi_label else "majority class",
        "tfidf": "TF-IDF + logistic regression",
    }
    compared |= {names[key]: figures for key, figures in baselines.items()}
    heads = [(MULTI_LABEL_FIGURES if multi_label else FIGURES)[name] for name in shown]
    rows = [(name, *(found[figure] for figure in shown)) for name, found in compared.items()]
    table("on the test rows", ("", *heads), rows)
