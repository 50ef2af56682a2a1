from __future__ import annotations

from typing import Any

import pytest

from guidance_core.errors import RequestError
from guidance_core.prompt.messages import normalize_messages


def normalize(*messages: dict[str, Any], developer_role: bool = False) -> list[dict[str, Any]]:
    return normalize_messages(messages, developer_role=developer_role)


def test_text_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert normalize({"role": "user", "content": parts}) == [{"role": "user", "content": "one\ntwo"}]


@pytest.mark.parametrize("message", [{"role": "assistant", "content": None}, {"role": "assistant"}])
def test_missing_content_is_empty(message: dict[str, Any]) -> None:
    assert normalize(message) == [{"role": "assistant", "content": ""}]


def test_fields_that_templates_may_use_are_kept_and_null_ones_left_out() -> None:
    message = {"role": "tool", "content": "21", "tool_call_id": "call_1", "name": None}
    assert normalize(message) == [{"role": "tool", "content": "21", "tool_call_id": "call_1"}]


@pytest.mark.parametrize(("developer_role", "role"), [(True, "developer"), (False, "system")])
def test_developer_is_system_where_the_template_does_not_know_it(developer_role: bool, role: str) -> None:
    (message,) = normalize({"role": "developer", "content": "x"}, developer_role=developer_role)
    assert message["role"] == role


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "user", "content": "x"}, {"role": "robot", "content": "x"}], "messages[1].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 7}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "messages[0].content[0].text"),
    ],
)
def test_malformed_messages_are_refused_by_name(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(RequestError) as error:
        normalize(*messages)
    assert (error.value.status, error.value.param) == (400, param)


def test_the_clients_messages_are_not_changed() -> None:
    message = {"role": "developer", "content": [{"type": "text", "text": "x"}], "name": None}
    copy = {**message}
    normalize(message)
    assert message == copy
