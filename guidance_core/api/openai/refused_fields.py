"""Fields that clients know from elsewhere and that would change the answer in a way that this service cannot.

OpenAI's are complete; the others are those of vLLM's, SGLang's and trtllm-serve's protocols (their
``entrypoints/openai/protocol.py``, ``srt/openai_api/protocol.py`` and ``serve/openai_protocol.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from guidance_core.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is refused by name.

    Attributes:
        idle: values with which it may be sent all the same, because they ask for nothing.
        instead: what to do instead, or why; the end of a sentence.
    """

    idle: tuple[object, ...] = ()
    instead: str = "leave it out"

    def error(self, name: str) -> Unsupported:
        """The refusal."""
        values = [json.dumps(value) for i, value in enumerate(self.idle) if value not in self.idle[:i]]
        known = f", except as {' or '.join(values)}" if values else ""
        return Unsupported(f"{name!r} is not supported{known}: {self.instead}.", param=name)


_NO_STATE = "nothing is stored here; leave it out"
_OTHER_SERVERS: dict[str, Refused] = {
    "allowed_token_ids": Refused(instead="constrain the answer with 'response_format' or 'logit_bias'"),
    "cache_salt": Refused(instead="all requests share one prefix cache"),
    "chat_template": Refused(instead="it is the operator's to choose, in the setting model.chat_template"),
    "custom_logit_processor": Refused(instead="no code is taken from requests"),
    "detokenize": Refused((True,), "answers are text"),
    "disaggregated_params": Refused(instead="prompts and answers are computed in one place"),
    "documents": Refused(([],), "give them in 'chat_template_kwargs', for templates that read them"),
    "early_stopping": Refused((False,), "there is no beam search"),
    "extra_body": Refused(({},), "it is an argument of OpenAI's client; write its fields beside the others"),
    "guided_whitespace_pattern": Refused(instead="write a 'lark_grammar' where whitespace matters"),
    "json_schema": Refused(instead="use 'response_format' or 'guided_json'"),
    "kv_transfer_params": Refused(instead="prompts and answers are computed in one place"),
    "length_penalty": Refused((1, 1.0, 0, 0.0), "there is no beam search"),
    "logits_processors": Refused(([],), "no code is taken from requests"),
    "lora_path": Refused(instead="use 'lora_model'"),
    "lora_request": Refused(instead="use 'lora_model'"),
    "media_io_kwargs": Refused(({},)),
    "mm_processor_kwargs": Refused(({},)),
    "no_stop_trim": Refused((False,), "use 'include_stop_str_in_output'"),
    "prompt_embeds": Refused(instead="use 'prompt'"),
    "repetition_detection": Refused(instead="use 'repetition_penalty'"),
    "return_hidden_states": Refused((False,)),
    "spaces_between_special_tokens": Refused((True,)),
    "stop_regex": Refused(([],), "constrain the answer with 'response_format'"),
    "structural_tag": Refused(instead="use 'tools', or a 'lark_grammar'"),
    "use_beam_search": Refused((False,), "use 'best_of' of '/v1/completions'"),
    "vllm_xargs": Refused(({},)),
}
"""In chat completions and in completions."""

IN_CHAT: dict[str, Refused] = {
    **_OTHER_SERVERS,
    "add_special_tokens": Refused((False,), "the chat template writes them"),
    "audio": Refused(instead="answers are text"),
    "best_of": Refused((1,), "use 'n'"),
    "echo": Refused((False,), "use 'return_expanded_prompt'"),
    "include_reasoning": Refused((True,), "leave 'reasoning_content' unread where it is not wanted"),
    "input": Refused(instead="use 'messages'"),
    "instructions": Refused(instead="use a message of the role 'system'"),
    "max_output_tokens": Refused(instead="use 'max_completion_tokens'"),
    "modalities": Refused((["text"],), "answers are text"),
    "moderation": Refused(),
    "prompt": Refused(instead="use 'messages', or '/v1/completions'"),
    "prompt_cache_options": Refused(instead="prefixes are cached without it; leave it out"),
    "prompt_cache_retention": Refused(("in_memory",)),
    "separate_reasoning": Refused((True,), "leave 'reasoning_content' unread where it is not wanted"),
    "service_tier": Refused(("auto", "default")),
    "store": Refused((False,), _NO_STATE),
    "stream_reasoning": Refused((True,)),
    "text": Refused(instead="use 'response_format'"),
    "thinking_token_budget": Refused(instead="use 'max_thinking_tokens'"),
    "verbosity": Refused(("medium",), "the model knows no other; ask for it in a message"),
    "web_search_options": Refused(instead="there is no built-in tool; give your own in 'tools'"),
}
"""`POST /v1/chat/completions`."""

_CHAT = "conversations go to '/v1/chat/completions'"
IN_COMPLETIONS: dict[str, Refused] = {
    **_OTHER_SERVERS,
    "max_completion_tokens": Refused(instead="use 'max_tokens'"),
    "messages": Refused(instead=_CHAT),
    "tools": Refused(([],), _CHAT),
    "tool_choice": Refused(("none",), _CHAT),
    "top_logprobs": Refused((0,), "use 'logprobs', which is their number"),
}
"""`POST /v1/completions`."""

_FORMAT = "use 'text.format'"
IN_RESPONSES: dict[str, Refused] = {
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), Refused(instead=_FORMAT)),
    **dict.fromkeys(("regex", "ebnf", "structured_outputs", "response_format"), Refused(instead=_FORMAT)),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), Refused(instead="use 'max_output_tokens'")),
    "extra_body": _OTHER_SERVERS["extra_body"],
    "logprobs": Refused((False,), "use 'include': [\"message.output_text.logprobs\"]"),
    "messages": Refused(instead="use 'input'"),
    "n": Refused((1,), "send the request as often as you want answers"),
    "reasoning_effort": Refused(instead="use 'reasoning.effort'"),
    "access_programs": Refused(),
    "background": Refused((False,), "leave it out, and wait for the answer or stream it"),
    "context_management": Refused(([],), "leave it out, and send what the model shall see in 'input'"),
    "conversation": Refused(instead="nothing is stored here; send the earlier items in 'input'"),
    "image": Refused(instead="answers are text"),
    "moderation": Refused(),
    "previous_response_id": Refused(instead="nothing is stored here; send the earlier items in 'input'"),
    "prompt": Refused(instead="no prompts are stored here; send 'instructions' and 'input'"),
    "prompt_cache_options": Refused(instead="prefixes are cached without it; leave it out"),
    "prompt_cache_retention": Refused(("in_memory",)),
    "service_tier": Refused(("auto", "default")),
    "store": Refused((False,), _NO_STATE),
}
"""`POST /v1/responses`."""
