"""One request within limits, and the redirects and further tries that belong to it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from llmstages.collect.fetch.addresses import (
    PrivateAddress,
    PublicResolver,
    is_public,
    literal_address,
)
from llmstages.collect.fetch.blocklist import Blocklist
from llmstages.collect.fetch.cache import PageWriter
from llmstages.collect.fetch.failures import NEVER, NEXT_RUN, OTHER_SETTINGS, PageFailure
from llmstages.collect.fetch.hosts import Host, Hosts
from llmstages.collect.fetch.unpacking import ENCODINGS, BrokenPacking, Unpacker
from llmstages.collect.fetch.urls import BrokenUrl, host_of, joined
from llmstages.collect.media_types import media_group
from llmstages.config.collect_groups import FetchConfig

HTML_TYPES = ("text/html", "application/xhtml+xml")
READABLE_TYPES = (*HTML_TYPES, "text/plain", "")
"""Media types with text in them; a page without a type is looked into when it is read."""
REDIRECTS = (301, 302, 303, 307, 308)
MAX_RETRY_AFTER_SECONDS = 60.0
"""A server that asks for more patience is left to the next run."""
GIVE_UP_AFTER = 5
"""Pages in a row that fail although they were tried again: the host is left to the next run."""
MAX_HEADER_BYTES = 64 * 1024


class TryAgain(Exception):
    """A request that may succeed later."""

    def __init__(
        self, reason: str, status: int | None = None, after_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.after_seconds = after_seconds


@dataclass(frozen=True)
class Answer:
    """The headers of a page whose body went to the writer, or where it has moved."""

    url: str
    media_type: str = ""
    charset: str | None = None
    moved_to: str | None = None


class Client:
    """Makes requests. Used as a context, within one event loop."""

    def __init__(self, config: FetchConfig, blocklist: Blocklist) -> None:
        self.config = config
        self.blocklist = blocklist
        self.allowed_hosts = frozenset(host.lower().strip("[]") for host in config.allow_hosts)
        self.hosts = Hosts(config.delay_seconds)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # one a host and as many hosts as there are workers: kept by `hosts`
                resolver=PublicResolver(self.allowed_hosts, config.timeout_seconds),
            ),
            headers={
                "User-Agent": config.user_agent,
                "Accept": "text/html,application/xhtml+xml,text/plain;q=0.8,*/*;q=0.1",
                "Accept-Encoding": ", ".join(ENCODINGS),
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # neither proxies nor passwords from the environment
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def follow(
        self,
        url: str,
        writer: PageWriter,
        max_bytes: int,
        ask: Callable[[str], Awaitable[None]] | None = None,
    ) -> Answer:
        """Fetch `url`, through its redirects, into `writer`.

        `ask` is asked before each hop and raises when it is not allowed; with it the page must be
        readable and complete. Without it (robots.txt) any type is taken, and cut at `max_bytes`.

        Raises:
            PageFailure: there is no such page, or it breaks a limit.
        """
        seen = {url}
        # RFC 9309 wants five redirects of a robots.txt followed.
        max_redirects = self.config.max_redirects if ask else max(5, self.config.max_redirects)
        seconds_left = self.config.max_seconds
        while True:
            self._check(url)
            if ask is not None:
                await ask(url)
            answer, seconds = await self._request(url, writer, max_bytes, seconds_left, bool(ask))
            if answer.moved_to is None:
                return answer
            seconds_left -= seconds
            try:
                url = joined(url, answer.moved_to)
            except BrokenUrl as error:
                raise PageFailure("redirect to no web page", NEVER) from error
            if url in seen:
                raise PageFailure("redirect loop", NEVER)
            if len(seen) > max_redirects:
                raise PageFailure("too many redirects", OTHER_SETTINGS)
            seen.add(url)

    def _check(self, url: str) -> None:
        """Refuse what is blocked, and addresses that need no resolving and so miss that check."""
        host = host_of(url)
        if host in self.blocklist:
            raise PageFailure("blocked domain", OTHER_SETTINGS)
        address = literal_address(host)
        if address is not None and host not in self.allowed_hosts and not is_public(address):
            raise PageFailure("private address", OTHER_SETTINGS)

    async def _request(
        self, url: str, writer: PageWriter, max_bytes: int, seconds_left: float, is_page: bool
    ) -> tuple[Answer, float]:
        """One hop with its further tries; the answer and the seconds the last try took."""
        async with self.hosts.visit(host_of(url)) as host:
            num_tries = 0
            while True:
                if host.given_up is not None:
                    raise PageFailure(host.given_up, NEXT_RUN)
                try:
                    async with host.turn():
                        start = time.monotonic()
                        async with asyncio.timeout(max(seconds_left, 0.0)):
                            answer = await self._exchange(url, writer, max_bytes, is_page)
                        seconds = time.monotonic() - start
                except (TryAgain, TimeoutError) as error:
                    again = error if isinstance(error, TryAgain) else TryAgain("timed out")
                    self._wait(host, again, num_tries)
                    num_tries += 1
                    continue
                except PageFailure as failure:
                    if failure.status is not None:  # the host does answer
                        host.failures_in_a_row = 0
                    raise
                host.failures_in_a_row = 0
                return answer, seconds

    def _wait(self, host: Host, again: TryAgain, num_tries: int) -> None:
        """Set the host's next time, or raise `PageFailure` when there is to be no further try."""
        wait = again.after_seconds
        if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
            host.given_up = again.reason
        elif num_tries >= self.config.retries:
            host.failures_in_a_row += 1
            if host.failures_in_a_row >= GIVE_UP_AFTER:
                host.given_up = f"host given up: {again.reason}"
        else:
            host.pause(self.config.backoff_seconds * 2**num_tries if wait is None else wait)
            return
        raise PageFailure(again.reason, NEXT_RUN, again.status)

    async def _exchange(
        self, url: str, writer: PageWriter, max_bytes: int, is_page: bool
    ) -> Answer:
        """One request and its answer. Raises `TryAgain` or `PageFailure`."""
        silence = self.config.timeout_seconds
        writer.restart()
        try:
            async with self.session.get(
                URL(url, encoded=True),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence),
            ) as response:
                moved_to = _judge(response)
                if moved_to is not None:
                    return Answer(url, moved_to=moved_to)
                media_type = _media_type(response)
                if is_page and media_type not in READABLE_TYPES:
                    raise PageFailure(
                        f"not HTML: {media_group(media_type)}", NEVER, response.status
                    )
                await _receive(response, writer, max_bytes, is_page)
                return Answer(url, media_type, _charset(response))
        except TimeoutError as error:  # also aiohttp's, while the server is silent
            raise TryAgain("timed out") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise PageFailure("TLS certificate not valid", NEXT_RUN) from error
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, PrivateAddress):
                raise PageFailure("private address", OTHER_SETTINGS) from error
            raise PageFailure("host not found", NEXT_RUN) from error
        except aiohttp.ClientConnectorError as error:
            raise TryAgain("no connection") from error
        except aiohttp.InvalidURL as error:
            raise PageFailure("broken URL", NEVER) from error
        except aiohttp.ClientResponseError as error:
            raise PageFailure("broken HTTP", NEXT_RUN) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise TryAgain("connection lost") from error


def _judge(response: aiohttp.ClientResponse) -> str | None:
    """Where a redirect leads; None for a page. Raises for every other status."""
    status = response.status
    if status == 200:
        return None
    if status in REDIRECTS and "Location" in response.headers:
        return response.headers["Location"]
    if status in (408, 425, 429) or status >= 500:
        reason = "HTTP 429" if status == 429 else f"HTTP {status // 100}xx"
        raise TryAgain(reason, status, retry_after(response.headers.get("Retry-After")))
    raise PageFailure(f"HTTP {status // 100}xx", NEVER, status)


async def _receive(
    response: aiohttp.ClientResponse, writer: PageWriter, max_bytes: int, is_page: bool
) -> None:
    """The body, unpacked, into the writer; neither packed nor unpacked more than `max_bytes`."""
    too_large = PageFailure("too large", OTHER_SETTINGS, response.status)
    if is_page and (response.content_length or 0) > max_bytes:
        raise too_large
    num_packed = 0
    try:
        unpacker = Unpacker(response.headers.get("Content-Encoding", ""))
        async for chunk in response.content.iter_any():
            num_packed += len(chunk)
            for piece in unpacker.feed(chunk):
                room = max_bytes - writer.num_bytes
                if len(piece) > room or num_packed > max_bytes:
                    if is_page:
                        raise too_large
                    writer.write(piece[:room])
                    return
                writer.write(piece)
                # Unpacking and packing take a while: the other hosts have their turn.
                await asyncio.sleep(0)
        unpacker.finish()
    except BrokenPacking as error:
        raise PageFailure("broken packing", NEXT_RUN, response.status) from error


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _charset(response: aiohttp.ClientResponse) -> str | None:
    """The charset of the header, when it is one that Python reads text with."""
    name = response.charset
    if not name or len(name) > 40:
        return None
    try:
        "x".encode(name)  # a LookupError for codecs that are not of text, such as "zip"
    except (LookupError, ValueError):
        return None
    return name.lower()


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None when it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
