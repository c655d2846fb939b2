"""What a conversation looks like as text and as tokens: the reasoning delimiter and the one renderer."""

from rational_jax.text.chat import ANSWER, PROMPT, REASONING, Example, Message, Renderer
from rational_jax.text.reasoning import PLAIN, THINK, ReasoningFormat, Split, format_named

__all__ = [
    "ANSWER",
    "PLAIN",
    "PROMPT",
    "REASONING",
    "THINK",
    "Example",
    "Message",
    "ReasoningFormat",
    "Renderer",
    "Split",
    "format_named",
]
