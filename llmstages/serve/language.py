"""The endpoints of a language model: OpenAI's, and the page to chat.

Promise: greedy answers are those of `llmstages generate`, and none depends on the requests beside
it. A client that leaves frees its places in the batch.
"""

import asyncio
import html
import math
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmstages.errors import UserError
from llmstages.model.batching import Row
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling, draws, seeded
from llmstages.serve.engine import End, Engine, Event, Full
from llmstages.serve.http import NO_RETRY, Limits, make_app, read_body, too_slow, while_connected
from llmstages.serve.protocol import (
    GREEDY_BELOW,
    ChatRequest,
    CompletionRequest,
    Refusal,
    Shape,
    Until,
    event,
    parse,
    usage,
)
from llmstages.text.chat import render, stop_ids
from llmstages.text.streaming import TextStream
from llmstages.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Defaults:
    """What holds for requests that do not say."""

    max_new_tokens: int
    sampling: Sampling
    seed: int


class Answer:
    """One answer as it grows: tokens in, text out."""

    def __init__(
        self, index: int, row: Row, tokenizer: Tokenizer, stops: list[str], *, is_turn: bool
    ) -> None:
        self.index, self.row = index, row
        self.finish: str | None = None
        self.num_tokens = 0
        self._pieces = TextStream(tokenizer, after=() if is_turn else row.prompt)
        self._until = Until(stops)
        self._stops = bool(stops)

    def add(self, tokens: Sequence[int], end: End | None) -> str:
        """The text that these make certain; `finish` is set with the last."""
        said = ""
        for some in [[token] for token in tokens] if self._stops else [tokens]:
            said += self._until.add(self._pieces.add(some))
            self.num_tokens += len(some)
            if self._until.stopped:
                self.finish = "stop"
                return said
        if end is not None:
            said += self._until.add(self._pieces.end()) + self._until.end()
            self.finish = "stop" if self._until.stopped else end.value
        return said


class Language:
    """A language model that answers over HTTP."""

    is_classifier = False

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        name: str,
        is_tuned: bool,
        defaults: Defaults,
        limits: Limits,
        batch_size: int,
        max_waiting: int,
        log: Callable[[str], None],
    ) -> None:
        self.name, self.is_tuned = name, is_tuned
        self._tokenizer, self._context = tokenizer, decoder.config.context_length
        self._vocabulary = decoder.config.vocab_size
        self._defaults, self._limits, self._log = defaults, limits, log
        self._created, self._began = int(time.time()), time.monotonic()
        self._num_requests = 0
        self._queues: dict[Row, asyncio.Queue[Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._one_at_a_time = CapacityLimiter(1)
        self.engine = Engine(
            decoder,
            stop_ids(tokenizer),
            batch_size=batch_size,
            max_waiting=max_waiting,
            deliver=self._deliver,
            on_error=lambda error: log(f"error: answers ended by {type(error).__name__}"),
        )

    def app(self) -> ASGIApp:
        """The application."""
        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/classify", self._classify, methods=["POST"]),
        ]
        return make_app(routes, self._lifespan, self._limits, self._log)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self.engine.start()
        try:
            yield
        finally:
            await to_thread.run_sync(self.engine.close)

    def close(self) -> None:
        """End what is under way."""
        self.engine.close()

    # -- from the engine's thread to those who wait

    def _deliver(self, events: list[Event]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has ended, and all who waited with it
            self._loop.call_soon_threadsafe(self._hand_out, events)

    def _hand_out(self, events: list[Event]) -> None:
        for one in events:
            if (queue := self._queues.get(one.row)) is not None:
                queue.put_nowait(one)

    # -- endpoints

    async def _page(self, request: Request) -> Response:
        return page(self.name, self.is_tuned)

    async def _health(self, request: Request) -> Response:
        alive = self.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "ended"}, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        engine = self.engine
        return JSONResponse(
            {
                "seconds": round(time.monotonic() - self._began, 3),
                "requests": self._num_requests,
                "answers": engine.answers,
                "answers_running": engine.running,
                "answers_waiting": engine.waiting,
                "prompt_tokens": engine.prompt_tokens,
                "new_tokens": engine.new_tokens,
            }
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_object(self.name, self._created)]})

    async def _model(self, request: Request) -> Response:
        check_name(request.path_params["name"], self.name)
        return JSONResponse(model_object(self.name, self._created))

    async def _classify(self, request: Request) -> Response:
        raise Refusal(404, f"{self.name} is a language model, not a classifier")

    async def _chat(self, request: Request) -> Response:
        asked = parse(ChatRequest, await read_body(request, self._limits))
        messages = [turn.message() for turn in asked.messages]

        def prompts() -> list[list[int]]:
            plain = not self.is_tuned
            return [render(messages, self._tokenizer, open_answer=True, plain=plain)[0]]

        return await self._answer(request, asked, prompts, is_chat=True)

    async def _complete(self, request: Request) -> Response:
        asked = parse(CompletionRequest, await read_body(request, self._limits))

        def prompts() -> list[list[int]]:
            return [self._ids(prompt) for prompt in asked.prompts()]

        return await self._answer(request, asked, prompts, is_chat=False)

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.opening(prompt)
        if any(not 0 <= id < self._vocabulary for id in prompt) or not prompt:
            raise Refusal(400, f"prompt: token ids are 0 to {self._vocabulary - 1}", param="prompt")
        return prompt

    # -- answers

    async def _answer(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        prompts: Callable[[], list[list[int]]],
        *,
        is_chat: bool,
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.timeout_seconds
        check_name(asked.model, self.name)
        stops = asked.stops
        if self.engine.waiting >= self.engine.max_waiting > 0:
            raise self._full()  # before its text is looked at
        self._num_requests += 1
        make = partial(self._rows, asked, prompts, self._num_requests)
        rows = await to_thread.run_sync(make, limiter=self._one_at_a_time)
        answers = [
            Answer(i, row, self._tokenizer, stops, is_turn=is_chat) for i, row in enumerate(rows)
        ]
        prefix = "chatcmpl" if is_chat else "cmpl"
        shape = Shape(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self.name, is_chat)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._queues |= dict.fromkeys(rows, queue)
        try:
            self.engine.submit(rows)
        except Full:
            self._forget(rows)
            raise self._full() from None
        pieces = self._pieces(answers, queue)
        # One timer: to wait for each token with a time limit would cost as much as sending it.
        timer = loop.call_at(deadline, queue.put_nowait, Event(rows[0], end=End.LATE))
        release = partial(self._release, request, answers, asked.n or 1, timer)
        if asked.stream:
            return EventStream(self._stream(pieces, answers, shape, asked), release)
        texts = [""] * len(answers)

        async def collect() -> None:
            async for answer, text in pieces:
                texts[answer.index] += text

        try:
            await while_connected(request, collect())
        finally:
            release()
        choices = [
            shape.choice(answer.index, text, answer.finish or "")
            for answer, text in zip(answers, texts, strict=True)
        ]
        return JSONResponse(shape.whole(choices, usage_of(answers, asked.n or 1)))

    def _rows(
        self,
        asked: ChatRequest | CompletionRequest,
        prompts: Callable[[], list[list[int]]],
        number: int,
    ) -> list[Row]:
        """The answers to generate, `n` for each prompt. Raises `Refusal`."""
        try:
            listed = prompts()
        except UserError as error:  # the model's chat template refuses the conversation
            raise Refusal(400, str(error), param="messages") from error
        count = asked.n or 1
        if count * len(listed) > self.engine.batch_size:
            message = f"a request has at most {self.engine.batch_size} answers"
            raise Refusal(400, message, param="n")
        default = self._defaults.sampling
        temperature = default.temperature if asked.temperature is None else asked.temperature
        sampling = Sampling(
            temperature if temperature >= GREEDY_BELOW else 0.0,
            default.top_k if asked.top_k is None else asked.top_k,
            default.top_p if asked.top_p is None else asked.top_p,
        )
        rows = []
        for place, ids in enumerate(listed):
            limit = self._limit(len(ids), asked.limit)
            for sample in range(count):
                words: tuple[int, ...] = (self._defaults.seed, number, place, sample)
                if asked.seed is not None:  # as `generate` has it
                    words = (asked.seed, sample) if place == 0 else (asked.seed, place, sample)
                chances = []
                if sampling.temperature > 0:
                    chances = draws([seeded(*words)], 1, limit)[0].tolist()
                rows.append(Row(tuple(ids), limit, sampling, chances))
        return rows

    def _limit(self, prompt_tokens: int, asked: int | None) -> int:
        """Most new tokens of an answer. Raises `Refusal` where the context has no room for them."""
        room = self._context - prompt_tokens
        wanted = asked or 1
        if wanted > room:
            raise Refusal(
                400,
                f"the model reads {self._context} tokens: the prompt has {prompt_tokens}, and "
                f"{wanted} more are asked for",
                param="messages" if asked is None else "max_tokens",
                code="context_length_exceeded",
            )
        return min(self._defaults.max_new_tokens, room) if asked is None else asked

    def _full(self) -> Refusal:
        seconds = max(1, math.ceil(self.engine.seconds_until_room))
        return Refusal(
            429,
            f"{self.engine.waiting} answers wait already: try again in {seconds} seconds",
            code="rate_limit_exceeded",
            headers={"retry-after": str(seconds)},
        )

    def _forget(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._queues.pop(row, None)

    def _release(
        self, request: Request, answers: list[Answer], samples: int, timer: asyncio.TimerHandle
    ) -> None:
        """Nobody waits for these answers any more."""
        timer.cancel()
        open_still = [answer.row for answer in answers if answer.finish is None]
        if open_still:
            self.engine.cancel(open_still)
        self._forget([answer.row for answer in answers])
        count = usage_of(answers, samples)
        note = f" {count['prompt_tokens']}+{count['completion_tokens']} tokens"
        request.scope["llmstages.note"] = note + (" unfinished" if open_still else "")

    async def _pieces(
        self, answers: list[Answer], queue: asyncio.Queue[Event]
    ) -> AsyncIterator[tuple[Answer, str]]:
        """Answers, in whatever order they come, each with more of its text. Raises `Refusal` where
        they cannot be finished."""
        by_row = {answer.row: answer for answer in answers}
        while by_row:
            events = [await queue.get()]
            while not queue.empty():
                events.append(queue.get_nowait())
            came: dict[Row, tuple[list[int], End | None]] = {}
            for one in events:
                if one.end is End.LATE:
                    raise too_slow(self._limits)
                if one.end is End.FAILED:
                    raise Refusal(500, "the model failed", headers=NO_RETRY)
                if one.end is End.CLOSED:
                    raise Refusal(503, "the server ends", headers=NO_RETRY)
                tokens, _ = came.get(one.row, ([], None))
                came[one.row] = [*tokens, *([] if one.token is None else [one.token])], one.end
            for row, (tokens, end) in came.items():
                if (answer := by_row.get(row)) is None:
                    continue  # it has ended with a string that it should stop at
                text = answer.add(tokens, end)
                if answer.finish is not None:
                    del by_row[row]
                    if end is None:
                        self.engine.cancel([row])
                yield answer, text

    async def _stream(
        self,
        pieces: AsyncIterator[tuple[Answer, str]],
        answers: list[Answer],
        shape: Shape,
        asked: ChatRequest | CompletionRequest,
    ) -> AsyncIterator[bytes]:
        """An answer as server-sent events."""
        try:
            if shape.is_chat:
                for answer in answers:
                    yield event(shape.piece(answer.index, "", first=True))
            async for answer, text in pieces:
                if text:
                    yield event(shape.piece(answer.index, text))
                if answer.finish is not None:
                    said = None if shape.is_chat else ""
                    yield event(shape.piece(answer.index, said, answer.finish))
            if asked.wants_usage:
                yield event(shape.usage(usage_of(answers, asked.n or 1)))
            yield event("[DONE]")
        except Refusal as refusal:
            yield event(refusal.body)


class EventStream(StreamingResponse):
    """Server-sent events; `release` is called at their end, also if none was sent."""

    def __init__(self, body: AsyncIterator[bytes], release: Callable[[], None]) -> None:
        super().__init__(body, media_type="text/event-stream")
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


def usage_of(answers: Sequence[Answer], samples: int) -> dict[str, int]:
    """Tokens of a request: each prompt counts once, however many samples it has."""
    read = sum(len(answer.row.prompt) for answer in answers[::samples])
    return usage(read, sum(answer.num_tokens for answer in answers))


def model_object(name: str, created: int) -> dict[str, Any]:
    """What `/v1/models` says of a model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "llmstages"}


def check_name(asked: str | None, name: str) -> None:
    """Raise `Refusal` for another model than the one there is."""
    if asked not in (None, name):
        raise Refusal(
            404, f"there is one model here: {name}", param="model", code="model_not_found"
        )


def page(name: str, is_tuned: bool) -> Response:
    """The page to chat, which loads nothing from anywhere else."""
    text = files("llmstages.serve").joinpath("page.html").read_text("utf-8")
    hashes = {}
    for kind in ("script", "style"):
        inside = text.partition(f"<{kind}>")[2].partition(f"</{kind}>")[0]
        hashes[kind] = b64encode(sha256(inside.encode()).digest()).decode()
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; "
        + "; ".join(f"{kind}-src 'sha256-{value}'" for kind, value in hashes.items())
    )
    note = "" if is_tuned else "A base model: it continues text rather than answers."
    text = text.replace("{{name}}", html.escape(name)).replace("{{note}}", html.escape(note))
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer"}
    return HTMLResponse(text, headers=headers)
