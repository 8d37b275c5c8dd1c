"""One spelling for each URL.

`normalised` follows RFC 3986, section 6.2, and only changes what cannot change the page: scheme and
host in lower case, international host names in punycode (UTS 46), no trailing dot, default port,
user name, password or fragment; dot segments resolved; needless percent-escapes undone, needed ones
made, in upper case. The order of query parameters, a trailing slash and `www.` are kept, because a
server may tell them apart.
"""

import ipaddress
import re
from urllib.parse import quote, urljoin, urlsplit

MAX_LENGTH = 4096
"""Longest URL in characters; servers commonly refuse more than 8 kB, and no page needs it."""
DEFAULT_PORTS = {"http": 80, "https": 443}

# What campaigns and mail programs append; the page is the same without.
TRACKING = re.compile(
    r"utm_.*|gclid|gclsrc|dclid|fbclid|msclkid|mc_cid|mc_eid|igshid|yclid", re.IGNORECASE
)

_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class BrokenUrl(ValueError):
    """Not the address of a web page."""


def normalised(text: str) -> str:
    """The one spelling of a URL.

    Raises:
        BrokenUrl: neither http nor https, no valid host or port, or longer than `MAX_LENGTH`.
    """
    text = re.sub(r"[\t\r\n]", "", text.strip("\0\t\r\n\f\v "))
    if len(text) > MAX_LENGTH:
        raise BrokenUrl("too long")
    try:
        parts = urlsplit(text)
        port = parts.port
        if parts.scheme not in DEFAULT_PORTS:
            raise BrokenUrl("neither http nor https")
        host = normalised_host(parts.hostname or "")
        path = _without_dots(escaped(parts.path, "/:@!$&'()*+,;="))
        query = escaped(parts.query, "/?:@!$&'()*+,;=")
    except ValueError as error:  # UnicodeError too: a lone surrogate
        raise BrokenUrl(str(error)) from error
    if port == 0:
        raise BrokenUrl("port 0")
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != DEFAULT_PORTS[parts.scheme]:
        authority += f":{port}"
    url = f"{parts.scheme}://{authority}{path}" + (f"?{query}" if query else "")
    if len(url) > MAX_LENGTH:
        raise BrokenUrl("too long")
    return url


def normalised_host(host: str) -> str:
    """A host name or literal address (IPv6 without brackets) in its one spelling.

    Raises:
        BrokenUrl: not a name or an address.
    """
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host.partition("%")[0]).compressed
        except ValueError as error:
            raise BrokenUrl("not an IPv6 address") from error
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except UnicodeError as error:
            raise BrokenUrl("not a host name") from error
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BrokenUrl("not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        # Short and hexadecimal forms (127.1, 0x7f000001) mean different hosts to different
        # programs: only the dotted form is an address.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise BrokenUrl("not an IPv4 address") from error
    return host


def without_tracking(url: str) -> str:
    """The same page without the parameters in `TRACKING`; the other parameters keep their order."""
    page, mark, query = url.partition("?")
    kept = [item for item in query.split("&") if not TRACKING.fullmatch(item.partition("=")[0])]
    return page + mark + "&".join(kept) if any(kept) else page


def page_key(url: str) -> str:
    """What http and https spellings of a page share."""
    return url.partition("://")[2]


def host_of(url: str) -> str:
    """The host of a normalised URL, IPv6 without brackets."""
    return urlsplit(url).hostname or ""


def origin_of(url: str) -> str:
    """Scheme, host and port of a normalised URL: what a robots.txt speaks for."""
    return url[: url.index("/", url.index("://") + 3)]


def joined(base: str, location: str) -> str:
    """Where a redirect leads. Raises `BrokenUrl`."""
    try:
        return normalised(urljoin(base, location))
    except ValueError as error:
        raise BrokenUrl(str(error)) from error


def escaped(text: str, safe: str) -> str:
    """`text` percent-encoded as far as needed and no further; `safe` stays as it is."""
    text = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text)
    # Headers that are not UTF-8 come with their bytes as lone surrogates.
    quoted = quote(text, safe=safe + "%~", errors="surrogateescape")
    return re.sub(r"%([0-9A-Fa-f]{2})", _unescaped, quoted)


def _unescaped(match: re.Match[str]) -> str:
    octet = int(match[1], 16)
    return chr(octet) if octet in _UNRESERVED else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4: `.` and `..` resolved; never above the root."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
