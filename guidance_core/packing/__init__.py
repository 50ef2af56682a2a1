"""How a model gets into the Bento model store.

`source` tells what a folder holds: `checkpoint` describes a Hugging Face checkpoint, `engine` a compiled TensorRT
engine, `triton_repository` a Triton model repository, each as a `package.Package`, which `store` publishes. `smollm2`
makes the default model's checkpoint, through `gguf`; `build` compiles engines. A model of another kind is one more
module that makes a package.
"""
