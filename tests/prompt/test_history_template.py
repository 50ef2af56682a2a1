from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidance_core.errors import ContextLengthExceeded, InvalidRequest, RequestError
from guidance_core.prompt import PromptTokenizer
from guidance_core.prompt.history_template import HistoryTemplate
from guidance_core.prompt.tools import ToolUse
from guidance_core.tool_format import JSON
from tests.prompt.templates import QWEN

PLAIN = (
    "{% for item in items %}{{ item.identity }}{% if item.name %} {{ item.name }}{% endif %}: {{ item.content }}\n"
    "{% endfor %}ASSISTANT:"
)
OWN_ROLES = """{% for item in items -%}
{%- case item.identity -%}
{%- when "System", "Tool" -%}Robot
{%- when "User" -%}Customer
{%- when "Assistant" -%}Support
{%- endcase -%}
{% if item.name %} {{ item.name }}{% endif %}: {{ item.content }}
{% endfor -%}
ASSISTANT:"""
CHAT = [
    {"role": "system", "content": "Be brief.", "name": "boss"},
    {"role": "user", "content": "Hi {{ items }} <b>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "tool", "content": "42", "tool_call_id": "a"},
    {"role": "developer", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
]


def test_a_conversation_reads_as_openai_trtllm_writes_it() -> None:
    assert HistoryTemplate(PLAIN).render(CHAT) == (
        "System boss: Be brief.\nUser: Hi {{ items }} <b>\nAssistant: Hello\nTool: 42\nSystem: one\ntwo\nASSISTANT:"
    )


def test_roles_may_get_other_names() -> None:
    assert HistoryTemplate(OWN_ROLES).render(CHAT[:3]).splitlines() == [
        "Robot boss: Be brief.",
        "Customer: Hi {{ items }} <b>",
        "Support: Hello",
        "ASSISTANT:",
    ]


def test_special_tokens_and_the_requests_variables_are_there() -> None:
    source = "{{ bos_token }}{% if brief %}Be brief. {% endif %}" + PLAIN
    template = HistoryTemplate(source, special_tokens={"bos_token": "<s>"})
    assert template.render(CHAT[1:2], variables={"brief": True}).startswith("<s>Be brief. User:")
    assert template.render(CHAT[1:2]).startswith("<s>User:")


@pytest.mark.parametrize("name", ["items", "tools", "add_generation_prompt", "brief"])
def test_variables_that_would_have_no_effect_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"'{name}'"):
        HistoryTemplate(PLAIN).render(CHAT[1:2], variables={name: True})


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for item in %}", "not valid Liquid: expected .*"),
        ("\n{% for item in items %}{{ item.content | loud }}{% endfor %}", r"unknown filter 'loud' \(line 2\)"),
        ("{% for item in items %}{{ item.role }}{% endfor %}", r"is undefined \(line 1\)"),
        ("{% for item in items %}{{ item.identity }}{% endfor %}", "must go through `items`"),
        ("{% include 'head' %}" + PLAIN, "includes 'head'"),
        ("{{ '+/+/' | base64_decode }}" + PLAIN, "not valid Liquid: .*codec"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_it_is_read(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        HistoryTemplate(source)


def test_messages_that_it_cannot_write_are_the_clients_error() -> None:
    template = HistoryTemplate(PLAIN + "{% if items[0].name %}{{ missing }}{% endif %}")
    with pytest.raises(InvalidRequest, match="cannot render these messages: 'missing' is undefined"):
        template.render(CHAT)
    with pytest.raises(InvalidRequest, match=r"cannot render these messages: .*codec"):
        HistoryTemplate("{% if note %}{{ note | base64_decode }}{% endif %}" + PLAIN).render(
            CHAT[1:2], variables={"note": "+/+/"}
        )
    with pytest.raises(ContextLengthExceeded, match="longer than 20 characters"):
        template.render([{"role": "user", "content": "long " * 10}], max_chars=20)


@pytest.fixture
def prompts(make_folder: Callable[..., Path], tmp_path: Path) -> PromptTokenizer:
    file = tmp_path / "own.liquid"
    file.write_text(PLAIN)
    return PromptTokenizer.from_folder(make_folder(QWEN), history_template=file)


def test_it_replaces_the_models_own_template(prompts: PromptTokenizer) -> None:
    assert prompts.chat_text([{"role": "user", "content": "Hi"}]) == "User: Hi\nASSISTANT:"


def test_tools_are_told_in_words(prompts: PromptTokenizer) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    use = ToolUse(prompts)
    assert use.format is JSON
    assert use.chat_text([{"role": "user", "content": "Hi"}], tools).startswith("System: You can call these functions:")


def test_the_last_message_can_be_continued_but_the_answers_start_cannot_be_left_out(prompts: PromptTokenizer) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}]
    assert prompts.chat_text(chat, continue_final_message=True) == "User: Hi\nAssistant: Well,"
    with pytest.raises(InvalidRequest, match="always begins the answer: leave add_generation_prompt out"):
        prompts.chat_text(chat, add_generation_prompt=False)


def test_two_templates_at_once_are_refused(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        PromptTokenizer.from_folder(make_folder(QWEN), chat_template=tmp_path, history_template=tmp_path)


def test_its_library_is_loaded_only_with_it() -> None:
    program = "import sys, guidance_core.prompt, guidance_core.prompt.tools; sys.exit('liquid' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
