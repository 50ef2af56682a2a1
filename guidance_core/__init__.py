"""Guaranteed structured output over TensorRT-LLM and PyTorch: the library behind ``service.py``."""
