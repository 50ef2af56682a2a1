"""A stand-in for TensorRT-LLM: its names, signatures, defaults and refusals, with the embedded executor's model inside.

It calls logits processors with the shapes, from the thread and in the process that TensorRT-LLM does, and samples as
the samplers of the 1.2 line do, what they ignore included. Each module names the file of TensorRT-LLM that it stands
for, under the same path.
"""

import os

__version__ = os.environ.get("TENSORRT_LLM_STANDIN_VERSION", "1.2.1")

from tensorrt_llm.llmapi.llm import LLM
from tensorrt_llm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams", "__version__"]
