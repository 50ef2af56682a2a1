"""What happens to logits in TensorRT-LLM's worker processes: masks, and tokens drawn as the contract says.

TensorRT-LLM's samplers do not all do what `SamplingParams` promises. The PyTorch backend's `TorchSampler` of 1.2
(``tensorrt_llm/_torch/pyexecutor/sampler.py``) reads temperature, top_k and top_p only: seeds, min_p and penalties are
ignored, ``min_length`` counts the prompt's tokens, and log-probabilities are those after masks and biases. A bias fails
every request of a step whose last request has none (an assertion in ``_apply_embedding_bias``, which the 1.3 release
candidates have too). The C++ decoder's presence and frequency penalties count the prompt. So whoever asks for these
gets the token that *our* sampler draws: all other logits of the row are set to −inf, and any sampler then takes it.

The PyTorch backend calls a processor once per chunk of a long prompt; and an engine may pause a sequence, and forget
its last tokens then (``GenericLlmRequest::pause`` in ``cpp/include/tensorrt_llm/batch_manager/llmRequest.h``).
Everything here is therefore a function of the tokens so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import lru_cache

import torch

from guidance_core.errors import InvalidGrammar
from guidance_core.executors.torch.sampler import sample
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.executors.trtllm.task import Failure, Report, Task, WorkerSetup
from guidance_core.grammar.tokenizer import load_ll_tokenizer
from guidance_core.guidance.batch import GuidanceBatch, GuidanceRowTimes

_UNGUIDED = GuidanceRowTimes(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of logits.

    Attributes:
        task: of the choice that it belongs to.
        logits: float [at least vocab_size], changed in place.
        token_ids: prompt and answer so far.
    """

    task: Task
    logits: torch.Tensor
    token_ids: Rows[int]


@dataclass(slots=True)
class _Choice:
    """What is known of a choice.

    Attributes:
        sequence: its tokens, and how they are drawn.
        error: why it must end.
        is_over: it ended with a token that only the service takes for an end: it is about to be aborted.
    """

    sequence: Sequence
    error: str | None = None
    is_over: bool = False


class Steering:
    """The choices that one worker's processors look after. Called from the one thread that runs the model.

    Args:
        setup: of the worker.
        device: where the logits are, if its masks may be filled for a whole batch; ``cpu`` otherwise: pinned masks
            must not be filled again before they were copied, which nothing guarantees between two calls in one step.
    """

    def __init__(self, setup: WorkerSetup, device: torch.device) -> None:
        self._setup = setup
        self._guidance = GuidanceBatch(
            load_ll_tokenizer(setup.model_path, setup.vocab_size, setup.eos_token_ids),
            vocab_size=setup.vocab_size,
            max_rows=setup.max_rows,
            # The engine takes one token a step: what a grammar forces is sampled like all others. On a CPU each mask
            # is asked for as soon as it is begun.
            settings=setup.guidance.model_copy(
                update={"forced_tokens": False, **({"masks_ahead": "never"} if device.type == "cpu" else {})}
            ),
            device=device,
        )
        self._choices: dict[int, _Choice] = {}
        self._removed: deque[int] = deque()
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def remove(self, key: int) -> None:
        """Forget a choice before the next step; unknown ones are ignored. From any thread."""
        self._removed.append(key)

    def step(self, rows: Rows[Row]) -> list[Report | Failure]:
        """Mask every guided row, and draw the token of those that want it, in place.

        A choice that failed is made to end, and reported as failed. Nothing is raised on its account: TensorRT-LLM
        would fail all requests in flight (``PyExecutor._handle_errors``).

        Args:
            rows: at most one per choice.

        Returns:
            What the service must know: what was drawn, and what failed.
        """
        if self._copied is not None:
            self._copied.synchronize()
        while self._removed:
            key = self._removed.popleft()
            self._choices.pop(key, None)
            self._guidance.remove(key)
        choices = [self._choice(row) for row in rows]
        self._follow(rows, choices)
        going = [place for place, choice in enumerate(choices) if choice.error is None and not choice.is_over]
        # Drawing waits for its masks; those that come after it may be filled into the same memory.
        drawn = [place for place in going if rows[place].task.draws]
        reports = self._draw([rows[place] for place in drawn], [choices[place] for place in drawn])
        masked = [
            place for place in going if not rows[place].task.draws and rows[place].task.request.grammar is not None
        ]
        if masked:
            self._guidance.begin([(index, rows[place].task.key) for index, place in enumerate(masked)])
            times = self._guidance.mask_each([rows[place].logits for place in masked])
            for place in masked:
                choices[place].error = times[rows[place].task.key].error
        for row, choice in zip(rows, choices, strict=True):
            if choice.error is not None:
                reports.append(Failure(row.task.key, choice.error))
                only(row.logits, self._setup.eos_token_ids[0])
        if self._copied is not None:
            self._copied.record()
        return reports

    def _draw(self, rows: Rows[Row], choices: Rows[_Choice]) -> list[Report | Failure]:
        """Choose the tokens of these rows, and leave the engine's sampler nothing else."""
        if not rows:
            return []
        sequences = [choice.sequence for choice in choices]
        guided = [(index, s.id) for index, s in enumerate(sequences) if s.request.grammar is not None]
        self._guidance.begin(guided)
        # A copy: what the model itself said is wanted, and rows may be narrow floats.
        logits = torch.stack([row.logits[: self._setup.vocab_size] for row in rows]).float()
        samples = sample(logits, sequences, self._guidance if guided else None)
        times = self._guidance.wait()
        reports: list[Report | Failure] = []
        for row, choice, drawn in zip(rows, choices, samples, strict=True):
            cost = times.get(row.task.key, _UNGUIDED)
            choice.error = cost.error or drawn.error
            if choice.error is not None:
                continue
            only(row.logits, drawn.token_id)
            reports.append(
                Report(
                    key=row.task.key,
                    position=choice.sequence.answered,
                    token_id=drawn.token_id,
                    logprob=drawn.logprob,
                    mask_seconds=cost.mask_seconds,
                    wait_seconds=cost.wait_seconds,
                    allowed_mass=drawn.allowed_mass,
                )
            )
        return reports

    def _choice(self, row: Row) -> _Choice:
        task = row.task
        choice = self._choices.get(task.key)
        if choice is not None and len(row.token_ids) < len(choice.sequence.tokens):
            self._guidance.remove(task.key)
            choice = None
        if choice is None:
            choice = _Choice(
                Sequence(
                    task.key,
                    task.key,
                    task.index,
                    task.request,
                    eos_token_ids=self._setup.eos_token_ids,
                    seed=task.seed,
                )
            )
            self._choices[task.key] = choice
            if task.request.grammar is not None:
                try:
                    self._guidance.add(task.key, task.request.grammar)
                    choice.error = self._guidance.start(task.key).error
                except InvalidGrammar as error:
                    choice.error = error.message
        return choice

    def _follow(self, rows: Rows[Row], choices: list[_Choice]) -> None:
        """Move every choice on by the tokens that were added since its last call: one, as a rule."""
        while True:
            commits = []
            for row, choice in zip(rows, choices, strict=True):
                sequence = choice.sequence
                if choice.error is not None or choice.is_over or len(sequence.tokens) >= len(row.token_ids):
                    continue
                token = row.token_ids[len(sequence.tokens)]
                sequence.append(token, None)
                if sequence.stop_token_id is not None:
                    choice.is_over = True
                elif row.task.request.grammar is not None:
                    commits.append((row.task.key, token))
                else:
                    commits.append((-1, token))
            if not commits:
                return
            standings = self._guidance.commit([commit for commit in commits if commit[0] >= 0])
            for choice in choices:
                standing = standings.get(choice.sequence.id)
                if standing is not None:
                    choice.error = standing.error


def only(logits: torch.Tensor, token_id: int) -> None:
    """Leave one token: float [n], in place."""
    logits.fill_(-torch.inf)
    logits[token_id] = 0.0


@lru_cache(maxsize=4)
def steering_of(setup: WorkerSetup) -> Steering:
    """The worker's one `Steering` for processors that are called one after the other."""
    return Steering(setup, torch.device("cpu"))
