"""`llmstages plan`: what `pretrain` with the same words would take, before its first step."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llmstages.config.groups import AUTO_MODEL
from llmstages.config.stages import PlanConfig
from llmstages.data.streams import PretrainingData
from llmstages.errors import CheckFailed, UserError
from llmstages.model.counts import flops_per_token, num_parameters
from llmstages.model.scaling import (
    MAX_DEFAULT_EPOCHS,
    MAX_USEFUL_EPOCHS,
    TOKENS_PER_PARAMETER,
    data_constrained_loss,
    optimal_for_flops,
    size_for_flops,
)
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.plain import for_stream
from llmstages.report.terminal import warn
from llmstages.stages.planning.machine import Fit, Target, fit_model, planned_target, target_of
from llmstages.stages.planning.probe import Probe
from llmstages.stages.planning.tables import show_plan
from llmstages.stages.planning.text import PlannedText, planned_text
from llmstages.stages.pretrain import (
    base_model,
    continued_context,
    rows_of_step,
    transformer_config,
)
from llmstages.stages.shared.base_run import inherited
from llmstages.stages.shared.model_size import asked_tokens, auto_shapes, pick_size, usual_tokens
from llmstages.stages.shared.setup import CURVES_SECONDS, Clock, choose_compile, choose_length
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.gpus import ASSUMED_UTILISATION, GPUS
from llmstages.train.pace import NUM_EVALUATIONS

COUNTS = (1, 8, 64, 512, 4096)
"""Numbers of GPUs that are compared."""
MOST_GPUS = 2**16
RECOMPUTING_SHARE = 3 / 4
"""Speed with blocks computed again: a second forward pass beside one forward and two backward."""
LEAST_OF_THE_LAW = 44e6
"""Parameters of the smallest models that the law was fitted to (Hoffmann et al. 2022)."""
LARGEST_SHAPE = 1e13
"""Parameters of the largest shape that is compared."""
JULIAN_YEAR_SECONDS = 365.25 * 86_400


@dataclass(frozen=True)
class Speed:
    """How fast one device trains."""

    tokens_per_second: float
    source: str
    around_seconds: float = 0.0
    """Of a run beside its steps: beginning, evaluations, curves."""


@dataclass(frozen=True)
class Work:
    """What is to be computed."""

    tokens: float
    steps: int
    rows_per_step: int
    context_length: int
    flops: float


@dataclass(frozen=True)
class Cost:
    """What a run takes on a number of devices; None: not known."""

    gpus: int
    working_gpus: int
    """A step has no more rows to share out."""
    busiest_rows: int
    """Of a step, on the GPU that has most; the others wait for it."""
    seconds: float | None
    kwh: float | None
    money: float | None


def run(config: PlanConfig) -> float | None:
    """Show the plan; returns its hours, None where the speed is not known.

    Raises:
        CheckFailed: it does not fit the memory, or the data are too few. All is shown all the same.
    """
    clock = Clock()
    base = None if config.base is None else load_checkpoint(config.base)
    config.optim = inherited(config.optim, base)
    target = planned_target(config)
    text = planned_text(config, None if base is None else base.tokenizer)
    model = None if base is None else base_model(config, base)
    shape = planned_shape(config, text, target, clock) if model is None else model.config
    length = shape.context_length
    if model is not None:
        length = continued_context(length, text.tokens)
    speed, work, fit = None, None, None
    if config.budget.wall_seconds is None:
        work = planned_work(config, text, shape, length)
        fit = fit_of(config, shape, target, work.rows_per_step, length)
        speed = speed_of(config, text, shape, model, target, fit, work, length, clock)
    else:
        rows = max(1, text.tokens // length)
        fit = fit_of(config, shape, target, rows, length)
        speed = speed_of(config, text, shape, model, target, fit, None, length, clock)
        work = work_within(config, text, shape, length, speed)
        fit = fit_of(config, shape, target, work.rows_per_step, length)
    cost = planned_cost(config, target, speed, work, config.gpus)
    failures = problems(config, text, shape, target, fit, work)
    record = as_record(config, text, shape, target, fit, speed, work, cost)
    record["problems"] = failures
    if config.json:
        line = json.dumps(record, ensure_ascii=False)
        sys.stdout.write(for_stream(line, sys.stdout) + "\n")
    else:
        show_plan(config, target, record)
    if failures:
        raise CheckFailed("; ".join(failures))
    return record["time"]["hours"]  # type: ignore[no-any-return]


# ---- what is to be done


def planned_shape(
    config: PlanConfig, text: PlannedText, target: Target, clock: Clock
) -> TransformerConfig:
    """The shape that pretraining would take."""
    if config.model.name != AUTO_MODEL:
        return transformer_config(config.model, text.vocab_size)
    if target.here is None:
        raise UserError(
            f"model=auto with gpu={config.gpu}: its size is found on the machine that trains: "
            "name a size, such as model=small"
        )
    collected, machine = text.collected, target.here
    if config.budget.wall_seconds is not None and collected is None:
        raise UserError("model=auto with a time budget is timed on the corpus: collect it first")

    def data_of(context_length: int) -> PretrainingData:
        assert collected is not None
        rows = max(1, machine.micro_batch_tokens // context_length)
        return PretrainingData(
            collected.train,
            context_length=context_length,
            rows_per_step=rows,
            rows_per_micro_batch=rows,
            seed=config.seed,
            weights=collected.weights,
            mask_documents=config.mask_documents,
        )

    return pick_size(config, text.vocab_size, text.tokens, data_of, machine, clock).shape


def planned_work(
    config: PlanConfig, text: PlannedText, shape: TransformerConfig, length: int
) -> Work:
    """Tokens and steps of a run whose length does not depend on the machine."""
    each = flops_per_token(shape, length)
    usual = usual_tokens(config, num_parameters(shape), text.tokens)
    if config.budget.flops is not None:
        tokens = config.budget.flops / each
    else:
        tokens = asked_tokens(config, text.tokens) or usual
    rows = rows_of_step(config, tokens, length, text.tokens)
    found = choose_length(
        config,
        steps_per_epoch=text.tokens / length / rows,
        tokens_per_step=rows * length,
        training_flops_per_token=each,
        default_steps=round(usual / (rows * length)),
    )
    assert found.steps is not None
    tokens = found.steps * rows * length
    return Work(tokens, found.steps, rows, length, tokens * each)


def work_within(
    config: PlanConfig,
    text: PlannedText,
    shape: TransformerConfig,
    length: int,
    speed: Speed | None,
) -> Work:
    """Tokens and steps that a time budget has room for."""
    if speed is None:
        raise UserError(
            "how much a time budget trains on depends on the speed, which is not known: gpu=NAME "
            "takes that of a data sheet, probe=true measures this machine where the model fits it"
        )
    assert config.budget.wall_seconds is not None
    left = max(1.0, config.budget.wall_seconds - speed.around_seconds)
    one = left * speed.tokens_per_second
    rows = rows_of_step(config, one * config.gpus, length, text.tokens)
    busiest = -(-rows // min(config.gpus, rows))
    steps = max(1, int(one / (busiest * length)))
    tokens = steps * rows * length
    return Work(tokens, steps, rows, length, tokens * flops_per_token(shape, length))


def needed_tokens(config: PlanConfig, shape: TransformerConfig, work: Work) -> float:
    """Tokens that the run wants: those of its length, or by default 20 a parameter."""
    asked = config.steps or config.epochs or any(config.budget.lengths.values())
    if asked or config.base is not None or config.model.published.tokens is not None:
        return work.tokens
    return max(work.tokens, TOKENS_PER_PARAMETER * num_parameters(shape))


def problems(
    config: PlanConfig,
    text: PlannedText,
    shape: TransformerConfig,
    target: Target,
    fit: Fit,
    work: Work,
) -> list[str]:
    """Why it cannot be done so, and what to do; warns of what is possible and not wise."""
    found = []
    if not fit.fits:
        found.append(
            f"it does not fit: {fit.memory.total / 2**30:,.1f} GiB are needed on each of "
            f"{config.gpus:,} ({target.name}), {target.room_bytes / 2**30:,.1f} are there: a "
            "smaller model=, a shorter model.context_length, "
            + ("another gpu=" if fit.parallel == "ddp" else "more gpus=")
        )
    if text.tokens < 2 * work.context_length:
        found.append(
            f"the data are too few: {text.tokens:,} tokens do not fill two contexts of "
            f"{work.context_length:,}"
        )
        return found
    wanted = needed_tokens(config, shape, work)
    passes = wanted / text.tokens
    said = f"{wanted:,.0f} tokens are {passes:,.1f} passes over the {text.tokens:,} there are"
    if passes > MAX_USEFUL_EPOCHS:
        found.append(
            f"the data are too few: {said}, and after {MAX_USEFUL_EPOCHS:.0f} one more token read "
            "again is worth a third of a new one: collect more text, or take a smaller model= or a "
            "shorter run"
        )
    elif passes > 1.05 * MAX_DEFAULT_EPOCHS:
        warn(f"{said}; up to {MAX_DEFAULT_EPOCHS} are nearly as good as new text")
    else:
        often = [
            f"{source.name} {times:.1f} times"
            for source in text.sources
            if source.tokens
            and (times := source.share * work.tokens / source.tokens) > 1.05 * MAX_DEFAULT_EPOCHS
            and times > (source.published_epochs or 0)
        ]
        if often:
            warn(
                f"{work.tokens:,.0f} tokens read {', '.join(often)}; beyond {MAX_DEFAULT_EPOCHS} "
                "passes repeated text teaches little"
            )
    return found


# ---- how fast, and what it costs


def fit_of(
    config: PlanConfig, shape: TransformerConfig, target: Target, rows: int, length: int
) -> Fit:
    """How the model is trained on the number of devices that is planned with."""
    return fit_model(config, shape, target, length=length, rows_per_step=rows, gpus=config.gpus)


def speed_of(
    config: PlanConfig,
    text: PlannedText,
    shape: TransformerConfig,
    model: Transformer | None,
    target: Target,
    fit: Fit,
    work: Work | None,
    length: int,
    clock: Clock,
) -> Speed | None:
    """How fast one device is: measured on this machine, else from its data sheet; None: unknown.

    work: None where a time budget decides it.
    """
    if target.here is None or not config.probe or config.utilisation is not None:
        return sheet_speed(config, shape, target, fit, length)
    if not fit.fits or fit.parallel == "fsdp":
        return sheet_speed(config, shape, target, fit, length)
    if model is None:
        model = Transformer(shape)
        model.initialize(torch.Generator().manual_seed(config.seed))
    model.to(target.here.device)
    probe = Probe(config, text, model, target.here, fit.micro_batch, length)
    began = clock.spent()
    compiled, rows, budget = "off", None, config.budget.wall_seconds
    if work is not None:
        compiled = choose_compile(config, target.here, model, work.tokens, length)
        rows = work.rows_per_step
    step = probe.step(rows, compiled)
    if rows is None and budget is not None:
        pace = step.micro_batch / (fit.micro_batch.rows * length)
        rows = rows_of_step(config, max(1.0, budget - began) / pace, length, text.tokens)
        compiled = choose_compile(config, target.here, model, (budget - began) / pace, length)
        step = probe.step(rows, compiled)
    assert rows is not None
    step_tokens = rows * length
    seconds = step.seconds(rows / fit.micro_batch.rows)
    every = config.evaluate.every_steps
    evaluations = NUM_EVALUATIONS
    if work is not None:
        evaluations = min(work.steps, -(-work.steps // every) if every else NUM_EVALUATIONS)
    around = began + step.first + probe.evaluations(evaluations, seconds / step_tokens)
    around += CURVES_SECONDS if config.report.curves else 0.0
    return Speed(step_tokens / seconds, "a few steps, measured", around)


def sheet_speed(
    config: PlanConfig, shape: TransformerConfig, target: Target, fit: Fit, length: int
) -> Speed | None:
    """Tokens a second at a share of a data sheet's peak; None without a data sheet."""
    if target.gpu is None:
        return None
    share = share_of_peak(config, fit)
    peak = target.gpu.peak_flops(target.dtype)
    return Speed(
        share * peak / flops_per_token(shape, length),
        f"{share:.3g} of {peak / 1e12:,.4g} TFLOP/s ({target.gpu.source})",
    )


def share_of_peak(config: PlanConfig, fit: Fit) -> float:
    """What training reaches of a data sheet's peak: as set, or as assumed."""
    if config.utilisation is not None:
        return config.utilisation
    recomputes = fit.micro_batch.checkpoint_blocks
    return ASSUMED_UTILISATION * (RECOMPUTING_SHARE if recomputes else 1)


def planned_cost(
    config: PlanConfig, target: Target, speed: Speed | None, work: Work, gpus: int
) -> Cost:
    """Time, energy and money of the run; a step takes as long as the rows of its busiest device.

    What an hour of all `config.gpus` together costs is shared among them.
    """
    working = min(gpus, work.rows_per_step)
    busiest = -(-work.rows_per_step // working)
    if speed is None:
        return Cost(gpus, working, busiest, None, None, None)
    tokens = work.tokens * busiest / work.rows_per_step
    seconds = speed.around_seconds + tokens / speed.tokens_per_second
    device_hours = gpus * seconds / 3600
    watts = config.watts
    if watts is None and target.gpu is not None:
        watts = target.gpu.watts
    kwh = None if watts is None else device_hours * watts / 1000
    price = config.price_per_hour
    if price is None and config.budget.price_per_hour is not None:
        price = config.budget.price_per_hour / config.gpus
    rent = None if price is None else device_hours * price
    power = None if kwh is None or config.price_per_kwh is None else kwh * config.price_per_kwh
    money = None if rent is None and power is None else (rent or 0.0) + (power or 0.0)
    return Cost(gpus, working, busiest, seconds, kwh, money)


# ---- beside it


def alternatives(
    config: PlanConfig, text: PlannedText, shape: TransformerConfig, work: Work
) -> list[dict[str, Any]]:
    """Other sizes for the same FLOPs, with the loss that the law predicts of each.

    Where no shape says what attention takes, the same FLOPs are the same 6 N D.
    """
    parameters = num_parameters(shape)
    by_ratio = (parameters * work.tokens / TOKENS_PER_PARAMETER) ** 0.5
    best, best_tokens = optimal_for_flops(6.0 * parameters * work.tokens)
    shapes = auto_shapes(config, shape.vocab_size, LARGEST_SHAPE, text.tokens)
    picked = size_for_flops(shapes, lambda _: work.flops, text.tokens)
    rows = [
        ("this plan", parameters, work.tokens),
        ("20 tokens a parameter (Hoffmann 2022)", by_ratio, TOKENS_PER_PARAMETER * by_ratio),
        ("least loss, new text (Besiroglu 2024)", best, best_tokens),
        (
            f"model=auto: {picked.shape.num_layers} x {picked.shape.hidden_size}, this text",
            picked.parameters,
            picked.tokens,
        ),
    ]
    return [
        {
            "choice": name,
            "parameters": n,
            "tokens": tokens,
            "tokens_per_parameter": tokens / n,
            "epochs": tokens / text.tokens,
            "predicted_loss": data_constrained_loss(n, tokens, text.tokens)
            if n >= LEAST_OF_THE_LAW
            else None,
        }
        for name, n, tokens in rows
    ]


def numbers_of_gpus(
    config: PlanConfig, shape: TransformerConfig, target: Target, speed: Speed | None, work: Work
) -> list[dict[str, Any]]:
    """The same run on 1 to thousands of them."""
    if target.gpu is None:
        return []
    found = []
    for gpus in sorted({*COUNTS, config.gpus}):
        fit = fit_model(
            config,
            shape,
            target,
            length=work.context_length,
            rows_per_step=work.rows_per_step,
            gpus=gpus,
        )
        usual = speed
        if speed is None or speed.around_seconds == 0:  # not measured
            usual = sheet_speed(config, shape, target, fit, work.context_length)
        cost = planned_cost(config, target, usual if fit.fits else None, work, gpus)
        found.append({**asdict(cost), "gib": fit.memory.total / 2**30, "parallel": fit.parallel})
        found[-1]["fits"] = fit.fits
    return found


def other_gpus(config: PlanConfig, shape: TransformerConfig, work: Work) -> list[dict[str, Any]]:
    """The same run on each GPU of the data sheets: the fewest that hold it, and the time of one."""
    found = []
    for gpu in GPUS:
        if config.dtype == "bfloat16" and gpu.bfloat16_flops is None:
            continue
        target = target_of(gpu, config)
        gpus, fit = fewest_gpus(config, shape, target, work)
        speed = sheet_speed(config, shape, target, fit, work.context_length)
        cost = planned_cost(config, target, speed if fit.fits else None, work, gpus)
        hours = None if cost.seconds is None else gpus * cost.seconds / 3600
        found.append(
            {
                "gpu": gpu.name,
                "dtype": str(target.dtype).removeprefix("torch."),
                "memory_gib": gpu.memory_bytes / 2**30,
                "fewest_gpus": gpus if fit.fits else None,
                "share_of_peak": share_of_peak(config, fit) if fit.fits else None,
                "gpu_hours": hours,
                "kwh": None if hours is None else hours * gpu.watts / 1000,
                "source": gpu.source,
            }
        )
    return found


def fewest_gpus(
    config: PlanConfig, shape: TransformerConfig, target: Target, work: Work
) -> tuple[int, Fit]:
    """The fewest that hold the model, by doubling and then halving what is between; as many as a
    step has rows for where none do."""
    rows, length = work.rows_per_step, work.context_length

    def fit_on(gpus: int) -> Fit:
        return fit_model(config, shape, target, length=length, rows_per_step=rows, gpus=gpus)

    too_few, gpus, most = 0, 1, min(MOST_GPUS, rows)
    while not (fit := fit_on(gpus)).fits and gpus < most:
        too_few, gpus = gpus, min(2 * gpus, most)
    while fit.fits and gpus - too_few > 1:
        between = (too_few + gpus) // 2
        if (found := fit_on(between)).fits:
            gpus, fit = between, found
        else:
            too_few = between
    return gpus, fit


def published(config: PlanConfig, shape: TransformerConfig, work: Work) -> dict[str, Any] | None:
    """What was published of the model beside the same figures of this plan, by the same formulas.

    FLOPs are 6 N D, N all parameters, as in Brown et al. 2020 (table D.1): attention over the
    positions is left out.
    """
    told = config.model.published
    if told.parameters is None or config.base is not None:
        return None
    parameters = num_parameters(shape)
    ours: dict[str, float | None] = {
        "parameters": parameters,
        "tokens": work.tokens,
        "flops": 6.0 * parameters * work.tokens,
    }
    theirs: dict[str, float | None] = {
        "parameters": told.parameters,
        "tokens": told.tokens,
        "flops": told.flops,
    }
    if told.gpu_flops is not None:
        for column in (ours, theirs):
            flops = column["flops"]
            seconds = None if flops is None else flops / told.gpu_flops
            column["gpu_years"] = None if seconds is None else seconds / JULIAN_YEAR_SECONDS
            if told.price_per_hour is not None:
                money = None if seconds is None else seconds / 3600 * told.price_per_hour
                column["cost"] = money
    return {
        "source": told.source,
        "gpu": told.gpu,
        "gpu_flops": told.gpu_flops,
        "price_per_hour": told.price_per_hour,
        "this_plan": ours,
        "of_published_flops": theirs,
        "published_cost": told.cost,
    }


# ---- what is shown


def as_record(
    config: PlanConfig,
    text: PlannedText,
    shape: TransformerConfig,
    target: Target,
    fit: Fit,
    speed: Speed | None,
    work: Work,
    cost: Cost,
) -> dict[str, Any]:
    """The plan as one JSON object."""
    parameters = num_parameters(shape)
    hours = None if cost.seconds is None else cost.seconds / 3600
    return {
        "model": {
            "name": config.model.name if config.base is None else config.base,
            "parameters": parameters,
            "layers": shape.num_layers,
            "width": shape.hidden_size,
            "context_length": work.context_length,
            "vocab_size": shape.vocab_size,
        },
        "corpus": {
            "name": text.name,
            "is_collected": text.collected is not None,
            "tokens": text.tokens,
            "sources": [
                {
                    **asdict(source),
                    "epochs": source.share * work.tokens / source.tokens if source.tokens else None,
                }
                for source in text.sources
            ],
        },
        "length": {
            "tokens": work.tokens,
            "steps": work.steps,
            "tokens_per_step": work.rows_per_step * work.context_length,
            "tokens_per_parameter": work.tokens / parameters,
            "epochs": work.tokens / text.tokens,
        },
        "flops": {
            "total": work.flops,
            "per_token": flops_per_token(shape, work.context_length),
            "six_n_d": 6.0 * parameters * work.tokens,
        },
        "machine": {
            "name": target.name,
            "gpus": config.gpus,
            "dtype": str(target.dtype).removeprefix("torch."),
            "memory_bytes": target.memory_bytes,
        },
        "memory": {
            **asdict(fit.memory),
            "total": fit.memory.total,
            "room": target.room_bytes,
            "fits": fit.fits,
            "parallel": fit.parallel,
            "rows_per_micro_batch": fit.micro_batch.rows,
            "activation_checkpointing": fit.micro_batch.checkpoint_blocks,
        },
        "time": {
            "tokens_per_second": None if speed is None else speed.tokens_per_second,
            "speed_source": None if speed is None else speed.source,
            "around_seconds": None if speed is None else speed.around_seconds,
            "seconds": cost.seconds,
            "hours": hours,
            "working_gpus": cost.working_gpus,
            "busiest_rows": cost.busiest_rows,
        },
        "kwh": cost.kwh,
        "money": cost.money,
        "numbers_of_gpus": numbers_of_gpus(config, shape, target, speed, work),
        "alternatives": alternatives(config, text, shape, work),
        "other_gpus": other_gpus(config, shape, work),
        "published": published(config, shape, work),
    }
