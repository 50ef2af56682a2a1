"""One call at a time in a thread of its own."""

from __future__ import annotations

import threading

import pytest

from guidance_core.guidance.background import Background


def test_each_start_has_its_result_from_the_same_other_thread() -> None:
    seen: list[int] = []

    def count() -> int:
        seen.append(threading.get_ident())
        return len(seen)

    background = Background(count, name="test")
    for expected in (1, 2, 3):
        background.start()
        assert background.result() == expected
    background.close()
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_what_fails_is_told_to_who_waits_and_ends_nothing() -> None:
    fails = [True]

    def fail_once() -> str:
        if fails.pop():
            raise ValueError("first")
        return "second"

    background = Background(fail_once, name="test")
    background.start()
    with pytest.raises(ValueError, match="first"):
        background.result()
    fails.append(False)
    background.start()
    assert background.result() == "second"
    background.close()


def test_closing_waits_for_what_runs() -> None:
    release, ended = threading.Event(), []

    def wait() -> None:
        release.wait(10)
        ended.append(True)

    background = Background(wait, name="test")
    background.start()
    threading.Timer(0.05, release.set).start()
    background.close()
    assert ended == [True]
