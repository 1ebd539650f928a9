"""A model for LlamaIndex that follows a script."""

import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from script import Call, next_turn


def scripted_model(script: list[Call]) -> MockFunctionCallingLLM:
    """LlamaIndex's mock, which asks for the calls of a script, one per turn."""

    def respond(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        turn = next_turn([_text(message.content or "") for message in messages if message.role == "tool"], script)
        if isinstance(turn, str):
            return ChatMessage(role="assistant", content=turn)
        call = ToolCallBlock(tool_call_id=f"call-{len(messages)}", tool_name=turn[0], tool_kwargs=turn[1])
        return ChatMessage(role="assistant", blocks=[call])

    return MockFunctionCallingLLM(response_generator=respond)


def _text(result: str) -> str:
    """LlamaIndex shows a model the whole result as Python prints it."""
    found = re.search(r"""TextContent\(.*?text=(['"])(.*?)\1""", result)
    return found[2] if found else result
