"""What llguidance reports on an answer."""

from __future__ import annotations

import json

import pytest
from llguidance import LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.grammar.limits import parser_limits
from guidance_core.grammar.replay import Replay, Report

LARK = 'start: "I am " name " and " age\nname[capture]: /[A-Z][a-z]+/\nage[capture="years"]: /[0-9]+/\n'


@pytest.fixture
def replay(ll_tokenizer: LLTokenizer) -> Replay:
    source = json.dumps({"grammars": [{"lark_grammar": LARK}]})
    return Replay(ll_tokenizer, source, parser_limits(GuidanceSettings()))


def captures(reports: list[Report]) -> dict[str, str]:
    return {report["name"]: report["str"] for report in reports if report["object"] == "capture"}


def test_captures_are_reported_once_they_are_certain(replay: Replay, ll_tokenizer: LLTokenizer) -> None:
    assert captures(replay.push(ll_tokenizer.tokenize_str("I am Bob"))) == {}
    assert captures(replay.push(ll_tokenizer.tokenize_str(" and 42"))) == {"name": "Bob"}
    end = replay.finish()

    assert captures(end) == {"years": "42"}
    assert end[-1]["object"] == "final_text"
    assert end[-1]["str"] == "I am Bob and 42"


def test_each_token_has_its_text(replay: Replay, ll_tokenizer: LLTokenizer) -> None:
    tokens = ll_tokenizer.tokenize_str("I am Bob and 42")
    texts = [report for token in tokens for report in replay.push([token]) if report["object"] == "text"]

    assert [report["num_tokens"] for report in texts] == [1] * len(tokens)
    assert b"".join(bytes.fromhex(report["hex"]) for report in texts) == b"I am Bob and 42"


def test_an_answer_that_cannot_end_here_has_no_end(replay: Replay, ll_tokenizer: LLTokenizer) -> None:
    replay.push(ll_tokenizer.tokenize_str("I am Bob"))

    assert replay.finish() == []
