"""Prompts: chat templates and message history → token ids.

`PromptTokenizer.from_folder` is the way in. It reads what a Hugging Face model folder says about its prompts and uses
`jinja2` and `tokenizers` directly: the same results as `transformers`, without importing it (and, with it, torch).
"""

from guidance_core.prompt.chat_template import ChatTemplate
from guidance_core.prompt.messages import Message
from guidance_core.prompt.tokenizer import PromptTokenizer

__all__ = ["ChatTemplate", "Message", "PromptTokenizer"]
