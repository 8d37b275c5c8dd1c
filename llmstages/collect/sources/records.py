"""What passes between listing, reading and cleaning."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Input:
    """One thing to read."""

    locator: str
    """Name within the source, the same wherever the source lies."""
    path: str
    """Absolute path, or the name of a package."""
    bytes: int
    """Size on disk."""
    sha256: str
    """Hash of the content."""


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


@dataclass(frozen=True)
class Note:
    """Something the user should know about one input; notes with equal text are said together."""

    locator: str
    text: str
