"""`llmstages finetune-instruct`: a base model and instruction-answer pairs -> a specialist."""

from collections.abc import Sequence
from pathlib import Path

import torch

from llmstages.config.stages import FinetuneInstructConfig
from llmstages.data.examples import Example, PackedData, conversation_example, make_batch
from llmstages.data.labelled import Conversation, read_conversations
from llmstages.data.labelled_files import data_files
from llmstages.data.supervision import refuse_cut_answers, supervision_of
from llmstages.errors import UserError
from llmstages.evaluate.perplexity import likelihood
from llmstages.evaluate.text_metrics import require_text_metrics, text_metrics
from llmstages.model.generation import Generated, Sampling, generate
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import clipped, progress, say, warn
from llmstages.stages.training import (
    Clock,
    Machine,
    choose_machine,
    choose_weights,
    described,
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
from llmstages.train.losses import sparse_loss
from llmstages.train.run import Run

DEFAULT_EPOCHS = 3
DEFAULT_BATCH_TOKENS = 4096
MIN_ROW_TOKENS = 512
"""Rows are at least this long, or the context, so that several short examples fill them well."""
LR_SHARE = 0.3
"""Of the pretraining rate: a first choice that served on small sets, not swept yet."""
GENERATION_BATCH = 16


def run(config: FinetuneInstructConfig) -> float:
    """Tune a base model on pairs; returns the loss on held-out answers, in nats a token."""
    clock = Clock()
    if not config.data_paths:
        raise UserError("finetune-instruct needs a file: llmstages finetune-instruct FILE ...")
    require_text_metrics()
    rows = finetune_rows(
        config,
        lambda path: [
            conversation
            for file in data_files(path)
            for conversation in read_conversations(
                file, config.prompt_column, config.answer_column, config.bad_rows
            )
        ],
        lambda conversation: "\n".join(m.content for m in conversation.messages[:-1]),
        answer=lambda conversation: conversation.messages[-1].content,
        weights=config.data_weights,
    )
    machine = choose_machine(config)
    base = finetune_base(config)
    model, tokenizer = base.model, base.tokenizer
    directory = run_dir(config, f"{Path(config.data_paths[0]).stem}-instruct")
    the_run = Run(directory, "finetune-instruct", config, input_hashes(config, base))
    if (headline := finished_before(the_run)) is not None:
        return headline
    context_length = model.config.context_length

    def examples_of(conversations: Sequence[Conversation], path: str) -> list[Example]:
        return to_examples(conversations, tokenizer, context_length, path)

    data_path = described(config)
    training = to_examples(
        rows.train, tokenizer, context_length, data_path, max_cut_share=config.max_cut_share
    )
    validation = examples_of(rows.validation, config.validation_data or data_path)
    test = examples_of(rows.test, config.test_data or data_path)
    if not training or not validation or not test:
        raise UserError(f"{data_path}: too few pairs fit into {context_length} tokens to train on")
    batch_tokens = config.batch_tokens or DEFAULT_BATCH_TOKENS
    # A base may read far longer texts than these: rows are as long as there is use for.
    longest = max(len(example.tokens) for example in training)
    row_length = min(context_length, max(longest, MIN_ROW_TOKENS))
    rows_per_step = max(1, round(batch_tokens / row_length))
    data = PackedData(
        training,
        context_length=row_length,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=max(1, min(machine.micro_batch_tokens // row_length, rows_per_step)),
        seed=config.seed,
    )
    say(
        f"{len(training):,} training, {len(validation):,} validation and {len(test):,} test "
        f"conversations; base {base.directory}"
    )
    choose_weights(model, config)
    place(model, config, machine)
    questions = rows.test[: config.evaluate.num_generations]

    def held_out_loss(examples: Sequence[Example]) -> float:
        batches = (
            make_batch([[example] for example in examples[i : i + GENERATION_BATCH]])
            for i in range(0, len(examples), GENERATION_BATCH)
        )
        return likelihood(model, sparse_loss, batches, machine.device, machine.dtype).loss

    def test_metrics(description: str) -> dict[str, float]:
        answers = answer_all(model, tokenizer, questions, config, machine, description)
        texts = [tokenizer.decode(answer.tokens) for answer in answers]
        references = [question.messages[-1].content for question in questions]
        return {
            "val_loss": held_out_loss(test),
            **text_metrics(texts, references),
            "stopped_share": sum(answer.stopped for answer in answers) / len(answers),
        }

    def show_samples(step: int) -> None:
        shown = questions[: config.evaluate.num_samples]
        for question, answer in zip(
            shown, answer_all(model, tokenizer, shown, config, machine, None), strict=True
        ):
            asked = question.messages[-2].content if len(question.messages) > 1 else ""
            answered = tokenizer.decode(answer.tokens)
            say(f"  {clipped(asked)} -> {clipped(answered)}")

    metrics_before = the_run.plan.get("metrics_before") or test_metrics("answers of the base")
    result = fine_tune(
        the_run,
        config,
        base,
        machine,
        clock,
        data=data,
        num_tokens=sum(len(example.tokens) for example in training),
        default_epochs=DEFAULT_EPOCHS,
        lr_share=LR_SHARE,
        evaluate=lambda: {"val_loss": held_out_loss(validation)},
        plan={"metrics_before": metrics_before},
        last_evaluation=4.0,  # generating answers costs more than reading them
        show_samples=show_samples if config.evaluate.num_samples else None,
    )
    metrics = test_metrics("answers after tuning")
    words = sum(len(m.content.split()) for c in rows.train for m in c.messages)
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
    )
    return metrics["val_loss"]


def to_examples(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    context_length: int,
    path: str,
    *,
    max_cut_share: float | None = None,
) -> list[Example]:
    """Rendered conversations; says how many had to be cut or left out.

    Raises `UserError` where no answer keeps its end, or more than `max_cut_share` lose it.
    """
    examples = []
    rendered = []
    num_cut = num_lost = 0
    for conversation in conversations:
        file = conversation.path or path
        try:
            ids, supervised = render(conversation.messages, tokenizer)
        except ConversationRefused as error:
            raise UserError(f"{file}:{conversation.line}: {error}") from error
        rendered.append((ids, supervised))
        reference = f"{Path(file).name}:{conversation.line}"
        example = conversation_example(ids, supervised, context_length, reference)
        if example is None:
            num_lost += 1
            continue
        num_cut += len(ids) > context_length + 1
        examples.append(example)
    if max_cut_share is not None:
        found = supervision_of(rendered, context_length, answer_end_id(tokenizer))
        refuse_cut_answers(found, max_cut_share, context_length, path)
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
