"""Answers: token ids → text, cut at stop strings, with log-probabilities that line up with it.

One `Detokenizer` per model and one `StopStrings` per request are shared; each choice of a request has a `ChoiceOutput`
that turns its `TokenDelta`s into `TextDelta`s.
"""

from guidance_core.output.choice import ChoiceOutput, TextDelta
from guidance_core.output.detokenizer import Detokenizer
from guidance_core.output.logprobs import TokenTextLogprob
from guidance_core.output.prompt_logprobs import PromptToken
from guidance_core.output.stop_strings import StopMatcher, StopStrings
from guidance_core.output.token_spelling import TokenSpelling

__all__ = [
    "ChoiceOutput",
    "Detokenizer",
    "PromptToken",
    "StopMatcher",
    "StopStrings",
    "TextDelta",
    "TokenSpelling",
    "TokenTextLogprob",
]
