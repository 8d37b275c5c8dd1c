"""`llmstages report [RUN ...]`: what runs came to, as one HTML page that needs no network."""

from pathlib import Path

from llmstages.config.uses import PageConfig
from llmstages.errors import UserError
from llmstages.report.html.contents import page_of
from llmstages.report.html.records import read_records
from llmstages.report.html.render import render
from llmstages.report.terminal import say
from llmstages.stages.output import output_file


def run(config: PageConfig) -> None:
    """Write the page, whole or not at all, and say where it is.

    Raises:
        UserError: nothing is there to show, or the page cannot be written.
    """
    path = Path(config.output)
    if path.is_dir():
        raise UserError(f"output={config.output}: a directory: name a file, as report.html")
    records = read_records([Path(place).expanduser() for place in config.places])
    html = render(page_of(records))
    with output_file(config.output) as file:
        file.write(html)
    say(f"{path}: {len(records.runs):,} runs, {path.stat().st_size:,} bytes")
