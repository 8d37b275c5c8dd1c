"""A few real steps on this machine: what a run takes a step, an evaluation, and around them.

The steps are those of the one training loop, at a rate of zero, on the run's own rows, or on random
ones where there is no corpus yet.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from llmstages.config.stages import PlanConfig
from llmstages.data.batch import Batch
from llmstages.data.streams import PretrainingData
from llmstages.model.generation import Sampling, generate
from llmstages.model.transformer import Transformer
from llmstages.stages.planning.text import PlannedText
from llmstages.stages.pretrain import SHORT_BUDGET_SECONDS, evaluator
from llmstages.stages.shared.pace import FORWARD_SHARE, affordable_evaluation
from llmstages.stages.shared.setup import Machine, with_weight_decay
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Lineage
from llmstages.train.device import training_kernels
from llmstages.train.loop import LOWEST_LOSS, Loop, Training, TrainingData
from llmstages.train.losses import pretraining_loss
from llmstages.train.memory import MicroBatch, blank_batch
from llmstages.train.optimizer import derived_lr
from llmstages.train.run import Run

TIMED_STEPS = 15
"""Steps timed, after one that is not: short ones differ."""
FEW_TIMED_STEPS, ENOUGH_SECONDS = 5, 6.0
"""So many do, once they have taken so long."""
TIMED_SECONDS = 20.0
"""No further step is timed after so many seconds, two at least being done."""
MAX_TIMED_MICRO_BATCHES = 4
"""Micro-batches of a timed step; the time of a longer one follows from those of one and so many."""
EVALUATED_TOKENS = 8192
"""Validation tokens of a timed evaluation; the time of a longer one follows."""
SAMPLE_TOKENS = 32
"""Of a continuation that is shown at an evaluation."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step: those of each micro-batch, and the rest."""

    micro_batch: float
    rest: float
    first: float
    """What the first step takes longer: it compiles, and fills caches."""

    def seconds(self, num_micro_batches: float) -> float:
        """Of a step."""
        return self.rest + num_micro_batches * self.micro_batch


@dataclass(frozen=True)
class RandomRows:
    """Rows of random tokens, as many as a step has, for a corpus that is not there yet."""

    rows_per_step: int
    rows_per_micro_batch: int
    context_length: int
    vocab_size: int

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches of a step; each time the same."""
        generator = torch.Generator().manual_seed(step)
        for begin in range(0, self.rows_per_step, self.rows_per_micro_batch):
            rows = min(self.rows_per_micro_batch, self.rows_per_step - begin)
            batch = blank_batch(rows, self.context_length)
            batch.tokens.random_(0, self.vocab_size, generator=generator)
            yield batch


class Probe:
    """Times a model on this machine; the model keeps its weights."""

    def __init__(
        self,
        config: PlanConfig,
        text: PlannedText,
        model: Transformer,
        machine: Machine,
        micro_batch: MicroBatch,
        context_length: int,
    ) -> None:
        self.config, self.text, self.model, self.machine = config, text, model, machine
        self.micro_batch, self.context_length = micro_batch, context_length

    def step(self, rows_per_step: int | None, compile: str) -> StepTime:
        """Time steps of so many rows; None: the number is not known yet."""
        rows = self.micro_batch.rows
        number = None if rows_per_step is None else rows_per_step / rows
        with training_kernels(self.machine.device, self.machine.dtype):
            if number is not None and number <= MAX_TIMED_MICRO_BATCHES:
                assert rows_per_step is not None
                usual, first = self.time_steps(rows_per_step, compile)
                return StepTime(0.0, usual, max(0.0, first - usual))
            one, first = self.time_steps(rows, compile)
            several, _ = self.time_steps(MAX_TIMED_MICRO_BATCHES * rows, compile)
        each = max(0.0, several - one) / (MAX_TIMED_MICRO_BATCHES - 1)
        return StepTime(each, max(0.0, one - each), max(0.0, first - one))

    def time_steps(self, rows_per_step: int, compile: str) -> tuple[float, float]:
        """Seconds of a usual step, and of the first."""
        with tempfile.TemporaryDirectory() as directory:
            loop = Loop(self.training(Path(directory) / "run", rows_per_step, compile))
            took: list[float] = []
            for step in range(TIMED_STEPS + 1):
                begin = time.monotonic()
                loop.optimizer_step(step, 0.0)
                took.append(time.monotonic() - begin)
                spent = sum(took[1:])
                if step > 1 and spent > TIMED_SECONDS:
                    break
                if step >= FEW_TIMED_STEPS and spent > ENOUGH_SECONDS:
                    break
        return statistics.median(took[1:]), took[0]

    def training(self, directory: Path, rows_per_step: int, compile: str) -> Training:
        """What the loop needs for its steps; nothing is written, evaluated or saved."""
        config, collected = self.config, self.text.collected
        rows = min(self.micro_batch.rows, rows_per_step)
        data: TrainingData
        if collected is None:
            data = RandomRows(rows_per_step, rows, self.context_length, self.text.vocab_size)
        else:
            data = PretrainingData(
                collected.train,
                context_length=self.context_length,
                rows_per_step=rows_per_step,
                rows_per_micro_batch=rows,
                seed=config.seed,
                weights=collected.weights,
                mask_documents=config.mask_documents,
            )
        lr = config.optim.lr or derived_lr(config.optim.name, self.model.config.hidden_size)
        return Training(
            run=Run(directory, "plan", config, {}),
            model=self.model,
            tokenizer=cast(Tokenizer, collected and collected.tokenizer),  # for checkpoints alone
            data=data,
            loss=pretraining_loss(config.z_loss),
            evaluate=dict,
            goal=LOWEST_LOSS,
            lineage=Lineage(None, "", None),
            device=self.machine.device,
            dtype=self.machine.dtype,
            lr=lr,
            optim=with_weight_decay(config.optim, lr, 1, 1),
            schedule=config.schedule,
            checkpoint=config.checkpoint,
            evaluation=config.evaluate,
            steps=1,
            seconds=None,
            compile=compile,
            dropout=config.dropout,
            fp8=config.fp8,
            checkpoint_blocks=self.micro_batch.checkpoint_blocks,
        )

    def evaluations(self, num_evaluations: int, seconds_per_token: float) -> float:
        """Seconds of all evaluations of a run: the first, those on the way, and the last.

        seconds_per_token: of training, from which they follow where there is no corpus.
        """
        config, collected = self.config, self.text.collected
        tokens: float = config.evaluate.max_tokens
        budget = config.budget.wall_seconds
        if budget is not None:
            tokens = affordable_evaluation(config.evaluate.max_tokens, seconds_per_token, budget)
        if collected is None:
            return FORWARD_SHARE * seconds_per_token * tokens * (num_evaluations + 2)
        there = sum(shard.info.tokens for shard in collected.validation)
        tokens = min(tokens, there)
        evaluate = evaluator(
            config,
            self.model,
            collected.validation,
            self.machine,
            self.context_length,
            self.micro_batch.rows,
        )
        timed = min(tokens, EVALUATED_TOKENS)
        each = seconds_of(lambda: evaluate(round(timed))) / timed
        sampling = 0.0
        if config.evaluate.num_samples and (budget is None or budget >= SHORT_BUDGET_SECONDS):
            sampling = seconds_of(self.sample)
        last = max(tokens, there if budget is None else min(there, 0.1 * budget / each))
        return each * (tokens * (num_evaluations + 1) + last) + num_evaluations * sampling

    def sample(self) -> None:
        """Continue as many prompts as an evaluation shows."""
        generate(
            self.model,
            [[index] * 8 for index in range(self.config.evaluate.num_samples)],
            max_new_tokens=min(SAMPLE_TOKENS, self.context_length // 2),
            stop_ids=[],
            sampling=Sampling(temperature=0.8, top_p=0.95),
            generator=torch.Generator(self.machine.device).manual_seed(0),
        )


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of the quicker of two calls: the first one warms up."""
    took = []
    for _ in range(2):
        begin = time.monotonic()
        call()
        took.append(time.monotonic() - begin)
    return min(took)
