"""A dialect's constraint → a grammar."""

from __future__ import annotations

from guidance_core import telemetry, tracing
from guidance_core.api.served_model import LoadedModel
from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidGrammar, Unsupported
from guidance_core.grammar.compiler import Compilation
from guidance_core.grammar.constraint import Constraint


async def compiled(
    model: LoadedModel, settings: GuidanceSettings, constraint: Constraint, *, param: str, stream: bool
) -> Compilation:
    """Compile a request's constraint.

    Args:
        model: answers the request.
        settings: of the service.
        constraint: what the answer must be.
        param: the field that it comes from.
        stream: the answer is streamed.

    Raises:
        InvalidGrammar: it does not compile; ``param`` names the field.
        Unsupported: a stream of what is checked as a whole, where these are refused.
    """
    with tracing.grammar_span(constraint.kind) as span:
        try:
            compilation = await model.grammars.compile(constraint, param=param)
        except InvalidGrammar:
            telemetry.CONSTRAINTS.labels(constraint.kind, "refused").inc()
            raise
        grammar = compilation.grammar
        span.set_attributes({"guided.grammar.route": grammar.route, "guided.grammar.cached": compilation.cached})
    telemetry.CONSTRAINTS.labels(constraint.kind, grammar.route).inc()
    telemetry.GRAMMAR_SECONDS.labels(constraint.kind).observe(compilation.seconds)
    telemetry.GRAMMAR_CACHE.labels("hit" if compilation.cached else "miss").inc()
    if stream and grammar.route == "checked" and settings.checked_streams == "refuse":
        raise Unsupported(
            "This schema can only be checked on the whole answer, and this service does not hold streams back: ask "
            f"for an answer that is no stream, or change the schema. How it was read: {'; '.join(grammar.notes)}.",
            param="stream",
        )
    return compilation
