"""``tensorrt_llm/llmapi/__init__.py``."""

from tensorrt_llm.llmapi.llm_args import (
    CapacitySchedulerPolicy,
    DynamicBatchConfig,
    KvCacheConfig,
    NGramDecodingConfig,
    SchedulerConfig,
)
from tensorrt_llm.sampling_params import GuidedDecodingParams

__all__ = [
    "CapacitySchedulerPolicy",
    "DynamicBatchConfig",
    "GuidedDecodingParams",
    "KvCacheConfig",
    "NGramDecodingConfig",
    "SchedulerConfig",
]
