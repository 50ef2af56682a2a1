"""The service class as BentoML sees it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer

import service
from guidance_core.api.bento.middleware import RequestMiddleware
from guidance_core.config import BadSettings


def test_the_bentofile_names_this_service() -> None:
    bentofile = (Path(service.__file__).parent / "bentofile.yaml").read_text()
    module, name = re.findall(r'^service: "(\w+):(\w+)"', bentofile, re.MULTILINE)[0]

    assert getattr(importlib.import_module(module), name) is service.GuidedLLM


def test_its_endpoints_are_the_documented_ones() -> None:
    assert {api.route: api.name for api in service.GuidedLLM.apis.values()} == {
        "/v1/chat/completions": "chat_completions",
        "/v1/completions": "completions",
        "/v1/responses": "responses",
        "/v1/responses/input_tokens": "response_input_tokens",
        "/generate": "generate",
    }
    assert {api.name for api in service.GuidedLLM.apis.values() if api.is_stream} == {"generate"}


def test_every_endpoint_says_what_it_does() -> None:
    assert all((api.doc or "").endswith(".") for api in service.GuidedLLM.apis.values())


def test_arguments_of_bentoml_serve_are_settings() -> None:
    try:
        BentoMLContainer.bento_arguments.set({"torch.max_batch_size": "3"})
        assert service.GuidedLLM.inner().served.settings.torch.max_batch_size == 3
        BentoMLContainer.bento_arguments.set({"torch.max_bach_size": "3"})
        with pytest.raises(BadSettings, match=r"Did you mean torch\.max_batch_size\?"):
            service.GuidedLLM.inner()
    finally:
        BentoMLContainer.bento_arguments.reset()


def test_arguments_of_bentoml_serve_bound_bodies() -> None:
    try:
        BentoMLContainer.bento_arguments.set({"server.max_body_bytes": "300"})
        application = service.GuidedLLM.to_asgi()
        assert [m.kwargs for m in application.user_middleware if m.cls is RequestMiddleware] == [
            {"max_body_bytes": 300}
        ]
    finally:
        BentoMLContainer.bento_arguments.reset()
