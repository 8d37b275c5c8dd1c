"""The one training loop of the package.

A stage brings a model, a data set, a loss and a way to evaluate; the loop does the rest: steps,
learning rate, accumulation, clipping, evaluation and checkpoints on a cadence, resuming.

The gradient of a step is the gradient of (sum of losses / number of targets), both summed over all
micro-batches of the step, so it does not depend on how the step was cut up.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from llmstages.config.groups import CheckpointConfig, EvaluateConfig, OptimConfig, ScheduleConfig
from llmstages.data.batch import Batch
from llmstages.data.json_files import as_dataclass
from llmstages.data.order import generator_for
from llmstages.data.prefetch import PrefetchedData
from llmstages.errors import UserError
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import progress, warn
from llmstages.report.trackers import flatten
from llmstages.text.tokenizer import Tokenizer
from llmstages.train import parallel
from llmstages.train.checkpoint import (
    Adapted,
    CheckpointInfo,
    Lineage,
    load_checkpoint,
    read_tensors,
    restore_weights,
    undivided_head,
    write_checkpoint,
)
from llmstages.train.device import machine_facts, training_kernels, works_apart
from llmstages.train.figures import Figures
from llmstages.train.gradients import scale_and_clip
from llmstages.train.interrupts import Interrupts, catch_interrupts
from llmstages.train.losses import LossFn
from llmstages.train.optimizer import (
    checkpoint_bytes,
    lr_share,
    make_optimizers,
    optimizer_tensors,
    restore_optimizers,
)
from llmstages.train.pace import Pace, Steps, seconds_per_step
from llmstages.train.precision import use_fp8
from llmstages.train.records import read_record
from llmstages.train.run import Run
from llmstages.train.saving import CheckpointWriter, require_room
from llmstages.train.spikes import SpikeWatch

NAMED_DOCUMENTS = 8
FEW_STEPS = 10
"""A run with a time budget that took fewer was eaten by what comes before them."""
"""Documents that are named of a step whose loss is broken or a spike."""
MAX_SKIPPED_IN_A_ROW = 3
"""Steps whose loss or gradient is not a number: one is skipped, so many in a row end the run."""


class TrainingData(Protocol):
    """What a stage's data set promises."""

    def micro_batches(self, step: int) -> Iterable[Batch]:
        """Micro-batches of step `step`, counted from 0: a pure function of seed and step."""


@dataclass(frozen=True)
class Goal:
    """The metric by which the best checkpoint is chosen; of equals, the one of the lower loss."""

    metric: str
    lower_is_better: bool

    def improves(self, new: tuple[float, float], old: tuple[float | None, float | None]) -> bool:
        """Whether the metric and `val_loss` of an evaluation are better than older ones."""
        (metric, loss), (best, best_loss) = new, old
        if best is None or metric == best:
            return best_loss is None or loss < best_loss
        return metric < best if self.lower_is_better else metric > best


LOWEST_LOSS = Goal("val_loss", lower_is_better=True)


@dataclass(frozen=True)
class Training:
    """Everything a stage hands to the loop."""

    run: Run
    model: Transformer
    tokenizer: Tokenizer
    data: TrainingData
    loss: LossFn
    evaluate: Callable[[], dict[str, float]]
    """Metrics of the model as it is."""
    goal: Goal
    lineage: Lineage
    device: torch.device
    dtype: torch.dtype
    lr: float
    """Peak learning rate."""
    optim: OptimConfig
    schedule: ScheduleConfig
    checkpoint: CheckpointConfig
    evaluation: EvaluateConfig
    steps: int | None
    """Optimizer steps; None: as many as `seconds` allow."""
    seconds: float | None
    """Seconds left for the loop and the stage's last evaluation; None: no limit."""
    evaluation_seconds: float | None = None
    """What an evaluation takes, where the stage has timed one."""
    last_evaluation: float = 1.0
    """Cost of the stage's last evaluation, in those of the loop."""
    compile: str = "off"
    """`off`, `blocks` (one block for all layers) or `whole` (the whole loss)."""
    dropout: float = 0.0
    """Share of each block's two results that is left out while training."""
    fp8: bool = False
    """Matrix products of the blocks in 8 bits while training."""
    checkpoint_blocks: bool = False
    """Compute the inside of each block again in the backward pass instead of keeping it."""
    base: str = ""
    """Where the model lies that adapters were put into."""
    labels: list[str] | None = None
    classifier: dict[str, Any] | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    """For `training` in `llmstages.json`: what the loop does not know of it."""
    tokens_seen: int = 0
    """Tokens the starting checkpoint has seen."""
    began: float | None = None
    """When the stage began, on the clock of `time.monotonic`; None: with the loop."""
    show_samples: Callable[[int], None] | None = None
    """show_samples(step) prints what the model says."""
    stop_after: int | None = None
    """Steps after which this process saves and leaves, as if interrupted."""
    patience: int | None = None
    """Evaluations in a row without an improvement that end training; None: none do."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """More facts to be kept in `plan.json`."""


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Since the stage began, imports, evaluation and checkpoints included, downtime not."""
    training_seconds: float = 0.0
    """Time spent in optimizer steps."""
    best_step: int | None = None
    best_metric: float | None = None
    best_loss: float | None = None
    """`val_loss` of the best evaluation."""
    evaluated_step: int | None = None
    """Step of the last evaluation."""
    evaluations_since_best: int = 0
    """Evaluations in a row that were no better than the best."""
    skipped_steps: int = 0
    """Steps that changed no weight, as their loss or gradient was not a number."""
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Launched:
    """An optimizer step that the device has been told to do."""

    figures: Figures
    """Loss a target in nats, and gradient norm."""
    tokens: int
    references: list[str]
    """Documents or lines that were read."""


@dataclass(frozen=True)
class Unread:
    """A step whose figures the host has not read yet."""

    step: int
    """Counted from 1."""
    lr_share: float
    tokens: int
    """Tokens of the run, those of this step included."""
    began: float
    launched: Launched


@dataclass(frozen=True)
class TrainingResult:
    """What the loop hands back; the model holds the last step's weights."""

    progress: Progress
    steps: int
    metrics: dict[str, float]
    """Of the last evaluation."""
    seconds_before: float = 0.0
    """Time spent before the restart this result comes from."""
    seconds_to_first_step: float | None = None
    """From the beginning of the stage to the end of this process's first step; None: none done."""
    saving: dict[str, float] = field(default_factory=dict)
    """Checkpoints that this process wrote, seconds of writing, and those that training waited."""

    @property
    def tokens_per_second(self) -> float:
        """Training speed, evaluation and checkpoints not counted."""
        return self.progress.tokens / max(1e-9, self.progress.training_seconds)


def train(training: Training) -> TrainingResult:
    """Train to the last step, or continue a run that was cut off.

    Raises `KeyboardInterrupt` after saving a checkpoint when interrupted, `FloatingPointError` when
    several losses or gradients in a row are no numbers.
    """
    with training_kernels(training.device, training.dtype):
        loop = Loop(as_planned(training))
        with closing_data(loop.data), loop.writer:
            loop.begin()
            return loop.run_to_end()


def as_planned(training: Training) -> Training:
    """Of a run that is continued, the learning rate and weight decay that it began with."""
    plan = training.run.plan
    if training.run.resume_from is None:
        return training
    optim = replace(training.optim, weight_decay=plan["weight_decay"])
    return replace(training, lr=plan["lr"], optim=optim)


class Loop:
    """The state of a running training."""

    def __init__(self, training: Training) -> None:
        self.t = training
        self.began = time.monotonic()
        parallel.shard_again(training.model)  # it was measured before
        self.progress = Progress()
        self.seconds_before = 0.0
        self.pace = Pace(training.seconds, last_evaluation=training.last_evaluation)
        self.seconds_to_first_step: float | None = None
        self.last_metrics: dict[str, float] = {}
        self.saved_step = 0
        if not any(parallel.is_sharded(p) for p in training.model.parameters()):
            training.model.to(training.device)
        training.model.checkpoint_blocks = training.checkpoint_blocks
        training.model.set_dropout(training.dropout)
        if training.fp8:
            use_fp8(training.model)
        # Where the device works by itself the host is one step and two micro-batches ahead.
        self.lag = 1 if works_apart(training.device) else 0
        data = training.data if parallel.size() == 1 else parallel.OwnRows(training.data)
        self.data = PrefetchedData(data, training.device) if self.lag else data
        self.unread: list[Unread] = []
        self.interrupts = Interrupts()
        self.spikes = SpikeWatch()
        self.writer = CheckpointWriter()
        self.last_read = -math.inf
        self.optimizers = make_optimizers(
            training.model, training.optim, training.lr, training.dtype
        )
        self.loss: LossFn = training.loss
        if training.compile == "whole":
            self.loss = torch.compile(training.loss, dynamic=False)
        elif training.compile == "blocks":
            training.model.compile_blocks()
        self.first_step = 0
        self.first_training_seconds = 0.0
        self.steps = Steps(1)

    # ---- beginning -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Take up a run that was cut off; fix the number of steps."""
        if self.t.run.resume_from is not None:
            self.restore()
        if parallel.is_first():
            size = checkpoint_bytes(self.t.model, self.optimizers)
            count = self.t.checkpoint.keep + 2  # the best, and the next
            require_room(self.t.run.directory, size, count)
        self.first_step = self.saved_step = self.progress.step
        self.first_training_seconds = self.progress.training_seconds
        self.steps = self.fix_steps()

    def fix_steps(self) -> Steps:
        """The number of steps, fixed before the first and found again on resuming."""
        t, pace = self.t, self.pace
        resumed = t.run.resume_from is not None
        if resumed:
            steps = Steps.from_plan(t.run.plan)
            pace.num_evaluations = int(t.run.plan["num_evaluations"])
            pace.evaluation_seconds = float(t.run.plan["evaluation_seconds"])
            pace.measuring_seconds = pace.evaluation_seconds
        else:
            steps = Steps(t.steps if t.steps is not None else self.probe_steps())
            steps, self.pace = parallel.from_first((steps, pace))
            pace = self.pace
        facts = {
            "lr": t.lr,
            "weight_decay": t.optim.weight_decay,
            "compile": t.compile,
            "machine": machine_facts(t.device),
            **t.plan,
        }
        changed = changes(t.run.plan, facts) if resumed else []
        t.run.begin(
            {
                **(t.run.plan if resumed else {}),
                **steps.to_plan(),
                "num_evaluations": pace.num_evaluations,
                "evaluation_seconds": pace.evaluation_seconds,
                **facts,
            }
        )
        if changed:
            warn(
                f"the run goes on with {', '.join(changed)}: the order of the data is the same, "
                "losses are equal to rounding, not to the last bit"
            )
        if resumed:
            t.run.forget_after(self.progress.step)
            t.run.log(f"continuing at step {self.progress.step:,} of {steps.total:,}")
        return steps

    def probe_steps(self) -> int:
        """How many steps fit into the time left: a few are timed on the real data.

        At a rate of zero they leave the weights as they are, to the last bit.
        """
        t = self.t
        assert t.seconds is not None
        step_seconds = seconds_per_step(lambda step: self.optimizer_step(step, 0.0), t.seconds)
        self.optimizers = make_optimizers(t.model, t.optim, t.lr, t.dtype)
        seconds = t.evaluation_seconds
        if seconds is None:
            begin = time.monotonic()
            t.evaluate()
            parallel.shard_again(t.model)
            seconds = time.monotonic() - begin
        self.pace.evaluation_seconds = self.pace.measuring_seconds = seconds
        left = t.seconds - self.spent()
        return self.pace.steps_within(left, step_seconds, t.evaluation.every_steps)

    def restore(self) -> None:
        """Take up weights, optimizer and counters of the newest complete checkpoint."""
        directory = self.t.run.resume_from
        assert directory is not None
        if not (directory / "trainer" / "state.safetensors").is_file():
            raise UserError(
                f"{directory}: it has no trainer/ and cannot be continued: start again with "
                "overwrite=true, or name=... for another place"
            )
        loaded = load_checkpoint(directory, verified=True)
        restore_weights(self.t.model, loaded)
        parallel.load_weights(self.t.model, undivided_head(directory))
        path = directory / "trainer" / "state.json"
        try:
            self.progress = as_dataclass(Progress, read_record(path).get("progress"))
        except ValueError as error:
            raise UserError(f"{path}: no state of a trainer ({error})") from error
        self.seconds_before = self.progress.seconds
        self.link(self.progress)  # it may have been killed before links were made, or gone back
        path = directory / "trainer" / "state.safetensors"
        tensors = read_tensors(path)
        try:
            restore_optimizers(self.t.model, self.optimizers, tensors)
        except ValueError as error:
            raise UserError(f"{path}: no state of these optimizers ({error})") from error

    # ---- steps ---------------------------------------------------------------------------------

    def run_to_end(self) -> TrainingResult:
        """Do the remaining steps."""
        t = self.t
        with (
            catch_interrupts() as self.interrupts,
            t.run.observed() as chart,
            progress(t.run.stage, total=self.steps.total, unit="steps", above=chart) as advance,
        ):
            advance(self.progress.step)
            if t.run.resume_from is not None:
                self.make_up_evaluation()
            while not self.is_done():
                if self.progress.step == self.first_step:
                    entry = self.take_first_step()
                else:
                    entry = self.step()
                advance(1, note=note_of(entry))
                if self.is_evaluated(self.progress.step):
                    self.evaluate()  # a checkpoint follows of the same step: it may be the best
                elif self.progress.step % (t.checkpoint.every_steps or math.inf) == 0:
                    self.save()
                if parallel.any_of(bool(self.interrupts)) or self.is_enough():
                    self.leave()
                if t.stop_after is None and self.adjust():
                    advance(0, total=self.steps.total)
        if self.progress.step < self.steps.total:
            t.run.log(
                f"ended after step {self.progress.step:,} of {self.steps.total:,}: "
                f"{self.progress.evaluations_since_best} evaluations were no better than that of "
                f"step {self.progress.best_step:,}"
            )
        self.writer.wait()
        parallel.wait_for_all()  # the others may look for the best checkpoint now
        if t.seconds is not None and self.progress.step < FEW_STEPS and self.seconds_to_first_step:
            t.run.log(
                f"warning: the time budget had room for {self.progress.step} steps: the first was "
                f"done after {self.seconds_to_first_step:.0f} s, imports, the reading of data and "
                "baselines with them; take a longer budget, or `steps=`"
            )
        if not self.last_metrics:  # resumed after the last step, before the summary was written
            self.last_metrics = t.evaluate()
        return TrainingResult(
            self.progress,
            self.progress.step,
            self.last_metrics,
            self.seconds_before,
            self.seconds_to_first_step,
            self.writer.facts(),
        )

    def take_first_step(self) -> dict[str, float]:
        """The first step of this process, which may compile for a minute: it can be given up."""
        with self.giving_up():
            entry = self.step()
        began = self.began if self.t.began is None else self.t.began
        self.seconds_to_first_step = round(time.monotonic() - began, 3)
        self.t.run.log(f"first step after {self.seconds_to_first_step:.1f} s")
        return entry

    def make_up_evaluation(self) -> None:
        """Do the evaluation of the step a run is continued at, if it was cut off before its end."""
        step = self.progress.step
        if self.is_evaluated(step) and self.progress.evaluated_step != step:
            self.evaluate()

    def is_done(self) -> bool:
        """Whether no step is left, or evaluations have long been no better."""
        patience = self.t.patience
        tired = patience is not None and self.progress.evaluations_since_best >= patience
        return self.progress.step >= self.steps.total or tired

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation follows when `step` steps are done."""
        every = self.t.evaluation.every_steps
        if every is None:
            return self.steps.is_look(step, self.pace.num_evaluations)
        return step % every == 0 or step == self.steps.total

    def giving_up(self) -> AbstractContextManager[None]:
        """Inside, a signal ends what is done at once, if no other process waits for this one."""
        return self.interrupts.raising() if parallel.size() == 1 else nullcontext()

    def is_enough(self) -> bool:
        """Whether this process has done the steps it was to do, and others are left."""
        done = self.progress.step - self.first_step
        return done == self.t.stop_after and not self.is_done()

    def leave(self) -> NoReturn:
        """Save what there is, if it is not saved yet, and end the run."""
        if self.saved_step != self.progress.step:
            self.save()
        self.writer.wait()
        parallel.wait_for_all()  # torchrun ends all when one has left
        self.t.run.log(f"interrupted after step {self.progress.step:,}: checkpoint saved")
        raise KeyboardInterrupt

    def step(self) -> dict[str, Any]:
        """Launch one optimizer step; the figures of the last step that was read, if there is one.

        On a CPU that is this step, elsewhere the one before.
        """
        began = time.monotonic()
        step = self.progress.step
        share = lr_share(self.t.schedule, step, self.steps.at(step))
        launched = self.launch(step, share)
        self.progress.step += 1
        self.progress.tokens += launched.tokens
        self.unread.append(Unread(step + 1, share, self.progress.tokens, began, launched))
        return self.read_figures(keep=self.lag)

    def read_figures(self, keep: int = 0) -> dict[str, Any]:
        """Read and record the figures of all steps but the newest `keep`; the last of them.

        A step's time is from its launch, or from when the step before was done, until it is done
        itself, so that times add up to the time spent however far the host is ahead.
        """
        entry: dict[str, Any] = {}
        while len(self.unread) > keep:
            step = self.unread.pop(0)
            loss, norm = step.launched.figures.read()
            done = time.monotonic()
            seconds = done - max(step.began, self.last_read)
            self.last_read = done
            self.progress.training_seconds += seconds
            sound = math.isfinite(loss) and math.isfinite(norm)
            entry = {
                "step": step.step,
                **({"loss": loss, "grad_norm": norm} if sound else {"skipped": True}),
                "lr": self.t.lr * step.lr_share,
                "tokens": step.tokens,
                "tokens_per_second": step.launched.tokens / max(seconds, 1e-9),
                "seconds": round(self.since_begin(), 3),
            }
            self.t.run.record(entry)
            if sound:
                self.progress.skipped_in_a_row = 0
                if (usual := self.spikes.usual(loss)) is not None:
                    self.t.run.log(
                        f"step {step.step}: the loss is {loss:.4g}, {usual:.4g} is usual; "
                        f"read: {shown(step.launched.references)}"
                    )
            else:
                self.note_skipped(step, loss, norm)
        return entry

    def note_skipped(self, step: Unread, loss: float, norm: float) -> None:
        """Count a step that changed no weight; `FloatingPointError` when several came in a row."""
        self.progress.skipped_steps += 1
        self.progress.skipped_in_a_row += 1
        what = (
            f"step {step.step}: the loss is {loss}, the gradient norm {norm}; read: "
            f"{shown(step.launched.references)}"
        )
        if self.progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"{what}; {MAX_SKIPPED_IN_A_ROW} steps in a row were like that, and changed no "
                "weight: a lower optim.lr or dtype=float32 may help"
            )
        self.t.run.log(f"{what}; the step is skipped")

    def optimizer_step(self, step: int, share_of_lr: float) -> tuple[float, float, int, list[str]]:
        """Do step `step` and wait for it: loss a target in nats, norm, tokens and references."""
        launched = self.launch(step, share_of_lr)
        loss, norm = launched.figures.read()
        return loss, norm, launched.tokens, launched.references

    def launch(self, step: int, share_of_lr: float) -> Launched:
        """Queue step `step` on the device, without waiting for it.

        Weights never see a number that is not finite, and a step that has one changes nothing:
        where the host is not ahead, it looks before it goes on, elsewhere the device does.
        """
        t = self.t
        t.model.train()
        if t.dropout:  # what is dropped is a function of seed and step, as the data are
            place = (step,) if parallel.size() == 1 else (step, parallel.rank())
            generator = generator_for("dropout", t.run.config.seed, *place)
            torch.manual_seed(int(generator.integers(2**63)))
        losses: list[Tensor] = []
        counts: list[Tensor] = []
        references: list[str] = []
        tokens = 0
        for batch in self.data.micro_batches(step):
            if self.interrupts and not self.lag and losses and parallel.size() == 1:
                self.give_up_step()
            tokens += batch.num_real_tokens
            references += batch.document_refs
            with self.autocast():
                loss, count = self.loss(t.model, batch.to(t.device))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            counts.append(count)
        sums = torch.stack([torch.stack(losses).sum(), torch.stack(counts).sum()])
        total, count = parallel.add_up(sums).unbind()
        loss = total / count
        parallel.sum_gradients([p for p in t.model.parameters() if p.requires_grad])
        gradients = [p.grad for p in t.model.parameters() if p.grad is not None]
        norm = scale_and_clip(gradients, count, t.optim.clip_norm or math.inf)
        sound = torch.isfinite(loss) & torch.isfinite(norm)
        skip = not self.lag and not sound.item()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share_of_lr
            if self.lag:
                optimizer.found_inf = (~sound).float()  # type: ignore[attr-defined]
            if not skip:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return Launched(Figures(torch.stack([loss, norm])), tokens, references)

    def give_up_step(self) -> NoReturn:
        """Leave a step that was interrupted between its micro-batches: it will be done again."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.leave()

    def autocast(self) -> torch.autocast:
        """Matrix products in the run's type."""
        enabled = self.t.dtype != torch.float32
        return torch.autocast(self.t.device.type, dtype=self.t.dtype, enabled=enabled)

    def adjust(self) -> bool:
        """Fewer steps when the time budget would be overrun; whether it was done.

        Once, and not in a run that is continued, they may be more: when it would be left unused.
        """
        done, steps = self.progress.step, self.steps.total
        number = self.pace.changed_number(
            step=done,
            steps=steps,
            timed=(
                done - len(self.unread) - self.first_step,
                self.progress.training_seconds - self.first_training_seconds,
            ),
            spent=self.spent(),
        )
        if self.pace.seconds is not None:
            number = parallel.from_first(number)
        once_more = self.steps.changed or self.t.run.resume_from is not None
        if number is None or (number > steps and once_more):
            return False
        self.steps.changed.append((done, number))
        self.t.run.write_plan({**self.t.run.plan, **self.steps.to_plan()})
        how = "slower" if number < steps else "faster"
        self.t.run.log(f"{how} than probed: {number:,} steps instead of {steps:,}")
        return True

    def spent(self) -> float:
        """Seconds of the budget spent: in this loop, and all those before a restart."""
        return time.monotonic() - self.began + self.seconds_before

    def since_begin(self) -> float:
        """The same from the beginning of the stage, imports and all, as budgets count."""
        before = 0.0 if self.t.began is None else self.began - self.t.began
        return self.spent() + before

    # ---- evaluation and checkpoints ------------------------------------------------------------

    def evaluate(self) -> None:
        """Measure, keep the figures, and save."""
        t = self.t
        self.read_figures()
        begin = time.monotonic()
        # When these weights were reached: a curve against time has training alone in between.
        reached = {"tokens": self.progress.tokens, "seconds": round(self.since_begin(), 3)}
        try:
            with self.giving_up():
                metrics = t.evaluate()
            parallel.shard_again(t.model)
        except KeyboardInterrupt:  # a continued run makes it up
            if self.interrupts and not self.interrupts.leave_at_once:
                self.leave()
            raise
        if not math.isfinite(loss := metrics["val_loss"]):
            raise FloatingPointError(
                f"after step {self.progress.step} val_loss is {loss}: a lower optim.lr or "
                "optim.weight_decay may help"
            )
        self.progress.evaluated_step = self.progress.step
        self.pace.measuring_seconds = time.monotonic() - begin
        self.last_metrics = metrics
        progress = self.progress
        found = metrics[t.goal.metric], loss
        progress.evaluations_since_best += 1
        if parallel.from_first(t.goal.improves(found, (progress.best_metric, progress.best_loss))):
            progress.best_metric, progress.best_loss = found
            progress.best_step = progress.step
            progress.evaluations_since_best = 0
        t.run.record(
            {
                "step": self.progress.step,
                "event": "evaluation",
                **reached,
                **prefixed("val", metrics),
            }
        )
        shown = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items() if "/" not in k)
        t.run.log(f"step {self.progress.step:,}: {shown}")
        if t.show_samples is not None:
            t.show_samples(self.progress.step)
            parallel.shard_again(t.model)
        self.save(metrics)
        self.pace.evaluation_seconds = time.monotonic() - begin  # the probe did not save or sample

    def save(self, metrics: Mapping[str, float] | None = None) -> None:
        """Write a checkpoint of the present step, point at it, and drop the oldest.

        metrics: of this very step, where it was evaluated.
        """
        t = self.t
        self.read_figures()  # a run whose figures are broken ends here, and saves nothing
        self.progress.seconds = self.since_begin()
        info = CheckpointInfo(
            stage=t.run.stage,
            step=self.progress.step,
            tokens_seen=t.tokens_seen + self.progress.tokens,
            metrics=dict(metrics or {}),
            lineage=t.lineage,
            classifier=t.classifier,
            training={**t.made, "lr": t.lr, "optimizer": t.optim.name},
        )
        reached = replace(self.progress)
        adapted = None
        if t.model.lora is not None:
            adapted = Adapted(t.model.lora, t.base, t.model.adapted_weights)

        def write(tensors: Mapping[str, Tensor]) -> None:
            weights = {name: tensors[name] for name in names}
            write_checkpoint(
                t.run.checkpoint_dir(reached.step),
                t.model.config,
                weights,
                t.tokenizer,
                info,
                labels=t.labels,
                adapted=adapted,
                trainer_tensors={k: v for k, v in tensors.items() if k not in weights},
                trainer_state={"progress": vars(reached)},
            )
            self.link(reached)
            t.run.remove_old_checkpoints(t.checkpoint.keep)

        parameters = dict(t.model.named_parameters())
        weights = {name: parallel.whole(p.detach()) for name, p in parameters.items()}
        names = list(weights)
        tensors = weights | optimizer_tensors(t.model, self.optimizers)
        unchanging = {name for name, p in parameters.items() if not p.requires_grad}
        if parallel.is_first():
            self.writer.save(tensors, write, unchanging)
        self.saved_step = self.progress.step

    def link(self, progress: Progress) -> None:
        """Point at the newest and the best checkpoint, as far as they are there."""
        if not parallel.is_first():
            return
        for name, step in (("last", progress.step), ("best", progress.best_step)):
            if step is not None and self.t.run.checkpoint_dir(step).is_dir():
                self.t.run.link(name, step)


def shown(references: Sequence[str]) -> str:
    """The first few documents or lines of a step, and how many more there are."""
    named = list(dict.fromkeys(references))
    more = f" and {len(named) - NAMED_DOCUMENTS} more" if len(named) > NAMED_DOCUMENTS else ""
    return ", ".join(named[:NAMED_DOCUMENTS]) + more


def note_of(entry: Mapping[str, Any]) -> str:
    """What the progress bar says beside the number of steps."""
    if "loss" not in entry:
        return ""
    return f"loss {entry['loss']:.3f}  {entry['tokens_per_second']:,.0f} tokens/s"


@contextmanager
def closing_data(data: TrainingData) -> Iterator[None]:
    """End the thread that reads ahead, if there is one."""
    try:
        yield
    finally:
        if isinstance(data, PrefetchedData):
            data.close()


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key: was -> is` of every fact that differs from the plan's; a fact it lacks does too."""
    old, new = flatten(before), flatten(now)
    return [
        f"{key} {value} (was {old.get(key)})" for key, value in new.items() if old.get(key) != value
    ]


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with a prefix, for names that do not have it."""
    return {k if k.startswith(prefix) else f"{prefix}_{k}": v for k, v in metrics.items()}
