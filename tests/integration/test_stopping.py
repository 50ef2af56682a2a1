"""Clients that go away, and an executor that dies."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MODEL, Server, wait_until

LONG: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 1500,
    "ignore_eos": True,
}


@pytest.fixture(autouse=True)
def idle(server: Server) -> None:
    wait_until(lambda: server.running() == 0, seconds=30)


def test_closing_a_stream_frees_its_slots(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True, "n": 2}) as response:
        lines = response.iter_lines()  # kept: an iterator that is thrown away closes the connection
        next(lines)
        wait_until(lambda: server.running() == 2, seconds=10)

    wait_until(lambda: server.running() == 0, seconds=2)


def test_closing_a_connection_that_waits_for_a_whole_answer_frees_its_slot(server: Server) -> None:
    body = json.dumps(LONG).encode()
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: server.running() == 1, seconds=10)

    wait_until(lambda: server.running() == 0, seconds=2)


def test_a_crash_ends_streams_with_an_error_and_the_service_recovers_by_itself(server: Server) -> None:
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True}, timeout=60
        ) as response:
            for line in response.iter_lines():
                lines.append(line)
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(30)
    server.executor().kill()
    reader.join(30)

    last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    response = httpx.post(f"{server.url}/v1/chat/completions", json={**LONG, "max_tokens": 2}, timeout=60)
    assert response.status_code in (200, 503)
    assert httpx.get(f"{server.url}/livez").status_code == 200

    wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, seconds=60)
    response = httpx.post(f"{server.url}/v1/chat/completions", json={**LONG, "max_tokens": 2}, timeout=60)
    assert response.status_code == 200
    assert server.state()["executor"]["restarts"] == 1


def test_metrics_are_served(server: Server) -> None:
    text = httpx.get(f"{server.url}/metrics").text

    assert 'guided_http_requests_total{route="/readyz",status="200"}' in text
    assert 'guided_executor_state{state="ready"} 1.0' in text
