"""What a stored model says about its tokenizer's folder."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from guidance_core.packing.package import CannotPack
from guidance_core.packing.tokenizer import chat_template_sha256


def test_the_template_that_is_named_is_the_one_that_serves(tmp_path: Path) -> None:
    assert chat_template_sha256(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "configured"}')
    assert chat_template_sha256(tmp_path) == sha256(b"configured").hexdigest()
    for name in ("chat_template.json", "chat_template.jinja", "chat_template.j2"):  # each wins over those before it
        text = '{"chat_template": "of the processor"}' if name.endswith(".json") else name
        (tmp_path / name).write_text(text)
        expected = "of the processor" if name.endswith(".json") else name
        assert chat_template_sha256(tmp_path) == sha256(expected.encode()).hexdigest()


def test_several_templates_have_a_name_together(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("one")
    alone = chat_template_sha256(tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("two")
    both = chat_template_sha256(tmp_path)
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("three")
    assert len({alone, both, chat_template_sha256(tmp_path)}) == 3


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CannotPack, match=r"chat template .* cannot be read"):
        chat_template_sha256(tmp_path)
