"""The matchers of a running batch: masks, commits and forced tokens, step by step.

One step is ``begin`` (masks start to be filled behind the forward pass) → ``apply`` (logits are masked) → ``commit``
(what was sampled moves the matchers on). Who samples first and asks afterwards has ``allows`` (is a token in its mask?)
and ``mask`` (of some rows only) in the place of ``apply``. Nothing here is allocated per step in proportion to the
vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer

from guidance_core.config import GuidanceSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.generation import Grammar
from guidance_core.grammar.compatibility import consume, end_tokens
from guidance_core.grammar.standing import failure, may_end_with
from guidance_core.guidance.background import Background
from guidance_core.guidance.cores import available_cores
from guidance_core.guidance.ending import Ending
from guidance_core.guidance.prototypes import Prototype, Prototypes
from guidance_core.guidance.shortest import Way, shortest_answer
from guidance_core.guidance.vocabulary import Vocabulary
from kernels.allowed_argmax import allowed_argmax
from kernels.allowed_mass import allowed_masses
from kernels.mask_logits import mask_logits

_PARALLEL_COMMIT = 64
"""From so many tokens on, matchers consume them in parallel: one takes 1 µs, waking llguidance's threads takes 50 µs
where cores are idle, and up to 2 ms where a forward pass has just left its own threads spinning on them."""

_PARALLEL_MASKS = 16
"""From so many masks on that nothing hides, llguidance's threads fill them: as commits, but one takes some 10 µs."""

_PLAIN = frozenset({"json_schema", "json_object", "regex", "choice"})
"""Kinds of grammars whose matchers judge a token as their masks do. Others may count tokens (``max_tokens``).

Where tokens are forced, a mask allows nothing but the canonical one of them, but a matcher takes any that spells the
same; so only sequences whose forced tokens have been consumed already are judged without a mask.
"""


@dataclass(frozen=True, slots=True)
class GuidanceRowTimes:
    """What one sequence's mask cost in one step.

    Attributes:
        mask_seconds: time that filling the batch's masks took, divided by its rows.
        wait_seconds: the part of it that the forward pass did not hide, divided likewise.
        error: why the sequence has no mask (it must end with an error); its row then allows only the end tokens.
    """

    mask_seconds: float
    wait_seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Where a sequence stands: at its start, or after a sampled token.

    Attributes:
        forced: tokens that the grammar now forces, already consumed by the matcher; never an end token.
        stopped: the grammar can only end here: no end token needs to be sampled.
        accepting: the text so far, with ``forced``, is in the grammar.
        error: the sequence failed and must end with an error; its neighbours are untouched.
    """

    forced: tuple[int, ...] = ()
    stopped: bool = False
    accepting: bool = False
    error: str | None = None


_GOING_ON = Commit()
_ACCEPTING = Commit(accepting=True)
"""What nearly all commits are: making one takes as long as asking the matcher."""


class GuidanceBatch:
    """The matchers of one running batch.

    All methods are called from one thread, the one that runs the model; masks are filled in a worker thread and in
    llguidance's own pool, neither of which ever calls torch.

    Attributes:
        prototypes: the compiled grammars.
        ahead: masks are filled behind the forward pass, all of them; otherwise those that are asked for.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer,
        *,
        vocab_size: int,
        max_rows: int,
        settings: GuidanceSettings,
        device: str | torch.device = "cpu",
    ) -> None:
        """Allocate the masks.

        Args:
            tokenizer: of `grammar.tokenizer.load_ll_tokenizer`.
            vocab_size: width of the logits; what is beyond the tokenizer's vocabulary is always forbidden.
            max_rows: most rows of one step.
            settings: limits, threads, and whether to force tokens.
            device: where the logits are.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._settings = settings
        self._eos = end_tokens(tokenizer)
        self.ahead = _fills_ahead(settings, torch.device(device))
        self._executor = LLExecutor(num_threads=settings.threads or _mask_threads(self.ahead, torch.device(device)))
        self._mask_worker = Background(self._fill_all, name="guidance-masks") if self.ahead else None
        words = -(-tokenizer.vocab_size // 32)
        pinned = torch.device(device).type == "cuda"
        self._bitmask = torch.zeros((max_rows, words), dtype=torch.int32, pin_memory=pinned)
        self._words = self._bitmask.numpy()
        self._mask_address, self._mask_bytes = self._bitmask.data_ptr(), words * 4
        self.prototypes = Prototypes(tokenizer, settings, thread_name="guidance-compile")
        self._matchers: dict[int, LLMatcher] = {}
        self._vocabulary = Vocabulary(tokenizer, vocab_size)
        self._endings: dict[int, Ending] = {}
        self._rows: list[tuple[int, int]] = []
        self._is_filling = False
        self._to_fill: list[tuple[LLMatcher, int]] = []
        self._filled: set[int] = set()
        self._seconds = 0.0
        self._judged_alone: set[int] = set()
        self._times: dict[int, GuidanceRowTimes] = {}

    def prepare(self, grammar: Grammar, *, complete: bool = False) -> bool:
        """Start compiling a grammar without blocking, and say whether `add` will not have to wait.

        With ``complete`` a short whole answer is looked for as well, which `complete` will need.

        An engine calls this for requests that wait for a slot: compiling takes a millisecond or so as a rule, but up
        to a second for the largest grammars, during which no other sequence should stand still.
        """
        prototype = self.prototypes.get(grammar)
        return prototype.matcher.done() and (not complete or self._shortest(prototype, grammar).done())

    def add(self, sequence_id: int, grammar: Grammar) -> None:
        """Start guiding a sequence.

        Raises:
            InvalidGrammar: llguidance does not take the grammar.
        """
        self._matchers[sequence_id] = self.prototypes.copy(grammar)
        if grammar.kind in _PLAIN and self._settings.forced_tokens:
            self._judged_alone.add(sequence_id)

    def complete(
        self, sequence_id: int, grammar: Grammar, *, max_tokens: int, stop_token_ids: Sequence[int] = ()
    ) -> None:
        """Make a sequence that has been added, and not started, end inside its grammar within so many tokens.

        From then on, what is sampled for it has to pass through `settle`. See `ending`.

        Args:
            sequence_id: see `add`.
            grammar: see `add`.
            max_tokens: most tokens of the answer, an end token included.
            stop_token_ids: tokens that end the sequence wherever they are sampled, besides the end tokens.

        Raises:
            InvalidRequest: no answer that is known fits.
            Unsupported: no answer was found at all.
        """
        way = self._shortest(self.prototypes.get(grammar), grammar).result()
        if way is None:
            raise Unsupported(
                "This grammar's answers cannot be promised to be complete: no complete answer was found to begin with. "
                "Leave 'fit_to_max_tokens' out, or write a grammar that is easier to bring to an end.",
                param="fit_to_max_tokens",
            )
        if way.cost > max_tokens:
            raise InvalidRequest(
                f"max_tokens is {max_tokens}, but the shortest complete answer known takes {way.cost} tokens under "
                f"this grammar: set it to {way.cost} or more, or leave 'fit_to_max_tokens' out.",
                param="max_tokens",
            )
        needed = set(way.tokens).intersection(stop_token_ids)
        if needed:
            raise InvalidRequest(
                f"stop_token_ids has {min(needed)}, a token that complete answers under this grammar are made of: "
                "leave it out, or leave 'fit_to_max_tokens' out.",
                param="stop_token_ids",
            )
        self._endings[sequence_id] = Ending(
            self._matchers[sequence_id],
            way,
            max_tokens,
            self._vocabulary,
            stop_token_ids=stop_token_ids,
            plain=grammar.kind in _PLAIN,
        )

    def remove(self, sequence_id: int) -> None:
        """Forget a sequence, at any time between two steps' calls. Unknown ids are ignored."""
        self._matchers.pop(sequence_id, None)
        self._endings.pop(sequence_id, None)
        self._judged_alone.discard(sequence_id)

    def start(self, sequence_id: int) -> Commit:
        """Where a new sequence stands before anything is sampled, with what the grammar forces at once."""
        return self._standing(sequence_id, may_force=True)

    def begin(self, rows: Sequence[tuple[int, int]]) -> None:
        """Start filling masks behind the forward pass, or note for whom they may be asked for (`ahead`).

        Args:
            rows: (row of the logits, sequence id) for each sequence whose next token is sampled in this step.
        """
        self._settle()
        self._rows = list(rows)
        self._filled.clear()
        self._seconds = 0.0
        self._times = {}
        if self._rows and self._mask_worker is not None:
            # Held here, since a sequence may be removed while its mask is filled.
            self._to_fill = self._matchers_of(range(len(self._rows)))
            self._is_filling = True
            self._mask_worker.start()

    def wait(self) -> dict[int, GuidanceRowTimes]:
        """Wait until the masks that `begin` started are filled, and say what each row's cost, by sequence id."""
        if self.ahead:
            self._wait_for_filling()
        elif self._rows:
            share = self._seconds / len(self._rows)
            self._note(GuidanceRowTimes(share, share))
        return self._times

    def apply(self, logits: torch.Tensor) -> dict[int, GuidanceRowTimes]:
        """Mask the logits of the rows named in `begin`, in place; waits only for masks that are not done.

        Args:
            logits: float32 [rows, vocab_size].

        Returns:
            What each sequence's mask cost, by sequence id.
        """
        if not self._rows:
            return {}
        self.mask(logits, range(len(self._rows)), [row for row, _ in self._rows])
        return self.wait()

    def judges(self, index: int) -> bool:
        """Whether `allows` can tell about a row of `begin` without filling its mask."""
        sequence_id = self._rows[index][1]
        return not self.ahead and sequence_id in self._judged_alone and sequence_id not in self._endings

    def allows(self, tokens: Sequence[int]) -> list[bool]:
        """Whether the masks allow a token each; waits for masks that are not done.

        Args:
            tokens: a token id for each row of `begin`, in its order.
        """
        if self.ahead:
            self._wait_for_filling()
            return [self._is_set(index, token) for index, token in enumerate(tokens)]
        start = time.perf_counter()
        allowed = [self._allows(index, token) for index, token in enumerate(tokens)]
        self._seconds += time.perf_counter() - start
        return allowed

    def mask(self, logits: torch.Tensor, chosen: Sequence[int], rows: Sequence[int]) -> None:
        """Mask some logits, in place; waits for masks that are not done.

        Args:
            logits: float32 [rows, vocab_size].
            chosen: which masks to apply: increasing indices into the rows of `begin`.
            rows: the row of ``logits`` for each of ``chosen``.
        """
        mask_logits(logits, self._masks(chosen), rows=rows)

    def masses(self, logits: torch.Tensor, chosen: Sequence[int], rows: Sequence[int]) -> list[float]:
        """The probability that some logits give to what their masks allow, NaN where it is none; waits as `mask` does.

        Args:
            logits: float32 [rows, vocab_size].
            chosen: as in `mask`.
            rows: as in `mask`.
        """
        masses: list[float] = allowed_masses(logits, self._masks(chosen), rows).tolist()
        return masses

    def likeliest(
        self, logits: torch.Tensor, chosen: Sequence[int], rows: Sequence[int]
    ) -> tuple[list[float], list[int]]:
        """The highest of some logits that their masks allow, and the first tokens that have it; waits as `mask` does.

        Args:
            logits: float32 [rows, vocab_size].
            chosen: as in `mask`.
            rows: as in `mask`.

        Returns:
            See `kernels.allowed_argmax.allowed_argmax`.
        """
        values, tokens = allowed_argmax(logits, self._masks(chosen), rows)
        return values.tolist(), tokens.tolist()

    def mask_each(self, rows: Sequence[torch.Tensor]) -> dict[int, GuidanceRowTimes]:
        """As `apply`, where every row of logits is a tensor of its own.

        Args:
            rows: float [at least vocab_size], one for each row of `begin`, in its order; of one length, type and
                device.

        Returns:
            As `apply`.
        """
        self._ensure(range(len(rows)))
        mask_logits(list(rows), self._bitmask[: len(rows)])
        return self.wait()

    def settle(self, chosen: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """What to take where these tokens were sampled: themselves, unless a sequence that must be `complete` could
        then not end in time; before `commit`, which must get the tokens that were settled last.

        Args:
            chosen: indices into the rows of `begin`.
            tokens: for each of ``chosen``, a token that its mask allows.
        """
        if not self._endings:
            return list(tokens)
        if self.ahead:
            self._wait_for_filling()
        settled = []
        for index, token in zip(chosen, tokens, strict=True):
            ending = self._endings.get(self._rows[index][1])
            settled.append(token if ending is None else ending.settle(token))
        return settled

    def may_end_with(self, sequence_id: int, token: int) -> bool:
        """Whether a sequence's text is in its grammar with this token behind it, if it is an end token.

        Some grammars name the end token themselves: ``start: "a" <|im_end|>``.
        """
        return token in self._eos and may_end_with(self._matchers[sequence_id], token)

    def commit(self, sampled: Sequence[tuple[int, int]]) -> dict[int, Commit]:
        """Move matchers on by the sampled tokens, and by what the grammar forces after them.

        Args:
            sampled: (sequence id, token id), end tokens included.

        Returns:
            Where each sequence stands, by sequence id.
        """
        if not sampled:
            return {}
        self._settle()
        if len(sampled) < _PARALLEL_COMMIT:
            for sequence_id, token in sampled:
                self._matchers[sequence_id].consume_token(token)
        else:
            consume(self._executor, [(self._matchers[sequence_id], token) for sequence_id, token in sampled])
        for sequence_id, token in sampled:
            if sequence_id in self._endings and token not in self._eos:
                self._endings[sequence_id].commit()
        return {
            sequence_id: self._standing(sequence_id, may_force=token not in self._eos) for sequence_id, token in sampled
        }

    def close(self) -> None:
        """Stop the worker threads."""
        if self._mask_worker is not None:
            self._mask_worker.close()
        self.prototypes.close(wait=True)

    def _shortest(self, prototype: Prototype, grammar: Grammar) -> Future[Way | None]:
        if prototype.shortest is None:
            # In the thread that compiles, which by then has the matcher.
            prototype.shortest = self.prototypes.submit(
                grammar, lambda: shortest_answer(prototype.matcher.result(), grammar, self._vocabulary)
            )
        return prototype.shortest

    def _standing(self, sequence_id: int, *, may_force: bool) -> Commit:
        matcher = self._matchers[sequence_id]
        forced: tuple[int, ...] = ()
        if may_force and self._settings.forced_tokens and not matcher.is_stopped():
            forced = self._consume_forced(matcher, self._endings.get(sequence_id))
        if matcher.is_stopped():
            error = failure(matcher)
            return Commit(forced, stopped=True, accepting=True) if error is None else Commit(error=error)
        accepting = matcher.is_accepting()
        if forced:
            return Commit(forced, accepting=accepting)
        return _ACCEPTING if accepting else _GOING_ON

    def _consume_forced(self, matcher: LLMatcher, ending: Ending | None) -> tuple[int, ...]:
        forced = matcher.compute_ff_tokens()
        if not forced:
            return ()
        # An end token is the engine's to sample; a token wider than the logits cannot be fed to the model.
        usable = next((i for i, t in enumerate(forced) if t in self._eos or t >= self._vocab_size), len(forced))
        if not usable or (ending is not None and not ending.take_forced(forced[:usable])):
            return ()
        return tuple(forced[: matcher.try_consume_tokens(forced[:usable])])

    def _settle(self) -> None:
        """Wait for masks that nobody applied: matchers must not be touched while they are filled."""
        if self._is_filling and self._mask_worker is not None:
            self._is_filling = False
            self._mask_worker.result()

    def _wait_for_filling(self) -> None:
        if self._is_filling and self._mask_worker is not None:
            self._is_filling = False
            waited = time.perf_counter()
            share = 1 / len(self._rows)
            mask_seconds = self._mask_worker.result() * share
            self._note(GuidanceRowTimes(mask_seconds, min((time.perf_counter() - waited) * share, mask_seconds)))

    def _note(self, times: GuidanceRowTimes) -> None:
        for _, sequence_id in self._rows:
            error = failure(self._matchers[sequence_id])
            self._times[sequence_id] = times if error is None else replace(times, error=error)

    def _masks(self, chosen: Sequence[int]) -> torch.Tensor:
        """The masks of some rows, once they are filled."""
        self._ensure(chosen)
        return self._bitmask if len(chosen) == len(self._rows) else self._bitmask[torch.tensor(chosen)]

    def _ensure(self, chosen: Sequence[int]) -> None:
        """Have the masks of some rows."""
        if self.ahead:
            self._wait_for_filling()
            return
        missing = [index for index in chosen if index not in self._filled]
        if missing:
            self._filled.update(missing)
            self._seconds += self._fill(self._matchers_of(missing))

    def _allows(self, index: int, token: int) -> bool:
        """Whether a row's grammar allows a token, without its mask if there is none and the matcher can tell."""
        if index in self._filled or not self.judges(index):
            self._ensure([index])
            return self._is_set(index, token)
        matcher = self._matchers[self._rows[index][1]]
        if token in self._eos:
            return matcher.is_accepting()
        return token < self._tokenizer.vocab_size and matcher.validate_tokens([token]) == 1

    def _is_set(self, index: int, token: int) -> bool:
        word = token >> 5
        return word < self._words.shape[1] and bool(self._words[index, word] >> (token & 31) & 1)

    def _matchers_of(self, chosen: Sequence[int]) -> list[tuple[LLMatcher, int]]:
        return [(self._matchers[self._rows[index][1]], index) for index in chosen]

    def _fill_all(self) -> float:
        return self._fill(self._to_fill)

    def _fill(self, matchers: list[tuple[LLMatcher, int]]) -> float:
        start = time.perf_counter()
        if len(matchers) >= _PARALLEL_MASKS or (self.ahead and len(matchers) > 1):
            rows = self._words.shape[0]
            self._executor.unsafe_compute_mask_ptr(matchers, self._mask_address, self._mask_bytes, rows)
        else:
            for matcher, index in matchers:
                matcher.unsafe_compute_mask_ptr(self._mask_address + index * self._mask_bytes, self._mask_bytes)
        if self._endings:
            self._narrow([index for _, index in matchers])
        return time.perf_counter() - start

    def _narrow(self, chosen: Sequence[int]) -> None:
        """Leave in the masks of sequences that have no token to spare only what leads to an end."""
        masks = self._words
        for index in chosen:
            ending = self._endings.get(self._rows[index][1])
            allowed = None if ending is None else ending.narrow()
            if allowed is not None:
                masks[index] = 0
                bits = masks[index].view("uint32")
                for token in allowed:
                    bits[token >> 5] |= 1 << (token & 31)


def _fills_ahead(settings: GuidanceSettings, device: torch.device) -> bool:
    """Whether masks are filled behind the forward pass: where that leaves a core idle, it hides them."""
    if settings.masks_ahead != "auto":
        return settings.masks_ahead == "always"
    return device.type != "cpu" or torch.get_num_threads() < available_cores()


def _mask_threads(ahead: bool, device: torch.device) -> int:
    """As many as cores, at most 8; behind a CPU's forward pass as many as it leaves idle: more would slow it down."""
    busy = torch.get_num_threads() if ahead and device.type == "cpu" else 0
    return min(8, max(1, available_cores() - busy))
