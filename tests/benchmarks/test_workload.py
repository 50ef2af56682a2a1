from __future__ import annotations

from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.workload import QUESTIONS, chat_prompts, distinct_prompts


def test_prompts_have_the_length_and_share_no_prefix(model_path: Path) -> None:
    prompts = list(islice(distinct_prompts(model_path, 100), 200))
    assert {len(prompt) for prompt in prompts} == {100}
    beginnings = {tuple(prompt[:2]) for prompt in prompts}
    assert len(beginnings) == 200


def test_prompts_are_the_same_in_every_run(model_path: Path) -> None:
    assert next(distinct_prompts(model_path, 8)) == next(distinct_prompts(model_path, 8))


def test_questions_are_asked_in_the_models_chat_format(model_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))
    prompts = chat_prompts(model_path)
    assert len(prompts) == len(QUESTIONS)
    text = tokenizer.decode(prompts[0], skip_special_tokens=False)
    assert text.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
