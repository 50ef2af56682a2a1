from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guidance_core.packing.checkpoint import read
from guidance_core.packing.package import CannotPack


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_only_what_serving_needs_is_taken(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"the same weights again")
    names = set(read(checkpoint).files)
    weights = {name for name in names if name.endswith(".safetensors")}
    assert len(weights) >= 2
    assert names - weights == {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_facts_come_from_config_and_weights(checkpoint: Path) -> None:
    package = read(checkpoint)
    # 2 embeddings, 2 layers of (q 256, k 128, v 128, o 256, mlp 3·512, 2 norms of 16), 1 norm
    parameters = 2 * 32 * 16 + 2 * (256 + 128 + 128 + 256 + 3 * 512 + 2 * 16) + 16
    assert package.name == "tiny-llama"
    assert package.labels == {
        "executor": "torch",
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quantization": "none",
    }
    assert package.metadata["parameters"] == parameters
    assert package.metadata["context_length"] == 64
    assert package.metadata["source"] == str(checkpoint)
    assert package.metadata["size_bytes"] == sum(file.stat().st_size for file in package.files.values())
    assert package.metadata["chat_template_sha256"] is not None


def test_dtype_is_read_from_the_weights_when_the_config_is_silent(checkpoint: Path) -> None:
    edit_config(checkpoint, dtype=None)
    assert read(checkpoint).labels["dtype"] == "bfloat16"


def test_a_quantized_model_claims_no_parameter_count(checkpoint: Path) -> None:
    edit_config(checkpoint, quantization_config={"quant_method": "gptq", "bits": 4})
    package = read(checkpoint)
    assert package.labels["quantization"] == "gptq"
    assert package.metadata["parameters"] is None


def test_python_code_is_taken_only_where_the_config_uses_it(checkpoint: Path) -> None:
    (checkpoint / "modeling_tiny.py").write_text("")
    assert "modeling_tiny.py" not in read(checkpoint).files
    edit_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    package = read(checkpoint)
    assert "modeling_tiny.py" in package.files
    assert package.metadata["needs_trust_remote_code"] is True


def test_a_snapshot_of_links_is_read_like_a_folder_of_files(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "tiny"
    snapshot.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    assert set(read(snapshot).files) == set(read(checkpoint).files)


def test_pytorch_weights_serve_where_there_are_no_safetensors(checkpoint: Path) -> None:
    for file in checkpoint.glob("*.safetensors*"):
        file.unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"weights")
    package = read(checkpoint)
    assert "pytorch_model.bin" in package.files
    assert package.metadata["parameters"] is None


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(CannotPack, match=f"1 of .* weight files are missing, {shard.name}"):
        read(checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"weight_map": {}},
        {"weight_map": ["a"]},
        {"weight_map": {"w": "../w.safetensors"}},
        {"weight_map": {"w": 1}},
    ],
    ids=str,
)
def test_an_index_that_names_no_files_beside_it_is_refused(checkpoint: Path, content: dict[str, object]) -> None:
    (checkpoint.parent / "w.safetensors").touch()
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps(content))
    with pytest.raises(CannotPack, match=f"{index.name} does not name the files of the weights"):
        read(checkpoint)


def test_a_shard_that_was_cut_off_is_named(checkpoint: Path) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CannotPack, match=f"{shard.name} is damaged or cut off"):
        read(checkpoint)


def test_a_file_that_is_no_safetensors_is_named(checkpoint: Path) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[0]
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CannotPack, match=f"{shard.name} is damaged"):
        read(checkpoint)


def test_a_folder_without_weights_is_refused(checkpoint: Path) -> None:
    for file in checkpoint.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(CannotPack, match="has no weights"):
        read(checkpoint)


def test_a_missing_fast_tokenizer_is_refused_with_the_way_to_make_one(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CannotPack, match=r"no tokenizer\.json.*save_pretrained"):
        read(checkpoint)


def test_a_damaged_tokenizer_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(CannotPack, match=r"tokenizer\.json cannot be read"):
        read(checkpoint)


@pytest.mark.parametrize("changes", [{"model_type": "vit"}, {"model_type": "t5", "is_encoder_decoder": True}])
def test_what_is_not_a_decoder_is_refused_by_name(checkpoint: Path, changes: dict[str, object]) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(CannotPack, match=str(changes["model_type"])):
        read(checkpoint)


def test_a_missing_folder_and_a_missing_or_broken_config_are_refused(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CannotPack, match="not valid JSON"):
        read(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CannotPack, match=r"config\.json is missing"):
        read(checkpoint)
    shutil.rmtree(checkpoint)
    with pytest.raises(CannotPack, match="is not a folder"):
        read(checkpoint)
