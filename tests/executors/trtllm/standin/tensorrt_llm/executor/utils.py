"""``tensorrt_llm/executor/utils.py``."""


class RequestError(RuntimeError):
    """A request that failed in the worker."""
