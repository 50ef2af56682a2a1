"""Named tensors as Triton's gRPC protocol carries them: raw little-endian bytes, strings with a length before each.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[Sequence[int]]

_NUMPY = {
    "BOOL": np.dtype(np.bool_),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP32": np.dtype("<f4"),
}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input that a model declares.

    Attributes:
        name: as the model calls it.
        datatype: as on the wire: ``INT32``, ``BYTES``, ….
        batched: a batch dimension, always 1 here, comes before the declared ones.
        optional: requests may leave it out.
    """

    name: str
    datatype: str
    batched: bool
    optional: bool


def input_specs(config: model_config_pb2.ModelConfig) -> dict[str, InputSpec]:
    """The inputs in a model's configuration, by name."""
    return {
        each.name: InputSpec(
            each.name,
            # TYPE_STRING is called BYTES on the wire; all other names are the same.
            model_config_pb2.DataType.Name(each.data_type).removeprefix("TYPE_").replace("STRING", "BYTES"),
            batched=config.max_batch_size > 0,
            optional=each.optional,
        )
        for each in config.input
    }


def infer_request(
    model: str, request_id: str, inputs: Sequence[tuple[InputSpec, Value]], outputs: Sequence[str] = ()
) -> service_pb2.ModelInferRequest:
    """A request to a model.

    Args:
        model: its name.
        request_id: as the server's models see it.
        inputs: each with its value: a scalar becomes a tensor of shape [1], a list [n], a list of lists [m, n].
        outputs: which to return; none means all.

    Raises:
        KeyError: an input's data type is none that language models take.
    """
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for spec, value in inputs:
        scalar = isinstance(value, bool | int | float | str)
        shape, content = _encode(spec.datatype, [value] if scalar else value)
        tensor = request.inputs.add(name=spec.name, datatype=spec.datatype)
        tensor.shape.extend([1, *shape] if spec.batched else shape)
        request.raw_input_contents.append(content)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def numbers(response: service_pb2.ModelInferResponse, name: str) -> list[int] | None:
    """A tensor of numbers, flat; None where the response has none of that name."""
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == name:
            found: list[int] = np.frombuffer(content, _NUMPY[tensor.datatype]).tolist()
            return found
    return None


def strings(response: service_pb2.ModelInferResponse, name: str) -> list[bytes] | None:
    """A tensor of strings, flat; None where the response has none of that name."""
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == name:
            return _split(content)
    return None


def parameters(config: model_config_pb2.ModelConfig) -> Mapping[str, str]:
    """A model's own parameters; those whose template was never filled in (``${…}``) are left out."""
    found = {name: parameter.string_value for name, parameter in config.parameters.items()}
    return {name: value for name, value in found.items() if value and not value.startswith("${")}


def _encode(datatype: str, values: object) -> tuple[tuple[int, ...], bytes]:
    if datatype == "BYTES":
        assert isinstance(values, Sequence)
        encoded = [text.encode() for text in values]
        return (len(encoded),), b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    array = np.asarray(values, dtype=_NUMPY[datatype])
    return array.shape, array.tobytes()


def _split(content: bytes) -> list[bytes]:
    found = []
    position = 0
    while position < len(content):
        [length] = struct.unpack_from("<I", content, position)
        found.append(content[position + 4 : position + 4 + length])
        position += 4 + length
    return found
