"""What requests may say about their prompt."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletionMessage

from guidance_core.api.served_model import LoadedModel
from guidance_core.prompt.chat_template import ChatTemplate
from guidance_core.prompt.tokenizer import PromptTokenizer
from guidance_core.prompt.tools import ToolUse
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"peculiar_key": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


async def expanded(client: httpx.AsyncClient, **options: Any) -> str:
    response = await client.post("/v1/chat/completions", json={**ASK, "return_expanded_prompt": True, **options})
    assert response.status_code == 200, response.text
    prompt: str = response.json()["expanded_prompt"]
    return prompt


async def test_the_expanded_prompt_is_what_the_model_gets(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    text = await expanded(client)
    assert loaded.prompts.encode_chat(text) == executor.requests[-1].prompt_ids
    assert text.endswith("<|im_start|>assistant\n")
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True, "return_expanded_prompt": True})
    assert '"expanded_prompt":' in response.text
    assert "expanded_prompt" not in (await client.post("/v1/chat/completions", json=ASK)).json()


async def test_the_generation_prompt_can_be_left_out(client: httpx.AsyncClient) -> None:
    assert (await expanded(client, add_generation_prompt=False)).endswith("Hi<|im_end|>\n")


async def test_the_last_message_can_be_continued(client: httpx.AsyncClient) -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": [{"type": "text", "text": "Hello, my "}]}]
    text = await expanded(client, messages=messages, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nHello, my")


async def test_the_model_is_told_the_schema_unless_it_shall_not(client: httpx.AsyncClient) -> None:
    assert "peculiar_key" in await expanded(client, response_format=FORMAT)
    assert "peculiar_key" not in await expanded(client, response_format=FORMAT, include_json_schema_in_prompt=False)
    system = [{"role": "system", "content": "Be brief."}, *ASK["messages"]]
    text = await expanded(client, response_format=FORMAT, messages=system)
    assert text.index("Be brief.") < text.index("peculiar_key") < text.index("Hi")


async def test_the_model_is_told_the_schemas_description(client: httpx.AsyncClient) -> None:
    described = {"type": "json_schema", "json_schema": {**FORMAT["json_schema"], "description": "A peculiar thing."}}

    assert '{"description":"A peculiar thing.","type":"object"' in await expanded(client, response_format=described)


async def test_the_model_is_told_of_tools_unless_it_shall_not(client: httpx.AsyncClient) -> None:
    tools = [{"type": "function", "function": {"name": "peculiar", "parameters": {"type": "object"}}}]

    assert "peculiar" in await expanded(client, tools=tools)
    assert "peculiar" not in await expanded(client, tools=tools, include_json_schema_in_prompt=False)


@pytest.mark.parametrize("refused", [{"refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}])
async def test_a_refusal_of_the_assistant_is_read_as_its_text(
    client: httpx.AsyncClient, refused: dict[str, Any]
) -> None:
    messages = [*ASK["messages"], {"role": "assistant", **refused}, {"role": "user", "content": "Why?"}]

    assert "<|im_start|>assistant\nNo.<|im_end|>" in await expanded(client, messages=messages)


async def test_thoughts_go_by_either_name(client: httpx.AsyncClient, loaded: LoadedModel) -> None:
    prompts = PromptTokenizer(
        loaded.prompts.tokenizer,
        {"default": ChatTemplate("{% for m in messages %}{{ m.reasoning_content }}{% endfor %}")},
    )
    object.__setattr__(loaded, "prompts", prompts)  # frozen for all but this test
    object.__setattr__(loaded, "tool_use", ToolUse(prompts))
    for name in ("reasoning", "reasoning_content"):
        messages = [*ASK["messages"], {"role": "assistant", "content": "Hello.", name: "Hm."}, *ASK["messages"]]
        assert await expanded(client, messages=messages) == "Hm."


async def test_a_result_may_name_the_function_that_was_called(client: httpx.AsyncClient) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "c", "content": "noon"}
    begun = [*ASK["messages"], {"role": "assistant", "tool_calls": [call]}]

    named = await expanded(client, messages=[*begun, {**result, "name": "clock"}])
    assert named == await expanded(client, messages=[*begun, result])
    response = await client.post("/v1/chat/completions", json={**ASK, "messages": [*begun, {**result, "name": "dial"}]})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "'messages[2].name' is 'dial', but the call 'c' is of 'clock': leave it out."
    )


async def test_templates_that_show_schemas_do_so_themselves(client: httpx.AsyncClient, loaded: LoadedModel) -> None:
    source = "{{ messages[-1].content }}{% if json_schema %}|{{ json_schema | tojson }}{% endif %}|{{ mood }}"
    prompts = PromptTokenizer(loaded.prompts.tokenizer, {"default": ChatTemplate(source)})
    object.__setattr__(loaded, "tool_use", ToolUse(prompts))  # frozen for all but this test
    text = await expanded(client, response_format=FORMAT, chat_template_kwargs={"mood": "gay"})
    assert text.startswith('Hi|{"type": "object"')
    assert text.endswith("|gay")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {
                "continue_final_message": True,
                "add_generation_prompt": True,
                "messages": [*ASK["messages"], {"role": "assistant", "content": "Hello"}],
            },
            "continue_final_message",
        ),
        (
            {
                "continue_final_message": True,
                "messages": [*ASK["messages"], {"role": "assistant", "content": "  "}],
            },
            "continue_final_message",
        ),
        ({"return_expanded_prompt": 1}, "return_expanded_prompt"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, options: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **options})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_answers_are_taken_back_with_all_the_fields_that_they_did_not_have(client: httpx.AsyncClient) -> None:
    answered = {"role": "assistant", "content": "Hello."}
    plain = await expanded(client, messages=[*ASK["messages"], answered, *ASK["messages"]])
    empty: list[dict[str, Any]] = [
        ChatCompletionMessage(role="assistant", content="Hello.").model_dump(),
        {**answered, "refusal": "", "tool_calls": [], "annotations": [], "parsed": None, "reasoning_content": None},
    ]
    for message in empty:
        assert await expanded(client, messages=[*ASK["messages"], message, *ASK["messages"]]) == plain


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("audio", {"id": "a"}, "leave it out"), ("annotations", [{"type": "url_citation"}], "citations are not told")],
)
async def test_what_the_model_cannot_be_told_of_an_answer_is_refused_in_words(
    client: httpx.AsyncClient, field: str, value: Any, words: str
) -> None:
    messages = [*ASK["messages"], {"role": "assistant", "content": "Hello.", field: value}]
    error = (await client.post("/v1/chat/completions", json={**ASK, "messages": messages})).json()["error"]

    assert error["param"] == f"messages[1].{field}"
    assert words in error["message"]
