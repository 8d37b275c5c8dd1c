"""Why a page cannot be had, and when it is worth another try."""

NEVER = "never"
"""It will be the same next time: 404."""
NEXT_RUN = "next run"
"""It may pass: a time-out."""
OTHER_SETTINGS = "other settings"
"""A limit or a rule of ours forbids it: too large."""


class PageFailure(Exception):
    """A page that cannot be had."""

    def __init__(self, reason: str, try_again: str, status: int | None = None) -> None:
        """`reason`: a few words, the same for all of a kind; `status`: HTTP's, if there was one."""
        super().__init__(reason)
        self.reason = reason
        self.try_again = try_again
        self.status = status
