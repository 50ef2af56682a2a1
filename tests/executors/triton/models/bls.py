"""A stand-in for TensorRT-LLM's tensorrt_llm_bls: a model that asks the three others itself, under an id of its own."""

import json
import threading
import uuid

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL

# what it is here → what the token-level model calls it
PASSED_ON = {
    "stream": "streaming",
    "exclude_input_in_output": "exclude_input_in_output",
    "return_num_output_tokens": "return_num_output_tokens",
    "pad_id": "pad_id",
    "temperature": "temperature",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "seed": "seed",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_tokens",
    "guided_decoding_guide_type": "guided_decoding_guide_type",
    "guided_decoding_guide": "guided_decoding_guide",
}


PREPROCESSED = {
    "text_input": "QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "stop_words": "STOP_WORDS_DICT",
    "end_id": "END_ID",
}


def arrays(request, names):
    """Inputs by the names that other models have for them; copies, because a request lives no longer than `execute`."""
    tensors = {theirs: pb_utils.get_input_tensor_by_name(request, ours) for ours, theirs in names.items()}
    return {name: tensor.as_numpy().copy() for name, tensor in tensors.items() if tensor is not None}


def call(model, inputs, outputs, request_id):
    tensors = [pb_utils.Tensor(name, value) for name, value in inputs.items()]
    return pb_utils.InferenceRequest(
        model_name=model, inputs=tensors, requested_output_names=outputs, request_id=request_id
    )


def results(response):
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.parameters = {name: value["string_value"] for name, value in parameters.items()}
        self.accumulate = self.parameters.get("accumulate_tokens") == "true"

    def execute(self, requests):
        for request in requests:
            arguments = (request.get_response_sender(), arrays(request, PREPROCESSED), arrays(request, PASSED_ON))
            threading.Thread(target=self.respond, args=arguments, daemon=True).start()

    def respond(self, sender, preprocessed, passed_on):
        try:
            for response in self.responses(preprocessed, passed_on):
                sender.send(response)
            sender.send(flags=FINAL)
        except Exception as error:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)

    def responses(self, preprocessed, passed_on):
        request_id = str(uuid.uuid4())
        names = ["INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "STOP_WORDS_IDS", "OUT_END_ID"]
        prepared = results(call(self.parameters["preprocessing_model_name"], preprocessed, names, request_id).exec())
        inputs = {
            "input_ids": prepared["INPUT_ID"],
            "input_lengths": prepared["REQUEST_INPUT_LEN"],
            "request_output_len": prepared["REQUEST_OUTPUT_LEN"],
            "stop_words_list": prepared["STOP_WORDS_IDS"],
            "end_id": prepared["OUT_END_ID"],
            **passed_on,
        }
        outputs = ["output_ids", "sequence_length", "num_output_tokens"]
        generation = call(self.parameters["tensorrt_llm_model_name"], inputs, outputs, request_id)
        everything = np.zeros((1, 1, 0), np.int32)
        for response in generation.exec(decoupled=True):
            answer = results(response)
            if not answer:
                continue
            tokens = answer["output_ids"]
            if self.accumulate:
                tokens = everything = np.concatenate([everything, tokens], axis=2)
            written = results(
                call(
                    self.parameters["postprocessing_model_name"],
                    {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.array([[tokens.shape[2]]], np.int32)},
                    ["OUTPUT"],
                    request_id,
                ).exec()
            )
            tensors = [pb_utils.Tensor("text_output", written["OUTPUT"])]
            if "num_output_tokens" in answer:
                tensors.append(pb_utils.Tensor("num_output_tokens", answer["num_output_tokens"]))
            yield pb_utils.InferenceResponse(tensors)
