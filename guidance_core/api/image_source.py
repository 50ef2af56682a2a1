"""Where a request's images come from: URLs that carry them, and, where that is allowed, URLs to fetch them from.

What a client sends is decoded as what it is, whatever it claims to be. Fetching is guarded against requests that would
have this service reach into its own network: a host is resolved once, its addresses are judged, and those very
addresses are connected to, for each redirect anew.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from guidance_core.config import ImageSettings
from guidance_core.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is decoded, by Pillow's names."""

_MOST_REDIRECTS = 3

_LONGEST_SIDE_RATIO = 100
"""Processors scale the shorter side of an image to a size of their own: of one that is a line, nothing would be left of
the memory."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def fetched(url: str, param: str, settings: ImageSettings) -> bytes:
    """What is behind an ``http`` or ``https`` URL.

    Args:
        url: of the image.
        param: the request's field that has it.
        settings: whether, from where, and how much.

    Raises:
        Unsupported: nothing is fetched here, or not from that host.
        InvalidRequest: there is nothing, too much, or it takes too long.
    """
    if not settings.fetch:
        raise Unsupported(
            f"'{param}' is a URL to fetch an image from, which this service does not (images.fetch): send the image "
            "itself, as data:image/png;base64,…",
            param=param,
        )
    try:
        return await asyncio.wait_for(_fetched(url, param, settings), settings.fetch_timeout)
    except asyncio.TimeoutError:
        raise InvalidRequest(
            f"'{param}': fetching the image took longer than {settings.fetch_timeout:g} s: try again, or send the "
            "image itself.",
            param=param,
        ) from None


def carried(url: str, param: str, settings: ImageSettings) -> bytes:
    """What a ``data`` URL carries (RFC 2397).

    Raises:
        InvalidRequest: it is malformed, or carries too much.
    """
    head, comma, body = url[5:].partition(",")
    if not comma:
        raise InvalidRequest(
            f"'{param}' has no comma, which begins a data URL's data: write data:image/png;base64,…", param=param
        )
    if len(body) > 4 * settings.max_bytes:
        raise _too_large(param, settings)
    data = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise InvalidRequest(f"'{param}' has invalid base64: {error}.", param=param) from None
    if len(data) > settings.max_bytes:
        raise _too_large(param, settings)
    return data


def decoded(data: bytes, param: str, settings: ImageSettings) -> Image:
    """The image, upright, its first frame, in RGB: as transformers' own `load_image` has it.

    Args:
        data: of a file in one of `FORMATS`.
        param: the request's field that has it.
        settings: how large it may be.

    Raises:
        InvalidRequest: it is no such image, or too large.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > settings.max_pixels:
                raise InvalidRequest(
                    f"'{param}' has {width} x {height} pixels; at most {settings.max_pixels} are taken "
                    "(images.max_pixels): scale it down.",
                    param=param,
                )
            if max(width, height) > _LONGEST_SIDE_RATIO * min(width, height):
                raise InvalidRequest(
                    f"'{param}' has {width} x {height} pixels; one side may be {_LONGEST_SIDE_RATIO} times the other "
                    "at most: cut it into pieces.",
                    param=param,
                )
            upright: Image = PIL.ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except InvalidRequest:
        raise
    except PIL.Image.DecompressionBombError:
        raise InvalidRequest(
            f"'{param}' has more than {settings.max_pixels} pixels (images.max_pixels): scale it down.", param=param
        ) from None
    except PIL.UnidentifiedImageError:
        raise InvalidRequest(
            f"'{param}' is no image of the formats {', '.join(FORMATS)}: convert it to one.", param=param
        ) from None
    except Exception as error:  # decoders raise whatever a broken file leads to
        raise InvalidRequest(f"'{param}' is damaged: {error}. Save the image again.", param=param) from None


def _too_large(param: str, settings: ImageSettings) -> InvalidRequest:
    return InvalidRequest(
        f"'{param}' has more than {settings.max_bytes} bytes (images.max_bytes): scale the image down, or compress it.",
        param=param,
    )


async def _fetched(url: str, param: str, settings: ImageSettings) -> bytes:
    import aiohttp  # which BentoML brings

    connector = aiohttp.TCPConnector(resolver=_resolver(settings), use_dns_cache=False)
    try:
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            for _ in range(_MOST_REDIRECTS + 1):
                _check_url(url, param, settings)
                async with session.get(url, allow_redirects=False, headers={"accept": "image/*"}) as response:
                    if response.status in (301, 302, 303, 307, 308) and "location" in response.headers:
                        url = urljoin(url, response.headers["location"])
                        continue
                    if response.status != 200:
                        raise InvalidRequest(
                            f"'{param}': the image's host answers {response.status}: check the URL.", param=param
                        )
                    return await _body(response, param, settings)
    except (aiohttp.ClientError, ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise InvalidRequest(
            f"'{param}': the image cannot be fetched ({reason}): check the URL, or send the image itself.", param=param
        ) from None
    raise InvalidRequest(
        f"'{param}' redirects more than {_MOST_REDIRECTS} times: give the URL that it leads to.", param=param
    )


async def _body(response: Any, param: str, settings: ImageSettings) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > settings.max_bytes:
            raise _too_large(param, settings)
    return bytes(data)


def _check_url(url: str, param: str, settings: ImageSettings) -> None:
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidRequest(f"'{param}' leads to a URL that is neither http nor https: give another.", param=param)
    if settings.hosts and host not in settings.hosts:
        raise Unsupported(
            f"'{param}': images are not fetched from {host} (images.hosts): send the image itself, as "
            "data:image/png;base64,…",
            param=param,
        )
    # An address needs no resolving, so the resolver does not see it.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if host not in settings.hosts and not _is_public(address):
        raise Unsupported(f"'{param}': images are fetched from public addresses only, unlike {host}.", param=param)


def _resolver(settings: ImageSettings) -> Any:
    import aiohttp

    class Resolver(aiohttp.ThreadedResolver):
        """Finds public addresses only, except of hosts that the settings name."""

        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[Any]:
            found = await super().resolve(host, port, family)
            if host not in settings.hosts and not all(_is_public(ipaddress.ip_address(a["host"])) for a in found):
                raise OSError(None, f"{host} has an address that is not public")
            return list(found)

    return Resolver()


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is somebody else's on the internet, also where it stands for another address."""
    if isinstance(address, ipaddress.IPv6Address):
        behind = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            behind.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if not all(_is_public(other) for other in behind if other is not None):
            return False
    return address.is_global and not address.is_multicast
