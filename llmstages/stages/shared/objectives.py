"""What instruction tuning learns from its rows: answers, or preferences between two of them.

An objective brings the data and the loss of the training loop, and what is measured of the test
rows besides generated answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmstages.config.stages import FinetuneInstructConfig
from llmstages.data.conversations import Conversation, read_conversations
from llmstages.data.examples import (
    Example,
    PackedData,
    Pair,
    PreferenceData,
    conversation_example,
    make_batch,
    pair_batches,
)
from llmstages.data.labelled_files import data_files
from llmstages.data.preferences import read_preferences
from llmstages.data.replay import ReplayedData
from llmstages.data.rows import located
from llmstages.data.supervision import refuse_cut_answers, supervision_of
from llmstages.errors import UserError
from llmstages.evaluate.bootstrap import Figures, Measure, mean, proportion, ratio
from llmstages.evaluate.perplexity import row_likelihoods, row_values
from llmstages.model.scaling import derived_batch_tokens
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, warn
from llmstages.stages.shared.base_run import BaseText
from llmstages.stages.shared.rows import Rows, described, finetune_rows
from llmstages.stages.shared.setup import Machine
from llmstages.text.chat import answer_end_id, render
from llmstages.text.templates import ConversationRefused
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.losses import LossFn, preference_loss, preference_margins, sparse_loss

DEFAULT_EPOCHS = 3
PREFERENCE_BATCH_TOKENS = 4096
MIN_ROW_TOKENS = 512
"""Rows are at least this long, or the context, so that several short examples fill them well."""
LR_SHARE = 0.3
"""Of the pretraining rate; see docs/instruct.md."""
ADAPTER_LR_FACTOR = 3.0
"""Adapters are trained at so many times the rate of the whole model; see docs/instruct.md. Under
AdamW, Schulman et al. 2025 ("LoRA Without Regret") found about ten."""
PREFERENCE_EPOCHS = 1
PREFERENCE_LR_SHARE = 0.03
"""The same of preferences, which are learnt at far lower rates (Rafailov et al. 2023)."""
EVALUATION_BATCH = 16
LARGEST_NATS = 700.0
"""The exponential of more is no number."""


@dataclass(frozen=True)
class Row:
    """A labelled row: a conversation, and of a preference the one with the rejected answer."""

    conversation: Conversation
    rejected: Conversation | None = None


@dataclass(frozen=True)
class Objective:
    """What is learnt, and how it is measured beside the answers that are generated."""

    unit: str
    """What its examples are, for messages."""
    data: PackedData | ReplayedData | PreferenceData
    loss: LossFn
    num_tokens: int
    """In one pass, those of replayed text included."""
    num_words: float
    """The same in words."""
    sizes: dict[str, int]
    """Examples by split."""
    default_epochs: int
    lr_share: float
    validate: Callable[[], float]
    """`val_loss` of the validation rows."""
    measures: Callable[[], dict[str, Measure]]
    """Of the test rows; `val_loss` among them."""


def read_rows(config: FinetuneInstructConfig) -> Rows[Row]:
    """The rows of the files, split; pairs of answers with `method=dpo`."""
    bad_rows = config.bad_rows

    def read_file(path: Path) -> list[Row]:
        if config.method.objective == "preferences":
            preferences = read_preferences(path, config.prompt_column, bad_rows)
            return [Row(preference.chosen, preference.rejected) for preference in preferences]
        columns = (config.prompt_column, config.answer_column)
        return [Row(conversation) for conversation in read_conversations(path, *columns, bad_rows)]

    return finetune_rows(
        config,
        lambda path: [row for file in data_files(path) for row in read_file(file)],
        lambda row: "\n".join(m.content for m in row.conversation.messages[:-1]),
        answer=lambda row: row.conversation.messages[-1].content,
        weights=config.data_weights,
    )


def without_refused(
    rows: Rows[Row], config: FinetuneInstructConfig, tokenizer: Tokenizer
) -> Rows[Row]:
    """The rows without those that the chat template refuses, with `bad_rows=skip`; counted."""
    if config.bad_rows != "skip":
        return rows
    refused: list[str] = []

    def accepted(row: Row) -> bool:
        try:
            for conversation in (row.conversation, row.rejected):
                if conversation is not None:
                    render(conversation.messages, tokenizer)
        except ConversationRefused as error:
            file = row.conversation.path or described(config)
            refused.append(f"{located(file, row.conversation.line)}: {error}")
            return False
        return True

    train, validation, test = (
        [row for row in part if accepted(row)] for part in (rows.train, rows.validation, rows.test)
    )
    if refused:
        warn(
            f"{described(config)}: {len(refused):,} rows are refused by the chat template and were "
            f"skipped; the first, {refused[0]}"
        )
    return Rows(train, validation, test, rows.overlap)


def objective_of(
    rows: Rows[Row],
    config: FinetuneInstructConfig,
    model: Transformer,
    tokenizer: Tokenizer,
    machine: Machine,
    text: BaseText | None,
) -> Objective:
    """The objective that `method` asks for; the model is the base's, in its place.

    text: the corpus that is replayed when the config says so.
    """
    data_path = described(config)
    parts = (
        (rows.train, data_path),
        (rows.validation, config.validation_data or data_path),
        (rows.test, config.test_data or data_path),
    )
    context_length = model.config.context_length
    too_few = UserError(f"{data_path}: too few pairs fit into {context_length} tokens to train on")
    num_words = float(
        sum(len(m.content.split()) for row in rows.train for m in row.conversation.messages)
    )
    if config.method.objective == "preferences":
        pairs = [to_pairs(part, tokenizer, context_length, path) for part, path in parts]
        if not all(pairs):
            raise too_few
        return preferences(pairs, num_words, config, model, machine)
    max_cut_shares = (config.max_cut_share, None, None)  # of what is trained on
    examples = [
        to_examples(
            [row.conversation for row in part],
            tokenizer,
            context_length,
            path,
            max_cut_share=max_cut_share,
        )
        for (part, path), max_cut_share in zip(parts, max_cut_shares, strict=True)
    ]
    if not all(examples):
        raise too_few
    return answers(examples, num_words, config, model, machine, text)


def sizes_of(parts: Sequence[Sequence[object]]) -> dict[str, int]:
    """Examples of the three splits."""
    return dict(zip(("train", "validation", "test"), map(len, parts), strict=True))


# -------------------------------------------------------------------------------------------------
# answers


def answers(
    examples: Sequence[list[Example]],
    num_words: float,
    config: FinetuneInstructConfig,
    model: Transformer,
    machine: Machine,
    text: BaseText | None,
) -> Objective:
    """Make the answers likelier; text of the base's corpus may be read between them."""
    training, validation, test = examples
    num_tokens = sum(len(example.tokens) for example in training)
    batch_tokens = config.batch_tokens or derived_batch_tokens(DEFAULT_EPOCHS * num_tokens)
    # A base may read far longer texts than these: rows are as long as there is use for.
    longest = max(len(example.tokens) for example in training)
    row_length = min(model.config.context_length, max(longest, MIN_ROW_TOKENS))
    rows_per_step = max(1, round(batch_tokens / row_length))
    conversations = PackedData(
        training,
        context_length=row_length,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=max(1, min(machine.micro_batch_tokens // row_length, rows_per_step)),
        seed=config.seed,
    )
    data: PackedData | ReplayedData = conversations
    if text is not None and config.replay.share:
        data = ReplayedData(
            conversations, text.train, config.replay.share, mask_documents=text.mask_documents
        )
        replayed = data.text.tokens_per_step * data.steps_per_epoch
        num_words += replayed * text.words_per_token
        num_tokens += replayed
        say(f"replay: {data.text.tokens_per_step:,} tokens of {text.corpus.directory} in each step")
    return Objective(
        unit="conversations",
        data=data,
        loss=sparse_loss,
        num_tokens=num_tokens,
        num_words=num_words,
        sizes=sizes_of(examples),
        default_epochs=DEFAULT_EPOCHS,
        lr_share=LR_SHARE * (ADAPTER_LR_FACTOR if config.method.name == "lora" else 1.0),
        validate=lambda: answer_likelihood(model, validation, machine)["val_loss"].value,
        measures=lambda: answer_likelihood(model, test, machine),
    )


def answer_likelihood(
    model: Transformer, examples: Sequence[Example], machine: Machine
) -> dict[str, Measure]:
    """`val_loss`, nats a token of the answers, and `perplexity`, its exponential."""
    batches = (
        make_batch([[example] for example in examples[i : i + EVALUATION_BATCH]])
        for i in range(0, len(examples), EVALUATION_BATCH)
    )
    nats = row_likelihoods(model, batches, machine.device, machine.dtype)
    return {"val_loss": Measure(nats), "perplexity": Measure(nats, perplexity)}


def perplexity(sums: Figures) -> float:
    """Of nats and targets; no larger than JSON can say."""
    return math.exp(min(ratio(sums), LARGEST_NATS))


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
    num_cut = num_lost = 0
    rendered = [rendered_ids(conversation, tokenizer, path) for conversation in conversations]
    if max_cut_share is not None:
        found = supervision_of(rendered, context_length, answer_end_id(tokenizer))
        refuse_cut_answers(found, max_cut_share, context_length, path)
    for conversation, (ids, learnt) in zip(conversations, rendered, strict=True):
        example, is_cut = cut_example(conversation, ids, learnt, context_length, path)
        if example is None:
            num_lost += 1
            continue
        num_cut += is_cut
        examples.append(example)
    if num_cut or num_lost:
        warn(
            f"{path}: of {len(conversations):,} conversations {num_cut:,} are longer than the "
            f"model's {context_length} tokens and were cut, {num_lost:,} had no answer left and "
            "were set aside"
        )
    return examples


def rendered_ids(
    conversation: Conversation, tokenizer: Tokenizer, path: str
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and whether each is learnt; `path` where it knows no file."""
    try:
        return render(conversation.messages, tokenizer)
    except ConversationRefused as error:
        file = conversation.path or path
        raise UserError(f"{located(file, conversation.line)}: {error}") from error


def cut_example(
    conversation: Conversation,
    ids: list[int],
    learnt: list[bool],
    context_length: int,
    path: str,
) -> tuple[Example | None, bool]:
    """A conversation within the context, None without an answer left, and whether it was cut."""
    reference = located(Path(conversation.path or path).name, conversation.line)
    example = conversation_example(ids, learnt, context_length, reference)
    return example, len(ids) > context_length + 1


# -------------------------------------------------------------------------------------------------
# preferences


def preferences(
    pairs: Sequence[list[Pair]],
    num_words: float,
    config: FinetuneInstructConfig,
    model: Transformer,
    machine: Machine,
) -> Objective:
    """Make the chosen answers likelier than the rejected ones (Rafailov et al. 2023).

    What the starting model makes of each pair is found out here, before the first step; a resumed
    run finds it again, as the weights are the base's until the loop restores its own.
    """
    training, validation, test = pairs
    beta = config.method.beta
    references = [margins(model, part, machine) for part in pairs]
    num_tokens = sum(pair.num_tokens for pair in training)
    batch_tokens = config.batch_tokens or PREFERENCE_BATCH_TOKENS

    def rewards(part: list[Pair], reference: Figures) -> Figures:
        found: Figures = beta * (margins(model, part, machine) - reference)
        return found

    def measures() -> dict[str, Measure]:
        found = rewards(test, references[2])
        chosen = answer_likelihood(model, [pair.chosen for pair in test], machine)
        return {
            "val_loss": mean(preference_losses(found)),
            "preference_accuracy": proportion((np.sign(found) + 1) / 2),
            "reward_margin": mean(found),
            "perplexity": chosen["perplexity"],
        }

    return Objective(
        unit="pairs of answers",
        data=PreferenceData(
            training,
            references[0].tolist(),
            pairs_per_step=max(1, round(batch_tokens * len(training) / num_tokens)),
            micro_batch_tokens=machine.micro_batch_tokens,
            seed=config.seed,
        ),
        loss=preference_loss(beta),
        num_tokens=num_tokens,
        num_words=num_words,
        sizes=sizes_of(pairs),
        default_epochs=PREFERENCE_EPOCHS,
        lr_share=PREFERENCE_LR_SHARE,
        validate=lambda: mean(preference_losses(rewards(validation, references[1]))).value,
        measures=measures,
    )


def preference_losses(rewards: Figures) -> Figures:
    """Minus the log of the sigmoid of each reward margin."""
    losses: Figures = np.logaddexp(0.0, -rewards)
    return losses


def margins(model: Transformer, pairs: Sequence[Pair], machine: Machine) -> Figures:
    """[n] by how many nats the model makes each chosen answer likelier than the rejected one."""
    batches = list(pair_batches(pairs, machine.micro_batch_tokens))
    found = row_values(
        model, preference_margins, (batch for batch, _ in batches), machine.device, machine.dtype
    )
    result = np.empty(len(pairs))
    result[[index for _, chosen in batches for index in chosen]] = found
    return result


def to_pairs(
    rows: Sequence[Row], tokenizer: Tokenizer, context_length: int, path: str
) -> list[Pair]:
    """Rendered pairs; says how many had to be cut or left out."""
    pairs = []
    num_cut = num_lost = 0
    for row in rows:
        assert row.rejected is not None
        both = [
            cut_example(
                conversation,
                *rendered_ids(conversation, tokenizer, path),
                context_length,
                path,
            )
            for conversation in (row.conversation, row.rejected)
        ]
        chosen, rejected = (example for example, _ in both)
        if chosen is None or rejected is None or chosen == rejected:
            num_lost += 1
            continue
        num_cut += any(cut for _, cut in both)
        pairs.append(Pair(chosen, rejected))
    if num_cut or num_lost:
        warn(
            f"{path}: of {len(rows):,} pairs {num_cut:,} are longer than the model's "
            f"{context_length} tokens and were cut, {num_lost:,} did not differ within them and "
            "were set aside"
        )
    return pairs
