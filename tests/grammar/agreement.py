"""Whether a grammar and its check agree with an independent validator."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator, validators
from llguidance import LLTokenizer

from guidance_core.errors import InvalidGrammar
from tests.grammar.spelling import spelled
from tests.grammar.translated import passes, translated


def assert_agreement(tokenizer: LLTokenizer, schema: dict[str, Any], instances: Iterable[Any]) -> str | None:
    """Assert that what is answered is what validates, and return the route; None for a schema that nothing satisfies.

    On the routes "exact" and "rewritten" the grammar alone decides; on "checked" it allows all that is valid, and the
    check decides.
    """
    validator = validators.validator_for(schema, default=Draft202012Validator)(schema)
    try:
        translation = translated(schema)
    except (InvalidGrammar, AssertionError) as refusal:
        message = str(refusal)
        assert "nsatisfiable" in message or "no finite value" in message, (schema, message)
        assert not any(validator.is_valid(instance) for instance in instances), (schema, message)
        return None
    for instance in instances:
        text = spelled(tokenizer, translation.source, instance)
        valid = validator.is_valid(instance)
        shown = (schema, instance, translation.route, json.loads(translation.source)["grammars"][0]["json_schema"])
        if valid:
            assert text is not None, shown
        if text is not None:
            assert valid == passes(translation, text), shown
            assert valid or translation.route == "checked", shown
    return translation.route
