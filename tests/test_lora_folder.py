"""A folder of adapters: what is one, what may be reached, and what becomes of it while the service runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidance_core.errors import InvalidRequest, ModelNotFound
from guidance_core.lora_folder import CONFIG_FILE, WEIGHTS_FILE, LoraFolder


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text("{}")
    (folder / WEIGHTS_FILE).write_bytes(b"")
    return folder


def test_adapters_that_come_and_go_are_seen(tmp_path: Path) -> None:
    make_adapter(tmp_path / "b")
    adapters = LoraFolder(tmp_path)
    assert adapters.names() == ["b"]
    make_adapter(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert adapters.names() == ["a", "b"]
    assert "a" in adapters
    assert "notes" not in adapters
    (tmp_path / "a" / CONFIG_FILE).unlink()
    assert adapters.names() == ["b"]
    with pytest.raises(ModelNotFound, match="no adapter 'a'; there are: 'b'"):
        adapters.get("a", param="model")


def test_a_folder_that_has_gone_has_no_adapters_and_fails_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    make_adapter(folder / "a")
    adapters = LoraFolder(folder)
    folder.rename(tmp_path / "elsewhere")
    assert adapters.names() == []
    assert "a" not in adapters
    with pytest.raises(ModelNotFound, match="there are: none"):
        adapters.get("a", param="model")
    (tmp_path / "elsewhere").rename(folder)
    assert adapters.names() == ["a"]


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    make_adapter(tmp_path / "a")
    adapters = LoraFolder(tmp_path)
    assert name not in adapters
    with pytest.raises(InvalidRequest, match="no adapter's name"):
        adapters.get(name, param="model")


@pytest.mark.parametrize("linked", ["folder", CONFIG_FILE, WEIGHTS_FILE])
def test_an_adapter_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path, linked: str) -> None:
    outside = make_adapter(tmp_path / "outside")
    inside = tmp_path / "adapters" / "a"
    if linked == "folder":
        inside.parent.mkdir()
        inside.symlink_to(outside)
    else:
        make_adapter(inside)
        (inside / linked).unlink()
        (inside / linked).symlink_to(outside / linked)
    adapters = LoraFolder(tmp_path / "adapters")
    assert adapters.names() == []
    with pytest.raises(InvalidRequest, match="outside"):
        adapters.get("a", param="model")


def test_a_setting_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lora\.folder .* no such folder"):
        LoraFolder(tmp_path / "absent")
