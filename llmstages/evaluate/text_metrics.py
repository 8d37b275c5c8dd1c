"""How close generated answers are to the reference answers."""

import importlib.util
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llmstages.errors import UserError
from llmstages.evaluate.bootstrap import Figures, Measure, mean, proportion
from llmstages.evaluate.rouge import SPACELESS, rouge

CHRF_ORDER = 6
CHRF_BETA = 2
"""Character n-grams up to this length, recall counted twice as much (Popović 2015)."""
BLEU_ORDER = 4
HANGUL = (0xAC00, 0xD7A3)
"""Syllables; a word of them carries its particles."""


def require_text_metrics() -> None:
    """Raise `UserError` when sacrebleu is not installed: better before a run than at its end."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError("BLEU needs sacrebleu: install it with pip install 'llmstages[eval]'")


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """Compare answers with their references, pair by pair; runs of white space are folded.

    Returns:
        `exact_match`: share of answers equal to their reference, 0 to 1; `chrf`: character n-gram
        F-score (Popović 2015) and `bleu` (Papineni et al. 2002, see `bleu_signature`), both of the
        whole set and as sacrebleu computes them, 0 to 100; `rouge_1`, `rouge_2` and `rouge_l`:
        means of F1 (see `llmstages.evaluate.rouge`), 0 to 1.

    Raises:
        ValueError: different numbers of answers and references, or none.
        UserError: sacrebleu is not installed.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} answers but {len(references)} references")
    if not predictions:
        raise ValueError("no answer to compare")
    require_text_metrics()
    pairs = [
        (" ".join(prediction.split()), " ".join(reference.split()))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    by_rouge = [rouge(left, right) for left, right in pairs]
    return {
        "exact_match": proportion([left == right for left, right in pairs]),
        "chrf": Measure(np.array([_chrf_counts(*pair) for pair in pairs], float), _chrf),
        "bleu": _bleu_measure(pairs, bleu_tokenizer(references)),
        **{name: mean([scores[name] for scores in by_rouge]) for name in by_rouge[0]},
    }


def _chrf_counts(answer: str, reference: str) -> list[int]:
    """Of each length the n-grams of the answer, of the reference, and those they share.

    An answer's n-grams count only where the reference has some of that length.
    """
    counts = []
    answer, reference = answer.replace(" ", ""), reference.replace(" ", "")
    for order in range(1, CHRF_ORDER + 1):
        ours, theirs = (
            Counter(text[place : place + order] for place in range(len(text) - order + 1))
            for text in (answer, reference)
        )
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def _chrf(sums: Figures) -> float:
    """The F-score of mean precision and mean recall over the lengths that both sides have."""
    ours, theirs, shared = sums.reshape(CHRF_ORDER, 3).T
    there = (ours > 0) & (theirs > 0)
    if not there.any():
        return 0.0
    precision = float((shared[there] / ours[there]).mean())
    recall = float((shared[there] / theirs[there]).mean())
    if precision + recall == 0:
        return 0.0
    factor = CHRF_BETA**2
    return 100 * (1 + factor) * precision * recall / (factor * precision + recall)


def bleu_tokenizer(references: Sequence[str]) -> str:
    """What cuts texts into words for BLEU, by sacrebleu's name.

    `char`, each character, where most letters of the references are of scripts that put no space
    between words, or Korean: sacrebleu's own choices there are models to be installed for one
    language each. `13a`, WMT's, elsewhere.
    """
    letters = [ord(character) for text in references for character in text if character.isalpha()]
    ranges = (*SPACELESS, HANGUL)
    joined = sum(any(low <= letter <= high for low, high in ranges) for letter in letters)
    return "char" if 2 * joined > len(letters) else "13a"


def bleu_signature(references: Sequence[str]) -> str:
    """How BLEU is computed against these references, as sacrebleu writes it (Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=bleu_tokenizer(references))
    metric.corpus_score(references, [references])  # of which the signature knows how many there are
    return str(metric.get_signature())


def _bleu_measure(pairs: Sequence[tuple[str, str]], tokenizer: str) -> Measure:
    """BLEU of the set, from sacrebleu's counts of each pair."""
    from sacrebleu.metrics.bleu import BLEU

    of_a_pair = BLEU(
        tokenize=tokenizer, effective_order=True
    )  # which it wants for single texts; counts are the same
    counts = []
    for answer, reference in pairs:
        found = of_a_pair.sentence_score(answer, [reference])
        counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])

    def bleu(sums: Figures) -> float:
        whole = [round(number) for number in sums.tolist()]
        correct, totals = whole[:BLEU_ORDER], whole[BLEU_ORDER : 2 * BLEU_ORDER]
        sys_len, ref_len = whole[-2:]
        score = BLEU.compute_bleu(correct, totals, sys_len, ref_len, smooth_method="exp")
        return float(score.score)

    return Measure(np.array(counts, dtype=np.float64), bleu)
