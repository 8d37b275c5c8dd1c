"""`llmstages generate`: continue a prompt, answer it, or list the likeliest next words."""

import sys
import time

import torch

from llmstages.config.stages import GenerateConfig
from llmstages.errors import UserError
from llmstages.evaluate.next_words import next_words
from llmstages.model.generation import Sampling, fit_prompt, generate
from llmstages.report.plain import for_stream
from llmstages.report.terminal import say, table
from llmstages.text.chat import Message, answer_end_id, render
from llmstages.train.checkpoint import Checkpoint, load_checkpoint
from llmstages.train.device import choose_device, choose_dtype, keep_freed_memory


def run(config: GenerateConfig) -> None:
    """Print text, or a table of next words, to standard output."""
    if config.checkpoint_dir is None or config.prompt is None:
        raise UserError("generate needs a checkpoint and a prompt: llmstages generate RUN PROMPT")
    checkpoint = load_checkpoint(config.checkpoint_dir)
    if checkpoint.labels is not None:
        raise UserError(f"{config.checkpoint_dir}: a classifier; use llmstages predict")
    device = choose_device(config.device)
    keep_freed_memory(device)
    dtype = torch.float32
    if config.dtype != "auto" or device.type == "cuda":
        dtype = choose_dtype(config.dtype, device)
    model = checkpoint.model.to(device).eval()
    if config.top is not None:
        print_next_words(checkpoint, config)
        return
    ids, stop_ids = prompt_ids(checkpoint, config)
    context_length = model.config.context_length
    kept = len(fit_prompt(ids, config.max_new_tokens, context_length))
    if kept < len(ids):
        say(
            f"the prompt has {len(ids)} tokens, the model reads {context_length}: "
            f"its last {kept} are used"
        )
    begin = time.monotonic()
    answers = generate(
        model,
        [ids] * config.num_samples,
        max_new_tokens=config.max_new_tokens,
        stop_ids=stop_ids,
        sampling=Sampling(config.temperature, config.top_k, config.top_p),
        generator=torch.Generator(device).manual_seed(config.seed),
        dtype=dtype,
    )
    seconds = time.monotonic() - begin
    opening = "" if is_chat(checkpoint, config) else config.prompt
    for answer in answers:
        text = opening + checkpoint.tokenizer.decode(answer.tokens)
        sys.stdout.write(for_stream(text, sys.stdout) + "\n")
    sys.stdout.flush()
    tokens = sum(len(answer.tokens) for answer in answers)
    say(f"{tokens} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s")


def is_chat(checkpoint: Checkpoint, config: GenerateConfig) -> bool:
    """Whether the prompt is a user's turn: as asked for, or as the checkpoint was trained."""
    if config.chat != "auto":
        return config.chat == "on"
    return checkpoint.info is not None and checkpoint.info.stage == "finetune-instruct"


def prompt_ids(checkpoint: Checkpoint, config: GenerateConfig) -> tuple[list[int], list[int]]:
    """Ids of the prompt and the ids that end the answer."""
    tokenizer = checkpoint.tokenizer
    assert config.prompt is not None
    if is_chat(checkpoint, config):
        ids, _ = render([Message("user", config.prompt)], tokenizer, open_answer=True)
        return ids, [answer_end_id(tokenizer), tokenizer.end_id]
    # An empty prompt is continued as a new document, which follows the end of another.
    return tokenizer.encode(config.prompt) or [tokenizer.end_id], [tokenizer.end_id]


def print_next_words(checkpoint: Checkpoint, config: GenerateConfig) -> None:
    """The `top` likeliest words after the prompt."""
    ids, _ = prompt_ids(checkpoint, config)
    assert config.top is not None
    words = next_words(checkpoint.model, checkpoint.tokenizer, ids, config.top)
    rows = [(rank, w.word, f"{w.probability:.4f}") for rank, w in enumerate(words, start=1)]
    table("", ("", "next word", "probability"), rows, to_output=True)
