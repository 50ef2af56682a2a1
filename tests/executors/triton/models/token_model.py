"""A stand-in for TensorRT-LLM's token-level model: its inputs, its outputs, its errors, its two ways to be stopped."""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from engine_client import EngineStream

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CANCELLATION_CHECK_SECONDS = 0.02


def scalar(request, *names):
    for name in names:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is not None:
            array = tensor.as_numpy()
            if array.size != 1:
                raise pb_utils.TritonModelException(f"Expected a scalar tensor for tensor {name}")
            value = array.reshape(-1)[0]
            return value.decode() if isinstance(value, bytes) else value.item()
    return None


def words(request, name):
    """Upstream's format: row 0 has the words' tokens, row 1 the offsets at which they end, padded with -1."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    [[tokens, ends]] = tensor.as_numpy().tolist()
    starts = [0, *ends]
    return [tokens[start:end] for start, end in zip(starts, ends, strict=False) if end != -1]


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.lock = threading.Lock()
        self.streams = {}
        threading.Thread(target=self.check_cancellations, daemon=True).start()

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            if scalar(request, "stop"):
                self.stop(request.request_id(), sender)
                continue
            try:
                body = self.convert(request)
            except Exception as error:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), flags=FINAL)
                continue
            stream = EngineStream(body)
            with self.lock:
                self.streams.setdefault(request.request_id(), []).append((stream, sender))
            arguments = (stream, sender, request.request_id(), scalar(request, "return_num_output_tokens"))
            threading.Thread(target=self.respond, args=arguments, daemon=True).start()

    def convert(self, request):
        prompt = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
        bias = pb_utils.get_input_tensor_by_name(request, "embedding_bias")
        if not scalar(request, "streaming"):
            raise pb_utils.TritonModelException("this stand-in only streams")
        guided = not self.parameters.get("ignores_guides")
        return {
            "engine": self.parameters["engine_dir"],
            "prompt": prompt[0][: scalar(request, "input_lengths")].tolist(),
            "max_tokens": scalar(request, "request_output_len"),
            "end_id": scalar(request, "end_id"),
            "stop_words": words(request, "stop_words_list"),
            "embedding_bias": None if bias is None or bias.as_numpy().size == 0 else bias.as_numpy()[0].tolist(),
            "top_k": scalar(request, "runtime_top_k"),
            "top_p": scalar(request, "runtime_top_p"),
            "temperature": scalar(request, "temperature"),
            "repetition_penalty": scalar(request, "repetition_penalty"),
            "min_tokens": scalar(request, "min_tokens", "min_length"),
            "seed": scalar(request, "seed", "random_seed"),
            "guide_type": scalar(request, "guided_decoding_guide_type") if guided else None,
            "guide": scalar(request, "guided_decoding_guide") if guided else None,
            "max_seq_len": int(self.parameters.get("max_seq_len", "0")) or None,
            "fail_after": int(self.parameters.get("fail_after", "-1")),
        }

    def respond(self, stream, sender, request_id, count_tokens):
        complete = False
        for line in stream:
            complete = line["final"]
            if complete:
                self.forget(request_id)
            flags = FINAL if complete else 0
            if "error" in line:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(line["error"])), flags=flags)
                break
            tokens = np.array(line["tokens"], np.int32).reshape(1, 1, -1)
            tensors = [
                pb_utils.Tensor("output_ids", tokens),
                pb_utils.Tensor("sequence_length", np.array([[tokens.size]], np.int32)),
                pb_utils.Tensor("cum_log_probs", np.zeros((1, 1), np.float32)),
            ]
            if count_tokens:
                tensors.append(pb_utils.Tensor("num_output_tokens", np.array([[tokens.size]], np.int32)))
            sender.send(pb_utils.InferenceResponse(tensors), flags=flags)
        if not complete:
            # Stopped.
            self.forget(request_id)
            sender.send(flags=FINAL)

    def forget(self, request_id):
        # Before the final response is sent, as upstream does it: Triton crashes where a sender is asked afterwards
        # whether it was cancelled.
        with self.lock:
            self.streams.pop(request_id, None)

    def stop(self, request_id, sender):
        with self.lock:
            for stream, _ in self.streams.get(request_id, []):
                stream.close()
        sender.send(pb_utils.InferenceResponse(), flags=FINAL)

    def check_cancellations(self):
        while True:
            time.sleep(CANCELLATION_CHECK_SECONDS)
            with self.lock:
                for streams in self.streams.values():
                    for stream, sender in streams:
                        if sender.is_cancelled():
                            stream.close()
