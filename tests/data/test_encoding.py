"""Documents to ids: in order, few at a time, and no process outlives the work."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.data import encoding
from llmstages.data.corpus import Document
from llmstages.data.encoding import EncodingProcess, encode_texts, encoder, in_threads
from llmstages.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["one two\u3000three", "", "\u2581 \0", "안녕 세계\n"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["one two three 안녕 세계\n" * 20], TokenizerConfig(vocab_size=300))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Two processes, however little text there is, and the list of those started."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def watched(*args: object, **settings: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **settings))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(encoding, "MIN_BYTES_FOR_PROCESSES", 0)
    monkeypatch.setattr(encoding, "num_cores", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", watched)
    return started


def test_rows(tokenizer: Tokenizer) -> None:
    rows = encode_texts(TEXTS, tokenizer)
    ids = [np.frombuffer(row, "<u2").tolist() for row in rows["ids"].to_pylist()]
    assert ids == [[*tokenizer.encode(text), tokenizer.end_id] for text in TEXTS]
    assert rows["words"].to_pylist() == [3, 0, 2, 2]
    assert rows["bytes"].to_pylist() == [15, 0, 5, 14]


def groups(count: int) -> list[list[Document]]:
    return [[Document(id=str(number), text=f"{number} three")] for number in range(count)]


def test_processes_give_the_same_rows(
    tokenizer: Tokenizer, processes: list[subprocess.Popen[bytes]]
) -> None:
    with encoder(tokenizer, 0) as encode:
        for _ in range(2):  # once for each shard
            expected = iter(groups(20))
            for group, rows in encode(groups(20)):
                assert group == next(expected)
                assert rows.equals(encode_texts([group[0].text], tokenizer))
            assert next(expected, None) is None
    assert len(processes) == 2
    assert all(process.returncode is not None for process in processes)


def test_no_process_outlives_an_error(
    tokenizer: Tokenizer, processes: list[subprocess.Popen[bytes]]
) -> None:
    def interrupted() -> None:
        with encoder(tokenizer, 0) as encode:
            for _ in encode(groups(20)):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(processes) == 2
    assert all(process.returncode is not None for process in processes)


def test_a_process_that_dies_is_an_error(
    tokenizer: Tokenizer, processes: list[subprocess.Popen[bytes]]
) -> None:
    def with_a_murder() -> None:
        with encoder(tokenizer, 0) as encode:
            for _ in encode(groups(50)):
                for process in processes:
                    process.kill()
                    process.wait()

    with pytest.raises(RuntimeError, match="ended early"):
        with_a_murder()


def test_a_process_ends_with_its_input_and_needs_little(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """So it ends when the process that started it was killed; modules here are not its own."""
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "json.py").write_text("raise SystemExit('the current directory is not searched')")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with EncodingProcess(tmp_path / "tokenizer") as process:
            assert process.encode(TEXTS).equals(encode_texts(TEXTS, tokenizer))
            process._process.stdin.close()  # type: ignore[union-attr]
            assert process._process.wait(20) == 0
    finally:
        os.chdir(before)
    code = "import sys, llmstages.data.encoding; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_order_is_kept_and_little_waits(tokenizer: Tokenizer) -> None:
    taken: list[int] = []

    def endless() -> object:
        for number in range(10**6):
            taken.append(number)
            yield [Document(text=str(number))]

    for number, (group, words) in enumerate(in_threads(lambda texts: texts, endless(), 3)):  # type: ignore
        assert group[0].text == words[0] == str(number)
        assert len(taken) <= number + 5
        if number == 200:
            break


def test_an_error_in_a_thread_is_raised(tokenizer: Tokenizer) -> None:
    def fail(texts: object) -> object:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(in_threads(fail, groups(9), 2))  # type: ignore[arg-type]
