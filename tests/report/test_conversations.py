"""Conversations shown with what is learnt: the same with colours and in a pipe."""

from io import StringIO

from rich.console import Console

from llmstages.report.conversations import Piece, has_colours, rendered_conversation

PIECES = [
    Piece("<s>", control=True),
    Piece("user\n[red]\x1b"),
    Piece("so", learnt=True),
    Piece("<end>", learnt=True, control=True),
    Piece("\n"),
    Piece("lost", learnt=True, cut=True),
    Piece("<end>", learnt=True, control=True, cut=True),
]


def test_marks_without_colours() -> None:
    text = rendered_conversation(PIECES, colours=False)
    assert text.plain == "<s>user\n[red]\\x1b⟦so<end>⟧\n⟨cut: lost<end>⟩"


def test_colours() -> None:
    text = rendered_conversation(PIECES, colours=True)
    assert text.plain == "<s>user\n[red]\\x1bso<end>\nlost<end>"
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans[:4]}
    assert styles == {
        "<s>": "magenta",
        "so": "green underline",
        "<end>": "green underline magenta",
        "lost": "green underline dim strike",
    }


def test_a_pipe_has_no_colours() -> None:
    assert not has_colours(Console(file=StringIO()))
    assert not has_colours(Console(file=StringIO(), force_terminal=True, no_color=True))
    assert has_colours(Console(file=StringIO(), force_terminal=True, color_system="standard"))
