"""The text chart: exact lines, never wider than asked."""

import pytest

from llmstages.report.chart import chart


def test_a_rising_line() -> None:
    assert chart([(0, 0.0), (1, 1.0)], 21, 3) == [
        "1┤         ⢀⣀⣀⠤⠤⠤⠒⠒⠊⠉",
        "0┤⣀⡠⠤⠤⠒⠒⠒⠉⠉⠁",
        "  0           1 steps",
    ]


def test_a_steep_fall_is_joined_and_marks_stand_over_the_line() -> None:
    points = [(float(x), 4.0 if x < 10 else 2.0) for x in range(20)]
    assert chart(points, 22, 5, marks=[(5, 2.5), (19, 2.0)], unit="s") == [
        "4┤⠉⠉⠉⠉⠉⠉⠉⠉⠉⢱",
        " │         ⠘⡄",
        " │     o    ⢇",
        "2┤          ⢸⣀⣀⣀⣀⣀⣀⣀⣀o",
        "  0               19 s",
    ]


def test_the_mean_of_a_column_counts() -> None:
    noisy = [(float(x), 1.0 if x % 2 else 3.0) for x in range(4000)]
    top, above, middle, below, bottom, axis = chart(noisy, 40, 6)
    assert (top, above, below, bottom) == ("3┤", " │", " │", "1┤")
    assert len(middle) == 40
    assert set(middle[2:]) <= set("⠤⠢⠔⠒")  # two rows of dots around 2
    assert axis.split() == ["0", "3,999", "steps"]


def test_a_flat_line_lies_in_the_middle() -> None:
    assert chart([(1, 2.0), (2, 2.0)], 15, 3) == ["2┤", "2┤⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉", "  1     2 steps"]


@pytest.mark.parametrize("width", range(1, 90))
def test_no_line_is_wider_than_asked(width: int) -> None:
    points = [(float(step), 1e-5 * step * (-1) ** step) for step in range(1, 12_346, 5)]
    lines = chart(points, width, 8, marks=points[::100])
    assert len(lines) in (0, 8)
    assert all(len(line) <= width for line in lines)
    assert bool(lines) == (width >= 22)


@pytest.mark.parametrize("points", [[], [(1, 1.0)], [(1, 1.0), (1, 2.0)]])
def test_too_little_to_draw(points: list[tuple[float, float]]) -> None:
    assert chart(points, 80, 8) == []
    assert chart([(0, 0.0), (1, 1.0)], 80, 2) == []
