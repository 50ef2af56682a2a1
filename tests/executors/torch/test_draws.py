"""Random numbers by position."""

import itertools

from guidance_core.executors.torch.draws import choice_seed, uniform


def test_a_number_depends_on_seed_choice_and_position_only() -> None:
    assert uniform(choice_seed(7, 1), 3) == uniform(choice_seed(7, 1), 3)
    numbers = {uniform(choice_seed(seed, index), at) for seed in (-1, 0, 1) for index in range(9) for at in range(99)}
    assert len(numbers) == 3 * 9 * 99
    again = {uniform(choice_seed(seed, 0), at, attempt) for seed in (0, 1) for at in range(99) for attempt in (1, 2)}
    assert len(again | numbers) == len(numbers) + 2 * 99 * 2


def test_numbers_are_uniform_along_seeds_choices_and_positions() -> None:
    for series in (
        [uniform(choice_seed(seed, 0), 0) for seed in range(20_000)],
        [uniform(choice_seed(3, index), 0) for index in range(20_000)],
        [uniform(choice_seed(3, 0), position) for position in range(20_000)],
    ):
        assert all(0 <= number < 1 for number in series)
        tenths = [sum(int(number * 10) == tenth for number in series) for tenth in range(10)]
        assert all(1800 < count < 2200 for count in tenths)
        neighbours = sum((a - 0.5) * (b - 0.5) for a, b in itertools.pairwise(series)) / len(series)
        assert abs(neighbours) < 0.003
