"""What runs a model, behind one contract: `base.Executor`."""

from __future__ import annotations

from pathlib import Path

from guidance_core.config import Settings
from guidance_core.executors.base import Executor


def create_executor(model_path: Path, settings: Settings) -> Executor:
    """The executor that the settings name, not started yet.

    Args:
        model_path: folder of the model.
        settings: all of them.
    """
    # Each executor brings libraries of its own: import only the one that runs.
    match settings.executor:
        case "torch":
            from guidance_core.executors.torch.executor import TorchExecutor

            return TorchExecutor(model_path, settings)
        case "triton":
            from guidance_core.executors.triton.executor import TritonExecutor

            return TritonExecutor(model_path, settings)
        case "trtllm":
            from guidance_core.executors.trtllm.executor import TrtllmExecutor

            return TrtllmExecutor(model_path, settings)
