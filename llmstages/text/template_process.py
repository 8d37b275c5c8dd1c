"""The process in which somebody else's chat template runs; started as a script, with jinja2 alone.

Promise: a template reads what it is given and hands back text. Jinja's sandbox keeps it from
Python's objects; the operating system keeps this process from using more than so much time and
memory, from starting others and from writing files. The same jobs give the same texts on every
day: chance begins anew with each job, and the time that a template is told stands still.

Lines of JSON come in and go out. The first line is the template's text, each further one a list
of jobs; the answer to a line is a list of results, each with `text`, or with `reason` and `line`.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import jinja2
import jinja2.debug  # Jinja would import it at the first error
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MAX_SECONDS = 1.0
"""Of this process's own computing, for each line."""
MAX_MEMORY_BYTES = 1 << 30
MAX_OUTPUT_CHARACTERS = 1 << 18
"""Of a rendering, besides eight times what came in."""
MAX_REASON_CHARACTERS = 300
"""Of what a template, or Jinja, says is wrong."""
NOW = (2026, 1, 1, 0, 0, 0, 3, 1, 0)
"""What `strftime_now` tells: midnight of Thursday, 1 January 2026, UTC. Were it the day itself, a
run resumed, proved or used on another day would read other conversations than it was trained on."""


class Refusal(jinja2.TemplateError):
    """What a template says with `raise_exception`."""


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that mean something to Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the name {name!r} is not for templates")
        super().__setitem__(name, value)


def namespace(*args: Any, **values: Any) -> Namespace:
    """An empty namespace, filled name by name."""
    made = Namespace()
    for name, value in dict(*args, **values).items():
        made[name] = value
    return made


class Generation(jinja2.ext.Extension):
    """`{% generation %}` puts marks, where wanted, around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it
    marks: ClassVar[tuple[str, str]] = ("", "")

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call with a body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        begin, end = Generation.marks
        return begin + caller() + end


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter, without HTML's escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def refuse(reason: str) -> None:
    """`raise_exception` of templates."""
    raise Refusal(reason)


def environment() -> jinja2.Environment:
    """What transformers gives to a template."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: time.strftime(form, NOW)
    made.globals["namespace"] = namespace
    return made


def limit() -> None:
    """Bounds that hold for the rest of this process's life."""
    limits = {
        resource.RLIMIT_AS: MAX_MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        with suppress(OSError, ValueError):  # a system that does not have it
            resource.setrlimit(kind, (most, most))
    # The signal ends the process, in the middle of a multiplication too.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def problem(error: Exception) -> dict[str, Any]:
    """What went wrong, and in which line of the template."""
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, MemoryError):
        reason = "it needs too much memory"
    else:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    reason = reason[:MAX_REASON_CHARACTERS]
    return {"reason": reason, "line": line, "refused": isinstance(error, Refusal)}


def rendering(template: jinja2.Template, job: dict[str, Any]) -> dict[str, Any]:
    """One job: `variables` of the template, and the `marks` of what it generates."""
    Generation.marks = tuple(job["marks"])
    random.seed(0)
    try:
        text = template.render(job["variables"])
    except Exception as error:  # whatever Python raises for what a template does
        return problem(error)
    if len(text) > MAX_OUTPUT_CHARACTERS + 8 * job["size"]:
        return {"reason": "it writes too much", "line": None, "refused": False}
    return {"text": text}


def main() -> None:
    """Answer line by line until there is no more."""
    limit()
    os.environ["TZ"] = "UTC"
    time.tzset()
    template = None
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        request = json.loads(line)
        if template is None:
            try:
                template = environment().from_string(request)
                results = []
            except Exception as error:  # as above
                results = [problem(error)]
        else:
            results = [rendering(template, job | {"size": len(line)}) for job in request]
        answer = json.dumps(results)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
