"""Conversations as a model reads them: what is learnt, where answers end, where they are cut.

In a terminal with colours what is learnt is green and underlined, control tokens are magenta, and
what the context cuts off is struck through. Anywhere else what is learnt stands in ⟦ ⟧ and what is
cut off in ⟨cut: ⟩, so that a pipe shows the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from llmstages.report.terminal import plain

LEARNT, CONTROL, CUT = "green underline", "magenta", "dim strike"


@dataclass(frozen=True)
class Piece:
    """A run of text, or the name of one control token."""

    text: str
    learnt: bool = False
    control: bool = False
    cut: bool = False


def has_colours(console: Console) -> bool:
    """Whether a console shows colours."""
    return console.color_system is not None and not console.no_color


def rendered_conversation(pieces: Sequence[Piece], *, colours: bool) -> Text:
    """The pieces one after the other, marked."""
    text = Text()
    open_mark = ""
    for piece in pieces:
        if not colours:
            mark = "⟨cut: " if piece.cut else "⟦" if piece.learnt else ""
            if mark != open_mark:
                text.append(_closing(open_mark) + mark)
                open_mark = mark
            text.append(plain(piece.text))
            continue
        styles = [
            style
            for style, given in ((LEARNT, piece.learnt), (CONTROL, piece.control), (CUT, piece.cut))
            if given
        ]
        # A control token that is learnt keeps the underline and its own colour.
        text.append(plain(piece.text, style=" ".join(styles)))
    text.append(_closing(open_mark))
    return text


def legend(*, colours: bool) -> Text:
    """What the marks mean."""
    return rendered_conversation(
        [
            Piece("marks: "),
            Piece("learnt", learnt=True),
            Piece(", "),
            Piece("cut by the context", cut=True),
        ],
        colours=colours,
    )


def _closing(mark: str) -> str:
    return {"⟦": "⟧", "⟨cut: ": "⟩"}.get(mark, "")
