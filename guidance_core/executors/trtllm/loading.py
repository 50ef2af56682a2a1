"""Loads a model into TensorRT-LLM, with all that answering needs."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidance_core.config import Settings
from guidance_core.executors.proof import Proofs
from guidance_core.executors.trtllm import installation
from guidance_core.executors.trtllm.adapters import Adapters, lora_limits
from guidance_core.executors.trtllm.arguments import Way, choose_way, llm_arguments, slots
from guidance_core.executors.trtllm.installation import Installation
from guidance_core.executors.trtllm.link import Address
from guidance_core.executors.trtllm.model_folder import ModelFolder, read_model_folder
from guidance_core.executors.trtllm.task import WorkerSetup
from guidance_core.grammar.tokenizer import load_ll_tokenizer

_log = logging.getLogger(__name__)

_LIMITS = (
    "initial_lexer_fuel",
    "step_lexer_fuel",
    "step_max_items",
    "max_lexer_states",
    "max_grammar_size",
    "max_items_in_row",
)
"""Settings of what a grammar may cost: our matchers have them, TensorRT-LLM's have llguidance's defaults."""

_NAMES_CODE = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
"""Files whose ``auto_map`` names Python code that lies beside them."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that answers.

    Attributes:
        llm: ``tensorrt_llm``'s ``LLM``.
        installation: where that comes from.
        folder: the model.
        way: how grammars are enforced; ``engine`` only where TensorRT-LLM's own llguidance keeps them just as our
            processors would.
        slots: most sequences that run at once.
        setup: for our processors in its worker processes.
        proofs: None where the model's tokenizer allows no grammars.
        no_grammars: then, why.
        adapters: None where the service has none.
    """

    llm: Any
    installation: Installation
    folder: ModelFolder
    way: Way
    slots: int
    setup: WorkerSetup
    proofs: Proofs | None
    no_grammars: str
    adapters: Adapters | None

    def close(self) -> None:
        """Free everything; blocks until the worker processes have ended."""
        self.llm.shutdown()
        if self.proofs is not None:
            self.proofs.close()


def load(model_path: Path, settings: Settings, address: Address) -> Loaded:
    """Load a model; blocks, for minutes where it is large.

    Args:
        model_path: a checkpoint or a compiled engine, with its tokenizer.
        settings: all of them.
        address: of the service, for worker processes.

    Raises:
        ExecutorUnavailable: TensorRT-LLM is missing, or does not run this kind of model.
        ValueError: the model or the settings do not fit.
    """
    folder = read_model_folder(
        model_path,
        max_model_len=settings.trtllm.max_model_len,
        eos_token=settings.model.eos_token,
        vocab_size=settings.model.n_vocab_override,
    )
    way = choose_way(folder, settings)
    if folder.kind == "checkpoint" and not settings.model.trust_remote_code:
        _refuse_code(model_path)
    installed = installation.load(folder.kind)
    setup = WorkerSetup(
        folder.path,
        folder.vocab_size,
        folder.eos_token_ids,
        settings.guidance,
        slots(folder, settings),
        address,
    )
    no_grammars, proofs = "", None
    try:
        tokenizer = load_ll_tokenizer(folder.path, folder.vocab_size, folder.eos_token_ids)
        proofs = Proofs(tokenizer, settings.guidance)
    except ValueError as error:
        no_grammars = str(error)
    if way == "engine" and (proofs is None or not _keeps_what_ours_keep(folder, settings)):
        way = "processor"
    processor = None
    if way == "batched":
        from guidance_core.executors.trtllm.batched_processor import BatchedProcessor

        processor = BatchedProcessor(setup)
    arguments = llm_arguments(folder, settings, installed, way=way, batched_processor=processor)
    limits = lora_limits(folder, settings.lora)
    _log.info(
        "TensorRT-LLM %s loads the %s %s; what enforces grammars: %s",
        installed.version,
        folder.kind,
        folder.path,
        way,
    )
    return Loaded(
        llm=installed.llm(**arguments),
        installation=installed,
        folder=folder,
        way=way,
        slots=setup.max_rows,
        setup=setup,
        proofs=proofs,
        no_grammars=no_grammars,
        adapters=None if limits is None else Adapters(limits, installation.lora_request_class()),
    )


def _refuse_code(folder: Path) -> None:
    """Refuse a checkpoint that TensorRT-LLM would run code of, whatever it is told.

    ``create_input_processor`` in ``inputs/registry.py`` (1.0 to 1.2, and release candidates of 1.3) reads the model's
    configuration, and with it makes the processors of models that see images, with ``trust_remote_code=True``.

    Raises:
        ValueError: a file of the folder names code.
    """
    for name in _NAMES_CODE:
        file = folder / name
        if file.is_file() and "auto_map" in json.loads(file.read_text()):
            raise ValueError(
                f"{file} names Python code of the checkpoint's own (auto_map), which TensorRT-LLM runs even where it "
                "is told not to. Set model.trust_remote_code to true if you trust that code; otherwise delete auto_map "
                "from the file: models that TensorRT-LLM knows do without."
            )


def _keeps_what_ours_keep(folder: ModelFolder, settings: Settings) -> bool:
    """Whether TensorRT-LLM's own llguidance has our limits and an end token; without one it cannot even be made."""
    return folder.tokenizer_eos_id is not None and all(getattr(settings.guidance, name) is None for name in _LIMITS)
