"""What passes between the service and the executor's process: plain picklable data.

Requests are known by a key that is never used twice, so that what is still on its way for an aborted request cannot
reach a later one of the same id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guidance_core.config import Settings
from guidance_core.errors import RequestError
from guidance_core.executors.base import ExecutorStats, ModelLimits
from guidance_core.generation import GenerationRequest, TokenDelta


@dataclass(frozen=True, slots=True)
class Load:
    """To the process, first of all: what to load."""

    model_path: Path
    settings: Settings


@dataclass(frozen=True, slots=True)
class Submit:
    """To the process: a request, which has been checked."""

    key: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Abort:
    """To the process: nobody waits for this request any more."""

    key: int


@dataclass(frozen=True, slots=True)
class FinishChoice:
    """To the process: the caller needs no more of this choice."""

    key: int
    index: int


Command = Submit | Abort | FinishChoice


@dataclass(frozen=True, slots=True)
class Ready:
    """From the process: the model is loaded.

    Attributes:
        limits: of the model.
        stats: of an engine that has done nothing yet.
        no_grammars: why there can be no guidance with this model; None where there can.
        no_images: why the model takes no images; None where it does.
    """

    limits: ModelLimits
    stats: ExecutorStats
    no_grammars: str | None
    no_images: str | None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """From the process, before it ends: why the model cannot be served."""

    message: str


@dataclass(frozen=True, slots=True)
class Stepped:
    """From the process, after every step: all that is new since the last one, by request key.

    Attributes:
        deltas: in the order in which they are to be seen.
        failures: requests that ended with an error.
        stats: after the step; ``restarts`` is for the service to fill in.
    """

    deltas: list[tuple[int, TokenDelta]]
    failures: list[tuple[int, RequestError]]
    stats: ExecutorStats


Report = Ready | LoadFailed | Stepped
