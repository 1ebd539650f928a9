"""A model for agno that follows a script."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from script import Call, next_turn


class ScriptedModel(Model):
    """Asks for the calls of a script, one per turn."""

    def __init__(self, script: list[Call]) -> None:
        super().__init__(id="scripted")
        self.script = script

    async def ainvoke(self, messages: list[Message], **_: Any) -> ModelResponse:
        """The next call, or the last words."""
        turn = next_turn([message.get_content_string() for message in messages if message.role == "tool"], self.script)
        if isinstance(turn, str):
            return ModelResponse(role="assistant", content=turn)
        function = {"name": turn[0], "arguments": json.dumps(turn[1])}
        call = {"id": f"call-{len(messages)}", "type": "function", "function": function}
        return ModelResponse(role="assistant", tool_calls=[call])

    def invoke(self, *_: Any, **__: Any) -> ModelResponse:
        """Not needed here, and so are the rest."""
        raise NotImplementedError

    def invoke_stream(self, *_: Any, **__: Any) -> Iterator[ModelResponse]:
        raise NotImplementedError

    def ainvoke_stream(self, *_: Any, **__: Any) -> AsyncIterator[ModelResponse]:
        raise NotImplementedError

    def _parse_provider_response(self, *_: Any, **__: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response_delta(self, *_: Any, **__: Any) -> ModelResponse:
        raise NotImplementedError
