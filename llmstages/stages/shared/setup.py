"""What the three training stages share: from config to loop, and from loop to `summary.json`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import llmstages
from llmstages.config.groups import OptimConfig
from llmstages.config.stages import FinetuneConfig, TrainingConfig
from llmstages.data.examples import PackedData, PreferenceData, ShuffledData
from llmstages.data.json_files import as_type
from llmstages.data.replay import ReplayedData
from llmstages.data.shards import Shard, tokens_sha256
from llmstages.errors import UserError
from llmstages.model.counts import flops_per_token, num_parameters, trained_flops_share
from llmstages.model.four_bits import require_bitsandbytes
from llmstages.model.lora import EMBEDDING, is_adapter
from llmstages.model.scaling import derived_weight_decay
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say, warn
from llmstages.stages.shared.base_run import inherited, pretraining_lr, say_optimizer
from llmstages.stages.shared.rows import data_hash
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
from llmstages.train.loop import LOWEST_LOSS, Goal, Training, TrainingResult, train
from llmstages.train.losses import LossFn, sparse_loss
from llmstages.train.memory import checkpoint_blocks_here
from llmstages.train.records import when_and_how
from llmstages.train.run import Run

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
    tokens = config.micro_batch_tokens or default_micro_batch_tokens(device)
    return Machine(device, choose_dtype(config.dtype, device), tokens * parallel.size())


def default_micro_batch_tokens(device: torch.device) -> int:
    """Tokens that go through a model at once, of one process, where nothing else is said."""
    return 16_384 if device.type == "cuda" else 4_096


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


def tokens_begun_with(run: Run, directory: Path, shards: Sequence[Shard]) -> str | None:
    """Hash of the tokens in a folder that a run reads; `UserError` where it began with others."""
    found = tokens_sha256(shards)
    if run.plan.get("tokens") not in (None, found):
        raise UserError(
            f"{directory}: not the tokens that {run.directory} began with: "
            "delete that folder and it will be made again"
        )
    return found


def finetune_base(
    config: FinetuneConfig,
    num_labels: int | None = None,
    pooling: str = "last",
    multi_label: bool = False,
) -> Checkpoint:
    """The checkpoint fine-tuning starts from; num_labels gives it a new classification head, which
    reads what `pooling` says, and with multi_label gives a text any number of labels.

    From here on the config names the optimizer that is inherited from it.
    """
    if config.method.quantised:
        require_bitsandbytes()
    base = load_checkpoint(
        config.base_path, num_labels=num_labels, pooling=pooling, multi_label=multi_label
    )
    if num_labels is None and base.labels is not None:
        raise UserError(f"base={config.base_path}: a classifier; this stage needs a language model")
    config.optim = inherited(config.optim, base)
    return base


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
    num_rows: int,
    num_tokens: int,
    default_epochs: int,
    lr_share: float,
    evaluate: Callable[[], dict[str, float]],
    plan: Mapping[str, Any],
    loss: LossFn = sparse_loss,
    labels: list[str] | None = None,
    classifier: dict[str, Any] | None = None,
    last_evaluation: float = 1.0,
    goal: Goal = LOWEST_LOSS,
    show_samples: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Tune the base's model on labelled rows; then it holds the weights of the best checkpoint.

    num_rows: to train on. num_tokens: in one pass over them. lr_share: of the pretraining rate.
    classifier: more for the section of that name in `llmstages.json`. The others are those of
    `Training`.
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
        lr = lr_share * pretraining_lr(base, config.optim.name)
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
            goal=goal,
            lineage=Lineage(
                corpus_manifest=info.lineage.corpus_manifest if info else None,
                tokenizer=base.tokenizer.hash,
                parent=base.hash,
                data=run.settings["inputs"]["data"],
                replay=run.settings["inputs"].get("replay"),
                base=base.source,
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
                adapted_head=model.lora is not None
                and EMBEDDING in model.lora.targets
                and labels is None,
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
            base=base.source or str(base.directory),
            labels=labels,
            classifier=classifier,
            made={
                "base": base.name,
                "data": [Path(path).name for path in config.data_paths],
                "rows": num_rows,
                "steps_per_epoch": data.steps_per_epoch,
                "method": config.method.name,
                **({"rank": config.method.rank} if config.method.name == "lora" else {}),
                **({"objective": aim} if (aim := config.method.objective) != "answers" else {}),
            },
            tokens_seen=info.tokens_seen if info else 0,
            began=clock.began,
            stop_after=config.stop_after,
            show_samples=show_samples,
            patience=config.patience,
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
            **when_and_how(),
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
