from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.answers import TOP_LOGPROBS, Case, Cost, Heartbeat, cases
from benchmarks.replay import ReplayedProcess, recorded
from guidance_core.api.openai.bodies import ChatBody, CompletionBody
from guidance_core.api.openai.responses.bodies import ResponsesBody
from guidance_core.api.tgi.bodies import TGIGenerateBody
from guidance_core.config import Settings
from guidance_core.executors.torch.messages import Load, Ready, Report, Stepped, Submit
from guidance_core.generation import GenerationRequest, SamplingParams

SAMPLING = SamplingParams(max_tokens=3, n=2, logprobs=TOP_LOGPROBS)


def test_every_question_is_one_that_its_dialect_takes() -> None:
    bodies = {"chat": ChatBody, "completions": CompletionBody, "responses": ResponsesBody, "tgi": TGIGenerateBody}
    for case in cases(list(bodies), 32):
        bodies[case.dialect].parse(case.question(5)[1])


def test_requests_are_answered_together_once_the_last_of_their_group_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReplayedProcess, "messages", recorded(SAMPLING, requests=2, guided=True))
    monkeypatch.setattr(ReplayedProcess, "requests", 2)
    monkeypatch.setattr(ReplayedProcess, "step_seconds", 0.0)
    reports: list[Report] = []
    process = ReplayedProcess(Load(None, Settings()), reports.append, lambda how: None)  # type: ignore[arg-type]
    assert process.join(5)
    assert isinstance(reports.pop(), Ready)
    request = GenerationRequest(request_id="1", prompt_ids=(1,), sampling=SAMPLING)
    process.send(Submit(7, request))
    process.send(Submit(9, request))
    assert process.join(5)
    assert len(reports) == 3
    for step, report in enumerate(reports):
        assert isinstance(report, Stepped)
        assert [(key, delta.index) for key, delta in report.deltas] == [(7, 0), (7, 1), (9, 0), (9, 1)]
        for _, delta in report.deltas:
            assert delta.finish_reason == ("length" if step == 2 else None)
            assert delta.logprobs is not None
            values = [value for _, value in delta.logprobs[0].top]
            assert len(values) == TOP_LOGPROBS
            assert values == sorted(values, reverse=True)


async def test_a_heartbeat_tells_how_long_the_loop_stood_still() -> None:
    heartbeat = Heartbeat()
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_soon(time.sleep, 0.05)
    await asyncio.sleep(0.01)
    heartbeat.stop()
    assert heartbeat.longest > 0.045


def test_a_row_has_the_cost_of_each_token() -> None:
    cost = Cost(cpu_seconds=0.032, stall=0.0123, size=45_600, digest="")
    row = cost.row(Case("chat", streamed=True, n=32, logprobs=True), 10)
    assert row == "| chat | 1 | 32 | 20 | yes | 46 kB | 100 µs | 12.3 ms |"
