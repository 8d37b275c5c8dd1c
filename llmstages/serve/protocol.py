"""What clients send and get: OpenAI's requests, checked, and the shapes of answers and errors
(https://platform.openai.com/docs/api-reference).

Promise: a setting that would change the answer and is not done here is refused, never ignored;
other unknown keys are passed over, as they are sent by clients of newer versions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmstages.text.chat import Message, Role

MOST_STOPS = 4
"""Strings in `stop`, as OpenAI has it."""
GREEDY_BELOW = 1e-4
"""A temperature below is taken as 0: divided by it, logits would leave the numbers there are."""
REFUSED: dict[str, tuple[object, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
"""Settings that change an answer and are not done here, and values, beside null, that ask for none
of it."""


class Refusal(Exception):
    """An error as a client gets it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        kind = "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class StreamOptions(BaseModel):
    """`stream_options`."""

    include_usage: bool | None = None


class Request(BaseModel):
    """What requests for chat and for completions share."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = None
    n: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name, harmless in REFUSED.items():
                value = given.get(name)
                is_switch = isinstance(value, bool)
                # 0 is no False: of completions it asks for the logprobs of what is taken.
                alike = [one for one in harmless if isinstance(one, bool) == is_switch]
                if value is not None and value not in alike:
                    raise Refusal(
                        400, f"{name} is not supported here", param=name, code="unsupported"
                    )
        return given

    @property
    def limit(self) -> int | None:
        """Most new tokens, if the client says."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def stops(self) -> list[str]:
        """Strings before which an answer ends."""
        listed = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(listed) > MOST_STOPS:
            raise Refusal(400, f"stop: at most {MOST_STOPS} strings", param="stop")
        return [text for text in listed if text]

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(BaseModel):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def message(self) -> Message:
        """As the model's chat template takes it."""
        role: Role = "system" if self.role == "developer" else self.role
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return Message(role, text)


class ChatRequest(Request):
    """`POST /v1/chat/completions`."""

    messages: list[Turn] = Field(min_length=1)


class CompletionRequest(Request):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]] = ""

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise Refusal(400, "prompt: the list is empty", param="prompt")
        if isinstance(self.prompt[0], int):
            return [[id for id in self.prompt if isinstance(id, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class ClassifyRequest(BaseModel):
    """`POST /classify`: a text, or several. Where a classifier joins columns, a text is an object
    with these."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    text: str | dict[str, str] | None = None
    texts: list[str | dict[str, str]] | None = None

    def listed(self) -> list[str | dict[str, str]]:
        """All texts."""
        if (self.text is None) == (self.texts is None):
            raise Refusal(400, 'give {"text": ...} or {"texts": [...]}')
        return [self.text] if self.text is not None else self.texts or []


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], body: bytes) -> Model:
    """A request from its body. Raises `Refusal`, which repeats nothing of a client's text."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON") from None
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = [str(word) for word in first["loc"]]
        path = ".".join(where[:3])
        message = f"{path}: {first['msg']}" if path else first["msg"]
        raise Refusal(400, message, param=where[0] if where else None) from None


# -------------------------------------------------------------------------------------------------
# answers


@dataclass
class Shape:
    """Builds the objects of one answer to a client."""

    id: str
    created: int
    model: str
    is_chat: bool

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """An answer that is not streamed."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._object(kind, choices) | {"usage": usage}

    def choice(self, index: int, text: str, finish: str) -> dict[str, Any]:
        """One of its choices."""
        said: dict[str, Any] = {"text": text}
        if self.is_chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index, **said, "logprobs": None, "finish_reason": finish}

    def piece(
        self, index: int, text: str | None, finish: str | None = None, *, first: bool = False
    ) -> dict[str, Any]:
        """A piece of a stream; the first of a chat's says who speaks."""
        said: dict[str, Any] = {"text": text or ""}
        if self.is_chat:
            delta = {"role": "assistant"} if first else {}
            said = {"delta": delta | ({} if text is None else {"content": text})}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        return self._object(self._piece_kind, [choice])

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last piece of a stream, where it was asked for."""
        return self._object(self._piece_kind, []) | {"usage": usage}

    @property
    def _piece_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Tokens of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def event(value: Mapping[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


# -------------------------------------------------------------------------------------------------
# the text of an answer


class Until:
    """A growing text up to the first of some strings: each piece is given out as soon as no later
    one can make it part of them."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """What is certain now; after a stop nothing more."""
        if self.stopped:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        held = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a string may begin that is not whole there."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
