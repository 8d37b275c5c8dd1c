"""Domains that are never fetched from.

A list is plain (a domain a line), a hosts file (`0.0.0.0 domain`) or Adblock rules. Of Adblock
rules those count that keep a browser from visiting a site: `||domain^`, alone or with `$document`
or `$all`. Rules on what a page loads (`$third-party`, paths, elements) say nothing of the page.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llmstages.collect.fetch.urls import BrokenUrl, normalised_host
from llmstages.errors import UserError

_ADBLOCK = re.compile(r"(@@)?\|\|([^/^*|$]+)\^(?:\$(?:document|doc|all))?")
_HOSTS = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+(\S+)(?:\s+#.*)?")
_COMMENT = re.compile(r"\s+#.*")
# Names of the machine itself, which hosts files list first.
_OWN_NAMES = re.compile(
    r"localhost|localhost\.localdomain|broadcasthost|local|(ip6|ipv6)-\S+|0\.0\.0\.0"
)


class Blocklist:
    """A set of domains, each with all its subdomains."""

    def __init__(self, domains: Iterable[str] = ()) -> None:
        self.domains = frozenset(domains)

    def __contains__(self, host: str) -> bool:
        """Whether `host` or a domain above it is listed."""
        if not self.domains:
            return False
        while host not in self.domains:
            host = host.partition(".")[2]
            if not host:
                return False
        return True

    def sha256(self) -> str:
        """Hash of the domains."""
        return hashlib.sha256("\n".join(sorted(self.domains)).encode()).hexdigest()


def read_blocklist(entries: Sequence[str]) -> tuple[Blocklist, dict[str, int]]:
    """The domains in `entries`, each a domain or a file of them, and the other rules in each file.

    Raises:
        UserError: an entry is neither a domain nor a file, or a file lists no domain.
    """
    domains: set[str] = set()
    num_others: dict[str, int] = {}
    for entry in entries:
        if Path(entry).is_file():
            listed, unread = _read_file(entry)
            if not listed:
                raise UserError(
                    f"fetch.blocked: {entry} lists no domain: write one a line, or Adblock rules "
                    "like ||example.com^"
                )
            domains |= listed
            if unread:
                num_others[entry] = unread
        elif (domain := _domain(entry)) is not None:
            domains.add(domain)
        else:
            raise UserError(f"fetch.blocked: {entry} is neither a domain nor a file")
    return Blocklist(domains), num_others


def _read_file(path: str) -> tuple[set[str], int]:
    """The domains a file lists, and how many of its lines are other rules."""
    from llmstages.data.opening import UNREADABLE, open_bytes

    blocked: set[str] = set()
    excepted: set[str] = set()
    unread = 0
    try:
        with open_bytes(Path(path)) as stream:
            text = stream.read().decode("utf-8", errors="replace").removeprefix("\ufeff")
    except UNREADABLE as error:
        raise UserError(f"fetch.blocked: {path}: broken or cut-off data ({error})") from error
    lines = [line.strip() for line in text.splitlines()]
    # Beside Adblock rules a bare "ad.banner." is a part of an address, not a domain.
    is_adblock = any(line.startswith(("[Adblock", "||", "@@||")) for line in lines)
    for line in lines:
        if not line or line[0] in "!#[":
            continue
        if rule := _ADBLOCK.fullmatch(line):
            domain, to = _domain(rule[2]), excepted if rule[1] else blocked
        elif named := _HOSTS.fullmatch(line):
            if _OWN_NAMES.fullmatch(named[1]):
                continue
            domain, to = _domain(named[1]), blocked
        elif is_adblock:
            domain = None
        else:
            domain, to = _domain(_COMMENT.sub("", line).removeprefix("*.")), blocked
        if domain is None:
            unread += 1
        else:
            to.add(domain)
    return blocked - excepted, unread


def _domain(text: str) -> str | None:
    """A domain in its one spelling, or None. A single word is none: it might be a whole country."""
    try:
        host = normalised_host(text)
    except BrokenUrl:
        return None
    return host if "." in host or ":" in host else None
