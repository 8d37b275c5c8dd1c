"""Conversations as token ids, and which of the ids are learnt.

A foreign tokenizer that brings a chat template speaks as that says
(`llmstages/text/templated_chat.py`). Of the others, one with turn tokens speaks ChatML, for each
message `<|im_start|>role\\ncontent<|im_end|>\\n`. Any other speaks a plain-text form,
`### Request:\\ncontent\\n\\n` for the user and `### Answer:\\ncontent<end>\\n\\n` for the
assistant, and its vocabulary is left as it is. Newlines at the start of a message are dropped in
both: they would fuse with the header's newline.

Promise: loss falls on what the assistant says and on the token that ends it, in every assistant
turn, and on nothing else; a prompt for generation is exactly how an answer's beginning looked in
training; a control token's name inside a message stays ordinary text. The Jinja templates below,
saved with every tokenizer, give the same ids in Hugging Face's libraries, where a message holds no
control token's name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from llmstages.errors import UserError

if TYPE_CHECKING:
    from llmstages.text.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]

PLAIN_TITLES: dict[Role, str] = {"system": "Context", "user": "Request", "assistant": "Answer"}

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'].lstrip('\\n')"
    " + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

PLAIN_TEMPLATE = (
    "{% set titles = {'system': 'Context', 'user': 'Request', 'assistant': 'Answer'} %}"
    "{% for message in messages %}"
    "{{ '### ' + titles[message['role']] + ':\\n' + message['content'].lstrip('\\n')"
    " + (eos_token if message['role'] == 'assistant' else '') + '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Answer:\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise UserError(f"unknown role {self.role!r}: use {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class Part:
    """A run of text, or one control id, and whether it carries loss."""

    content: str | int
    learnt: bool = False


def render(
    messages: Sequence[Message],
    tokenizer: "Tokenizer",
    *,
    open_answer: bool = False,
    plain: bool = False,
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation and, for each, whether it carries loss.

    With `open_answer` the assistant's header follows, for generation; the answer then ends at
    `answer_end_id(tokenizer)`. Raises `UserError` where a foreign template refuses a conversation.
    With `plain` it is the plain-text form, whatever the tokenizer has: for a model that has never
    seen turn tokens.
    """
    if tokenizer.templated_chat is not None and not plain:
        return tokenizer.templated_chat.render(messages, open_answer=open_answer)
    if tokenizer.turn_start_id is not None and tokenizer.turn_end_id is not None and not plain:
        parts = chatml_parts(
            messages, tokenizer.turn_start_id, tokenizer.turn_end_id, open_answer=open_answer
        )
    else:
        parts = plain_parts(messages, tokenizer.end_id, open_answer=open_answer)
    ids: list[int] = list(tokenizer.begin_ids)
    learnt: list[bool] = [False] * len(ids)
    for part in joined(parts):
        part_ids = (
            [part.content] if isinstance(part.content, int) else tokenizer.encode(part.content)
        )
        ids += part_ids
        learnt += [part.learnt] * len(part_ids)
    return ids, learnt


def answer_end_id(tokenizer: "Tokenizer") -> int:
    """The id that ends an answer: the end of the turn, or of the text without turn tokens.

    Raises `UserError` for a foreign template that is broken.
    """
    if tokenizer.templated_chat is not None:
        return tokenizer.templated_chat.end_id
    return tokenizer.end_id if tokenizer.turn_end_id is None else tokenizer.turn_end_id


def stop_ids(tokenizer: "Tokenizer") -> list[int]:
    """Where generation stops: at the end of a text, at that of an answer, and where the files of a
    foreign model say.

    A template that cannot be used ends nothing; whoever renders with it is told.
    """
    try:
        ids = [tokenizer.end_id, answer_end_id(tokenizer)]
    except UserError:
        ids = [tokenizer.end_id]
    return list(dict.fromkeys([*ids, *tokenizer.model_end_ids]))


def chatml_parts(
    messages: Sequence[Message], turn_start_id: int, turn_end_id: int, *, open_answer: bool
) -> Iterator[Part]:
    """A conversation between turn tokens."""
    for message in messages:
        learnt = message.role == "assistant"
        yield Part(turn_start_id)
        yield Part(message.role + "\n")
        yield Part(message.content.lstrip("\n"), learnt)
        yield Part(turn_end_id, learnt)
        yield Part("\n")
    if open_answer:
        yield Part(turn_start_id)
        yield Part("assistant\n")


def plain_parts(messages: Sequence[Message], end_id: int, *, open_answer: bool) -> Iterator[Part]:
    """A conversation in plain text; only answers end in a control id."""
    for message in messages:
        learnt = message.role == "assistant"
        yield Part(f"### {PLAIN_TITLES[message.role]}:\n")
        yield Part(message.content.lstrip("\n"), learnt)
        if learnt:
            yield Part(end_id, learnt)
        yield Part("\n\n")
    if open_answer:
        yield Part(f"### {PLAIN_TITLES['assistant']}:\n")


def joined(parts: Iterator[Part]) -> Iterator[Part]:
    """Join neighbouring texts without loss: they are encoded as one, as the template's are.

    A learnt text is encoded by itself, so that the mask falls between two ids and the header has
    the ids that it has in a prompt.
    """
    text = ""
    for part in parts:
        if isinstance(part.content, str) and not part.learnt:
            text += part.content
            continue
        if text:
            yield Part(text)
            text = ""
        yield part
    if text:
        yield Part(text)
