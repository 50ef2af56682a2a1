"""The answer of one choice, from an executor's token deltas to what a client may read."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from guidance_core.generation import FinishReason, TokenDelta, TokenLogprob
from guidance_core.output.detokenizer import Detokenizer
from guidance_core.output.logprobs import TokenTextLogprob
from guidance_core.output.reasoning import MarkerPlaces
from guidance_core.output.stop_strings import StopStrings
from guidance_core.reasoning import ReasoningMarkers


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a choice's answer.

    Attributes:
        text: new text, in whole characters, certain to be before any stop string; may be empty.
        logprobs: of the tokens whose text begins in ``text``; None where the executor sent none.
        finish_reason: set on the last piece.
        token_ids: of the tokens that were generated for it, those without text included, where they are asked for.
        markers: where thoughts begin and end, as far as is known; None where nobody asked, or nobody knows.
    """

    text: str
    logprobs: tuple[TokenTextLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    markers: MarkerPlaces | None = None
    token_ids: tuple[int, ...] = ()


class ChoiceOutput:
    """Turns the `TokenDelta`s of one choice into `TextDelta`s.

    The pieces add up to the choice's whole text, cut before the first stop string, however the tokens are cut into
    deltas. Log-probabilities come with the text that their token begins; those of tokens behind a stop string are
    dropped with their text.

    Attributes:
        completion_tokens: tokens so far that were sampled or forced, with end and stop tokens and with those of a stop
            string, but nothing after it. For executors that answer text: at the end, the tokens of that text and the
            end token.
        finish_reason: None until the choice has ended.
        stop_string: the stop string that ended the choice, or None; further deltas are ignored. When it appears, the
            caller tells the executor (`Executor.finish_choice`), which knows nothing of stop strings, and under a
            grammar calls `end_at_stop_string`.
        stop_token_id: the token that ended the choice, or None.
        stop_logprob: its log-probabilities, where the executor sent them.
        tokens_to_answer: tokens up to and with the one that ended the model's thoughts, or None so far.
        marker_places: see `TextDelta.markers`.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        *,
        stop: StopStrings | None = None,
        skip_special_tokens: bool = True,
        keep_leading_space: bool = True,
        include_stop_string: bool = False,
        under_grammar: bool = False,
        with_token_ids: bool = False,
        markers: ReasoningMarkers | None = None,
    ) -> None:
        """Start a choice.

        Args:
            detokenizer: the model's.
            stop: stop strings that end the answer.
            skip_special_tokens: special tokens have no text.
            keep_leading_space: see `Detokenizer.stream`; always kept under a grammar, whose text must not change.
            include_stop_string: the answer is cut behind its stop string instead of before; never under a grammar,
                which says nothing about what follows its text.
            under_grammar: the answer is under one.
            with_token_ids: pieces have `TextDelta.token_ids`: together, the tokens that ``completion_tokens`` counts.
            markers: what a model's thoughts begin and end with; their places are then told.
        """
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_string: str | None = None
        self.stop_token_id: int | None = None
        self.tokens_to_answer: int | None = None
        self._markers = markers
        self.marker_places: MarkerPlaces | None = None
        self.stop_logprob: TokenTextLogprob | None = None
        self._detokenizer = detokenizer
        self._stream = detokenizer.stream(
            skip_special_tokens=skip_special_tokens, keep_leading_space=keep_leading_space or under_grammar
        )
        self._matcher = stop.matcher() if stop is not None and stop.strings else None
        self._under_grammar = under_grammar
        self._with_token_ids = with_token_ids
        self._include_stop_string = include_stop_string and not under_grammar
        self._pieces: list[str] = []
        self._text_only = False
        # In characters of the answer: decoded so far, and given out so far.
        self._decoded = 0
        self._emitted = 0
        # Log-probabilities of tokens whose text has not been given out, with the offset where it begins.
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._pieces)

    @property
    def _is_over(self) -> bool:
        return self.finish_reason is not None or self.stop_string is not None

    def push(self, delta: TokenDelta) -> TextDelta:
        """Take the choice's next delta.

        Returns:
            What can be given out now; its text and logprobs may be empty. With a stop string, this is the last piece;
            under a grammar its finish reason is `end_at_stop_string`'s.
        """
        if self._is_over:
            return TextDelta("")
        pieces = []
        before = self.completion_tokens
        if delta.text is not None:
            self._text_only = True
            pieces.append(self._certain(delta.text))
        for i, token_id in enumerate(delta.token_ids):
            self.completion_tokens += 1
            if delta.logprobs is not None:
                self._waiting.append((self._decoded, delta.logprobs[i]))
            text = self._stream.push(token_id)
            if self._markers is not None:
                self._note_marker(self._markers, token_id, self._decoded + len(text))
            if text:
                pieces.append(self._certain(text))
                if self.stop_string is not None:
                    break
        if delta.finish_reason is not None and self.stop_string is None:
            if text := self._stream.finish():
                pieces.append(self._certain(text))
            if self.stop_string is None:
                if self._matcher is not None:
                    pieces.append(self._matcher.finish())
                self.finish_reason = delta.finish_reason
                if delta.stop_token_id is not None:
                    self.completion_tokens += 1
                    self.stop_token_id = delta.stop_token_id
                    if delta.stop_logprob is not None:
                        self.stop_logprob = TokenTextLogprob.of(delta.stop_logprob, self._detokenizer, self._decoded)
        token_ids: tuple[int, ...] = ()
        if self._with_token_ids:
            end = () if self.stop_token_id is None else (self.stop_token_id,)
            token_ids = (*delta.token_ids, *end)[: self.completion_tokens - before]
        return self._give_out("".join(pieces), token_ids, with_logprobs=delta.logprobs is not None)

    def end_at_stop_string(self, *, complete: bool) -> FinishReason:
        """Say why a choice that a stop string cut has ended.

        Args:
            complete: whether `text` is a complete answer in the grammar. ``stop`` promises one: it is ``length`` else.
        """
        self.finish_reason = "stop" if complete else "length"
        self._count_text()
        return self.finish_reason

    def _note_marker(self, markers: ReasoningMarkers, token_id: int, decoded: int) -> None:
        """Note where thoughts begin or end, after a token up to which there are so many characters."""
        if self.marker_places is None:
            self.marker_places = MarkerPlaces(begun=token_id == markers.begin_id)
        if token_id == markers.end_id and self.tokens_to_answer is None:
            self.tokens_to_answer = self.completion_tokens
            self.marker_places = replace(self.marker_places, end=decoded - len(markers.end))

    def _certain(self, text: str) -> str:
        """Pass new text through the stop strings; return what may be given out."""
        self._decoded += len(text)
        if self._matcher is None:
            return text
        certain = self._matcher.push(text)
        self.stop_string = self._matcher.hit
        if self.stop_string is not None and self._include_stop_string:
            return certain + self.stop_string
        return certain

    def _give_out(self, text: str, token_ids: tuple[int, ...], *, with_logprobs: bool) -> TextDelta:
        if text:
            self._emitted += len(text)
            self._pieces.append(text)
        if self.stop_string is not None and not self._under_grammar:
            self.finish_reason = "stop"
        logprobs = None
        if with_logprobs or self._waiting:
            logprobs = self._released()
        if self.finish_reason is not None:
            self._count_text()
        return TextDelta(text, logprobs, self.finish_reason, self.marker_places, token_ids)

    def _count_text(self) -> None:
        if self._text_only:
            self.completion_tokens = self._detokenizer.count(self.text) + (self.stop_token_id is not None)

    def _released(self) -> tuple[TokenTextLogprob, ...]:
        """Log-probabilities of the tokens that begin before the end of what has been given out."""
        everything = self.finish_reason is not None and self.stop_string is None
        released = []
        while self._waiting and (everything or self._waiting[0][0] < self._emitted):
            offset, logprob = self._waiting.popleft()
            released.append(TokenTextLogprob.of(logprob, self._detokenizer, offset))
        return tuple(released)
