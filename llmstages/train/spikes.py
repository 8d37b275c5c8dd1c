"""Which steps have a loss far above those before: their documents are worth a look.

Large models have met such steps again and again (Chowdhery et al. 2022, section 5.1, skip the
batches around them). Here they are named, and training goes on: the gradient is clipped, and what
is done about them is the user's to decide.
"""

import math
from collections import deque

WINDOW_STEPS = 100
"""Steps that a loss is compared with."""
MIN_STEPS = 20
"""With fewer the spread of losses is not known."""
DEVIATIONS = 6.0
"""Standard deviations above the mean from which a loss is a spike: of normal losses one in a
billion is."""
MIN_RISE = 0.1
"""And it is this share above the mean at least: where losses hardly differ, noise is no spike."""
MAX_IN_A_ROW = 5
"""So many are no spike but another level: what is usual is found out anew."""


class SpikeWatch:
    """Looks at the losses of a run one after the other."""

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.in_a_row = 0

    def usual(self, loss: float) -> float | None:
        """The mean of the losses before, when this one is a spike; it is kept out of them then."""
        if len(self.losses) >= MIN_STEPS:
            mean = math.fsum(self.losses) / len(self.losses)
            squares = math.fsum((each - mean) ** 2 for each in self.losses)
            spread = math.sqrt(squares / len(self.losses))
            if loss > mean + max(DEVIATIONS * spread, MIN_RISE * abs(mean)):
                self.in_a_row += 1
                if self.in_a_row == MAX_IN_A_ROW:
                    self.losses.clear()
                    self.in_a_row = 0
                return mean
        self.in_a_row = 0
        self.losses.append(loss)
        return None
