"""Which examples are for training, for choosing the best checkpoint, and for the final figures.

The split is a function of the texts, the labels, the shares and the seed: not of the order of the
rows, the platform or the Python version. Equal texts (after Unicode form, case and white space are
folded) never stand on both sides, so that no figure is measured on a text that was trained on.
"""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
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
    strata = _strata(groups, labels)

    # The order of the texts in a stratum, and of the strata, is that of a keyed hash.
    def rank(text: str) -> bytes:
        return hashlib.blake2b(f"{seed}\0{text}".encode(errors="surrogatepass")).digest()

    parts: dict[str, list[int]] = {"validation": [], "test": []}
    train: list[int] = []
    shares = {"test": test_share, "validation": validation_share}
    minimum = 1 / len(groups) if groups else 0.0
    owed = dict.fromkeys(shares, 0.0)
    for stratum in sorted(strata, key=rank):
        texts = sorted(strata[stratum], key=rank)
        spare = len(texts) - 1
        for part, share in shares.items():
            owed[part] += max(share, minimum) * len(texts) if share > 0 else 0.0
            # 1e-9: a share such as 0.1 is not exact, and 10 texts should give 1.
            count = min(spare, int(owed[part] + 0.5 + 1e-9)) if owed[part] > 0 else 0
            # What a class cannot give is not taken from the next beyond one text: it would be
            # stripped for the sake of classes with a single text.
            owed[part] = min(owed[part] - count, 1.0)
            spare -= count
            for text in texts[:count]:
                parts[part] += groups[text]
            texts = texts[count:]
        for text in texts:
            train += groups[text]
    return Split(sorted(train), sorted(parts["validation"]), sorted(parts["test"]))


def _strata(groups: dict[str, list[int]], labels: Sequence[str] | None) -> dict[str, list[str]]:
    """The texts of each label; a text with several labels counts for the rarest of them."""
    if labels is None:
        return {"": list(groups)}
    frequency = Counter(labels)
    strata: dict[str, list[str]] = {}
    conflicts: list[str] = []
    for text, members in groups.items():
        found = {labels[index] for index in members}
        if len(found) > 1:
            conflicts.append(text)
        rarest = min(found, key=lambda label: (frequency[label], label))
        strata.setdefault(rarest, []).append(text)
    if conflicts:
        example = conflicts[0] if len(conflicts[0]) <= 60 else conflicts[0][:59] + "…"
        logger.warning(
            "%d text%s with different labels in different rows, such as %r",
            *(len(conflicts), " occurs" if len(conflicts) == 1 else "s occur", example),
        )
    return strata
