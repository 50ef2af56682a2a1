"""Whether a whole answer is what its grammar only approximates."""

from __future__ import annotations

from guidance_core.generation import Grammar, MessageCheck
from guidance_core.grammar.check import violation
from guidance_core.output.tool_calls import CallDelta, ContentDelta, ToolCallParser


def satisfies(grammar: Grammar, text: str) -> str | None:
    """Why a whole answer does not satisfy `Grammar.check`, or None where it does (or where there is nothing to check).

    Args:
        grammar: of the answer.
        text: the answer, without thoughts.
    """
    check = grammar.check
    if check is None:
        return None
    return _message_violation(check, text) if isinstance(check, MessageCheck) else violation(check, text)


def _message_violation(check: MessageCheck, text: str) -> str | None:
    """A message is read as `MessageReader` will read it: what a client gets as a call is checked as one."""
    schemas = dict(check.functions)
    parser = ToolCallParser(check.tool_format, functions=None if check.free_text else schemas)
    try:
        deltas = [*parser.push(text), *parser.finish()]
    except ValueError as error:
        return f"it begins as a call does, but {error}"
    if not parser.calls:
        content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
        return None if check.answer is None else violation(check.answer, content)
    if not parser.complete:
        return "it begins as a call does, but is none"
    calls = [delta for delta in deltas if isinstance(delta, CallDelta)]
    for index in range(parser.calls):
        name = next(delta.name for delta in calls if delta.index == index and delta.name is not None)
        schema = schemas[name]
        arguments = "".join(delta.arguments for delta in calls if delta.index == index)
        problem = None if schema is None else violation(schema, arguments)
        if problem is not None:
            return f"in the arguments of {name!r}: {problem}"
    return None
