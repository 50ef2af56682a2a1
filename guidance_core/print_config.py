"""``python -m guidance_core.config``: the settings in force, as a commented JSON5 file to keep and to edit.

The options are llgtrt's: ``--print-config`` (what happens without one, too), ``--print-complete-config`` and
``--print-chat-template``. ``--arg NAME=VALUE`` counts as it does for ``bentoml serve``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from guidance_core.config import BadSettings, Settings, load_settings
from guidance_core.model_store import ModelNotInStore, resolve
from guidance_core.prompt.model_folder import chat_template_sources, load_special_tokens


def as_json5(settings: Settings) -> str:
    """Settings as a JSON5 file, each with its description as a comment.

    Those that have their default are comments: a file that is kept does not hold on to defaults that change.
    """
    return _section(settings, lambda name, value, usual: ("// " if value == usual else "", value))


def as_complete_json5(settings: Settings, folder: Path) -> str:
    """The same with every setting set, and with what the model's own files say where nothing is.

    Its chat template is set, to be edited; its special tokens are comments, since setting them does more than they
    say (a model may have further end tokens).

    Args:
        settings: in force.
        folder: of the model.

    Raises:
        OSError: a template's file cannot be read.
    """
    model, own = settings.model, load_special_tokens(folder)
    templates = {} if model.history_template else chat_template_sources(folder, model.chat_template)
    if len(templates) == 1:  # several can only be had from the model's folder
        model = model.model_copy(update={"chat_template": templates["default"]})

    def shown(name: str, value: Any, usual: Any) -> tuple[str, Any]:
        return (
            ("// ", own[name]) if value is None and name in ("bos_token", "eos_token") and name in own else ("", value)
        )

    return _section(settings.model_copy(update={"model": model}), shown)


def _section(
    section: BaseModel,
    shown: Callable[[str, Any, Any], tuple[str, Any]],
    default: BaseModel | None = None,
    indent: str = "",
) -> str:
    """One section; ``shown`` maps a name, its value and its default to a mark before it and the value to write."""
    default = default or Settings()
    lines = []
    for name, field in type(section).model_fields.items():
        value, usual = getattr(section, name), getattr(default, name)
        if isinstance(value, BaseModel):
            lines.append(f"{indent}  // {type(value).__doc__}")
            lines.append(f"{indent}  {name}: {_section(value, shown, usual, indent + '  ')},")
        else:
            mark, written = shown(name, value, usual)
            if secret := _secrets(value):
                mark, written = "// ", secret
            lines.append(f"{indent}  // {field.description}")
            lines.append(f"{indent}  {mark}{name}: {json.dumps(written, ensure_ascii=False)},")
    return "\n".join(["{", *lines, f"{indent}}}"])


def _secrets(value: Any) -> list[str]:
    """Stars for secrets, which are not printed; none for other values."""
    return [str(each) for each in value if isinstance(each, SecretStr)] if isinstance(value, tuple) else []


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        SystemExit: bad options or settings, or a model that is not there; the message says what to mend.
    """
    options = _options(argv)
    try:
        settings = load_settings(arguments=_pairs(options.arg))
        if options.print_complete_config:
            print(as_complete_json5(settings, resolve(settings.model.tag).path))
        elif options.print_chat_template:
            sys.stdout.write(_template(settings))
        else:
            print(as_json5(settings))
    except (BadSettings, ModelNotInStore, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m guidance_core.config", description="Print the settings in force.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print-config", action="store_true", help="all settings, defaults as comments (the default)")
    what.add_argument(
        "--print-complete-config",
        action="store_true",
        help="all settings as set, with the model's own special tokens and chat template",
    )
    what.add_argument("--print-chat-template", action="store_true", help="the template in force, to keep and to edit")
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="a setting, as for bentoml serve"
    )
    return parser.parse_args(argv)


def _pairs(arguments: Sequence[str]) -> Mapping[str, str]:
    pairs = [argument.partition("=") for argument in arguments]
    for name, equals, _ in pairs:
        if not equals:
            raise BadSettings(f"--arg {name}: write it as NAME=VALUE, such as --arg torch.max_batch_size=8.")
    return {name: value for name, _, value in pairs}


def _template(settings: Settings) -> str:
    if settings.model.history_template:
        return Path(settings.model.history_template).read_text(encoding="utf-8")
    templates = chat_template_sources(resolve(settings.model.tag).path, settings.model.chat_template)
    if "default" not in templates:
        raise BadSettings(f"{settings.model.tag} has no chat template: name one in the setting model.chat_template.")
    return templates["default"]
