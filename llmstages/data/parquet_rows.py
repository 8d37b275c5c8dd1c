"""Rows of Parquet files, a few at a time and only the columns that are wanted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from llmstages.data.rows import BadRows, Row, fault_of, shown
from llmstages.errors import UserError

BATCH_ROWS = 1024
BATCH_BYTES = 2**24
"""Rows are unpacked so many bytes at a time, by their mean size: one row may hold a book."""
READ_BYTES = 2**20
UNDECODABLE = (OSError, ValueError, OverflowError, TypeError, KeyError, NotImplementedError)
"""What Arrow raises, beside errors of its own, for values that no Python object can hold."""


def parquet_columns(file: Path | IO[bytes], path: Path | str) -> list[str]:
    """Names of the columns; `path` names the file in messages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = list(pq.ParquetFile(file).schema_arrow.names)
    except (pa.ArrowException, *UNDECODABLE) as error:
        raise UserError(f"{path}: no readable Parquet file ({shown(str(error))})") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: two columns are named {shown(twice[0])}: rename one of them")
    return names


def parquet_rows(
    file: Path | IO[bytes], bad: BadRows, columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows with their numbers; of all columns, or of those named.

    Raises:
        UserError: the file is broken; the rows until then are sound.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        # So, pages are read as they are needed, not a column of a row group at once.
        with pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False) as opened:
            batch_rows = _batch_rows(opened.metadata)
            for batch in opened.iter_batches(batch_rows, columns=columns and list(columns)):
                for values in batch.to_pylist():
                    line += 1
                    fault = fault_of(values)
                    if fault:
                        bad.add(line, fault)
                    else:
                        yield Row(line, values)
    except (pa.ArrowException, *UNDECODABLE) as error:
        raise UserError(
            f"{bad.path}: broken Parquet data after row {line} ({shown(str(error))})"
        ) from None


def _batch_rows(metadata: Any) -> int:
    """Rows a batch, from the mean size of a row in the row group with the largest rows."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1, largest))))
