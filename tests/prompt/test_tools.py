from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidance_core.errors import InvalidRequest
from guidance_core.prompt import PromptTokenizer
from guidance_core.prompt.tools import ToolUse, call_id, for_template, in_words
from guidance_core.tool_format import HERMES, JSON, LLAMA3_JSON, MISTRAL, detect

from .templates import LLAMA3

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Now", "parameters": {"type": "object", "properties": {}}},
}


def conversation(arguments: str = '{"city": "Rome"}') -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]


def test_templates_get_arguments_as_objects() -> None:
    _, assistant, _ = for_template(conversation(), HERMES)
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert assistant["tool_calls"][0]["id"] == "call_1"


def test_mistral_gets_ids_of_nine_characters_that_still_match() -> None:
    _, assistant, result = for_template(conversation(), MISTRAL)
    given = assistant["tool_calls"][0]["id"]
    assert len(given) == 9
    assert given.isalnum()
    assert result["tool_call_id"] == given
    assert call_id("aB3dE6gH9", MISTRAL) == "aB3dE6gH9"
    assert call_id("call_2", MISTRAL) != given


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"'])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    for write in (lambda m: for_template(m, HERMES), lambda m: in_words(m, [], JSON, system_role=True)):
        with pytest.raises(InvalidRequest, match="arguments") as refusal:
            write(conversation(arguments))
        assert refusal.value.param == "messages[1].tool_calls[0].function.arguments"


def test_a_model_that_knows_no_tools_is_told_in_words() -> None:
    system, user, assistant, result = in_words(conversation(), [TOOL], JSON, system_role=True)
    assert system["role"] == "system"
    assert json.dumps(TOOL["function"]) in system["content"]
    assert JSON.begin in system["content"]
    assert user["content"] == [{"type": "text", "text": "Weather?"}]
    assert assistant == {
        "role": "assistant",
        "content": '{"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}',
    }
    assert result == {"role": "user", "content": "Result of call_1:\nsunny"}


def test_what_the_system_message_says_comes_first() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    system, _ = in_words(messages, [TOOL], JSON, system_role=True)
    assert system["content"].startswith("Be brief.\n\nYou can call")


def test_without_a_system_role_the_user_tells() -> None:
    [user] = in_words([{"role": "user", "content": "Hi"}], [TOOL], JSON, system_role=False)
    assert user["role"] == "user"
    assert user["content"].startswith("You can call")
    assert user["content"].endswith("\n\nHi")


def test_no_tools_leave_a_conversation_alone() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert in_words(messages, [], JSON, system_role=True) == messages


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "json"),
        ('{% if tools %}<tool_call>\\n{\\"name\\": \\"arguments\\": {% endif %}', "hermes"),
        ("{% if tools %}[TOOL_CALLS][{% endif %}", "mistral"),
        ("{% if tools %}[TOOL_CALLS]f[ARGS]{% endif %}", "mistral_args"),
        ('{% if tools %}<|python_tag|>{"name": "f", "parameters": {}}{% endif %}', "llama3_json"),
        ("{% if tools %}<function=f>{% endif %}", "json"),
    ],
)
def test_the_template_shows_its_format(template: str, name: str) -> None:
    assert detect(template).name == name


def test_mistrals_space_is_kept() -> None:
    assert detect("{{ tools }}[TOOL_CALLS] [").begin == "[TOOL_CALLS] ["


def test_calls_begin_with_the_json_start_token(make_folder: Callable[..., Path]) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(LLAMA3))
    use = ToolUse(prompts, LLAMA3_JSON, json_start_token="<|eot_id|>")
    assert use.format.trigger == "<|eot_id|>"
    assert use.token_ids == {"<|eot_id|>": prompts.tokenizer.token_to_id("<|eot_id|>")}
    told = ToolUse(prompts, JSON, json_start_token="<|eot_id|>").chat_text([{"role": "user", "content": "Hi"}], [TOOL])
    assert '<|eot_id|>{"tool_calls": [' in told


@pytest.mark.parametrize(
    ("tool_format", "token", "complaint"),
    [(JSON, "<nope>", "no special token of this model"), (HERMES, "<|eot_id|>", "this model's are 'hermes'")],
)
def test_a_json_start_token_that_cannot_work_is_refused(
    make_folder: Callable[..., Path], tool_format: Any, token: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ToolUse(PromptTokenizer.from_folder(make_folder(LLAMA3)), tool_format, json_start_token=token)
