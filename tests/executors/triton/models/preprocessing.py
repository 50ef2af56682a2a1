"""A stand-in for TensorRT-LLM's preprocessing model: text → token ids, words → the word-list format."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


def array(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.tokenizer = Tokenizer.from_file(parameters["tokenizer_dir"]["string_value"] + "/tokenizer.json")
        self.add_special_tokens = parameters["add_special_tokens"]["string_value"] == "true"

    def execute(self, requests):
        return [self.convert(request) for request in requests]

    def convert(self, request):
        [[text]] = array(request, "QUERY")
        ids = self.tokenizer.encode(text.decode(), add_special_tokens=self.add_special_tokens).ids
        end_id = array(request, "END_ID")
        end_id = np.array([[0]], np.int32) if end_id is None else end_id
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("INPUT_ID", np.array([ids], np.int32)),
                pb_utils.Tensor("REQUEST_INPUT_LEN", np.array([[len(ids)]], np.int32)),
                pb_utils.Tensor("REQUEST_OUTPUT_LEN", array(request, "REQUEST_OUTPUT_LEN")),
                pb_utils.Tensor("STOP_WORDS_IDS", self.word_list(array(request, "STOP_WORDS_DICT"))),
                pb_utils.Tensor("OUT_END_ID", end_id),
            ]
        )

    def word_list(self, words):
        tokens, ends = [], []
        for word in [] if words is None else words[0]:
            tokens += self.tokenizer.encode(word.decode(), add_special_tokens=False).ids
            ends.append(len(tokens))
        ends += [-1] * (len(tokens) - len(ends))
        return np.array([[tokens, ends]], np.int32).reshape(1, 2, -1)
