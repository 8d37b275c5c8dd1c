"""How many steps a run does: as many as asked for, or as fit into its time budget.

A few steps are timed before the first; the number that follows is fixed. A run that turns out late,
or far too early, has its number changed, at most a few times, and remembers from which step on: a
resumed run finds each step under the number that it had then.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmstages.report.terminal import warn
from llmstages.train import parallel

NUM_EVALUATIONS = 10
"""Evaluations, each followed by a checkpoint, when no cadence is asked for."""
MAX_EVALUATION_SHARE = 0.05
"""Share of a time budget that evaluations on the way may take; fewer are made if need be."""
PROBE_STEPS = 5
"""Steps timed, after one that is not, to turn a time budget into a number of steps."""
MAX_PROBE_SHARE = 0.02
"""Share of a time budget after which no further step is timed, two at least being done."""
MAX_OVERRUN = 0.03
"""A run is shortened when its steps would take longer than the time left by more than this."""
MIN_GAIN = 0.2
"""A run is made longer when the time left has room for more steps by this share: when it was timed
the machine was busy."""
LAST_LOOK = 0.95
"""Share of a run after which its number of steps is no longer changed."""


@dataclass
class Steps:
    """The number of steps of a run, fixed before the first, and what it was changed to."""

    planned: int
    changed: list[tuple[int, int]] = field(default_factory=list)
    """(steps done when it was changed, number of steps from then on), in order."""

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> "Steps":
        """As `to_plan` wrote them."""
        return cls(int(plan["steps"]), [(done, steps) for done, steps in plan.get("changed", [])])

    def to_plan(self) -> dict[str, Any]:
        """For `plan.json`."""
        return {"steps": self.planned} | ({"changed": self.changed} if self.changed else {})

    def at(self, step: int) -> int:
        """The number of steps that step `step`, counted from 0, was done under."""
        number = self.planned
        for done, steps in self.changed:
            if done <= step:
                number = steps
        return number

    def is_look(self, done: int, num_looks: int) -> bool:
        """Whether one of `num_looks` looks at the run is due after `done` steps.

        They are even over the run, the last at its end; when it is changed those left are even over
        what is left.
        """
        begin, looks, total = 0, num_looks, self.planned
        for changed_after, steps in self.changed:
            if changed_after >= done:
                break
            looks = max(1, round(looks * (total - changed_after) / (total - begin)))
            begin, total = changed_after, steps
        every = max(1, -(-(total - begin) // looks))
        return (done - begin) % every == 0 or done == self.total

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.changed[-1][1] if self.changed else self.planned


def seconds_per_step(do_step: Callable[[int], object], budget_seconds: float) -> float:
    """Time a few calls of do_step(step): the fastest, as the first compiles and fills caches, and
    others may have been disturbed."""
    probed: list[float] = []
    for step in range(PROBE_STEPS + 1):
        begin = time.monotonic()
        do_step(step)
        probed.append(time.monotonic() - begin)
        # The second is worth its time: the first may have compiled for long.
        share = MAX_PROBE_SHARE if step > 0 else 0.5
        if parallel.from_first(sum(probed[1:] or probed) > share * budget_seconds):
            break
    return min(probed[1:] or probed)


@dataclass
class Pace:
    """A time budget, what evaluations take of it, and whether the run is late."""

    seconds: float | None
    """For steps and evaluations, from the beginning of the loop; None: no limit."""
    evaluation_seconds: float = 0.0
    """Of one on the way: with checkpoint and samples, once one was made."""
    measuring_seconds: float = 0.0
    """The same without."""
    last_evaluation: float = 1.0
    """Cost of the stage's last evaluation, as a multiple of measuring_seconds."""
    num_evaluations: int = NUM_EVALUATIONS
    next_look: float = 0.5
    """Share of the run at which its pace is looked at."""
    looked_at: tuple[int, float] | None = None
    """Steps done and their seconds at the last look; None before the first step was timed."""

    def steps_within(self, left: float, step_seconds: float, every_steps: int | None) -> int:
        """Steps that `left` seconds have room for, beside evaluations; fixes how many of these.

        every_steps: cadence of evaluations that was asked for.
        """
        affordable = int(MAX_EVALUATION_SHARE * left / max(self.evaluation_seconds, 1e-9))
        self.num_evaluations = max(1, min(NUM_EVALUATIONS, affordable))
        if every_steps:
            each = step_seconds + self.evaluation_seconds / every_steps
            self.num_evaluations = max(1, int(left / each) // every_steps)
        left -= self.num_evaluations * self.evaluation_seconds
        left -= self.last_evaluation * self.measuring_seconds
        if left < step_seconds:
            warn(
                f"the time budget leaves {max(0.0, left):.1f} s for training, a step takes "
                f"{step_seconds:.1f} s: one step is done"
            )
        return max(1, int(left / step_seconds))

    def changed_number(
        self, *, step: int, steps: int, timed: tuple[int, float], spent: float
    ) -> int | None:
        """Another number of steps when the budget would be overrun, or left unused, else None.

        Looked at half-way, at three quarters, and so on, in steps or in time, whichever comes
        first: on a machine much slower than probed the time would be over before half of the
        steps are done. The pace is that since the last look.

        step: steps done of `steps`. timed: those whose time is known, and their seconds. spent:
        seconds of the budget.
        """
        if self.seconds is None or self.next_look > LAST_LOOK or timed[0] == 0:
            return None
        if self.looked_at is None:  # the first step compiles and warms up
            self.looked_at = timed
            return None
        done = max(step / steps, spent / self.seconds)
        if done < self.next_look or timed[0] <= self.looked_at[0]:
            return None
        while self.next_look <= min(done, LAST_LOOK):
            self.next_look = (1 + self.next_look) / 2
        step_seconds = (timed[1] - self.looked_at[1]) / (timed[0] - self.looked_at[0])
        self.looked_at = timed
        left = self.seconds - spent - self.last_evaluation * self.measuring_seconds
        left -= self.num_evaluations * (1 - step / steps) * self.evaluation_seconds
        possible = max(step + 1, step + int(left / step_seconds))
        late, early = possible < (1 - MAX_OVERRUN) * steps, possible > (1 + MIN_GAIN) * steps
        return possible if (late and possible < steps) or early else None
