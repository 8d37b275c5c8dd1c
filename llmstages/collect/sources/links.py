"""Corpora of linked pages, as WebText was made (Radford et al. 2019, section 2.1): outbound links
of Reddit submissions with a score of at least 3, fetched, and their main text.

`find_links` reads the lists, `list_links` fetches what the cache does not have and makes up shards
of pages, `read_links` reads the pages of a shard.

Two URLs are one link when they differ in spelling (see `fetch.urls`), in campaign parameters
(`utm_*`, `gclid`, `fbclid`, ...) or in http and https only; https is fetched when lists have both.
Equal text behind different URLs is left to the removal of duplicates.
"""

import hashlib
import itertools
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from llmstages.collect.fetch.blocklist import Blocklist, read_blocklist
from llmstages.collect.fetch.cache import Fetched, PageCache
from llmstages.collect.fetch.failures import NEXT_RUN
from llmstages.collect.fetch.urls import BrokenUrl, host_of, normalised, page_key, without_tracking
from llmstages.collect.sources.link_files import Link, link_files, read_links_file
from llmstages.collect.sources.records import Found, Input, Note, RawDocument, Skipped
from llmstages.config.collect_groups import FetchConfig, SourceConfig
from llmstages.data.opening import UNREADABLE
from llmstages.errors import UserError

REDDIT = Blocklist(
    ("reddit.com", "redd.it", "redditmedia.com", "redditstatic.com", "reddituploads.com")
)
"""Reddit's own sites: what leads there is not outbound."""
IMAGE_HOSTS = frozenset(("i.imgur.com",))
"""Hosts of nothing but images, with whatever ending."""

# By what a path ends in. What is neither page nor picture (archives, office files) has no place in
# a corpus of pages either; it would be fetched in vain.
_MEDIA = re.compile(
    r"\.(jpe?g|jpe|png|gifv?|bmp|tiff?|webp|svgz?|ico|psd|mp[34]|m4[av]|og[agv]|opus|wav|wma|flac"
    r"|aac|midi?|avi|mov|qt|wmv|mkv|webm|flv|f4v|mpe?g|3gp|swf|ttf|woff2?)",
    re.IGNORECASE,
)
_DOCUMENTS = re.compile(
    r"\.(pdf|e?ps|djvu|docx?|xlsx?|pptx?|pps|od[tsp]|rtf|epub|mobi|zip|gz|tgz|bz2|xz|7z|rar|tar|iso"
    r"|dmg|exe|msi|apk|jar|deb|rpm|bin|torrent|css|js)",
    re.IGNORECASE,
)

SQLITE_CACHE_KIB = 64 * 1024


def find_links(
    paths: Sequence[str], min_score: int, fetch: FetchConfig
) -> tuple[list[str], list[Skipped], list[Note]]:
    """The distinct outbound links of the lists in `paths`, sorted, and what was left out and why.

    Raises:
        UserError: a path or an entry of `fetch.blocked` does not exist or is no list.
    """
    with closing(LinkTable()) as table:
        skipped, notes = _find(paths, min_score, fetch, table)
        return list(table), skipped, notes


def list_links(
    name: str,
    source: SourceConfig,
    fetch: FetchConfig,
    cache_dir: Path,
    advance: Callable[[int], None],
) -> tuple[list[Input], list[Note | Skipped]]:
    """The pages behind the links of a source, in up to 256 shards, and what could not be had.

    Fetches what `cache_dir` does not have; `advance` is told the number of pages done. The hash of
    a shard is made from its URLs and what came of each, so equal pages give an equal corpus,
    whenever they were fetched.

    Raises:
        UserError: as `find_links`; or there is no link at all, or the cache cannot be written.
    """
    from llmstages.collect.fetch.crawl import fetch_pages

    with closing(LinkTable()) as table:
        skipped, notes = _find(source.paths, source.min_score, fetch, table)
        if len(table) == 0:
            reasons = ", ".join(f"{item.count} {item.reason}" for item in skipped) or "empty"
            raise UserError(f"source {name}: no links in {', '.join(source.paths)} ({reasons})")
        fetch_pages(table, fetch, cache_dir, advance)
        inputs, failures = _shards(table, cache_dir)
    counts = Counter({item.reason: item.count for item in skipped})
    for (reason, _), count in failures.items():  # one reason may be for now, or for good
        counts[reason] += count
    later = {reason: count for (reason, again), count in failures.items() if again == NEXT_RUN}
    if later:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(later.items()))
        notes.append(
            Note(name, f"{sum(later.values())} pages may be had in another run ({reasons})")
        )
    return inputs, [*notes, *_as_skipped(counts)]


def read_links(entry: Input) -> Iterator[Found]:
    """The pages of one shard, sorted by URL. What failed was counted by `list_links`."""
    list_path = Path(entry.path)
    cache = PageCache(list_path.parents[2])
    with list_path.open(encoding="ascii") as lines:
        for line in lines:
            listed = json.loads(line)
            if listed["failure"] is None:
                fetched = cache.look_up(listed["url"])
                if fetched is None or _outcome(fetched) != listed:
                    yield Skipped("page changed in the cache while it was read")
                else:
                    yield _read_page(cache, fetched)


class LinkTable:
    """Distinct links; on disk (a temporary file of SQLite's own) when they are many."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect("")
        self.connection.execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")
        self.connection.execute("CREATE TABLE links (key TEXT PRIMARY KEY, url TEXT) WITHOUT ROWID")
        self.connection.create_function("shard_of", 1, _shard_of, deterministic=True)

    def add(self, url: str) -> None:
        """Put a link in; of http and https the latter stays."""
        self.connection.execute(
            "INSERT INTO links VALUES (?, ?) ON CONFLICT (key) "
            "DO UPDATE SET url = excluded.url WHERE excluded.url > url",
            (page_key(url), url),
        )

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT COUNT(*) FROM links").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        rows = self.connection.execute("SELECT url FROM links ORDER BY url")
        return (row[0] for row in rows)

    def shards(self) -> Iterator[tuple[str, Iterator[str]]]:
        """The links in shards, each by its name and sorted."""
        rows = self.connection.execute(
            "SELECT shard_of(url) AS shard, url FROM links ORDER BY shard, url"
        )
        for shard, group in itertools.groupby(rows, key=lambda row: str(row[0])):
            yield shard, (row[1] for row in group)

    def close(self) -> None:
        """The temporary file goes."""
        self.connection.close()


def _find(
    paths: Sequence[str], min_score: int, fetch: FetchConfig, table: LinkTable
) -> tuple[list[Skipped], list[Note]]:
    """Put the links of all lists into `table`; what was left out and why."""
    files, notes = link_files(paths)
    blocklist, others = read_blocklist(fetch.blocked)
    for entry, count in others.items():
        notes.append(Note(entry, f"{count} rules that name no whole domain left out"))
    counts: Counter[str] = Counter()
    num_links = 0
    for locator, path in files:
        num_before = num_links
        for item in read_links_file(locator, path):
            if isinstance(item, Note):
                notes.append(item)
                continue
            found = item if isinstance(item, Skipped) else _judge(item, min_score, blocklist)
            if isinstance(found, Skipped):
                counts[found.reason] += found.count
            else:
                table.add(found)
                num_links += 1
        if num_links == num_before:
            notes.append(Note(locator, "no link in it"))
    counts["duplicate link"] = num_links - len(table)
    return _as_skipped(counts), notes


def _judge(link: Link, min_score: int, blocklist: Blocklist) -> str | Skipped:
    """The URL of a link that belongs into the corpus, or why it does not."""
    if link.score is not None and link.score < min_score:
        return Skipped(f"score below {min_score}")
    if link.is_self or (link.is_submission and link.url.startswith("/")):
        return Skipped("not an outbound link")
    if "\ufffd" in link.url:
        return Skipped("broken URL")
    try:
        url = without_tracking(normalised(link.url))
    except BrokenUrl:
        return Skipped("broken URL")
    host = host_of(url)
    if host in REDDIT:
        return Skipped("not an outbound link")
    name = url.partition("?")[0].rpartition("/")[2]
    # Wikis have pages about files: "File:Map.png".
    ending = "" if ":" in name else name[name.rfind(".") :] if "." in name else ""
    if host in IMAGE_HOSTS or _MEDIA.fullmatch(ending):
        return Skipped("media file")
    if _DOCUMENTS.fullmatch(ending):
        return Skipped("document or archive")
    if host in blocklist:
        return Skipped("blocked domain")
    return url


def _shards(table: LinkTable, cache_dir: Path) -> tuple[list[Input], Counter[tuple[str, str]]]:
    """Write what each shard holds; the inputs, and failures by reason and when to try again."""
    cache = PageCache(cache_dir)
    digest = hashlib.sha256()
    for url in table:
        digest.update(url.encode() + b"\n")
    # The same links have the same place, other links another, so corpora may share a cache.
    lists_dir = cache_dir / "lists" / digest.hexdigest()[:16]
    lists_dir.mkdir(parents=True, exist_ok=True)
    inputs: list[Input] = []
    failures: Counter[tuple[str, str]] = Counter()
    for shard, urls in table.shards():
        path = lists_dir / f"{shard}.jsonl"
        unfinished = path.with_suffix(".tmp")
        digest = hashlib.sha256()
        num_bytes = 0
        with unfinished.open("wb") as file:
            for url in urls:
                fetched = cache.look_up(url)
                if fetched is None:
                    fetched = Fetched(url, url, failure="lost from the cache", try_again=NEXT_RUN)
                if fetched.failure is not None:
                    failures[fetched.failure, fetched.try_again] += 1
                line = json.dumps(_outcome(fetched), sort_keys=True).encode() + b"\n"
                digest.update(line)
                file.write(line)
                num_bytes += fetched.packed_bytes
        unfinished.replace(path)
        inputs.append(Input(f"links/{shard}", str(path.resolve()), num_bytes, digest.hexdigest()))
    return inputs, failures


def _outcome(fetched: Fetched) -> dict[str, str | None]:
    """What a corpus depends on of a page: neither when nor how often it was asked for."""
    if fetched.failure is not None:
        return {"url": fetched.url, "failure": fetched.failure}
    return {
        "url": fetched.url,
        "failure": None,
        "final_url": fetched.final_url,
        "media_type": fetched.media_type,
        "charset": fetched.charset,
        "sha256": fetched.sha256,
    }


def _read_page(cache: PageCache, fetched: Fetched) -> Found:
    """The text of one page."""
    from llmstages.collect.pages.extraction import extract_page

    try:
        data = cache.read_body(fetched)
    except UNREADABLE:
        return Skipped("page damaged in the cache")
    metadata: dict[str, str] = {}
    if fetched.media_type == "text/plain":
        if b"\0" in data[:1024] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return Skipped("not HTML: other media type")
        text = _decoded(data, fetched.charset)
    elif fetched.media_type or b"<" in data[:1024]:
        page = extract_page(data, fetched.charset, fetched.final_url)
        text = page.text
        if page.title:
            metadata["title"] = page.title
    else:
        return Skipped("not HTML: other media type")
    if not text.strip():
        return Skipped("empty page")
    return RawDocument(fetched.url, 0, text, fetched.url, metadata)


def _decoded(data: bytes, charset: str | None) -> str:
    """Plain text: in UTF-8 when it is, else as the server says, else as it looks."""
    from llmstages.data.encodings import decode_bytes

    for codec in ("utf-8-sig", charset):
        try:
            if codec is not None:
                return data.decode(codec)
        except (LookupError, ValueError):
            pass
    return decode_bytes(data)[0]


def _shard_of(url: str) -> str:
    """The first two digits of the URL's hash: a shard is a directory of the cache."""
    return hashlib.sha256(url.encode()).hexdigest()[:2]


def _as_skipped(counts: Counter[str]) -> list[Skipped]:
    return [Skipped(reason, count) for reason, count in sorted(counts.items()) if count]
