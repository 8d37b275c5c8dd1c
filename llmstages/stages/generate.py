"""`llmstages generate`: continue a prompt, answer it or a file of them, or list next words."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llmstages.config.uses import GenerateConfig
from llmstages.data.conversations import read_prompts
from llmstages.errors import UserError
from llmstages.evaluate.next_words import next_words
from llmstages.model.generation import Generated, Pace, fit_prompt, generate, seeded
from llmstages.report.plain import for_stream
from llmstages.report.terminal import progress, say, table
from llmstages.stages.shared.output import output_file
from llmstages.stages.shared.speaker import Speaker, open_speaker
from llmstages.text.chat import Message, render, stop_ids

WINDOW_BATCHES = 64
"""Batches read ahead, so that prompts of similar length can be put together."""


def run(config: GenerateConfig) -> None:
    """Print text, or a table of next words, to standard output; answers to a file go to another."""
    if config.prompt is None and config.data is None:
        raise UserError("generate needs a checkpoint and a prompt: llmstages generate RUN PROMPT")
    speaker = open_speaker(config, "generate")
    if config.chat == "auto" and speaker.is_tuned and speaker.checkpoint.info is None:
        say(
            f"{config.checkpoint_dir}: has a chat template, so a prompt is a user's turn; "
            "chat=off continues it as text"
        )
    if config.data is not None:
        answer_file(speaker, config)
    elif config.top is not None:
        print_next_words(speaker, config)
    else:
        print_samples(speaker, config)


# -------------------------------------------------------------------------------------------------
# one prompt


def print_samples(speaker: Speaker, config: GenerateConfig) -> None:
    """Continuations of the prompt."""
    assert config.prompt is not None
    tokenizer, context_length = speaker.checkpoint.tokenizer, speaker.context_length
    ids = prompt_ids(speaker, config, [Message("user", config.prompt)])
    kept = len(fit_prompt(ids, config.max_new_tokens, context_length))
    if kept < len(ids):
        say(
            f"the prompt has {len(ids)} tokens, the model reads {context_length}: "
            f"its last {kept} are used"
        )
    pace = Pace()
    answers = generate(
        speaker.decoder(),
        [ids] * config.num_samples,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stop_ids(tokenizer),
        sampling=speaker.sampling,
        generator=[seeded(config.seed, sample) for sample in range(config.num_samples)],
        pace=pace,
    )
    opening = "" if is_chat(speaker, config) else config.prompt
    for answer in answers:
        text = opening + answer_text(speaker, config, ids, answer)
        sys.stdout.write(for_stream(text, sys.stdout) + "\n")
    sys.stdout.flush()
    say(str(pace))


def is_chat(speaker: Speaker, config: GenerateConfig) -> bool:
    """Whether the prompt is a user's turn: as asked for, or as fits the checkpoint."""
    return speaker.is_tuned if config.chat == "auto" else config.chat == "on"


def prompt_ids(speaker: Speaker, config: GenerateConfig, turns: list[Message]) -> list[int]:
    """Ids of a prompt; where it is plain text to continue, turns are paragraphs."""
    tokenizer = speaker.checkpoint.tokenizer
    if is_chat(speaker, config):
        return render(turns, tokenizer, open_answer=True)[0]
    text = "\n\n".join(turn.content for turn in turns)
    return tokenizer.opening(text)


def answer_text(
    speaker: Speaker, config: GenerateConfig, prompt: Sequence[int], answer: Generated
) -> str:
    """What was generated: a turn of its own, or what goes on with the prompt."""
    after = () if is_chat(speaker, config) else prompt
    return speaker.checkpoint.tokenizer.decode(answer.tokens, after)


def print_next_words(speaker: Speaker, config: GenerateConfig) -> None:
    """The `top` likeliest words after the prompt."""
    assert config.prompt is not None
    assert config.top is not None
    ids = prompt_ids(speaker, config, [Message("user", config.prompt)])
    words = next_words(speaker.checkpoint.model, speaker.checkpoint.tokenizer, ids, config.top)
    rows = [(rank, w.word, f"{w.probability:.4f}") for rank, w in enumerate(words, start=1)]
    table("", ("", "next word", "probability"), rows, to_output=True)


# -------------------------------------------------------------------------------------------------
# a file of prompts


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt of a file."""

    line: int
    text: str
    """What the user says last."""
    ids: list[int]


def answer_file(speaker: Speaker, config: GenerateConfig) -> None:
    """Write one object an answer: id (the prompt's line), prompt, answer, stopped, tokens.

    Of several samples each has its number. What an answer says depends on the seed and on its line,
    not on the other rows.
    """
    assert config.data is not None
    tokenizer, decoder, pace = speaker.checkpoint.tokenizer, speaker.decoder(), Pace()
    count = num_cut = 0
    requests = requests_of(speaker, config)
    prompts_a_window = max(1, WINDOW_BATCHES * config.batch_size // config.num_samples)
    with output_file(config.output) as file, progress("answering", unit="answers") as advance:
        while window := list(islice(requests, prompts_a_window)):
            lengths = [len(request.ids) for request in window]
            order = [
                (index, sample)
                for index in sorted(range(len(window)), key=lambda index: lengths[index])
                for sample in range(config.num_samples)
            ]
            answers: dict[tuple[int, int], Generated] = {}
            for begin in range(0, len(order), config.batch_size):
                batch = order[begin : begin + config.batch_size]
                found = generate(
                    decoder,
                    [window[index].ids for index, _ in batch],
                    max_new_tokens=config.max_new_tokens,
                    stop_ids=stop_ids(tokenizer),
                    sampling=speaker.sampling,
                    generator=[
                        seeded(config.seed, window[index].line, sample) for index, sample in batch
                    ],
                    pace=pace,
                )
                answers.update(zip(batch, found, strict=True))
                advance(len(batch))
            for (index, sample), answer in sorted(answers.items()):
                entry = {
                    "id": window[index].line,
                    **({"sample": sample} if config.num_samples > 1 else {}),
                    "prompt": window[index].text,
                    "answer": answer_text(speaker, config, window[index].ids, answer),
                    "stopped": answer.stopped,
                    "tokens": len(answer.tokens),
                }
                file.write(for_stream(json.dumps(entry, ensure_ascii=False), file) + "\n")
            count += len(answers)
            for ids in (request.ids for request in window):
                kept = fit_prompt(ids, config.max_new_tokens, speaker.context_length)
                num_cut += len(kept) < len(ids)
    if num_cut:
        say(
            f"of {num_cut:,} prompts the end alone was used: "
            f"the model reads {speaker.context_length} tokens"
        )
    if config.output is not None:
        say(f"{count:,} answers in {config.output}")
    say(str(pace))


def requests_of(speaker: Speaker, config: GenerateConfig) -> Iterator[Request]:
    """The prompts of the file, as ids."""
    assert config.data is not None
    for line, turns in read_prompts(config.data, config.prompt_column, config.bad_rows):
        try:
            ids = prompt_ids(speaker, config, turns)
        except UserError as error:
            raise UserError(f"{config.data}:{line}: {error}") from error
        yield Request(line, turns[-1].content, ids)
