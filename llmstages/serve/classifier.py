"""The endpoints of a classifier.

Promise: what is said of a text is what `llmstages predict` says of it, whatever is asked at the
same time.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmstages.data.text_template import TextTemplate
from llmstages.serve.http import Limits, make_app, read_body, too_slow, while_connected
from llmstages.serve.language import check_name, model_object
from llmstages.serve.protocol import ClassifyRequest, Refusal, parse


class Predictor(Protocol):
    """What knows the labels of texts."""

    def predict(self, texts: list[str], batch_size: int, /) -> list[dict[str, Any]]:
        """Of each text what `llmstages predict` says, in their order."""


@dataclass(eq=False)
class Asked:
    """A text that waits, and where its answer goes."""

    text: str
    answer: asyncio.Future[dict[str, Any]]


class Classifier:
    """A classifier that answers over HTTP. Texts that come at the same time are read together."""

    is_classifier = True

    def __init__(
        self,
        predictor: Predictor,
        *,
        name: str,
        facts: Mapping[str, Any],
        template: TextTemplate | None,
        limits: Limits,
        batch_size: int,
        max_waiting: int,
        created: int,
        log: Callable[[str], None],
    ) -> None:
        """facts: labels and the rule by which they are given, as clients are told them."""
        self.name = name
        self._predictor, self._facts, self._template = predictor, facts, template
        self._limits, self._log, self._created = limits, log, created
        self._batch_size, self._max_waiting = batch_size, max_waiting
        self._waiting: deque[Asked] = deque()
        self._came = asyncio.Event()

    def app(self) -> ASGIApp:
        """The application."""
        elsewhere = ("/v1/chat/completions", "/v1/completions")
        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/classify", self._classify, methods=["POST"]),
            *(Route(path, self._elsewhere, methods=["POST"]) for path in elsewhere),
        ]
        return make_app(routes, self._lifespan, self._limits, self._log)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(self._work())
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    def close(self) -> None:
        """Nothing: texts that wait are read, as far as the server's end leaves time."""

    @property
    def _usage(self) -> str:
        return f'{self.name} is a classifier: POST /classify {{"text": "..."}}'

    async def _page(self, request: Request) -> Response:
        labels = ", ".join(self._facts["labels"])
        return PlainTextResponse(f"{self._usage}\nlabels: {labels}\n")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_object(self.name, self._created)]})

    async def _elsewhere(self, request: Request) -> Response:
        raise Refusal(400, self._usage, code="classifier")

    async def _classify(self, request: Request) -> Response:
        asked = parse(ClassifyRequest, await read_body(request, self._limits))
        check_name(asked.model, self.name)
        texts = [self._text(given) for given in asked.listed()]
        if len(texts) > self._max_waiting + self._batch_size:
            raise Refusal(
                400, f"texts: at most {self._max_waiting + self._batch_size} at once", param="texts"
            )
        if len(self._waiting) + len(texts) > self._max_waiting + self._batch_size:
            raise Refusal(
                429,
                f"{len(self._waiting)} texts wait already: try again in a second",
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        loop = asyncio.get_running_loop()
        waiting = [Asked(text, loop.create_future()) for text in texts]
        self._waiting.extend(waiting)
        self._came.set()

        async def collect() -> list[dict[str, Any]]:
            try:
                async with asyncio.timeout(self._limits.timeout_seconds):
                    return [await one.answer for one in waiting]
            except TimeoutError:
                raise too_slow(self._limits) from None
            finally:
                for one in waiting:
                    one.answer.cancel()

        found = await while_connected(request, collect())
        request.scope["llmstages.note"] = f" {len(found)} texts"
        said = found[0] if asked.text is not None else {"predictions": found}
        return JSONResponse({"model": self.name, **said, **self._facts})

    def _text(self, given: str | dict[str, str]) -> str:
        """The text that the classifier reads; where it joins columns, of an object with these."""
        columns = self._template.columns if self._template and self._template.joins else None
        if columns is None and isinstance(given, str):
            return given
        if self._template is None or columns is None or isinstance(given, str):
            wanted = "a string" if columns is None else f"an object with {', '.join(columns)}"
            raise Refusal(400, f"a text of this classifier is {wanted}", param="text")
        if missing := [name for name in columns if name not in given]:
            raise Refusal(400, f"a text lacks {', '.join(missing)}", param="text")
        return self._template.fill([given[name] for name in columns])

    async def _work(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while batch := self._next():
                texts = [one.text for one in batch]
                try:
                    found = await to_thread.run_sync(
                        self._predictor.predict, texts, self._batch_size
                    )
                except Exception as error:
                    with suppress(Exception):  # a log that cannot be written ends nothing
                        self._log(f"error: texts not classified: {type(error).__name__}")
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(Refusal(500, "the model failed"))
                    continue
                for one, said in zip(batch, found, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(said)

    def _next(self) -> list[Asked]:
        """Texts in line, those left out for which nobody waits any more."""
        batch: list[Asked] = []
        while self._waiting and len(batch) < self._batch_size:
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch
