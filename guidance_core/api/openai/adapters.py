"""Which adapter a request is to be answered with: `model` names it, or `lora_model`, as with llgtrt."""

from __future__ import annotations

from guidance_core.api.openai.bodies import GenerationBody
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.errors import InvalidRequest
from guidance_core.generation import LoraAdapter


def adapter_of(served: ServedModel, model: LoadedModel, body: GenerationBody) -> LoraAdapter | None:
    """The adapter, or None for the model as it is.

    Raises:
        InvalidRequest: fields that contradict each other, or a name that leads out of the folder.
        ModelNotFound: there is no such adapter.
    """
    by_model = None if body.model == served.name else body.model
    if body.lora_model is not None and by_model not in (None, body.lora_model):
        raise InvalidRequest(
            f"'model' is the adapter {by_model!r} and 'lora_model' is {body.lora_model!r}: leave one out.",
            param="lora_model",
        )
    name = body.lora_model if by_model is None else by_model
    if name is None:
        if body.load_lora_weights not in (None, "auto"):
            raise InvalidRequest("'load_lora_weights' needs an adapter: add 'lora_model'.", param="load_lora_weights")
        return None
    if model.adapters is None:
        raise InvalidRequest(
            "This service has no adapters: leave out 'lora_model', or set lora.folder, where they are.",
            param="lora_model",
        )
    param = "lora_model" if by_model is None else "model"
    return model.adapters.get(name, body.load_lora_weights or "auto", param=param)
