"""A model for ADK that follows a script."""

from collections.abc import AsyncGenerator
from typing import Any

from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.genai import types
from script import Call, next_turn


class ScriptedModel(BaseLlm):
    """Asks for the calls of a script, one per turn."""

    model: str = "scripted"
    script: list[Call]

    async def generate_content_async(
        self, llm_request: LlmRequest, *_: Any, **__: Any
    ) -> AsyncGenerator[LlmResponse, None]:
        """The next call, or the last words."""
        parts = [part for content in llm_request.contents for part in content.parts or []]
        results = [part.function_response.response or {} for part in parts if part.function_response]
        turn = next_turn([result["content"][0]["text"] for result in results], self.script)
        if isinstance(turn, str):
            part = types.Part(text=turn)
        else:
            part = types.Part(function_call=types.FunctionCall(name=turn[0], args=turn[1]))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))
