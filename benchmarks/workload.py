"""What is asked: prompts that share nothing, and a grammar that does not end before the tokens do."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

SCHEMA: dict[str, object] = {
    "type": "array",
    "minItems": 100,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "age", "role", "active"],
        "properties": {
            "name": {"type": "string", "minLength": 3, "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "role": {"enum": ["reader", "writer", "owner"]},
            "active": {"type": "boolean"},
        },
    },
}
"""A list of records, as an application would ask for: free text, numbers, choices, and punctuation that is forced."""

_REPORT = {
    "customer_satisfaction_score": {"type": "integer", "minimum": 1, "maximum": 5},
    "requires_immediate_escalation": {"type": "boolean"},
    "preferred_communication_channel": {"enum": ["email", "telephone", "letter"]},
    "estimated_resolution_time_in_hours": {"type": "integer", "minimum": 0, "maximum": 99},
    "responsible_department_identifier": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}$"},
    "contains_personally_identifiable_information": {"type": "boolean"},
}

REPORT_SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": list(_REPORT),
    "properties": _REPORT,
}
"""A form with long names and short values: most of its text is forced."""

QUESTIONS = (
    "What is the capital of France?",
    "Explain photosynthesis to a child.",
    "Write a short poem about the sea.",
    "How do I boil an egg?",
    "List five large cities in Asia.",
    "Why is the sky blue?",
    "What does a compiler do?",
    "Give three tips for sleeping better.",
    "Who wrote Hamlet, and what is it about?",
    "Describe a cat to somebody who has never seen one.",
    "What is the difference between a list and a tuple in Python?",
    "How do vaccines work?",
    "Write a polite letter that declines an invitation.",
    "What happens when water freezes?",
    "Name the planets of the solar system.",
    "How can I learn to play the guitar?",
)


def distinct_prompts(model_path: Path, length: int, seed: int = 0) -> Iterator[list[int]]:
    """Endless prompts of ``length`` tokens, each of random words: none shares more than chance with another.

    So a prefix cache has nothing to reuse, in any contender.
    """
    tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))
    words = [index for word, index in sorted(tokenizer.get_vocab().items()) if re.fullmatch("Ġ[a-z]{3,}", word)]
    if not words:
        words = list(range(tokenizer.get_vocab_size()))
    random_words = random.Random(seed)
    while True:
        yield random_words.choices(words, k=length)


def chat_prompts(model_path: Path) -> list[list[int]]:
    """Ordinary questions in the model's chat format, for comparing what is answered."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    rendered = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in QUESTIONS
    )
    return [tokenizer.encode(text, add_special_tokens=False) for text in rendered]


def response_format() -> dict[str, object]:
    """`SCHEMA` as a request names it."""
    return {"type": "json_schema", "json_schema": {"name": "people", "strict": True, "schema": SCHEMA}}
