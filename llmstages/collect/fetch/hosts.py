"""The pace at each host: one request at a time, and a pause between two."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llmstages.collect.fetch.failures import PageFailure
from llmstages.collect.fetch.robots import Rules

MAX_REMEMBERED = 10_000
"""Hosts kept in memory; the state of idle ones beyond is forgotten and found again when needed."""


class Host:
    """What is to be minded at one host."""

    def __init__(self, delay_seconds: float) -> None:
        self.delay_seconds = delay_seconds
        self.next_time = 0.0
        self.lock = asyncio.Lock()
        self.robots: dict[str, Rules | PageFailure] = {}
        """By origin, for each scheme and port has rules of its own: them, or why there are none."""
        self.robots_lock = asyncio.Lock()
        self.num_users = 0
        self.failures_in_a_row = 0
        self.given_up: str | None = None
        """Why the host is left alone for the rest of the run."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The right to make one request, at the time it may be made."""
        async with self.lock:
            await asyncio.sleep(max(0.0, self.next_time - time.monotonic()))
            try:
                yield
            finally:
                self.pause(self.delay_seconds)

    def pause(self, seconds: float) -> None:
        """No request for so long."""
        self.next_time = max(self.next_time, time.monotonic() + seconds)


class Hosts:
    """The hosts of a run, by name."""

    def __init__(self, delay_seconds: float) -> None:
        self.delay_seconds = delay_seconds
        self.known: dict[str, Host] = {}

    @asynccontextmanager
    async def visit(self, name: str) -> AsyncIterator[Host]:
        """A host, which is not forgotten meanwhile."""
        host = self.known.get(name)
        if host is None:
            if len(self.known) >= MAX_REMEMBERED:
                self._forget_idle()
            host = self.known[name] = Host(self.delay_seconds)
        host.num_users += 1
        try:
            yield host
        finally:
            host.num_users -= 1

    def _forget_idle(self) -> None:
        now = time.monotonic()
        self.known = {
            name: host
            for name, host in self.known.items()
            if host.num_users or host.next_time > now
        }
