"""What a request is told about its guidance, and the options of a constrained answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from guidance_core.api.choice_guidance import ChoiceGuidance
from guidance_core.api.openai.guidance_details import _choice
from guidance_core.generation import GuidanceTimes, TokenDelta
from tests.api.conftest import MODEL
from tests.api.openai.test_chat import events
from tests.api.scripted_executor import ScriptedExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "guided_regex": "Hello+"}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Hi", "guided_regex": "Hello+"}


@pytest.fixture
def guided(executor: ScriptedExecutor) -> None:
    """Answers one sampled token and two forced ones."""
    executor.script = lambda request, index: [
        TokenDelta(index=index, token_ids=(19556,), guidance=GuidanceTimes(0, 20e-6, 5e-6, 0.25)),
        TokenDelta(index=index, token_ids=(28, 29), guidance=GuidanceTimes(2)),
        TokenDelta(index=index, guidance=GuidanceTimes(0, 10e-6, 0.0, 1.0), finish_reason="stop", stop_token_id=2),
    ]


def added(*times: GuidanceTimes) -> dict[str, Any]:
    guidance = ChoiceGuidance()
    for one in times:
        guidance.add(one)
    return _choice(1, 0, guidance)


def test_percentiles_are_of_the_steps_that_needed_a_mask() -> None:
    steps = [GuidanceTimes(0, i * 1e-6, i * 1e-7) for i in range(1, 101)]
    details = added(*steps, GuidanceTimes(7))

    assert details["mask_us"] == {"p50": 50.0, "p99": 99.0, "total": 5050.0}
    assert details["wait_us"] == {"p50": 5.0, "p99": 9.9, "total": 505.0}
    assert details["forced_tokens"] == 7


def test_surprise_is_finite_even_where_the_model_gives_the_grammar_no_chance() -> None:
    details = added(*(GuidanceTimes(0, 0, 0, mass) for mass in (1.0, 0.5, 0.0)))

    assert details["allowed_mass"] == {"mean": 0.5, "min": 0.0}
    assert details["surprise_bits"] == {"total": 127.0, "max": 126.0}
    json.dumps(details, allow_nan=False)


def test_what_was_not_measured_is_null() -> None:
    details = added()

    assert [details[name] for name in ("mask_us", "wait_us", "allowed_mass", "surprise_bits")] == [None] * 4


@pytest.mark.usefixtures("guided")
@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
@pytest.mark.parametrize("stream", [False, True])
async def test_they_are_in_the_usage_for_each_choice(
    client: httpx.AsyncClient, executor: ScriptedExecutor, path: str, body: dict[str, Any], stream: bool
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    response = await client.post(path, json={**body, **options, "include_guidance": True, "n": 2})

    usage = (events(response.text)[-2] if stream else response.json())["usage"]
    guidance = usage["guidance"]
    assert guidance.pop("compile_ms") > 0
    assert guidance == {
        "kind": "regex",
        "route": "exact",
        "notes": [],
        "cached": False,
        "choices": [
            {
                "index": index,
                "attempts": 1,
                "discarded_tokens": 0,
                "forced_tokens": 2,
                "mask_us": {"p50": 10.0, "p99": 20.0, "total": 30.0},
                "wait_us": {"p50": 0.0, "p99": 5.0, "total": 5.0},
                "allowed_mass": {"mean": 0.625, "min": 0.25},
                "surprise_bits": {"total": 2.0, "max": 2.0},
            }
            for index in range(2)
        ],
    }
    assert executor.requests[0].measure_mass


@pytest.mark.usefixtures("guided")
async def test_the_client_of_openai_gives_them_out(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(
        model=MODEL, messages=CHAT["messages"], extra_body={"guided_regex": "Hello+", "include_guidance": True}
    )

    assert completion.usage is not None
    assert completion.usage.model_extra is not None
    assert completion.usage.model_extra["guidance"]["choices"][0]["forced_tokens"] == 2


@pytest.mark.usefixtures("guided")
async def test_a_grammar_that_comes_again_is_cached(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "include_guidance": True}
    answers = [(await client.post("/v1/chat/completions", json=body)).json() for _ in range(2)]

    assert [answer["usage"]["guidance"]["cached"] for answer in answers] == [False, True]


async def test_choices_of_several_prompts_are_numbered_as_in_the_answer(client: httpx.AsyncClient) -> None:
    body = {**COMPLETION, "prompt": ["a", "b"], "n": 2, "include_guidance": True}
    usage = (await client.post("/v1/completions", json=body)).json()["usage"]

    assert [choice["index"] for choice in usage["guidance"]["choices"]] == [0, 1, 2, 3]


async def test_without_a_constraint_there_is_nothing_to_tell(client: httpx.AsyncClient, hello: str) -> None:
    body = {**CHAT, "guided_regex": None}
    asked = (await client.post("/v1/chat/completions", json={**body, "include_guidance": True})).json()
    not_asked = (await client.post("/v1/chat/completions", json=body)).json()

    assert asked["usage"]["guidance"] is None
    assert "guidance" not in not_asked["usage"]


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/v1/chat/completions", CHAT, "max_tokens"),
        ("/v1/chat/completions", CHAT, "max_completion_tokens"),
        ("/v1/completions", COMPLETION, "max_tokens"),
    ],
)
async def test_an_answer_can_be_made_to_fit_into_a_limit_that_is_given(
    client: httpx.AsyncClient, executor: ScriptedExecutor, path: str, body: dict[str, Any], limit: str
) -> None:
    response = await client.post(path, json={**body, "fit_to_max_tokens": True, limit: 9})

    assert response.status_code == 200
    assert executor.requests[0].complete
    assert not executor.requests[0].measure_mass


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"fit_to_max_tokens": True}, "fit_to_max_tokens"),
        ({"fit_to_max_tokens": True, "max_tokens": 9, "guided_regex": None}, "fit_to_max_tokens"),
        ({"check_attempts": 2, "guided_regex": None}, "check_attempts"),
        ({"check_attempts": 0}, "check_attempts"),
        ({"include_guidance": True, "stream": True}, "include_guidance"),
        ({"include_guidance": True, "stream": True, "stream_options": {}}, "include_guidance"),
        ({"include_guidance": "yes"}, "include_guidance"),
        ({"guided_strict": "exact"}, "guided_strict"),
        ({"guided_regex": None, "structured_outputs": {"regex": "a", "strict": True}}, "structured_outputs.strict"),
        ({"guided_regex": None, "guided_json": {}, "guided_strict": "very"}, "guided_strict"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)])
async def test_options_that_would_have_no_effect_are_refused_by_name(
    client: httpx.AsyncClient,
    executor: ScriptedExecutor,
    path: str,
    body: dict[str, Any],
    fields: dict[str, Any],
    param: str,
) -> None:
    response = await client.post(path, json={**body, **fields})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not executor.requests


@pytest.mark.parametrize("strict", [True, False, "exact", None])
async def test_any_strictness_is_taken_with_a_schema(client: httpx.AsyncClient, strict: object) -> None:
    schema = {"type": "integer"}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema, "strict": strict}}},
        {"guided_json": schema, "guided_strict": strict},
        {"structured_outputs": {"json": schema, "strict": strict}},
    ):
        response = await client.post("/v1/chat/completions", json={**CHAT, "guided_regex": None, **fields})
        assert response.status_code == 200, response.text


async def test_the_document_describes_the_options_and_every_detail(client: httpx.AsyncClient) -> None:
    document = (await client.get("/docs.json")).json()
    schemas = document["components"]["schemas"]

    options = ["include_guidance", "fit_to_max_tokens", "check_attempts", "guided_strict"]
    for body in ("ChatBody", "CompletionBody"):
        assert all(schemas[body]["properties"][option]["description"] for option in options)
    assert schemas["NamedSchema"]["properties"]["strict"]["description"]
    assert set(schemas["ChoiceDetails"]["properties"]) == {"index", *added()}
    assert "422" in document["paths"]["/v1/chat/completions"]["post"]["responses"]
