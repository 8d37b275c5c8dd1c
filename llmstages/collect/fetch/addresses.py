"""Which machines may be asked: only public addresses, so that no list of links and no redirect
reaches into the network that llmstages runs in.

The check is made on the very addresses the connection is opened to, when the name is resolved. So
a name that resolves to a public address first and to a private one later (DNS rebinding) gains
nothing.
"""

import asyncio
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 addresses that stand for the IPv4 address in their last 32 bits (RFC 6052)."""


class PrivateAddress(OSError):
    """The host is no public one."""


class HostNotFound(OSError):
    """The name does not resolve."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is one of the public internet, also when it wraps an IPv4 address."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        wrapped = [address.sixtofour, *(address.teredo or ())]
        if address.is_site_local or any(inner and not is_public(inner) for inner in wrapped):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def literal_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells out, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses; `allowed` hosts to any."""

    def __init__(self, allowed: Collection[str], timeout_seconds: float) -> None:
        self.allowed = allowed
        self.timeout_seconds = timeout_seconds

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`, in the system's order.

        Raises:
            HostNotFound: there is no such name, or no answer in time.
            PrivateAddress: it has no public address.
        """
        try:
            async with asyncio.timeout(self.timeout_seconds):
                found = await _look_up(host, port, family)
        except TimeoutError as error:
            raise HostNotFound("no answer") from error
        public = [
            item
            for item in found
            # A scope (fe80::1%eth0) only stands on link-local addresses.
            if host in self.allowed or is_public(ip_address(item["host"].partition("%")[0]))
        ]
        if not public:
            raise PrivateAddress(host)
        return public

    async def close(self) -> None:
        """Nothing to close."""


async def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """`getaddrinfo` in a thread of its own that ends with the process.

    The event loop's own threads would be waited for when the loop is closed: a silent name server
    would then hold up Ctrl-C for half a minute.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[ResolveResult]] = loop.create_future()

    def settle(result: list[ResolveResult] | HostNotFound) -> None:
        if answer.done():
            return
        if isinstance(result, HostNotFound):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result: list[ResolveResult] | HostNotFound
        try:
            found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            result = [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for kind, _, protocol, _, address in found
            ]
        except (OSError, UnicodeError) as error:
            result = HostNotFound(str(error))
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=ask, daemon=True, name="look-up").start()
    return await answer
