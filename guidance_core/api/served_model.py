"""The model that is served: loads in the background, and is what every dialect asks."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from guidance_core.api.images import RequestImages
from guidance_core.config import Settings
from guidance_core.errors import ExecutorUnavailable, ModelNotFound, RequestError
from guidance_core.executors import create_executor
from guidance_core.executors.base import Executor, ExecutorStats, Health
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.lora_folder import LoraFolder
from guidance_core.model_fit import check_fits
from guidance_core.model_store import ModelNotInStore, StoredModel, resolve
from guidance_core.output import Detokenizer
from guidance_core.prompt import PromptTokenizer
from guidance_core.prompt.images import ImageProcessor
from guidance_core.prompt.tools import ToolUse
from guidance_core.reasoning import ReasoningMarkers, find_markers
from guidance_core.tool_format import FORMATS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can answer.

    Attributes:
        tag: in the Bento model store, with its version.
        fingerprint: changes whenever the same request with the same seed may get another answer.
        adapters: which it has; None where none are served.
        images: what becomes of those in requests; None where it takes none.
        no_images: why that is so, for the end of a sentence.
    """

    tag: str
    executor: Executor
    prompts: PromptTokenizer
    tool_use: ToolUse
    reasoning: ReasoningMarkers | None
    detokenizer: Detokenizer
    grammars: GrammarCompiler
    fingerprint: str
    adapters: LoraFolder | None = None
    images: RequestImages | None = None
    no_images: str = "this model takes text only"


Load = Callable[[Settings], Awaitable[LoadedModel]]


class ServedModel:
    """A model's life: `start`, answer, `shutdown`. All methods belong to one event loop.

    Attributes:
        name: what clients send as ``model``.
        created: Unix time of this process's start.
    """

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            settings: of the service.
            load: how to load; by default from the Bento model store.
        """
        self.settings = settings
        self.name = settings.model.served_name or settings.model.tag.partition(":")[0]
        self.created = int(time.time())
        self._load = load or load_model
        self._loaded: LoadedModel | None = None
        self._failure = ""
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._loading = asyncio.create_task(self._run_load())

    async def shutdown(self) -> None:
        """Stop loading, fail what is in flight, free everything."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._loaded is not None:
            try:
                await self._loaded.executor.shutdown()
            finally:
                self._loaded.grammars.close()

    def health(self) -> Health:
        """State now; never blocks."""
        if self._loaded is not None:
            return self._loaded.executor.health()
        if self._failure:
            return Health("failed", self._failure)
        return Health("starting", "The model is being loaded.")

    def stats(self) -> ExecutorStats:
        """The executor's newest numbers; zeros until it is loaded."""
        return ExecutorStats() if self._loaded is None else self._loaded.executor.stats()

    def details(self) -> dict[str, str]:
        """How the executor serves; empty until it is loaded."""
        return {} if self._loaded is None else self._loaded.executor.details()

    def get(self, name: str | None = None) -> LoadedModel:
        """The model, if it can be asked now.

        Args:
            name: what the client calls it, or one of its adapters; None where it need not say.

        Raises:
            ModelNotFound: another model is meant.
            ExecutorUnavailable: still loading, or failed to.
        """
        adapters = None if self._loaded is None else self._loaded.adapters
        known = name in (None, self.name) or (adapters is not None and name in adapters)
        # Which adapters there are is not known before the model is loaded.
        if not known and (self._loaded is not None or self.settings.lora.folder is None):
            raise ModelNotFound(f"The model {name!r} does not exist: this service serves {self.name!r}.", param="model")
        if self._loaded is None:
            retry_after = None if self._failure else 5
            raise ExecutorUnavailable(self.health().detail, retry_after=retry_after)
        return self._loaded

    def adapters(self) -> list[str]:
        """The names of the adapters that requests may choose now."""
        adapters = None if self._loaded is None else self._loaded.adapters
        return [] if adapters is None else adapters.names()

    async def _run_load(self) -> None:
        logger.info("Loading model %s", self.settings.model.tag)
        started = time.monotonic()
        try:
            self._loaded = await self._load(self.settings)
        except (ModelNotInStore, RequestError, ValueError, OSError) as error:
            self._failure = f"The model could not be loaded: {error}"
            logger.critical(self._failure)
        except Exception:
            self._failure = "The model could not be loaded: the service's log says why."
            logger.critical("The model could not be loaded", exc_info=True)
        else:
            logger.info("Serving %s as %r after %.1f s", self._loaded.tag, self.name, time.monotonic() - started)


async def load_model(settings: Settings) -> LoadedModel:
    """Find the model in the store, start its executor, and read its tokenizer meanwhile.

    Raises:
        ModelNotInStore: no such model.
        ExecutorUnavailable: the executor could not load it.
        ValueError, OSError: the model cannot run here, or its files lack something; the message says what.
    """
    stored = await asyncio.to_thread(resolve, settings.model.tag)
    await asyncio.to_thread(check_fits, stored, settings)
    adapters = await asyncio.to_thread(_adapters, settings)
    executor = create_executor(stored.path, settings)
    try:
        prompts, _ = await asyncio.gather(
            asyncio.to_thread(
                PromptTokenizer.from_folder,
                stored.path,
                chat_template=settings.model.chat_template,
                history_template=settings.model.history_template,
                bos_token=settings.model.bos_token,
                eos_token=settings.model.eos_token,
            ),
            executor.start(),
        )
        limits = executor.limits()
        no_images = executor.no_images()
        images = None if no_images else await asyncio.to_thread(_images, stored, settings)
        tool_use = _tool_use(prompts, settings)
        tokenizer = await asyncio.to_thread(load_ll_tokenizer, stored.path, limits.vocab_size, limits.eos_token_ids)
        # What lives for ever need not be looked at again and again: each time would hold up everybody for 0.1 to 0.2 s.
        gc.collect()
        gc.freeze()
        return LoadedModel(
            tag=stored.tag,
            executor=executor,
            prompts=prompts,
            tool_use=tool_use,
            reasoning=_reasoning(prompts),
            detokenizer=Detokenizer(prompts.tokenizer),
            fingerprint=_fingerprint(settings, stored),
            adapters=adapters,
            images=images,
            no_images=no_images or "",
            grammars=GrammarCompiler(
                tokenizer, settings.guidance, max_waiting=executor.stats().slots + settings.server.max_queue_size
            ),
        )
    except BaseException:
        await executor.shutdown()
        raise


def _tool_use(prompts: PromptTokenizer, settings: Settings) -> ToolUse:
    name = settings.model.tool_format
    return ToolUse(prompts, FORMATS[name] if name else None, json_start_token=settings.model.json_start_token)


def _reasoning(prompts: PromptTokenizer) -> ReasoningMarkers | None:
    template = prompts.template()
    return find_markers(prompts.tokenizer, None if template is None else template.source)


def _images(stored: StoredModel, settings: Settings) -> RequestImages:
    processor = ImageProcessor.from_folder(stored.path, trust_remote_code=settings.model.trust_remote_code)
    return RequestImages(processor, settings.images)


def _adapters(settings: Settings) -> LoraFolder | None:
    if settings.lora.folder is None:
        return None
    if settings.executor == "triton":
        raise ValueError(
            f"lora.folder is set, but the executor {settings.executor!r} applies no adapters: unset it, or set "
            "executor to 'torch' or 'trtllm'."
        )
    return LoraFolder(Path(settings.lora.folder))


def _fingerprint(settings: Settings, stored: StoredModel) -> str:
    return "fp_" + hashlib.sha256(f"{stored.tag}\n{settings.model_dump_json()}".encode()).hexdigest()[:10]
