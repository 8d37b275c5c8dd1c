"""What a run has learnt of each source, as a table in the terminal."""

from collections.abc import Mapping, Sequence

from llmstages.report.terminal import table


def show_sources(
    tokens: Mapping[str, int], before: Mapping[str, float], after: Mapping[str, float], note: str
) -> None:
    """Bits a byte of each source's validation text before and after; nothing for a single source.

    tokens: size of the validation text by source. note: what to know of the figures, or nothing.
    """
    rows: list[Sequence[object]] = [
        [source, count, before.get(key), after[key]]
        for source, count in tokens.items()
        if (key := f"val_bits_per_byte/{source}") in after
    ]
    if rows:
        columns = ["source", "tokens", "bits a byte before", "after"]
        table(f"validation text by source{note}", columns, rows)
