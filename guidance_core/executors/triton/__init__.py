"""A remote Triton Inference Server that runs TensorRT-LLM. `executor` is the entrance."""
