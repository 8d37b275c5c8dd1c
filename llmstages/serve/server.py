"""Runs an application until a signal ends it: answers under way are finished within some seconds,
or closed."""

import asyncio
import math
import socket
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from llmstages.serve.http import GRACE_SECONDS

CLOSING_SECONDS = 5
"""How long answers that are cut off may take to say so: a step of the model, and the way out."""


class Service(Protocol):
    """What is served."""

    def app(self) -> ASGIApp:
        """The application."""

    def close(self) -> None:
        """End what is under way; may be called from any thread."""


class Server(uvicorn.Server):
    """uvicorn, which asks the service to end what takes too long when it is told to end itself."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                service.app(),
                lifespan="on",
                ws="none",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(GRACE_SECONDS) + CLOSING_SECONDS,
            )
        )
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for answers under way, for a time."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(
            GRACE_SECONDS, lambda: loop.run_in_executor(None, self._service.close)
        )
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
