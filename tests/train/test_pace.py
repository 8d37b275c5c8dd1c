"""Steps within a time budget, by arithmetic."""

from llmstages.train import pace
from llmstages.train.pace import NUM_EVALUATIONS, PROBE_STEPS, Pace, Steps, seconds_per_step


def test_each_step_has_the_number_it_was_done_under():
    steps = Steps(100, [(50, 80), (60, 70)])
    assert [steps.at(step) for step in (0, 49, 50, 59, 60, 69)] == [100, 100, 80, 80, 70, 70]
    assert steps.total == 70
    assert Steps.from_plan(steps.to_plan()) == steps
    assert Steps(7).total == Steps(7).at(6) == 7
    assert Steps(7).to_plan() == {"steps": 7}


def test_looks_are_even_over_the_run_and_over_what_is_left_of_it():
    steps = Steps(100)
    assert [n for n in range(1, 101) if steps.is_look(n, 4)] == [25, 50, 75, 100]
    assert [n for n in range(1, 8) if Steps(7).is_look(n, 10)] == list(range(1, 8))
    steps.changed.append((50, 60))
    assert [n for n in range(1, 61) if steps.is_look(n, 4)] == [25, 50, 55, 60]
    steps.changed.append((57, 58))
    assert [n for n in range(1, 59) if steps.is_look(n, 4)] == [25, 50, 55, 58]


def probe(monkeypatch, durations, budget):
    """Seconds a step, and how many were done, by a clock that only steps move."""
    now = 0.0
    done = []

    def do_step(step):
        nonlocal now
        now += durations[step]
        done.append(step)

    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    return seconds_per_step(do_step, budget), len(done)


def test_the_fastest_step_counts_and_few_are_done(monkeypatch):
    durations = [30, 2, 1, 3, 2, 2]
    assert probe(monkeypatch, durations, 1000) == (1, PROBE_STEPS + 1)
    assert probe(monkeypatch, durations, 100) == (1, 3)  # 2 + 1 s are more than a fiftieth
    assert probe(monkeypatch, durations, 50) == (30, 1)  # the first alone took half of it


def test_room_for_evaluations_comes_first():
    budget = Pace(100.0, evaluation_seconds=1.0, measuring_seconds=1.0, last_evaluation=5.0)
    assert budget.steps_within(100.0, 0.5, None) == (100 - 5 - 5) / 0.5
    assert budget.num_evaluations == 5  # a twentieth of the time
    assert budget.steps_within(1000.0, 0.5, None) == (1000 - 10 - 5) / 0.5
    assert budget.num_evaluations == NUM_EVALUATIONS
    budget.steps_within(100.0, 0.5, 10)  # ten steps and an evaluation take 6 s
    assert budget.num_evaluations == 16
    assert budget.steps_within(1.0, 0.5, None) == 1


def late(budget, step, seconds_a_step, spent):
    return budget.changed_number(
        step=step, steps=100, timed=(step, seconds_a_step * step), spent=spent
    )


def test_a_late_run_is_shortened_to_what_is_left():
    budget = Pace(100.0)
    assert late(budget, 1, 1.0, 1.0) is None  # the first step compiles
    assert late(budget, 40, 1.2, 45.0) is None  # not half-way yet
    # 50 steps took 75 s, 49 of them 74 s: 25 s are enough for 16 more.
    assert budget.changed_number(step=50, steps=100, timed=(50, 75.0), spent=75.0) == 66
    assert budget.next_look > 0.75


def test_a_run_in_time_is_left_alone():
    budget = Pace(100.0)
    assert late(budget, 1, 1.0, 1.0) is None
    assert late(budget, 50, 1.0, 50.0) is None
    assert late(budget, 75, 1.01, 76.0) is None  # 23 more fit, 25 are left
    assert late(budget, 99, 2.0, 99.9) is None  # too late to matter
    short = Pace(100.0, looked_at=(1, 1.0))
    assert short.changed_number(step=7, steps=8, timed=(7, 99.0), spent=99.0) is None
    assert late(Pace(None), 50, 100.0, 1e9) is None


def test_a_run_that_was_timed_while_the_machine_was_busy_is_made_longer():
    budget = Pace(100.0)
    assert late(budget, 1, 1.0, 1.0) is None
    # 49 steps took 4.9 s, so the 95 s left have room for 950.
    assert budget.changed_number(step=50, steps=100, timed=(50, 5.9), spent=5.0) in (999, 1000)
    steps = Steps(100, [(50, 1000)])
    assert (steps.at(49), steps.at(50), steps.total) == (100, 1000, 1000)


def test_half_of_the_time_is_a_look_too():
    budget = Pace(100.0)
    assert late(budget, 1, 5.0, 5.0) is None
    assert late(budget, 10, 5.0, 50.0) == 20
