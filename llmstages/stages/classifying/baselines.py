"""What a classifier is compared with: guesses, words and characters, the frozen base."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmstages.data.examples import Example
from llmstages.data.labelled_texts import LabelledText
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
from llmstages.report.terminal import progress, say, table
from llmstages.stages.classifying.probabilities import Report, features
from llmstages.stages.classifying.rows import ClassRows
from llmstages.stages.shared.setup import Machine

HEADLINES = ("accuracy", "macro_f1")
MULTI_LABEL_HEADLINES = ("micro_f1", "macro_f1")
"""Figures shown while training, and beside those of the baselines."""
NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "probe": "linear probe on the frozen base",
    "random_weights": "the same from random weights",
}
"""How the baselines are called in tables."""

Figures = dict[str, float]
Features = NDArray[np.float64]


def compare(
    chosen: Sequence[str],
    found: ClassRows,
    model: Transformer,
    training: Sequence[Sequence[Example]],
    test: Sequence[Sequence[Example]],
    machine: Machine,
) -> dict[str, Figures]:
    """Figures on the test rows of those baselines that are chosen, but for `random_weights`.

    model: the base, not trained yet. training, test: the windows of each text.
    """
    ways = _ways(found, model, training, test, machine)
    chosen = [name for name in chosen if name in ways]
    figures = {}
    if chosen:
        with progress("baselines", total=len(chosen), unit="done") as advance:
            for name in chosen:
                figures[name] = ways[name]()
                advance(note=NAMES[name])
    return figures


def _ways(
    found: ClassRows,
    model: Transformer,
    training: Sequence[Sequence[Example]],
    test: Sequence[Sequence[Example]],
    machine: Machine,
) -> dict[str, Callable[[], Figures]]:
    def texts(rows: Sequence[LabelledText]) -> list[str]:
        return [row.text for row in rows]

    def read() -> tuple[Features, Features]:
        # Of a long text one window teaches the probe enough.
        firsts = [windows[:1] for windows in training]
        return features(model, firsts, machine), features(model, test, machine)

    train_texts, test_texts = texts(found.rows.train), texts(found.rows.test)
    if found.sets is not None:
        members = found.sets.members
        train, held_out = (
            members[[windows[0].targets[-1] for windows in part]] for part in (training, test)
        )

        def probe_labels() -> Figures:
            states, held_out_states = read()
            return labels_probe(states, train, held_out_states, held_out)

        return {
            "majority": lambda: commonest_set_baseline(train, held_out),
            "tfidf": lambda: tfidf_labels_baseline(train_texts, train, test_texts, held_out),
            "probe": probe_labels,
        }
    labels = found.labels
    train_labels = [row.label for row in found.rows.train]
    test_labels = [row.label for row in found.rows.test]

    def probe() -> Figures:
        states, held_out_states = read()
        return linear_probe(states, train_labels, held_out_states, test_labels, labels)

    return {
        "majority": lambda: majority_baseline(train_labels, test_labels, labels),
        "tfidf": lambda: tfidf_baseline(train_texts, train_labels, test_texts, test_labels, labels),
        "probe": probe,
    }


def show_comparison(report: Report, baselines: Mapping[str, Figures]) -> None:
    """One table: this classifier beside what it has to beat."""
    multi_label = isinstance(report, MultiLabelReport)
    shown = MULTI_LABEL_HEADLINES if multi_label else HEADLINES
    names = NAMES | ({"majority": "commonest set of labels"} if multi_label else {})
    compared = {"this classifier": report.figures}
    compared |= {names[name]: figures for name, figures in baselines.items()}
    heads = [(MULTI_LABEL_FIGURES if multi_label else FIGURES)[name] for name in shown]
    rows = [(name, *(figures[each] for each in shown)) for name, figures in compared.items()]
    table("on the test rows", ("", *heads), rows)
    own, tfidf = report.figures["macro_f1"], baselines.get("tfidf", {}).get("macro_f1", 0.0)
    if tfidf > own:
        say(
            f"{NAMES['tfidf']} is better on these rows: macro F1 {tfidf:.4g} beside {own:.4g}. A "
            "base that has read more, or text like this, helps most; experiment=thorough trains "
            "longer"
        )
