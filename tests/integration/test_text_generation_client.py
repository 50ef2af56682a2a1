"""Text-generation-inference's own client against the running service."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import jsonschema
import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import FinishReason, Grammar, GrammarType

from tests.integration.conftest import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(f"{server.url}/tgi", timeout=60)


def test_generate_answers_text_tokens_and_the_reason(client: Client) -> None:
    response = client.generate(PROMPT, max_new_tokens=4)

    assert "Paris" in response.generated_text
    assert "".join(token.text for token in response.details.tokens) == response.generated_text
    assert (response.details.finish_reason, response.details.generated_tokens) == (FinishReason.Length, 4)
    assert all(token.logprob is not None and token.logprob <= 0 for token in response.details.tokens)


def test_a_stream_is_the_same_answer_in_tokens(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=6, top_n_tokens=2)
    parts = list(client.generate_stream(PROMPT, max_new_tokens=6, top_n_tokens=2))

    assert [part.token for part in parts] == whole.details.tokens
    assert parts[-1].generated_text == whole.generated_text
    assert parts[-1].details is not None
    assert parts[-1].details.finish_reason == FinishReason.Length
    assert [len(part.top_tokens or []) for part in parts] == [2] * 6


def test_a_grammar_holds(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["age"],
        "additionalProperties": False,
    }
    as_json = client.generate(
        "A person: ", max_new_tokens=32, grammar=Grammar(type=GrammarType.Json, value=schema), do_sample=True
    )
    date = client.generate(
        "Today: ", max_new_tokens=32, grammar=Grammar(type=GrammarType.Regex, value="[0-9]{4}-[0-9]{2}"), seed=1
    )

    jsonschema.validate(json.loads(as_json.generated_text), schema)
    assert as_json.details.finish_reason == FinishReason.EndOfSequenceToken
    assert re.fullmatch("[0-9]{4}-[0-9]{2}", date.generated_text)


def test_the_seed_that_an_answer_tells_repeats_it(client: Client) -> None:
    sampled = client.generate("Once upon a time", max_new_tokens=8, do_sample=True)
    again = client.generate("Once upon a time", max_new_tokens=8, do_sample=True, seed=sampled.details.seed)

    assert [token.id for token in again.details.tokens] == [token.id for token in sampled.details.tokens]


def test_the_best_of_several_comes_with_the_others(client: Client) -> None:
    best = client.generate("Once upon a time", max_new_tokens=6, best_of=3, do_sample=True).details

    def mean(logprobs: list[float | None]) -> float:
        return sum(logprob or 0 for logprob in logprobs) / len(logprobs)

    assert best.best_of_sequences is not None
    assert len(best.best_of_sequences) == 2
    for other in best.best_of_sequences:
        assert mean([token.logprob for token in other.tokens]) <= mean([token.logprob for token in best.tokens])


def test_a_stop_string_ends_the_answer_and_is_part_of_it(client: Client) -> None:
    response = client.generate(PROMPT, max_new_tokens=16, stop_sequences=["Paris"])

    assert response.generated_text.endswith("Paris")
    assert response.details.finish_reason == FinishReason.StopSequence


def test_the_end_token_has_its_own_logprob(client: Client) -> None:
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    response = client.generate(prompt, max_new_tokens=40)

    assert response.details.finish_reason == FinishReason.EndOfSequenceToken
    end = response.details.tokens[-1]
    assert (end.text, end.special) == ("<|im_end|>", True)
    assert end.logprob is not None
    assert end.logprob < 0


def test_the_prompts_tokens_have_logprobs(client: Client) -> None:
    details = client.generate(PROMPT, decoder_input_details=True, max_new_tokens=1).details
    assert details is not None
    assert "".join(token.text for token in details.prefill) == PROMPT
    first, *others = [token.logprob for token in details.prefill]
    assert first is None
    assert all(logprob is not None and logprob < 0 for logprob in others)


def test_the_client_raises_its_own_errors(client: Client) -> None:
    with pytest.raises(ValidationError, match="watermark"):
        client.generate(PROMPT, watermark=True)
    with pytest.raises(ValidationError, match="grammar is not valid"):
        list(client.generate_stream(PROMPT, grammar=Grammar(type=GrammarType.Regex, value="(")))


async def test_the_asynchronous_client_streams_too(server: Server) -> None:
    parts: AsyncIterator[object] = AsyncClient(f"{server.url}/tgi", timeout=60).generate_stream(
        PROMPT, max_new_tokens=3
    )

    assert len([part async for part in parts]) == 3
