"""How a model gets into the Bento model store.

`checkpoint` reads and checks a Hugging Face folder; `smollm2` makes the default model's folder, through `gguf`; `store`
publishes either. A model of another kind is one more module that makes a `package.Package`.
"""
