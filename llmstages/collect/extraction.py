"""The main text of a web page."""

from dataclasses import dataclass

from llmstages.collect.sources.html import page_text


@dataclass(frozen=True)
class Page:
    """What was found in a page."""

    text: str
    title: str | None
    encoding: str


def extract_page(data: bytes, charset: str | None = None, url: str | None = None) -> Page:
    """The main text of a page; `charset` is what its server says."""
    text, encoding = page_text(data)
    return Page(text, None, encoding)
