"""Words that must not come in an answer, as the sequences of tokens that a tokenizer writes them with."""

from __future__ import annotations

from collections.abc import Iterable

from guidance_core.errors import InvalidRequest
from guidance_core.prompt import PromptTokenizer


def bad_token_ids(prompts: PromptTokenizer, words: Iterable[str], *, param: str) -> tuple[tuple[int, ...], ...]:
    """For `SamplingParams.bad_token_ids`: each word at the beginning of a text, and after a space.

    As with vLLM and TensorRT-LLM, a word is found as these tokens: spelled with others, it can come.

    Args:
        prompts: the model's.
        words: none of them empty.
        param: the request field that has them.

    Raises:
        InvalidRequest: a word is empty.
    """
    spellings: list[str] = []
    for word in words:
        if not word.strip():
            raise InvalidRequest(f"'{param}' has {word!r}: a word needs a character that is no space.", param=param)
        spellings += (word, f" {word.lstrip()}")
    encode = prompts.tokenizer.encode
    return tuple(dict.fromkeys(tuple(encode(text, add_special_tokens=False).ids) for text in spellings))
