"""Where images come from: data URLs of every kind, and a real HTTP server on this machine."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import quote_from_bytes

import aiohttp
import numpy as np
import PIL.Image
import pytest
from PIL.Image import Image
from transformers.image_utils import load_image

from guidance_core.api import image_source
from guidance_core.api.image_source import carried, decoded, fetched
from guidance_core.config import ImageSettings
from guidance_core.errors import InvalidRequest, Unsupported
from tests.vision_models import picture

SETTINGS = ImageSettings(max_bytes=50_000, max_pixels=10_000)
LOCAL = ImageSettings(fetch=True, hosts=["127.0.0.1"], fetch_timeout=0.3, max_bytes=20_000)


def file(image: Image, kind: str = "PNG", **options: Any) -> bytes:
    data = BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def as_array(image: Image) -> np.ndarray[Any, Any]:
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_format_becomes_the_rgb_image_that_transformers_loads(kind: str) -> None:
    data = file(picture(1), kind)

    image = decoded(data, "url", SETTINGS)

    assert image.mode == "RGB"
    assert np.array_equal(as_array(image), as_array(load_image(base64.b64encode(data).decode())))


@pytest.mark.parametrize(
    "source",
    [
        picture(1).convert("RGBA"),
        picture(1).convert("LA"),
        picture(1).convert("P"),
        picture(1).convert("1"),
        PIL.Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50),
    ],
    ids=["alpha", "grey with alpha", "palette", "bits", "16 bits"],
)
def test_every_kind_of_pixel_becomes_rgb(source: Image) -> None:
    image = decoded(file(source), "url", SETTINGS)

    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, second = PIL.Image.new("RGB", (8, 8), "red"), PIL.Image.new("RGB", (8, 8), "blue")

    image = decoded(file(first, "GIF", save_all=True, append_images=[second]), "url", SETTINGS)

    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_an_image_that_lies_on_its_side_is_put_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # orientation: turn it by 90 degrees

    assert decoded(file(picture(1), "JPEG", exif=exif), "url", SETTINGS).size == (30, 40)


def bomb() -> bytes:
    """A PNG of few bytes that claims to have 40 gigapixels."""
    head = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (b"IHDR" + head, b"IDAT")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (file(picture(1, width=200, height=100)), "200 x 100 pixels"),
        (bomb(), "pixels"),
        (file(PIL.Image.new("RGB", (2, 900))), "100 times"),
        (file(picture(1))[:600], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "no image of the formats"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of the formats"),
        (file(picture(1), "BMP"), "no image of the formats"),
        (b"", "no image of the formats"),
    ],
    ids=["large", "bomb", "line", "cut off", "head only", "svg", "bmp", "empty"],
)
def test_what_is_no_such_image_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        decoded(data, "messages[0].url", SETTINGS)
    assert caught.value.param == "messages[0].url"


def test_data_urls_may_be_in_base64_or_percent_encoded() -> None:
    data = file(picture(1))
    encoded = base64.b64encode(data).decode()
    for url in (
        f"data:image/png;base64,{encoded}",
        f"data:;base64,{encoded[:100]}\n{encoded[100:]}",
        f"DATA:image/png;BASE64,{encoded.replace('+', '%2B')}",
        f"data:image/png,{quote_from_bytes(data)}",
    ):
        assert carried(url, "url", SETTINGS) == data


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,a$b=", "invalid base64"),
        ("data:image/png;base64,abcde", "invalid base64"),
        ("data:image/png;base64," + "A" * 80_000, "more than 50000 bytes"),
        ("data:," + "A" * 300_000, "more than 50000 bytes"),
    ],
)
def test_bad_data_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        carried(url, "url", SETTINGS)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("content-type", "text/html")  # which is not believed
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # of whoever has had enough
            self.wfile.write(file(picture(1)))
            for _ in range(100 if self.path == "/endless" else 0):
                self.wfile.write(b"x" * 10_000)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_an_image_is_fetched_from_a_host_that_is_named(site: str) -> None:
    assert await fetched(f"{site}/a", "url", LOCAL) == file(picture(1))


async def test_a_redirect_is_followed_where_its_end_is_allowed(site: str) -> None:
    assert await fetched(f"{site}/to//a", "url", LOCAL) == file(picture(1))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none", "answers 404"),
        ("/endless", "more than 20000 bytes"),
        ("/slow", "longer than 0.3 s"),
        ("/to//to//to//to//to//a", "more than 3 times"),
        ("/to/file:///etc/passwd", "neither http nor https"),
        ("/to/http://localhost/a", "not fetched from localhost"),
        ("/to/http://169.254.169.254/latest", "not fetched from 169.254.169.254"),
    ],
)
async def test_what_cannot_be_fetched_is_refused(site: str, path: str, words: str) -> None:
    with pytest.raises((InvalidRequest, Unsupported), match=words) as caught:
        await fetched(site + path, "url", LOCAL)
    assert caught.value.status == 400
    assert caught.value.param == "url"


async def test_nothing_is_fetched_unless_it_is_allowed(site: str) -> None:
    with pytest.raises(Unsupported, match=r"images\.fetch"):
        await fetched(f"{site}/a", "url", ImageSettings())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_this_machine_is_not_reached_under_any_of_its_names(site: str, host: str) -> None:
    url = site.replace("127.0.0.1", host) + "/a"
    with pytest.raises((InvalidRequest, Unsupported)) as caught:
        await fetched(url, "url", ImageSettings(fetch=True))
    assert caught.value.status == 400


async def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(self: object, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict[str, Any]]:
        found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
        return [found]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    url = site.replace("127.0.0.1", "images.example") + "/a"
    with pytest.raises(InvalidRequest, match="cannot be fetched"):
        await fetched(url, "url", ImageSettings(fetch=True))
    assert await fetched(url, "url", ImageSettings(fetch=True, hosts=["images.example"])) == file(picture(1))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:192.168.0.1", False),
        ("64:ff9b::a01:203", False),
        ("2002:a01:203::1", False),
    ],
)
def test_addresses_of_other_networks_only_are_public(address: str, public: bool) -> None:
    assert image_source._is_public(ipaddress.ip_address(address)) is public
