"""TensorRT-LLM behind the contract: its PyTorch backend on a checkpoint, or a compiled engine.

Facts about TensorRT-LLM are cited by file and release line where they are used. They were read in its sources (1.2 and
the 1.3 release candidates); nothing here has run on TensorRT-LLM itself: see ``docs/tensorrt_llm.md``.
"""
