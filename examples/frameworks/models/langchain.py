"""A chat model for LangChain that says what a script says."""

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from script import Call, next_turn


class ScriptedModel(BaseChatModel):
    """Answers with the script's next call."""

    script: list[Call]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, _tools: Sequence[Any], **_options: Any) -> "ScriptedModel":
        """The script knows the tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **_options: Any) -> ChatResult:
        results = [message.text for message in messages if isinstance(message, ToolMessage)]
        turn = next_turn(results, self.script)
        if isinstance(turn, str):
            message = AIMessage(turn)
        else:
            name, arguments = turn
            message = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{len(results)}"}])
        return ChatResult(generations=[ChatGeneration(message=message)])
