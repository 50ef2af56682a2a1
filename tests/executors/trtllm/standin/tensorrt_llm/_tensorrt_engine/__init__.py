"""``tensorrt_llm/_tensorrt_engine/__init__.py``: compiled engines, up to 1.2."""

import tensorrt_llm

if not tensorrt_llm.__version__.startswith(("1.0", "1.1", "1.2")):
    raise ModuleNotFoundError("No module named 'tensorrt_llm._tensorrt_engine'")

from tensorrt_llm.llmapi.llm import EngineLLM as LLM

__all__ = ["LLM"]
