"""What TensorRT-LLM's executor is to its Triton backend: runs models for the stand-ins, in a process with PyTorch.

It takes one request a connection, a JSON object in one line, with the fields that the backend gives to the executor,
and answers one JSON object a line; closing the connection ends the work. Where TensorRT-LLM differs from this project's
executors it is TensorRT-LLM that is imitated: the token of `end_id` is not in the output, stop words are; an answer
that exceeds `max_seq_len` is cut off without a word; the default is greedy, with seed 0.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from guidance_core.config import Settings
from guidance_core.executors.torch.executor import TorchExecutor
from guidance_core.generation import GenerationRequest, Grammar, SamplingParams

_SETTINGS = {"device": "cpu", "dtype": "float32", "max_batch_size": 8, "num_threads": 1, "max_model_len": 1024}
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}
_ids = itertools.count()


class Engines:
    """Models by name."""

    def __init__(self, models: dict[str, Path]) -> None:
        self._loading = {name: asyncio.create_task(_load(path)) for name, path in models.items()}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            line = await reader.readline()
            if not line:
                return
            body = json.loads(line)
            if "stats" in body:
                stats = (await self._engine(body["stats"])).stats()
                await _send(writer, {"running": stats.running + stats.waiting, "sampled_tokens": stats.sampled_tokens})
                return
            answering = asyncio.create_task(self._answer(body, writer))
            # The client sends nothing more: what arrives is the end of the connection.
            gone = asyncio.create_task(reader.read())
            await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        finally:
            with suppress(ConnectionError):
                writer.close()

    async def _engine(self, name: str) -> TorchExecutor:
        return await asyncio.shield(self._loading[name])

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            engine = await self._engine(body["engine"])
            request = _request(body, engine)
            sent = 0
            async with aclosing(engine.generate(request)) as deltas:
                async for delta in deltas:
                    tokens = list(delta.token_ids)
                    end = delta.stop_token_id
                    if delta.finish_reason == "stop" and end is None:
                        # Where a grammar can only end, our engine does not sample the end token.
                        end = engine.limits().eos_token_ids[0]
                    if [end] in body["stop_words"] and sent + len(tokens) < request.sampling.max_tokens:
                        tokens.append(end)
                    for position, token in enumerate(tokens):
                        last = delta.finish_reason is not None and position == len(tokens) - 1
                        await _send(writer, {"tokens": [token], "final": last})
                        sent += 1
                        if sent == body["fail_after"]:
                            await _send(writer, {"error": "the engine broke down", "final": True})
                            return
                    if delta.finish_reason is not None and not tokens:
                        await _send(writer, {"tokens": [], "final": True})
        except Exception as error:
            await _send(writer, {"error": f"{type(error).__name__}: {error}", "final": True})


async def _load(path: Path) -> TorchExecutor:
    engine = TorchExecutor(path, Settings.model_validate({"torch": _SETTINGS}))
    await engine.start()
    return engine


def _request(body: dict[str, Any], engine: TorchExecutor) -> GenerationRequest:
    eos = engine.limits().eos_token_ids
    max_tokens = body["max_tokens"]
    if body["max_seq_len"] is not None:
        max_tokens = min(max_tokens, body["max_seq_len"] - len(body["prompt"]))
    greedy = body["top_k"] is None and body["top_p"] is None
    bias = body["embedding_bias"] or []
    assert all(len(word) == 1 for word in body["stop_words"]), "longer stop words are not imitated"
    stop_token_ids = {token for [token] in body["stop_words"]} | ({body["end_id"]} - {None, -1, *eos})
    sampling = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=body["min_tokens"] or 0,
        temperature=1.0 if body["temperature"] is None else body["temperature"],
        top_k=1 if greedy else body["top_k"] or 0,
        top_p=1.0 if body["top_p"] is None else body["top_p"],
        repetition_penalty=body["repetition_penalty"] or 1.0,
        logit_bias={token: value for token, value in enumerate(bias) if value},
        seed=body["seed"] or 0,
        stop_token_ids=tuple(sorted(stop_token_ids)),
        ignore_eos=body["end_id"] not in eos,
    )
    return GenerationRequest(
        request_id=str(next(_ids)), prompt_ids=tuple(body["prompt"]), sampling=sampling, grammar=_grammar(body)
    )


def _grammar(body: dict[str, Any]) -> Grammar | None:
    match body["guide_type"], body["guide"]:
        case None, _:
            return None
        case "json", None:
            source = LLMatcher.grammar_from_json_schema({**_COMPACT})
        case "json_schema", str(schema):
            source = LLMatcher.grammar_from_json_schema({**json.loads(schema), **_COMPACT})
        case "regex", str(pattern):
            source = LLMatcher.grammar_from_regex(pattern)
        case "ebnf_grammar", str(text):
            source = LLMatcher.grammar_from_lark(any_to_lark(text))
        case guide_type, guide:
            raise AssertionError((guide_type, guide))
    return Grammar(source, "llguidance", source, sha256(source.encode()).hexdigest())


async def _send(writer: asyncio.StreamWriter, line: dict[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, help="NAME=FOLDER")
    arguments = parser.parse_args()
    engines = Engines({name: Path(folder) for name, _, folder in (each.partition("=") for each in arguments.model)})
    async with await asyncio.start_server(engines.serve, "127.0.0.1", arguments.port, limit=2**26) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
