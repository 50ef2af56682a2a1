"""Answers: token ids → text, cut at stop strings, with log-probabilities that line up with it.

One `Detokenizer` per model and one `StopStrings` per request are shared; each choice of a request has a `ChoiceOutput`
that turns its `TokenDelta`s into `TextDelta`s.
"""

from .choice import ChoiceOutput, TextDelta
from .detokenizer import Detokenizer
from .logprobs import TokenText, TokenTextLogprob
from .stop_strings import StopMatcher, StopStrings

__all__ = [
    "ChoiceOutput",
    "Detokenizer",
    "StopMatcher",
    "StopStrings",
    "TextDelta",
    "TokenText",
    "TokenTextLogprob",
]
