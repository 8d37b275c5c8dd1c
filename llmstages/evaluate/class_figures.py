"""Figures of classified examples, each of which counts as often as its weight says.

One formula serves a set, all of whose weights are 1, and its resamples, whose weights are counts:
weights are [n, r], for n examples r times, and a figure is [r]. The definitions are scikit-learn's.
A figure that has no value is NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A probability below this counts as this in the log loss: one certain mistake must not make it
# infinite. scikit-learn's bound for float64.
MIN_PROBABILITY = float(np.finfo(np.float64).eps)
NUM_BINS = 15
"""Of the calibration error; Guo et al. 2017 have as many."""

MANY_POSITIVE = 4
"""Where a label is true of more than one in so many examples, running sums are quicker than groups
by positive example: of two labels and 100,000 rows in half the time; of seven they take double."""

Figures = NDArray[np.float64]
Indices = NDArray[np.int64]
Weights = NDArray[np.integer[Any]]


def label_figures(
    truth: Indices, predicted: Indices, num_labels: int, weights: Weights
) -> dict[str, Figures]:
    """What depends on the predicted labels alone; truth and predicted are [n].

    `accuracy`; `balanced_accuracy`, the mean recall of the labels that are true of some example;
    `macro_f1`, the mean F1 of those that are true or predicted of some; `weighted_f1`, the mean F1
    weighted by true examples.
    """
    right = truth == predicted
    support = group_sums(weights, truth, num_labels)
    chosen = group_sums(weights, predicted, num_labels)
    hits = group_sums(weights[right], truth[right], num_labels)
    total = support.sum(axis=0)
    f1 = _ratio(2 * hits, support + chosen)
    return {
        "accuracy": hits.sum(axis=0) / total,
        "balanced_accuracy": _mean_where(_ratio(hits, support), support > 0),
        "macro_f1": _mean_where(f1, support + chosen > 0),
        "weighted_f1": (f1 * support).sum(axis=0) / total,
    }


def ranking_figures(truth: Indices, probabilities: Figures, weights: Weights) -> dict[str, Figures]:
    """`roc_auc` and `pr_auc`: of each label against the rest, the mean over the labels.

    A label that is true of no example, or of all, takes no part. The area under the curve of
    precision and recall is average precision, without interpolation.
    """
    rankings = [
        _ranking(truth == label, probabilities[:, label], weights)
        for label in range(probabilities.shape[1])
    ]
    areas = np.stack(rankings, axis=1)  # [2, k, r]
    roc_auc, pr_auc = (_mean_where(area, ~np.isnan(area)) for area in areas)
    return {"roc_auc": roc_auc, "pr_auc": pr_auc}


def _ranking(positive: NDArray[np.bool_], scores: Figures, weights: Weights) -> Figures:
    """[2, r] area under the ROC curve and average precision; NaN without examples of both kinds.

    Examples are grouped by where they lie among the scores of positive ones: below the first, at
    it, between it and the second, and so on. So n examples come down to as many numbers as there
    are positive ones, and each resample needs no sorting.
    """
    if MANY_POSITIVE * positive.sum() > len(scores):
        return _ranking_of_many(positive, scores, weights)
    found = np.unique(scores[positive])
    place = np.searchsorted(found, scores, "left") + np.searchsorted(found, scores, "right")
    size = 2 * len(found) + 1
    of_all = group_sums(weights, place, size)
    of_positive = group_sums(weights[positive], place[positive], size)[1::2]
    total, positives = of_all.sum(axis=0), of_positive.sum(axis=0)
    at, at_or_below = of_all[1::2], np.cumsum(of_all, axis=0)[1::2]
    # A tie counts half, and so does, in all, each pair of positive examples.
    won = (of_positive * (at_or_below - at / 2)).sum(axis=0) - positives**2 / 2
    reached = np.cumsum(of_positive[::-1], axis=0)[::-1]
    precision = _ratio(reached, total - at_or_below + at)
    defined = (positives > 0) & (positives < total)
    return np.stack(
        [
            _ratio(won, positives * (total - positives), defined),
            _ratio((of_positive * precision).sum(axis=0), positives, defined),
        ]
    )


def _ranking_of_many(positive: NDArray[np.bool_], scores: Figures, weights: Weights) -> Figures:
    """The same, by running sums over the sorted examples, which takes no longer for many groups.

    One resample at a time: its numbers stay in the processor's cache.
    """
    order = np.argsort(scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.inf))
    is_positive = positive[order]
    areas = np.full((2, weights.shape[1]), np.nan)
    for column, weighed in enumerate(weights.T):
        ordered = weighed[order].astype(np.float64)
        below = np.cumsum(ordered)[ends]
        found = np.cumsum(ordered * is_positive)[ends]
        total, positives = below[-1], found[-1]
        if not 0 < positives < total:
            continue
        at, hits = np.diff(below, prepend=0), np.diff(found, prepend=0)
        won = (hits * (below - at / 2)).sum() - positives**2 / 2
        precision = _ratio(positives - found + hits, total - below + at)
        areas[:, column] = (
            won / (positives * (total - positives)),
            (hits * precision).sum() / positives,
        )
    return areas


def multi_label_figures(
    truth: NDArray[np.bool_], probabilities: Figures, predicted: NDArray[np.bool_], weights: Weights
) -> dict[str, Figures]:
    """Every figure of texts with any number of labels, each [r]; the first three are [n, k].

    `micro_f1` of all decisions together, `macro_f1` the mean over all labels, `subset_accuracy` the
    share of texts with exactly the right labels, `hamming_loss` the share of wrong decisions,
    `mean_average_precision` over the labels that are true of some texts and not of all, `log_loss`
    the binary cross-entropy of a decision in nats.
    """
    counts = weights.astype(np.float64)
    total = counts.sum(axis=0)
    hits, support, chosen = (
        each.T.astype(np.float64) @ counts for each in (truth & predicted, truth, predicted)
    )
    wrong = (truth != predicted).astype(np.float64)
    of_truth = np.where(truth, probabilities, 1 - probabilities)
    nats = -np.log(np.clip(of_truth, MIN_PROBABILITY, 1.0)).mean(axis=1)
    areas = average_precisions(truth, probabilities, weights)
    sums = (part.sum(axis=0) for part in (hits, support, chosen))
    all_hits, all_support, all_chosen = sums
    return {
        "micro_f1": _ratio(2 * all_hits, all_support + all_chosen),
        "macro_f1": _ratio(2 * hits, support + chosen).mean(axis=0),
        "subset_accuracy": (~wrong.any(axis=1)).astype(np.float64) @ counts / total,
        "hamming_loss": wrong.mean(axis=1) @ counts / total,
        "mean_average_precision": _mean_where(areas, ~np.isnan(areas)),
        "log_loss": nats @ counts / total,
    }


def average_precisions(
    truth: NDArray[np.bool_], probabilities: Figures, weights: Weights
) -> Figures:
    """[k, r] average precision of each label; NaN where it is true of no example, or of all."""
    pairs = zip(truth.T, probabilities.T, strict=True)
    return np.stack([_ranking(positive, scores, weights)[1] for positive, scores in pairs])


@dataclass(frozen=True)
class Calibration:
    """Whether predictions are right as often as their probability says (Guo et al. 2017).

    `bins` is [n]: which of the equal-width bins (0, 1/15], (1/15, 2/15], ... `confidence`, the
    largest probability of each example, falls into.
    """

    bins: Indices
    confidence: Figures
    right: NDArray[np.bool_]

    def error(self, weights: Weights) -> Figures:
        """Mean distance of confidence and accuracy over the bins, weighted by examples."""
        gaps = np.zeros((NUM_BINS, len(self.bins)))
        gaps[self.bins, np.arange(len(self.bins))] = self.right - self.confidence
        weighed: Figures = np.abs(gaps @ weights).sum(axis=0) / weights.sum(axis=0)
        return weighed


def calibration(truth: Indices, probabilities: Figures) -> Calibration:
    """Confidence of each example, its bin, and whether the prediction is right."""
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return Calibration(bins, confidence, probabilities.argmax(axis=1) == truth)


def all_figures(
    truth: Indices,
    probabilities: Figures,
    weights: Weights,
    predicted: Indices | None = None,
    accepted: NDArray[np.bool_] | None = None,
) -> dict[str, Figures]:
    """Every figure by name, each [r]; truth is [n], probabilities [n, k].

    predicted: [n], the likeliest labels where None. accepted: [n] texts not out of scope: their
    share is `coverage`, and `accepted_accuracy` is theirs alone.

    Those above, `log_loss`, the mean negative log probability of the true label in nats, and `ece`,
    the expected calibration error.
    """
    of_truth = probabilities[np.arange(len(truth)), truth]
    nats = -np.log(np.clip(of_truth, MIN_PROBABILITY, 1.0))
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    scope = {}
    if accepted is not None:
        total, kept = weights.sum(axis=0), accepted.astype(np.float64) @ weights
        right = (accepted & (predicted == truth)).astype(np.float64) @ weights
        scope = {"coverage": kept / total, "accepted_accuracy": _ratio(right, kept, kept > 0)}
    return {
        **label_figures(truth, predicted, probabilities.shape[1], weights),
        **scope,
        **ranking_figures(truth, probabilities, weights),
        "log_loss": nats @ weights / weights.sum(axis=0),
        "ece": calibration(truth, probabilities).error(weights),
    }


def group_sums(weights: Weights, groups: Indices, num_groups: int) -> Figures:
    """[num_groups, r] sums of the weights [n, r] of the examples of each group [n]."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=num_groups))
    ordered, sums = weights[order], np.zeros((num_groups, weights.shape[1]))
    # Sums of slices take a tenth of the time of `np.add.reduceat`.
    for group in np.unique(groups):
        begin = ends[group - 1] if group else 0
        sums[group] = ordered[begin : ends[group]].sum(axis=0, dtype=weights.dtype)
    return sums


def _ratio(part: Figures, whole: Figures, defined: NDArray[np.bool_] | None = None) -> Figures:
    """Part over whole; nothing over nothing is 0, and what is not defined NaN."""
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio if defined is None else np.where(defined, ratio, np.nan)


def _mean_where(values: Figures, counted: NDArray[np.bool_]) -> Figures:
    """[r] mean of the rows that count; NaN where none does."""
    count = counted.sum(axis=0)
    return _ratio(np.where(counted, values, 0.0).sum(axis=0), count, count > 0)
