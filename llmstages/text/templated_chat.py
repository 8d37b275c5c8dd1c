"""Conversations in the words of a foreign model's own chat template, as ids and what is learnt.

Promise: the ids are those of the template's text, in which the names of control tokens count where
the template writes them and never where a message does; loss falls on each answer, on the token
that ends it, and on what the template writes between the prompt for generation and the answer, and
on nothing else, or on what the template itself marks with `{% generation %}`; a prompt for
generation is, id for id, the beginning of the conversation that was trained on. A conversation for
which one of these cannot be had is refused with a reason, never rendered wrongly.

How: the template is rendered with a mark in place of each message, which shows what it writes and
where messages go, and once more with the messages. Both must agree; white space at a message's
ends may be trimmed.

`apply_chat_template` gives the same ids but where a token would cover the end of a prompt and the
beginning of an answer, or an answer and what follows it (here a token never does), where a message
holds a control token's name, and where a control token swallows white space that belongs to a
message (here it stays).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from llmstages.errors import UserError
from llmstages.text.templates import (
    REMEDY,
    ConversationRefused,
    Job,
    Refused,
    TemplateProcess,
    TemplateSource,
)
from llmstages.text.unicode import well_formed

if TYPE_CHECKING:
    from llmstages.text.chat import Message
    from llmstages.text.huggingface_backend import HuggingFaceBackend

Turns = list[tuple[str, str]]
"""Role and content of each message."""
FIRST_MARK = 0xF0000
"""Marks are private characters from here on that stand neither in messages nor in the template."""
WITHOUT_THOUGHTS = {"enable_thinking": False, "thinking": False}
"""What templates of reasoning models call it; only tried where a plain prompt does not meet the
answer, since answers are learnt as they are."""
TRIMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
)
"""What templates do to a message's ends."""


@dataclass(frozen=True)
class Place:
    """Where a message stands in an outline."""

    message: int
    begin: int
    end: int


@dataclass(frozen=True)
class Outline:
    """A rendering with marks in place of messages, and what `{% generation %}` enclosed."""

    text: str
    places: list[Place]
    generated: list[tuple[int, int]]


@dataclass(frozen=True)
class Shape:
    """What a template does for every conversation."""

    variables: Mapping[str, bool]
    """Those to render with, besides the names of special tokens."""
    opening: str
    """What it writes between the prompt for generation and an answer."""
    end_id: int
    """The control token that ends an answer."""


class TemplatedChat:
    """A template, with the tokenizer that it was written for."""

    def __init__(
        self, source: TemplateSource, backend: "HuggingFaceBackend", names: Mapping[str, str]
    ) -> None:
        """`names` are those of special tokens, by what templates call them (`bos_token`)."""
        self.source = source
        self._backend = backend
        self.names = names

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return self._shape.end_id

    def render(
        self, messages: Sequence["Message"], *, open_answer: bool
    ) -> tuple[list[int], list[bool]]:
        """As `llmstages.text.chat.render`; `UserError` for a conversation that is refused."""
        shape = self._shape
        turns = [(str(message.role), well_formed(message.content)) for message in messages]
        answered = bool(turns) and turns[-1][0] == "assistant" and not open_answer
        marks = self._marks(turns)
        jobs = [
            self._job(turns, open_answer, shape.variables),
            self._job(outlined(turns, marks), open_answer, shape.variables, marks),
        ]
        if answered and len(turns) > 1:
            jobs.append(self._job(outlined(turns[:-1], marks), True, shape.variables, marks))
        texts = self._rendered(jobs)
        outline = self._outline(texts[1], marks, len(turns))
        contents = self._contents(outline, turns, texts[0])
        prompt_end = None
        if len(texts) > 2:
            prompt = self._outline(texts[2], marks, len(turns) - 1)
            prompt_end = self._prompt_end(prompt, outline, len(turns) - 1)
        learnt = self._generated(outline)
        if not learnt:
            learnt = sorted(self._answers(outline, turns, prompt_end, answered))
        return self._encoded(outline, contents, learnt, prompt_end)

    @cached_property
    def _text(self) -> str:
        return self.source.text()

    @cached_property
    def _process(self) -> TemplateProcess:
        return TemplateProcess(self.source.path, self._text)

    @property
    def _shape(self) -> Shape:
        """Found with a question and an answer: what is wrong then is so for every conversation."""
        if isinstance(self._shape_or_fault, str):
            raise UserError(self._shape_or_fault)
        return self._shape_or_fault

    @cached_property
    def _shape_or_fault(self) -> Shape | str:
        """The fault is kept too: finding that a template hangs takes seconds."""
        try:
            return self._find_shape()
        except UserError as error:
            return str(error)

    def _find_shape(self) -> Shape:
        turns = [("user", "?"), ("assistant", "!")]
        marks = self._marks(turns)
        found: list[tuple[Mapping[str, bool], Outline, str]] = []
        tried: tuple[Mapping[str, bool], ...] = ({}, WITHOUT_THOUGHTS)
        for variables in tried:
            jobs = [
                self._job(outlined(turns[:1], marks), True, variables, marks),
                self._job(outlined(turns, marks), False, variables, marks),
            ]
            prompt, whole = (self._outline(text, marks, 2) for text in self._rendered(jobs))
            answer = self._place(whole, 1)
            if not variables:
                written = [whole.text[answer.end :], prompt.text, *self._around_turns(marks)]
                self._backend = self._backend.with_controls(marks[0].join(written))
            if whole.text[: answer.begin].startswith(prompt.text):
                found.append((variables, whole, whole.text[len(prompt.text) : answer.begin]))
        if not found:
            raise self._error("begins an answer otherwise in a prompt than in a conversation")
        variables, whole, opening = next((one for one in found if not one[2].strip()), found[0])
        for _, _, end_id in self._backend.controls(whole.text[self._place(whole, 1).end :]):
            return Shape(variables, opening, end_id)
        raise self._error("ends an answer with no special token")

    def _around_turns(self, marks: Sequence[str]) -> Iterator[str]:
        """What is written around a system's message and after an answer in a conversation's middle.

        Its tokens are as little a message's to write as those of a question and an answer are.
        A template that refuses such a conversation writes nothing there.
        """
        told = [("system", "."), ("user", "?")]
        asked_again = [("user", "?"), ("assistant", "!"), ("user", "?")]
        jobs = [self._job(outlined(turns, marks), True, {}, marks) for turns in (told, asked_again)]
        around_system, again = self._process.render(jobs)
        if isinstance(around_system, str):
            yield around_system
        if isinstance(again, str):  # before an answer there may be what belongs to its thoughts
            yield again.rpartition(f"{marks[0]}1{marks[0]}")[2]

    def _error(self, what: str) -> UserError:
        return ConversationRefused(f"{self.source.path}: the chat template {what}; {REMEDY}")

    def _marks(self, turns: Turns) -> tuple[str, str, str]:
        """Three characters that stand nowhere: around a message's number, and around answers."""
        taken = set(self._text).union(*(content for _, content in turns))
        free = (mark for mark in map(chr, range(FIRST_MARK, 0x110000)) if mark not in taken)
        return next(free), next(free), next(free)

    def _job(
        self,
        turns: Turns,
        open_answer: bool,
        variables: Mapping[str, bool],
        marks: Sequence[str] = ("", "", ""),
    ) -> Job:
        """What transformers hands to a template."""
        messages = [{"role": role, "content": content} for role, content in turns]
        given = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": open_answer,
        }
        return Job({**self.names, **given, **variables}, (marks[1], marks[2]))

    def _rendered(self, jobs: Sequence[Job]) -> list[str]:
        """The texts, or an error with the first reason why there is none."""
        texts = []
        for result in self._process.render(jobs):
            if isinstance(result, Refused):
                verb = "refuses this conversation" if result.said else "fails"
                raise ConversationRefused(
                    f"{self.source.path}: the chat template {verb}: {result.reason}"
                )
            texts.append(result)
        return texts

    def _outline(self, text: str, marks: Sequence[str], num_turns: int) -> Outline:
        """Take the marks out of a rendering; a template may have taken some apart before."""
        message, begin, end = marks
        numbers = {f"{message}{index}{message}": index for index in range(num_turns)}
        clean = ""
        places: list[Place] = []
        generated: list[tuple[int, int]] = []
        begun: list[int] = []
        for part in re.split(f"({message}[0-9]+{message}|{begin}|{end})", text):
            if part == begin:
                begun.append(len(clean))
            elif part == end and begun:
                start = begun.pop()
                if not begun:
                    generated.append((start, len(clean)))
            elif part in numbers:
                places.append(Place(numbers[part], len(clean), len(clean) + len(part)))
                clean += part
            elif message in part or part == end:
                raise self._error("cuts messages up, so that it cannot be said where they stand")
            else:
                clean += part
        if begun:
            raise self._error("cuts up what it marks with {% generation %}")
        return Outline(clean, places, generated)

    def _place(self, outline: Outline, message: int) -> Place:
        """Where an answer stands."""
        places = [place for place in outline.places if place.message == message]
        if len(places) != 1:
            raise self._error(f"writes an answer {len(places)} times")
        return places[0]

    def _contents(self, outline: Outline, turns: Turns, real: str) -> list[str]:
        """What stands in each place so that the outline becomes the real rendering."""
        pieces = between(outline)
        # All ends that a beginning of the outline can have in the text, and how each came about.
        ways: list[dict[int, tuple[int, str]]] = []
        ends = [len(pieces[0])] if real.startswith(pieces[0]) else []
        for place, piece in zip(outline.places, pieces[1:], strict=True):
            content = turns[place.message][1]
            way: dict[int, tuple[int, str]] = {}
            for start in ends:
                for trimmed in dict.fromkeys(trim(content) for trim in TRIMS):
                    if real.startswith(trimmed + piece, start):
                        way.setdefault(start + len(trimmed) + len(piece), (start, trimmed))
            ends = list(way)
            ways.append(way)
            if not ends:
                raise self._changed()
        if len(real) not in ends:
            raise self._changed()
        end = len(real)
        contents = []
        for way in reversed(ways):
            end, content = way[end]
            contents.append(content)
        return contents[::-1]

    def _changed(self) -> UserError:
        return ConversationRefused(
            f"{self.source.path}: the chat template looks into the messages and writes this "
            "conversation otherwise for what they say (as some do for <think>), so that it cannot "
            "be told which text is whose; leave it out, or take out what the template looks for"
        )

    def _prompt_end(self, prompt: Outline, outline: Outline, last: int) -> int:
        """Where the prompt for the last answer ends in the conversation."""
        answer = self._place(outline, last)
        if not outline.text[: answer.begin].startswith(prompt.text):
            raise self._error("begins this answer otherwise in a prompt than in the conversation")
        return len(prompt.text)

    def _generated(self, outline: Outline) -> list[tuple[int, int]]:
        """What the template says is learnt; the token that ends an answer is, if it follows."""
        spans = []
        starts = sorted(
            {place.begin for place in outline.places} | {b for b, _ in outline.generated}
        )
        for begin, end in outline.generated:
            following = next((start for start in starts if start >= end), len(outline.text))
            rest = outline.text[end:following]
            control = next(iter(self._backend.controls(rest)), None)
            ends = control is not None and control[2] == self._shape.end_id
            if control is not None and ends and not rest[: control[0]].strip():
                end += control[1]
            spans.append((begin, end))
        return spans

    def _answers(
        self, outline: Outline, turns: Turns, prompt_end: int | None, answered: bool
    ) -> Iterator[tuple[int, int]]:
        """What is learnt where the template does not say so itself."""
        shape = self._shape
        last = len(turns) - 1 if answered else None
        text = outline.text
        said = 0
        for index, (role, _) in enumerate(turns):
            if role != "assistant":
                continue
            if index != last and all(place.message != index for place in outline.places):
                continue  # an earlier answer that the template leaves out
            place = self._place(outline, index)
            begin, end = place.begin, place.end
            if index == last and prompt_end is not None:
                begin = prompt_end
            elif text[said:begin].endswith(shape.opening):
                begin -= len(shape.opening)
            following = min(
                (other.begin for other in outline.places if other.begin >= end), default=len(text)
            )
            # In front of the next turn there may be another control token: that one begins it.
            control = next(iter(self._backend.controls(text[end:following])), None)
            if control is not None and control[2] == shape.end_id:
                end += control[1]
            elif index == last:
                raise self._error("ends this answer with another token than others")
            said = end
            yield begin, end

    def _encoded(
        self,
        outline: Outline,
        contents: Sequence[str],
        learnt: Sequence[tuple[int, int]],
        prompt_end: int | None,
    ) -> tuple[list[int], list[bool]]:
        """Ids and what is learnt; texts end where that changes, and where the prompt does."""
        writer = Writer(self._backend)
        begins = [begin for begin, _ in learnt]
        cuts = {0, len(outline.text)}.union(*learnt)
        if prompt_end is not None:
            cuts.add(prompt_end)
        for place in outline.places:
            cuts |= {place.begin, place.end}
        filled = {
            place.begin: content for place, content in zip(outline.places, contents, strict=True)
        }
        for begin, end in pairwise(sorted(cuts)):
            before = bisect_right(begins, begin)
            wanted = before > 0 and begin < learnt[before - 1][1]
            if begin == prompt_end:
                writer.flush()
            if begin in filled:
                writer.text(filled[begin], wanted)
            else:
                writer.template(outline.text[begin:end], wanted)
        writer.flush()
        return writer.ids, writer.learnt


class Writer:
    """Ids of texts and control tokens that follow each other."""

    def __init__(self, backend: "HuggingFaceBackend") -> None:
        self.ids: list[int] = []
        self.learnt: list[bool] = []
        self._backend = backend
        self._before = ""
        """Text since the last control token that is encoded already."""
        self._pending = ""
        self._wanted = False

    def text(self, text: str, wanted: bool) -> None:
        """Text in which nothing is a control token."""
        if wanted != self._wanted:
            self.flush()
            self._wanted = wanted
        self._pending += text

    def template(self, text: str, wanted: bool) -> None:
        """Text in which control tokens count."""
        position = 0
        for begin, end, index in self._backend.controls(text):
            self.text(text[position:begin], wanted)
            self.flush()
            self._before = ""
            self.ids.append(index)
            self.learnt.append(wanted)
            position = end
        self.text(text[position:], wanted)

    def flush(self) -> None:
        """Encode what is pending, as it reads after what is before it."""
        if self._pending:
            at_start = not self.ids
            ids = self._backend.encode_after(self._before, self._pending, at_start=at_start)
            self.ids += ids
            self.learnt += [self._wanted] * len(ids)
        self._before += self._pending
        self._pending = ""


def outlined(turns: Turns, marks: Sequence[str]) -> Turns:
    """The turns with a marked number for each message that has any letters in it."""
    return [
        (role, f"{marks[0]}{index}{marks[0]}" if content.strip() else content)
        for index, (role, content) in enumerate(turns)
    ]


def between(outline: Outline) -> list[str]:
    """What the template writes before, between and after the messages."""
    begins = [0, *(place.end for place in outline.places)]
    ends = [*(place.begin for place in outline.places), len(outline.text)]
    return [outline.text[begin:end] for begin, end in zip(begins, ends, strict=True)]
