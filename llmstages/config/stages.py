"""Typed schemas of the subcommands: the whole config of each, as its stage receives it.

Only the standard library is imported here. Keys that mean the same have the same name everywhere.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstages.config.checks import (
    choice_problem,
    choices_problem,
    columns_problem,
    range_problem,
    refuse,
)
from llmstages.config.collect_groups import (
    CorpusConfig,
    DecontaminateConfig,
    DedupConfig,
    EngineConfig,
    FetchConfig,
    LanguageConfig,
    PiiConfig,
    QualityConfig,
    TokenizerConfig,
)
from llmstages.config.groups import (
    BudgetConfig,
    CheckpointConfig,
    DecideConfig,
    EvaluateConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    ReplayConfig,
    ReportConfig,
    ScheduleConfig,
)

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")
BAD_ROWS = ("refuse", "skip")
OVERLAPS = ("leave_out", "keep")
SWITCH = ("auto", "on", "off")
PARALLEL = ("auto", "ddp", "fsdp")
LOGGERS = ("tensorboard", "wandb", "trackio")
BASELINES = ("majority", "tfidf", "probe", "random_weights")
COMPILE = ("auto", "on", "blocks", "off")
POOLINGS = ("last", "mean")
HEAD_NAME = re.compile(r"[\w-]+")
LOSSES = ("cross_entropy", "focal")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLINGS = ("natural", "balanced")


@dataclass
class CollectConfig:
    """`llmstages collect [PATH ...]`: raw text -> corpora/<name>/."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    pii: PiiConfig = field(default_factory=PiiConfig)
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    paths: list[str] = field(default_factory=list)
    """Files, folders, globs or remote paths: the source `local` of the local recipe, or `files` beside the sources of another."""
    text_column: str | None = None
    """Column that holds the text in the tables among `paths`; tables without it are skipped. Null: found by its name."""
    name: str | None = None
    """Name of the corpus directory; null takes the recipe's name."""
    corpora_dir: str = "corpora"
    """Where corpora are kept."""
    seed: int = 0
    """Seed of the validation split."""
    repair: bool = True
    """Mend wrongly decoded text, line ends, control characters and the Unicode form (NFC); false: texts stay as decoded."""
    bad_rows: str = "skip"
    """What cannot be read (a broken row, record or file) is skipped and counted (`skip`) or ends the run (`refuse`)."""
    keep_work: bool = True
    """Keep the steps in between in `<corpora_dir>/<name>.work`, so that another threshold needs no new reading."""
    overwrite: bool = False
    """Replace a finished corpus of the same name."""

    def __post_init__(self) -> None:
        refuse(choice_problem("bad_rows", self.bad_rows, BAD_ROWS))


def paths_in(data: Any) -> list[str]:
    """The paths in a key that takes one or several; none where it is missing, or holds else."""
    listed: list[Any] = data if isinstance(data, list) else [data]
    return listed if all(isinstance(path, str) for path in listed) else []


@dataclass
class TrainingConfig:
    """What the three training stages share."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    logger: Any = field(default_factory=list)
    """Experiment tracker, or a list of them, that the figures go to besides metrics.jsonl: `tensorboard` (event files in the run), `wandb`, `trackio`; needs the extra `tracking`."""
    name: str | None = None
    """Name of the run directory; null derives it from the stage and its data."""
    name_suffix: str | None = None
    """Folder inside the run directory's name; a sweep sets it to the job's number, so that no two jobs share a directory."""
    runs_dir: str = "runs"
    """Where runs are kept."""
    data: str | None = None
    """What is trained on, by path."""
    base: str | None = None
    """Checkpoint to start from: a run directory (its best), or a checkpoint directory."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data and of the samples."""
    steps: int | None = None
    """Optimizer steps. At most one of `steps`, `epochs` and the budgets is given."""
    epochs: float | None = None
    """Passes over the training data."""
    stop_after: int | None = None
    """Optimizer steps after which this process saves and leaves, as if interrupted; the run's length stays."""
    batch_tokens: int | None = None
    """Non-padding tokens an optimizer step; null derives it from the stage."""
    micro_batch_tokens: int | None = None
    """Tokens (padding included) that go through the model at once; null fits the device."""
    dropout: float = 0.0
    """Share of each block's results left out while training; helps where a small corpus is read many times."""
    device: str = "auto"
    """`auto` takes cuda, then mps, then cpu."""
    dtype: str = "auto"
    """Autocast type of matrix products; `auto` is bfloat16 where the processor has it, else float32. Weights stay float32."""
    compile: str = "auto"
    """`torch.compile`: `on`, `blocks` (one block for all layers: half the time of compiling), `off`, or `auto`: what a run
    of its length pays for."""
    parallel: str = "auto"
    """Of several processes (`torchrun --nproc-per-node=2 -m llmstages ...`): `ddp`, each holds the model; `fsdp`, it is sharded; `auto` is `ddp`."""
    activation_checkpointing: str = "auto"
    """Compute the inside of each block again in the backward pass, for a third more time and a fraction of the memory; `auto`: on a GPU whose memory is too small otherwise."""
    overwrite: bool = False
    """Replace a finished run of the same name."""

    def __post_init__(self) -> None:
        refuse(self.problems())

    def problems(self) -> list[str]:
        """What is wrong; a class below adds its own, so that all of it is said at once."""
        problems = (
            choice_problem("device", self.device, DEVICES)
            + choice_problem("dtype", self.dtype, DTYPES)
            + choice_problem("compile", self.compile, COMPILE)
            + choice_problem("parallel", self.parallel, PARALLEL)
            + choices_problem("logger", self.loggers, LOGGERS)
            + choice_problem("activation_checkpointing", self.activation_checkpointing, SWITCH)
            + range_problem("steps", self.steps, 1)
            + range_problem("epochs", self.epochs, 1e-6)
            + range_problem("stop_after", self.stop_after, 1)
            + range_problem("batch_tokens", self.batch_tokens, 1)
            + range_problem("dropout", self.dropout, 0.0, 0.9)
            + range_problem("micro_batch_tokens", self.micro_batch_tokens, 1)
        )
        lengths = {"steps": self.steps, "epochs": self.epochs, **self.budget.lengths}
        given = [f"{key}={value}" for key, value in lengths.items() if value is not None]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} are given: keep one of them")
        cost, price = self.budget.cost, self.budget.price_per_hour
        if cost is not None and price is None:
            problems.append("budget.cost is given without budget.price_per_hour: give both")
        elif (seconds := self.budget.wall_seconds) is not None and cost is not None and seconds < 1:
            problems.append(
                f"budget.cost={cost:g} at budget.price_per_hour={price:g} buys {seconds:.2g} s: "
                "it must be at least 1 s"
            )
        return problems

    @property
    def loggers(self) -> list[str]:
        """The trackers in `logger`."""
        logger: Any = self.logger
        return logger if isinstance(logger, list) else [] if logger is None else [logger]

    @property
    def data_paths(self) -> list[str]:
        """The paths in `data`; none where it is missing, or holds anything else."""
        return paths_in(self.data)

    @property
    def default_name(self) -> str:
        """Name of the run directory where `name` is null."""
        raise NotImplementedError

    @property
    def run_dir(self) -> Path:
        """Directory of the run; a job of a sweep has its own inside it."""
        return Path(self.runs_dir) / (self.name or self.default_name) / (self.name_suffix or "")

    @property
    def base_path(self) -> str:
        """The checkpoint that `base` names, or the usual one to fine-tune."""
        return self.base or f"{self.runs_dir}/pretrain"


@dataclass
class PretrainConfig(TrainingConfig):
    """`llmstages pretrain [CORPUS_DIR]`: corpus -> base model, by next-word prediction."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    corpora_dir: str = "corpora"
    """Where corpora are kept; `data` defaults to `<corpora_dir>/<corpus.name>`."""
    mask_documents: bool = False
    """Attention and positions stay inside a document. Off: a row is read through, over the ends of documents, which
    costs nothing; worth it where documents are much shorter than the context."""
    sample_prompts: list[str] = field(default_factory=list)
    """Prompts continued at each evaluation; empty takes openings of validation documents."""
    z_loss: float = 0.0
    """Coefficient of the squared log-sum-exp of the logits, added to the training loss; 1e-4 (PaLM) keeps logits from drifting in long bf16 runs, 0 leaves it out."""
    fp8: bool = False
    """Matrix products of the blocks in 8 bits while training; needs an Ada, Hopper or later GPU and bfloat16."""

    def problems(self) -> list[str]:
        return super().problems() + range_problem("z_loss", self.z_loss, 0.0, 1.0)

    @property
    def default_name(self) -> str:
        return "pretrain"

    @property
    def corpus_dir(self) -> str:
        """The corpus that `data` names, or the one of the recipe; `~` is the home."""
        return os.path.expanduser(self.data or f"{self.corpora_dir}/{self.corpus.name}")


@dataclass
class PlanConfig(PretrainConfig):
    """`llmstages plan [CORPUS_DIR]`: what `pretrain` with the same words would take: memory, time, energy, money."""

    gpus: int = 1
    """Processes, each with a GPU (or this machine's processor) of its own."""
    gpu: str | None = None
    """GPU that is planned with, from the data sheets in llmstages/train/gpus.py: `H100`, `RTX 4090`; null: this machine."""
    utilisation: float | None = None
    """Share of the GPU's peak that training reaches (MFU); null: 0.4, which large models have reached, or on this machine what the probe measures."""
    probe: bool = True
    """Time a few real steps where this machine is planned with."""
    corpus_tokens: float | None = None
    """Training tokens of a corpus that is not collected yet; null: as published of the recipe's sources."""
    vocab_size: int | None = None
    """Vocabulary where there is no corpus yet; null: as published of the model, or that of `collect`."""
    price_per_hour: float | None = None
    """What an hour of one GPU costs, or of this machine without one; null: its part of `budget.price_per_hour`, which is for all `gpus` together, or no money is counted."""
    watts: float | None = None
    """What one GPU, or this machine, draws; null: the data sheet's, without the machine around the GPU."""
    price_per_kwh: float | None = None
    """What a kilowatt-hour costs."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def problems(self) -> list[str]:
        prices = self.price_per_hour, self.budget.price_per_hour
        return (
            super().problems()
            + ([] if None in prices else ["price_per_hour and budget.price_per_hour: keep one"])
            + range_problem("gpus", self.gpus, 1, 1_000_000)
            + range_problem("utilisation", self.utilisation, 0.001, 1.0)
            + range_problem("corpus_tokens", self.corpus_tokens, 1)
            + range_problem("vocab_size", self.vocab_size, 2, 10_000_000)
            + range_problem("price_per_hour", self.price_per_hour, 0.0)
            + range_problem("watts", self.watts, 0.0)
            + range_problem("price_per_kwh", self.price_per_kwh, 0.0)
        )


@dataclass
class FinetuneConfig(TrainingConfig):
    """What both fine-tuning stages share."""

    method: MethodConfig = field(default_factory=MethodConfig)
    bad_rows: str = "refuse"
    """A broken row ends the run before it starts (`refuse`) or is skipped and counted (`skip`)."""
    validation_share: float = 0.1
    """Share of the rows used to choose the best checkpoint, when the data brings no split."""
    test_share: float = 0.1
    """Share of the rows kept for the final figures, when the data brings no split."""
    split_seed: int | None = None
    """Seed of the split; null takes `seed`."""
    validation_data: str | None = None
    """File with the validation rows, when they are given."""
    test_data: str | None = None
    """File with the test rows, when they are given."""
    overlap: str = "leave_out"
    """Rows of the data that are equal or nearly so to rows of the files above: `leave_out` of training, or `keep` them, as figures published on given files do."""
    patience: int | None = None
    """Evaluations in a row that end training early, none with a lower validation loss, or of a classifier a higher macro F1; null: it goes on to its last step."""

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += choice_problem("bad_rows", self.bad_rows, BAD_ROWS)
        problems += range_problem("validation_share", self.validation_share, 0.0, 0.9)
        problems += range_problem("test_share", self.test_share, 0.0, 0.9)
        problems += choice_problem("overlap", self.overlap, OVERLAPS)
        problems += range_problem("patience", self.patience, 1)
        if self.evaluate.abilities:
            problems.append(
                "evaluate.abilities are asked while pretraining alone: leave them out, and see "
                "llmstages evaluate"
            )
        if self.validation_share + self.test_share > 0.9:
            problems.append(
                f"validation_share={self.validation_share:g} and test_share={self.test_share:g} "
                "leave less than a tenth of the rows for training"
            )
        if self.method.quantised and self.parallel == "fsdp":
            problems.append(
                "parallel=fsdp cannot shard the 4 bits of method=qlora: parallel=ddp, or method=lora"
            )
        return problems


@dataclass
class FinetuneInstructConfig(FinetuneConfig):
    """`llmstages finetune-instruct FILE`: base model + instruction-answer pairs -> specialist."""

    data: Any = None
    """What is trained on: a file, a folder of files, or a list of these."""
    data_weights: list[float] = field(default_factory=list)
    """Share of an epoch's rows drawn from each of several `data`; empty reads every row once."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    prompt_column: str | None = None
    """Column of the prompt; found by its name when null."""
    answer_column: str | None = None
    """Column of the answer; found by its name when null."""
    max_cut_share: float = 0.2
    """Share of the answers the context may cut off: without their ends a model learns to go on; above this a longer
    base or shorter rows are needed."""
    max_new_tokens: int = 128
    """Longest answer generated when measuring, in tokens."""

    def problems(self) -> list[str]:
        problems = super().problems() + range_problem("max_new_tokens", self.max_new_tokens, 1)
        problems += range_problem("max_cut_share", self.max_cut_share, 0.0, 1.0)
        problems += self._data_problems()
        if self.method.name == "head":
            problems.append("method=head trains a classifier's head: choose full, lora or last")
        if self.method.objective == "preferences":
            if self.replay.share:
                problems.append(
                    f"replay.share={self.replay.share:g} has no place in method=dpo, whose loss is "
                    "one a pair: leave one of them out"
                )
            if self.answer_column is not None:
                problems.append(
                    f"answer_column={self.answer_column} is not used by method=dpo, whose answers "
                    "are chosen and rejected"
                )
        return problems

    @property
    def default_name(self) -> str:
        return f"{Path(self.data_paths[0]).stem}-instruct"

    def _data_problems(self) -> list[str]:
        if self.data is not None and not self.data_paths:
            return ["data is a path, or a list of paths, as [a.jsonl,b.csv]"]
        problems: list[str] = []
        for number, weight in enumerate(self.data_weights):
            problems += range_problem(f"data_weights[{number}]", weight, 1e-6, 1e6)
        if self.data_weights and len(self.data_weights) != len(self.data_paths):
            problems.append(
                f"data_weights has {len(self.data_weights)} numbers and data "
                f"{len(self.data_paths)}: give one for each"
            )
        return problems


@dataclass
class FinetuneClassifyConfig(FinetuneConfig):
    """`llmstages finetune-classify FILE`: base model + labelled texts -> classifier."""

    decide: DecideConfig = field(default_factory=DecideConfig)
    text_column: Any = None
    """Column of the text, or a list of columns whose texts are joined; found by its name when null."""
    text_template: str | None = None
    """How several texts are joined, as '{question} {passage}'; null: a line each, after the name of its column."""
    label_column: Any = None
    """Column of the label, or a list of columns with 0 or 1, a text having any number of labels; found by its name when null."""
    label_separator: str | None = None
    """What stands between the labels in a cell with any number of them, as ';'."""
    batch_size: int = 32
    """Examples an optimizer step."""
    pooling: str = "last"
    """What the head reads of a text: `last`, its end token's hidden state, as transformers does; `mean`, that of all its
    tokens, the end token included."""
    loss: str = "cross_entropy"
    """`cross_entropy`, or `focal`, to which texts that are easy count little (Lin et al. 2017)."""
    focal_gamma: float = 2.0
    """Power of the focal loss: a text whose label has the probability p counts `(1 - p) ** focal_gamma` times."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all labels."""
    token_dropout: float = 0.0
    """Share of a text's tokens that is left out when it is read in training, others each time (Iyyer et al. 2015)."""
    class_weights: str = "none"
    """`balanced`: texts of rare labels weigh more, so that all labels weigh alike; probabilities are then those of labels
    equally common."""
    sampling: str = "natural"
    """`natural`: every text once an epoch; `balanced`: every label equally often, with the same effect on probabilities."""
    seeds: int = 1
    """Trainings with seeds `seed`, `seed + 1`, ... on the same split; their figures are given with mean and spread."""
    folds: int = 1
    """Parts of the rows of which each gives the test rows of one training (cross-validation); 1: one split."""
    fold: int | None = None
    """Which of `folds`, counted from 0, is trained; null: all, one after the other."""
    head: str | None = None
    """Name under which the head is put beside the checkpoint in `base` too, as one more of its heads; with `method=head`."""
    baselines: Any = True
    """What to compare with: `majority`, `tfidf` (with logistic regression), `probe` (linear, on the frozen base) and `random_weights` (the same training from new weights, all of them whatever `method`, which costs it once more), as a list; true: the first three, false: none."""

    @property
    def default_name(self) -> str:
        return f"{Path(self.data_paths[0]).stem}-classify"

    @property
    def chosen_baselines(self) -> tuple[str, ...]:
        """Those of `BASELINES` to compare with."""
        if isinstance(self.baselines, list):
            return tuple(self.baselines)
        return BASELINES[:3] if self.baselines else ()

    def problems(self) -> list[str]:
        problems = super().problems() + range_problem("batch_size", self.batch_size, 1)
        if not isinstance(self.baselines, (bool, list)):
            problems.append(
                f"baselines={self.baselines}: true, false or a list, as [majority,probe]"
            )
        for name in self.baselines if isinstance(self.baselines, list) else []:
            problems += choice_problem("baselines", str(name), BASELINES)
        problems += choice_problem("pooling", self.pooling, POOLINGS)
        problems += self._loss_problems()
        problems += self._repeat_problems()
        problems += self._head_problems()
        problems += columns_problem("text_column", self.text_column)
        problems += columns_problem("label_column", self.label_column)
        if self.label_separator == "":
            problems.append("label_separator is empty: leave it out, or name what stands between")
        if self.method.objective != "answers":
            problems.append("method=dpo is for finetune-instruct: a classifier has no answers")
        if self.batch_tokens is not None:
            problems.append(
                f"batch_tokens={self.batch_tokens} is not used by a classifier: set batch_size"
            )
        return problems

    def _head_problems(self) -> list[str]:
        if self.head is None:
            return []
        problems = []
        if not HEAD_NAME.fullmatch(self.head):
            problems.append(f"head={self.head} is no name: letters, digits, - and _ make one")
        if self.method.name != "head":
            problems.append(
                f"head={self.head} goes beside weights that stay as they are: method=head"
            )
        if self.seeds > 1 or self.folds > 1:
            problems.append(f"head={self.head} is of one training: leave seeds and folds out")
        return problems

    def _repeat_problems(self) -> list[str]:
        problems = range_problem("seeds", self.seeds, 1, 1000)
        problems += range_problem("folds", self.folds, 1, 1000)
        problems += range_problem("fold", self.fold, 0, max(0, self.folds - 1))
        if self.folds > 1:
            if self.seeds > 1:
                problems.append(f"seeds={self.seeds} and folds={self.folds} are given: keep one")
            if self.test_data is not None:
                problems.append(
                    f"folds={self.folds} takes the test rows from the data, and "
                    f"test_data={self.test_data} is given: keep one"
                )
        elif self.fold is not None:
            problems.append(f"fold={self.fold} is one of several: give folds too")
        return problems

    def _loss_problems(self) -> list[str]:
        problems = (
            choice_problem("loss", self.loss, LOSSES)
            + range_problem("focal_gamma", self.focal_gamma, 1e-6, 100.0)
            + range_problem("label_smoothing", self.label_smoothing, 0.0, 0.99)
            + range_problem("token_dropout", self.token_dropout, 0.0, 0.9)
            + choice_problem("class_weights", self.class_weights, CLASS_WEIGHTS)
            + choice_problem("sampling", self.sampling, SAMPLINGS)
        )
        if self.loss == "focal" and self.label_smoothing:
            problems.append(
                f"label_smoothing={self.label_smoothing:g} holds back what is sure, and loss=focal "
                "passes over it: leave one of them out"
            )
        if self.loss != "focal" and self.focal_gamma != 2.0:
            problems.append(f"focal_gamma={self.focal_gamma:g} is not used by loss={self.loss}")
        if self.class_weights == self.sampling == "balanced":
            problems.append(
                "class_weights=balanced and sampling=balanced would even out the labels twice: "
                "keep one of them"
            )
        return problems
