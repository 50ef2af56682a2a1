from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import json5
import pytest

from guidance_core import print_config
from guidance_core.config import Settings, load_settings
from guidance_core.model_store import StoredModel
from guidance_core.print_config import as_complete_json5, as_json5, main

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    return tmp_path


@pytest.fixture
def stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(print_config, "resolve", lambda tag: StoredModel(tag, folder, {}, {}))
    return folder


def read_back(text: str, tmp_path: Path) -> Settings:
    file = tmp_path / "printed.json5"
    file.write_text(text)
    return load_settings({"GUIDED_TRTLLM_CONFIG": str(file)})


def test_the_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    settings = load_settings(
        {"GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": "7", "GUIDED_TRTLLM_MODEL__SERVED_NAME": 'a "name"'}
    )
    assert read_back(as_json5(settings), tmp_path) == settings


def test_settings_with_their_default_are_printed_as_comments() -> None:
    printed = as_json5(load_settings({}, {"torch.max_batch_size": "7"}))
    assert "    max_batch_size: 7," in printed.splitlines()
    assert "    // max_num_tokens: 256," in printed.splitlines()
    assert "    // Most sequences in the running batch" in printed
    assert json5.loads(printed)["torch"] == {"max_batch_size": 7}


def test_the_complete_settings_hold_every_one_and_the_models_own_chat_template(folder: Path) -> None:
    printed = as_complete_json5(Settings(), folder)
    complete = json5.loads(printed)
    assert set(complete) == set(Settings.model_fields)
    assert set(complete["torch"]) == set(type(Settings().torch).model_fields)
    assert complete["model"]["chat_template"] == TEMPLATE
    assert '    // eos_token: "</s>",' in printed.splitlines()
    assert read_back(printed, folder).model.eos_token is None


def test_the_chat_template_is_printed_as_it_is(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--print-chat-template"])
    assert capsys.readouterr().out == TEMPLATE
    (stored / "chat_template.j2").write_text("{{ 'own' }}\n")
    main(["--print-chat-template"])
    assert capsys.readouterr().out == "{{ 'own' }}\n"


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--arg", "torch.max_batch_size"], "write it as NAME=VALUE"),
        (["--arg", "torch.max_bach_size=3"], r"Did you mean torch\.max_batch_size\?"),
        (["--print-chat-template", "--arg", "model.chat_template=/nowhere.j2"], "No such file"),
    ],
)
def test_the_command_says_what_is_wrong(stored: Path, argv: list[str], complaint: str) -> None:
    with pytest.raises(SystemExit, match=complaint):
        main(argv)


def test_a_model_without_chat_template_has_none_to_print(stored: Path) -> None:
    (stored / "tokenizer_config.json").unlink()
    with pytest.raises(SystemExit, match=r"has no chat template: name one in the setting model\.chat_template"):
        main(["--print-chat-template"])


def test_the_command_prints_what_the_environment_sets() -> None:
    environment = {**os.environ, "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": "9"}
    command = [sys.executable, "-m", "guidance_core.config", "--print-config", "--arg", "server.max_choices=3"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    settings = json5.loads(printed)
    assert settings["torch"] == {"max_batch_size": 9}
    assert settings["server"] == {"max_choices": 3}


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = f"{sys.executable} -m guidance_core.config | true"
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stderr == ""


def test_api_keys_are_not_printed(folder: Path, tmp_path: Path) -> None:
    settings = load_settings({"GUIDED_TRTLLM_SERVER__API_KEYS": "secret-1,secret-2"})
    for printed in (as_json5(settings), as_complete_json5(settings, folder)):
        assert "secret-" not in printed
        assert '    // api_keys: ["**********", "**********"],' in printed.splitlines()
        assert read_back(printed, tmp_path).server.api_keys == ()
    assert "secret-" not in repr(settings)
