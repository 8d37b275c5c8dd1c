"""`llmstages pretrain`: a corpus -> a base model, by next-word prediction."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from llmstages.config.groups import ModelConfig
from llmstages.config.stages import PretrainConfig
from llmstages.data.corpus import Corpus
from llmstages.data.shards import Shard, token_shards_dir, write_token_shards
from llmstages.data.streams import PretrainingData
from llmstages.errors import UserError
from llmstages.evaluate.held_out import held_out_metrics
from llmstages.model.counts import num_parameters
from llmstages.model.generation import Sampling, generate
from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.held_out import show_sources
from llmstages.report.terminal import clipped, progress, say, table, warn
from llmstages.stages.training import (
    Clock,
    Machine,
    choose_compile,
    choose_length,
    choose_machine,
    finished_before,
    run_dir,
    write_summary,
)
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Checkpoint, Lineage, load_checkpoint
from llmstages.train.loop import MAX_PROBE_SHARE, Goal, Training, train
from llmstages.train.losses import LossFn, dense_loss, pretraining_loss
from llmstages.train.memory import (
    MAX_MICRO_BATCH_TOKENS,
    MicroBatch,
    fit_micro_batch,
    fits_device,
)
from llmstages.train.optimizer import derived_lr
from llmstages.train.precision import require_fp8
from llmstages.train.run import Run

BATCH_FACTOR = 3.0
"""Tokens a step, over the square root of all training tokens; see docs/architecture.md."""
TOKENS_PER_PARAMETER = 20
"""Compute-optimal ratio of tokens to parameters (Hoffmann et al. 2022)."""
MAX_DEFAULT_EPOCHS = 4
"""Repeating data up to four times is nearly as good as new data (Muennighoff et al. 2023)."""


def run(config: PretrainConfig) -> float:
    """Train a base model; returns its validation bits per byte."""
    clock = Clock()
    corpus = Corpus.open(Path(config.data or f"{config.corpora_dir}/{config.corpus.name}"))
    machine = choose_machine(config)
    if config.fp8:
        require_fp8(machine.device, machine.dtype)
    base = None if config.base is None else load_checkpoint(config.base)
    tokenizer = Tokenizer.load(corpus.tokenizer_dir) if base is None else base.tokenizer
    directory = run_dir(config, "pretrain")
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
    model = start_model(config, tokenizer, base)
    context_length = model.config.context_length
    if base is not None:  # it may read far longer texts than fit the device at once
        context_length = min(context_length, machine.micro_batch_tokens)
    corpus_tokens = sum(shard.info.tokens for shard in train_shards)
    if corpus_tokens < 2 * context_length:
        raise UserError(
            f"{corpus.directory}: {corpus_tokens:,} training tokens do not fill two contexts of "
            f"{context_length}: collect more text, or set model.context_length lower"
        )
    parameters = num_parameters(model.config)
    default_tokens = min(TOKENS_PER_PARAMETER * parameters, MAX_DEFAULT_EPOCHS * corpus_tokens)
    model.to(machine.device)
    loss = pretraining_loss(config.z_loss)
    micro_batch = choose_micro_batch(config, the_run, machine, model, loss, context_length)
    model.checkpoint_blocks = micro_batch.checkpoint_blocks

    def data_of(rows_per_step: int) -> PretrainingData:
        return PretrainingData(
            train_shards,
            context_length=context_length,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=min(micro_batch.rows, rows_per_step),
            seed=config.seed,
            weights=weights,
            mask_documents=config.mask_documents,
        )

    if the_run.resume_from is not None:  # what was decided before step 1 holds
        expected_tokens = float(the_run.plan["expected_tokens"])
        rows_per_step = int(the_run.plan["rows_per_step"])
    else:
        expected_tokens = tokens_to_expect(
            config, data_of(micro_batch.rows), model, machine, clock, default_tokens
        )
        batch_tokens = config.batch_tokens or derived_batch_tokens(expected_tokens)
        most_rows = max(1, corpus_tokens // context_length)
        rows_per_step = max(1, min(round(batch_tokens / context_length), most_rows))
    data = data_of(rows_per_step)
    length = choose_length(
        config,
        steps_per_epoch=data.rows_per_epoch / rows_per_step,
        tokens_per_step=data.tokens_per_step,
        default_steps=round(default_tokens / data.tokens_per_step),
    )
    evaluate = evaluator(
        config, model, validation_shards, machine, context_length, data.rows_per_micro_batch
    )
    say(
        f"{parameters:,} parameters, {corpus_tokens:,} training tokens, "
        f"{data.tokens_per_step:,} a step, on {machine.device.type} in "
        f"{str(machine.dtype).removeprefix('torch.')}"
    )
    run_tokens = length.steps * data.tokens_per_step if length.steps else expected_tokens
    show_epochs(corpus, data, run_tokens)
    warn_of_repeats(data, run_tokens, measured=length.steps is None)
    if is_default_length(config) and default_tokens < TOKENS_PER_PARAMETER * parameters:
        warn(
            f"{corpus_tokens:,} training tokens are few for {parameters:,} parameters: read "
            f"{MAX_DEFAULT_EPOCHS} times they are {default_tokens / parameters:.1f} a parameter, "
            f"about {TOKENS_PER_PARAMETER} are best; collect more text, or take a smaller model="
        )
    cadence_tokens = config.evaluate.max_tokens
    metrics_before = the_run.plan.get("metrics_before") or evaluate(cadence_tokens)
    lr = (
        config.optim.lr
        if config.optim.lr is not None
        else derived_lr(config.optim.name, model.config.hidden_size)
    )
    validation_tokens = sum(shard.info.tokens for shard in validation_shards)
    result = train(
        Training(
            run=the_run,
            model=model,
            tokenizer=tokenizer,
            data=data,
            loss=loss,
            evaluate=lambda: evaluate(cadence_tokens),
            goal=Goal("val_loss", lower_is_better=True),
            lineage=Lineage(
                corpus_manifest=corpus.manifest_hash,
                tokenizer=tokenizer.hash,
                parent=None if base is None else base.hash,
            ),
            device=machine.device,
            dtype=machine.dtype,
            lr=lr,
            optim=config.optim,
            schedule=config.schedule,
            checkpoint=config.checkpoint,
            evaluation=config.evaluate,
            steps=length.steps,
            seconds=length.seconds_left(clock),
            last_evaluation=max(1.0, validation_tokens / cadence_tokens),
            compile=choose_compile(config, machine, model, expected_tokens, context_length),
            fp8=config.fp8,
            checkpoint_blocks=micro_batch.checkpoint_blocks,
            tokens_seen=0 if base is None or base.info is None else base.info.tokens_seen,
            show_samples=sampler(config, corpus, model, tokenizer, machine),
            plan={
                "metrics_before": metrics_before,
                "expected_tokens": expected_tokens,
                "rows_per_step": rows_per_step,
                "rows_per_micro_batch": data.rows_per_micro_batch,
                "activation_checkpointing": micro_batch.checkpoint_blocks,
                "dtype": str(machine.dtype),
            },
        )
    )
    best = load_checkpoint(directory)
    model.load_state_dict(best.model.state_dict())
    metrics = evaluate(None)
    show_sources(
        {shard.info.source: shard.info.tokens for shard in validation_shards},
        metrics_before,
        metrics,
        " (before: on a sample)" if validation_tokens > cadence_tokens else "",
    )
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
        model_shape=asdict(model.config) | {"parameters": num_parameters(model.config)},
    )
    return metrics["val_bits_per_byte"]


def open_shards(corpus: Corpus, tokenizer: Tokenizer) -> tuple[list[Shard], list[Shard]]:
    """Training and validation shards, tokenized now if the corpus has none for this tokenizer."""
    if (token_shards_dir(corpus, tokenizer) / "index.json").is_file():
        shards = write_token_shards(corpus, tokenizer)
    else:
        total = corpus.counts("train").documents + corpus.counts("validation").documents
        with progress("tokenizing", total=total, unit="documents") as advance:
            shards = write_token_shards(corpus, tokenizer, advance)
    train_shards, validation = shards.of_split("train"), shards.of_split("validation")
    if not train_shards or not validation:
        raise UserError(
            f"{corpus.directory}: no {'validation' if train_shards else 'training'} text: "
            "collect more documents, or set corpus.validation_share"
        )
    return train_shards, validation


def start_model(
    config: PretrainConfig, tokenizer: Tokenizer, base: Checkpoint | None
) -> Transformer:
    """The model to train: the base's, or one with random weights."""
    if base is not None:
        if base.labels is not None:
            raise UserError(f"base={config.base}: a classifier; pretraining needs a language model")
        say(f"going on from {base.directory}: its shape and tokenizer are kept, model= is not used")
        return base.model
    model = Transformer(transformer_config(config.model, tokenizer.vocab_size))
    model.initialize(torch.Generator().manual_seed(config.seed))
    return model


def transformer_config(shape: ModelConfig, vocab_size: int) -> TransformerConfig:
    """The shape of the `model` group with the tokenizer's vocabulary."""
    fields = {key: value for key, value in asdict(shape).items() if key not in ("name", "layout")}
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


def show_epochs(corpus: Corpus, data: PretrainingData, tokens: float) -> None:
    """Say how often the run will see each source of a mixture."""
    published = {source.name: source.published_epochs for source in corpus.manifest.sources}
    rows: list[Sequence[object]] = [
        [
            shard.info.source,
            shard.info.tokens,
            100 * float(share),
            float(share) * tokens / shard.info.tokens,
            published[shard.info.source],
        ]
        for shard, share in zip(data.shards, data.shares, strict=True)
    ]
    columns = ["source", "tokens", "share in %", "epochs", "published epochs"]
    if not any(published.values()):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if len(rows) > 1:
        table(f"{tokens:,.0f} tokens of {corpus.directory}", columns, rows)


def is_default_length(config: PretrainConfig) -> bool:
    """Whether the stage chooses how long to train."""
    budget = config.budget
    given = (config.steps, config.epochs, budget.seconds, budget.minutes, budget.tokens)
    return all(length is None for length in given)


def warn_of_repeats(data: PretrainingData, tokens: float, *, measured: bool) -> None:
    """Say which sources the run reads more often than repeated text is worth.

    measured: the number of tokens is what the machine's speed lets one expect of the time given.
    """
    most = MAX_DEFAULT_EPOCHS * 1.05
    passes = {
        shard.info.source: float(share) * tokens / shard.info.tokens
        for shard, share in zip(data.shards, data.shares, strict=True)
    }
    if max(passes.values()) <= most:
        return
    if len(passes) == 1 or min(passes.values()) > most:
        often = f"the corpus {tokens / data.num_tokens:.1f} times"
    else:
        named = [f"{source} {count:.1f} times" for source, count in passes.items() if count > most]
        often = ", ".join(named)
    warn(
        f"{'about ' if measured else ''}{tokens:,.0f} tokens read {often}; beyond "
        f"{MAX_DEFAULT_EPOCHS} passes repeated text teaches little"
    )


def asked_weights(config: PretrainConfig, corpus: Corpus) -> dict[str, float]:
    """Mixture weights given at pretraining (corpus.sources.NAME.weight=...), by source."""
    weights = {
        name: source.weight
        for name, source in config.corpus.sources.items()
        if source.weight is not None
    }
    if unknown := sorted(weights.keys() - set(corpus.sources)):
        raise UserError(
            f"corpus.sources.{unknown[0]}.weight is given, but {corpus.directory} has the sources "
            f"{', '.join(corpus.sources)}"
        )
    return weights


def tokens_to_expect(
    config: PretrainConfig,
    data: PretrainingData,
    model: Transformer,
    machine: Machine,
    clock: Clock,
    default_tokens: int,
) -> float:
    """About how many tokens the run will train on: decides the batch and whether compiling pays.

    With a time budget the speed is probed on a few micro-batches.
    """
    if config.budget.tokens is not None:
        return config.budget.tokens
    if config.epochs is not None:
        return config.epochs * data.num_tokens
    if config.steps is not None and config.batch_tokens is not None:
        return config.steps * config.batch_tokens
    seconds = choose_length(config, steps_per_epoch=1, tokens_per_step=1, default_steps=1)
    left = seconds.seconds_left(clock)
    if left is None:
        return default_tokens
    took: list[float] = []
    for step in range(5):
        begin = time.monotonic()
        batch = next(data.micro_batches(step)).to(machine.device)
        with torch.autocast(
            machine.device.type, dtype=machine.dtype, enabled=machine.dtype != torch.float32
        ):
            loss, _ = dense_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        _ = loss.item()  # waits for the device
        model.zero_grad(set_to_none=True)
        took.append(time.monotonic() - begin)
        if sum(took) > MAX_PROBE_SHARE * left:
            break
    # The fastest is the machine's own speed: the first warms up, others may have been disturbed.
    return max(0.0, left) * batch.num_real_tokens / min(took)


def derived_batch_tokens(total_tokens: float) -> int:
    """Tokens an optimizer step: grows with the square root of the training tokens.

    The exponent is that of the critical batch size in data (Zhang et al. 2024, "How Does Critical
    Batch Size Scale in Pre-training?"), the factor measured (docs/architecture.md). A power of two.
    """
    return int(2 ** round(math.log2(max(1024.0, BATCH_FACTOR * math.sqrt(total_tokens)))))


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
        ids = [tokenizer.encode(prompt) or [tokenizer.end_id] for prompt in prompts]
        answers = generate(
            model,
            ids,
            max_new_tokens=min(32, model.config.context_length // 2),
            stop_ids=[tokenizer.end_id],
            sampling=Sampling(temperature=0.8, top_p=0.95),
            generator=generator,
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            say(f"  {clipped(prompt)} -> {clipped(tokenizer.decode(answer.tokens))}")

    return show
