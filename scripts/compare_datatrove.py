"""Do llmstages and datatrove keep the same documents, and how fast is each?

    python scripts/compare_datatrove.py PATH ... [--max-documents N] [--show N]

PATH is a JSON Lines file (.jsonl, .json, also .gz) or Parquet file with a column `text`, a text
file, or a folder of these. Every filter judges every document by itself; then FineWeb's four follow
each other as in datatrove's examples/fineweb.py. Both see the text after Unicode repair and without
space at line ends, which FineWeb's own filter never sees. Printed are agreement, the documents on
which the two differ with what each measured (datatrove on the text as it came, llmstages without
the lines it takes out), and documents a second of processor time.

datatrove and spaCy, whose English word splitter it uses, must be installed beside llmstages:
`pip install datatrove spacy`.
"""

import argparse
import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from llmstages.collect.cleaning.lines import clean_lines
from llmstages.collect.cleaning.repair import repair
from llmstages.collect.quality.rules import rules, verdicts
from llmstages.collect.quality.statistics import SHORT_LINE_CHARACTERS, STOP_WORDS, measure_both
from llmstages.collect.quality.word_rules import SENTENCE_ENDS
from llmstages.config.collect_groups import LanguageConfig, QualityConfig
from llmstages.errors import UserError
from llmstages.text.unicode import well_formed

QUALITY_DIR = Path(__file__).parent.parent / "conf" / "quality"

QUALITY = (
    *("min_words", "max_words", "min_mean_word_length", "max_mean_word_length"),
    *("max_symbol_word_ratio", "max_bullet_lines_share", "max_ellipsis_lines_share"),
    *("min_alphabetic_words_share", "min_stop_words"),
)
LINES = (
    *("min_words_per_line", "max_line_word_length", "drop_javascript_lines", "drop_policy_lines"),
    "remove_citations",
)
C4 = (*LINES, "min_sentences", "max_lorem_ipsum", "max_curly_brackets")
FINEWEB = (
    *("min_punctuated_lines_share", "max_repeated_lines_characters_share"),
    *("max_short_lines_share", "max_newlines_per_word"),
)

# datatrove's name of a reason -> ours.
REASONS = {
    "dup_para_frac": "max_duplicate_paragraphs_share",
    "dup_para_char_frac": "max_duplicate_paragraphs_characters_share",
    "dup_line_frac": "max_duplicate_lines_share",
    "dup_line_char_frac": "max_duplicate_lines_characters_share",
    **{f"top_{n}_gram": f"max_top_{n}gram_share" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}gram_share" for n in range(5, 11)},
    "gopher_short_doc": "min_words",
    "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_symbol_word_ratio",
    "gopher_too_many_ellipsis": "max_symbol_word_ratio",
    "gopher_too_many_bullets": "max_bullet_lines_share",
    "gopher_too_many_end_ellipsis": "max_ellipsis_lines_share",
    "gopher_below_alpha_threshold": "min_alphabetic_words_share",
    "gopher_enough_stop_words": "min_stop_words",
    "too_few_sentences": "min_sentences",
    "lorem_ipsum": "max_lorem_ipsum",
    "curly_bracket": "max_curly_brackets",
    "line_punct_ratio": "min_punctuated_lines_share",
    "short_line_ratio": "max_short_lines_share",
    "char_dup_ratio": "max_repeated_lines_characters_share",
    "list_ratio": "max_newlines_per_word",
    "empty": "empty",
}


@dataclass(frozen=True)
class Outcome:
    """What one of the two said of each document."""

    reasons: list[str | None]
    """In our names; None for a document that stays."""
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--max-documents", type=int, default=5000)
    parser.add_argument("--show", type=int, default=5, help="differing documents shown a filter")
    arguments = parser.parse_args()
    filters = datatrove_filters()
    texts = [
        "\n".join(line.rstrip() for line in repair(well_formed(text)).split("\n"))
        for path in arguments.paths
        for text in read_texts(path, arguments.max_documents)
    ]
    texts = [text for text in texts if text.strip()]
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB")
    warm_up(filters)
    print(
        f"{'':28}{'agree':>8}{'both':>8}{'both':>8}{'only':>10}{'only':>10}{'docs/s':>10}{'docs/s':>10}"
    )
    print(
        f"{'filter':28}{'':8}{'keep':>8}{'drop':>8}{'datatrove':>10}{'llmstages':>10}{'datatrove':>10}{'llmstages':>10}"
    )
    for name, (keys, chain) in filters.items():
        config = only(keys)
        theirs, ours = judge_theirs(texts, chain), judge_ours(texts, config)
        report(name, texts, theirs, ours, config, arguments.show)


def read_texts(path: Path, most: int) -> Iterator[str]:
    """The texts of a file, or of all files of a folder."""
    if path.is_dir():
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            yield from read_texts(file, most)
        return
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from pq.read_table(path, columns=["text"])["text"].to_pylist()[:most]
        return
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "replace")
    if name.endswith((".jsonl", ".json")):
        for line in text.split("\n")[:most]:
            if line.strip():
                yield json.loads(line)["text"]
    elif name.endswith(".txt"):
        yield text


def datatrove_filters() -> dict[str, tuple[Sequence[str], list[Any]]]:
    """Our settings and datatrove's filters, by name; C4 as in FineWeb."""
    try:
        import datatrove  # noqa: F401
        import spacy  # noqa: F401
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: this comparison needs it beside llmstages "
            "(pip install datatrove spacy)"
        ) from None
    repetition = [name for name in REASONS.values() if name.startswith(("max_dup", "max_top"))]
    gopher_repetition, gopher = GopherRepetitionFilter(), GopherQualityFilter()
    c4, fineweb = C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()
    return {
        "Gopher repetition": (repetition, [gopher_repetition]),
        "Gopher quality": (QUALITY, [gopher]),
        "C4, as in FineWeb": (C4, [c4]),
        "FineWeb quality": (FINEWEB, [fineweb]),
        "all, in FineWeb's order": (
            (*repetition, *QUALITY, *C4, *FINEWEB),
            [gopher_repetition, gopher, c4, fineweb],
        ),
    }


def warm_up(filters: dict[str, tuple[Sequence[str], list[Any]]]) -> None:
    """Load tokenizers and tables, which is not to be timed."""
    for keys, chain in filters.values():
        judge_theirs(["One word, and another."], chain)
        judge_ours(["One word, and another."], only(keys))


def only(keys: Sequence[str]) -> QualityConfig:
    """The preset `fineweb` with nothing on but these keys."""
    preset = QualityConfig(**yaml.safe_load((QUALITY_DIR / "fineweb.yaml").read_text("utf-8")))
    off: dict[str, Any] = {field.name: field.default for field in fields(QualityConfig)}
    changes: dict[str, Any] = {name: off[name] for name in off if name not in keys}
    return replace(preset, **changes)


def judge_theirs(texts: Sequence[str], chain: Sequence[Any]) -> Outcome:
    """datatrove's filters, one after another; a filter may change the text."""
    from datatrove.data import Document

    reasons: list[str | None] = []
    start = time.process_time()
    for index, text in enumerate(texts):
        document = Document(text=text, id=str(index))
        reason = None
        for step in chain:
            verdict = step.filter(document)
            if verdict is not True:
                reason = verdict[1]
                break
        reasons.append(reason and REASONS[reason])
    return Outcome(reasons, time.process_time() - start)


def judge_ours(texts: Sequence[str], config: QualityConfig) -> Outcome:
    """Line cleaning, all measures, then the rules that are on."""
    start = time.process_time()
    table = measured(texts, config)
    judged = verdicts(table, config, LanguageConfig())
    return Outcome(judged["rule"].to_pylist(), time.process_time() - start)


def measured(texts: Sequence[str], config: QualityConfig) -> pa.Table:
    """All measures of the texts without the lines that the config takes out."""
    cleaned = [clean_lines(text, config) for text in texts]
    return pa.table(measure_both(texts, cleaned, np.zeros(len(texts))))


def report(
    name: str,
    texts: Sequence[str],
    theirs: Outcome,
    ours: Outcome,
    config: QualityConfig,
    num_shown: int,
) -> None:
    """One line of the table, and below it documents on which the two differ."""
    pairs = [(a is None, b is None) for a, b in zip(theirs.reasons, ours.reasons, strict=True)]
    differing = [index for index, (a, b) in enumerate(pairs) if a != b]
    print(
        f"{name:28}{1 - len(differing) / len(texts):8.2%}{pairs.count((True, True)):8}"
        f"{pairs.count((False, False)):8}{pairs.count((False, True)):10}"
        f"{pairs.count((True, False)):10}{len(texts) / theirs.seconds:10.0f}"
        f"{len(texts) / ours.seconds:10.0f}"
    )
    thresholds = {rule.name: (rule.measure, rule.threshold) for rule in rules(config)}
    for index in differing[:num_shown]:
        rule = theirs.reasons[index] or ours.reasons[index] or ""
        who = "datatrove" if theirs.reasons[index] else "llmstages"
        detail = ""
        if rule in thresholds:
            key, threshold = thresholds[rule]
            our_value = measured([texts[index]], config)[key][0].as_py()
            their_value = THEIR_MEASURES[key](texts[index])
            detail = (
                f": datatrove {their_value:.4g}, llmstages {our_value:.4g}, bound {threshold:g}"
            )
        print(f"    {who} drops document {index} by {rule}{detail}")
        print(f"        {texts[index][:80]!r}")


def their_words(text: str) -> list[str]:
    """datatrove's words; punctuation is a word."""
    from datatrove.utils.text import split_into_words

    return list(split_into_words(text))


def their_duplicates(parts: list[str]) -> tuple[int, int]:
    """Repeated parts and their characters."""
    from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates

    return find_duplicates(parts)  # type: ignore[no-any-return]


def their_non_symbols(text: str) -> list[str]:
    """datatrove's words that are not punctuation."""
    from datatrove.utils.text import PUNCTUATION_SET

    return [word for word in their_words(text) if not set(word) <= PUNCTUATION_SET]


def their_top(text: str, n: int) -> float:
    """Share of characters in the commonest n-gram."""
    from datatrove.pipeline.filters.gopher_repetition_filter import find_top_duplicate, get_n_grams

    return float(find_top_duplicate(get_n_grams(their_words(text), n)) / len(text))


def their_repeated(text: str, n: int) -> float:
    """Share of characters in repeated n-grams."""
    from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate

    return float(find_all_duplicate(their_words(text), n) / len(text))


def share(values: list[bool]) -> float:
    """Of values that are true."""
    return sum(values) / max(len(values), 1)


def their_lines(text: str) -> list[str]:
    """Lines of the Gopher repetition rules."""
    return re.split("\n+", text)


def their_paragraphs(text: str) -> list[str]:
    """Paragraphs of the Gopher repetition rules."""
    return re.split("\n{2,}", text.strip())


def filled_lines(text: str) -> list[str]:
    """Lines of FineWeb's rules."""
    return [line for line in text.split("\n") if line.strip()]


def their_sentences(text: str) -> float:
    """Sentences of the text as it is."""
    from datatrove.utils.text import split_into_sentences

    return sum(len(split_into_sentences(line.strip())) for line in text.splitlines())


# datatrove tells a reason but no value: its measures again, by its own functions.
THEIR_MEASURES: dict[str, Callable[[str], float]] = {
    "words": lambda text: len(their_non_symbols(text)),
    "mean_word_length": lambda text: float(np.mean(list(map(len, their_non_symbols(text))))),
    "symbol_word_ratio": lambda text: (
        max(text.count("#"), text.count("...") + text.count("…")) / len(their_words(text))
    ),
    "bullet_lines_share": lambda text: share(
        [line.lstrip().startswith(("•", "-")) for line in text.splitlines()]
    ),
    "ellipsis_lines_share": lambda text: share(
        [line.rstrip().endswith(("...", "…")) for line in text.splitlines()]
    ),
    "alphabetic_words_share": lambda text: share(
        [any(map(str.isalpha, word)) for word in their_words(text)]
    ),
    "stop_words": lambda text: len(set(STOP_WORDS) & set(their_words(text))),
    "sentences": their_sentences,
    "lorem_ipsum": lambda text: text.lower().count("lorem ipsum"),
    "curly_brackets": lambda text: text.count("{"),
    "duplicate_lines_share": lambda text: (
        their_duplicates(their_lines(text))[0] / len(their_lines(text))
    ),
    "duplicate_lines_characters_share": lambda text: (
        their_duplicates(their_lines(text))[1] / len(text)
    ),
    "duplicate_paragraphs_share": lambda text: (
        their_duplicates(their_paragraphs(text))[0] / len(their_paragraphs(text))
    ),
    "duplicate_paragraphs_characters_share": lambda text: (
        their_duplicates(their_paragraphs(text))[1] / len(text)
    ),
    **{f"top_{n}gram_share": partial(their_top, n=n) for n in (2, 3, 4)},
    **{f"duplicate_{n}gram_share": partial(their_repeated, n=n) for n in range(5, 11)},
    "punctuated_lines_share": lambda text: share(
        [line.endswith(tuple(SENTENCE_ENDS)) for line in filled_lines(text)]
    ),
    "short_lines_share": lambda text: share(
        [len(line) <= SHORT_LINE_CHARACTERS for line in filled_lines(text)]
    ),
    "repeated_lines_characters_share": lambda text: (
        their_duplicates(filled_lines(text))[1] / len(text.replace("\n", ""))
    ),
    "newlines_per_word": lambda text: text.count("\n") / len(their_words(text)),
}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
