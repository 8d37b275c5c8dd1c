"""Batches made ahead are the same ones in the same order, and the thread ends when it should."""

import threading
import time

import pytest
import torch

from llmstages.data.batch import Batch
from llmstages.data.prefetch import PrefetchedData

CPU = torch.device("cpu")


class Counted:
    """Three micro-batches a step, made of the step's number; some step may fail."""

    def __init__(self, fails_at=None):
        self.made = []
        self.fails_at = fails_at

    def micro_batches(self, step):
        for part in range(3):
            if (step, part) == self.fails_at:
                raise OSError(f"step {step} is broken")
            self.made.append((step, part))
            numbers = torch.tensor([[step, part]])
            weights = torch.ones(1, 2)
            yield Batch(numbers, numbers, None, None, weights, (f"{step}.{part}",), 2)


def numbers(batches):
    return [tuple(batch.tokens[0].tolist()) for batch in batches]


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_the_same_batches_in_the_same_order():
    ahead = PrefetchedData(Counted(), CPU)
    for step in (0, 1, 2, 3):
        assert numbers(ahead.micro_batches(step)) == [(step, 0), (step, 1), (step, 2)]
    ahead.close()


def test_another_step_starts_anew():
    ahead = PrefetchedData(Counted(), CPU)
    for step in (0, 1, 0, 5, 6, 2):
        assert numbers(ahead.micro_batches(step)) == [(step, 0), (step, 1), (step, 2)]
    assert len(prefetch_threads()) == 1
    half = ahead.micro_batches(3)
    assert numbers([next(half)]) == [(3, 0)]  # not read to its end: the thread is elsewhere
    assert numbers(ahead.micro_batches(4)) == [(4, 0), (4, 1), (4, 2)]
    ahead.close()


def test_no_more_than_asked_are_made_ahead():
    data = Counted()
    ahead = PrefetchedData(data, CPU, ahead=2)
    next(ahead.micro_batches(0))
    end = time.monotonic() + 5
    while len(data.made) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    # one was taken, two wait, one is in the thread's hands (an end of step waits as a batch does)
    assert len(data.made) <= 4
    ahead.close()


def test_an_error_comes_where_it_would_have_come():
    ahead = PrefetchedData(Counted(fails_at=(1, 1)), CPU)
    assert numbers(ahead.micro_batches(0)) == [(0, 0), (0, 1), (0, 2)]
    batches = ahead.micro_batches(1)
    assert numbers([next(batches)]) == [(1, 0)]
    with pytest.raises(OSError, match="step 1 is broken"):
        next(batches)
    assert not prefetch_threads()


def test_closing_ends_the_thread_at_once():
    ahead = PrefetchedData(Counted(), CPU)
    next(ahead.micro_batches(0))
    began = time.monotonic()
    ahead.close()
    ahead.close()
    assert time.monotonic() - began < 2
    assert not prefetch_threads()
