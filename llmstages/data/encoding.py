"""Documents to ids on all cores, in order and in bounded memory.

Some documents at a time are encoded by threads of this process when the text is little, and by
processes of their own when it is much: Python's interpreter lock lets threads use a core and a
half. A process is started afresh, imports what encoding needs and nothing of the caller's, gets
texts on its standard input and gives ids on its standard output (Arrow streams), and ends when its
input does, so that none outlives this one.

Promise: the results do not depend on which of the two it is.
"""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import pyarrow as pa

from llmstages.data.corpus import Document
from llmstages.text.tokenizer import Tokenizer

MIN_BYTES_FOR_PROCESSES = 200_000_000
"""Some seconds of work: below, starting processes and each learning the words costs more."""
MAX_PROCESSES = 8
"""Reading and writing keep a core of this process busy by then."""

TEXTS = pa.schema([("text", pa.large_string())])
ENCODED = pa.schema(
    [
        ("ids", pa.large_binary()),  # of the document and the end token, as they are in a shard
        ("words", pa.int64()),
        ("bytes", pa.int64()),
    ]
)

Encode = Callable[[Sequence[str]], pa.RecordBatch]
Group = list[Document]
EncodeGroups = Callable[[Iterable[Group]], Iterator[tuple[Group, pa.RecordBatch]]]


@contextmanager
def encoder(tokenizer: Tokenizer, num_bytes: int) -> Iterator[EncodeGroups]:
    """Gives a function: groups of documents to the same groups, each with its rows of `ENCODED`.

    `num_bytes` is about how much text there is.
    """
    cores = num_cores()
    if cores == 1 or num_bytes < MIN_BYTES_FOR_PROCESSES:
        yield lambda groups: in_threads(lambda texts: encode_texts(texts, tokenizer), groups, cores)
        return
    num_processes = min(cores, MAX_PROCESSES)
    with TemporaryDirectory(prefix="llmstages-") as directory, ExitStack() as stack:
        tokenizer.save(Path(directory))
        idle: SimpleQueue[EncodingProcess] = SimpleQueue()
        for _ in range(num_processes):
            idle.put(stack.enter_context(EncodingProcess(Path(directory))))

        def encode(texts: Sequence[str]) -> pa.RecordBatch:
            process = idle.get()
            try:
                return process.encode(texts)
            finally:
                idle.put(process)

        yield lambda groups: in_threads(encode, groups, num_processes)


def in_threads(
    encode: Encode, groups: Iterable[Group], num_threads: int
) -> Iterator[tuple[Group, pa.RecordBatch]]:
    """Each group with what `encode` gives for it, in order; few are in memory at once."""
    running: deque[tuple[Group, Future[pa.RecordBatch]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for group in groups:
            texts = [document.text for document in group]
            running.append((group, pool.submit(encode, texts)))
            if len(running) > num_threads:
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> pa.RecordBatch:
    """A row of `ENCODED` for each text; the ids of all lie one after the other."""
    begin = np.array(tokenizer.begin_ids, dtype=tokenizer.id_dtype)
    end = np.array([tokenizer.end_id], dtype=tokenizer.id_dtype)
    encoded = [part for ids in tokenizer.encode_arrays(texts) for part in (begin, ids, end)]
    ids = np.concatenate(encoded)
    lengths = np.array([0, *map(len, encoded)], dtype=np.int64)
    offsets = np.cumsum(lengths)[::3] * ids.itemsize
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(ids)]
    return pa.record_batch(
        [
            pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(texts), buffers),
            pa.array([len(text.split()) for text in texts], pa.int64()),
            pa.array([len(text.encode("utf-8")) for text in texts], pa.int64()),
        ],
        schema=ENCODED,
    )


class EncodingProcess:
    """A process that runs `answer`."""

    def __init__(self, directory: Path) -> None:
        """Start it for the tokenizer saved in `directory`."""
        # Its own session: Ctrl-C is for the caller, who ends it. It finds modules where the caller
        # does, but not in the current directory (-P).
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "llmstages.data.encoding", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "RAYON_NUM_THREADS": "1",  # of the tokenizers library: the other cores are busy
            },
        )
        self._writer = pa.ipc.new_stream(self._process.stdin, TEXTS)
        self._reader: pa.RecordBatchStreamReader | None = None

    def encode(self, texts: Sequence[str]) -> pa.RecordBatch:
        """As `encode_texts`."""
        try:
            self._writer.write_batch(pa.record_batch([pa.array(texts, pa.large_string())], TEXTS))
            assert self._process.stdin is not None
            self._process.stdin.flush()
            if self._reader is None:  # it waits for what the other side sends first
                self._reader = pa.ipc.open_stream(self._process.stdout)
            return self._reader.read_next_batch()
        except (OSError, pa.ArrowInvalid, StopIteration) as error:
            raise RuntimeError(
                f"a process that tokenizes ended early (status {self._process.wait()}): "
                "is there enough memory?"
            ) from error

    def __enter__(self) -> "EncodingProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Nothing in it is worth waiting for: all results have been read, or are not wanted.
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # of what was not flushed
                pipe.close()


def answer(directory: Path) -> None:
    """Encode each batch of texts from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = Tokenizer.load(directory)
    with (
        pa.ipc.open_stream(sys.stdin.buffer) as reader,
        pa.ipc.new_stream(sys.stdout.buffer, ENCODED) as writer,
    ):
        for batch in reader:
            writer.write_batch(encode_texts(batch["text"].to_pylist(), tokenizer))
            sys.stdout.buffer.flush()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
