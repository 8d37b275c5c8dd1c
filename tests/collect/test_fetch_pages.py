"""The polite fetcher against a real server on the loopback interface."""

import gzip
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from llmstages.collect.fetch.cache import Fetched, PageCache
from llmstages.collect.fetch.crawl import fetch_pages
from llmstages.config.collect_groups import FetchConfig
from llmstages.errors import UserError

Route = Callable[["Handler"], None]
PAGE = b"<html><body><p>Hello, world.</p></body></html>"


class Server(ThreadingHTTPServer):
    """Answers as `routes` say, 404 for the rest, and remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Route] = {}
        self.asked: list[tuple[float, str, str]] = []  # when, host, path
        self.headers: list[dict[str, str]] = []
        self.under_way: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self.bytes_sent = 0
        self.lock = threading.Lock()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def page(self, path: str, body: bytes = PAGE, **headers: str) -> str:
        """Serve a page and return its URL."""
        self.routes[path] = lambda handler: handler.answer(200, body, **headers)
        return self.url(path)

    def paths(self) -> list[str]:
        return [path for _, _, path in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        host = self.headers["Host"].rpartition(":")[0]
        with self.server.lock:
            self.server.asked.append((time.monotonic(), host, self.path))
            self.server.headers.append(dict(self.headers))
            self.server.under_way[host] += 1
            self.server.most_under_way |= self.server.under_way
        try:
            missing: Route = lambda handler: handler.answer(404, b"no")  # noqa: E731
            self.server.routes.get(self.path, missing)(self)
        except OSError:
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.under_way[host] -= 1

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        fields = {"Content_Type": "text/html", "Content_Length": str(len(body))} | headers
        for name, value in fields.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def quick(**changes: object) -> FetchConfig:
    """Settings for a server that answers at once."""
    config = FetchConfig(
        delay_seconds=0.0,
        timeout_seconds=5.0,
        retries=2,
        backoff_seconds=0.01,
        max_bytes=1_000_000,
        allow_hosts=["127.0.0.1", "localhost"],
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def fetch(cache_dir: Path, url: str, **changes: object) -> Fetched:
    """What comes of one URL."""
    fetch_pages([url], quick(**changes), cache_dir)
    fetched = PageCache(cache_dir).look_up(url)
    assert fetched is not None
    return fetched


def in_turn(*answers: Route) -> Route:
    """A route that answers each request with the next, the last one for ever."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def test_page_is_kept_as_the_server_sent_it(server: Server, tmp_path: Path) -> None:
    url = server.page(
        "/a?b=1", "Größe".encode("latin-1"), Content_Type="text/html; charset=Latin-1"
    )
    fetched = fetch(tmp_path, url)
    assert fetched.status == 200
    assert fetched.media_type == "text/html"
    assert fetched.charset == "latin-1"
    assert fetched.failure is None
    assert PageCache(tmp_path).read_body(fetched).decode("latin-1") == "Größe"


def test_request_says_who_asks_and_carries_no_secrets(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    urls = [server.page(path, Set_Cookie="id=1; Path=/") for path in ("/a", "/b")]
    fetch_pages(urls, quick(user_agent="tester/1.0 (me@example.org)"), tmp_path / "cache")
    assert server.paths() == ["/robots.txt", "/a", "/b"]
    for headers in server.headers:
        assert headers["User-Agent"] == "tester/1.0 (me@example.org)"
        assert headers["Accept-Encoding"] == "gzip, deflate"
        assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_charset_that_is_none_is_ignored(server: Server, tmp_path: Path) -> None:
    for number, name in enumerate(["zip", "nonsense", "x" * 100, '"utf-8"', "'"]):
        url = server.page(f"/{number}", Content_Type=f"text/html; charset={name}")
        assert fetch(tmp_path, url).charset == ("utf-8" if "utf-8" in name else None)


def test_packed_pages_are_unpacked(server: Server, tmp_path: Path) -> None:
    raw_deflate = zlib.compressobj(wbits=-15)
    bodies = {
        "gzip": gzip.compress(PAGE[:10]) + gzip.compress(PAGE[10:]) + b"\0\0",
        "x-gzip": gzip.compress(PAGE),
        "deflate": zlib.compress(PAGE),
        "Deflate": raw_deflate.compress(PAGE) + raw_deflate.flush(),
        "identity": PAGE,
    }
    urls = [server.page(f"/{name}", data, Content_Encoding=name) for name, data in bodies.items()]
    fetch_pages(urls, quick(), tmp_path)
    cache = PageCache(tmp_path)
    for url in urls:
        fetched = cache.look_up(url)
        assert fetched is not None
        assert fetched.failure is None, url
        assert cache.read_body(fetched) == PAGE


def test_broken_packing_is_said(server: Server, tmp_path: Path) -> None:
    cut = server.page("/cut", gzip.compress(os.urandom(1000))[:500], Content_Encoding="gzip")
    bad = server.page("/bad", b"\x1f\x8b\x08 no gzip", Content_Encoding="gzip")
    brotli = server.page("/br", b"data", Content_Encoding="br")
    for url in (cut, bad, brotli):
        assert fetch(tmp_path, url).failure == "broken packing"


def test_missing_page_is_final(server: Server, tmp_path: Path) -> None:
    fetched = fetch(tmp_path, server.url("/gone"))
    assert (fetched.failure, fetched.status) == ("HTTP 4xx", 404)
    asked = len(server.asked)
    assert fetch(tmp_path, server.url("/gone")) == fetched
    assert len(server.asked) == asked


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(server: Server, tmp_path: Path, as_date: bool) -> None:
    # A date has whole seconds: it is between one and two of them away.
    value = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.routes["/busy"] = in_turn(
        lambda handler: handler.answer(429, Retry_After=value),
        lambda handler: handler.answer(200, PAGE),
    )
    assert fetch(tmp_path, server.url("/busy"), robots=False).failure is None
    first, second = (when for when, _, _ in server.asked)
    assert 0.9 <= second - first < 2.5


def test_long_retry_after_leaves_the_host_to_the_next_run(server: Server, tmp_path: Path) -> None:
    server.routes["/a"] = lambda handler: handler.answer(503, Retry_After="3600")
    urls = [server.url("/a"), server.page("/b")]
    fetch_pages(urls, quick(robots=False), tmp_path)
    assert server.paths() == ["/a"]
    cache = PageCache(tmp_path)
    assert [cache.look_up(url).failure for url in urls] == ["HTTP 5xx"] * 2  # type: ignore[union-attr]


def test_busy_server_is_tried_again_with_growing_waits(server: Server, tmp_path: Path) -> None:
    server.routes["/busy"] = in_turn(
        lambda handler: handler.answer(503),
        lambda handler: handler.answer(503),
        lambda handler: handler.answer(200, PAGE),
    )
    url = server.url("/busy")
    assert fetch(tmp_path, url, robots=False, backoff_seconds=0.1).failure is None
    first, second, third = (when for when, _, _ in server.asked)
    assert second - first >= 0.09
    assert third - second >= 0.19


def test_busy_for_ever_is_tried_again_in_the_next_run_only(server: Server, tmp_path: Path) -> None:
    server.routes["/busy"] = lambda handler: handler.answer(503)
    url = server.url("/busy")
    for run in (1, 2):
        assert fetch(tmp_path, url, robots=False).failure == "HTTP 5xx"
        assert len(server.asked) == 3 * run
    server.page("/busy")
    assert fetch(tmp_path, url, robots=False).failure is None


def test_host_that_keeps_failing_is_given_up(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/{number}") for number in range(9)]
    for number in range(9):
        server.routes[f"/{number}"] = lambda handler: handler.answer(500)
    fetch_pages(urls, quick(robots=False, retries=0), tmp_path)
    assert server.paths() == [f"/{number}" for number in range(5)]
    last = PageCache(tmp_path).look_up(urls[-1])
    assert last is not None
    assert (last.failure, last.try_again) == ("host given up: HTTP 5xx", "next run")


def test_host_that_fails_now_and_then_is_not_given_up(server: Server, tmp_path: Path) -> None:
    for number in range(15):
        server.routes[f"/{number:02}"] = lambda handler: handler.answer(500)
    server.page("/04")
    del server.routes["/09"]
    urls = [server.url(f"/{number:02}") for number in range(14)]
    fetch_pages(urls, quick(robots=False, retries=0), tmp_path)
    assert server.paths() == [f"/{number:02}" for number in range(14)]


def test_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    server.routes["/silent"] = lambda handler: time.sleep(1.0)
    url = server.url("/silent")
    start = time.monotonic()
    fetched = fetch(tmp_path, url, robots=False, timeout_seconds=0.1, retries=1)
    assert (fetched.failure, fetched.try_again) == ("timed out", "next run")
    assert time.monotonic() - start < 0.9
    assert server.paths() == ["/silent"] * 2


def test_page_that_trickles_in_times_out(server: Server, tmp_path: Path) -> None:
    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b".")
            time.sleep(0.05)

    server.routes["/slow"] = trickle
    fetched = fetch(tmp_path, server.url("/slow"), robots=False, max_seconds=0.2, retries=0)
    assert fetched.failure == "timed out"


def test_reset_connection_is_tried_again(server: Server, tmp_path: Path) -> None:
    def reset(handler: Handler) -> None:
        linger = struct.pack("ii", 1, 0)  # closing sends RST
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(handler.connection.detach())
        raise ConnectionError

    def cut(handler: Handler) -> None:
        handler.answer(200, PAGE, Content_Length=str(len(PAGE) + 10))
        handler.close_connection = True

    server.routes["/page"] = in_turn(reset, cut, lambda handler: handler.answer(200, PAGE))
    fetched = fetch(tmp_path, server.url("/page"), robots=False)
    assert fetched.failure is None
    assert PageCache(tmp_path).read_body(fetched) == PAGE
    assert len(server.asked) == 3


def test_closed_port_and_broken_http(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert fetch(tmp_path, f"http://127.0.0.1:{port}/").failure == "no connection"
    server.routes["/"] = lambda handler: handler.wfile.write(b"220 smtp ready\r\n\r\n") and None
    assert fetch(tmp_path, server.url("/"), robots=False).failure == "broken HTTP"


def test_redirects_are_followed_to_their_end(server: Server, tmp_path: Path) -> None:
    for number, location in enumerate(["/1", "./2#part", server.url("/3", "localhost"), "4"]):
        status = (301, 302, 307, 308)[number]
        server.routes[f"/{number}"] = lambda handler, status=status, location=location: (  # type: ignore[misc]
            handler.answer(status, Location=location)
        )
    server.page("/4")
    fetched = fetch(tmp_path, server.url("/0"))
    assert fetched.failure is None
    assert fetched.url == server.url("/0")
    assert fetched.final_url == server.url("/4", "localhost")
    # Each host's robots.txt was asked before its first page.
    assert server.paths() == ["/robots.txt", "/0", "/1", "/2", "/robots.txt", "/3", "/4"]
    assert fetch(tmp_path / "b", server.url("/0"), max_redirects=3).failure == "too many redirects"
    assert fetch(tmp_path / "b", server.url("/0"), max_redirects=4).failure is None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/start", "redirect loop"),
        ("file:///etc/passwd", "redirect to no web page"),
        ("ftp://127.0.0.1/", "redirect to no web page"),
        ("http://127.1/", "redirect to no web page"),
        ("http://10.1.2.3/", "private address"),
        ("http://169.254.169.254/latest/meta-data/", "private address"),
        ("http://[::1]/", "private address"),
        ("http://[::ffff:127.0.0.1]/", "private address"),
        ("http://user:secret@192.168.0.1/", "private address"),
        ("http://bad.example/", "blocked domain"),
        ("http://www.bad.example/", "blocked domain"),
        ("", "HTTP 3xx"),
    ],
)
def test_redirects_lead_nowhere_else(
    server: Server, tmp_path: Path, location: str, reason: str
) -> None:
    server.routes["/start"] = lambda handler: handler.answer(302, Location=location)
    fetched = fetch(tmp_path, server.url("/start"), blocked=["bad.example"])
    assert fetched.failure == reason
    assert server.paths() == ["/robots.txt", "/start"]


def test_private_addresses_are_refused(server: Server, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost"):
        url = server.url("/", host)
        fetched = fetch(tmp_path, url, allow_hosts=[])
        assert (fetched.failure, fetched.try_again) == ("private address", "other settings")
    assert server.asked == []
    # Other settings: it is looked at again.
    server.page("/")
    assert fetch(tmp_path, server.url("/")).failure is None


def test_name_that_changes_its_address_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what counts is the address that the connection goes to."""
    look_ups: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        look_ups.append(host)
        address = "192.0.2.1" if host == "documentation.example" else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for host in ("rebinding.example", "documentation.example"):
        assert fetch(tmp_path, server.url("/", host)).failure == "private address"
    assert look_ups == ["rebinding.example", "documentation.example"]
    assert server.asked == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificate_that_nobody_signed_is_refused(server: Server, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url("/", "localhost").replace("http:", "https:")
    fetched = fetch(tmp_path, url)
    assert (fetched.failure, fetched.try_again) == ("TLS certificate not valid", "next run")
    assert server.asked == []


def test_blocked_domain_is_never_asked(server: Server, tmp_path: Path) -> None:
    fetched = fetch(tmp_path, server.url("/", "localhost"), blocked=["127.0.0.1", "a.localhost"])
    assert fetched.failure == "HTTP 4xx"
    fetched = fetch(tmp_path, server.url("/"), blocked=["127.0.0.1"])
    assert fetched.failure == "blocked domain"
    assert {host for _, host, _ in server.asked} == {"localhost"}


def bomb(num_megabytes: int) -> bytes:
    """A gzip stream of so many megabytes of zeros, without packing them all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + block * num_megabytes


def test_bomb_stops_at_the_limit(server: Server, tmp_path: Path) -> None:
    data = bomb(1000)
    assert len(data) < 2_000_000
    url = server.page("/bomb", data, Content_Encoding="gzip")
    fetch(tmp_path / "warm", server.page("/page"))
    tracemalloc.start()
    fetched = fetch(tmp_path, url, max_bytes=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (fetched.failure, fetched.try_again) == ("too large", "other settings")
    assert peak < 10_000_000
    assert not list((tmp_path / "unfinished").iterdir())


def test_no_more_than_the_limit_is_read(server: Server, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.close_connection = True
        for _ in range(200):
            handler.wfile.write(bytes(1_000_000))
            handler.server.bytes_sent += 1_000_000

    server.routes["/endless"] = endless
    fetched = fetch(tmp_path, server.url("/endless"))
    assert fetched.failure == "too large"
    assert server.bytes_sent <= 20_000_000  # the limit of 1 MB, and what the kernels buffer
    said = server.page("/said", PAGE, Content_Length="200000000")
    assert fetch(tmp_path, said).failure == "too large"
    exactly = server.page("/exactly", b"x" * 1_000_000)
    assert fetch(tmp_path, exactly).failure is None
    above = server.page("/above", b"x" * 1_000_001)
    assert fetch(tmp_path, above).failure == "too large"
    assert fetch(tmp_path, above, max_bytes=1_000_001).failure is None


def test_what_is_no_text_is_not_read(server: Server, tmp_path: Path) -> None:
    kinds = {
        "application/pdf": "not HTML: PDF",
        "image/png": "not HTML: image",
        "Application/JSON; charset=utf-8": "not HTML: script, style or JSON",
        "application/rss+xml": "not HTML: XML",
        "application/x-anything": "not HTML: other media type",
        "application/xhtml+xml": None,
        "Text/Plain": None,
    }
    for number, (kind, reason) in enumerate(kinds.items()):
        url = server.page(f"/{number}", Content_Type=kind)
        assert fetch(tmp_path, url).failure == reason


def test_robots_txt_is_obeyed(server: Server, tmp_path: Path) -> None:
    rules = b"User-agent: *\nDisallow: /\n\nUser-agent: LLMstages\nDisallow: /private\n"
    server.page("/robots.txt", rules, Content_Type="text/plain")
    urls = [server.page("/open"), server.page("/private/a")]
    server.routes["/to"] = lambda handler: handler.answer(302, Location="/private/a")
    urls.append(server.url("/to"))
    fetch_pages(urls, quick(), tmp_path)
    found = [PageCache(tmp_path).look_up(url) for url in urls]
    reasons = [fetched.failure for fetched in found if fetched]
    assert reasons == [None, "robots.txt forbids", "robots.txt forbids"]
    assert server.paths() == ["/robots.txt", "/open", "/to"]
    # A day long it is not asked for again, nor are pages it forbids.
    fetch_pages([*urls, server.page("/more")], quick(), tmp_path)
    assert server.paths() == ["/robots.txt", "/open", "/to", "/more"]
    path = PageCache(tmp_path, "robots").path(server.url("/robots.txt"))
    os.utime(path, (time.time() - 90_000,) * 2)
    fetch_pages([server.page("/next")], quick(), tmp_path)
    assert server.paths()[4:] == ["/robots.txt", "/next"]
    # Whoever says so is not held by it.
    assert fetch(tmp_path, server.url("/private/a"), robots=False).failure is None


def test_robots_txt_that_cannot_be_had(server: Server, tmp_path: Path) -> None:
    """RFC 9309, 2.3.1: none allows all, a server in trouble forbids all, for now."""
    url = server.page("/page")
    server.routes["/robots.txt"] = lambda handler: handler.answer(403)
    assert fetch(tmp_path / "a", url).failure is None
    server.routes["/robots.txt"] = lambda handler: handler.answer(500)
    fetched = fetch(tmp_path / "b", url)
    assert (fetched.failure, fetched.try_again) == ("robots.txt: HTTP 5xx", "next run")
    server.page("/robots.txt", b"")
    assert fetch(tmp_path / "b", url).failure is None
    server.routes["/robots.txt"] = lambda handler: handler.answer(301, Location="/rules")
    server.page("/rules", b"User-agent: *\nDisallow: /page")
    assert fetch(tmp_path / "c", url).failure == "robots.txt forbids"


def test_large_robots_txt_is_cut(server: Server, tmp_path: Path) -> None:
    rules = b"User-agent: *\nDisallow: /page\n" + b"# filler\n" * 200_000
    server.page("/robots.txt", rules)
    assert fetch(tmp_path, server.page("/page")).failure == "robots.txt forbids"


def test_crawl_delay_is_kept(server: Server, tmp_path: Path) -> None:
    server.page("/robots.txt", b"User-agent: *\nCrawl-delay: 0.2\n")
    fetch_pages([server.page("/a"), server.page("/b")], quick(), tmp_path)
    times = [when for when, _, _ in server.asked]
    assert all(later - sooner >= 0.19 for sooner, later in pairwise(times))
    server.page("/robots.txt", b"User-agent: *\nCrawl-delay: 86400\n")
    fetched = fetch(tmp_path / "b", server.page("/c"))
    assert fetched.failure == "robots.txt asks for too long a delay"


def test_one_request_at_a_time_and_a_pause_at_each_host(server: Server, tmp_path: Path) -> None:
    urls = []
    for host in ("127.0.0.1", "localhost"):
        for number in range(5):
            server.page(f"/{number}")
            urls.append(server.url(f"/{number}", host))
    # Two of them lead to the other host.
    server.routes["/3"] = lambda handler: handler.answer(
        302, Location=server.url("/0", "localhost")
    )
    start = time.monotonic()
    fetch_pages(urls, quick(delay_seconds=0.1), tmp_path)
    seconds = time.monotonic() - start
    by_host: dict[str, list[float]] = {}
    for when, host, _ in server.asked:
        by_host.setdefault(host, []).append(when)
    assert {host: len(times) for host, times in by_host.items()} == {"127.0.0.1": 6, "localhost": 8}
    for times in by_host.values():
        gaps = [later - sooner for sooner, later in pairwise(times)]
        assert min(gaps) >= 0.095
    assert set(server.most_under_way.values()) == {1}
    assert seconds < 1.2  # the hosts are asked side by side: 14 requests in the time of 8


def test_second_run_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    server.routes["/moved"] = lambda handler: handler.answer(301, Location="/0")
    urls = [server.page(f"/{number}") for number in range(10)]
    urls += [server.url("/moved"), server.url("/gone"), "http://10.0.0.1/"]
    done: list[int] = []
    fetch_pages(urls, quick(), tmp_path, done.append)
    assert sum(done) == 13
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    server.asked.clear()
    done.clear()
    fetch_pages(urls, quick(), tmp_path, done.append)
    assert sum(done) == 13
    assert server.asked == []
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from llmstages.collect.fetch.crawl import fetch_pages
    from llmstages.config.collect_groups import FetchConfig

    config = FetchConfig(delay_seconds=0.0, allow_hosts=["127.0.0.1"])
    fetch_pages(sys.argv[2:], config, Path(sys.argv[1]))
    """
)


def start_run(cache_dir: Path, urls: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", RUN, str(cache_dir), *urls]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_killed_run_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    urls = [server.page(f"/{number:02}") for number in range(20)]
    reached = threading.Event()

    def wait(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()
        handler.wfile.write(PAGE)
        reached.set()
        time.sleep(3)

    server.routes["/12"] = wait
    process = start_run(tmp_path, urls)
    assert reached.wait(20)
    process.kill()
    process.wait()
    server.page("/12")
    server.asked.clear()
    fetch_pages(urls, quick(), tmp_path)
    assert server.paths() == [f"/{number:02}" for number in range(12, 20)]
    for url in urls:
        fetched = PageCache(tmp_path).look_up(url)
        assert fetched is not None
        assert PageCache(tmp_path).read_body(fetched) == PAGE


def test_interrupt_stops_at_once_and_leaves_the_cache_sound(server: Server, tmp_path: Path) -> None:
    reached = threading.Event()

    def hang(handler: Handler) -> None:
        reached.set()
        time.sleep(3)

    urls = [server.page("/a"), server.url("/b")]
    server.routes["/b"] = hang
    process = start_run(tmp_path, urls)
    assert reached.wait(20)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(10)
    assert time.monotonic() - start < 2
    assert process.returncode == -signal.SIGINT  # a KeyboardInterrupt
    assert not list((tmp_path / "unfinished").glob("*"))
    assert [PageCache(tmp_path).look_up(url) is not None for url in urls] == [True, False]


def test_silent_name_server_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: released.wait(10) and [])
    start = time.monotonic()
    fetched = fetch(tmp_path, "http://silent.example/", timeout_seconds=0.2)
    released.set()
    assert (fetched.failure, fetched.try_again) == ("host not found", "next run")
    assert time.monotonic() - start < 2


def test_runs_in_a_thread(server: Server, tmp_path: Path) -> None:
    urls = [server.page("/a")]
    thread = threading.Thread(target=fetch_pages, args=(urls, quick(), tmp_path))
    thread.start()
    thread.join()
    assert PageCache(tmp_path).look_up(urls[0]) is not None


def test_cache_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "unfinished").write_text("a file where a directory should be")
    with pytest.raises(UserError, match=r"fetch\.cache_dir: cannot write"):
        fetch_pages([server.page("/a"), server.page("/b")], quick(), tmp_path)


def test_many_hosts_share_few_workers(server: Server, tmp_path: Path) -> None:
    """More hosts than workers, one of them hopeless, and no page lost."""
    urls = [
        server.url(f"/{number}", host) for number in range(3) for host in ("127.0.0.1", "localhost")
    ]
    urls += [f"http://10.0.0.{number}/" for number in range(50)]
    for number in range(3):
        server.page(f"/{number}")
    done: list[int] = []
    fetch_pages(urls, quick(max_connections=2), tmp_path, done.append)
    found = [PageCache(tmp_path).look_up(url) for url in urls]
    assert Counter(item.failure for item in found if item) == {None: 6, "private address": 50}
    assert len(done) == 56
