"""The chat template that a foreign model brings: where it stands, and running it.

Promise: a template is run in a process of its own (`llmstages/text/template_process.py`), which
bounds what it can do; whatever is wrong with it is a `UserError` that names the file. Nothing is
started, and Jinja is not imported, before a conversation is rendered.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstages.data.json_files import parse_json
from llmstages.errors import UserError
from llmstages.text.unicode import well_formed

PROCESS = Path(__file__).with_name("template_process.py")
DEFAULT = "default"
"""Name of the template that serves for conversations, where there are several."""
REMEDY = "mend it, or delete it there to use llmstages' own form"


class ConversationRefused(UserError):
    """A conversation that a template cannot render, or not so that one knows what is whose."""


@dataclass(frozen=True)
class TemplateSource:
    """A template as it was found: the file, and a text or a list of objects with name and text."""

    path: Path
    stored: str | list[dict[str, str]]

    def text(self) -> str:
        """The template for conversations; `UserError` when there is none among several."""
        if isinstance(self.stored, str):
            return self.stored
        by_name = {entry["name"]: entry["template"] for entry in self.stored}
        text = by_name.get(DEFAULT)
        if len(by_name) == 1:
            (text,) = by_name.values()
        if text is None:
            raise UserError(
                f"{self.path}: of several chat templates none is named {DEFAULT!r}; "
                "name the one for conversations so"
            )
        return text


def find_template(directory: Path, config: Mapping[str, Any]) -> TemplateSource | None:
    """The template of a directory, `config` being its `tokenizer_config.json`.

    As in transformers, `chat_template.jinja` counts before the config. Raises `UserError` for a
    file that cannot be read.
    """
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return checked(path, path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not in UTF-8; copy it again") from error
    if (stored := config.get("chat_template")) is not None:
        return checked(directory / "tokenizer_config.json", stored)
    path = directory / "chat_template.json"
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON; copy it again") from error
    return checked(path, content.get("chat_template") if isinstance(content, dict) else content)


def checked(path: Path, stored: object) -> TemplateSource:
    """A template read from JSON."""
    if isinstance(stored, str):
        return TemplateSource(path, well_formed(stored))
    kept = [
        {key: well_formed(entry[key]) for key in ("name", "template")}
        for entry in (stored if isinstance(stored, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("template"), str)
    ]
    if not isinstance(stored, list) or len(kept) < len(stored):
        raise UserError(
            f"{path}: chat_template is neither a text nor a list of names and templates; "
            "copy it again"
        )
    return TemplateSource(path, kept)


@dataclass(frozen=True)
class Job:
    """One rendering: the template's variables, and what is to stand around what it generates."""

    variables: Mapping[str, Any]
    marks: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Refused:
    """The template would not render: why, and whether it said so itself."""

    reason: str
    said: bool


class ProcessEnded(Exception):
    """A template's process ended before it answered."""

    def __init__(self, status: int) -> None:
        """`status` is negative for a signal."""
        super().__init__(f"status {status}")
        self.took_too_long = status == -signal.SIGPROF


class TemplateProcess:
    """A template in its process, started at the first rendering; threads take turns."""

    def __init__(self, path: Path, text: str) -> None:
        """`path` is the file to name in errors."""
        self._path = path
        self._text = text
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def render(self, jobs: Sequence[Job]) -> list[str | Refused]:
        """The text of each job. Raises `UserError` for a template that is broken or takes long."""
        request = [{"variables": dict(job.variables), "marks": job.marks} for job in jobs]
        with self._lock:
            try:
                answers = self._ask(request)
            except ProcessEnded as end:
                reason = "takes too long" if end.took_too_long else f"ends its process ({end})"
                raise UserError(f"{self._path}: the chat template {reason}; {REMEDY}") from None
        return [
            well_formed(answer["text"])
            if "text" in answer
            else Refused(told(answer), answer["refused"])
            for answer in answers
        ]

    def _ask(self, request: object) -> list[Any]:
        """An answer; asked for twice where somebody else ended the process."""
        try:
            return exchange(self._started(), request)
        except ProcessEnded as end:
            self._process = None
            if end.took_too_long:
                raise
        return exchange(self._started(), request)

    def _started(self) -> "subprocess.Popen[str]":
        """The process, with the template in it; after a fork a new one."""
        if self._process is not None and self._owner == os.getpid():
            return self._process
        process = subprocess.Popen(
            [sys.executable, "-P", str(PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the run, which may still render
        )
        weakref.finalize(self, stop, process, os.getpid())
        if problems := exchange(process, self._text):
            raise UserError(f"{self._path}: broken chat template: {told(problems[0])}; {REMEDY}")
        self._process, self._owner = process, os.getpid()
        return process


def exchange(process: "subprocess.Popen[str]", request: object) -> list[Any]:
    """Send a line and read the answer's."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line.endswith("\n"):
        process.stdout.close()
        with suppress(BrokenPipeError):  # what was not sent
            process.stdin.close()
        raise ProcessEnded(process.wait())
    answer: list[Any] = json.loads(line)
    return answer


def stop(process: "subprocess.Popen[str]", owner: int) -> None:
    """End a process, which waits for the next line; that of a fork's parent is left alone."""
    if os.getpid() != owner:
        process.returncode = 0
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()


def told(problem: Mapping[str, Any]) -> str:
    """A problem with the line it is in."""
    place = "" if problem["line"] is None else f"line {problem['line']}: "
    return well_formed(f"{place}{problem['reason']}")
