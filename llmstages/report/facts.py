"""What is known of a thing, on standard output: names with values, and passages of text."""

from collections.abc import Mapping

from rich.table import Table

from llmstages.report.terminal import cell_text, output_console, plain

PASSAGE_CHARACTERS = 600
"""Shown of a passage, unless another limit is given."""


def show_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print names and values in two columns; what is unknown is left out."""
    show_line(title, style="italic")  # a table's own title would be folded to the table's width
    grid = Table(show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None and value != "":
            grid.add_row(plain(name), plain(cell_text(value)))
    output_console().print(grid)


def show_passage(title: str, text: str, limit: int = PASSAGE_CHARACTERS) -> None:
    """Print a piece of text under a line that says what it is."""
    shown = text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"
    show_heading(title)
    output_console().print(plain(shown))


def show_heading(title: str) -> None:
    """Print the line above a passage."""
    show_line(f"── {title}", style="bold")


def show_line(text: str, style: str = "") -> None:
    """Print a line of text as it is."""
    output_console().print(plain(text, style=style))
