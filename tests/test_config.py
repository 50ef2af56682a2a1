from __future__ import annotations

import os
from pathlib import Path

import pytest

from guidance_core.config import BadSettings, Settings, load_settings


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_without_files_and_variables_the_defaults_hold() -> None:
    assert load_settings({"PATH": "/bin"}) == Settings()


def test_files_are_merged_in_order_section_by_section(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.json5", "{torch: {max_batch_size: 8, device: 'cpu'}, server: {max_choices: 2}} // first"
    )
    second = write(tmp_path / "b.json5", "{torch: {max_batch_size: 4,}}")
    settings = load_settings({"GUIDED_TRTLLM_CONFIG": os.pathsep.join([first, second])})
    assert settings.torch.max_batch_size == 4
    assert settings.torch.device == "cpu"
    assert settings.server.max_choices == 2


def test_variables_win_over_files(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json5", "{torch: {max_batch_size: 8, num_threads: 3}}")
    settings = load_settings({"GUIDED_TRTLLM_CONFIG": file, "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": "16"})
    assert settings.torch.max_batch_size == 16
    assert settings.torch.num_threads == 3


def test_variables_are_read_as_the_fields_type() -> None:
    settings = load_settings(
        {
            "GUIDED_TRTLLM_EXECUTOR": "torch",
            "GUIDED_TRTLLM_TORCH__PREFIX_CACHE": "false",
            "GUIDED_TRTLLM_TORCH__START_TIMEOUT": "1.5",
            "GUIDED_TRTLLM_TORCH__MAX_MODEL_LEN": "null",
            "GUIDED_TRTLLM_MODEL__SERVED_NAME": "8",
        }
    )
    assert settings.torch.prefix_cache is False
    assert settings.torch.start_timeout == 1.5
    assert settings.torch.max_model_len is None
    assert settings.model.served_name == "8"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GUIDED_TRTLLM_TORCH__MAX_BACH_SIZE", "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE"),
        ("GUIDED_TRTLLM_TORCH_DEVICE", "GUIDED_TRTLLM_TORCH__DEVICE"),
        ("GUIDED_TRTLLM_SERVER__MAX_BATCH_SIZE", "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE"),
        ("GUIDED_TRTLLM_EXECUTR", "GUIDED_TRTLLM_EXECUTOR"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_one(variable: str, meant: str) -> None:
    with pytest.raises(BadSettings, match=rf"^{variable}: there is no such setting\. Did you mean {meant}\?$"):
        load_settings({variable: "cpu"})


def test_an_unknown_key_is_refused_with_its_file_and_the_nearest_key(tmp_path: Path) -> None:
    good = write(tmp_path / "good.json5", "{torch: {device: 'cpu'}}")
    bad = write(tmp_path / "bad.json5", "{guidance: {cachesize: 3}, max_queue_size: 2}")
    with pytest.raises(BadSettings) as raised:
        load_settings({"GUIDED_TRTLLM_CONFIG": os.pathsep.join([good, bad])})
    assert str(raised.value).splitlines() == [
        f"{bad}: guidance.cachesize: there is no such setting. Did you mean guidance.cache_size?",
        f"{bad}: max_queue_size: there is no such setting. Did you mean server.max_queue_size?",
    ]


def test_a_bad_value_is_refused_with_its_origin_and_the_value(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json5", "{torch: {dtype: 'int3', max_batch_size: 4}}")
    with pytest.raises(BadSettings) as raised:
        load_settings({"GUIDED_TRTLLM_CONFIG": file, "GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": "5000"})
    dtype, batch = sorted(str(raised.value).splitlines(), reverse=True, key=len)
    assert dtype.startswith(f"{file}: torch.dtype: ")
    assert "'bfloat16'" in dtype
    assert dtype.endswith("but it is 'int3'.")
    assert batch.startswith("GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE: ")
    assert "1024" in batch
    assert batch.endswith("but it is '5000'.")


def test_a_value_in_place_of_a_section_is_refused_even_beside_good_ones() -> None:
    with pytest.raises(BadSettings, match=r"^GUIDED_TRTLLM_TORCH is a section"):
        load_settings({"GUIDED_TRTLLM_TORCH": "cpu", "GUIDED_TRTLLM_TORCH__DEVICE": "cpu"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{torch: ", "not valid JSON5"),
        ("{torch: {max_batch_size: 1, max_batch_size: 2}}", 'Duplicate key "max_batch_size"'),
        ("[1]", "must hold an object"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    file = tmp_path / "settings.json5"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadSettings, match=rf"settings\.json5.*{complaint}"):
        load_settings({"GUIDED_TRTLLM_CONFIG": str(file)})


def test_arguments_of_bentoml_serve_win_over_variables_and_are_read_as_the_fields_type() -> None:
    settings = load_settings(
        {"GUIDED_TRTLLM_TORCH__MAX_BATCH_SIZE": "16", "GUIDED_TRTLLM_TORCH__NUM_THREADS": "3"},
        {"torch.max_batch_size": "4", "torch.max_model_len": "null", "executor": "torch", "server": {"max_choices": 2}},
    )
    assert settings.torch.max_batch_size == 4
    assert settings.torch.num_threads == 3
    assert settings.torch.max_model_len is None
    assert settings.server.max_choices == 2


def test_an_object_in_a_variable_or_an_argument_is_json5() -> None:
    settings = load_settings(
        {
            "GUIDED_TRTLLM_TRTLLM__LLM_ARGS": "{stream_interval: 4, kv_cache_config: {dtype: 'fp8'}}",
            "GUIDED_TRTLLM_MODEL__REASONING_BUDGETS": '{"low": 9, "max": null}',
        },
        {"trtllm.speculative": "{decoding_type: 'NGram', max_draft_len: 4}"},
    )
    assert settings.trtllm.llm_args == {"stream_interval": 4, "kv_cache_config": {"dtype": "fp8"}}
    assert settings.model.reasoning_budgets == {"low": 9, "max": None}
    assert settings.trtllm.speculative == {"decoding_type": "NGram", "max_draft_len": 4}
    assert load_settings({"GUIDED_TRTLLM_TRTLLM__SPECULATIVE": "null"}).trtllm.speculative is None


@pytest.mark.parametrize("text", ["{stream_interval: ", "4", "stream_interval=4"])
def test_what_is_no_object_is_refused_where_one_is_wanted(text: str) -> None:
    with pytest.raises(BadSettings, match=r"^GUIDED_TRTLLM_TRTLLM__LLM_ARGS: .*valid dictionary"):
        load_settings({"GUIDED_TRTLLM_TRTLLM__LLM_ARGS": text})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "torch.max_bach_size",
            "4",
            "--arg torch.max_bach_size: there is no such setting. Did you mean torch.max_batch_size?",
        ),
        ("max_batch_size", "4", "--arg max_batch_size: there is no such setting. Did you mean torch.max_batch_size?"),
        ("torch", "cpu", "--arg torch is a section, not a setting: 'cpu' must be an object."),
    ],
)
def test_a_bad_argument_is_refused_with_the_nearest_setting(name: str, value: str, complaint: str) -> None:
    with pytest.raises(BadSettings) as raised:
        load_settings({}, {name: value})
    assert str(raised.value) == complaint


def test_every_setting_is_documented() -> None:
    for section in Settings().__dict__.values():
        for name, field in getattr(type(section), "model_fields", {}).items():
            assert field.description, name


@pytest.mark.parametrize("text", ["one,two", "one, two ,"])
def test_api_keys_are_separated_by_commas_in_a_variable(text: str) -> None:
    keys = load_settings({"GUIDED_TRTLLM_SERVER__API_KEYS": text}).server.api_keys
    assert [key.get_secret_value() for key in keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "complaint"), [("", "holds no key"), (" , ", "holds no key"), ("se cret", "consists of"), ("ключ", "of")]
)
def test_bad_api_keys_are_refused_and_not_shown(text: str, complaint: str) -> None:
    with pytest.raises(BadSettings, match=rf"^GUIDED_TRTLLM_SERVER__API_KEYS: .*{complaint}") as raised:
        load_settings({"GUIDED_TRTLLM_SERVER__API_KEYS": text})
    assert not text.strip(" ,") or text not in str(raised.value)
