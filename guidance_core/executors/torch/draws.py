"""Random numbers that depend on a choice's seed and a token's position, and on nothing else.

A generator with state would make an answer depend on how often it was asked; here every draw is a hash of where it is
needed, so a choice that runs alone, in a crowd, or again after a step that failed draws the same numbers. The hash is
SplitMix64's (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), which passes BigCrush.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def choice_seed(seed: int, index: int) -> int:
    """The seed of one choice of a request: 64 bits that differ for each (seed, index)."""
    return _mix((_mix(seed & _MASK) + (index + 1) * _GAMMA) & _MASK)


def uniform(seed: int, position: int, attempt: int = 0) -> float:
    """A number in [0, 1), uniform to 53 bits, for the token at ``position`` of a choice's answer.

    Each further ``attempt`` at a position has a number of its own.
    """
    if attempt:
        seed = _mix((~seed + attempt * _GAMMA) & _MASK)
    return (_mix((seed + (position + 1) * _GAMMA) & _MASK) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
