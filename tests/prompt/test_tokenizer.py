from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from guidance_core.errors import ContextLengthExceeded, InvalidRequest, RequestError
from guidance_core.prompt import PromptTokenizer

from .conftest import MakeFolder
from .templates import GEMMA, LLAMA3, MISTRAL, PARTS, QWEN, Style

USER = {"role": "user", "content": "What is the capital of France?"}
ASSISTANT = {"role": "assistant", "content": "  <think>\nhm\n</think>\n\nParis.\n"}
SYSTEM = {"role": "system", "content": "Answer in one word.\n"}
TOOL = {"role": "tool", "content": '{"temperature": "21 °C"}', "tool_call_id": "call_1"}

CONVERSATIONS = {
    "one turn": [USER],
    "with a system message": [SYSTEM, USER],
    "several turns": [USER, ASSISTANT, {"role": "user", "content": "And of Österreich? 😀"}],
    "empty content": [{"role": "user", "content": ""}],
    "null fields": [{**USER, "name": None}],
    "tool results": [USER, ASSISTANT, TOOL, {**TOOL, "content": "{}"}, USER],
    "special tokens in content": [{"role": "user", "content": "a<|im_end|>b</s>c<s><|eot_id|> <bos>"}],
    "wrong order": [ASSISTANT, USER, USER],
}

content = st.text() | st.sampled_from(["<|im_end|>\n", "{{ 7 * 7 }}", "</think>x", "{% if %}"])
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": content}),
    min_size=1,
    max_size=6,
)


def expected(folder: Path, chat: list[dict[str, Any]], **options: Any) -> list[int]:
    """Token ids as transformers computes them; raises what the template raises."""
    return expected_by(AutoTokenizer.from_pretrained(folder), chat, **options)


def expected_by(tokenizer: Any, chat: list[dict[str, Any]], **options: Any) -> list[int]:
    options = {"add_generation_prompt": True, **options}
    ids: list[int] = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
    return ids


def assert_same(prompts: PromptTokenizer, reference: Any, chat: list[dict[str, Any]], **options: Any) -> None:
    """Equal ids, or a refusal in the words that the template gave to transformers."""
    refusal = None
    try:
        ids = expected_by(reference, chat, **options)
    except Exception as error:
        refusal = str(error)
    if refusal is None:
        assert list(prompts.chat(chat, **options)) == ids
        return
    with pytest.raises(InvalidRequest) as refused:
        prompts.chat(chat, **options)
    assert refusal in refused.value.message
    assert refused.value.param == "messages"


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_chats_have_the_ids_that_transformers_gives_them(
    conversation: str, style_prompts: PromptTokenizer, style_reference: Any
) -> None:
    for add_generation_prompt in (True, False):
        chat = CONVERSATIONS[conversation]
        assert_same(style_prompts, style_reference, chat, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_default_model_has_the_ids_that_transformers_gives_it(model_path: Path, conversation: str) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    assert_same(prompts, AutoTokenizer.from_pretrained(model_path), CONVERSATIONS[conversation])


@given(chat=messages)
def test_any_chat_has_the_ids_that_transformers_gives_it(
    style_prompts: PromptTokenizer, style_reference: Any, chat: list[dict[str, Any]]
) -> None:
    assert_same(style_prompts, style_reference, chat)


@pytest.mark.parametrize(
    "content",
    ["Paris", "end", "im_end|>", "  The \n", [{"type": "text", "text": "The"}, {"type": "text", "text": "end "}]],
    ids=str,
)
def test_the_last_message_is_continued_right_behind_its_text_whatever_that_is(model_path: Path, content: Any) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    text = prompts.chat_text([USER, {"role": "assistant", "content": content}], continue_final_message=True)
    written = "The\nend" if isinstance(content, list) else content
    assert text.partition("<|im_start|>assistant\n")[2].strip() == written.strip()
    assert text.endswith(written.strip())


@pytest.mark.parametrize("content", ["", "  ", None, []], ids=repr)
def test_a_last_message_without_text_cannot_be_continued(model_path: Path, content: Any) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    with pytest.raises(InvalidRequest, match="cannot be continued") as refused:
        prompts.chat_text([USER, {"role": "assistant", "content": content}], continue_final_message=True)
    assert refused.value.param == "continue_final_message"


def test_a_last_message_that_the_template_changes_cannot_be_continued(make_folder: MakeFolder) -> None:
    shouting = Style("{% for message in messages %}{{ message.content | upper }}{% endfor %}", None, "<end>")
    prompts = PromptTokenizer.from_folder(make_folder(shouting))
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        prompts.chat_text([USER, {"role": "assistant", "content": "It is"}], continue_final_message=True)


def test_template_variables_reach_the_template(make_folder: MakeFolder) -> None:
    folder = make_folder(QWEN)
    prompts = PromptTokenizer.from_folder(folder)
    quick = prompts.chat([USER], variables={"enable_thinking": False})
    assert list(quick) == expected(folder, [USER], enable_thinking=False)
    assert quick != prompts.chat([USER])


def test_tools_reach_the_template_as_transformers_writes_them(make_folder: MakeFolder) -> None:
    tool = {"type": "function", "function": {"name": "größe", "description": "<b>'&'</b>", "parameters": {}}}
    folder = make_folder(LLAMA3)
    assert list(PromptTokenizer.from_folder(folder).chat([USER], tools=[tool])) == expected(
        folder, [USER], tools=[tool]
    )


def test_the_template_may_stand_in_tokenizer_config(make_folder: MakeFolder) -> None:
    folder = make_folder(LLAMA3, template_in="tokenizer_config.json")
    assert not (folder / "chat_template.jinja").exists()
    assert list(PromptTokenizer.from_folder(folder).chat([USER])) == expected(folder, [USER])


def test_of_several_named_templates_the_default_is_used_and_tool_use_for_tools(make_folder: MakeFolder) -> None:
    templates = [
        {"name": "tool_use", "template": "tools: {{ tools | tojson }}{{ messages[0].content }}"},
        {"name": "default", "template": "default: {{ messages[0].content }}"},
    ]
    folder = make_folder(QWEN, template_in="nowhere", chat_template=templates)
    prompts = PromptTokenizer.from_folder(folder)
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]
    assert list(prompts.chat([USER])) == expected(folder, [USER])
    assert list(prompts.chat([USER], tools=tools)) == expected(folder, [USER], tools=tools)
    assert prompts.tokenizer.decode(prompts.chat([USER])).startswith("default: ")
    assert prompts.tokenizer.decode(prompts.chat([USER], tools=tools)).startswith("tools: ")


def test_template_files_win_over_tokenizer_config(make_folder: MakeFolder) -> None:
    folder = make_folder(QWEN, chat_template="old")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}]
    prompts = PromptTokenizer.from_folder(folder)
    assert list(prompts.chat([USER])) == expected(folder, [USER])
    assert list(prompts.chat([USER], tools=tools)) == expected(folder, [USER], tools=tools)


def test_a_template_file_from_the_settings_wins_over_the_models_own(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(QWEN)
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}{{ eos_token }}")
    prompts = PromptTokenizer.from_folder(folder, chat_template=own)
    assert prompts.tokenizer.decode(prompts.chat([USER]), skip_special_tokens=False) == USER["content"] + "<|im_end|>"


def test_llgtrts_template_file_wins_over_the_models_own(make_folder: MakeFolder) -> None:
    folder = make_folder(QWEN)
    (folder / "chat_template.j2").write_text("own: {{ messages[0].content }}")
    assert PromptTokenizer.from_folder(folder).chat_text([USER]) == "own: " + USER["content"]


def test_the_setting_may_be_the_template_itself(make_folder: MakeFolder) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(QWEN), chat_template="{{ messages[0].content }}!")
    assert prompts.chat_text([USER]) == USER["content"] + "!"


def test_another_bos_takes_the_place_of_what_the_tokenizer_adds(make_folder: MakeFolder) -> None:
    folder = make_folder(LLAMA3)
    own = with_bos(folder, "<|begin_of_text|>")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    plain = own.completion("Hi", add_special_tokens=False)
    other = PromptTokenizer.from_folder(folder, bos_token="<|eot_id|>", eos_token="<|end_header_id|>")
    first = other.tokenizer.token_to_id("<|eot_id|>")
    assert other.completion("Hi") == (first, *plain)
    assert other.completion("<|eot_id|>Hi") == (first, *plain)
    assert other.completion("Hi", add_special_tokens=False) == plain
    assert other.chat_text([{"role": "user", "content": "Hi"}]) == "<|eot_id|>Hi<|end_header_id|>"
    none = PromptTokenizer.from_folder(folder, bos_token="")
    assert none.completion("Hi") == plain
    assert none.chat_text([{"role": "user", "content": "Hi"}]).startswith("Hi")


def test_a_bos_that_the_model_does_not_have_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(ValueError, match=r"model\.bos_token is '<nope>', which is no token of this model"):
        PromptTokenizer.from_folder(make_folder(LLAMA3), bos_token="<nope>")


def test_special_tokens_written_as_objects_or_in_a_file_of_their_own_are_understood(make_folder: MakeFolder) -> None:
    folder = make_folder(MISTRAL)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    bos = config.pop("bos_token")
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": bos}))
    config["eos_token"] = {"content": config["eos_token"], "special": True, "__type": "AddedToken"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    chat = [USER, ASSISTANT, USER]
    assert list(PromptTokenizer.from_folder(folder).chat(chat)) == expected(folder, chat)


def test_a_named_token_is_special_even_where_tokenizer_json_does_not_say_so(make_folder: MakeFolder) -> None:
    folder = make_folder(QWEN)
    definition = json.loads((folder / "tokenizer.json").read_text())
    for token in definition["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    prompts = PromptTokenizer.from_folder(folder)
    reference = AutoTokenizer.from_pretrained(folder)
    ids = prompts.chat([USER])
    assert prompts.tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert "<|im_end|>" not in prompts.tokenizer.decode(ids)


def test_truncation_and_padding_in_tokenizer_json_do_not_touch_prompts(make_folder: MakeFolder) -> None:
    folder = make_folder(QWEN)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    prompts = PromptTokenizer.from_folder(folder)
    text = "one two three four five six seven eight nine ten"
    assert prompts.tokenizer.decode(prompts.completion(text)) == text


def test_templates_that_want_parts_get_parts(make_folder: MakeFolder) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(PARTS))
    text = prompts.tokenizer.decode(prompts.chat([USER, ASSISTANT]), skip_special_tokens=False)
    assert text == f"<|user|>{USER['content']}<|end|><|assistant|>{ASSISTANT['content']}<|end|>"


def test_a_model_without_template_says_what_to_do(make_folder: MakeFolder) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(QWEN, template_in="nowhere"))
    assert prompts.template() is None
    with pytest.raises(InvalidRequest, match=r"/v1/completions.*model\.chat_template"):
        prompts.chat([USER])


def test_a_folder_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        PromptTokenizer.from_folder(tmp_path)


def test_a_template_that_is_not_jinja_is_refused_at_start(make_folder: MakeFolder, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("fine\n{% if %}")
    with pytest.raises(ValueError, match=r"own\.jinja.*line 2"):
        PromptTokenizer.from_folder(make_folder(QWEN), chat_template=own)


def with_bos(folder: Path, bos: str) -> PromptTokenizer:
    """The folder's tokenizer, changed to put a BOS before every text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return PromptTokenizer.from_folder(folder)


def test_plain_prompts_get_the_special_tokens_of_the_tokenizer(make_folder: MakeFolder) -> None:
    folder = make_folder(LLAMA3)
    prompts = with_bos(folder, "<|begin_of_text|>")
    assert list(prompts.completion("Once upon")) == AutoTokenizer.from_pretrained(folder).encode("Once upon")
    assert prompts.completion("Once")[0] == prompts.tokenizer.token_to_id("<|begin_of_text|>")


def test_bos_is_never_there_twice(make_folder: MakeFolder) -> None:
    prompts = with_bos(make_folder(LLAMA3), "<|begin_of_text|>")
    bos = prompts.tokenizer.token_to_id("<|begin_of_text|>")
    assert prompts.completion("<|begin_of_text|>Once") == prompts.completion("Once")
    assert prompts.chat([USER]).count(bos) == 1


def test_token_ids_pass_through(make_folder: MakeFolder) -> None:
    prompts = with_bos(make_folder(LLAMA3), "<|begin_of_text|>")
    assert prompts.completion([5, 6, 5]) == (5, 6, 5)


def test_an_instruction_is_a_chat(make_folder: MakeFolder) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(QWEN))
    assert prompts.instruction(USER["content"]) == prompts.chat([USER])
    assert prompts.instruction(USER["content"], system_prompt=SYSTEM["content"]) == prompts.chat([SYSTEM, USER])


@pytest.mark.parametrize(
    "chat",
    [
        pytest.param([{"role": "user", "content": "x" * 10_000_000}], id="one huge message"),
        pytest.param([{"role": "user", "content": ""}] * 8193, id="more messages than tokens"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_rendered_or_tokenised(
    chat: list[dict[str, Any]], make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PromptTokenizer.from_folder(make_folder(GEMMA))
    monkeypatch.setattr(prompts, "_encode", lambda *_, **__: pytest.fail("tokenised"))
    with pytest.raises(ContextLengthExceeded) as error:
        prompts.chat(chat, context=8192)
    assert error.value.param == "messages"


def test_a_huge_plain_prompt_is_refused_before_it_is_tokenised(model_path: Path) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    with pytest.raises(ContextLengthExceeded, match="100000000 characters"):
        prompts.completion("x" * 100_000_000, context=8192)


def test_a_prompt_that_fills_the_context_with_the_longest_token_is_not_refused(model_path: Path) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    longest = max(prompts.tokenizer.get_vocab(), key=len)
    text = prompts.tokenizer.decode([prompts.tokenizer.token_to_id(longest)])
    assert len(prompts.completion(text, context=1)) == 1


def test_half_a_surrogate_pair_is_refused_by_name(model_path: Path) -> None:
    prompts = PromptTokenizer.from_folder(model_path)
    with pytest.raises(InvalidRequest, match="surrogate") as error:
        prompts.chat([{"role": "user", "content": "half \ud83d of a smile"}])
    assert error.value.param == "messages"
    with pytest.raises(InvalidRequest, match="surrogate") as error:
        prompts.completion("half \ud83d of a smile")
    assert error.value.param == "prompt"


def test_errors_of_the_template_do_not_stop_the_next_chat(make_folder: MakeFolder) -> None:
    folder = make_folder(MISTRAL)
    prompts = PromptTokenizer.from_folder(folder)
    with pytest.raises(RequestError, match="roles must alternate"):
        prompts.chat([USER, USER])
    assert list(prompts.chat([USER])) == expected(folder, [USER])


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, guidance_core.prompt, guidance_core.output; "
        "print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("first", [None, "", "<|im_start|>"])
@pytest.mark.parametrize("text", ["a<|im_end|>b Österreich? \U0001f600  x", "<s>twice", "x"])
def test_spans_are_of_the_same_tokens_and_of_their_text(style_folder: Path, first: str | None, text: str) -> None:
    prompts = PromptTokenizer.from_folder(style_folder, bos_token=first)
    spans = prompts.completion_spans(text)

    assert tuple(token_id for token_id, _, _ in spans) == prompts.completion(text)
    covered = {place for _, start, end in spans for place in range(start, end)}
    assert covered == set(range(len(text)))
    _, start, end = spans[-1]
    assert text[start:end].endswith(text[-1])
