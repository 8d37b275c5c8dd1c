"""A temperature makes probabilities as often right as they say."""

import numpy as np
import pytest

from llmstages.evaluate.temperature import fitted_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def drawn(temperature: float, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of logits, and labels drawn from those at another temperature."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (rows, 4))
    gumbel = random.gumbel(size=logits.shape)
    return softmax(logits), (logits / temperature + gumbel).argmax(1)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    p, truth = drawn(temperature, 4000)
    found = fitted_temperature(p, [1] * 4000, truth.tolist())
    assert found == pytest.approx(temperature, rel=0.07)
    # At the least log loss its derivative, the mean of the true logit less the expected one, is 0.
    logits = np.log(p)
    expected = (softmax(logits / found) * logits).sum(1)
    assert abs((logits[np.arange(4000), truth] - expected).mean()) < 1e-4


def test_windows_are_averaged_before_they_are_measured() -> None:
    p, truth = drawn(2.5, 400)
    twice = np.repeat(p, 2, axis=0)  # a text's two windows are alike: as if it had one
    alone = fitted_temperature(p, [1] * 400, truth.tolist())
    assert fitted_temperature(twice, [2] * 400, truth.tolist()) == pytest.approx(alone, rel=1e-6)


def test_no_temperature_of_few_rows_of_rows_all_right_or_of_guesses() -> None:
    p, truth = drawn(2.5, 200)
    assert fitted_temperature(p, [1] * 200, truth.tolist()) is not None
    assert fitted_temperature(p[:99], [1] * 99, truth[:99].tolist()) is None
    assert fitted_temperature(p, [1] * 200, p.argmax(1).tolist()) is None
    few = np.where(np.arange(200) < 19, p.argmin(1), p.argmax(1))
    assert fitted_temperature(p, [1] * 200, few.tolist()) is None
    assert fitted_temperature(p, [1] * 200, p.argmin(1).tolist()) is None
