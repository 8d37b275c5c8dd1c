"""`llmstages finetune-instruct`: a base model and instruction-answer pairs -> a specialist."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llmstages.config.stages import FinetuneInstructConfig
from llmstages.data.examples import Example, PackedData, conversation_example, make_batch
from llmstages.data.labelled import Conversation, read_conversations
from llmstages.data.order import permutation
from llmstages.data.replay import ReplayedData
from llmstages.errors import UserError
from llmstages.evaluate.bootstrap import Figures, Measure, mean, ratio, summarised
from llmstages.evaluate.held_out import BITS_PER_BYTE, held_out_metrics
from llmstages.evaluate.improvement import improvement_percent
from llmstages.evaluate.perplexity import row_likelihoods
from llmstages.evaluate.text_metrics import require_text_metrics, text_metrics
from llmstages.model.generation import Generated, Sampling, generate
from llmstages.model.transformer import Transformer
from llmstages.report.answers import AnsweredQuestion, show_answers, show_improvement
from llmstages.report.terminal import clipped, progress, say, warn
from llmstages.stages.base_run import BaseText, base_text
from llmstages.stages.training import (
    Clock,
    Machine,
    choose_machine,
    choose_weights,
    fine_tune,
    finetune_base,
    finetune_rows,
    finished_before,
    input_hashes,
    place,
    run_dir,
    write_summary,
)
from llmstages.text.chat import answer_end_id, render
from llmstages.text.templates import ConversationRefused
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.run import Run

DEFAULT_EPOCHS = 3
DEFAULT_BATCH_TOKENS = 4096
MIN_ROW_TOKENS = 512
"""Rows are at least this long, or the context, so that several short examples fill them well."""
LR_SHARE = 0.3
"""Of the pretraining rate: a first choice that served on small sets, not swept yet."""
GENERATION_BATCH = 16
MAX_TEXT_CONTEXT = 4096
"""Longest windows of corpus text that are measured, of a base that may be able to read far more."""
LARGEST_NATS = 700.0
"""The exponential of more is no number."""
SHOWN_ANSWERS = 10
"""Test questions whose answers are shown at the end, before and after."""


def run(config: FinetuneInstructConfig) -> float:
    """Tune a base model on pairs; returns the loss on held-out answers, in nats a token."""
    clock = Clock()
    if config.data is None:
        raise UserError("finetune-instruct needs a file: llmstages finetune-instruct FILE")
    require_text_metrics()
    rows = finetune_rows(
        config,
        lambda path: read_conversations(
            path, config.prompt_column, config.answer_column, config.bad_rows
        ),
        lambda conversation: "\n".join(m.content for m in conversation.messages[:-1]),
    )
    machine = choose_machine(config)
    base = finetune_base(config)
    model, tokenizer = base.model, base.tokenizer
    directory = run_dir(config, f"{Path(config.data).stem}-instruct")
    text = base_text(base, config.replay.data, needed=config.replay.share > 0)
    hashes = input_hashes(config, base)
    if text is not None and config.replay.share:
        hashes["replay"] = text.corpus.manifest_hash
    the_run = Run(directory, "finetune-instruct", config, hashes)
    if (headline := finished_before(the_run)) is not None:
        return headline
    context_length = model.config.context_length

    def examples_of(conversations: Sequence[Conversation], path: str) -> list[Example]:
        return to_examples(conversations, tokenizer, context_length, path)

    training = examples_of(rows.train, config.data)
    validation = examples_of(rows.validation, config.validation_data or config.data)
    test = examples_of(rows.test, config.test_data or config.data)
    if not training or not validation or not test:
        raise UserError(
            f"{config.data}: too few pairs fit into {context_length} tokens to train on"
        )
    batch_tokens = config.batch_tokens or DEFAULT_BATCH_TOKENS
    # A base may read far longer texts than these: rows are as long as there is use for.
    longest = max(len(example.tokens) for example in training)
    row_length = min(context_length, max(longest, MIN_ROW_TOKENS))
    rows_per_step = max(1, round(batch_tokens / row_length))
    conversations = PackedData(
        training,
        context_length=row_length,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=max(1, min(machine.micro_batch_tokens // row_length, rows_per_step)),
        seed=config.seed,
    )
    data: PackedData | ReplayedData = conversations
    num_tokens = learnt_tokens = sum(len(example.tokens) for example in training)
    if text is not None and config.replay.share:
        data = ReplayedData(
            conversations,
            text.train,
            config.replay.share,
            mask_documents=text.mask_documents,
        )
        num_tokens += data.text.tokens_per_step * data.steps_per_epoch
        say(f"replay: {data.text.tokens_per_step:,} tokens of {text.corpus.directory} in each step")
    say(
        f"{len(training):,} training, {len(validation):,} validation and {len(test):,} test "
        f"conversations; base {base.directory}"
    )
    choose_weights(model, config)
    place(model, config, machine)
    questions = rows.test[: config.evaluate.num_generations]

    def test_metrics(description: str) -> tuple[dict[str, Any], list[str]]:
        answers = answer_all(model, tokenizer, questions, config, machine, description)
        texts = [tokenizer.decode(answer.tokens) for answer in answers]
        references = [question.messages[-1].content for question in questions]
        measures = {
            **answer_likelihood(model, test, machine),
            **text_metrics(texts, references),
            "stopped_share": mean([answer.stopped for answer in answers]),
        }
        metrics = summarised(measures, config.seed)
        if text is not None:
            metrics["base_bits_per_byte"] = forgotten(text, model, config, machine)
        return metrics, texts

    def show_samples(step: int) -> None:
        shown = questions[: config.evaluate.num_samples]
        for question, answer in zip(
            shown, answer_all(model, tokenizer, shown, config, machine, None), strict=True
        ):
            asked = question.messages[-2].content if len(question.messages) > 1 else ""
            answered = tokenizer.decode(answer.tokens)
            say(f"  {clipped(asked)} -> {clipped(answered)}")

    # A resumed run compares with what it began with.
    metrics_before, texts_before = (
        (the_run.plan["metrics_before"], the_run.plan["answers_before"])
        if the_run.resume_from is not None
        else test_metrics("answers of the base")
    )
    result = fine_tune(
        the_run,
        config,
        base,
        machine,
        clock,
        data=data,
        num_tokens=num_tokens,
        default_epochs=DEFAULT_EPOCHS,
        lr_share=LR_SHARE,
        evaluate=lambda: {
            "val_loss": answer_likelihood(model, validation, machine)["val_loss"].value
        },
        plan={"metrics_before": metrics_before, "answers_before": texts_before},
        last_evaluation=4.0,  # generating answers costs more than reading them
        show_samples=show_samples if config.evaluate.num_samples else None,
    )
    metrics, texts = test_metrics("answers after tuning")
    answered = [
        AnsweredQuestion(
            "\n".join(message.content for message in question.messages[:-1]),
            question.messages[-1].content,
            *pair,
        )
        for question, *pair in zip(questions, texts_before, texts, strict=True)
    ]
    keep_answers(the_run, answered)
    shown = permutation(len(answered), "answers shown", config.seed)[:SHOWN_ANSWERS]
    show_answers([answered[index] for index in sorted(shown)])
    improvement = improvement_percent(metrics_before, metrics)
    show_improvement(metrics_before, metrics, f"test rows of {Path(config.data).name}")
    words: float = sum(len(m.content.split()) for c in rows.train for m in c.messages)
    if text is not None:
        words_per_token = sum(s.info.words for s in text.train) / sum(
            s.info.tokens for s in text.train
        )
        words += words_per_token * (num_tokens - learnt_tokens)
    epochs = result.progress.step / data.steps_per_epoch
    write_summary(
        the_run,
        result,
        headline="val_loss",
        metrics=metrics,
        metrics_before=metrics_before,
        model=model,
        machine=machine,
        context_length=context_length,
        words=round(words * epochs),
        clock=clock,
        examples={"train": len(training), "validation": len(validation), "test": len(test)},
        improvement_percent=improvement,
    )
    return float(metrics["val_loss"])


def forgotten(
    text: BaseText, model: Transformer, config: FinetuneInstructConfig, machine: Machine
) -> float:
    """Bits a byte of the base's validation text, on a sample, measured as in pretraining."""
    context_length = min(model.config.context_length, MAX_TEXT_CONTEXT)
    return held_out_metrics(
        model,
        text.validation,
        context_length=context_length,
        rows_per_batch=max(1, machine.micro_batch_tokens // context_length),
        device=machine.device,
        dtype=machine.dtype,
        max_tokens=config.evaluate.max_tokens,
        mask_documents=text.mask_documents,
    )[BITS_PER_BYTE]


def answer_likelihood(
    model: Transformer, examples: Sequence[Example], machine: Machine
) -> dict[str, Measure]:
    """`val_loss`, nats a token of the answers, and `perplexity`, its exponential."""
    batches = (
        make_batch([[example] for example in examples[i : i + GENERATION_BATCH]])
        for i in range(0, len(examples), GENERATION_BATCH)
    )
    nats = row_likelihoods(model, batches, machine.device, machine.dtype)
    return {"val_loss": Measure(nats), "perplexity": Measure(nats, perplexity)}


def perplexity(sums: Figures) -> float:
    """Of nats and targets; no larger than JSON can say."""
    return math.exp(min(ratio(sums), LARGEST_NATS))


def keep_answers(run: Run, answers: Sequence[AnsweredQuestion]) -> None:
    """Write all generated answers, beside what was asked, to `answers.jsonl`."""
    if not parallel.is_first():
        return
    temporary = run.directory / "answers.jsonl.tmp"
    lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers]
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(run.directory / "answers.jsonl")


def to_examples(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, context_length: int, path: str
) -> list[Example]:
    """Rendered conversations; says how many had to be cut or left out."""
    examples = []
    num_cut = num_lost = 0
    for conversation in conversations:
        try:
            ids, supervised = render(conversation.messages, tokenizer)
        except ConversationRefused as error:
            raise UserError(f"{path}:{conversation.line}: {error}") from error
        reference = f"{Path(path).name}:{conversation.line}"
        example = conversation_example(ids, supervised, context_length, reference)
        if example is None:
            num_lost += 1
            continue
        num_cut += len(ids) > context_length + 1
        examples.append(example)
    if num_cut or num_lost:
        warn(
            f"{path}: of {len(conversations):,} conversations {num_cut:,} are longer than the "
            f"model's {context_length} tokens and were cut, {num_lost:,} had no answer left and "
            "were set aside"
        )
    return examples


def answer_all(
    model: Transformer,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    config: FinetuneInstructConfig,
    machine: Machine,
    description: str | None,
) -> list[Generated]:
    """The likeliest answer to the last question of each conversation."""
    prompts = [
        render(conversation.messages[:-1], tokenizer, open_answer=True)[0]
        for conversation in conversations
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Generated] = {}

    def answer(indices: list[int]) -> None:
        batch = generate(
            model,
            [prompts[index] for index in indices],
            max_new_tokens=min(config.max_new_tokens, model.config.context_length // 2),
            stop_ids=[answer_end_id(tokenizer), tokenizer.end_id],
            sampling=Sampling(temperature=0.0),
            dtype=parallel.product_dtype(
                model, machine.dtype if machine.device.type == "cuda" else torch.float32
            ),
        )
        answers.update(zip(indices, batch, strict=True))

    groups = [order[i : i + GENERATION_BATCH] for i in range(0, len(order), GENERATION_BATCH)]
    if description is None:
        for group in groups:
            answer(group)
    else:
        with progress(description, total=len(order), unit="answers") as advance:
            for group in groups:
                answer(group)
                advance(len(group))
    return [answers[index] for index in range(len(prompts))]
