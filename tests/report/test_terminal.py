"""The progress bar, as a log file sees it."""

from llmstages.report.terminal import progress


def test_a_total_may_change_on_the_way(capfd):
    with progress("work", total=10, unit="steps") as advance:
        advance(3, note="half")
        advance(0, total=4)
        advance(1)
    assert "4/4 steps" in capfd.readouterr().err
