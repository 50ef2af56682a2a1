"""Pieces of an answer → Triton's outputs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import Piece
from guidance_core.api.events import data_event
from guidance_core.api.json_text import finite
from guidance_core.api.triton.bodies import TritonGenerateBody
from guidance_core.output import TextDelta


@dataclass(slots=True)
class _Sequence:
    """What has been received of one sequence since it was last written, and the sum of its logprobs."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    cumulated: float = 0.0


class OutputWriter:
    """Writes the outputs of one request."""

    def __init__(self, body: TritonGenerateBody, model_name: str, answer: Answer) -> None:
        """Take what was asked, and by which name."""
        self._body = body
        self._answer = answer
        self._head = {
            **({} if body.id is None else {"id": body.id}),
            "model_name": model_name,
            "model_version": "1",
            "sequence_end": False,
            "sequence_id": 0,
            "sequence_start": False,
        }
        self._sequences = [_Sequence() for _ in range(body.num_return_sequences)]
        guided = body.guided_decoding_guide_type is not None
        exclude = body.exclude_input_in_output
        excluded = body.stream or (guided if exclude is None else exclude)
        self._prompt = "" if excluded else body.text_input

    def push(self, index: int, piece: TextDelta) -> None:
        """Take the next piece of a sequence."""
        sequence = self._sequences[index]
        sequence.text += piece.text
        sequence.logprobs += [entry.logprob for entry in piece.logprobs or ()]
        if piece.finish_reason is not None:
            end = self._answer.output(index).stop_logprob
            sequence.logprobs += [end.logprob] if end is not None else []

    def response(self, indices: Sequence[int]) -> dict[str, Any]:
        """One response with what these sequences have received since their last one."""
        sequences = [self._sequences[index] for index in indices]
        outputs = [self._answer.output(index) for index in indices]
        written: dict[str, Any] = {**self._head, "batch_index": 0}
        written["sequence_index"] = _tensor(list(indices))
        written["text_output"] = _tensor([self._prompt + sequence.text for sequence in sequences])
        if all(output.finish_reason is not None for output in outputs):
            # Neither of TensorRT-LLM's two models tells it, but its LLM API's model does, by this name.
            written["finish_reason"] = _tensor([output.finish_reason for output in outputs])
        if self._body.return_log_probs:
            logprobs = [[finite(logprob) for logprob in sequence.logprobs] for sequence in sequences]
            for sequence, new in zip(sequences, logprobs, strict=True):
                sequence.cumulated += sum(new)
            written["cum_log_probs"] = _tensor([sequence.cumulated for sequence in sequences])
            written["output_log_probs"] = _tensor([logprob for new in logprobs for logprob in new])
        if self._body.return_num_input_tokens:
            written["num_input_tokens"] = self._answer.prompt_tokens
        if self._body.return_num_output_tokens:
            written["num_output_tokens"] = _tensor([output.completion_tokens for output in outputs])
        for sequence in sequences:
            sequence.text = ""
            sequence.logprobs = []
        return written


async def whole_response(writer: OutputWriter, answer: Answer, sequences: int) -> dict[str, Any]:
    """All sequences to their ends, as one response."""
    async with aclosing(answer.pieces()) as pieces:
        async for index, piece in pieces:
            writer.push(index, piece)
    return writer.response(range(sequences))


async def stream_events(writer: OutputWriter, pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
    """A response for each piece."""
    async with aclosing(pieces):
        async for index, piece in pieces:
            writer.push(index, piece)
            if piece.text or piece.finish_reason is not None:
                yield data_event(writer.response([index]))


def _tensor(values: list[Any]) -> Any:
    """A tensor as the generate extension writes it: one element without a list around it."""
    return values[0] if len(values) == 1 else values
