"""Requests of every dialect and kind of constraint, each with what its answer must be."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jsonschema

Verdict = str | None
"""What is wrong with an answer, or None."""

Judge = Callable[[bytes], Verdict]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        kind: for the table.
        path: where it goes.
        body: as JSON.
        judge: what is wrong with the body of a 200.
        refused: it is meant to be answered by a 4xx.
    """

    kind: str
    path: str
    body: dict[str, Any]
    judge: Judge
    refused: bool = False


class BadAnswer(Exception):
    """An answer that breaks a promise; the message says which."""


@dataclass(slots=True)
class Choice:
    """One choice of an answer, put together from a body or from events."""

    text: str = ""
    finish_reason: str | None = None
    calls: dict[int, dict[str, str]] = field(default_factory=dict)


def events(body: bytes) -> Iterator[Any]:
    """The JSON objects of a stream, which has to end well.

    Raises:
        BadAnswer: it ends in an error.
    """
    for line in body.decode().splitlines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            event = json.loads(line[5:])
            if isinstance(event, dict) and event.get("error"):
                raise BadAnswer(f"the stream ended with {event['error']}")
            yield event


def openai_choices(body: bytes, *, stream: bool, n: int, max_tokens: int) -> list[Choice]:
    """The choices of a chat or a completion, whose usage has to add up.

    Raises:
        BadAnswer: it does not.
    """
    choices = [Choice() for _ in range(n)]
    usage: dict[str, Any] = {}
    if stream and b"data: [DONE]" not in body:
        raise BadAnswer("the stream ended without [DONE]")
    for part in events(body) if stream else [json.loads(body)]:
        usage = part.get("usage") or usage
        for piece in part["choices"]:
            choice = choices[piece["index"]]
            said = piece.get("delta") or piece.get("message") or {"content": piece.get("text")}
            choice.text += said.get("content") or ""
            choice.finish_reason = piece["finish_reason"] or choice.finish_reason
            for place, call in enumerate(said.get("tool_calls") or ()):
                known = choice.calls.setdefault(call.get("index", place), {"name": "", "arguments": ""})
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
    if any(choice.finish_reason is None for choice in choices):
        raise BadAnswer("a choice has no finish_reason")
    if usage.get("total_tokens") != usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0):
        raise BadAnswer(f"the usage does not add up: {usage}")
    if not 0 < usage["completion_tokens"] <= n * max_tokens:
        raise BadAnswer(f"{usage['completion_tokens']} tokens for {n} choices of at most {max_tokens}")
    return choices


def valid_json(schema: Any) -> Callable[[str], Verdict]:
    """A check of a whole text against a schema, by `jsonschema`."""
    validator = jsonschema.Draft202012Validator(schema)

    def check(text: str) -> Verdict:
        try:
            error = next(validator.iter_errors(json.loads(text)), None)
        except ValueError as failure:
            return f"not JSON ({failure}): {text[:200]!r}"
        return None if error is None else f"{error.message}: {text[:200]!r}"

    return check


def matching(pattern: str) -> Callable[[str], Verdict]:
    """A check of a whole text against a regular expression, by `re`."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: None if compiled.fullmatch(text) else f"{text[:200]!r} is not {pattern!r}"


def openai_judge(
    check: Callable[[str], Verdict], *, stream: bool = False, n: int = 1, max_tokens: int, ends: bool = False
) -> Judge:
    """Of a chat or a completion: whatever says ``stop`` must pass the check; with ``ends``, all must have stopped."""

    def judge(body: bytes) -> Verdict:
        try:
            choices = openai_choices(body, stream=stream, n=n, max_tokens=max_tokens)
        except BadAnswer as error:
            return str(error)
        for choice in choices:
            if ends and choice.finish_reason != "stop":
                return f"fit_to_max_tokens, but it ended with {choice.finish_reason!r}: {choice.text[:200]!r}"
            if choice.finish_reason == "stop" and (wrong := check(choice.text)):
                return wrong
        return None

    return judge


def anything(_: str) -> Verdict:
    """Any text will do."""
    return None


class Workload:
    """Endless requests, drawn at random.

    Args:
        model: name of the served model.
        adapters: names of its adapters.
        seed: of the draws.
        thinks: whether it thinks first.
    """

    def __init__(self, model: str, adapters: list[str], seed: int, *, thinks: bool = False) -> None:
        self._model = model
        self._adapters = adapters
        self._random = random.Random(seed)
        self._count = 0
        self._schemas = [self._schema(f"known{number}_") for number in range(40)]
        self._makers: list[Callable[[], Ask]] = [
            self.plain,
            self.plain_stream,
            self.new_schema,
            self.new_schema,
            self.known_schema,
            self.known_schema_stream,
            self.several_choices,
            self.regex,
            self.regex_stream,
            self.lark,
            self.tools,
            self.tools_stream,
            self.fitting,
            self.checked,
            self.logprobs,
            self.prompt_logprobs,
            self.response,
            self.response_stream,
            self.tgi,
            self.tgi_stream,
            self.triton,
            self.triton_stream,
            self.run,
            self.generate,
            self.long_prompt,
            self.refused_field,
            self.refused_grammar,
            self.unknown_path,
        ]
        if adapters:
            self._makers += [self.adapter, self.adapter]
        if thinks:
            self._makers.append(self.thoughts)

    def __iter__(self) -> Iterator[Ask]:
        while True:
            yield self._random.choice(self._makers)()

    # What the requests are made of.

    def _new(self) -> str:
        self._count += 1
        return f"{self._count:x}{self._random.getrandbits(24):06x}"

    def _words(self, count: int | None = None) -> str:
        count = count or self._random.randint(1, 40)
        return " ".join(self._random.choice(_WORDS) for _ in range(count))

    def _schema(self, prefix: str) -> dict[str, Any]:
        draw = self._random
        kinds: list[dict[str, Any]] = [
            {"type": "integer", "minimum": draw.randint(-50, 0), "maximum": draw.randint(1, 10**6)},
            {"type": "string", "maxLength": draw.randint(1, 12)},
            {"type": "boolean"},
            {"enum": [self._words(2) for _ in range(draw.randint(1, 6))]},
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
            {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-f0-9]{4}$"}]},
            {
                "type": "object",
                "properties": {"x": {"type": "boolean"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        ]
        names = [f"{prefix}{number}" for number in range(draw.randint(1, 4))]
        return {
            "type": "object",
            "properties": {name: draw.choice(kinds) for name in names},
            "required": names[: draw.randint(1, len(names))],
            "additionalProperties": False,
        }

    def _chat(self, kind: str, judge: Judge, *, refused: bool = False, **fields: Any) -> Ask:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": self._words()}],
            "max_tokens": 96,
            **fields,
        }
        if body.get("stream"):
            body["stream_options"] = {"include_usage": True}
        return Ask(kind, "/v1/chat/completions", body, judge, refused)

    def _json_chat(self, kind: str, schema: dict[str, Any], *, stream: bool = False, n: int = 1, **fields: Any) -> Ask:
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        judge = openai_judge(valid_json(schema), stream=stream, n=n, max_tokens=96)
        return self._chat(kind, judge, response_format=wanted, stream=stream, n=n, **fields)

    # One method for each kind of request.

    def plain(self) -> Ask:
        """Free text."""
        draw = self._random
        judge = openai_judge(anything, max_tokens=16)
        return self._chat("plain", judge, max_tokens=16, temperature=draw.choice([0, 1]), top_p=0.9, stop=["zq"])

    def plain_stream(self) -> Ask:
        """Free text, streamed."""
        judge = openai_judge(anything, stream=True, max_tokens=32)
        return self._chat("plain stream", judge, max_tokens=32, stream=True, frequency_penalty=0.5)

    def new_schema(self) -> Ask:
        """A schema that nobody has sent before."""
        return self._json_chat("new schema", self._schema(f"p{self._new()}_"))

    def known_schema(self) -> Ask:
        """One of some schemas."""
        return self._json_chat("known schema", self._random.choice(self._schemas), include_guidance=True)

    def known_schema_stream(self) -> Ask:
        """One of some schemas, streamed."""
        return self._json_chat("known schema stream", self._random.choice(self._schemas), stream=True)

    def several_choices(self) -> Ask:
        """Several answers at once."""
        n = self._random.randint(2, 4)
        schema = self._random.choice([self._schema(f"n{self._new()}_"), *self._schemas[:3]])
        return self._json_chat("several choices", schema, n=n, stream=self._random.random() < 0.5)

    def fitting(self) -> Ask:
        """An ending that fits."""
        name = f"f{self._new()}"
        schema = {
            "type": "object",
            "properties": {name: {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}},
            "required": [name, "list"],
            "additionalProperties": False,
        }
        judge = openai_judge(valid_json(schema), max_tokens=64, ends=True)
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return self._chat("fit_to_max_tokens", judge, response_format=wanted, max_tokens=64, fit_to_max_tokens=True)

    def checked(self) -> Ask:
        """A schema of which a part is checked on the whole answer; a 422 says that no attempt passed."""
        schema = {
            "type": "object",
            "properties": {
                "a": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 99},
                    "minItems": 2,
                    "maxItems": 3,
                    "uniqueItems": True,
                }
            },
            "required": ["a"],
            "additionalProperties": False,
            "title": self._new() if self._random.random() < 0.5 else "x",
        }
        return self._json_chat("checked", schema, stream=self._random.random() < 0.3)

    def _pattern(self) -> str:
        return self._random.choice(
            [
                "[0-9]{4}-[0-9]{2}-[0-9]{2}",
                "(yes|no)",
                f"id-{self._new()}-[a-f0-9]{{8}}",
                f"[A-Z][a-z]{{1,{self._random.randint(2, 30)}}}",
            ]
        )

    def regex(self) -> Ask:
        """A regular expression."""
        pattern = self._pattern()
        judge = openai_judge(matching(pattern), max_tokens=96)
        return self._chat("regex", judge, response_format={"type": "regex", "regex": pattern})

    def regex_stream(self) -> Ask:
        """A regular expression behind a plain prompt, streamed."""
        pattern = self._pattern()
        body = {
            "model": self._model,
            "prompt": self._words(),
            "max_tokens": 64,
            "stream": True,
            "response_format": {"type": "regex", "regex": pattern},
            "stream_options": {"include_usage": True},
        }
        judge = openai_judge(matching(pattern), stream=True, max_tokens=64)
        return Ask("regex stream", "/v1/completions", body, judge)

    def lark(self) -> Ask:
        """A Lark grammar, tried in a process of its own when it is new."""
        word = self._new() if self._random.random() < 0.2 else "known"
        grammar = f'start: "{word} " NUMBER ("," NUMBER)?\nNUMBER: /[0-9]{{1,3}}/'
        body = {
            "model": self._model,
            "prompt": self._words(),
            "max_tokens": 64,
            "response_format": {"type": "lark_grammar", "lark_grammar": grammar},
        }
        judge = openai_judge(matching(f"{word} [0-9]{{1,3}}(,[0-9]{{1,3}})?"), max_tokens=64)
        return Ask("lark", "/v1/completions", body, judge)

    def tools(self) -> Ask:
        """A call that has to be."""
        return self._tools("tools", stream=False)

    def tools_stream(self) -> Ask:
        """The same, streamed."""
        return self._tools("tools stream", stream=True)

    def _tools(self, kind: str, *, stream: bool) -> Ask:
        schema = self._schema(f"t{self._new()}_") if self._random.random() < 0.5 else self._random.choice(self._schemas)
        choice = self._random.choice(["required", "required", "auto"])
        valid = valid_json(schema)

        def judge(body: bytes) -> Verdict:
            try:
                (said,) = openai_choices(body, stream=stream, n=1, max_tokens=96)
            except BadAnswer as error:
                return str(error)
            if said.finish_reason == "length":
                return None
            if choice == "required" and not said.calls:
                return f"no call: {said}"
            return next(filter(None, (valid(call["arguments"]) for call in said.calls.values())), None)

        function = {"name": "look", "description": self._words(3), "parameters": schema}
        tools = [{"type": "function", "function": function}]
        return self._chat(kind, judge, tools=tools, tool_choice=choice, stream=stream)

    def thoughts(self) -> Ask:
        """Bounded thoughts, then JSON."""
        schema = self._random.choice(self._schemas)
        return self._json_chat("thoughts", schema, max_thinking_tokens=self._random.randint(0, 20))

    def adapter(self) -> Ask:
        """An adapter's answer."""
        schema = self._random.choice(self._schemas)
        return self._json_chat("adapter", schema, model=self._random.choice(self._adapters), temperature=0)

    def logprobs(self) -> Ask:
        """Log-probabilities of the answer."""
        judge = openai_judge(anything, max_tokens=12, n=2)
        return self._chat("logprobs", judge, logprobs=True, top_logprobs=5, max_tokens=12, n=2)

    def prompt_logprobs(self) -> Ask:
        """Log-probabilities of the prompt."""
        body = {"model": self._model, "prompt": self._words(30), "max_tokens": 2, "prompt_logprobs": 2}
        return Ask("prompt logprobs", "/v1/completions", body, openai_judge(anything, max_tokens=2))

    def long_prompt(self) -> Ask:
        """A prompt of some thousand tokens."""
        body = {"model": self._model, "prompt": self._words(1500), "max_tokens": 4}
        return Ask("long prompt", "/v1/completions", body, openai_judge(anything, max_tokens=4))

    def response(self) -> Ask:
        """OpenAI's Responses API."""
        return self._response("response", stream=False)

    def response_stream(self) -> Ask:
        """The same, streamed."""
        return self._response("response stream", stream=True)

    def _response(self, kind: str, *, stream: bool) -> Ask:
        schema = self._random.choice(self._schemas)
        valid = valid_json(schema)

        def judge(body: bytes) -> Verdict:
            try:
                whole = list(events(body))[-1]["response"] if stream else json.loads(body)
            except BadAnswer as error:
                return str(error)
            usage = whole["usage"]
            if usage["total_tokens"] != usage["input_tokens"] + usage["output_tokens"]:
                return f"the usage does not add up: {usage}"
            if whole["status"] != "completed":
                return None if whole["incomplete_details"]["reason"] == "max_output_tokens" else f"status of {whole}"
            said = "".join(
                part["text"] for item in whole["output"] if item["type"] == "message" for part in item["content"]
            )
            return valid(said)

        wanted = {"type": "json_schema", "name": "answer", "schema": schema}
        body = {
            "model": self._model,
            "input": self._words(),
            "max_output_tokens": 96,
            "text": {"format": wanted},
            "stream": stream,
        }
        return Ask(kind, "/v1/responses", body, judge)

    def tgi(self) -> Ask:
        """The dialect of text-generation-inference."""
        schema = self._random.choice([self._schema(f"g{self._new()}_"), *self._schemas])
        valid = valid_json(schema)

        def judge(body: bytes) -> Verdict:
            answer = json.loads(body)
            stopped = answer["details"]["finish_reason"] == "eos_token"
            return valid(answer["generated_text"]) if stopped else None

        parameters = {
            "max_new_tokens": 80,
            "details": True,
            "do_sample": True,
            "grammar": {"type": "json", "value": schema},
        }
        return Ask("tgi", "/tgi/generate", {"inputs": self._words(), "parameters": parameters}, judge)

    def tgi_stream(self) -> Ask:
        """The same, streamed."""
        pattern = self._pattern()
        valid = matching(pattern)

        def judge(body: bytes) -> Verdict:
            try:
                last = list(events(body))[-1]
            except BadAnswer as error:
                return str(error)
            return valid(last["generated_text"]) if last["details"]["finish_reason"] == "eos_token" else None

        parameters = {"max_new_tokens": 64, "details": True, "grammar": {"type": "regex", "value": pattern}}
        return Ask("tgi stream", "/tgi/generate_stream", {"inputs": self._words(), "parameters": parameters}, judge)

    def triton(self) -> Ask:
        """Triton's generate extension."""
        return self._triton("triton", stream=False)

    def triton_stream(self) -> Ask:
        """The same, streamed."""
        return self._triton("triton stream", stream=True)

    def _triton(self, kind: str, *, stream: bool) -> Ask:
        schema = self._random.choice(self._schemas)
        valid = valid_json(schema)

        def judge(body: bytes) -> Verdict:
            try:
                parts = list(events(body)) if stream else [json.loads(body)]
            except BadAnswer as error:
                return str(error)
            text = "".join(part["text_output"] for part in parts)
            return valid(text) if parts[-1]["finish_reason"] == "stop" else None

        body = {
            "text_input": self._words(),
            "max_tokens": 64,
            "guided_decoding_guide_type": "json_schema",
            "guided_decoding_guide": json.dumps(schema),
            "stream": stream,
        }
        return Ask(kind, f"/v2/models/ensemble/generate{'_stream' if stream else ''}", body, judge)

    def run(self) -> Ask:
        """The `/v1/run` of llgtrt, with a capture."""
        word = self._new() if self._random.random() < 0.2 else "Name"
        grammar = {
            "grammars": [{"lark_grammar": f'start: "{word} is " name "."\nname[capture]: /[A-Z][a-z]{{1,8}}/\n'}]
        }
        body = {
            "controller": "llguidance",
            "controller_arg": {"grammar": grammar},
            "prompt": self._words(),
            "max_tokens": 48,
        }
        valid = matching(f"{word} is [A-Z][a-z]{{1,8}}\\.")

        def judge(answer: bytes) -> Verdict:
            if b"data: [DONE]" not in answer:
                return f"no [DONE]: {answer[-300:]!r}"
            forks = [event["forks"][0] for event in events(answer) if event.get("forks")]
            if forks[-1].get("finish_reason") == "length":
                return None
            return valid("".join(fork["text"] for fork in forks))

        return Ask("run", "/v1/run", body, judge)

    def generate(self) -> Ask:
        """BentoML's own."""
        return Ask("generate", "/generate", {"prompt": self._words(), "max_tokens": 12}, lambda body: None)

    def refused_field(self) -> Ask:
        """A field, a model and a header that do not exist, each time others."""
        ask = self.plain()
        name = f"field_{self._new()}"
        body = {**ask.body, self._random.choice(["model", name]): name}
        return Ask("refused field", ask.path, body, lambda body: "it should be refused", refused=True)

    def refused_grammar(self) -> Ask:
        """A schema or a pattern that cannot be."""
        pattern = self._random.choice([f"({self._new()}", f"(?={self._new()})a"])
        ask = self._chat("refused grammar", lambda body: "it should be refused", refused=True)
        ask.body["response_format"] = {"type": "regex", "regex": pattern}
        return ask

    def unknown_path(self) -> Ask:
        """A path that does not exist, each time another."""
        return Ask("unknown path", f"/v1/{self._new()}", {}, lambda body: "there is no such path", refused=True)

    def canaries(self) -> list[Ask]:
        """Greedy requests, whose answers must not depend on what else is running."""
        return [
            *(self._json_chat("canary", schema, temperature=0) for schema in self._schemas[:6]),
            *(
                self._chat("canary", openai_judge(anything, max_tokens=24), max_tokens=24, temperature=0)
                for _ in range(6)
            ),
        ]


def texts(body: bytes) -> list[str]:
    """What the choices of a chat say."""
    return [choice["message"]["content"] for choice in json.loads(body)["choices"]]


_WORDS = """
    sea salt wind stone river light bread paper glass iron cloud north seven green quiet under bridge window table
    letter number answer question city weather name person story list value price order red small often never where
""".split()  # noqa: SIM905
