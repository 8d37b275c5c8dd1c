"""A page as HTML: one file that loads nothing and lets nothing else run.

Whatever is shown goes through one door: jinja2 escapes it, after `visible` has spelled out control
characters. No text from a corpus, a label or a file's name is ever markup, style or script: the
policy in the page names the hashes of the only style and the only script that a browser may use.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from llmstages import __version__
from llmstages.report.html.charts import LINE_NAME_CHARACTERS, shortened
from llmstages.report.html.contents import Page
from llmstages.report.plain import visible
from llmstages.report.terminal import cell_text

MAX_CHARACTERS = 400
"""Of a text that is shown."""


def render(page: Page) -> str:
    """The HTML."""
    style, script = (_own_file(name) for name in ("page.css", "page.js"))
    return _template().render(
        page=page,
        name_characters=LINE_NAME_CHARACTERS,
        version=__version__,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"cell_text": cell_text, "shortened": shortened, "clip": _clipped}
    return environment.from_string(_own_file("page.html"))


def _own_file(name: str) -> str:
    return files("llmstages.report.html").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """A style or script by its hash, as a Content-Security-Policy names it."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _shown(value: object) -> object:
    # What a macro of the template made has been through here already.
    return value if hasattr(value, "__html__") else visible(str(value))


def _clipped(text: str) -> str:
    return shortened(text, MAX_CHARACTERS)
