"""A server in a thread, on a free port of this machine."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from llmstages.config.uses import ServeConfig
from llmstages.serve.server import Server
from llmstages.stages.serve import listen, open_service


class Served:
    """A running server."""

    def __init__(self, service: Any, port: int) -> None:
        self.service, self.port = service, port
        self.url = f"http://127.0.0.1:{port}"

    def call(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one request; a body of bytes is sent as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None if body is None else data, given)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return response.status, found, json.loads(text) if is_json else text.decode()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Return when something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)


@contextmanager
def served(run: Path, **settings: Any) -> Iterator[Served]:
    settings = {"temperature": 0.0, "max_new_tokens": 12, "device": "cpu", **settings}
    service = open_service(ServeConfig(checkpoint_dir=str(run), **settings))
    with listen("127.0.0.1", 0) as listener:
        server = Server(service)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield Served(service, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """serving(run, **settings): a context in which a server runs."""
    return served


@pytest.fixture(scope="module")
def answering(instruct_run: Path) -> Iterator[Served]:
    """A tuned model, greedy where requests do not say."""
    with served(instruct_run, name="tiny") as server:
        yield server


@pytest.fixture(scope="module")
def classifying(classifier_run: Path) -> Iterator[Served]:
    """A classifier that reads at most four texts at once."""
    with served(classifier_run, name="kinds", batch_size=4, max_waiting=26) as server:
        yield server
