"""A model for Strands that says what a script says."""

import json
from collections.abc import AsyncIterator
from typing import Any

from script import Call, next_turn
from strands.models import Model


class ScriptedModel(Model):
    """Answers with the script's next call."""

    def __init__(self, script: list[Call]) -> None:
        self._script = script

    async def stream(self, messages: Any, *_: Any, **_options: Any) -> AsyncIterator[Any]:
        """The next turn, as it streams in."""
        parts = [part["toolResult"] for message in messages for part in message["content"] if "toolResult" in part]
        turn = next_turn([result["content"][0]["text"] for result in parts], self._script)
        yield {"messageStart": {"role": "assistant"}}
        if isinstance(turn, str):
            yield {"contentBlockDelta": {"delta": {"text": turn}}}
        else:
            name, arguments = turn
            yield {"contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": f"call-{len(parts)}"}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if isinstance(turn, str) else "tool_use"}}

    def get_config(self) -> dict[str, Any]:
        """There is nothing to configure."""
        return {}

    def update_config(self, **_config: Any) -> None:
        """There is nothing to configure."""

    def structured_output(self, *_: Any, **_options: Any) -> Any:
        """Not needed here."""
        raise NotImplementedError
