"""What passes between listing, reading and cleaning."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Input:
    """One thing to read."""

    locator: str
    """Name within the source, the same wherever the source lies."""
    path: str
    """Absolute path, URL, or the name of a package."""
    bytes: int
    """Size on disk."""
    sha256: str
    """Hash of the content; of a remote file the hash of what its server says identifies it."""


@dataclass(frozen=True)
class RawDocument:
    """A text as it was found, before any cleaning."""

    locator: str
    """Name within the source; with `ordinal` it is the document's identity."""
    ordinal: int
    """Position among the documents of the same locator."""
    text: str
    url: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    piece: int | None = None
    """Number of this piece of the one text of its locator; None: a whole text."""


@dataclass(frozen=True)
class Note:
    """Something the user should know about one input; notes with equal text are said together."""

    locator: str
    text: str


@dataclass(frozen=True)
class Skipped:
    """Records that gave no document, counted by reason in the manifest and the waterfall."""

    reason: str
    """Short and the same for all of its kind: "redirect", "revisit record", "not HTML"."""
    count: int = 1


class BrokenInput(ValueError):
    """The rest of an input cannot be read; the documents already handed out are sound.

    With `bad_rows=skip` it becomes a `Skipped` and a `Note`, with `bad_rows=refuse` a `UserError`.
    """


Found = RawDocument | Note | Skipped
