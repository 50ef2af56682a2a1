"""The images of requests, on their way from URLs to what a model takes: fetched, decoded and processed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from guidance_core.api.image_source import carried, decoded, fetched
from guidance_core.config import ImageSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.generation import PromptImage
from guidance_core.prompt.images import ImageProcessor, ProcessedImage

_PROCESSED_AT_ONCE = min(4, os.cpu_count() or 1)
"""Images that are decoded and processed at a time; each may take tens of megabytes until it is."""


class RequestImages:
    """What a model that takes images makes of those in requests.

    Attributes:
        token: what stands for an image in a prompt's text.
    """

    def __init__(self, processor: ImageProcessor, settings: ImageSettings) -> None:
        """Take the model's processor and what requests may send."""
        self.token = processor.token
        self._processor = processor
        self._settings = settings
        self._room = asyncio.Semaphore(_PROCESSED_AT_ONCE)

    async def read(self, urls: Sequence[tuple[str, str]]) -> list[ProcessedImage]:
        """Fetch or decode images, and process them, in threads.

        Args:
            urls: each with the request's field that has it.

        Raises:
            InvalidRequest, Unsupported: an image that cannot be had or taken, or too many; ``param`` names the field.
        """
        most = self._settings.max_images
        if len(urls) > most:
            param = urls[most][1]
            raise InvalidRequest(
                f"'{param}' is image {most + 1} of the request; {most} are taken at most (images.max_images): send "
                "fewer.",
                param=param,
            )
        tasks = [asyncio.create_task(self._read(url, param)) for url, param in urls]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def place(
        self, prompt_ids: Sequence[int], images: Sequence[ProcessedImage]
    ) -> tuple[tuple[int, ...], tuple[PromptImage, ...]]:
        """See `ImageProcessor.place`."""
        return self._processor.place(prompt_ids, images)

    async def _read(self, url: str, param: str) -> ProcessedImage:
        scheme = url[:8].partition(":")[0].lower()
        if scheme not in ("data", "http", "https"):
            raise Unsupported(
                f"'{param}' must be an image as data:image/png;base64,… or an http or https URL, not {url[:20]!r}.",
                param=param,
            )
        data = None if scheme == "data" else await fetched(url, param, self._settings)
        async with self._room:
            return await asyncio.to_thread(self._process, url, data, param)

    def _process(self, url: str, data: bytes | None, param: str) -> ProcessedImage:
        image = decoded(carried(url, param, self._settings) if data is None else data, param, self._settings)
        try:
            return self._processor.process(image)
        except ValueError as error:
            raise InvalidRequest(
                f"'{param}': the model's processor cannot take an image of {image.width} x {image.height} pixels "
                f"({error}): send one of another size.",
                param=param,
            ) from error
