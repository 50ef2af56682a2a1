"""The `guidance` library against the running service: its classes for servers, and its protocol's captures."""

from __future__ import annotations

import json
import re
from typing import Any

import guidance
import httpx
import pytest
from guidance import assistant, gen, select, system, user
from guidance import json as gen_json
from guidance.models import OpenAI
from guidance.models.experimental import SglangModel, VLLMModel

from tests.integration.conftest import MODEL, Server

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}


def asked(model: type[Any], server: Server, question: str) -> Any:
    lm = model(MODEL, api_key="none", base_url=f"{server.url}/v1", echo=False)
    with user():
        lm += question
    return lm


@pytest.mark.parametrize("model", [OpenAI, VLLMModel, SglangModel])
def test_free_text_is_captured(server: Server, model: type[Any]) -> None:
    lm = model(MODEL, api_key="none", base_url=f"{server.url}/v1", echo=False)
    with system():
        lm += "Be brief."
    with user():
        lm += "What is the capital of France?"
    with assistant():
        # The library captures U+FFFD where a character comes in several tokens; greedy, the model writes no such one.
        lm += gen("answer", max_tokens=12, temperature=0)

    assert lm["answer"]
    assert str(lm).endswith(lm["answer"])


@pytest.mark.parametrize("model", [OpenAI, VLLMModel, SglangModel])
def test_a_schema_holds(server: Server, model: type[Any]) -> None:
    lm = asked(model, server, "Invent a person.")
    with assistant():
        lm += gen_json("person", schema=SCHEMA)

    assert 0 <= json.loads(lm["person"])["age"] <= 99


@pytest.mark.parametrize("model", [VLLMModel, SglangModel])
def test_a_grammar_holds_and_gives_its_captures(server: Server, model: type[Any]) -> None:
    lm = asked(model, server, "What is the capital of France?")
    with assistant():
        lm += (
            "It is "
            + select(["Paris", "Rome"], name="city")
            + ", founded in "
            + gen("year", regex="[1-9][0-9]{2}")
            + "."
        )

    assert lm["city"] in ("Paris", "Rome")
    assert re.fullmatch("[1-9][0-9]{2}", lm["year"])
    assert str(lm).endswith(f"It is {lm['city']}, founded in {lm['year']}.")


@pytest.mark.parametrize("model", [VLLMModel, SglangModel])
def test_captures_can_be_lists(server: Server, model: type[Any]) -> None:
    lm = asked(model, server, "Count.")
    with assistant():
        lm += gen("digits", regex="[0-9]", list_append=True) + "," + gen("digits", regex="[0-9]", list_append=True)

    assert [len(digit) for digit in lm["digits"]] == [1, 1]


def test_a_grammar_of_the_library_runs_on_its_own_protocol(server: Server) -> None:
    @guidance(stateless=True)
    def greeting(lm: Any) -> Any:
        return lm + "Hello, my name is " + gen("name", regex="[A-Z][a-z]{1,8}") + "!"

    body = {
        "controller": "llguidance",
        "controller_arg": {"grammar": {"grammars": [{"lark_grammar": greeting().ll_grammar()}]}},
        "prompt": "",
        "temperature": 0.0,
        "max_tokens": 40,
    }
    captures, text, usage = {}, b"", {}
    with httpx.stream("POST", f"{server.url}/v1/run", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    initial, *runs = map(json.loads, lines)
    for run in runs:
        (fork,) = run["forks"]
        assert fork["error"] == ""
        usage = run["usage"]
        for log in fork["logs"].splitlines():
            report = json.loads(log.removeprefix("JSON-OUT: "))
            if report["object"] == "capture":
                captures[report["name"]] = bytes.fromhex(report["hex"])
            elif report["object"] == "text":
                text += bytes.fromhex(report["hex"])

    assert initial["object"] == "initial-run"
    assert re.fullmatch(rb"[A-Z][a-z]{1,8}", captures["name"])
    assert text == b"Hello, my name is " + captures["name"] + b"!"
    assert runs[-1]["forks"][0]["finish_reason"] == "stop"
    # The words around the name are forced.
    assert usage["ff_tokens"] > 4
    assert usage["cost"] == 2 * usage["sampled_tokens"] + usage["ff_tokens"]
