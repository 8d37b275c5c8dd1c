"""`llmstages pretrain`: a corpus -> a base model, by next-word prediction."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmstages.config.groups import AUTO_MODEL, ModelConfig
from llmstages.config.stages import PretrainConfig
from llmstages.data.corpus import Corpus
from llmstages.data.json_files import as_type
from llmstages.data.shards import Shard, token_shards_dir
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.evaluate.continuations import Subject
from llmstages.evaluate.held_out import held_out_metrics
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.generation import Sampling, generate
from llmstages.model.layouts import config_from_disk, make_config
from llmstages.model.scaling import (
    MAX_DEFAULT_EPOCHS,
    TOKENS_PER_PARAMETER,
    derived_batch_tokens,
)
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.held_out import show_sources
from llmstages.report.terminal import clipped, say, warn
from llmstages.report.trackers import ended_trackers
from llmstages.stages.asking.watched import (
    ability_metrics,
    affordable_tasks,
    show_abilities,
    watched_tasks,
)
from llmstages.stages.shared.base_run import inherited, pretraining_lr
from llmstages.stages.shared.mixture import (
    asked_weights,
    open_shards,
    show_epochs,
    warn_of_repeats,
)
from llmstages.stages.shared.model_size import asked_tokens, pick_size, usual_tokens
from llmstages.stages.shared.pace import (
    LAST_EVALUATION_SHARE,
    TimedEvaluation,
    affordable_evaluation,
    seconds_per_token,
)
from llmstages.stages.shared.setup import (
    Clock,
    Machine,
    choose_compile,
    choose_length,
    choose_machine,
    finished_before,
    place,
    tokens_begun_with,
    with_weight_decay,
    write_summary,
)
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.checkpoint import Checkpoint, Lineage, load_checkpoint, require_weights_of
from llmstages.train.loop import LOWEST_LOSS, Training, train
from llmstages.train.losses import LossFn, pretraining_loss
from llmstages.train.memory import (
    MAX_MICRO_BATCH_TOKENS,
    MicroBatch,
    fit_micro_batch,
    fits_device,
)
from llmstages.train.optimizer import derived_lr
from llmstages.train.pace import MAX_OVERRUN
from llmstages.train.precision import require_fp8
from llmstages.train.records import read_record
from llmstages.train.run import Run

CONTINUED_LR_SHARE = 0.3
"""Peak rate of going on from a base, as a share of the derived one; see docs/architecture.md."""
MAX_CONTINUED_CONTEXT = 4096
"""Longest rows of going on from a base, which may be able to read far more at once."""
MIN_CONTEXT = 8
SHORT_BUDGET_SECONDS = 60
"""Below this nothing is sampled on the way."""


@ended_trackers()
def run(config: PretrainConfig) -> float:
    """Train a base model; returns its validation bits per byte."""
    clock = Clock()
    corpus = Corpus.open(Path(config.corpus_dir))
    machine = choose_machine(config)
    if config.fp8:
        require_fp8(machine.device, machine.dtype)
    base = None if config.base is None else load_checkpoint(config.base)
    config.optim = inherited(config.optim, base)
    tokenizer = Tokenizer.load(corpus.tokenizer_dir) if base is None else base.tokenizer
    tasks = watched_tasks(config)
    directory = config.run_dir
    weights = asked_weights(config, corpus)
    the_run = Run(
        directory,
        "pretrain",
        config,
        {
            "corpus": corpus.manifest_hash,
            "weights": json.dumps(weights, sort_keys=True),
            "tokenizer": tokenizer.hash,
            "base": "" if base is None else base.hash,
        },
    )
    if (headline := finished_before(the_run)) is not None:
        return headline
    train_shards, validation_shards = open_shards(corpus, tokenizer)
    corpus_tokens = sum(shard.info.tokens for shard in train_shards)
    tokens_hash = tokens_begun_with(
        the_run, token_shards_dir(corpus, tokenizer), [*train_shards, *validation_shards]
    )

    def data_of(
        context_length: int, rows_per_step: int | None = None, rows_at_once: int | None = None
    ) -> PretrainingData:
        rows_at_once = rows_at_once or max(1, machine.micro_batch_tokens // context_length)
        rows_per_step = rows_per_step or rows_at_once
        return PretrainingData(
            train_shards,
            context_length=context_length,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=min(rows_at_once, rows_per_step),
            seed=config.seed,
            weights=weights,
            mask_documents=config.mask_documents,
        )

    # What was decided before step 1 holds in a resumed run.
    plan = {} if the_run.resume_from is None else the_run.plan
    picked = None
    if base is not None:
        model = base_model(config, base)
    else:
        if plan:
            shape = planned_shape(the_run)
        elif config.model.name == AUTO_MODEL:
            picked = pick_size(config, tokenizer.vocab_size, corpus_tokens, data_of, machine, clock)
            shape = picked.shape
        else:
            shape = transformer_config(config.model, tokenizer.vocab_size)
        model = Transformer(shape)
        model.initialize(torch.Generator().manual_seed(config.seed))
    context_length = model.config.context_length
    if base is not None:
        context_length = continued_context(context_length, corpus_tokens)
    context_length = int(plan.get("context_length", context_length))
    if corpus_tokens < 2 * context_length:
        raise UserError(
            f"{corpus.directory}: {corpus_tokens:,} training tokens do not fill two contexts of "
            f"{context_length}: collect more text"
            + ("" if base is not None else ", or set model.context_length lower")
        )
    place(model, config, machine)
    loss = pretraining_loss(config.z_loss)
    micro_batch = choose_micro_batch(config, the_run, machine, model, loss, context_length)
    model.checkpoint_blocks = micro_batch.checkpoint_blocks
    parameters = num_parameters(model.config)
    usual = usual_tokens(config, parameters, corpus_tokens)
    foreseen = parallel.from_first(
        foresee(
            config,
            plan,
            model,
            data_of(context_length, micro_batch.rows, micro_batch.rows),
            machine,
            clock,
            None if picked is None else picked.seconds_per_token,
        )
    )
    expected_tokens, rows_per_step = foreseen.expected_tokens, foreseen.rows_per_step
    evaluation_tokens = foreseen.evaluation_tokens
    seconds = config.budget.wall_seconds
    data = data_of(context_length, rows_per_step, micro_batch.rows)
    length = choose_length(
        config,
        steps_per_epoch=data.rows_per_epoch / rows_per_step,
        tokens_per_step=data.tokens_per_step,
        training_flops_per_token=flops_per_token(model.config, context_length),
        default_steps=round(usual / data.tokens_per_step),
    )
    steps = length.steps or max(1.0, expected_tokens / data.tokens_per_step)
    say(
        f"{parameters:,} parameters, {corpus_tokens:,} training tokens, "
        f"{data.tokens_per_step:,} a step, on {machine.device.type} in "
        f"{str(machine.dtype).removeprefix('torch.')}"
    )
    run_tokens = steps * data.tokens_per_step
    show_epochs(corpus, data, run_tokens)
    warn_of_repeats(data, run_tokens, measured=length.steps is None)
    if length.is_default and usual < min(
        TOKENS_PER_PARAMETER * parameters, config.model.published.tokens or math.inf
    ):
        warn(
            f"{corpus_tokens:,} training tokens are few for {parameters:,} parameters: read "
            f"{MAX_DEFAULT_EPOCHS} times they are {usual / parameters:.1f} a parameter, "
            f"about {TOKENS_PER_PARAMETER} are best; collect more text, or take a smaller model="
        )
    lr = config.optim.lr
    if lr is None:
        if base is None:
            lr = derived_lr(config.optim.name, model.config.hidden_size)
        else:
            lr = CONTINUED_LR_SHARE * pretraining_lr(base, config.optim.name)
    compiled = choose_compile(config, machine, model, run_tokens, context_length)
    tasks = affordable_tasks(
        *(tasks, tokenizer, model.config.context_length, plan),
        None if seconds is None else evaluation_tokens,
    )
    subject = Subject(
        *(model, tokenizer, machine.device, machine.dtype),
        batch_tokens=data.rows_per_micro_batch * context_length,
        quiet=True,
    )
    evaluate = TimedEvaluation(
        evaluator(
            config, model, validation_shards, machine, context_length, data.rows_per_micro_batch
        ),
        sum(shard.info.tokens for shard in validation_shards),
        also=lambda: ability_metrics(subject, tasks),
    )
    if plan and seconds is not None:
        evaluate.seconds, evaluate.tokens = plan["evaluation_seconds"], evaluation_tokens
    metrics_before = plan.get("metrics_before") or evaluate(evaluation_tokens)
    last_tokens = evaluate.validation_tokens
    if plan:
        last_tokens = int(plan.get("last_evaluation_tokens", last_tokens))
    elif seconds is not None:
        share = LAST_EVALUATION_SHARE * (seconds - clock.spent())
        last_tokens = max(evaluation_tokens, parallel.from_first(evaluate.tokens_within(share)))
    silent = seconds is not None and seconds < SHORT_BUDGET_SECONDS
    result = train(
        Training(
            run=the_run,
            model=model,
            tokenizer=tokenizer,
            data=data,
            loss=loss,
            evaluate=lambda: evaluate(evaluation_tokens),
            goal=LOWEST_LOSS,
            lineage=Lineage(
                corpus_manifest=corpus.manifest_hash,
                tokenizer=tokenizer.hash,
                parent=None if base is None else base.hash,
                base=None if base is None else base.source,
            ),
            device=machine.device,
            dtype=machine.dtype,
            lr=lr,
            optim=with_weight_decay(config.optim, lr, steps, data.rows_per_epoch / rows_per_step),
            schedule=config.schedule,
            checkpoint=config.checkpoint,
            evaluation=config.evaluate,
            steps=length.steps,
            seconds=length.seconds_left(clock),
            evaluation_seconds=evaluate.seconds or None,
            last_evaluation=max(1.0, last_tokens / evaluation_tokens),
            compile=compiled,
            dropout=config.dropout,
            fp8=config.fp8,
            checkpoint_blocks=micro_batch.checkpoint_blocks,
            made={"data": [Path(config.corpus_dir).name], **({"base": base.name} if base else {})},
            tokens_seen=0 if base is None or base.info is None else base.info.tokens_seen,
            began=clock.began,
            stop_after=config.stop_after,
            show_samples=None if silent else sampler(config, corpus, model, tokenizer, machine),
            plan={
                "metrics_before": metrics_before,
                "tokens": tokens_hash,
                "model_shape": asdict(model.config),
                "context_length": context_length,
                "expected_tokens": expected_tokens,
                "rows_per_step": rows_per_step,
                "rows_per_micro_batch": data.rows_per_micro_batch,
                "activation_checkpointing": micro_batch.checkpoint_blocks,
                "dtype": str(machine.dtype),
                "evaluation_tokens": evaluation_tokens,
                "asked_evaluation_tokens": config.evaluate.max_tokens,
                "last_evaluation_tokens": last_tokens,
                "ability_items": {name: len(task.items) for name, task in tasks.items()},
            },
        )
    )
    best = load_checkpoint(directory)
    parallel.load_weights(model, best.model.state_dict())
    if seconds is not None:  # the machine may have become slower since the first evaluation
        left = (1 + MAX_OVERRUN) * seconds - clock.spent() - result.seconds_before
        affordable = parallel.from_first(evaluate.tokens_within(left))
        last_tokens = min(last_tokens, max(evaluation_tokens, affordable))
    metrics = evaluate(last_tokens)
    if evaluate.tokens < evaluate.validation_tokens:
        the_run.log(
            f"the last evaluation reads {evaluate.tokens:,} of {evaluate.validation_tokens:,} "
            "validation tokens: the time budget has no room for more"
        )
    show_sources(
        {shard.info.source: shard.info.tokens for shard in validation_shards},
        metrics_before,
        metrics,
        " (before: on a sample)" if evaluation_tokens < evaluate.validation_tokens else "",
    )
    show_abilities(tasks, metrics_before, metrics)
    words_per_token = sum(s.info.words for s in train_shards) / corpus_tokens
    write_summary(
        the_run,
        result,
        headline="val_bits_per_byte",
        metrics=metrics,
        metrics_before=metrics_before,
        model=model,
        machine=machine,
        context_length=context_length,
        words=round(result.progress.tokens * words_per_token),
        clock=clock,
        corpus={"directory_name": corpus.name, "manifest": corpus.manifest_hash},
        validation_tokens=evaluate.tokens,
    )
    return metrics["val_bits_per_byte"]


@dataclass(frozen=True)
class Foreseen:
    """What is decided before step 1, and holds in a resumed run."""

    expected_tokens: float
    """About how many tokens the run trains on: decides the batch and whether compiling pays."""
    rows_per_step: int
    evaluation_tokens: int
    """Of an evaluation on the way."""


def foresee(
    config: PretrainConfig,
    plan: Mapping[str, Any],
    model: Transformer,
    data: PretrainingData,
    machine: Machine,
    clock: Clock,
    pace: float | None,
) -> Foreseen:
    """Decide, or find again in the plan of a run that is continued (an empty one else).

    data: one micro-batch a step. pace: seconds a token of training, where it was timed; with a time
    budget it is timed now if need be.
    """
    evaluation_tokens = config.evaluate.max_tokens
    if plan:
        if plan["asked_evaluation_tokens"] != evaluation_tokens:
            warn(
                f"evaluate.max_tokens={evaluation_tokens:,} is not heeded: evaluations of this run "
                f"began with {plan['evaluation_tokens']:,} tokens, and are to be compared"
            )
        return Foreseen(
            float(plan["expected_tokens"]),
            int(plan["rows_per_step"]),
            int(plan["evaluation_tokens"]),
        )
    seconds = config.budget.wall_seconds
    if seconds is not None:
        if pace is None:
            pace = seconds_per_token(model, data, machine, seconds - clock.spent())
        left = max(0.0, seconds - clock.spent())
        tokens = left / pace
        evaluation_tokens = affordable_evaluation(evaluation_tokens, pace, left)
    elif config.budget.flops is not None:
        tokens = config.budget.flops / flops_per_token(model.config, data.context_length)
    else:
        tokens = asked_tokens(config, data.num_tokens) or usual_tokens(
            config, num_parameters(model.config), data.num_tokens
        )
    rows = rows_of_step(config, tokens, data.context_length, data.num_tokens)
    return Foreseen(tokens, rows, evaluation_tokens)


def rows_of_step(
    config: PretrainConfig, tokens: float, context_length: int, corpus_tokens: float
) -> int:
    """Rows of an optimizer step in a run of about `tokens`: as asked for, or derived."""
    batch_tokens = config.batch_tokens or derived_batch_tokens(tokens)
    most_rows = max(1, int(corpus_tokens) // context_length)
    rows = max(1, min(round(batch_tokens / context_length), most_rows))
    taken = rows * context_length
    if config.batch_tokens is not None and abs(taken - batch_tokens) > 0.1 * batch_tokens:
        warn(
            f"batch_tokens={batch_tokens:,}: a step takes {taken:,} tokens, {rows:,} rows of "
            f"{context_length:,} out of {most_rows:,}"
        )
    return rows


def continued_context(context_length: int, corpus_tokens: int) -> int:
    """Tokens of a row of going on from a base: its context, or what is enough, or what there is."""
    rows = min(context_length, MAX_CONTINUED_CONTEXT, max(MIN_CONTEXT, corpus_tokens // 2))
    if rows < context_length:
        say(f"rows of {rows:,} tokens: the base could read {context_length:,} at once")
    return rows


def base_model(config: PretrainConfig, base: Checkpoint) -> Transformer:
    """The base's model; `UserError` for a classifier."""
    if base.labels is not None:
        raise UserError(f"base={config.base}: a classifier; pretraining needs a language model")
    say(f"going on from {base.directory}: its shape and tokenizer are kept, model= is not used")
    return base.model


def planned_shape(run: Run) -> TransformerConfig:
    """The shape that a run began with: its plan and its checkpoint must agree on it."""
    assert run.resume_from is not None
    path = run.resume_from / "config.json"
    shape = config_from_disk(read_record(path), str(path))
    require_weights_of(shape, run.resume_from)
    # One that was written before a switch was known has it as it is by default.
    if as_type(TransformerConfig, run.plan["model_shape"], "model_shape") != shape:
        raise UserError(
            f"{run.directory / 'plan.json'}: model_shape is not that of {run.resume_from}"
        )
    return shape


def transformer_config(shape: ModelConfig, vocab_size: int) -> TransformerConfig:
    """The shape of the `model` group with the tokenizer's vocabulary."""
    other = ("name", "layout", "published")
    fields = {key: value for key, value in asdict(shape).items() if key not in other}
    return make_config(shape.layout, vocab_size=vocab_size, **fields)


def choose_micro_batch(
    config: PretrainConfig,
    run: Run,
    machine: Machine,
    model: Transformer,
    loss: LossFn,
    context_length: int,
) -> MicroBatch:
    """Rows that go through the model at once: the plan's, as set, or as many as a GPU has room for.

    It changes only how a step is cut up, never the tokens of a step.
    """
    setting = config.activation_checkpointing
    if run.resume_from is not None:
        return MicroBatch(
            int(run.plan["rows_per_micro_batch"]), bool(run.plan["activation_checkpointing"])
        )
    if machine.device.type != "cuda":
        return MicroBatch(max(1, machine.micro_batch_tokens // context_length), setting == "on")
    rows = max(1, (config.micro_batch_tokens or MAX_MICRO_BATCH_TOKENS) // context_length)
    fits = fits_device(
        model, loss, machine.device, machine.dtype, context_length, config.optim.name
    )
    if config.micro_batch_tokens is not None:
        on = setting == "on" or (setting == "auto" and not fits(MicroBatch(rows, False)))
        return MicroBatch(rows, on)
    return fit_micro_batch(fits, rows, setting)


def evaluator(
    config: PretrainConfig,
    model: Transformer,
    shards: list[Shard],
    machine: Machine,
    context_length: int,
    rows: int,
) -> Callable[[int | None], dict[str, float]]:
    """evaluate(max_tokens) -> metrics on so much of the validation text, read as in training."""

    def evaluate(max_tokens: int | None) -> dict[str, float]:
        return held_out_metrics(
            model,
            shards,
            context_length=context_length,
            rows_per_batch=rows,
            device=machine.device,
            dtype=machine.dtype,
            max_tokens=max_tokens,
            mask_documents=config.mask_documents,
        )

    return evaluate


def sampler(
    config: PretrainConfig,
    corpus: Corpus,
    model: Transformer,
    tokenizer: Tokenizer,
    machine: Machine,
) -> Callable[[int], None] | None:
    """Prints continuations of the prompts, the same ones at each evaluation."""
    prompts = config.sample_prompts[: config.evaluate.num_samples]
    if not prompts:
        for document in corpus.documents("validation"):
            if len(prompts) >= config.evaluate.num_samples:
                break
            prompts.append(" ".join(document.text.split()[:6]))
    if not prompts:
        return None

    def show(step: int) -> None:
        generator = torch.Generator(machine.device).manual_seed(config.seed)
        ids = [tokenizer.opening(prompt) for prompt in prompts]
        answers = generate(
            model,
            ids,
            max_new_tokens=min(32, model.config.context_length // 2),
            stop_ids=[tokenizer.end_id],
            sampling=Sampling(temperature=0.8, top_p=0.95),
            generator=generator,
            dtype=parallel.product_dtype(model, torch.float32),
        )
        for prompt, before, answer in zip(prompts, ids, answers, strict=True):
            text = tokenizer.decode(answer.tokens, after=before)
            say(f"  {clipped(prompt)} -> {clipped(text)}")

    return show
