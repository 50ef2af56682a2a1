"""`truncation: "auto"`: the oldest items of a conversation are left out where the context has no room for them."""

from __future__ import annotations

from collections.abc import Sequence

from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.conversation import prompt_of
from guidance_core.api.openai.responses.bodies import CallItem, Item, MessageItem, ResponsesBody, ResultItem
from guidance_core.api.openai.responses.translation import chat_body
from guidance_core.api.openai.tools import choose
from guidance_core.api.served_model import ServedModel
from guidance_core.errors import ContextLengthExceeded

_ANSWER_SHARE = 4
"""Without ``max_output_tokens``, a quarter of the context is left to the answer."""


async def shortened(served: ServedModel, body: ResponsesBody) -> ResponsesBody:
    """The request with as few items left out as let it fit; with as many as can be, where nothing lets it.

    What has to stay: the instructions, messages of the roles ``system`` and ``developer``, and the last message of the
    user with all that follows.

    Raises:
        RequestError: as `prompt_of`, except for what is too long.
    """
    model = served.get(body.model)
    context = model.executor.limits().max_model_len
    room = context - (body.max_output_tokens or context // _ANSWER_SHARE)
    asked = chat_body(body)
    tools, _, _ = choose(asked.tools, asked.tool_choice)
    wanted = constraint_of(asked)

    async def fits(dropped: int) -> bool:
        chat = chat_body(_without(body, droppable[:dropped]))
        try:
            return len((await prompt_of(model, served.settings.model, chat, tools, wanted)).ids) <= room
        except ContextLengthExceeded:
            return False

    droppable = _droppable(body.input)
    # As a whole first: most requests fit, and what is wrong with one is told of the whole.
    if await fits(0):
        return body
    least, most = 1, len(droppable)
    while least < most:
        middle = (least + most) // 2
        if await fits(middle):
            most = middle
        else:
            least = middle + 1
    return _without(body, droppable[:least])


def _droppable(items: Sequence[Item]) -> list[int]:
    """The places of items that may be left out, oldest first."""
    messages = [(i, item.role) for i, item in enumerate(items) if isinstance(item, MessageItem)]
    last = max((i for i, role in messages if role == "user"), default=0)
    kept = {i for i, role in messages if role in ("system", "developer")}
    return [i for i in range(last) if i not in kept]


def _without(body: ResponsesBody, dropped: Sequence[int]) -> ResponsesBody:
    """The request without these items, and without the results of calls among them."""
    left_out = set(dropped)
    kept = [item for i, item in enumerate(body.input) if i not in left_out]
    calls = {item.call_id for i, item in enumerate(body.input) if i in left_out and isinstance(item, CallItem)}
    kept = [item for item in kept if not (isinstance(item, ResultItem) and item.call_id in calls)]
    return body.model_copy(update={"input": kept})
