"""A chat service for Semantic Kernel that says what a script says."""

from typing import Any, ClassVar

from script import Call, next_turn
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    TextContent,
)


class ScriptedModel(ChatCompletionClientBase):
    """Answers with the script's next call, to functions of the plugin that is called `plugin`."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True
    script: list[Call]
    plugin: str
    ai_model_id: str = "scripted"

    async def _inner_get_chat_message_contents(self, history: ChatHistory, _settings: Any) -> list[ChatMessageContent]:
        items = [item for message in history for item in message.items]
        results = ["".join(map(str, item.result)) for item in items if isinstance(item, FunctionResultContent)]
        turn = next_turn(results, self.script)
        if isinstance(turn, str):
            item: Any = TextContent(text=turn)
        else:
            name, arguments = turn
            item = FunctionCallContent(id=f"call-{len(results)}", name=f"{self.plugin}-{name}", arguments=arguments)
        return [ChatMessageContent(role=AuthorRole.ASSISTANT, items=[item])]

    def _update_function_choice_settings_callback(self) -> Any:
        return lambda *_args, **_options: None

    def _verify_function_choice_settings(self, settings: Any) -> None:
        """Any will do."""

    def _reset_function_choice_settings(self, settings: Any) -> None:
        """There are none."""
