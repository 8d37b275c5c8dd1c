"""Typed schemas of the config groups: every key a group file in `conf/` may set, with unit and reason.

Only the standard library is imported here. Each class checks itself when it is made, so that an
object of these classes is valid wherever it turns up. All problems are said at once.
"""

from dataclasses import dataclass, field
from difflib import get_close_matches

from llmstages.errors import UserError


def refuse(problems: list[str]) -> None:
    """Raise one `UserError` that lists every problem; do nothing when there is none."""
    if problems:
        raise UserError("; ".join(problems))


def choice_problem(key: str, value: str, choices: tuple[str, ...]) -> list[str]:
    """A problem (in a list, for adding up) when `value` is none of `choices`."""
    if value in choices:
        return []
    switch = {"True": "on", "False": "off"}.get(value)
    if switch in choices:
        return [f"{key}: YAML reads a bare {switch} as {value.lower()}: write '{switch}' in quotes"]
    near = get_close_matches(value, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
    return [f"{key}={value} is unknown: {hint}"]


def range_problem(
    key: str, value: float | None, low: float, high: float = float("inf")
) -> list[str]:
    """A problem (in a list) when `value` is given and lies outside `low`..`high`, both included."""
    if value is None or low <= value <= high:
        return []
    bounds = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
    return [f"{key}={value:g} must be {bounds}"]


SOURCE_KINDS = ("files", "python_topics", "python_stdlib", "python_packages")


@dataclass
class SourceConfig:
    """One source of a corpus."""

    kind: str = "files"
    """`files` (files, folders, globs), or what every Python carries: `python_topics` (pydoc's chapters),
    `python_stdlib` and `python_packages` (docstrings and documentation, read without importing)."""
    paths: list[str] = field(default_factory=list)
    """Files, folders or globs; folders are searched for every readable format."""
    text_column: str | None = None
    """Column or field that holds the text in tabular files; found by its name when null."""
    weight: float | None = None
    """Share of the training text drawn from this source; null for all: in proportion to their size."""
    license: str | None = None
    """Licence of the texts, kept in the manifest."""
    max_package_bytes: int = 300_000
    """Most text taken from one installed package, so that no large one drowns the others."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("source kind", self.kind, SOURCE_KINDS)
            + range_problem("source max_package_bytes", self.max_package_bytes, 1000)
            + range_problem("source weight", self.weight, 0.0)
        )


@dataclass
class CorpusConfig:
    """A corpus recipe: its sources and how it is split."""

    name: str = "local"
    """Name of the corpus; its directory is `corpora/<name>`."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name."""
    validation_share: float = 0.05
    """Share of the text kept out of training, to measure the model on."""
    min_documents_to_split: int = 20
    """With fewer documents, the end of each document is the validation text, not whole ones."""

    def __post_init__(self) -> None:
        weights = {name: source.weight for name, source in self.sources.items()}
        without = [name for name, weight in weights.items() if weight is None]
        partly = (
            [f"corpus.sources.{without[0]} has no weight but others have: give all one, or none"]
            if 0 < len(without) < len(weights)
            else []
        )
        refuse(
            partly
            + range_problem("corpus.validation_share", self.validation_share, 0.001, 0.5)
            + range_problem("corpus.min_documents_to_split", self.min_documents_to_split, 2)
        )


@dataclass
class TokenizerConfig:
    """How the SentencePiece tokenizer of a corpus is trained."""

    kind: str = "bpe"
    """`bpe`, `unigram` or `char`."""
    vocab_size: int = 4096
    """Number of pieces, control and byte pieces included; made smaller, and said, for tiny corpora."""
    sample_bytes: int = 20_000_000
    """At most this much training text is read to train the tokenizer, spread over all of it."""
    character_coverage: float = 0.9995
    """Share of characters that get a piece of their own; the others are spelled in bytes.
    SentencePiece takes 0.98 to 1."""
    split_digits: bool = True
    """Each digit is a piece of its own, so that numbers are read alike wherever they stand."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("tokenizer.kind", self.kind, ("bpe", "unigram", "char"))
            + range_problem("tokenizer.vocab_size", self.vocab_size, 300, 1_000_000)
            + range_problem("tokenizer.sample_bytes", self.sample_bytes, 10_000)
            + range_problem("tokenizer.character_coverage", self.character_coverage, 0.98, 1.0)
        )


@dataclass
class QualityConfig:
    """Document quality rules; a rule set to null is off."""

    name: str = "default"
    """Name of the rule set, kept in the manifest."""
    min_words: int | None = None
    """Fewest words a document may have."""
    max_words: int | None = None
    """Most words a document may have."""
    min_mean_word_length: float | None = None
    """Least mean word length, in characters."""
    max_mean_word_length: float | None = None
    """Greatest mean word length, in characters."""
    max_symbol_word_ratio: float | None = None
    """Most `#` signs and ellipses a word."""
    max_bullet_lines_share: float | None = None
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines_share: float | None = None
    """Greatest share of lines that end with an ellipsis."""
    min_alphabetic_words_share: float | None = None
    """Least share of words with at least one letter."""
    min_stop_words: int | None = None
    """Fewest different English stop words (the, be, to, of, and, that, have, with)."""
    max_duplicate_lines_share: float | None = None
    """Greatest share of lines that repeat an earlier line."""
    max_replacement_share: float | None = None
    """Greatest share of characters that are U+FFFD or control characters: signs of broken decoding."""


@dataclass
class DedupConfig:
    """Removal of duplicate documents."""

    exact: bool = True
    """Keep one of the documents whose text is equal after case, space and Unicode form are folded."""


@dataclass
class LanguageConfig:
    """Language identification."""

    identify: bool = False
    """Write each document's language (ISO 639-1) to its `language` column."""
    keep: list[str] = field(default_factory=list)
    """Keep only these languages; empty keeps all."""

    def __post_init__(self) -> None:
        if self.keep and not self.identify:
            raise UserError(f"language.keep={self.keep} needs language.identify=true")


@dataclass
class PiiConfig:
    """Personal data in documents."""

    replace_emails: bool = False
    """Replace e-mail addresses by `<email>`."""
    replace_ips: bool = False
    """Replace public IPv4 addresses by `<ip>`."""


@dataclass
class ModelConfig:
    """Shape of the transformer; the vocabulary comes from the corpus's tokenizer."""

    name: str = "micro"
    """Name of the size, for display."""
    layout: str = "qwen3"
    """Family layout: names and switches on disk."""
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
    """Inner width of the SwiGLU feed-forward layer."""
    context_length: int = 256
    """Longest sequence, in tokens."""
    tie_embeddings: bool = True
    """Input and output embeddings share their weights: saves parameters where the vocabulary is a large part."""
    rope_theta: float = 10_000.0
    """Base of the rotary position frequencies."""
    norm_eps: float = 1e-6
    """Epsilon of RMSNorm."""

    def __post_init__(self) -> None:
        problems = choice_problem("model.layout", self.layout, ("qwen3",))
        for key in (
            "num_layers",
            "hidden_size",
            "num_heads",
            "num_kv_heads",
            "intermediate_size",
        ):
            problems += range_problem(f"model.{key}", getattr(self, key), 1)
        problems += range_problem("model.context_length", self.context_length, 8)
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            problems.append(
                f"model.num_heads={self.num_heads} must be a multiple of "
                f"model.num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            problems.append(f"model.head_dim={self.head_dim} must be even: rotary pairs need it")
        refuse(problems)


@dataclass
class OptimConfig:
    """Optimizer."""

    name: str = "muon"
    """`muon` (Jordan et al. 2024; AdamW for embeddings, heads and norms) or `adamw` (Loshchilov and Hutter 2019)."""
    lr: float | None = None
    """Peak learning rate; null derives it from the model's width (see docs/architecture.md)."""
    embedding_lr: float | None = None
    """Peak rate of embeddings, heads and norms; null: three times `lr` under muon, `lr` under adamw."""
    momentum: float = 0.95
    """Muon's momentum (Nesterov)."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment; 0.95 follows GPT-3 (Brown et al. 2020)."""
    eps: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices in the blocks."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("optim.name", self.name, ("muon", "adamw"))
            + range_problem("optim.lr", self.lr, 0.0, 10.0)
            + range_problem("optim.embedding_lr", self.embedding_lr, 0.0, 10.0)
            + range_problem("optim.momentum", self.momentum, 0.0, 0.9999)
            + range_problem("optim.beta1", self.beta1, 0.0, 0.9999)
            + range_problem("optim.beta2", self.beta2, 0.0, 0.99999)
            + range_problem("optim.weight_decay", self.weight_decay, 0.0)
            + range_problem("optim.clip_norm", self.clip_norm, 0.0)
        )


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
    """How much may be spent on a run; at most one of these, `steps` and `epochs` is given."""

    seconds: float | None = None
    """Wall-clock seconds from the start of the process, evaluation and compilation included."""
    minutes: float | None = None
    """The same in minutes."""
    tokens: int | None = None
    """Training tokens, padding not counted."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("budget.seconds", self.seconds, 1)
            + range_problem("budget.minutes", self.minutes, 0.01)
            + range_problem("budget.tokens", self.tokens, 1)
        )


@dataclass
class CheckpointConfig:
    """When checkpoints are written."""

    every_steps: int | None = None
    """Optimizer steps between checkpoints; null: a tenth of the run. One is always written at the end."""
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
    """Validation tokens looked at on the cadence; the last evaluation takes all of them."""
    num_samples: int = 2
    """Sampled continuations (pretraining) or answers (instruct) shown at each evaluation."""
    num_generations: int = 64
    """Held-out answers generated for exact match, chrF and the share that stops (instruct)."""

    def __post_init__(self) -> None:
        refuse(
            range_problem("evaluate.every_steps", self.every_steps, 1)
            + range_problem("evaluate.max_tokens", self.max_tokens, 1)
            + range_problem("evaluate.num_samples", self.num_samples, 0)
            + range_problem("evaluate.num_generations", self.num_generations, 1)
        )
