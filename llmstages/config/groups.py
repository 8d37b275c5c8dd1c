"""Typed schemas of the groups of training: every key a group file in `conf/` may set, with unit and reason.

Those of `collect` are in `collect_groups.py`.

Only the standard library is imported here. Each class checks itself when it is made, so that an
object of these classes is valid wherever it turns up. All problems are said at once.
"""

from dataclasses import dataclass, field
from typing import Any

from llmstages.config.checks import choice_problem, range_problem, refuse

AUTO_MODEL = "auto"
"""Name of the model whose size is picked for the budget; its shape keys are 0 until then."""
MODEL_LAYOUTS = ("qwen3", "nanochat", "gpt2")
"""Families that a new model can be of."""
OBJECTIVES = ("answers", "preferences")
METHODS = ("full", "lora", "last", "head")
BLOCK_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
LORA_TARGETS = (*BLOCK_MATRICES, "embedding")
"""Matrices that adapters can be put beside."""
PICKED_KEYS = (
    *("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"),
)


LARGEST_COST = 1e9
LARGEST = {
    "num_layers": 10_000,
    "hidden_size": 2**20,
    "num_heads": 2**16,
    "num_kv_heads": 2**16,
    "intermediate_size": 2**22,
    "context_length": 2**21,
}
"""More than any model has: a slip of the keyboard must not fill the memory."""


@dataclass
class PublishedConfig:
    """What was published of the model that a shape is that of; `plan` shows it beside its own figures."""

    source: str | None = None
    """Where."""
    vocab_size: int | None = None
    """Tokens of its vocabulary; `plan` takes it where there is no corpus yet."""
    parameters: float | None = None
    """Embeddings included."""
    tokens: float | None = None
    """Training tokens; `plan` takes them where no length is given."""
    flops: float | None = None
    """Training FLOPs."""
    gpu: str | None = None
    """GPU of a published estimate of the cost."""
    gpu_flops: float | None = None
    """FLOP/s of one of them in that estimate."""
    price_per_hour: float | None = None
    """What an hour of one costs in it."""
    cost: float | None = None
    """Money, as estimated there."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("model.published.vocab_size", self.vocab_size, 1)
            + range_problem("model.published.parameters", self.parameters, 1)
            + range_problem("model.published.tokens", self.tokens, 1)
            + range_problem("model.published.flops", self.flops, 1)
            + range_problem("model.published.gpu_flops", self.gpu_flops, 1)
            + range_problem("model.published.price_per_hour", self.price_per_hour, 1e-6)
            + range_problem("model.published.cost", self.cost, 1e-6)
        )


@dataclass
class ModelConfig:
    """Shape of the transformer; the vocabulary comes from the corpus's tokenizer."""

    name: str = "micro"
    """Name of the size, for display."""
    layout: str = "qwen3"
    """Family: `qwen3` (every engine reads it), `nanochat` (squared ReLU, norms without weights, soft cap on the logits; transformers reads it) or `gpt2` (LayerNorm, biases, GELU, learned positions; every engine reads it)."""
    num_layers: int = 6
    """Transformer blocks."""
    hidden_size: int = 256
    """Width of the residual stream."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 4
    """Key and value heads; fewer than `num_heads` is grouped-query attention."""
    head_dim: int = 64
    """Width of one head."""
    intermediate_size: int = 640
    """Inner width of the feed-forward layer: three matrices in `qwen3` (SwiGLU), two in the others."""
    context_length: int = 256
    """Longest sequence, in tokens."""
    tie_embeddings: bool = True
    """Input and output embeddings share their weights: saves parameters where the vocabulary is a large part."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-6
    """Epsilon of the norms."""
    published: PublishedConfig = field(default_factory=PublishedConfig)

    def __post_init__(self) -> None:
        problems = choice_problem("model.layout", self.layout, MODEL_LAYOUTS)
        if self.name == AUTO_MODEL:
            problems += [
                f"model.{key}={getattr(self, key)} is given with model=auto, which picks it"
                for key in PICKED_KEYS
                if getattr(self, key) != 0
            ]
            if self.context_length != 0:
                problems += range_problem("model.context_length", self.context_length, 8)
            refuse(problems)
            return
        for key in (
            "num_layers",
            "hidden_size",
            "num_heads",
            "num_kv_heads",
            "intermediate_size",
        ):
            problems += range_problem(f"model.{key}", getattr(self, key), 1, LARGEST[key])
        problems += range_problem(
            "model.context_length", self.context_length, 8, LARGEST["context_length"]
        )
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            problems.append(
                f"model.num_heads={self.num_heads} must be a multiple of "
                f"model.num_kv_heads={self.num_kv_heads}"
            )
        problems += range_problem("model.rope_theta", self.rope_theta, 1.0)
        problems += range_problem("model.norm_eps", self.norm_eps, 0.0, 0.1)
        if self.head_dim < 2 or self.head_dim % 2:
            problems.append(f"model.head_dim={self.head_dim} must be even: rotary pairs need it")
        refuse(problems)


@dataclass
class OptimConfig:
    """Optimizer."""

    name: str = "muon"
    """`muon` (Jordan et al. 2024; AdamW for embeddings, heads and norms), `adamw` (Loshchilov and Hutter 2019), or `inherited`: as the base was trained."""
    lr: float | None = None
    """Peak learning rate; null derives it from the model's width, lower with `base=` (see docs/architecture.md)."""
    embedding_lr: float | None = None
    """Peak rate of embeddings, heads and norms; null: three times `lr` under muon, `lr` under adamw."""
    momentum: float = 0.95
    """Muon's momentum (Nesterov)."""
    num_iterations: int = 5
    """Newton-Schulz iterations by which Muon makes an update orthogonal."""
    neuron_beta: float = 0.95
    """Decay of the running size of each neuron's update (NorMuon, Li et al. 2025); 0 switches that scaling off."""
    cautious_decay: bool = True
    """Muon's weight decay leaves out weights that the update makes larger (Chen et al. 2025)."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment; 0.95 follows GPT-3 (Brown et al. 2020)."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float | None = 0.1
    """Decoupled weight decay of the matrices in the blocks; null derives it from rate and length (see docs/architecture.md)."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("optim.name", self.name, ("muon", "adamw", "inherited"))
            + range_problem("optim.lr", self.lr, 0.0, 10.0)
            + range_problem("optim.embedding_lr", self.embedding_lr, 0.0, 10.0)
            + range_problem("optim.momentum", self.momentum, 0.0, 0.9999)
            + range_problem("optim.num_iterations", self.num_iterations, 1, 5)
            + range_problem("optim.neuron_beta", self.neuron_beta, 0.0, 0.9999)
            + range_problem("optim.beta1", self.beta1, 0.0, 0.9999)
            + range_problem("optim.beta2", self.beta2, 0.0, 0.99999)
            + range_problem("optim.eps", self.eps, 0.0, 1.0)
            + range_problem("optim.weight_decay", self.weight_decay, 0.0)
            + range_problem("optim.clip_norm", self.clip_norm, 0.0)
        )


@dataclass
class DecideConfig:
    """How a classifier's probabilities become labels; found on the validation rows after training."""

    calibrate: bool = True
    """Divide the logits by one temperature fitted on the validation rows (Guo et al. 2017), so that probabilities say how often they are right."""
    positive: str | None = None
    """Of two labels the one that is looked for: it is given from a threshold on, found by one of the next three keys."""
    cost: Any = None
    """What mistakes cost. Of two labels `{fp: 1, fn: 5}`: to give `positive` wrongly, and to miss it. Of any number `{TRUE: {GIVEN: 5}}`, where a mistake that is not named costs 1: the label of the least expected cost is given."""
    min_precision: float | None = None
    """Share of the texts given `positive` that have to be right: the threshold that finds most so."""
    min_recall: float | None = None
    """Share of the texts with `positive` that have to be found: the highest threshold that does."""
    refuse_share: float = 0.0
    """Share of the validation texts to be refused as out of scope, the least sure ones; new ones less sure than these get no label. 0: none is."""

    def __post_init__(self) -> None:
        problems = range_problem("decide.min_precision", self.min_precision, 1e-6, 1.0)
        problems += range_problem("decide.min_recall", self.min_recall, 1e-6, 1.0)
        problems += range_problem("decide.refuse_share", self.refuse_share, 0.0, 0.5)
        rules = {
            "cost": self.cost,
            "min_precision": self.min_precision,
            "min_recall": self.min_recall,
        }
        given = [f"decide.{name}" for name, value in rules.items() if value]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} are given: keep one of them")
        if self.positive is not None and not given:
            problems.append(
                f"decide.positive={self.positive} needs decide.cost, decide.min_precision or "
                "decide.min_recall: by what its threshold is found"
            )
        problems += self._cost_problems()
        refuse(problems)

    @property
    def is_asked(self) -> bool:
        """Whether labels are to be given by another rule than the likeliest."""
        rules = (self.positive, self.cost, self.min_precision, self.min_recall)
        return any(rules) or self.refuse_share > 0

    def _cost_problems(self) -> list[str]:
        if self.cost is None:
            return []
        rows: dict[Any, Any] = self.cost if isinstance(self.cost, dict) else {"it": None}
        by_label = [isinstance(row, dict) for row in rows.values()]
        if any(by_label) and not all(by_label):
            return ["decide.cost: give fp and fn, or a row {GIVEN: 5} for each label, not both"]
        if any(by_label) and self.positive is not None:
            return ["decide.positive needs decide.cost={fp: 1, fn: 5}; costs by label need none"]
        for name, row in rows.items():
            for cost in row.values() if isinstance(row, dict) else [row]:
                number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
                if not (number and 0 <= cost <= LARGEST_COST):
                    return [f"decide.cost: {name} is no cost of 0 or more: write {{fp: 1, fn: 5}}"]
        return []


@dataclass
class MethodConfig:
    """Which weights fine-tuning changes, and by which objective."""

    name: str = "full"
    """`full`: all; `lora`: adapters beside matrices (Hu et al. 2021); `last`: the last blocks, the last norm and a head of its own; `head`: a classifier's head alone."""
    rank: int = 16
    """Rank of an adapter."""
    alpha: float = 32.0
    """What an adapter adds is multiplied by `alpha / rank`."""
    targets: list[str] | None = None
    """Matrices that get an adapter: `query`, `key`, `value`, `output`, `gate`, `up` and `down` of the blocks, and `embedding`, which is the token embedding and the output matrix; null: all those of the blocks (Dettmers et al. 2023), and `embedding` where it has a third of the model's parameters or more, unless `decomposed`."""
    rank_stabilised: bool = False
    """Multiply by `alpha / sqrt(rank)` instead, which suits high ranks (Kalajdzievski 2023, rsLoRA)."""
    decomposed: bool = False
    """Train the norms of the rows too (Liu et al. 2024, DoRA)."""
    quantised: bool = False
    """Keep the matrices of the blocks in 4 bits beside the adapters (Dettmers et al. 2023, QLoRA); needs the extra `qlora`."""
    last_blocks: int = 2
    """Blocks that `last` trains."""
    objective: str = "answers"
    """`answers`: make the answers likelier; `preferences` (of rows with `chosen` and `rejected`): make the chosen answer likelier than the rejected one (Rafailov et al. 2023, DPO)."""
    beta: float = 0.1
    """How much a change of the log probabilities counts as reward; smaller lets the model move farther from its base."""

    def __post_init__(self) -> None:
        problems = choice_problem("method.name", self.name, METHODS)
        problems += range_problem("method.rank", self.rank, 1)
        problems += range_problem("method.alpha", self.alpha, 1e-6)
        problems += range_problem("method.last_blocks", self.last_blocks, 1)
        problems += choice_problem("method.objective", self.objective, OBJECTIVES)
        problems += range_problem("method.beta", self.beta, 1e-6, 100.0)
        for target in self.targets or ():
            problems += choice_problem("method.targets", target, LORA_TARGETS)
        if self.quantised and self.name != "lora":
            problems.append(
                f"method.quantised=true goes with adapters, not with method.name={self.name}: "
                "method=qlora"
            )
        if self.decomposed and "embedding" in (self.targets or ()):
            problems.append(
                "method.decomposed=true goes with the matrices of the blocks, as an embedding that "
                "is the output matrix too has two kinds of norms: method.targets without embedding"
            )
        if self.name != "lora":
            problems += [
                f"method.{key} is for adapters, and method.name={self.name} has none: method=lora"
                for key in ("rank", "alpha", "targets", "rank_stabilised", "decomposed")
                if getattr(self, key) != getattr(type(self), key)
            ]
        if self.targets == []:
            problems.append("method.targets=[] leaves nothing to train: name some of the matrices")
        refuse(problems)


@dataclass
class ReplayConfig:
    """Text of the base's corpus between the answers, so that less of it is forgotten."""

    share: float = 0.0
    """Share of the tokens of each optimizer step that are corpus text, every one of them learnt (Ibrahim et al. 2024); 0: none."""
    data: str | None = None
    """Corpus directory, read by `share` and for the bits a byte before and after; null: the one that the base was pretrained on, where it is still there."""

    def __post_init__(self) -> None:
        refuse(range_problem("replay.share", self.share, 0.0, 0.9))


@dataclass
class ScheduleConfig:
    """Learning rate over the run."""

    name: str = "cosine"
    """`cosine`, `wsd` (warmup, stable, decay; Hu et al. 2024) or `constant`."""
    warmup_share: float = 0.02
    """Share of the steps in which the rate rises linearly from 0."""
    decay_share: float = 0.3
    """Share of the steps in which `wsd` falls linearly to its end."""
    final_lr_share: float = 0.05
    """Rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("schedule.name", self.name, ("cosine", "wsd", "constant"))
            + range_problem("schedule.warmup_share", self.warmup_share, 0.0, 1.0)
            + range_problem("schedule.decay_share", self.decay_share, 0.0, 1.0)
            + range_problem("schedule.final_lr_share", self.final_lr_share, 0.0, 1.0)
            + (
                [
                    f"schedule.warmup_share={self.warmup_share:g} and "
                    f"schedule.decay_share={self.decay_share:g} add up to more than 1"
                ]
                if self.name == "wsd" and self.warmup_share + self.decay_share > 1
                else []
            )
        )


@dataclass
class BudgetConfig:
    """How much may be spent on a run; at most one length, `steps` and `epochs` among them, is given."""

    seconds: float | None = None
    """Wall-clock seconds from the start of the process, evaluation and compilation included."""
    minutes: float | None = None
    """The same in minutes."""
    tokens: int | None = None
    """Training tokens, padding not counted."""
    flops: float | None = None
    """Training FLOPs, forward and backward; one token costs 6 parameters + 12 layers x heads x head_dim x length (PaLM)."""
    cost: float | None = None
    """Money, in the currency of `budget.price_per_hour`: buys `3600 * cost / price_per_hour` seconds."""
    price_per_hour: float | None = None
    """What an hour of this machine, all its GPUs together, costs; given with `budget.cost`, and only with it."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("budget.seconds", self.seconds, 1)
            + range_problem("budget.minutes", self.minutes, 0.01)
            + range_problem("budget.tokens", self.tokens, 1)
            + range_problem("budget.flops", self.flops, 1)
            + range_problem("budget.cost", self.cost, 1e-6)
            + range_problem("budget.price_per_hour", self.price_per_hour, 1e-6)
        )

    @property
    def lengths(self) -> dict[str, float | None]:
        """The budgets by their keys; the price is none."""
        return {
            "budget.seconds": self.seconds,
            "budget.minutes": self.minutes,
            "budget.tokens": self.tokens,
            "budget.flops": self.flops,
            "budget.cost": self.cost,
        }

    @property
    def wall_seconds(self) -> float | None:
        """Seconds of wall-clock time that are allowed: given, from minutes, or bought; None: no limit."""
        if self.cost is not None and self.price_per_hour is not None:
            return 3600 * self.cost / self.price_per_hour
        return 60 * self.minutes if self.minutes is not None else self.seconds


@dataclass
class ReportConfig:
    """How a run is shown; nothing of it changes the result."""

    curves: bool = True
    """Draw the curves into the run's `report/` at the end, which takes about a second."""
    live: str = "auto"
    """Chart of the loss above the progress bar: `auto` in a terminal, `on` also once at the end of a log file, `off` never."""

    def __post_init__(self) -> None:
        refuse(choice_problem("report.live", self.live, ("auto", "on", "off")))


@dataclass
class CheckpointConfig:
    """When checkpoints are written."""

    every_steps: int | None = None
    """Optimizer steps between checkpoints, besides those that follow each evaluation; null: those alone."""
    keep: int = 2
    """Newest checkpoints kept; `best` and `last` are always kept."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("checkpoint.every_steps", self.every_steps, 1)
            + range_problem("checkpoint.keep", self.keep, 1)
        )


@dataclass
class EvaluateConfig:
    """Evaluation during and after training."""

    every_steps: int | None = None
    """Optimizer steps between evaluations; null: a tenth of the run. One is always done at the end."""
    max_tokens: int = 32_768
    """Validation tokens looked at on the cadence; the last evaluation takes all, or what a tenth of a time budget allows."""
    num_samples: int = 2
    """Sampled continuations (pretraining) or answers (instruct) shown at each evaluation."""
    num_generations: int = 64
    """Held-out answers generated for exact match, chrF, BLEU, ROUGE and the share that stops (instruct); 0: none, the loss alone."""
    abilities: list[str] = field(default_factory=list)
    """Files or folders of questions that are asked at each evaluation (pretraining): multiple choice, last words, labelled texts."""
    ability_items: int = 100
    """Questions of each that are asked; fewer in a short time budget."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("evaluate.every_steps", self.every_steps, 1)
            + range_problem("evaluate.max_tokens", self.max_tokens, 1)
            + range_problem("evaluate.num_samples", self.num_samples, 0)
            + range_problem("evaluate.num_generations", self.num_generations, 0)
            + range_problem("evaluate.ability_items", self.ability_items, 1)
        )
