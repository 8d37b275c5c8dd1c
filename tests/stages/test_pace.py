"""What a short time budget spends on looking at itself."""

from types import SimpleNamespace

import pytest

from llmstages.stages.shared import pace
from llmstages.stages.shared.pace import TimedEvaluation, affordable_evaluation


def test_an_evaluation_on_the_way_takes_a_hundredth_of_the_time():
    # 10,000 tokens a second in training, 30,000 in the forward pass alone
    assert affordable_evaluation(32_768, 1e-4, 50) == pytest.approx(15_000, abs=1)
    assert affordable_evaluation(32_768, 1e-4, 10_000) == 32_768
    assert affordable_evaluation(32_768, 1e-4, 1) == pace.MIN_EVALUATION_TOKENS
    assert affordable_evaluation(500, 1e-4, 50) == 500


def test_the_last_evaluation_reads_what_the_time_allows(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now[0]))
    asked = []

    def evaluate(max_tokens):
        asked.append(max_tokens)
        now[0] += 2
        return {"val_loss": 1.0}

    evaluation = TimedEvaluation(evaluate, 100_000)
    assert evaluation(1000) == {"val_loss": 1.0}
    assert (evaluation.seconds, evaluation.tokens) == (2.0, 1000)
    evaluation(200_000)
    assert evaluation.tokens == 100_000
    assert asked == [1000, None]
    assert evaluation.tokens_within(1.0) == 50_000
    assert evaluation.tokens_within(100.0) == 100_000
    assert evaluation.tokens_within(-1.0) == 0
