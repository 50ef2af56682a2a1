"""Who runs in a step."""

from dataclasses import replace

import numpy as np
import pytest

from guidance_core.executors.torch.images import SequenceImage
from guidance_core.executors.torch.scheduler import Plan, Scheduler
from guidance_core.executors.torch.sequence import Sequence
from guidance_core.executors.torch.slots import Slots
from guidance_core.generation import PromptImage
from tests.executors.torch.fakes import choice


def make(slots: int = 4, tokens: int = 16, *, share: bool = True) -> Scheduler:
    return Scheduler(Slots(slots, 512, share=share), tokens)


def run(scheduler: Scheduler) -> Plan:
    """One step, in which every sampled token is 9."""
    plan = scheduler.schedule()
    for work in plan.work:
        scheduler.slots.write(work.segment.slot, work.segment.start, work.segment.token_ids)
        work.sequence.computed += len(work.segment.token_ids)
        if work.segment.logits == "last":
            work.sequence.append(9, None)
    return plan


def shape(plan: Plan) -> list[tuple[int, int, int, str]]:
    """(request key, start, tokens, logits) of a plan's segments."""
    return [(w.sequence.key, w.segment.start, len(w.segment.token_ids), w.segment.logits) for w in plan.work]


def distinct(key: int, length: int) -> Sequence:
    return choice([key] * length, key=key, max_tokens=50)


def test_a_prompt_is_run_in_chunks_and_samples_after_the_last() -> None:
    scheduler = make()
    scheduler.add(distinct(1, 40))
    assert [shape(run(scheduler)) for _ in range(4)] == [
        [(1, 0, 16, "none")],
        [(1, 16, 16, "none")],
        [(1, 32, 8, "last")],
        [(1, 40, 1, "last")],
    ]


def test_an_image_whose_tokens_see_each_other_is_run_in_one_step() -> None:
    scheduler = Scheduler(Slots(4, 512, share=True), 16, whole_images=True)
    sequence = distinct(1, 60)
    key = bytes(32)
    sequence.images = tuple(
        SequenceImage(PromptImage(np.arange(*run, dtype=np.int32), {}, key)) for run in ((10, 20), (20, 40), (50, 60))
    )
    scheduler.add(sequence)
    # Up to the first one, each as a whole, one of them longer than a step, and what is between them.
    assert [shape(run(scheduler))[0][1:3] for _ in range(5)] == [(0, 10), (10, 10), (20, 20), (40, 10), (50, 10)]


def test_who_answers_goes_on_while_a_long_prompt_is_run() -> None:
    scheduler = make()
    for key in (1, 2):
        scheduler.add(distinct(key, 5))
    run(scheduler)
    scheduler.add(distinct(3, 40))
    for start in (0, 14, 28):
        plan = shape(run(scheduler))
        assert [part[0] for part in plan] == [1, 2, 3]
        assert plan[2][1] == start
        assert sum(part[2] for part in plan) <= 16


def test_prompts_share_a_step_in_the_order_of_their_arrival() -> None:
    scheduler = make()
    for key in (1, 2, 3):
        scheduler.add(distinct(key, 7))
    assert shape(run(scheduler)) == [(1, 0, 7, "last"), (2, 0, 7, "last"), (3, 0, 2, "none")]
    assert shape(run(scheduler)) == [(1, 7, 1, "last"), (2, 7, 1, "last"), (3, 2, 5, "last")]


def test_who_finds_no_slot_waits_for_the_next_free_one() -> None:
    scheduler = make(slots=2)
    first, second, third, fourth = (distinct(key, 3) for key in (1, 2, 3, 4))
    for sequence in (first, second, third, fourth):
        scheduler.add(sequence)
    run(scheduler)
    assert [s.key for s in scheduler.running] == [1, 2]
    scheduler.remove(first)
    run(scheduler)
    assert [s.key for s in scheduler.running] == [2, 3]
    assert [s.key for s in scheduler.waiting] == [4]
    assert third.slot == 0


def test_forced_tokens_run_in_one_segment_beside_the_others_single_tokens() -> None:
    scheduler = make()
    one, two = distinct(1, 3), distinct(2, 3)
    scheduler.add(one)
    scheduler.add(two)
    run(scheduler)
    one.follow((20, 21, 22), stopped=False, accepting=False)
    assert shape(run(scheduler)) == [(1, 3, 4, "last"), (2, 3, 1, "last")]


def test_forced_tokens_beyond_the_budget_take_nobody_elses_token() -> None:
    scheduler = make(slots=2, tokens=4)
    one, two = distinct(1, 1), distinct(2, 1)
    scheduler.add(one)
    scheduler.add(two)
    run(scheduler)
    one.follow(tuple(range(20, 30)), stopped=False, accepting=False)
    assert shape(run(scheduler)) == [(1, 1, 3, "none"), (2, 1, 1, "last")]


def test_choices_of_one_request_run_its_prompt_once() -> None:
    scheduler = make()
    prompt = list(range(20, 40))
    for index in range(3):
        scheduler.add(choice(prompt, key=1, index=index, n=3))
    assert shape(run(scheduler)) == [(1, 0, 16, "none")]
    assert shape(run(scheduler)) == [(1, 16, 4, "last")]
    plan = run(scheduler)
    assert shape(plan) == [(1, 20, 1, "last"), (1, 19, 1, "last"), (1, 19, 1, "last")]
    assert plan.copies == [(0, 1, 19), (0, 2, 19)]


def test_who_waits_for_a_shared_prompt_is_not_robbed_of_the_last_slot() -> None:
    scheduler = make(slots=2, tokens=32)
    prompt = list(range(20, 40))
    scheduler.add(choice(prompt, key=1, max_tokens=50))
    scheduler.add(choice([*prompt, 1], key=2, max_tokens=50))
    scheduler.add(distinct(3, 4))
    run(scheduler)
    assert [s.key for s in scheduler.waiting] == [2, 3]
    run(scheduler)
    assert [s.key for s in scheduler.running] == [1, 2]


def test_a_sequence_goes_on_by_itself_when_the_one_it_waited_for_is_gone() -> None:
    scheduler = make()
    prompt = list(range(20, 50))
    first = choice(prompt, key=1)
    scheduler.add(first)
    scheduler.add(choice([*prompt, 1], key=2))
    run(scheduler)
    scheduler.remove(first)
    # What the first one had run by then is not run again.
    assert shape(run(scheduler)) == [(2, 16, 15, "last")]


def test_a_step_that_cannot_hold_all_sequences_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"torch\.max_num_tokens is 16"):
        make(slots=16, tokens=16)


def test_the_lowest_priority_number_starts_first_and_equal_ones_in_the_order_of_their_arrival() -> None:
    scheduler = make(slots=1)
    for key, priority in enumerate([0, 5, 0, -1, 5]):
        sequence = distinct(key, 5)
        sequence.request = replace(sequence.request, priority=priority)
        scheduler.add(sequence)

    order = []
    while scheduler.waiting:
        [sequence] = run(scheduler).placed
        order.append(sequence.key)
        scheduler.remove(sequence)

    assert order == [3, 0, 2, 1, 4]
