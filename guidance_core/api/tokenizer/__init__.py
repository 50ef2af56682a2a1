"""`/tokenize` and `/detokenize`, as vLLM has them (its ``vllm/entrypoints/serve/tokenize``)."""

from guidance_core.api.tokenizer.endpoints import ENDPOINTS

__all__ = ["ENDPOINTS"]
