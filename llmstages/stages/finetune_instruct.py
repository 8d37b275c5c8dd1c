"""`llmstages finetune-instruct`: a base model and instruction-answer pairs -> a specialist."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmstages.config.stages import FinetuneInstructConfig
from llmstages.data.conversations import Conversation
from llmstages.data.order import permutation
from llmstages.data.shards import token_shards_dir
from llmstages.errors import UserError
from llmstages.evaluate.bootstrap import proportion, summarised
from llmstages.evaluate.greedy import greedy_answers
from llmstages.evaluate.held_out import BITS_PER_BYTE, held_out_metrics
from llmstages.evaluate.improvement import improvement_percent
from llmstages.evaluate.text_metrics import bleu_signature, require_text_metrics, text_metrics
from llmstages.model.generation import Generated
from llmstages.model.transformer import Transformer
from llmstages.report.answers import AnsweredQuestion, show_answers, show_improvement
from llmstages.report.terminal import clipped, say
from llmstages.report.trackers import ended_trackers
from llmstages.stages.shared.base_run import BaseText, base_text
from llmstages.stages.shared.methods import choose_weights
from llmstages.stages.shared.objectives import objective_of, read_rows, without_refused
from llmstages.stages.shared.setup import (
    Clock,
    Machine,
    choose_machine,
    fine_tune,
    finetune_base,
    finished_before,
    input_hashes,
    place,
    tokens_begun_with,
    write_summary,
)
from llmstages.text.chat import answer_end_id, render
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.run import Run

MAX_TEXT_CONTEXT = 4096
"""Longest windows of corpus text that are measured, of a base that may be able to read far more."""
SHOWN_ANSWERS = 10
"""Test questions whose answers are shown at the end, before and after."""


@ended_trackers()
def run(config: FinetuneInstructConfig) -> float:
    """Tune a base model on pairs; returns the loss on held-out answers, in nats a token."""
    clock = Clock()
    if not config.data_paths:
        raise UserError("finetune-instruct needs a file: llmstages finetune-instruct FILE ...")
    require_text_metrics()
    rows = read_rows(config)
    machine = choose_machine(config)
    base = finetune_base(config)
    model, tokenizer = base.model, base.tokenizer
    directory = config.run_dir
    text = base_text(base, config.replay.data, needed=config.replay.share > 0)
    hashes = input_hashes(config, base)
    if text is not None and config.replay.share:
        hashes["replay"] = text.corpus.manifest_hash
    the_run = Run(directory, "finetune-instruct", config, hashes)
    if (headline := finished_before(the_run)) is not None:
        return headline
    replayed: dict[str, Any] = {}
    if text is not None and config.replay.share:
        text, replayed = begun_with(the_run, text, tokenizer)
    choose_weights(model, config, machine)
    place(model, config, machine)
    rows = without_refused(rows, config, tokenizer)
    objective = objective_of(rows, config, model, tokenizer, machine, text)
    sizes = objective.sizes
    say(
        f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} "
        f"test {objective.unit}; base {base.directory}"
    )
    questions = [row.conversation for row in rows.test[: config.evaluate.num_generations]]
    # What one watches while training is not what the result is measured by.
    samples = [row.conversation for row in rows.validation[: config.evaluate.num_samples]]

    def test_metrics(description: str) -> tuple[dict[str, Any], list[str]]:
        answers = answer_all(
            model, tokenizer, questions, config.max_new_tokens, machine, description
        )
        texts = [tokenizer.decode(answer.tokens) for answer in answers]
        references = [question.messages[-1].content for question in questions]
        measures = dict(objective.measures())
        if questions:
            measures |= text_metrics(texts, references)
            measures["stopped_share"] = proportion([answer.stopped for answer in answers])
        metrics = summarised(measures, config.seed)
        if questions:
            metrics["bleu_signature"] = bleu_signature(references)
        if text is not None:
            metrics["base_bits_per_byte"] = forgotten(text, model, config, machine)
        return metrics, texts

    def show_samples(step: int) -> None:
        answers = answer_all(model, tokenizer, samples, config.max_new_tokens, machine, None)
        for question, answer in zip(samples, answers, strict=True):
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
        data=objective.data,
        num_rows=sizes["train"],
        num_tokens=objective.num_tokens,
        default_epochs=objective.default_epochs,
        lr_share=objective.lr_share,
        loss=objective.loss,
        evaluate=lambda: {"val_loss": objective.validate()},
        plan={"metrics_before": metrics_before, "answers_before": texts_before, **replayed},
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
    the_run.keep_lines("answers.jsonl", (asdict(answer) for answer in answered))
    shown = permutation(len(answered), "answers shown", config.seed)[:SHOWN_ANSWERS]
    if answered:
        show_answers([answered[index] for index in sorted(shown)])
    test_paths = [config.test_data] if config.test_data else config.data_paths
    names = ", ".join(Path(path).name for path in test_paths)
    improvement = improvement_percent(metrics_before, metrics)
    show_improvement(metrics_before, metrics, f"test rows of {names}")
    epochs = result.progress.step / objective.data.steps_per_epoch
    write_summary(
        the_run,
        result,
        headline="val_loss",
        metrics=metrics,
        metrics_before=metrics_before,
        model=model,
        machine=machine,
        context_length=model.config.context_length,
        words=round(objective.num_words * epochs),
        clock=clock,
        examples=sizes,
        overlap=rows.overlap,
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


def begun_with(
    the_run: Run, text: BaseText, tokenizer: Tokenizer
) -> tuple[BaseText, dict[str, Any]]:
    """The text to replay, and what the plan says of it: of a continued run what it began with.

    Raises `UserError` where the tokens are others now.
    """
    directory = token_shards_dir(text.corpus, tokenizer)
    tokens = tokens_begun_with(the_run, directory, [*text.train, *text.validation])
    # As the base was trained, whose own run may be gone by now.
    masked = bool(the_run.plan.get("mask_documents", text.mask_documents))
    return replace(text, mask_documents=masked), {"tokens": tokens, "mask_documents": masked}


def answer_all(
    model: Transformer,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    max_new_tokens: int,
    machine: Machine,
    description: str | None,
) -> list[Generated]:
    """The likeliest answer to the last question of each conversation."""
    return greedy_answers(
        model,
        [
            render(conversation.messages[:-1], tokenizer, open_answer=True)[0]
            for conversation in conversations
        ],
        max_new_tokens=max_new_tokens,
        stop_ids=[answer_end_id(tokenizer), tokenizer.end_id],
        dtype=machine.dtype,
        description=description,
    )
