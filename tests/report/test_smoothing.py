"""Running means and thinning."""

import numpy as np

from llmstages.report.smoothing import smoothed, thinned


def test_few_values_stay_as_they_are() -> None:
    values = np.array([3.0, 1.0, 2.0] * 16)
    assert smoothed(values).tolist() == values.tolist()


def test_the_mean_is_centred_narrow_at_the_beginning_and_one_sided_at_the_end() -> None:
    values = np.arange(100.0) ** 2
    means = smoothed(values)
    assert means[0] == 0
    assert means[1] == (0 + 1 + 4) / 3
    assert np.isclose(means[50], np.mean(values[48:53]))
    assert np.isclose(means[99], np.mean(values[97:100]))
    line = np.arange(100.0)
    assert np.allclose(smoothed(line)[:97], line[:97])  # no lag


def test_thinning_keeps_ends_and_peaks() -> None:
    x, y = np.arange(10_000.0), np.zeros(10_000)
    y[1234], y[5678] = 9, -9
    thin_x, thin_y = thinned(x, y, 100)
    assert len(thin_x) == len(thin_y) <= 100
    assert thin_x[0] == 0
    assert thin_x[-1] == 9999
    assert {1234.0, 5678.0} <= set(thin_x)
    assert (np.diff(thin_x) > 0).all()
    assert thin_y.max() == 9
    assert thin_y.min() == -9


def test_short_curves_are_not_thinned() -> None:
    x = np.arange(100.0)
    assert thinned(x, -x, 100)[1].tolist() == (-x).tolist()
