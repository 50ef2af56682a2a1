"""Requests that are refused, each with a sentence that names the field and how to mend it."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Hi"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}


async def refusal(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 5.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stream": 1}, "stream"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"logit_bias": {"17": 101}}, "logit_bias.17"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0].type"),
        ({"seed": 2**64}, "seed"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-320}, "repetition_penalty"),
        ({"min_tokens": 20, "max_tokens": 10}, "min_tokens"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 600}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "Hi", "nmae": "x"}]}, "messages[0].nmae"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "bold": True}]}]},
            "messages[0].content[0].bold",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": "text"}, "response_format"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.function"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"strict": True}}},
            "response_format.json_schema.schema",
        ),
        ({"prediction": {"type": "text", "content": "Hi"}}, "prediction.type"),
        ({"response_format": {"type": "regex", "regex": "("}}, "response_format.regex"),
        ({"response_format": {"type": "lark_grammar", "lark_grammar": "start: x"}}, "response_format.lark_grammar"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json"),
        ({"guided_regex": "a", "response_format": SCHEMA}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    ],
    ids=str,
)
async def test_what_is_wrong_is_refused_by_its_path(
    client: httpx.AsyncClient, executor: ScriptedExecutor, field: dict[str, Any], param: str
) -> None:
    error = await refusal(client, {**CHAT, **field})

    assert error["param"] == param
    assert not executor.requests


@pytest.mark.parametrize(
    "field",
    [
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {}},
        {"reasoning_effort": "low"},
        {"store": True},
        {"service_tier": "flex"},
        {"verbosity": "low"},
        {"moderation": {"model": "x"}},
    ],
    ids=str,
)
async def test_what_would_change_the_answer_is_refused_by_name(
    client: httpx.AsyncClient, field: dict[str, Any]
) -> None:
    error = await refusal(client, {**CHAT, **field})

    assert error["param"] == next(iter(field))
    assert error["code"] == "unsupported"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            {"reasoning_effort": "huge"},
            "Invalid value for 'reasoning_effort': must be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or "
            "'max', not 'huge'.",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "Invalid type for 'messages[0].content': must be a string, or a list, not 5.",
        ),
        (
            {"messages": [{"role": "user", "content": ["Hi"]}]},
            "Invalid type for 'messages[0].content[0]': must be an object, not 'Hi'.",
        ),
        (
            {"tool_choice": 5},
            "Invalid value for 'tool_choice': must be 'none', 'auto' or 'required', or an object, not 5.",
        ),
        (
            {"response_format": {"type": "xml"}},
            "Invalid value for 'response_format.type': must be one of 'text', 'json_object', 'json_schema', 'regex', "
            "'lark_grammar', 'llguidance', not 'xml'.",
        ),
        ({"response_format": {}}, "Missing required field 'response_format.type'."),
        (
            {"stop": ["a"] * 17},
            "Invalid value for 'stop': must have at most 16 items, not 17.",
        ),
        ({"stream": "true"}, "Invalid type for 'stream': must be true or false, not 'true'."),
        ({"n": 1.5}, "Invalid type for 'n': must be an integer, not 1.5."),
        ({"n": 0}, "Invalid value for 'n': must be at least 1, not 0."),
        ({"temperature": 3}, "Invalid value for 'temperature': must be at most 2, not 3."),
        ({"typical_p": 0}, "Invalid value for 'typical_p': must be greater than 0, not 0."),
        ({"seed": 2**64}, f"Invalid value for 'seed': must be less than {2**64}, not {2**64}."),
        ({"priority": 10**99}, f"Invalid value for 'priority': must be less than {2**31}, not a number that long."),
        ({"user": ["x"]}, "Invalid type for 'user': must be a string, not a list."),
        ({"stop": 5}, "Invalid type for 'stop': must be a string, or a list of strings, not 5."),
        ({"messages": []}, "Invalid value for 'messages': must not be empty."),
        ({"lora_model": {"name": "x"}}, "Invalid type for 'lora_model': must be a string, not an object."),
        (
            {"llg_log_level": "x" * 50},
            f"Invalid value for 'llg_log_level': must be 'none', 'warning', 'json' or 'verbose', not '{'x' * 40}'….",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "Invalid value for 'tools[0].function.name': must be a string that matches ^[a-zA-Z0-9_-]{1,64}$, "
            "not 'a b'.",
        ),
        ({"echo": True}, "'echo' is not supported, except as false: use 'return_expanded_prompt'."),
        (
            {"service_tier": "flex"},
            """'service_tier' is not supported, except as "auto" or "default": leave it out.""",
        ),
        ({"length_penalty": 2}, "'length_penalty' is not supported, except as 1 or 0: there is no beam search."),
    ],
    ids=str,
)
async def test_the_message_says_what_would_be_right(
    client: httpx.AsyncClient, field: dict[str, Any], message: str
) -> None:
    assert (await refusal(client, {**CHAT, **field}))["message"] == message


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_other_servers_clients_send_by_default_is_accepted(client: httpx.AsyncClient, path: str) -> None:
    defaults = {
        "use_beam_search": False,
        "length_penalty": 1.0,
        "early_stopping": False,
        "spaces_between_special_tokens": True,
        "detokenize": True,
        "logits_processors": [],
    }
    body = CHAT if path == "/v1/chat/completions" else COMPLETION

    assert (await client.post(path, json={**body, **defaults})).status_code == 200


async def test_what_would_change_a_completion_is_refused_by_name(client: httpx.AsyncClient) -> None:
    error = await refusal(client, {**COMPLETION, "suffix": "x"}, "/v1/completions")

    assert error["param"] == "suffix"
    assert error["code"] == "unsupported"


async def test_all_that_has_no_effect_is_accepted(client: httpx.AsyncClient) -> None:
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "verbosity": "medium",
        "modalities": ["text"],
        "reasoning_effort": "none",
        "tool_choice": "none",
        "tools": [],
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "Hi"},
    }
    assert (await client.post("/v1/chat/completions", json={**CHAT, **harmless})).status_code == 200


async def test_null_means_default_for_known_and_unknown_fields(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    nulls = dict.fromkeys(["temperature", "max_tokens", "stop", "n", "stream", "logprobs", "tools", "some_new_field"])
    response = await client.post("/v1/chat/completions", json={**CHAT, **nulls})

    assert response.status_code == 200, response.text
    assert executor.requests[0].sampling.temperature == 1


async def test_an_unknown_field_is_refused_with_the_nearest_known_one(client: httpx.AsyncClient) -> None:
    error = await refusal(client, {**CHAT, "max_token": 5})

    assert error["message"] == "Unknown field 'max_token'; did you mean 'max_tokens'?"
    assert error["param"] == "max_token"
    assert error["code"] == "unknown_parameter"


async def test_a_missing_field_is_named(client: httpx.AsyncClient) -> None:
    error = await refusal(client, {"messages": CHAT["messages"]})

    assert (error["param"], error["code"]) == ("model", "missing_required_parameter")


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"\xff", b'{"a": NaN}', b"[" * 100_000], ids=repr)
async def test_a_body_that_is_no_json_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/chat/completions", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_type")


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tgi/generate", "/v2/models/ensemble/generate"],
)
async def test_a_compressed_body_is_refused_as_such(client: httpx.AsyncClient, path: str) -> None:
    body = gzip.compress(json.dumps(CHAT).encode())
    response = await client.post(path, content=body, headers={"content-encoding": "gzip"})

    assert response.status_code == (422 if path.startswith("/tgi") else 400)
    assert "'gzip'" in response.text
    assert "send it uncompressed" in response.text


async def test_a_grammar_that_does_not_compile_is_refused_in_llguidances_words(client: httpx.AsyncClient) -> None:
    grammar = {"type": "lark_grammar", "lark_grammar": "start: missing_rule"}
    error = await refusal(client, {**CHAT, "stream": True, "response_format": grammar})

    assert error["code"] == "invalid_grammar"
    assert error["param"] == "response_format.lark_grammar"
    assert "missing_rule" in error["message"]


async def test_a_prompt_longer_than_the_context_is_refused(client: httpx.AsyncClient) -> None:
    error = await refusal(client, {**CHAT, "messages": [{"role": "user", "content": "word " * 600}]})

    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]


@pytest.mark.parametrize("prompt", ["", [], [[]], ["a", 5], [1, "a"], {"a": 1}, 5, [True], [-1]], ids=str)
async def test_prompts_of_no_known_form_are_refused(client: httpx.AsyncClient, prompt: object) -> None:
    error = await refusal(client, {**COMPLETION, "prompt": prompt}, "/v1/completions")

    assert error["param"] == "prompt"


@pytest.mark.parametrize(
    ("path", "body", "instead"),
    [
        ("/v1/chat/completions", {**CHAT, "prompt": "Hi"}, "'messages'"),
        ("/v1/chat/completions", {**CHAT, "max_output_tokens": 5}, "'max_completion_tokens'"),
        ("/v1/chat/completions", {**CHAT, "extra_body": {"guided_regex": "x"}}, "beside the others"),
        ("/v1/completions", {**COMPLETION, "messages": CHAT["messages"]}, "'/v1/chat/completions'"),
        ("/v1/completions", {**COMPLETION, "max_completion_tokens": 5}, "'max_tokens'"),
    ],
)
async def test_a_field_of_another_endpoint_is_refused_with_what_to_do(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], instead: str
) -> None:
    error = await refusal(client, body, path)

    assert error["code"] == "unsupported"
    assert instead in error["message"].partition(":")[2]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b" ", "The body is empty: send a JSON object."),
        (b"[]", "The body must be a JSON object, not a list."),
        (b"\xef\xbb\xbf{}", "The body begins with a byte order mark, which JSON must not: leave it out."),
        ("{}".encode("utf-16"), "The body is not UTF-8, but perhaps UTF-16: encode it as UTF-8."),
        ("{}".encode("utf-16-be"), "The body is not UTF-8, but perhaps UTF-16: encode it as UTF-8."),
        (b'{"a": "\xe9"}', "The body is not UTF-8 from its byte 7 on: encode it as UTF-8."),
        (b'{"a": "\xed\xa0\xbd"}', "The body is not UTF-8 from its byte 7 on: encode it as UTF-8."),
        (b'{"a": NaN}', "expected value at line 1 column 7 (JSON has neither NaN nor Infinity)."),
        (b'{"a": -Infinity}', "(JSON has neither NaN nor Infinity)."),
        (b'{"a": "\\ud83d"}', "(half of a surrogate pair, such as \\ud83d alone, is no character)."),
        (b"[" * 500, "The body is nested too deep to be read: recursion limit exceeded"),
        (b"a=1", "The body is not valid JSON: expected value at line 1 column 1."),
    ],
    ids=repr,
)
async def test_what_a_body_is_instead_of_json_is_told(client: httpx.AsyncClient, body: bytes, message: str) -> None:
    response = await client.post("/v1/chat/completions", content=body)

    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
