"""Fetching many pages: each host at its own pace, many hosts at once, memory that does not grow."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from llmstages.collect.fetch.blocklist import Blocklist, read_blocklist
from llmstages.collect.fetch.cache import Fetched, PageCache
from llmstages.collect.fetch.client import MAX_RETRY_AFTER_SECONDS, Client
from llmstages.collect.fetch.failures import NEVER, NEXT_RUN, OTHER_SETTINGS, PageFailure
from llmstages.collect.fetch.robots import MAX_BYTES, Rules, parse_robots
from llmstages.collect.fetch.urls import host_of, origin_of
from llmstages.config.collect_groups import FetchConfig

ROBOTS_SECONDS = 24 * 3600
"""A robots.txt is used so long before it is fetched anew (RFC 9309, section 2.4)."""
ROWS_AT_ONCE = 200
SQLITE_CACHE_KIB = 32 * 1024


def fetch_pages(
    urls: Iterable[str],
    config: FetchConfig,
    cache_dir: Path,
    advance: Callable[[int], None] = lambda pages: None,
) -> None:
    """Fetch the normalised `urls` that the cache does not have; `PageCache` has all afterwards.

    Never raises for a page: what went wrong is in the cache too. `advance` is told the number of
    pages done. May be killed at any time and called again.

    Raises:
        UserError: the cache cannot be written, or `config.blocked` names no list.
    """
    blocklist, _ = read_blocklist(config.blocked)
    settings = _settings_hash(config, blocklist)
    cache = PageCache(cache_dir)
    cache.remove_abandoned()
    with closing(Frontier()) as frontier:
        for url in urls:
            known = cache.look_up(url)
            if known is None or _worth_a_try(known, settings):
                frontier.add(url)
            else:
                advance(1)
        if len(frontier) == 0:
            return
        try:
            asyncio.run(_crawl(frontier, config, blocklist, settings, cache_dir, advance))
        except BaseExceptionGroup as group:
            # One worker failed (a full disk) and the others were stopped: its error is the one.
            raise _first(group) from group


class Frontier:
    """The URLs to fetch, by host; on disk (a temporary file of SQLite's own) when they are many."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect("")
        self.connection.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")
        self.connection.execute(
            "CREATE TABLE pages (host TEXT, url TEXT, PRIMARY KEY (host, url)) WITHOUT ROWID"
        )

    def add(self, url: str) -> None:
        """Put a URL on the list."""
        self.connection.execute("INSERT OR IGNORE INTO pages VALUES (?, ?)", (host_of(url), url))

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT COUNT(*) FROM pages").fetchone()[0])

    def hosts(self) -> Iterator[str]:
        """The hosts, that with most pages first: it takes longest."""
        query = "SELECT host FROM pages GROUP BY host ORDER BY COUNT(*) DESC, host"
        return (row[0] for row in self.connection.execute(query))

    def urls(self, host: str) -> Iterator[str]:
        """The URLs of a host, sorted, a handful in memory at a time."""
        query = "SELECT url FROM pages WHERE host = ? AND url > ? ORDER BY url LIMIT ?"
        last = ""
        while rows := self.connection.execute(query, (host, last, ROWS_AT_ONCE)).fetchall():
            yield from (row[0] for row in rows)
            last = rows[-1][0]

    def close(self) -> None:
        """The temporary file goes."""
        self.connection.close()


async def _crawl(
    frontier: Frontier,
    config: FetchConfig,
    blocklist: Blocklist,
    settings: str,
    cache_dir: Path,
    advance: Callable[[int], None],
) -> None:
    """Let `max_connections` workers take host after host."""
    hosts = frontier.hosts()
    async with Client(config, blocklist) as client:
        crawler = Crawler(client, config, settings, cache_dir)

        async def work() -> None:
            for host in hosts:
                async with client.hosts.visit(host):
                    for url in frontier.urls(host):
                        await crawler.fetch(url)
                        advance(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(config.max_connections):
                group.create_task(work())


class Crawler:
    """Fetches pages into the cache, as robots.txt allows."""

    def __init__(self, client: Client, config: FetchConfig, settings: str, cache_dir: Path) -> None:
        self.client = client
        self.config = config
        self.settings = settings
        self.pages = PageCache(cache_dir)
        self.cached_robots = PageCache(cache_dir, "robots")

    async def fetch(self, url: str) -> None:
        """Fetch one page; the cache has it, or what went wrong, afterwards."""
        ask = self._obey_robots if self.config.robots else _allow
        with self.pages.writer(url) as writer:
            try:
                answer = await self.client.follow(url, writer, self.config.max_bytes, ask)
                fetched = Fetched(url, answer.url, 200, answer.media_type, answer.charset)
            except PageFailure as failure:
                fetched = Fetched(
                    url,
                    url,
                    failure.status,
                    failure=failure.reason,
                    try_again=failure.try_again,
                    settings=self.settings if failure.try_again == OTHER_SETTINGS else "",
                )
            writer.commit(fetched)

    async def _obey_robots(self, url: str) -> None:
        """Raise `PageFailure` when the site of `url` does not want it fetched."""
        rules = await self._rules(url)
        if not rules.allow(url):
            raise PageFailure("robots.txt forbids", OTHER_SETTINGS)
        if rules.delay_seconds > MAX_RETRY_AFTER_SECONDS:
            raise PageFailure("robots.txt asks for too long a delay", OTHER_SETTINGS)

    async def _rules(self, url: str) -> Rules:
        """The rules of the site of `url`, fetched once.

        Raises:
            PageFailure: robots.txt cannot be reached, which forbids all (RFC 9309, 2.3.1.4).
        """
        origin = origin_of(url)
        async with self.client.hosts.visit(host_of(url)) as host, host.robots_lock:
            if origin not in host.robots:
                try:
                    rules = await self._read_robots(origin + "/robots.txt")
                    host.delay_seconds = max(host.delay_seconds, rules.delay_seconds)
                    host.pause(rules.delay_seconds)
                    host.robots[origin] = rules
                except PageFailure as failure:
                    host.robots[origin] = failure
            found = host.robots[origin]
        if isinstance(found, PageFailure):
            reason = found.reason if found.status is None else f"robots.txt: {found.reason}"
            raise PageFailure(reason, found.try_again)
        return found

    async def _read_robots(self, url: str) -> Rules:
        """One robots.txt, out of the cache for a day. Raises `PageFailure`."""
        known = self.cached_robots.look_up(url, ROBOTS_SECONDS)
        if known is None:
            with self.cached_robots.writer(url) as writer:
                try:
                    answer = await self.client.follow(url, writer, MAX_BYTES)
                    writer.commit(Fetched(url, answer.url, 200))
                except PageFailure as failure:
                    if not _is_missing(failure):
                        raise
                    writer.commit(Fetched(url, url, failure.status, failure=failure.reason))
            known = self.cached_robots.look_up(url)
        if known is None or known.failure is not None:
            return Rules()
        return parse_robots(self.cached_robots.read_body(known), self.config.user_agent)


def _is_missing(failure: PageFailure) -> bool:
    """Whether a robots.txt does not exist, which allows all: 4xx, or redirects without end."""
    return failure.try_again == NEVER or failure.reason == "too many redirects"


async def _allow(url: str) -> None:
    """Without robots.txt everything is allowed."""


def _worth_a_try(known: Fetched, settings: str) -> bool:
    """Whether a page in the cache is to be fetched (again)."""
    if known.failure is None or known.try_again == NEVER:
        return False
    return known.try_again == NEXT_RUN or known.settings != settings


def _settings_hash(config: FetchConfig, blocklist: Blocklist) -> str:
    """Hash of what decides whether a page is refused."""
    keys = [
        config.user_agent if config.robots else "",
        config.robots,
        config.max_bytes,
        config.max_redirects,
        sorted(config.allow_hosts),
        blocklist.sha256(),
    ]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
