"""One request's answer as text: what dialects have in common between an executor and the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

from guidance_core import telemetry
from guidance_core.api.attempt import Attempt, Piece, TextOptions
from guidance_core.api.checking import satisfies
from guidance_core.api.choice_guidance import ChoiceGuidance
from guidance_core.api.merging import Merged
from guidance_core.api.resampling import CheckBudget, resampled
from guidance_core.api.served_model import LoadedModel
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.errors import AnswerRejected
from guidance_core.generation import GenerationRequest, Grammar
from guidance_core.output import ChoiceOutput, PromptToken, TextDelta
from guidance_core.output.prompt_logprobs import prompt_tokens

_PLAIN = TextOptions()
_ONE_ATTEMPT = CheckBudget()

_CHECKERS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="answer-check")
"""A schema's patterns may take seconds on the shortest text (`grammar.check` bounds them): checks wait for one another,
as many as there are answers at most, and prompts, which are tokenised in other threads, do not wait for them."""


class Answer:
    """The choices of one request, as text.

    Under a grammar of the route ``checked``, a choice is held back until its whole text is checked. One that fails is
    generated again, by itself, until the budget is spent. A choice that is cut off (``length``) promises nothing, and
    is answered unchecked.

    Attributes:
        held: the choices come as wholes, each after its check.
        attempts: answers generated so far, by choice.
        discarded_tokens: tokens of those that the check rejected, by choice.
    """

    def __init__(
        self,
        model: LoadedModel,
        request: GenerationRequest,
        text: TextOptions = _PLAIN,
        check_budget: CheckBudget = _ONE_ATTEMPT,
    ) -> None:
        """Check a request; nothing runs before `pieces` is iterated.

        Args:
            model: answers it.
            request: what is asked.
            text: how tokens become text.
            check_budget: what a choice may cost, where answers are checked.

        Raises:
            RequestError: as `Executor.check`.
        """
        model.executor.check(request)
        n = request.sampling.n
        self.attempts = [1] * n
        self.discarded_tokens = [0] * n
        self._model = model
        self._request = request
        self._text = text
        self._check_budget = check_budget
        self._checked_grammar = (
            request.grammar if request.grammar is not None and request.grammar.route == "checked" else None
        )
        self._first = Attempt(model, request, text, choices=range(n))
        self._latest = [self._first] * n
        self._scored_prompt: list[PromptToken] | None = None

    @property
    def held(self) -> bool:
        """See the class."""
        return self._checked_grammar is not None

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's tokens."""
        return self._request.prompt_ids

    @property
    def prompt_tokens(self) -> int:
        """Tokens in the prompt."""
        return len(self._request.prompt_ids)

    @property
    def image_tokens(self) -> int:
        """Prompt tokens that stand for what the model sees of images."""
        return sum(len(image.positions) for image in self._request.images)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens out of the prefix cache, once the first piece has come."""
        return self._first.cached_tokens

    async def scored_prompt(self) -> list[PromptToken]:
        """The prompt's tokens with their log-probabilities, once the first piece has come.

        Empty where the request does not ask for them.
        """
        logprobs = self._first.prompt_logprobs
        if logprobs is None:
            return []
        if self._scored_prompt is None:
            # Two characters, about, for the text of each token.
            characters = 2 * len(logprobs) * (1 + (self._request.sampling.prompt_logprobs or 0))
            ids, detokenizer = self._request.prompt_ids, self._model.detokenizer
            self._scored_prompt = await off_the_loop(characters, lambda: prompt_tokens(ids, logprobs, detokenizer))
        return self._scored_prompt

    @property
    def completion_tokens(self) -> int:
        """Tokens answered so far, all choices together, without `discarded_tokens`."""
        return sum(attempt.outputs[choice].completion_tokens for choice, attempt in enumerate(self._latest))

    @property
    def reasoning_tokens(self) -> int:
        """How many of the `completion_tokens` are thoughts, their markers included."""
        thinking = self._text.thinking
        if thinking is None:
            return 0
        outputs = [attempt.outputs[choice] for choice, attempt in enumerate(self._latest)]
        thoughtful = [out for out in outputs if thinking.parser().thinks(out.text, out.marker_places)]
        return sum(out.tokens_to_answer or out.completion_tokens for out in thoughtful)

    def output(self, choice: int) -> ChoiceOutput:
        """How a choice stands: its tokens so far, and what ended it."""
        return self._latest[choice].outputs[choice]

    @property
    def guidance(self) -> list[ChoiceGuidance]:
        """What guidance did for the answered text, by choice; only forced tokens without ``measure_mass``."""
        return [attempt.guidance[choice] for choice, attempt in enumerate(self._latest)]

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """The choices' pieces, interleaved; ends after the last choice's last one. Closing it stops the work.

        Where choices are `held`, each gives an empty piece when it has begun, and all the rest at once.

        Raises:
            RequestError: as `Executor.generate`.
            AnswerRejected: the check's budget is spent.
        """
        if self._checked_grammar is None:
            return self._first.pieces()
        return self._checked_pieces(self._checked_grammar)

    async def _checked_pieces(self, grammar: Grammar) -> AsyncGenerator[Piece, None]:
        received: dict[int, list[TextDelta]] = {}
        async with Merged[Piece]() as attempts:
            attempts.add(self._first.pieces())
            async for choice, piece in attempts:
                if choice not in received:
                    received[choice] = []
                    yield choice, TextDelta("")
                received[choice].append(piece)
                if piece.finish_reason is None:
                    continue
                whole = joined(received[choice])
                failure = await _check(grammar, self._said(whole)) if whole.finish_reason == "stop" else None
                if failure is None:
                    telemetry.CHECK_ATTEMPTS.observe(self.attempts[choice])
                    yield choice, whole
                else:
                    received[choice].clear()
                    attempts.add(self._again(choice, failure).pieces())

    def _said(self, whole: TextDelta) -> str:
        """An answer's text without thoughts."""
        thinking = self._text.thinking
        return whole.text if thinking is None else thinking.parser().split(whole.text, whole.markers)[1]

    def _again(self, choice: int, failure: str) -> Attempt:
        """The next attempt at a choice whose latest one was rejected."""
        budget = self._check_budget
        rejected_tokens = self._latest[choice].outputs[choice].completion_tokens
        telemetry.DISCARDED_TOKENS.inc(rejected_tokens)
        self.discarded_tokens[choice] += rejected_tokens
        if self.attempts[choice] >= budget.attempts or self.discarded_tokens[choice] >= budget.tokens:
            telemetry.CHECK_ATTEMPTS.observe(self.attempts[choice])
            tokens = self.discarded_tokens[choice]
            raise AnswerRejected(_rejection(choice, self.attempts[choice], tokens, failure))
        self.attempts[choice] += 1
        request = resampled(self._request, choice, self.attempts[choice])
        attempt = self._latest[choice] = Attempt(self._model, request, self._text, choices=(choice,))
        return attempt


def _rejection(choice: int, attempts: int, tokens: int, failure: str) -> str:
    made = "The answer" if attempts == 1 else f"Each of {attempts} answers"
    return (
        f"{made} generated for choice {choice} ({tokens} tokens) is not valid against the schema; of the last one: "
        f"{failure}. To mend it, tell the model in the prompt what the schema asks for there, or ask for less there."
    )


async def _check(grammar: Grammar, text: str) -> str | None:
    """Why the text does not satisfy the grammar's check, or None if it does."""
    failure = await asyncio.get_running_loop().run_in_executor(_CHECKERS, satisfies, grammar, text)
    telemetry.CHECKS.labels("passed" if failure is None else "failed").inc()
    return failure


def joined(pieces: Sequence[TextDelta]) -> TextDelta:
    """All pieces of a choice as one."""
    logprobs = None
    if any(piece.logprobs is not None for piece in pieces):
        logprobs = tuple(entry for piece in pieces for entry in piece.logprobs or ())
    text = "".join(piece.text for piece in pieces)
    token_ids = tuple(token_id for piece in pieces for token_id in piece.token_ids)
    return TextDelta(text, logprobs, pieces[-1].finish_reason, pieces[-1].markers, token_ids)


def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[Answer, Piece], None]:
    """The pieces of several answers as they come. The first failure ends them all; closing it stops them all."""
    return _pieces_of(answers[0]) if len(answers) == 1 else _interleaved(answers)


async def _pieces_of(answer: Answer) -> AsyncGenerator[tuple[Answer, Piece], None]:
    async with aclosing(answer.pieces()) as pieces:
        async for piece in pieces:
            yield answer, piece


async def _interleaved(answers: Sequence[Answer]) -> AsyncGenerator[tuple[Answer, Piece], None]:
    async with Merged[tuple[Answer, Piece]]() as together:
        for answer in answers:
            together.add(_pieces_of(answer))
        async for piece in together:
            yield piece
