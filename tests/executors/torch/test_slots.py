"""Which slot a sequence takes, and what it need not run again."""

from guidance_core.executors.torch.slots import Placement, Slots
from tests.executors.torch.fakes import choice

SYSTEM = list(range(20))


def fill(slots: Slots, tokens: list[int], *, key: int = 0, written: int | None = None) -> int:
    """Run a sequence over these tokens and let it end."""
    slot = slots.place(choice([*tokens, 63], key=key)).slot
    slots.write(slot, 0, tokens[:written])
    slots.release(slot)
    return slot


def test_the_last_token_of_a_known_prompt_is_run_again_for_its_logits() -> None:
    slots = Slots(2, 64, share=True)
    slot = fill(slots, SYSTEM)
    assert slots.place(choice(SYSTEM)) == Placement(1 - slot, 19, slot)


def test_a_conversation_goes_on_in_the_slot_that_has_it() -> None:
    slots = Slots(2, 64, share=True)
    slot = fill(slots, SYSTEM)
    assert slots.place(choice([*SYSTEM, 40, 41])) == Placement(slot, 20, None)


def test_a_shared_beginning_is_copied_so_that_the_other_conversation_is_kept() -> None:
    slots = Slots(2, 64, share=True)
    slot = fill(slots, [*SYSTEM, 30, 31, 32])
    assert slots.place(choice([*SYSTEM, 40])) == Placement(1 - slot, 20, slot)
    assert slots.longest_prefix(choice([*SYSTEM, 30, 31, 33])) == 22


def test_a_beginning_is_copied_from_a_sequence_that_still_runs() -> None:
    slots = Slots(2, 64, share=True)
    live = slots.place(choice(SYSTEM)).slot
    slots.write(live, 0, SYSTEM)
    assert slots.place(choice([*SYSTEM, 1])) == Placement(1 - live, 20, live)


def test_the_slot_that_has_been_free_for_the_longest_is_taken() -> None:
    slots = Slots(3, 64, share=True)
    first, second, third = (fill(slots, [base] * 12) for base in (1, 2, 3))
    assert {first, second, third} == {0, 1, 2}
    assert slots.place(choice([4] * 12)) == Placement(first)
    assert slots.place(choice([5] * 12)) == Placement(second)
    assert slots.longest_prefix(choice([1] * 12)) == 0
    assert slots.longest_prefix(choice([3] * 12)) == 11


def test_a_prompt_whose_tokens_are_scored_is_run_as_a_whole() -> None:
    slots = Slots(2, 64, share=True)
    fill(slots, SYSTEM)
    scored = choice([*SYSTEM, 40], prompt_logprobs=0)
    assert slots.longest_prefix(scored) == 0
    assert slots.place(scored).cached == 0


def test_only_what_was_written_is_offered() -> None:
    slots = Slots(1, 64, share=True)
    fill(slots, SYSTEM, written=6)
    assert slots.longest_prefix(choice([*SYSTEM, 1])) == 6
    slots.forget(0)
    assert slots.longest_prefix(choice([*SYSTEM, 1])) == 0
    assert slots.tokens == 0


def test_a_new_sequence_hides_what_the_slot_held_beyond_its_prefix() -> None:
    slots = Slots(1, 64, share=True)
    fill(slots, SYSTEM)
    slots.place(choice([*SYSTEM[:10], 50, 51]))
    slots.release(0)
    assert slots.longest_prefix(choice([*SYSTEM, 1])) == 10


def test_without_sharing_only_choices_of_one_request_share() -> None:
    slots = Slots(3, 64, share=False)
    live = slots.place(choice(SYSTEM, key=1)).slot
    slots.write(live, 0, SYSTEM)
    assert slots.place(choice([*SYSTEM, 1], key=2)).cached == 0
    assert slots.place(choice([*SYSTEM, 1], key=1, index=1)).cached == 20
