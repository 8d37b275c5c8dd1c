"""What the three training stages share: from config to loop, and from loop to `summary.json`."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

import llmstages
from llmstages.config.groups import OptimConfig
from llmstages.config.stages import FinetuneConfig, TrainingConfig
from llmstages.data.examples import PackedData, PreferenceData, ShuffledData
from llmstages.data.json_files import as_type
from llmstages.data.labelled_files import data_files, weighted
from llmstages.data.replay import ReplayedData
from llmstages.data.split import alike_rows, normalised_text, split_examples
from llmstages.errors import UserError
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.four_bits import num_numbers, require_bitsandbytes
from llmstages.model.lora import Lora, add_lora, is_adapter
from llmstages.model.scaling import derived_weight_decay
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, warn
from llmstages.stages.base_run import say_optimizer
from llmstages.train import parallel
from llmstages.train.checkpoint import (
    Checkpoint,
    Lineage,
    file_hash,
    load_checkpoint,
    restore_weights,
)
from llmstages.train.device import (
    choose_device,
    choose_dtype,
    has_compiler,
    keep_freed_memory,
    machine_facts,
    peak_flops,
    peak_memory_bytes,
)
from llmstages.train.loop import Goal, Training, TrainingResult, train
from llmstages.train.losses import LossFn, sparse_loss
from llmstages.train.memory import checkpoint_blocks_here
from llmstages.train.optimizer import derived_lr
from llmstages.train.run import Run

R = TypeVar("R")
COMPILE_BLOCKS_FROM_FLOPS = {"cpu": 2e13, "cuda": 5e15}
COMPILE_WHOLE_FROM_FLOPS = {"cpu": 1.2e14, "cuda": 5e15}
"""Training FLOPs from which `compile=auto` compiles, a block or the whole loss: the whole takes
twice the time and is a little quicker afterwards; see docs/architecture.md."""
CURVES_SECONDS = 1.5
"""Set aside of a time budget for drawing the curves at its end; at most a tenth of it."""


@dataclass
class Clock:
    """Wall-clock time of a stage; a process's first counts from its start, imports included."""

    began: float = field(default_factory=llmstages.take_start_seconds)

    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


@dataclass(frozen=True)
class Machine:
    """Where and how a run computes."""

    device: torch.device
    dtype: torch.dtype
    micro_batch_tokens: int
    """Of all processes together."""


def choose_machine(config: TrainingConfig) -> Machine:
    """Device, autocast type and micro-batch of a run; processes that torchrun started meet here."""
    device = parallel.join(choose_device(config.device))
    keep_freed_memory(device)
    default_tokens = 16_384 if device.type == "cuda" else 4_096
    return Machine(
        device,
        choose_dtype(config.dtype, device),
        (config.micro_batch_tokens or default_tokens) * parallel.size(),
    )


def place(model: Transformer, config: TrainingConfig, machine: Machine) -> None:
    """Bring a model to its device, or its shards to those of all processes."""
    if config.parallel == "fsdp" and parallel.size() > 1:
        # Norms of rows are trained in small steps that bfloat16 does not have.
        decomposed = model.lora is not None and model.lora.decomposed
        dtype = torch.float32 if decomposed else machine.dtype
        parallel.shard(model, machine.device, dtype)
    else:
        model.to(machine.device)


@dataclass(frozen=True)
class Length:
    """How long a run is: steps, or seconds from which the loop finds the steps."""

    steps: int | None
    seconds: float | None
    """From the beginning of the stage."""
    is_default: bool = False
    """The stage chose it: nothing was asked for."""

    def seconds_left(self, clock: Clock) -> float | None:
        """What is left of the seconds now."""
        return None if self.seconds is None else self.seconds - clock.spent()


def choose_length(
    config: TrainingConfig,
    *,
    steps_per_epoch: float,
    tokens_per_step: float,
    training_flops_per_token: float,
    default_steps: int,
) -> Length:
    """Length asked for by `steps`, `epochs` or `budget.*`, or the stage's default."""
    budget = config.budget
    if budget.wall_seconds is not None:
        total = budget.wall_seconds
        drawing = min(CURVES_SECONDS, total / 10) if config.report.curves else 0.0
        return Length(None, total - drawing)
    if config.steps is not None:
        return Length(config.steps, None)
    if config.epochs is not None:
        return Length(max(1, round(config.epochs * steps_per_epoch)), None)
    if budget.tokens is not None:
        return Length(max(1, round(budget.tokens / tokens_per_step)), None)
    if budget.flops is not None:
        tokens = budget.flops / training_flops_per_token
        return Length(max(1, round(tokens / tokens_per_step)), None)
    return Length(max(1, default_steps), None, is_default=True)


def choose_compile(
    config: TrainingConfig, machine: Machine, model: Transformer, tokens: float | None, length: int
) -> str:
    """What to compile (`off`, `blocks`, `whole`): as asked for, or what pays in a run so long.

    tokens: how many will be trained on, None when only the time is known.
    """
    what = {"on": "whole"}.get(config.compile, config.compile)
    if what == "auto":
        flops = flops_per_token(model.config, length) * tokens if tokens is not None else 0.0
        kind = machine.device.type
        if flops >= COMPILE_WHOLE_FROM_FLOPS.get(kind, math.inf):
            what = "whole"
        elif flops >= COMPILE_BLOCKS_FROM_FLOPS.get(kind, math.inf):
            what = "blocks"
        else:
            what = "off"
    if what == "off":
        return what
    if machine.device.type == "cpu" and not has_compiler():
        warn("torch.compile needs a C++ compiler, and none was found: running without")
        return "off"
    try:  # a compiler may be there and not work
        torch.compile(torch.sin)(torch.ones(8, device=machine.device))
    except Exception as error:
        warn(f"torch.compile does not work here ({str(error).splitlines()[0]}): running without")
        return "off"
    return what


def with_weight_decay(
    optim: OptimConfig, lr: float, steps: float, steps_per_epoch: float
) -> OptimConfig:
    """The optimizer's settings with a weight decay: the one given, or the derived one for null."""
    if optim.weight_decay is not None:
        return optim
    return replace(optim, weight_decay=derived_weight_decay(lr, steps, steps_per_epoch))


@dataclass(frozen=True)
class Rows(Generic[R]):
    """The rows of a labelled file, by what they are for."""

    train: list[R]
    validation: list[R]
    """Choose the best checkpoint."""
    test: list[R]
    """Give the final figures; the validation rows when no row is set apart for it."""


def finetune_rows(
    config: FinetuneConfig,
    read: Callable[[Path], list[R]],
    key: Callable[[R], str],
    label: Callable[[R], str] | None = None,
    answer: Callable[[R], str] | None = None,
    weights: Sequence[float] = (),
) -> Rows[R]:
    """Read labelled data and split it, unless its validation or test rows are given in files.

    key: the text by which rows are known that are equal or nearly so; they never stand in two
    parts. answer: the same for what is learnt. label: for stratified splits. weights: of each path
    in the data, for its share of the training rows.
    """
    parts = [read(Path(path)) for path in config.data_paths]
    rows = [row for part in parts for row in part]
    part_of = [number for number, part in enumerate(parts) for _ in part]
    given_validation = read(Path(config.validation_data)) if config.validation_data else []
    given_test = read(Path(config.test_data)) if config.test_data else []
    every = [*rows, *given_validation, *given_test]
    alike = alike_rows(
        [key(row) for row in every], None if answer is None else [answer(row) for row in every]
    )
    kept = _apart(config, [key(row) for row in every], alike, len(rows), len(given_validation))
    split = split_examples(
        [key(rows[index]) for index in kept],
        None if label is None else [label(rows[index]) for index in kept],
        config.validation_share if not given_validation else 0.0,
        config.test_share if not given_test else 0.0,
        config.seed,
        [alike[index] for index in kept],
    )
    validation = given_validation or [rows[kept[index]] for index in split.validation]
    test = given_test or [rows[kept[index]] for index in split.test]
    chosen = [kept[index] for index in split.train]
    if bool(validation) != bool(test):
        warn(
            "validation and test rows are the same: the final figures are those by which the best "
            "checkpoint was chosen"
        )
    validation = validation or test
    test = test or validation
    if not chosen or not validation:
        groups = len(set(alike[: len(rows)]))
        which = "" if groups == len(rows) else f", of which {groups} differ enough to be split,"
        raise UserError(
            f"{described(config)}: {len(rows)} rows{which} are too few to train on and to measure "
            "with: add rows, or give validation_data=FILE"
        )
    if not weights:
        return Rows([rows[index] for index in chosen], validation, test)
    training: list[list[R]] = [[] for _ in parts]
    for index in chosen:
        training[part_of[index]].append(rows[index])
    return Rows(_weighted_rows(config, training, weights), validation, test)


def _apart(
    config: FinetuneConfig,
    texts: Sequence[str],
    alike: Sequence[int],
    num_rows: int,
    num_validation: int,
) -> list[int]:
    """The rows of the data that no row of the given validation and test files is like.

    Says how many are left out, and how many rows of the two files are alike. texts and alike are
    those of the data, then of the validation file, then of the test file.
    """
    begin_test = num_rows + num_validation
    in_validation = set(alike[num_rows:begin_test])
    held_out = in_validation | set(alike[begin_test:])
    kept = [index for index in range(num_rows) if alike[index] not in held_out]
    if len(kept) < num_rows:
        equal_texts = {normalised_text(text) for text in texts[num_rows:]}
        equal = sum(normalised_text(text) in equal_texts for text in texts[:num_rows])
        warn(
            f"{described(config)}: {num_rows - len(kept):,} rows stand in the validation or test "
            f"file too and are left out of training: {equal:,} are equal, "
            f"{num_rows - len(kept) - equal:,} nearly so"
        )
    both = sum(number in in_validation for number in alike[begin_test:])
    if both:
        warn(
            f"{config.test_data}: {both:,} of its {len(alike) - begin_test:,} rows are equal or "
            f"nearly so to rows of {config.validation_data}, by which the best checkpoint is chosen"
        )
    return kept


def _weighted_rows(
    config: FinetuneConfig, training: Sequence[Sequence[R]], weights: Sequence[float]
) -> list[R]:
    """The rows of an epoch in which each path of the data has its weight's share; says how many."""
    for path, part in zip(config.data_paths, training, strict=True):
        if not part:
            raise UserError(
                f"{path}: no row of it is left for training, and data_weights wants some"
            )
    train_rows, counts = weighted(training, weights, config.seed)
    for path, part, count in zip(config.data_paths, training, counts, strict=True):
        say(
            f"{path}: {count:,} rows an epoch, {count / len(train_rows):.0%} of all, from its "
            f"{len(part):,} training rows ({count / len(part):.2f} times each)"
        )
    return train_rows


def described(config: FinetuneConfig) -> str:
    """The data of a run for a message."""
    return ", ".join(config.data_paths)


def data_hash(paths: Sequence[str]) -> str:
    """Hash of all files of labelled data; of one file its sha256."""
    files = [file for path in paths for file in data_files(path)]
    if len(files) == 1:
        return file_hash(files[0])
    together = "\n".join(f"{file.name} {file_hash(file)}" for file in files)
    return hashlib.sha256(together.encode(errors="surrogateescape")).hexdigest()


def finetune_base(config: FinetuneConfig, num_labels: int | None = None) -> Checkpoint:
    """The checkpoint fine-tuning starts from; num_labels gives it a new classification head."""
    if config.method.quantised:
        require_bitsandbytes()
    base = load_checkpoint(config.base or f"{config.runs_dir}/pretrain", num_labels=num_labels)
    if num_labels is None and base.labels is not None:
        raise UserError(f"base={config.base}: a classifier; this stage needs a language model")
    return base


def choose_weights(model: Transformer, config: FinetuneConfig, machine: Machine) -> None:
    """Leave as they are all weights that `method` does not train, or put adapters beside them."""
    method = config.method
    if method.name == "lora":
        lora = Lora(
            rank=method.rank,
            alpha=method.alpha,
            targets=tuple(method.targets),
            rank_stabilised=method.rank_stabilised,
            decomposed=method.decomposed,
            quantised=method.quantised,
        )
        # Where memory is short, and unless FSDP wants one type in a block.
        sharded = config.parallel == "fsdp" and parallel.size() > 1
        rounded = method.quantised or (machine.device.type == "cuda" and not sharded)
        dtype = machine.dtype if rounded else torch.float32
        add_lora(model, lora, config.seed, dtype, machine.device)
        if not any(is_adapter(name) for name, _ in model.named_parameters()):
            raise UserError(
                f"method.targets={list(method.targets)}: a {model.config.layout} model has no such "
                "matrix: name others"
            )
    elif method.name != "full":
        model.requires_grad_(False)
        trained: list[torch.nn.Module] = [] if model.head is None else [model.head]
        if method.name == "last":
            if method.last_blocks > model.config.num_layers:
                raise UserError(
                    f"method.last_blocks={method.last_blocks}: the base has "
                    f"{model.config.num_layers} blocks: method=full trains them all"
                )
            trained += [*model.blocks[-method.last_blocks :], model.norm]
        for module in trained:
            module.requires_grad_(True)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = num_parameters(model.config)
    if method.name != "full":
        beside = ", beside matrices in 4 bits" if method.quantised else ""
        say(
            f"method={method.name}: {count:,} weights are trained, {count / total:.1%} of "
            f"{total:,}{beside}"
        )


def trained_flops_share(model: Transformer) -> float:
    """FLOPs of training a token of this model, as a share of those of training all of it.

    Of three equal parts the forward pass is one, gradients of activations, which go back to the
    first block with anything to train, another, and gradients of weights the third.
    """
    if all(parameter.requires_grad for parameter in model.parameters()):
        return 1.0
    counts = [
        (sum(p.numel() for p in block.parameters() if p.requires_grad), block)
        for block in model.blocks
    ]
    first = next((i for i, (count, _) in enumerate(counts) if count), len(counts))
    back = 1 - first / len(counts)
    trained = sum(count for count, _ in counts)
    total = sum(num_numbers(p) for block in model.blocks for p in block.parameters())
    return (1 + back + trained / max(1, total)) / 3


def input_hashes(config: FinetuneConfig, base: Checkpoint) -> dict[str, str]:
    """Hashes of everything a fine-tuning run reads."""
    files = {
        "data": config.data_paths,
        "validation_data": [config.validation_data] if config.validation_data else [],
        "test_data": [config.test_data] if config.test_data else [],
    }
    hashes = {key: data_hash(paths) for key, paths in files.items() if paths}
    return {
        **hashes,
        "base": base.hash,
        "base_config": file_hash(base.directory / "config.json"),
        "tokenizer": base.tokenizer.hash,
        "chat_template": base.tokenizer.template_hash,
    }


def fine_tune(
    run: Run,
    config: FinetuneConfig,
    base: Checkpoint,
    machine: Machine,
    clock: Clock,
    *,
    data: PackedData | ReplayedData | PreferenceData | ShuffledData,
    num_tokens: int,
    default_epochs: int,
    lr_share: float,
    evaluate: Callable[[], dict[str, float]],
    plan: Mapping[str, Any],
    loss: LossFn = sparse_loss,
    labels: list[str] | None = None,
    last_evaluation: float = 1.0,
    show_samples: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Tune the base's model on labelled rows; then it holds the weights of the best checkpoint.

    num_tokens: in one pass over the training rows. lr_share: of the pretraining rate. The others
    are those of `Training`.
    """
    model, info = base.model, base.info
    length = choose_length(
        config,
        steps_per_epoch=data.steps_per_epoch,
        tokens_per_step=num_tokens / data.steps_per_epoch,
        training_flops_per_token=trained_flops_share(model)
        * flops_per_token(model.config, data.context_length),
        default_steps=default_epochs * data.steps_per_epoch,
    )
    lr = config.optim.lr
    if lr is None:
        lr = lr_share * derived_lr(config.optim.name, model.config.hidden_size)
    say_optimizer(
        base,
        config.optim.name,
        lr,
        lr_share if config.optim.lr is None else None,
        shown_length(length, num_tokens, data.steps_per_epoch),
    )
    compiled = choose_compile(config, machine, model, None, data.context_length)
    result = train(
        Training(
            run=run,
            model=model,
            tokenizer=base.tokenizer,
            data=data,
            loss=loss,
            evaluate=evaluate,
            goal=Goal("val_loss", lower_is_better=True),
            lineage=Lineage(
                corpus_manifest=info.lineage.corpus_manifest if info else None,
                tokenizer=base.tokenizer.hash,
                parent=base.hash,
                data=run.settings["inputs"]["data"],
            ),
            device=machine.device,
            dtype=machine.dtype,
            checkpoint_blocks=checkpoint_blocks_here(
                config.activation_checkpointing,
                model.config,
                machine.device,
                machine.dtype,
                tokens=machine.micro_batch_tokens,
                optimizer=config.optim.name,
                adapters=sum(p.numel() for n, p in model.named_parameters() if is_adapter(n)),
                quantised=config.method.quantised,
            ),
            dropout=config.dropout,
            lr=lr,
            optim=with_weight_decay(
                config.optim, lr, length.steps or data.steps_per_epoch, data.steps_per_epoch
            ),
            schedule=config.schedule,
            checkpoint=config.checkpoint,
            evaluation=config.evaluate,
            steps=length.steps,
            seconds=length.seconds_left(clock),
            last_evaluation=last_evaluation,
            compile=compiled,
            base=str(base.directory),
            labels=labels,
            classifier=None if labels is None else {"pooling": "last", "task": "single_label"},
            tokens_seen=info.tokens_seen if info else 0,
            began=clock.began,
            stop_after=config.stop_after,
            show_samples=show_samples,
            plan={**plan, "dtype": str(machine.dtype)},
        )
    )
    restore_weights(model, load_checkpoint(run.directory))
    return result


def shown_length(length: Length, num_tokens: int, steps_per_epoch: int) -> str:
    """`120 steps: 3 epochs, 36,000 tokens`, or the seconds of a time budget."""
    if length.steps is None:
        return f"for {length.seconds:g} s"
    epochs = length.steps / steps_per_epoch
    return f"{length.steps:,} steps: {epochs:.3g} epochs, {epochs * num_tokens:,.0f} tokens"


def run_dir(config: TrainingConfig, default_name: str) -> Path:
    """Directory of a run; a job of a sweep has its own inside it."""
    return Path(config.runs_dir) / (config.name or default_name) / (config.name_suffix or "")


def finished_before(run: Run) -> float | None:
    """Headline of a run already finished with the same settings; None when there is none."""
    if run.summary is None:
        return None
    say(f"{run.directory}: already finished with the same settings (overwrite=true to do it again)")
    try:
        headline: float = as_type(
            float, run.summary["metrics"][run.summary["headline"]], "its headline"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.directory / 'summary.json'}: not a summary ({error}): overwrite=true starts anew"
        ) from error
    return headline


def write_summary(
    run: Run,
    result: TrainingResult,
    *,
    headline: str,
    metrics: Mapping[str, Any],
    metrics_before: Mapping[str, Any],
    model: Transformer,
    machine: Machine,
    context_length: int,
    words: int,
    clock: Clock,
    **more: Any,
) -> None:
    """Write `summary.json` and say where everything is.

    words: words of training text seen. headline: the metric returned to sweepers.
    """
    peak = peak_flops(machine.device)
    flops = trained_flops_share(model) * flops_per_token(model.config, context_length)
    flops_per_second = flops * result.tokens_per_second
    run.finish(
        {
            "stage": run.stage,
            "status": "finished",
            "headline": headline,
            "seconds": round(clock.spent() + result.seconds_before, 3),
            "seconds_to_first_step": result.seconds_to_first_step,
            "steps": result.steps,
            "skipped_steps": result.progress.skipped_steps,
            "tokens": result.progress.tokens,
            "words": words,
            "tokens_per_second": round(result.tokens_per_second, 1),
            "mfu": None if peak is None else flops_per_second / peak,
            "saving": result.saving,
            "peak_memory_bytes": peak_memory_bytes(machine.device),
            "machine": machine_facts(machine.device),
            "metrics": dict(metrics),
            "metrics_before": dict(metrics_before),
            "model_shape": asdict(model.config) | {"parameters": num_parameters(model.config)},
            **more,
        }
    )
    shown = "  ".join(
        f"{key} {value:.4g}"
        for key, value in metrics.items()
        if isinstance(value, float) and "/" not in key
    )
    run.log(f"{run.stage}: {shown}")
    run.log(f"best checkpoint: {Path(run.directory) / 'best'}")
