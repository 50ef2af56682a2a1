"""Triton's generate extension under ``/v2``, with the names of TensorRT-LLM's ``ensemble`` and ``tensorrt_llm_bls``.

Protocol: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md. `bodies` says
what a request may contain, `requests` makes a generation request of it, `answers` writes the outputs, `metadata`
describes the model; `endpoints` puts them together.
"""

from guidance_core.api.triton.endpoints import ENDPOINTS

__all__ = ["ENDPOINTS"]
