"""How close generated answers are to the reference answers."""

import importlib.util
from collections.abc import Sequence

from llmstages.errors import UserError


def require_text_metrics() -> None:
    """Raise `UserError` when sacrebleu is not installed: better before a run than at its end."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError("chrF needs sacrebleu: install it with pip install 'llmstages[eval]'")


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Compare answers with their references, pair by pair.

    Returns:
        `exact_match`: share of answers equal to their reference once white space is stripped and
        its runs are folded, 0 to 1; `chrf`: character n-gram F-score over the whole set (Popović
        2015, as sacrebleu computes it), 0 to 100.

    Raises:
        ValueError: different numbers of answers and references, or none.
        UserError: sacrebleu is not installed.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} answers but {len(references)} references")
    if not predictions:
        raise ValueError("no answer to compare")
    require_text_metrics()
    from sacrebleu.metrics.chrf import CHRF

    pairs = [
        (" ".join(prediction.split()), " ".join(reference.split()))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    score = CHRF().corpus_score([left for left, _ in pairs], [[right for _, right in pairs]])
    return {
        "exact_match": sum(left == right for left, right in pairs) / len(pairs),
        "chrf": float(score.score),
    }
