"""A checkpoint as a model of EleutherAI's evaluation harness (Gao et al., "lm-evaluation-harness").

Promise: the figures that the harness's own `hf` model gives for the same directory, in float32 to
rounding. Texts are tokenized as the harness does: what a post-processor puts in front stands there,
and control tokens written in a text are control tokens. Importing this module makes
`model="llmstages"` known to the harness.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lm_eval.models  # noqa: F401  the harness's own, which it forgets where another came first
import tokenizers
import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from torch import Tensor

from llmstages.errors import UserError
from llmstages.evaluate.continuations import prefix_id, token_scores
from llmstages.model.batching import Batch, Row
from llmstages.model.decoding import Decoder
from llmstages.model.generation import Sampling, fit_prompt, seeded
from llmstages.report.terminal import progress, warn
from llmstages.text.chat import stop_ids
from llmstages.text.templates import Job, Refused, TemplateProcess
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.device import choose_device, choose_dtype
from llmstages.train.parallel import launched

DEFAULT_NEW_TOKENS = 256
"""Most tokens of an answer where a task does not say, as the harness has it."""
AUTO_TOKENS = 16_384
"""Padded tokens of a batch with `batch_size=auto`."""
LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of an answer; the first counts."""
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}
"""Values that change nothing, of what is not known here."""

Scored = tuple[tuple[str, str] | None, list[int], list[int]]
"""The texts of a context and a continuation, or nothing, and their ids."""


@dataclass(frozen=True)
class Asked:
    """How a task wants to be answered."""

    stops: tuple[str, ...]
    """Texts at which an answer ends, without them."""
    max_new_tokens: int
    sampling: Sampling


@register_model("llmstages")
class HarnessModel(TemplateLM):  # type: ignore[misc,unused-ignore]
    """What the harness asks of a model, by our transformer."""

    def __init__(
        self,
        checkpoint: str | None = None,
        *,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
        seed: int = 0,
        trust_remote_code: object = None,
        **unknown: object,
    ) -> None:
        """Load a checkpoint; these are the keys of `--model_args`.

        checkpoint: a run, a checkpoint or a model directory, or `hf://ORG/NAME`; pretrained is the
        harness's word for it. batch_size: texts at a time, or `auto`, which is as many as have
        `AUTO_TOKENS` tokens, at most max_batch_size. dtype: `float32`, `bfloat16` or `auto`, of
        matrix products. seed: of sampled answers. trust_remote_code: the harness's, of its tasks;
        no code of a checkpoint is ever run.

        Raises:
            UserError: other keys, no such checkpoint, a classifier, no such device or dtype, or
                started by torchrun.
        """
        super().__init__()
        if launched():
            raise UserError("--model llmstages runs in one process: start it without torchrun")
        if unknown:
            raise UserError(
                f"model_args {', '.join(unknown)}: not known to --model llmstages (checkpoint, "
                "dtype, device and seed are)"
            )
        named = {name for name in (checkpoint, pretrained) if name is not None}
        if len(named) != 1:
            raise UserError("which model? --model_args checkpoint=RUN names one")
        checkpoint = str(named.pop())
        if dtype not in ("float32", "bfloat16", "auto"):
            raise UserError(f"dtype={dtype}: choose float32, bfloat16 or auto")
        kind, _, number = (device or "auto").partition(":")
        if kind == "cuda" and not torch.cuda.is_available():
            kind, number = "auto", ""  # its command asks for cuda:0 where nobody has said anything
        self._device = choose_device(kind)
        if number:
            self._device = torch.device(kind, int(number))
        self._dtype = choose_dtype(dtype, self._device)
        loaded = load_checkpoint(checkpoint)
        if loaded.labels is not None:
            raise UserError(f"{checkpoint}: a classifier; the harness is for language models")
        self._model = loaded.model.to(self._device).eval()
        self._directory = loaded.directory
        self._texts = loaded.tokenizer
        self._stop_ids = stop_ids(loaded.tokenizer)
        self._names = loaded.tokenizer.special_tokens
        content = json.dumps(loaded.tokenizer.backend.tokenizer_json())
        self._ids = tokenizers.Tokenizer.from_str(content)
        self._template: TemplateProcess | None = None
        self._told_of_system = False
        self._seed = seed
        self._auto = str(batch_size).startswith("auto")
        rows = (1024 if max_batch_size is None else max_batch_size) if self._auto else batch_size
        if not str(rows).isdecimal() or int(rows) < 1:
            raise UserError(f"batch_size {rows}: it is auto or a number of texts, at least 1")
        self._max_rows = int(rows)

    # --- tokens

    @property
    def max_length(self) -> int:
        """Tokens that the model reads."""
        return self._model.config.context_length

    @property
    def eot_token_id(self) -> int:
        """The id of the token that ends a text."""
        return self._texts.backend.vocabulary[self._names["eos_token"]]

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is scored after: its first token has to follow something."""
        return prefix_id(self._texts)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        """Ids of a text; one that begins with the prefix gets no other in front."""
        if add_special_tokens is None:
            prefix = self._names.get("bos_token", self._names["eos_token"])
            add_special_tokens = not string.startswith(prefix)
        ids: list[int] = self._ids.encode(string, add_special_tokens=add_special_tokens).ids
        return ids

    # --- likelihoods

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As `_loglikelihood_tokens` says, of texts."""
        # The harness looks for the first token of what follows no context.
        told = [request for request in requests if any(request.args)]
        found = iter(super().loglikelihood(told, disable_tqdm))
        return [next(found) if any(request.args) else (0.0, True) for request in requests]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log probability, in nats, of each whole text; of one longer than the context in
        windows, of which each begins with the last token of the one before."""
        windows: list[Scored] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(index)
        sums = [0.0] * len(requests)
        for index, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[index] += nats
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], **kwargs: object
    ) -> list[tuple[float, bool]]:
        """The log probability, in nats, of each continuation after its context, and whether each of
        its tokens was the likeliest. What does not fit the context loses its beginning; nothing is
        certain to follow.

        Requests that the model reads alike, such as choices of one token, are read once.

        Raises:
            UserError: a continuation is longer than the context.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        num_cut = 0
        for index, (_, context, continuation) in enumerate(requests):
            if not continuation:
                continue
            if len(continuation) > self.max_length:
                raise UserError(
                    f"{len(continuation)} tokens of a continuation do not fit the context of "
                    f"{self.max_length}"
                )
            whole = (*(context or [self.prefix_token_id]), *continuation)
            whole = whole[-(self.max_length + 1) :]
            num_cut += len(context) + len(continuation) > len(whole)
            alike.setdefault(whole[:-1], []).append(index)
        self._warn_of_cuts(num_cut, len(requests))
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        with progress("scoring", sum(map(len, alike.values())), "texts") as advance:
            for inputs in self._batches(sorted(alike, key=len, reverse=True)):
                owners = [(row, index) for row, ids in enumerate(inputs) for index in alike[ids]]
                targets = [requests[index][2] for _, index in owners]
                places = [
                    (row, len(inputs[row]) - len(target) + offset)
                    for (row, _), target in zip(owners, targets, strict=True)
                    for offset in range(len(target))
                ]
                wanted = torch.tensor([token for target in targets for token in target])
                nats, greedy = self._scores(inputs, torch.tensor(places), wanted)
                begin = 0
                for (_, index), target in zip(owners, targets, strict=True):
                    own = slice(begin, begin + len(target))
                    results[index] = (float(nats[own].sum()), bool(greedy[own].all()))
                    begin += len(target)
                    if (texts := requests[index][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, results[index])
                advance(len(owners))
        return results

    @torch.no_grad()
    def _scores(
        self, inputs: Sequence[Sequence[int]], places: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of tokens at places of a batch: log probabilities [N] float64, and whether likeliest [N].

        places: [N, 2], row and position of what each token follows. wanted: [N], the tokens.
        """
        tokens = torch.zeros(len(inputs), max(map(len, inputs)), dtype=torch.long)
        for row, ids in enumerate(inputs):
            tokens[row, : len(ids)] = torch.tensor(ids)
        enabled = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=enabled):
            hidden = self._model(tokens.to(self._device))[places[:, 0], places[:, 1]]
            nats, best = token_scores(self._model, hidden, wanted.to(self._device))
        return nats.double().cpu(), best.cpu()

    def _batches(self, inputs: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        """Inputs, longest first, in batches."""
        begin = 0
        while begin < len(inputs):
            rows = self._rows(len(inputs[begin]))
            yield inputs[begin : begin + rows]
            begin += rows

    def _rows(self, length: int) -> int:
        """Texts of a batch whose longest has so many tokens."""
        return min(self._max_rows, max(1, AUTO_TOKENS // length)) if self._auto else self._max_rows

    def _warn_of_cuts(self, num_cut: int, num_prompts: int) -> None:
        """Say of how many prompts the model does not read the beginning."""
        if num_cut:
            warn(
                f"{num_cut} of {num_prompts} prompts are longer than fits the context of "
                f"{self.max_length} tokens: their beginnings are left out"
            )

    # --- answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to the first text that it is to stop at.

        As soon as one is finished the next begins in its place.
        """
        asked = [self._asked(request.args[1]) for request in requests]
        rows: list[Row] = []
        num_cut = 0
        for index, (request, wish) in enumerate(zip(requests, asked, strict=True)):
            begun = self._names.get("bos_token")
            special = begun is None or not request.args[0].startswith(begun)
            prompt = self.tok_encode(request.args[0], add_special_tokens=special)
            whole = prompt = prompt or [self.eot_token_id]
            kept = self.max_length - wish.max_new_tokens
            if kept < 1:  # a context that is shorter than the answers that are asked for
                prompt = fit_prompt(prompt, wish.max_new_tokens, self.max_length)
            prompt = prompt[-kept:] if kept > 0 else prompt
            num_cut += len(prompt) < len(whole)
            limit = min(wish.max_new_tokens, self.max_length - len(prompt))
            chances: list[float] = []
            if wish.sampling.temperature > 0:
                source = seeded(self._seed, index, request.args[0])
                chances = torch.rand(limit, generator=source).tolist()
            rows.append(Row(tuple(prompt), limit, wish.sampling, chances))
        self._warn_of_cuts(num_cut, len(rows))
        answers = [""] * len(rows)
        batch = Batch(Decoder(self._model, self._dtype))
        numbers = {row: index for index, row in enumerate(rows)}
        waiting = sorted((row for row in rows if row.limit > 0), key=lambda row: len(row.prompt))
        room = self._rows(len(waiting[-1].prompt) + waiting[-1].limit) if waiting else 0
        finished: set[Row] = set()
        with progress("answering", len(waiting), "answers") as advance:
            while waiting or len(batch) > len(finished):
                free = room - (len(batch) - len(finished))
                joining = [waiting.pop() for _ in range(min(free, len(waiting)))]
                batch.advance(finished, joining)
                finished = set()
                for row in batch.rows:
                    index = numbers[row]
                    text, ended = self._answer(row, asked[index].stops)
                    if ended:
                        finished.add(row)
                        answers[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args, text)
                        advance()
        return answers

    def _answer(self, row: Row, stops: Sequence[str]) -> tuple[str, bool]:
        """The text of an answer so far, and whether that is all of it."""
        ended = row.tokens[-1] in self._stop_ids
        ids = row.tokens[:-1] if ended else row.tokens
        text: str = self._ids.decode(ids, skip_special_tokens=True)
        for stop in stops:
            text, found, _ = text.partition(stop)
            ended = ended or bool(found)
        return text, ended or len(row.tokens) == row.limit

    def _asked(self, wishes: Mapping[str, Any]) -> Asked:
        """A task's `generation_kwargs`. Raises `UserError` for those that are not known here."""
        left = dict(wishes)
        until = left.pop("until", None) or []
        stops = [until] if isinstance(until, str) else list(until)
        named = [left.pop(key, None) for key in LENGTH_KEYS]
        lengths = [length for length in named if length is not None]
        temperature = float(left.pop("temperature", 0.0) or 0.0)
        do_sample = left.pop("do_sample", None)
        if do_sample is False:
            temperature = 0.0
        elif do_sample and temperature == 0:
            temperature = 1.0
        top_k, top_p = left.pop("top_k", None), left.pop("top_p", None)
        left = {
            key: value
            for key, value in left.items()
            if value is not None and value != NEUTRAL.get(key)
        }
        if left:
            raise UserError(
                f"generation_kwargs {', '.join(left)}: not known to --model llmstages (until, "
                f"do_sample, temperature, top_k, top_p and {LENGTH_KEYS[0]} are)"
            )
        most = int(lengths[0]) if lengths else DEFAULT_NEW_TOKENS
        if most < 0:
            raise UserError(f"generation_kwargs {LENGTH_KEYS[0]} {most}: at least 0")
        return Asked(
            tuple(stop for stop in stops if stop),
            most,
            Sampling(temperature, int(top_k) if top_k and int(top_k) > 0 else None, top_p),
        )

    # --- conversations

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer and its template in the harness's caches."""
        return f"{self._texts.hash}-{self._texts.template_hash}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The Jinja template of conversations, for the record; the model has one."""
        return self._texts.chat_template if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the checkpoint's template writes it, open for an answer or for the rest
        of its last message; without what the system says where the template refuses that. Raises
        `UserError` where it refuses all."""
        path = self._directory / "tokenizer_config.json"
        if self._template is None:
            self._template = TemplateProcess(path, self._texts.chat_template)
        without = [message for message in chat_history if message["role"] != "system"]
        (text,) = self._template.render([self._job(chat_history, add_generation_prompt)])
        if isinstance(text, Refused) and without != chat_history:
            if not self._told_of_system:
                warn(f"{path}: {text.reason}: what the system says is left out of conversations")
                self._told_of_system = True
            chat_history = without
            (text,) = self._template.render([self._job(chat_history, add_generation_prompt)])
        if isinstance(text, Refused):
            raise UserError(f"{path}: the chat template refuses a conversation: {text.reason}")
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def _job(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> Job:
        """What the template is to write."""
        given = {"messages": messages, "tools": None, "documents": None}
        return Job({**self._names, **given, "add_generation_prompt": add_generation_prompt})
