"""Delimited files without header: what each column looks like in the first rows."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstages.data.table import table_with_columns

ROWS_LOOKED_AT = 5000
ATTRIBUTION = re.compile(r"\bCC[ -]?(?:BY|0)\b|\bAttribution:|\btatoeba\.org\b", re.IGNORECASE)
# A last column of which this share of the rows names a licence or a source is no part of a pair.
ATTRIBUTION_SHARE = 0.95


@dataclass(frozen=True)
class ColumnShape:
    """What the first rows of a column look like."""

    num_rows: int
    num_distinct: int
    mean_length: float
    """Characters of a cell."""
    attributed_share: float
    """Of the rows that name a licence or a source."""


def column_shapes(path: Path, column_names: Sequence[str] = ()) -> dict[str, ColumnShape] | None:
    """Shape of each column of a delimited file without header; None for every other file.

    column_names: given by the user; a first row that holds one of them is a header.
    """
    table = table_with_columns(path, "skip", column_names, quiet=True)
    if table.has_header or table.delimiter is None:
        return None
    rows = list(itertools.islice(table.rows, ROWS_LOOKED_AT))
    shapes: dict[str, ColumnShape] = {}
    for column in table.columns:
        values = [row.values[column] for row in rows]
        length = sum(map(len, values)) / max(1, len(values))
        attributed = sum(ATTRIBUTION.search(value) is not None for value in values)
        share = attributed / max(1, len(values))
        shapes[column] = ColumnShape(len(rows), len(set(values)), length, share)
    return shapes


def without_attribution(shapes: Mapping[str, ColumnShape]) -> list[str]:
    """The columns but the last of three that says where each row comes from, as Tatoeba's do."""
    columns = list(shapes)
    if len(columns) == 3 and shapes[columns[-1]].attributed_share >= ATTRIBUTION_SHARE:
        return columns[:2]
    return columns
