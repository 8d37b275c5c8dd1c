"""Which examples are for training, for choosing the best checkpoint, and for the final figures.

The split is a function of the texts, the labels, the shares and the seed: not of the order of the
rows, the platform or the Python version. Equal texts (after Unicode form, case and white space are
folded) never stand on both sides, so that no figure is measured on a text that was trained on.
"""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmstages.errors import UserError

logger = logging.getLogger("llmstages")


@dataclass(frozen=True)
class Split:
    """Row numbers (0-based, ascending) of each part; together they are all rows, each once."""

    train: list[int]
    validation: list[int]
    test: list[int]


def normalised_text(text: str) -> str:
    """The text as it is compared: NFKC, case folded, white space runs as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_examples(
    keys: Sequence[str],
    labels: Sequence[str] | None,
    validation_share: float,
    test_share: float,
    seed: int,
) -> Split:
    """Split examples by their texts.

    The shares are of the different texts; a text that occurs several times goes to one part with
    all its rows. With labels each part has each label in proportion (rounding is carried from label
    to label, so that the sizes come out right however small the classes are), and every label keeps
    at least one text in training. A part with a share above 0 gets at least one text where some
    label has one to spare.

    Args:
        keys: the text of each example.
        labels: the label of each example, or None.
        validation_share: share of the texts for validation, 0 for none.
        test_share: the same for the test part.
        seed: chooses which texts go where.

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
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(normalised_text(key), []).append(index)

    # The order of the texts in a stratum, and of the strata, is that of a keyed hash.
    def rank(text: str) -> bytes:
        return hashlib.blake2b(f"{seed}\0{text}".encode(errors="surrogatepass")).digest()

    labels_of = {
        text: {labels[index] for index in members} if labels is not None else {""}
        for text, members in groups.items()
    }
    ordered = sorted(groups, key=rank)
    # Of every label the last text in that order stays in training.
    pinned = set({label: text for text in ordered for label in labels_of[text]}.values())
    strata = _strata(ordered, labels_of, Counter(labels or ()))
    shares = {"test": test_share, "validation": validation_share}
    chosen: dict[str, list[int]] = {part: [] for part in shares}
    owed = dict.fromkeys(shares, 0.0)
    for stratum in sorted(strata, key=rank):
        texts = strata[stratum]
        movable = [text for text in texts if text not in pinned]
        for part, share in shares.items():
            if share > 0:
                owed[part] += max(share, 1 / len(groups)) * len(texts)
            # 1e-9: a share such as 0.1 is not exact, and of 5 texts half a text is owed.
            count = min(len(movable), int(owed[part] + 0.5 + 1e-9))
            chosen[part] += (index for text in movable[:count] for index in groups[text])
            movable = movable[count:]
            # What a class cannot give is not taken from the next beyond one text: it would be
            # stripped for the sake of classes with a single text.
            owed[part] = min(owed[part] - count, 1.0)
    held_out = {*chosen["test"], *chosen["validation"]}
    train = [index for index in range(len(keys)) if index not in held_out]
    return Split(train, sorted(chosen["validation"]), sorted(chosen["test"]))


def _strata(
    texts: Sequence[str], labels_of: Mapping[str, set[str]], frequency: Counter[str]
) -> dict[str, list[str]]:
    """The texts of each label; a text with several labels, which is said, counts for the rarest."""
    strata: dict[str, list[str]] = {}
    for text in texts:
        rarest = min(labels_of[text], key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(text)
    conflicts = [text for text in texts if len(labels_of[text]) > 1]
    if conflicts:
        example = conflicts[0] if len(conflicts[0]) <= 60 else conflicts[0][:59] + "…"
        logger.warning(
            "%d text%s with different labels in different rows, such as %r",
            *(len(conflicts), " occurs" if len(conflicts) == 1 else "s occur", example),
        )
    return strata
