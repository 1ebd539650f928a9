"""A model for Agent Framework that follows a script."""

import json
from collections.abc import Sequence
from typing import Any

from agent_framework import BaseChatClient, ChatResponse, Content, FunctionInvocationLayer, Message
from script import Call, next_turn


class ScriptedClient(FunctionInvocationLayer, BaseChatClient):
    """Asks for the calls of a script, one per turn."""

    def __init__(self, script: list[Call], **options: Any) -> None:
        super().__init__(**options)
        self.script = script

    async def _inner_get_response(self, *, messages: Sequence[Message], **_: Any) -> ChatResponse:
        contents = [content for message in messages for content in message.contents]
        turn = next_turn([_text(str(c.result)) for c in contents if c.type == "function_result"], self.script)
        if isinstance(turn, str):
            answer = Content.from_text(turn)
        else:
            answer = Content.from_function_call(f"call-{len(messages)}", turn[0], arguments=turn[1])
        return ChatResponse(messages=[Message(role="assistant", contents=[answer])])


def _text(result: str) -> str:
    """Agent Framework shows a model the structured content of a result as JSON, where there is any."""
    return str(json.loads(result)["result"]) if result.startswith("{") else result
