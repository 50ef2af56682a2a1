from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from benchmarks.soak.workload import Workload, matching, openai_judge


def answered(text: str = "7", reason: str = "stop", tokens: int = 1, total: int = 3) -> dict[str, Any]:
    usage = {"prompt_tokens": 2, "completion_tokens": tokens, "total_tokens": total}
    return {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": reason}], "usage": usage}


def streamed(*texts: str, end: str = "data: [DONE]\n\n") -> bytes:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    chunks.append({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}})
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def test_a_judge_finds_what_is_wrong_with_an_answer() -> None:
    judge = openai_judge(matching("[0-9]{1,2}"), max_tokens=4)
    assert judge(json.dumps(answered()).encode()) is None
    assert judge(json.dumps(answered("x")).encode()) == "'x' is not '[0-9]{1,2}'"
    assert judge(json.dumps(answered("x", "length")).encode()) is None
    assert "add up" in str(judge(json.dumps(answered(total=4)).encode()))
    assert "9 tokens" in str(judge(json.dumps(answered(tokens=9, total=11)).encode()))


def test_a_judge_finds_what_is_wrong_with_a_stream() -> None:
    judge = openai_judge(matching("[0-9]{1,2}"), stream=True, max_tokens=4)
    assert judge(streamed("1", "2")) is None
    assert judge(streamed("1", "x")) is not None
    assert judge(streamed("1", "2", end="")) == "the stream ended without [DONE]"
    assert "ended with" in str(judge(streamed("1", end='data: {"error": {"message": "gone"}}\n\ndata: [DONE]\n\n')))


@pytest.mark.parametrize("thinks", [False, True])
def test_all_kinds_of_requests_come_and_can_be_sent(thinks: bool) -> None:
    asks = list(islice(Workload("m", ["a", "b"], 1, thinks=thinks), 500))
    assert ("thoughts" in {ask.kind for ask in asks}) == thinks
    assert {ask.body["model"] for ask in asks if ask.kind == "adapter"} == {"a", "b"}
    assert len({json.dumps(ask.body["response_format"]) for ask in asks if ask.kind == "new schema"}) > 20
