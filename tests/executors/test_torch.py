"""The embedded executor: the contract, crashes, and `transformers` as the judge of its answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from guidance_core.config import Settings
from guidance_core.errors import ExecutorUnavailable, Unsupported
from guidance_core.executors.torch.executor import TorchExecutor
from guidance_core.executors.torch.messages import Report
from guidance_core.executors.torch.process import EngineProcess
from guidance_core.generation import Grammar
from tests.executors.asking import Answer, answer, choices, make_request, settled
from tests.executors.contract import ExecutorContract

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {
    "torch": {
        "device": "cpu",
        "dtype": "float32",
        "max_batch_size": 4,
        "max_num_tokens": 32,
        "max_model_len": 512,
        "num_threads": 1,
        "step_timeout": 4.0,
    },
    "server": {"max_queue_size": 4},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def executor(tiny_llama: Path) -> AsyncIterator[TorchExecutor]:
    executor = TorchExecutor(tiny_llama, Settings.model_validate(SETTINGS))
    await executor.start()
    yield executor
    await executor.shutdown()


class TestContract(ExecutorContract):
    """All of it."""


def pid(executor: TorchExecutor) -> int:
    assert executor._process is not None
    return executor._process.pid


async def break_and_recover(executor: TorchExecutor, prompt_ids: list[int], signal_number: int) -> str:
    """Hurt the process while two requests run; both must fail, and all be well again afterwards. What was said."""
    before = executor.stats()
    expected = await answer(executor, prompt_ids)
    tasks = [
        asyncio.create_task(choices(executor, make_request(prompt_ids, n=n, max_tokens=450, ignore_eos=True)))
        for n in (1, 2)
    ]
    await settled(executor, lambda stats: stats.running == 3)
    os.kill(pid(executor), signal_number)
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(failure, ExecutorUnavailable) for failure in failures)
    assert executor.health().state == "restarting"
    with pytest.raises(ExecutorUnavailable) as refusal:
        executor.check(make_request(prompt_ids))
    assert refusal.value.retry_after is not None
    deadline = time.monotonic() + 60
    while executor.health().state != "ready":
        assert time.monotonic() < deadline, executor.health()
        await asyncio.sleep(0.05)
    assert (await answer(executor, prompt_ids)).token_ids == expected.token_ids
    after = executor.stats()
    assert after.restarts == before.restarts + 1
    assert after.sampled_tokens > before.sampled_tokens, "counters go on"
    return str(failures[0])


async def test_a_killed_process_is_answered_for_and_replaced(
    executor: TorchExecutor, prompt_ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "guidance_core")
    assert "SIGKILL" in await break_and_recover(executor, prompt_ids, signal.SIGKILL)
    end, again = [record.getMessage() for record in caplog.records]
    assert "killed by SIGKILL with 3 answers in flight" in end
    assert "answers again" in again


async def test_a_hung_process_is_answered_for_and_replaced(executor: TorchExecutor, prompt_ids: list[int]) -> None:
    assert "step_timeout" in await break_and_recover(executor, prompt_ids, signal.SIGSTOP)


async def test_signals_meant_for_the_service_do_not_end_the_process(
    executor: TorchExecutor, prompt_ids: list[int]
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid(executor), number)
    assert len((await answer(executor, prompt_ids, ignore_eos=True)).token_ids) == 12
    assert executor.health().state == "ready"


async def test_shutting_down_fails_what_is_in_flight_and_leaves_no_process(
    tiny_llama: Path, prompt_ids: list[int]
) -> None:
    executor = TorchExecutor(tiny_llama, Settings.model_validate(SETTINGS))
    with pytest.raises(ExecutorUnavailable):
        executor.limits()
    starting = asyncio.create_task(executor.start())
    await asyncio.sleep(0)
    assert executor.health().state == "starting"
    with pytest.raises(ExecutorUnavailable, match="being loaded"):
        executor.check(make_request(prompt_ids))
    await starting
    process = pid(executor)
    task = asyncio.create_task(answer(executor, prompt_ids, max_tokens=450, ignore_eos=True))
    await settled(executor, lambda stats: stats.running == 1)
    await executor.shutdown()
    await executor.shutdown()
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await task
    assert executor.health().state == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(ExecutorUnavailable):
        executor.check(make_request(prompt_ids))


async def test_shutting_down_while_a_crashed_process_is_replaced_leaves_no_process(tiny_llama: Path) -> None:
    executor = TorchExecutor(tiny_llama, Settings.model_validate(SETTINGS))
    await executor.start()
    crashed = executor._process
    os.kill(pid(executor), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while executor._process in (crashed, None):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await executor.shutdown()
    await asyncio.sleep(0)
    assert executor.health().state == "stopped"
    assert not executor._tasks, "what would start another process"
    assert executor._process is None


async def test_a_process_that_is_ready_at_the_moment_of_a_shutdown_is_not_served_from(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = TorchExecutor(tiny_llama, Settings.model_validate(SETTINGS))
    stopping: list[asyncio.Task[None]] = []
    hear = executor._on_report

    def hear_and_stop(process: EngineProcess, report: Report) -> None:
        hear(process, report)
        stopping.append(asyncio.create_task(executor.shutdown()))

    monkeypatch.setattr(executor, "_on_report", hear_and_stop)
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await executor.start()
    await asyncio.gather(*stopping)
    assert executor.health().state == "stopped"


async def test_a_start_that_is_cancelled_leaves_no_process(tiny_llama: Path) -> None:
    executor = TorchExecutor(tiny_llama, Settings.model_validate(SETTINGS))
    starting = asyncio.create_task(executor.start())
    await asyncio.sleep(0.2)
    process = executor._process
    assert process is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await asyncio.to_thread(process.join, 10)
    assert executor.health().state == "stopped"


async def test_a_model_that_cannot_be_loaded_fails_with_its_own_message(tiny_llama: Path, tmp_path: Path) -> None:
    settings = Settings.model_validate({**SETTINGS, "torch": {**SETTINGS["torch"], "max_model_len": 4096}})
    executor = TorchExecutor(tiny_llama, settings)
    with pytest.raises(ExecutorUnavailable, match="max_model_len is 4096"):
        await executor.start()
    assert executor.health().state == "failed"
    assert "max_model_len is 4096" in executor.health().detail


async def test_a_model_without_a_fast_tokenizer_serves_and_refuses_grammars(
    tiny_llama: Path, tmp_path: Path, prompt_ids: list[int], regex_grammar: Callable[[str], Grammar]
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer.json"))
    executor = TorchExecutor(tmp_path / "model", Settings.model_validate(SETTINGS))
    await executor.start()
    try:
        assert len((await answer(executor, prompt_ids, ignore_eos=True)).token_ids) == 12
        with pytest.raises(Unsupported, match=r"tokenizer\.json"):
            executor.check(make_request(prompt_ids, regex_grammar("a")))
    finally:
        await executor.shutdown()


async def test_the_service_side_imports_no_torch() -> None:
    code = "import guidance_core.executors.torch.executor, sys; print(json.dumps('torch' in sys.modules))"
    found = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout) is False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def default_model(model_path: Path) -> AsyncIterator[TorchExecutor]:
    settings = {"device": "cpu", "dtype": "float32", "max_batch_size": 8, "max_num_tokens": 64, "max_model_len": 1024}
    executor = TorchExecutor(model_path, Settings.model_validate({"torch": settings}))
    await executor.start()
    yield executor
    await executor.shutdown()


async def test_greedy_answers_in_float32_are_those_of_transformers_generate(
    default_model: TorchExecutor, model_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    questions = [
        "Why is the sky blue?",
        "Write a haiku about rivers.",
        "What is 17 + 5?",
        "Tell me about Ada Lovelace.",
    ]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q in questions
    ]
    prompts.append(prompts[0] * 4)
    expected = []
    for prompt in prompts:
        output = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        expected.append(output[:-1] if output[-1] in default_model.limits().eos_token_ids else output)

    def tokens(answers: Sequence[Answer]) -> list[list[int]]:
        return [each.token_ids for each in answers]

    alone = [await answer(default_model, prompt, max_tokens=24) for prompt in prompts]
    assert tokens(alone) == expected
    noise = [answer(default_model, prompts[i], max_tokens=9 + 5 * i, temperature=1.0, n=i) for i in (1,)]
    crowd = await asyncio.gather(*(answer(default_model, prompt, max_tokens=24) for prompt in prompts), *noise)
    assert tokens(crowd[: len(prompts)]) == expected
