"""A growing answer as text: each piece is given out as soon as no later token can change it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmstages.text.tokenizer import Tokenizer

UNDECIDED = "\ufffd\r"
"""At the end of a text these may still become something else: the rest of a character's bytes may
follow, or the line feed of a line end."""


class TextStream:
    """Promise: the pieces, joined, are the text of all ids; none ends inside a character.

    after: ids of the text that the answer goes on with, where it is no text of its own.
    """

    def __init__(self, tokenizer: "Tokenizer", after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._after = after
        self.ids: list[int] = []
        self._given = ""

    def add(self, ids: Sequence[int]) -> str:
        """The text that these ids make certain; often none."""
        self.ids += ids
        return self._piece(self.text.rstrip(UNDECIDED))

    def end(self) -> str:
        """What was held back."""
        return self._piece(self.text)

    @property
    def text(self) -> str:
        """Text of all ids so far."""
        return self._tokenizer.decode(self.ids, self._after)

    def _piece(self, text: str) -> str:
        if not text.startswith(self._given):
            return ""  # a tokenizer that takes back what it wrote is waited for
        piece = text[len(self._given) :]
        self._given = text
        return piece
