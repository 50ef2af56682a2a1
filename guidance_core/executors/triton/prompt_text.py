"""Prompts for models that take text: the text which the server's tokenizer turns into exactly the prompt's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from guidance_core.errors import Unsupported


class PromptText:
    """Token ids → text, for a server with the same tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, adds_special_tokens: bool) -> None:
        """Keep the tokenizer.

        Args:
            tokenizer: the model's.
            adds_special_tokens: the server's adds what the tokenizer adds by itself (usually a first token).
        """
        self._tokenizer = tokenizer
        self._adds = adds_special_tokens
        self._added = tuple(tokenizer.encode("", add_special_tokens=True).ids) if adds_special_tokens else ()

    def text(self, prompt_ids: Sequence[int]) -> str:
        """The text of a prompt; takes about 1 µs a token.

        Raises:
            Unsupported: there is none: text would become other tokens.
        """
        ids = list(prompt_ids)
        starts = [len(self._added)] if self._added and tuple(ids[: len(self._added)]) == self._added else []
        for start in (*starts, 0):
            text: str = self._tokenizer.decode(ids[start:], skip_special_tokens=False)
            # Of the encode methods only those for batches release the GIL.
            if self._tokenizer.encode_batch_fast([text], add_special_tokens=self._adds)[0].ids == ids:
                return text
        raise Unsupported(
            "This prompt cannot be sent to the Triton server: its model takes text, and the prompt's tokens are not "
            "those that its text has there. Send text instead of tokens, or set triton.model to the token-level model.",
            param="prompt",
        )
