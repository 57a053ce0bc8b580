"""Ask: how a language model is handed to tasks, checks and metrics, whoever serves it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Request:
    """One question to a language model.

    Attributes:
        system, prompt: the two messages.
        schema: JSON schema that the answer must satisfy, None for free text.
        max_tokens: of the answer.
        temperature, seed: 0 and 0 make a server as repeatable as it can be.
    """

    system: str
    prompt: str
    schema: dict[str, Any] | None = None
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What the model said: text (JSON text when a schema was given), token counts, and whether it was remembered."""

    text: str
    prompt_tokens: int
    answer_tokens: int
    remembered: bool


class Ask(Protocol):
    """A language model: its name, the digest that stands for its weights, and where the text goes."""

    model: str
    digest: str
    egress: Literal["local", "remote"]

    def __call__(self, request: Request) -> Answer:
        """Return the model's answer.

        Raises:
            Refused("llm.…"): this request cannot be answered (too long, schema rejected).
            RetryLater: the server cannot be reached or keeps failing.
        """
        ...
