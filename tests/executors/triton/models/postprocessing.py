"""A stand-in for TensorRT-LLM's postprocessing model: the text of one response's tokens, special tokens left out."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = Tokenizer.from_file(parameters["tokenizer_dir"]["string_value"] + "/tokenizer.json")

    def execute(self, requests):
        return [self.convert(request) for request in requests]

    def convert(self, request):
        [[tokens]] = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().tolist()
        [[length]] = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy().tolist()
        text = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array([text.encode()], np.object_))])
