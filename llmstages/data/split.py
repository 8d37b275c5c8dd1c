"""Which examples are for training, for choosing the best checkpoint, and for the final figures.

The split is a function of the texts, the labels, the shares and the seed: not of the order of the
rows, the platform or the Python version. Equal texts (after Unicode form, case and white space are
folded) never stand on both sides, nor do near duplicates where the caller has found them
(`alike_rows`), so that no figure is measured on a text that was trained on.
"""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from llmstages.duplicates.near_rows import Groups, near_pairs
from llmstages.duplicates.words import hash_words
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")


MIN_ANSWER_WORDS = 10
"""A shorter answer ("Yes.", a label, a name) may belong to any two prompts."""
MAX_STOCK_PROMPTS, MAX_STOCK_SHARE = 20, 0.1
"""An answer to more than these many prompts, and this share of them, is a stock phrase."""


@dataclass(frozen=True)
class Split:
    """Row numbers (0-based, ascending) of each part; together they are all rows, each once."""

    train: list[int]
    validation: list[int]
    test: list[int]


def normalised_text(text: str) -> str:
    """The text as it is compared: NFKC, case folded, white space runs as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def alike_rows(texts: Sequence[str], answers: Sequence[str] | None = None) -> list[int]:
    """For each row the first row that it belongs with: the same number, the same group.

    Rows belong together when their texts are equal or near duplicates, and when their answers are,
    but for short answers and stock phrases, and when a third row ties them together.
    """
    normalised = [normalised_text(text) for text in texts]
    first_row = {text: row for row, text in reversed([*enumerate(normalised)])}
    groups = Groups(len(texts))
    for row, text in enumerate(normalised):
        groups.join(row, first_row[text])
    _join_near(groups, first_row)
    if answers is not None:
        rows_of: dict[str, list[int]] = {}
        for row, answer in enumerate(answers):
            rows_of.setdefault(normalised_text(answer), []).append(row)
        most = max(MAX_STOCK_PROMPTS, MAX_STOCK_SHARE * len(first_row))
        lengths = np.diff(hash_words(list(rows_of)).offsets)
        telling = {
            answer: rows
            for (answer, rows), length in zip(rows_of.items(), lengths.tolist(), strict=True)
            if length >= MIN_ANSWER_WORDS and len({normalised[row] for row in rows}) <= most
        }
        for rows in telling.values():
            for row in rows[1:]:
                groups.join(rows[0], row)
        _join_near(groups, {answer: rows[0] for answer, rows in telling.items()})
    return [groups.first(row) for row in range(len(texts))]


def _join_near(groups: Groups, row_of: Mapping[str, int]) -> None:
    """Join the rows of texts that are near duplicates."""
    texts = list(row_of)
    for one, other in near_pairs(texts):
        groups.join(row_of[texts[one]], row_of[texts[other]])


def split_examples(
    keys: Sequence[str],
    labels: Sequence[str] | None,
    validation_share: float,
    test_share: float,
    seed: int,
    alike: Sequence[int] | None = None,
) -> Split:
    """Split examples by their texts.

    The shares are of the different texts; a text that occurs several times goes to one part with
    all its rows, and so does a group of texts that are alike. A group that would overfill a part by
    more than half its size stays in training. With labels each part has each label in proportion
    (rounding is carried from label to label, so that the sizes come out right however small the
    classes are), and every label keeps at least one text in training. A part with a share above 0
    gets at least one text where some label has one to spare.

    Args:
        keys: the text of each example.
        labels: the label of each example, or None.
        validation_share: share of the texts for validation, 0 for none.
        test_share: the same for the test part.
        seed: chooses which texts go where.
        alike: what `alike_rows` found; None: only equal texts belong together.

    Raises:
        UserError: the shares leave nothing for training.
    """
    if validation_share < 0 or test_share < 0 or validation_share + test_share >= 1:
        raise UserError(
            f"validation_share={validation_share:g} and test_share={test_share:g} leave nothing "
            "for training: their sum must be below 1"
        )
    if labels is not None and len(labels) != len(keys):
        raise ValueError(f"{len(keys)} keys but {len(labels)} labels")
    texts = [normalised_text(key) for key in keys]
    groups = _groups(texts, alike)
    num_texts = {name: len({texts[index] for index in rows}) for name, rows in groups.items()}

    rank = partial(_rank, seed)
    labels_of = {
        name: {labels[index] for index in members} if labels is not None else {""}
        for name, members in groups.items()
    }
    if labels is not None:
        _say_conflicts(texts, labels)
    ordered = sorted(groups, key=rank)
    # Of every label the last text in that order stays in training.
    pinned = set({label: text for text in ordered for label in labels_of[text]}.values())
    strata = _strata(ordered, labels_of, Counter(labels or ()))
    shares = {"test": test_share, "validation": validation_share}
    chosen: dict[str, list[int]] = {part: [] for part in shares}
    owed = dict.fromkeys(shares, 0.0)
    spare: list[str] = []
    for stratum in sorted(strata, key=rank):
        movable = [name for name in strata[stratum] if name not in pinned]
        size = sum(num_texts[name] for name in strata[stratum])
        for part, share in shares.items():
            if share > 0:
                owed[part] += max(share, 1 / sum(num_texts.values())) * size
            taken = _take(movable, num_texts, owed[part])
            chosen[part] += (index for name in taken for index in groups[name])
            movable = [name for name in movable if name not in taken]
            # What a class cannot give is not taken from the next beyond one text: it would be
            # stripped for the sake of classes with a single text.
            owed[part] = min(owed[part] - sum(num_texts[name] for name in taken), 1.0)
        spare += movable
    # Where all groups are too large for a part, the smallest one is better than none.
    for part, share in shares.items():
        if share > 0 and not chosen[part] and spare:
            smallest = min(spare, key=lambda name: (num_texts[name], rank(name)))
            spare.remove(smallest)
            chosen[part] += groups[smallest]
    held_out = {*chosen["test"], *chosen["validation"]}
    train = [index for index in range(len(keys)) if index not in held_out]
    return Split(train, sorted(chosen["validation"]), sorted(chosen["test"]))


def split_folds(
    keys: Sequence[str],
    labels: Sequence[str],
    num_folds: int,
    seed: int,
    alike: Sequence[int] | None = None,
) -> list[int | None]:
    """The fold (0..num_folds-1) of each row, for cross-validation.

    Groups of texts that are alike stay together, and the folds have each label in proportion, as
    nearly as the groups allow. None: the row is for training in every fold, as all rows of its
    label are alike. The arguments are those of `split_examples`.
    """
    texts = [normalised_text(key) for key in keys]
    groups = _groups(texts, alike)
    num_texts = {name: len({texts[index] for index in rows}) for name, rows in groups.items()}
    labels_of = {name: {labels[index] for index in rows} for name, rows in groups.items()}

    rank = partial(_rank, seed)
    strata = _strata(sorted(groups, key=rank), labels_of, Counter(labels))
    sizes = [0] * num_folds
    fold_of: list[int | None] = [None] * len(keys)
    for label in sorted(strata, key=rank):
        own = [0] * num_folds
        # The largest first: what comes after evens out.
        names = sorted(strata[label], key=lambda name: -num_texts[name])
        for name in names if len(names) > 1 else ():
            fold = min(range(num_folds), key=lambda number: (own[number], sizes[number]))
            own[fold] += num_texts[name]
            sizes[fold] += num_texts[name]
            for index in groups[name]:
                fold_of[index] = fold
    return fold_of


def _rank(seed: int, text: str) -> bytes:
    """Place of a text in a stratum, and of a stratum among the others: a keyed hash."""
    return hashlib.blake2b(f"{seed}\0{text}".encode(errors="surrogatepass")).digest()


def _groups(texts: Sequence[str], alike: Sequence[int] | None) -> dict[str, list[int]]:
    """The rows that stay together, by the first of their texts in the order of the alphabet."""
    by_number: dict[object, list[int]] = {}
    for index, text in enumerate(texts):
        by_number.setdefault(text if alike is None else alike[index], []).append(index)
    return {min(texts[index] for index in rows): rows for rows in by_number.values()}


def _take(names: Sequence[str], num_texts: Mapping[str, int], owed: float) -> dict[str, None]:
    """The groups, in their order, by which a part comes nearer to the number of texts owed."""
    taken: dict[str, None] = {}
    for name in names:
        # 1e-9: a share such as 0.1 is not exact, and of 5 texts half a text is owed.
        if num_texts[name] <= 2 * (owed + 1e-9):
            taken[name] = None
            owed -= num_texts[name]
    return taken


def _strata(
    texts: Sequence[str], labels_of: Mapping[str, set[str]], frequency: Counter[str]
) -> dict[str, list[str]]:
    """The groups of each label; one with several labels counts for the rarest."""
    strata: dict[str, list[str]] = {}
    for text in texts:
        rarest = min(labels_of[text], key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(text)
    return strata


def _say_conflicts(texts: Sequence[str], labels: Sequence[str]) -> None:
    labels_of: dict[str, set[str]] = {}
    for text, label in zip(texts, labels, strict=True):
        labels_of.setdefault(text, set()).add(label)
    conflicts = [text for text, found in labels_of.items() if len(found) > 1]
    if conflicts:
        example = conflicts[0] if len(conflicts[0]) <= 60 else conflicts[0][:59] + "…"
        logger.warning(
            "%d text%s with different labels in different rows, such as %r",
            *(len(conflicts), " occurs" if len(conflicts) == 1 else "s occur", example),
        )
