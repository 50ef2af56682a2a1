from __future__ import annotations

from datetime import datetime

import pytest

from guidance_core.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from guidance_core.prompt import ChatTemplate

HELLO = [{"role": "user", "content": "hello"}]


def test_a_template_that_names_the_developer_role_gets_it() -> None:
    chat = [{"role": "developer", "content": "x"}]
    assert ChatTemplate("{{ messages[0].role }}").render(chat) == "system"
    assert ChatTemplate("{# developer #}{{ messages[0].role }}").render(chat) == "developer"


def test_the_date_is_at_hand() -> None:
    before = datetime.now().strftime("%Y-%m-%d")
    rendered = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").render(HELLO)
    assert rendered in (before, datetime.now().strftime("%Y-%m-%d"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(messages[0]) }}",
        "{{ messages[0].update(role='system') }}",
    ],
)
def test_templates_can_neither_break_out_nor_change_their_input(source: str) -> None:
    with pytest.raises(InvalidRequest):
        ChatTemplate(source).render(HELLO)
    assert HELLO == [{"role": "user", "content": "hello"}]


def test_a_mistake_in_a_template_is_an_error_of_the_request_that_meets_it() -> None:
    template = ChatTemplate("{{ messages[0].content + messages[1].content }}")
    assert template.render(HELLO * 2) == "hellohello"
    with pytest.raises(InvalidRequest) as error:
        template.render(HELLO)
    assert error.value.param == "messages"


def test_endless_output_stops_at_the_limit() -> None:
    template = ChatTemplate(
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'x' * 100 }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(ContextLengthExceeded):
        template.render(HELLO, max_chars=10_000)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_variables_cannot_replace_the_request(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        ChatTemplate("{{ messages[0].content }}").render(HELLO, variables={name: []})


@pytest.mark.parametrize("value", [True, "x", 0, []])
def test_a_variable_that_the_template_does_not_ask_for_is_refused(value: object) -> None:
    template = ChatTemplate("{% set mood = 1 %}{{ messages[0].content }}{# thinking #}{{ tone | default('') }}")

    assert template.render(HELLO, variables={"tone": value, "thinking": False, "mood": None})
    for name in ("thinking", "mood"):
        with pytest.raises(Unsupported, match=f"knows no variable '{name}'") as refusal:
            template.render(HELLO, variables={name: value})
        assert refusal.value.param == "chat_template_kwargs"


def test_variables_win_over_special_tokens() -> None:
    template = ChatTemplate("{{ bos_token }}", special_tokens={"bos_token": "<s>"})
    assert template.render(HELLO) == "<s>"
    assert template.render(HELLO, variables={"bos_token": "<b>"}) == "<b>"
