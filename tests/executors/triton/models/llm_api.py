"""A stand-in for the model of TensorRT-LLM's LLM API: text in, the whole text so far out, and a finish reason."""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from engine_client import EngineStream
from tokenizers import Tokenizer

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CANCELLATION_CHECK_SECONDS = 0.02


def scalar(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0].item()


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.engine = parameters["engine_dir"]["string_value"]
        self.tokenizer = Tokenizer.from_file(parameters["tokenizer_dir"]["string_value"] + "/tokenizer.json")
        self.end_id = int(parameters["end_id"]["string_value"])
        self.lock = threading.Lock()
        self.running = {}
        threading.Thread(target=self.check_cancellations, daemon=True).start()

    def execute(self, requests):
        for request in requests:
            [text] = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            stream = EngineStream(
                {
                    "engine": self.engine,
                    "prompt": self.tokenizer.encode(text.decode()).ids,
                    "max_tokens": scalar(request, "sampling_param_max_tokens") or 32,
                    "end_id": self.end_id,
                    "stop_words": [[self.end_id]],
                    "embedding_bias": None,
                    "top_k": scalar(request, "sampling_param_top_k"),
                    "top_p": scalar(request, "sampling_param_top_p"),
                    "temperature": scalar(request, "sampling_param_temperature"),
                    "repetition_penalty": None,
                    "min_tokens": None,
                    "seed": scalar(request, "sampling_param_seed"),
                    "guide_type": None,
                    "guide": None,
                    "max_seq_len": None,
                    "fail_after": -1,
                }
            )
            sender = request.get_response_sender()
            with self.lock:
                self.running[stream] = sender
            tells = bool(scalar(request, "return_finish_reason"))
            threading.Thread(target=self.respond, args=(stream, sender, tells), daemon=True).start()

    def respond(self, stream, sender, tells):
        tokens = []
        complete = False
        for line in stream:
            complete = line["final"]
            tokens += line["tokens"]
            ended = tokens[-1:] == [self.end_id]
            # Like the LLM API's own detokenizer, it holds back what is no whole character.
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            text = text if complete else text.rstrip("\ufffd")
            # Upstream writes None as text, too.
            reason = "None" if not complete else "stop" if ended else "length"
            tensors = [pb_utils.Tensor("text_output", np.array([text.encode()], np.object_))]
            if tells:
                tensors.append(pb_utils.Tensor("finish_reason", np.array([reason], np.object_)))
            if complete:
                self.forget(stream)
            sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if complete else 0)
        if not complete:
            self.forget(stream)
            sender.send(flags=FINAL)

    def forget(self, stream):
        with self.lock:
            self.running.pop(stream)

    def check_cancellations(self):
        while True:
            time.sleep(CANCELLATION_CHECK_SECONDS)
            with self.lock:
                for stream, sender in self.running.items():
                    if sender.is_cancelled():
                        stream.close()
