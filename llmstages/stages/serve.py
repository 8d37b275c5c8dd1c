"""`llmstages serve`: a checkpoint behind HTTP, until Ctrl-C or SIGTERM."""

import importlib.util
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmstages.config.uses import ServeConfig
from llmstages.errors import UserError
from llmstages.report.terminal import say, warn

if TYPE_CHECKING:
    from llmstages.serve.classifier import Classifier
    from llmstages.serve.language import Language

NEEDED = ("starlette", "uvicorn", "pydantic", "anyio")


def run(config: ServeConfig) -> None:
    """Serve until a signal ends it."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serve needs {', '.join(missing)}: install it with pip install 'llmstages[serve]'"
        )
    from llmstages.serve.server import Server

    with listen(config.host, config.port) as listener:
        service = open_service(config)
        server = Server(service)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        what = "labels at /classify" if service.is_classifier else "a page to chat at /"
        say(f"{service.name}: http://{shown}:{port} ({what}); Ctrl-C ends it")
        try:
            with suppress(KeyboardInterrupt):
                server.run([listener])
        finally:
            service.close()  # where a second Ctrl-C has cut the end short
    say("ended")


def open_service(config: ServeConfig) -> "Language | Classifier":
    """Load the checkpoint that a config names, and put it behind its endpoints."""
    from llmstages.serve.classifier import Classifier
    from llmstages.serve.http import Limits, is_local
    from llmstages.serve.language import Defaults, Language
    from llmstages.stages.predict import classifier_of
    from llmstages.stages.shared.speaker import speaker_of
    from llmstages.train.checkpoint import load_checkpoint

    if config.checkpoint_dir is None:
        raise UserError("serve needs a checkpoint: llmstages serve RUN")
    key = api_key(config.api_key_env)
    only_local = is_local(f"[{config.host}]" if ":" in config.host else config.host)
    if not only_local and key is None:
        warn(f"host={config.host}: whoever reaches it can use it; api_key_env=NAME asks for a key")
    limits = Limits(config.timeout_seconds, config.max_body_bytes, key, only_local)
    checkpoint = load_checkpoint(config.checkpoint_dir)
    name = config.name or Path(config.checkpoint_dir).resolve().name
    classifier = classifier_of(checkpoint, config.head, config.device, config.dtype)
    if classifier is not None:
        labels = classifier.checkpoint.labels
        return Classifier(
            classifier,
            name=name,
            facts={"labels": labels, "decision": classifier.rule},
            template=classifier.template,
            limits=limits,
            batch_size=config.batch_size,
            max_waiting=config.max_waiting,
            created=int(time.time()),
            log=say,
        )
    speaker = speaker_of(checkpoint, config)
    if not speaker.is_tuned:
        say(
            f"{config.checkpoint_dir}: a base model, not tuned on instructions: "
            "it continues text rather than answers"
        )
    return Language(
        speaker.decoder(),
        checkpoint.tokenizer,
        name=name,
        is_tuned=speaker.is_tuned,
        defaults=Defaults(config.max_new_tokens, speaker.sampling, config.seed),
        limits=limits,
        batch_size=config.batch_size,
        max_waiting=config.max_waiting,
        log=say,
    )


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable. What it is called is not repeated: it may be the key."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError("the environment variable that api_key_env names is not set")
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises `UserError` where there can be none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"host={host} port={port}: {reason}; choose another") from error
