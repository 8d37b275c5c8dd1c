"""Checkpoints in the background: what is written is what was there, and errors are told."""

import threading
import time

import pytest
import torch

from llmstages.errors import UserError
from llmstages.train import saving
from llmstages.train.records import read_sealed, write_sealed
from llmstages.train.saving import CheckpointWriter


def test_training_goes_on_while_a_copy_is_written():
    weight = torch.arange(6.0).view(2, 3)
    may_write, written = threading.Event(), []

    def write(tensors):
        may_write.wait(10)
        written.append({name: tensor.clone() for name, tensor in tensors.items()})

    with CheckpointWriter() as writer:
        writer.save({"a": weight}, write)
        weight += 100
        may_write.set()
        writer.save({"a": weight}, write)  # waits for the one before
        assert len(written) >= 1
    assert [tensors["a"][0, 0].item() for tensors in written] == [0, 100]


def test_waiting_and_writing_are_timed_apart():
    with CheckpointWriter() as writer:
        writer.save({"a": torch.zeros(3)}, lambda tensors: time.sleep(0.2))
        assert writer.waiting_seconds < 0.1
        writer.save({"a": torch.zeros(3)}, lambda tensors: None)  # waits for the one before
    assert writer.writing_seconds >= 0.2
    assert 0.1 < writer.waiting_seconds < 0.4
    assert writer.facts()["checkpoints"] == 2


def test_what_goes_wrong_is_raised_at_the_next_save():
    def fail(tensors):
        raise OSError("No space left on device")

    writer = CheckpointWriter()
    writer.save({"a": torch.zeros(3)}, fail)
    with pytest.raises(OSError, match="No space"):
        writer.save({"a": torch.zeros(3)}, fail)
    writer.wait()
    writer.save({"a": torch.zeros(3)}, fail)
    with pytest.raises(OSError, match="No space"):
        writer.wait()


def test_without_memory_for_a_copy_training_waits(monkeypatch):
    monkeypatch.setattr(saving, "available_memory_bytes", lambda: 10)
    threads = []
    with CheckpointWriter() as writer:
        writer.save({"a": torch.zeros(3)}, lambda _: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    assert not writer.buffers


def test_a_sealed_record_knows_that_it_was_changed(tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, {"b": [1, 2.5, None], "a": {"é": "x"}})
    assert read_sealed(path) == {"b": [1, 2.5, None], "a": {"é": "x"}}
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = read_sealed(path)
        except UserError:
            continue
        assert found == {"b": [1, 2.5, None], "a": {"é": "x"}}  # it was white space
