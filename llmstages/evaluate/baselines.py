"""What a classifier must beat: the commonest label, words and characters, the frozen base.

scikit-learn does the work and is imported only when it is needed.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.errors import UserError
from llmstages.evaluate.class_figures import label_figures, multi_label_figures

Truth = NDArray[np.bool_]
"""[n, k] whether an example has a label."""

# With this many training texts a run of characters that occurs in one of them only is left out.
RARE_GRAMS_TEXTS = 1000
MAX_CHARACTER_GRAMS = 200_000


def majority_baseline(
    train_labels: Sequence[str], test_labels: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """`accuracy` and `macro_f1` of always giving the commonest training label.

    Among equally common labels the first of `labels` is given.
    """
    counts = Counter(train_labels)
    commonest = max(labels, key=lambda label: counts[label])
    return _scores([commonest] * len(test_labels), test_labels, labels)


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[str],
    labels: Sequence[str],
) -> dict[str, float]:
    """`accuracy` and `macro_f1` of logistic regression on TF-IDF features.

    The features are words and pairs of words, and runs of 2 to 4 characters within words, which
    carry over to misspellings and to languages without spaces.

    Raises:
        UserError: scikit-learn is not installed.
    """
    with _scikit_learn():
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    if len(set(train_labels)) < 2 or not any(text.strip() for text in train_texts):
        return majority_baseline(train_labels, test_labels, labels)
    model = make_pipeline(
        _tfidf(len(train_texts)), LogisticRegression(C=10.0, max_iter=300, tol=1e-3)
    )
    with _quiet_convergence():
        model.fit(list(train_texts), list(train_labels))
    return _scores(model.predict(list(test_texts)).tolist(), test_labels, labels)


def linear_probe(
    train_features: NDArray[np.floating[Any]],
    train_labels: Sequence[str],
    test_features: NDArray[np.floating[Any]],
    test_labels: Sequence[str],
    labels: Sequence[str],
) -> dict[str, float]:
    """`accuracy` and `macro_f1` of logistic regression on a frozen model's features [n, d].

    Features are standardised with the training set's means and deviations.

    Raises:
        UserError: scikit-learn is not installed.
    """
    with _scikit_learn():
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    if len(set(train_labels)) < 2:
        return majority_baseline(train_labels, test_labels, labels)
    # C=0.1: hidden states have many correlated dimensions and few examples a class.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300, tol=1e-3))
    with _quiet_convergence():
        model.fit(np.asarray(train_features, dtype=np.float64), list(train_labels))
    predicted = model.predict(np.asarray(test_features, dtype=np.float64))
    return _scores(predicted.tolist(), test_labels, labels)


def commonest_set_baseline(train: Truth, test: Truth) -> dict[str, float]:
    """Figures of always giving the commonest set of labels; train and test are [n, k]."""
    sets, counts = np.unique(train, axis=0, return_counts=True)
    return _multi_scores(np.broadcast_to(sets[counts.argmax()], test.shape), test)


def tfidf_labels_baseline(
    train_texts: Sequence[str], train: Truth, test_texts: Sequence[str], test: Truth
) -> dict[str, float]:
    """Figures of one logistic regression a label on the features of `tfidf_baseline`.

    Raises:
        UserError: scikit-learn is not installed.
    """
    with _scikit_learn():
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
    if not any(text.strip() for text in train_texts):
        return commonest_set_baseline(train, test)
    each = LogisticRegression(C=10.0, max_iter=300, tol=1e-3)
    model = make_pipeline(_tfidf(len(train_texts)), OneVsRestClassifier(each))
    with _quiet_convergence():
        model.fit(list(train_texts), train.astype(np.int64))
        return _multi_scores(model.predict(list(test_texts)), test)


def labels_probe(
    train_features: NDArray[np.floating[Any]],
    train: Truth,
    test_features: NDArray[np.floating[Any]],
    test: Truth,
) -> dict[str, float]:
    """`linear_probe` with one logistic regression a label.

    Raises:
        UserError: scikit-learn is not installed.
    """
    with _scikit_learn():
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    each = LogisticRegression(C=0.1, max_iter=300, tol=1e-3)
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(each))
    with _quiet_convergence():
        model.fit(np.asarray(train_features, dtype=np.float64), train.astype(np.int64))
        predicted = model.predict(np.asarray(test_features, dtype=np.float64))
    return _multi_scores(predicted, test)


def _multi_scores(predicted: NDArray[Any], truth: Truth) -> dict[str, float]:
    # With one label scikit-learn gives a vector.
    given = np.asarray(predicted, dtype=np.bool_).reshape(truth.shape)
    once = np.ones((len(truth), 1), dtype=np.int64)
    figures = multi_label_figures(truth, given.astype(np.float64), given, once)
    return {name: float(figures[name][0]) for name in ("micro_f1", "macro_f1", "subset_accuracy")}


def _tfidf(num_texts: int) -> Any:
    """Words, pairs of words and runs of characters as features; scikit-learn is installed."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(
        ngram_range=(1, 2),
        # The default leaves out one-letter words, and finds nothing in a text of punctuation.
        token_pattern=r"\w+|[^\w\s]",
        sublinear_tf=True,
    )
    characters = TfidfVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 4),
        sublinear_tf=True,
        min_df=2 if num_texts >= RARE_GRAMS_TEXTS else 1,
        max_features=MAX_CHARACTER_GRAMS,
    )
    return make_union(words, characters)


def _scores(
    predicted: Sequence[str], truth: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    index = {label: number for number, label in enumerate(labels)}
    figures = label_figures(
        np.array([index[label] for label in truth], dtype=np.int64),
        np.array([index[label] for label in predicted], dtype=np.int64),
        len(labels),
        np.ones((len(truth), 1), dtype=np.int64),
    )
    return {name: float(figures[name][0]) for name in ("accuracy", "macro_f1")}


@contextmanager
def _scikit_learn() -> Iterator[None]:
    """Turn a missing scikit-learn into the line that says how to get it."""
    try:
        yield
    except ImportError:
        raise UserError(
            "baselines need scikit-learn: install it with pip install 'llmstages[eval]', "
            "or set baselines=false"
        ) from None


@contextmanager
def _quiet_convergence() -> Iterator[None]:
    """A fit that stops at its last iteration is good enough for a baseline."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Of a label that no training text has, or every one.
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        yield
