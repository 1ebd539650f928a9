"""A model for CrewAI that says what a script says."""

import json
from typing import Any

from crewai import BaseLLM
from script import Call, next_turn


class ScriptedModel(BaseLLM):
    """Answers with the script's next call."""

    script: list[Call]

    def call(self, messages: Any, *_: Any, **_options: Any) -> Any:
        """The next turn, after the tools' messages."""
        results = [message["content"] for message in messages if message["role"] == "tool"]
        turn = next_turn(results, self.script)
        if isinstance(turn, str):
            return turn
        function = {"name": turn[0], "arguments": json.dumps(turn[1])}
        return [{"id": f"call-{len(results)}", "type": "function", "function": function}]

    def supports_function_calling(self) -> bool:
        """It does."""
        return True
