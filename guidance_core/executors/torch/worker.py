"""What the executor's process does: load the model, then step through the requests until it is told to end.

The model is loaded, packed and run in the main thread alone: once a second thread has run a multi-threaded operation,
OpenMP keeps two pools of workers that compete for the cores, and every step is 40 to 65 % slower. For the same reason
no other thread of this process calls torch.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from transformers.utils import logging as transformers_logging

from guidance_core.executors.base import ModelLimits
from guidance_core.executors.torch.engine import Engine
from guidance_core.executors.torch.lora_cache import LoraCache
from guidance_core.executors.torch.messages import (
    Abort,
    Command,
    FinishChoice,
    Load,
    LoadFailed,
    Ready,
    Stepped,
    Submit,
)
from guidance_core.executors.torch.model_runner import ModelRunner
from guidance_core.executors.torch.process import inbox
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch
from kernels.cpu import cpu_kernels

_log = logging.getLogger(__name__)

_COMPILING_SECONDS = 0.002
"""How often a process with nothing to run looks whether a grammar is compiled."""


def main(descriptor: int) -> None:
    """Run until the end.

    Args:
        descriptor: of the connection to the service.
    """
    # A web server that stops signals all of its descendants at once; this one lives until its parent lets it go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [engine] %(levelname)s %(message)s")
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    try:
        load = connection.recv()
    except EOFError:
        return
    commands = inbox(connection)
    try:
        engine, ready = prepare(load)
    except Exception as error:
        if not isinstance(error, ValueError):
            _log.exception("The model could not be loaded.")
        connection.send(LoadFailed(str(error) or type(error).__name__))
        return
    gc.collect()
    gc.freeze()  # Millions of objects that live for ever: no need to look at them again and again.
    connection.send(ready)
    serve(engine, commands, connection.send)


def prepare(load: Load) -> tuple[Engine, Ready]:
    """Load the model and what guides it.

    Raises:
        ValueError: it cannot be served; the message says why.
    """
    settings = load.settings
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    lora = settings.lora if settings.lora.folder is not None else None
    runner = ModelRunner(
        load.model_path,
        settings.torch,
        trust_remote_code=settings.model.trust_remote_code,
        eos_token=settings.model.eos_token,
        lora=lora,
    )
    width = settings.model.n_vocab_override
    if width not in (None, runner.vocab_size):
        raise ValueError(
            f"model.n_vocab_override is {width}, but the model's logits are {runner.vocab_size} wide: leave it out."
        )
    guidance, no_grammars = None, None
    try:
        guidance = GuidanceBatch(
            load_ll_tokenizer(load.model_path, runner.vocab_size, runner.eos_token_ids),
            vocab_size=runner.vocab_size,
            max_rows=runner.num_slots,
            settings=settings.guidance,
            device=runner.device,
        )
    except ValueError as error:
        no_grammars = str(error)
        _log.warning("Grammars cannot be enforced with this model: %s", no_grammars)
    adapters = None if lora is None else LoraCache(runner.read_adapter, lora.max_loaded)
    if runner.device.type == "cpu":
        cpu_kernels()  # compiled now, and not in somebody's first step
    engine = Engine(runner, guidance, settings.torch, adapters)
    runner.warm_up()
    limits = ModelLimits(runner.vocab_size, runner.max_model_len, runner.eos_token_ids)
    return engine, Ready(limits, engine.stats(), no_grammars, runner.no_images)


def serve(engine: Engine, commands: queue.SimpleQueue[Command], send: Callable[[Stepped], None]) -> None:
    """Step for ever: take in what has come, run a step, say what is new."""
    while True:
        for command in _received(engine, commands):
            match command:
                case Submit(key, request):
                    engine.submit(key, request)
                case Abort(key):
                    engine.abort(key)
                case FinishChoice(key, index):
                    engine.finish_choice(key, index)
        send(engine.step())


def _received(engine: Engine, commands: queue.SimpleQueue[Command]) -> list[Command]:
    """All commands that are there; waits for one only where there is nothing else to do."""
    received = []
    try:
        if engine.runnable:
            received.append(commands.get_nowait())
        else:
            received.append(commands.get(timeout=_COMPILING_SECONDS if engine.compiling else None))
        while True:
            received.append(commands.get_nowait())
    except queue.Empty:
        return received


if __name__ == "__main__":
    code = 1
    try:
        main(int(sys.argv[1]))
        code = 0
    except Exception:
        _log.exception("The model's process ends.")
    finally:
        # At once: neither llguidance's threads nor those that compile grammars are to be waited for.
        sys.stderr.flush()
        os._exit(code)
