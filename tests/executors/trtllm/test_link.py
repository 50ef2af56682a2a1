"""Workers that come late, go early, or hang: nobody else waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any

import pytest

from guidance_core.executors.trtllm.link import Address, ServiceEnd, WorkerEnd

LARGE = b"0" * 4_000_000
"""More than a socket holds of what nobody reads."""

SECONDS = 10.0


@pytest.fixture
def heard() -> list[Any]:
    """What workers tell the service."""
    return []


@pytest.fixture
def service(heard: list[Any]) -> Iterator[ServiceEnd]:
    end = ServiceEnd(heard.append)
    yield end
    end.close()


def connect(address: Address) -> Connection:
    """A worker that does nothing by itself."""
    return Client(address.path, "AF_UNIX", authkey=address.secret)


def in_time(work: Callable[[], Any]) -> Any:
    """What a call returns that could hang; then there is a `TimeoutError`."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(SECONDS)


def test_a_worker_that_connects_late_learns_what_is_published_and_nothing_else(service: ServiceEnd) -> None:
    service.publish(1, "one")
    service.publish(2, "two")
    service.withdraw(1)
    service.withdraw("unknown")
    worker = WorkerEnd(service.address)
    service.publish(3, "three")
    assert worker.entry(2, SECONDS) == "two"
    assert worker.entry(3, SECONDS) == "three"
    assert worker.entry(1, 0.0) is None


def test_a_withdrawn_entry_is_told_of_and_not_waited_for(service: ServiceEnd) -> None:
    worker = WorkerEnd(service.address)
    withdrawn: list[Any] = []
    worker.on_withdrawn(withdrawn.append)
    service.publish(1, "one")
    assert worker.entry(1, SECONDS) == "one"
    service.withdraw(1)
    service.publish(2, "two")
    assert worker.entry(2, SECONDS) == "two"
    started = time.monotonic()
    assert worker.entry(1, SECONDS) is None
    assert time.monotonic() - started < SECONDS / 2
    assert withdrawn == ["one"]


def test_the_service_hears_every_worker(service: ServiceEnd, heard: list[Any]) -> None:
    for number in range(3):
        WorkerEnd(service.address).send(number)
    deadline = time.monotonic() + SECONDS
    while len(heard) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(heard) == [0, 1, 2]


def test_a_worker_that_goes_before_it_has_heard_anything_keeps_no_other_from_connecting(service: ServiceEnd) -> None:
    service.publish(1, LARGE)
    for _ in range(3):
        connect(service.address).close()
    assert in_time(lambda: WorkerEnd(service.address).entry(1, SECONDS)) == LARGE


def test_a_worker_that_hangs_does_not_hold_up_the_service(service: ServiceEnd) -> None:
    hanging = connect(service.address)

    def publish() -> None:
        for key in range(3):
            service.publish(key, LARGE)
        service.withdraw(0)

    in_time(publish)
    hanging.close()


def test_somebody_without_the_secret_hears_nothing_and_hurts_nobody(service: ServiceEnd) -> None:
    service.publish(1, "one")
    with pytest.raises(AuthenticationError):
        Client(service.address.path, "AF_UNIX", authkey=b"guessed").recv()
    assert in_time(lambda: WorkerEnd(service.address).entry(1, SECONDS)) == "one"


def test_a_closed_service_lets_its_workers_go_and_leaves_no_socket(heard: list[Any]) -> None:
    service = ServiceEnd(heard.append)
    service.publish(1, "one")
    worker = connect(service.address)
    assert in_time(worker.recv) == (1, "one")
    in_time(service.close)
    with pytest.raises(EOFError):
        in_time(worker.recv)
    with pytest.raises(OSError, match="No such file"):
        WorkerEnd(service.address)
