"""Compiles a Hugging Face checkpoint through TensorRT-LLM's LLM API, in a process of its own.

``_tensorrt_engine.LLM`` compiles when it is made, and ``save`` writes the engine (``_TrtLLM`` in
``tensorrt_llm/llmapi/llm.py``, 1.0 to 1.2).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m guidance_core.packing.llm_api_build")
    parser.add_argument("--model", required=True, help="checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="folder for the engine")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--pipeline-parallel-size", type=int, default=1)
    parser.add_argument("--limit", action="append", default=[], help="NAME=NUMBER of BuildConfig")
    options = parser.parse_args()
    try:
        engines = importlib.import_module("tensorrt_llm._tensorrt_engine")
        llmapi = importlib.import_module("tensorrt_llm.llmapi")
    except ImportError as error:
        print(
            f"error: engines are compiled by TensorRT-LLM 1.0 to 1.2, which cannot be imported here ({error}). Run "
            "this in NVIDIA's image of it; or pack the checkpoint as it is: newer versions run that.",
            file=sys.stderr,
        )
        return 1
    limits = {name: int(value) for name, _, value in (limit.partition("=") for limit in options.limit)}
    llm = engines.LLM(
        model=options.model,
        skip_tokenizer_init=True,
        dtype=options.dtype,
        tensor_parallel_size=options.tensor_parallel_size,
        pipeline_parallel_size=options.pipeline_parallel_size,
        build_config=llmapi.BuildConfig(**limits),
    )
    try:
        llm.save(str(options.output))
    finally:
        llm.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
