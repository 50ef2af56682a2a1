"""``tensorrt_llm/executor``: the process that runs the model, and its results."""
