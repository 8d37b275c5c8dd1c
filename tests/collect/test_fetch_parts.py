"""The parts of the fetcher: URLs, blocklists, addresses, robots.txt, unpacking, cache."""

import asyncio
import gzip
import lzma
import os
import socket
import time
import zlib
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstages.collect.fetch.addresses import PrivateAddress, PublicResolver, is_public
from llmstages.collect.fetch.blocklist import read_blocklist
from llmstages.collect.fetch.cache import Fetched, PageCache
from llmstages.collect.fetch.client import retry_after
from llmstages.collect.fetch.crawl import Frontier
from llmstages.collect.fetch.robots import parse_robots
from llmstages.collect.fetch.unpacking import PIECE_BYTES, BrokenPacking, Unpacker
from llmstages.collect.fetch.urls import BrokenUrl, joined, normalised, origin_of, without_tracking
from llmstages.errors import UserError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("HTTP://WWW.Example.COM", "http://www.example.com/"),
        (" http://a.example/x\n", "http://a.example/x"),
        ("http://a.example:80/", "http://a.example/"),
        ("https://a.example:443/", "https://a.example/"),
        ("https://a.example:80/", "https://a.example:80/"),
        ("http://a.example./", "http://a.example/"),
        ("http://me:secret@a.example/", "http://a.example/"),
        ("http://a.example/#part", "http://a.example/"),
        ("http://a.example/a/./b/../c", "http://a.example/a/c"),
        ("http://a.example/../../a/..", "http://a.example/"),
        ("http://a.example/a/b/.", "http://a.example/a/b/"),
        ("http://a.example/%7euser/%2fx%C3%a9", "http://a.example/~user/%2Fx%C3%A9"),
        ("http://a.example/é b", "http://a.example/%C3%A9%20b"),
        ("http://a.example/100%", "http://a.example/100%25"),
        ("http://a.example?q=a b&&x=%zz", "http://a.example/?q=a%20b&&x=%25zz"),
        ("http://a.example/?", "http://a.example/"),
        ("http://a.example/a//b", "http://a.example/a//b"),
        ("http://Müller.example/", "http://xn--mller-kva.example/"),
        ("http://例え.テスト。/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://my_blog.example/", "http://my_blog.example/"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
    ],
)
def test_urls_have_one_spelling(given: str, expected: str) -> None:
    assert normalised(given) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    "given",
    [
        *("", "example.com", "/r/science", "ftp://a.example/", "file:///etc/passwd"),
        *("javascript:alert(1)", "mailto:a@a.example", "http://", "http:///path", "http://a..b/"),
        *("http://a.example:99999/", "http://a.example:0/", "http://a.example:x/", "http://[::1/"),
        *("http://-%41.example/", "http://a b.example/", "http://" + "a" * 64 + ".example/"),
        *("http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://010.0.0.1/"),
        *("http://256.1.1.1/", "http://[fe80::zz]/", "http://a.example/\ud800", "http://\u2488/"),
        "http://a.example/" + "x" * 4096,
    ],
)
def test_what_is_no_web_page_is_refused(given: str) -> None:
    with pytest.raises(BrokenUrl):
        normalised(given)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_spelling_is_stable_and_plain(host: str, path: str, query: str) -> None:
    for text in (f"http://{host}/{path}?{query}", f"http://a.example/{path}?{query}"):
        try:
            url = normalised(text)
        except BrokenUrl:
            continue
        assert normalised(url) == url
        assert url.isascii()
        assert url.isprintable()
        assert "#" not in url
        assert " " not in url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("?utm_source=x&a=1&UTM_Medium=y&b=2", "?a=1&b=2"),
        ("?fbclid=x", ""),
        ("?gclid=1&gclid=2#", ""),
        ("?b=2&a=1", "?b=2&a=1"),
        ("?my_utm_source=1&futm=2", "?my_utm_source=1&futm=2"),
        ("?q=utm_source", "?q=utm_source"),
        ("", ""),
    ],
)
def test_campaign_parameters_go(given: str, expected: str) -> None:
    url = normalised("http://a.example/" + given)
    assert without_tracking(url) == "http://a.example/" + expected


def test_redirects_are_joined() -> None:
    base = "https://a.example/x/y?q"
    assert joined(base, "z") == "https://a.example/x/z"
    assert joined(base, "//b.example") == "https://b.example/"
    assert joined(base, "?r") == "https://a.example/x/y?r"
    # Bytes that are no UTF-8 come as lone surrogates.
    assert joined(base, b"/caf\xe9".decode(errors="surrogateescape")) == "https://a.example/caf%E9"
    assert origin_of("https://a.example:8443/x/y") == "https://a.example:8443"
    for location in ("data:text/html,x", "http://[", "http://10.1/"):
        with pytest.raises(BrokenUrl):
            joined(base, location)


def test_blocklists_of_every_kind(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("# ours\nbad.example\n*.Worse.example  # comment\nMüller.example\n\n")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n0.0.0.0 ads.example # x\n")
    rules = tmp_path / "easylist.txt.gz"
    rules.write_bytes(
        gzip.compress(
            b"[Adblock Plus 2.0]\n! comment\n||spam.example^\n||all.example^$all\n"
            b"||shop.example^$third-party\n||news.example^*/ads/\n||com^\n-ad-banner.\nad.banner\n"
            b"news.example##.ad\n||sound.example^\n@@||sound.example^$document\n||tv.example^$popup\n"
        )
    )
    blocklist, others = read_blocklist([str(plain), str(hosts), str(rules), "Single.Example."])
    assert blocklist.domains == {
        *("bad.example", "worse.example", "xn--mller-kva.example", "ads.example", "spam.example"),
        *("all.example", "single.example"),
    }
    assert others == {str(rules): 7}
    assert "www.bad.example" in blocklist
    assert "notbad.example" not in blocklist
    assert "example" not in blocklist
    same, _ = read_blocklist([str(rules), str(hosts), str(plain), "single.example"])
    assert same.sha256() == blocklist.sha256()


def test_blocklist_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.txt/x is neither a domain nor a file"):
        read_blocklist(["missing.txt/x"])
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    with pytest.raises(UserError, match="lists no domain"):
        read_blocklist([str(empty)])
    cut = tmp_path / "cut.xz"
    cut.write_bytes(lzma.compress(os.urandom(100))[:50])
    with pytest.raises(UserError, match="broken or cut-off"):
        read_blocklist([str(cut)])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("93.184.216.34", True), ("2606:2800:220:1::1", True)),
        *(("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False)),
        *(("127.0.0.1", False), ("127.255.0.1", False), ("0.0.0.0", False)),
        *(("169.254.169.254", False), ("100.64.0.1", False), ("198.18.0.1", False)),
        *(("192.0.2.1", False), ("224.0.0.1", False), ("233.252.0.1", False)),
        *(("240.0.0.1", False), ("255.255.255.255", False)),
        *(("::1", False), ("::", False), ("fe80::1", False), ("fc00::1", False)),
        *(("fd12::1", False), ("fec0::1", False), ("ff02::1", False), ("2001:db8::1", False)),
        *(("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True), ("::127.0.0.1", False)),
        *(("2002:7f00:1::", False), ("2002:a00:1::", False)),
        *(("64:ff9b::8.8.8.8", True), ("64:ff9b::10.0.0.1", False)),
        ("64:ff9b:1::10.0.0.1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) == public


def test_only_public_addresses_of_a_name_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in host.split("--")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def resolve(host: str, *allowed: str) -> list[str]:
        resolver = PublicResolver(allowed, 5.0)
        return [found["host"] for found in asyncio.run(resolver.resolve(host, 80))]

    assert resolve("10.0.0.1--8.8.8.8") == ["8.8.8.8"]
    assert resolve("10.0.0.1--8.8.8.8", "10.0.0.1--8.8.8.8") == ["10.0.0.1", "8.8.8.8"]
    with pytest.raises(PrivateAddress):
        resolve("10.0.0.1--127.0.0.1", "other.example", "127.0.0.1")


ROBOTS = b"""\xef\xbb\xbf# comment
User-agent: other
User-agent: llmstages  # both
Disallow: /private
Allow: /private/open
Sitemap: http://a.example/map.xml

User-Agent: *
Disallow: /

user-agent: LLMStages/2.0
disallow: /*.cgi$
disallow: /a*b*c
Allow: /caf\xc3\xa9
Disallow: /caf%c3%a9
Disallow:
Crawl-delay: 2.5
nonsense
: : :
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *(("/", True), ("/private", False), ("/private/x", False), ("/private/open/x", True)),
        *(("/x.cgi", False), ("/x.cgi?q", True), ("/y/x.cgi", False), ("/x.cgi.html", True)),
        *(("/axbxc", False), ("/abc/d", False), ("/acb", True), ("/b/abc", True)),
        *(("/caf%C3%A9", True), ("/Private", True)),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_robots_rules(path: str, allowed: bool, end: bytes) -> None:
    rules = parse_robots(ROBOTS.replace(b"\n", end), "llmstages (language model corpus)")
    assert rules.allow("http://a.example" + path) == allowed
    assert rules.delay_seconds == 2.5


def test_robots_groups() -> None:
    url = "http://a.example/x"
    assert not parse_robots(ROBOTS, "somebody/1.0").allow(url)
    assert parse_robots(b"", "llmstages").allow(url)
    assert parse_robots(b"<html>Disallow: / is no rule of a group</html>", "llmstages").allow(url)
    assert parse_robots(b"Disallow: /\n", "llmstages").allow(url)
    # A name that begins like ours is another's; a delay ends no list of names.
    text = b"User-agent: llmstages-images\nDisallow: /\nUser-agent: llm\nDisallow: /\n"
    assert parse_robots(text, "llmstages").allow(url)
    text = b"User-agent: *\nCrawl-delay: 9\nUser-agent: llmstages\nDisallow: /x\n"
    rules = parse_robots(text, "llmstages")
    assert not rules.allow(url)
    assert parse_robots(text, "other").delay_seconds == 9
    assert parse_robots(b"User-agent: *\nCrawl-delay: -1e9\n", "x").delay_seconds == 0


def test_robots_patterns_take_no_time() -> None:
    rules = parse_robots(b"User-agent: *\nDisallow: /" + b"*a" * 2000 + b"b$", "llmstages")
    start = time.perf_counter()
    assert rules.allow("http://a.example/" + "a" * 4000)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", ""])
def test_unpacking_in_pieces(encoding: str, size: int) -> None:
    data = (os.urandom(1000) + bytes(1_000_000))[:size]
    packer = zlib.compressobj(
        wbits={"gzip": 31, "deflate": 15, "raw deflate": -15}.get(encoding, 15)
    )
    packed = packer.compress(data) + packer.flush() if encoding else data
    for step in (1, 7, len(packed) or 1):
        if size > 1 and step == 1 and not encoding:
            continue  # a megabyte byte by byte
        unpacker = Unpacker(encoding.removeprefix("raw "))
        pieces = [
            piece
            for start in range(0, len(packed), step)
            for piece in unpacker.feed(packed[start : start + step])
        ]
        unpacker.finish()
        assert b"".join(pieces) == data
        assert all(len(piece) <= max(PIECE_BYTES, step) for piece in pieces)


def test_unpacking_broken_data() -> None:
    for encoding in ("br", "gzip, gzip", "compress"):
        with pytest.raises(BrokenPacking):
            Unpacker(encoding)
    unpacker = Unpacker("gzip")
    with pytest.raises(BrokenPacking):
        list(unpacker.feed(b"plain text"))
    unpacker = Unpacker("gzip")
    list(unpacker.feed(gzip.compress(b"text")[:-1]))
    with pytest.raises(BrokenPacking):
        unpacker.finish()
    Unpacker("gzip").finish()  # nothing at all is an empty page


def test_retry_after_values() -> None:
    assert retry_after(None) is None
    assert retry_after(" 12 ") == 12
    assert retry_after("soon") is None
    assert retry_after("-5") is None
    assert retry_after("1.5") is None
    assert retry_after("9" * 400) == 999_999_999
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0


def write(cache: PageCache, url: str, body: bytes) -> None:
    with cache.writer(url) as writer:
        writer.write(body[:3])
        writer.write(body[3:])
        writer.commit(Fetched(url, url, 200, "text/html", "utf-8"))


def test_cache_keeps_pages(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    url = "http://a.example/../../../etc/passwd\n?" + "x" * 3000
    assert cache.look_up(url) is None
    write(cache, url, b"line\n" * 1000)
    found = cache.look_up(url)
    assert found is not None
    assert (found.url, found.status, found.charset) == (url, 200, "utf-8")
    assert cache.read_body(found) == b"line\n" * 1000
    assert cache.look_up(url, max_age_seconds=60) == found
    assert cache.look_up(url, max_age_seconds=-1) is None
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [cache.path(url)]
    assert tmp_path in cache.path(url).resolve().parents
    write(cache, url, b"another")
    again = cache.look_up(url)
    assert again is not None
    assert again.sha256 != found.sha256
    with cache.writer(url) as writer:
        writer.write(b"begun")
        writer.commit(Fetched(url, url, failure="timed out"))
    failed = cache.look_up(url)
    assert failed is not None
    assert (failed.failure, failed.packed_bytes) == ("timed out", 0)


def test_cache_is_not_fooled_by_what_is_damaged(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    url = "http://a.example/"
    write(cache, url, os.urandom(3000))
    path = cache.path(url)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:-1],
        whole[:2000],
        whole[100:],
        b"{}\n",
        b"[]\n",
        b"\n\n",
        whole * 2,
    ):
        path.write_bytes(damaged)
        assert cache.look_up(url) is None
    # The entry of another URL under this name.
    other = "http://b.example/"
    write(cache, other, b"text")
    path.write_bytes(cache.path(other).read_bytes())
    assert cache.look_up(url) is None


def test_cache_discards_what_is_not_committed(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    with cache.writer("http://a.example/") as writer:
        writer.write(os.urandom(100_000))
        assert list((tmp_path / "unfinished").iterdir())
    assert not list((tmp_path / "unfinished").iterdir())
    for name, age in (("old", 100_000), ("new", 10)):
        path = tmp_path / "unfinished" / name
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    cache.remove_abandoned()
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["new"]


def test_frontier_gives_large_hosts_first_and_every_url_once() -> None:
    frontier = Frontier()
    many = [f"http://many.example/{number:04}" for number in range(450)]
    for url in ["http://few.example/1", *reversed(many), "http://few.example/2", many[0]]:
        frontier.add(url)
    assert len(frontier) == 452
    assert list(frontier.hosts()) == ["many.example", "few.example"]
    assert list(frontier.urls("many.example")) == many
    assert list(frontier.urls("few.example")) == ["http://few.example/1", "http://few.example/2"]
    frontier.close()
