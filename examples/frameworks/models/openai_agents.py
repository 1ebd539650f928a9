"""A model for the OpenAI Agents SDK that says what a script says."""

import json
from typing import Any

from agents import Model, ModelResponse, Usage
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from script import Call, next_turn


class ScriptedModel(Model):
    """Answers with the script's next call."""

    def __init__(self, script: list[Call]) -> None:
        self._script = script

    async def get_response(self, *, input: Any, **_: Any) -> ModelResponse:  # noqa: A002 - the framework's name
        """The next turn, after the results that are in `input`."""
        items = [item for item in input if isinstance(item, dict)]
        results = [_text(item["output"]) for item in items if item.get("type") == "function_call_output"]
        turn = next_turn(results, self._script)
        number = len(results)
        if isinstance(turn, str):
            text = ResponseOutputText(type="output_text", text=turn, annotations=[])
            said: Any = ResponseOutputMessage(
                type="message", id=f"message-{number}", role="assistant", status="completed", content=[text]
            )
        else:
            name, arguments = turn
            said = ResponseFunctionToolCall(
                type="function_call", call_id=f"call-{number}", name=name, arguments=json.dumps(arguments)
            )
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, **_: Any) -> Any:
        """Not needed here."""
        raise NotImplementedError


def _text(output: Any) -> str:
    """What a tool answered: a text, or parts with texts."""
    return output if isinstance(output, str) else "".join(part["text"] for part in output)
