"""Typed schemas of what is done with a checkpoint, a run or a data file once it is there.

Only the standard library is imported here. Keys that mean the same have the same name everywhere.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from llmstages.config.checks import choice_problem, columns_problem, range_problem, refuse
from llmstages.config.stages import (
    BAD_ROWS,
    DEVICES,
    DTYPES,
    SWITCH,
    paths_in,
)

EXPORT_DTYPES = {
    "gguf": ("f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"),
    "safetensors": ("bf16", "fp16", "fp32"),
    "onnx": ("fp32",),
}
"""Types of the weights by format, the default first."""


@dataclass
class AnswerConfig:
    """What `generate`, `chat` and `serve` share."""

    checkpoint_dir: str | None = None
    """Run directory (its best checkpoint) or checkpoint directory."""
    max_new_tokens: int = 200
    """Longest continuation, in tokens."""
    temperature: float = 0.8
    """Divides the logits before sampling; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Sample among this many likeliest tokens."""
    top_p: float | None = 0.95
    """Sample among the likeliest tokens that together hold this share of the probability."""
    seed: int = 0
    """Seed of the sampling."""
    device: str = "auto"
    """`auto` takes cuda, then mps, then cpu."""
    dtype: str = "auto"
    """`auto` is bfloat16 on cuda, else float32."""

    def __post_init__(self) -> None:
        refuse(self.problems())

    def problems(self) -> list[str]:
        """What is wrong; a class below adds its own, so that all of it is said at once."""
        return (
            choice_problem("device", self.device, DEVICES)
            + choice_problem("dtype", self.dtype, DTYPES)
            + range_problem("max_new_tokens", self.max_new_tokens, 1)
            + range_problem("temperature", self.temperature, 0.0)
            + range_problem("top_k", self.top_k, 1)
            + range_problem("top_p", self.top_p, 0.0, 1.0)
        )


@dataclass
class GenerateConfig(AnswerConfig):
    """`llmstages generate CHECKPOINT PROMPT`: text from a model."""

    prompt: str | None = None
    """Text to continue, or the instruction for a model tuned on instructions."""
    data: str | None = None
    """File of prompts instead of one: JSON Lines, JSON, CSV, TSV, Parquet, or plain text with one a line; JSON Lines come out."""
    output: str | None = None
    """File for the answers to `data`; null prints them."""
    prompt_column: str | None = None
    """Column of the prompt in `data`; found by its name when null."""
    bad_rows: str = "refuse"
    """A broken row of `data` ends the run (`refuse`) or is skipped and counted (`skip`)."""
    batch_size: int = 16
    """Answers to `data` that are generated at once."""
    num_samples: int = 1
    """Continuations of each prompt, which is read once."""
    top: int | None = None
    """Print this many likeliest next words with their probabilities instead of text."""
    chat: str = "auto"
    """`on`: the prompt is a user's turn; `off`: plain text to continue; `auto`: as the checkpoint was trained; another program's with a chat template speaks by that."""

    def problems(self) -> list[str]:
        problems = (
            super().problems()
            + choice_problem("chat", self.chat, SWITCH)
            + choice_problem("bad_rows", self.bad_rows, BAD_ROWS)
            + range_problem("num_samples", self.num_samples, 1)
            + range_problem("batch_size", self.batch_size, 1)
            + range_problem("top", self.top, 1, 1000)
        )
        if self.data is not None:
            for key in ("prompt", "top"):
                if (value := getattr(self, key)) is not None:
                    problems.append(f"data={self.data} and {key}={value} are given: keep one")
        elif self.output is not None:
            problems.append(f"output={self.output} is for the answers to a file: give data=FILE")
        return problems


@dataclass
class ChatConfig(AnswerConfig):
    """`llmstages chat CHECKPOINT`: a conversation with a model, line by line."""

    system: str | None = None
    """What the model is told before the conversation."""


@dataclass
class ServeConfig(AnswerConfig):
    """`llmstages serve CHECKPOINT`: a server that speaks OpenAI's endpoints, or classifies.

    Settings of answers are those of requests that bring none.
    """

    seed: int = 0
    """Seed of the sampling; a request without one is told from others by its number."""
    host: str = "127.0.0.1"
    """Address to listen at; only this machine can reach the default. 0.0.0.0 or ::: every network."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    name: str | None = None
    """What requests call the model; null takes the name of its directory."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key which requests must bring; null: none."""
    head: str | None = None
    """Of a classifier: which of the further heads beside the checkpoint is used; null: its own."""
    batch_size: int = 32
    """Answers that are generated, or texts that are classified, at once."""
    max_waiting: int = 128
    """Answers or texts that may wait for that; beyond them a request is refused (status 429)."""
    timeout_seconds: float = 300.0
    """Longest that a request may take, waiting included."""
    max_body_bytes: int = 2**20
    """Longest request."""

    def problems(self) -> list[str]:
        problems = (
            super().problems()
            + range_problem("port", self.port, 0, 65535)
            + range_problem("batch_size", self.batch_size, 1)
            + range_problem("max_waiting", self.max_waiting, 0)
            + range_problem("timeout_seconds", self.timeout_seconds, 0.001)
            + range_problem("max_body_bytes", self.max_body_bytes, 1)
        )
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            problems.append(
                "api_key_env is the name of an environment variable, not the key itself"
            )
        return problems


@dataclass
class PredictConfig:
    """`llmstages predict CHECKPOINT FILE`: labels and probabilities as JSON Lines."""

    checkpoint_dir: str | None = None
    """Run directory (its best checkpoint) or checkpoint directory of a classifier, or the directory of several trainings, whose probabilities are averaged."""
    data: str | None = None
    """File with texts, or a text."""
    output: str | None = None
    """File for the JSON Lines; null prints them."""
    head: str | None = None
    """Which of the further heads beside the checkpoint is used; null: its own."""
    text_column: Any = None
    """Column of the text, or a list of those joined; found by its name, or that in training, when null."""
    id_column: str | None = None
    """Column that names a row in the output; null takes `id` where there is one, else the line."""
    batch_size: int = 32
    """Texts, or windows of long ones, that go through the model at once."""
    bad_rows: str = "refuse"
    """A broken row ends the run (`refuse`) or is skipped and counted (`skip`)."""
    device: str = "auto"
    """`auto` takes cuda, then mps, then cpu."""
    dtype: str = "float32"
    """float32, which `auto` means here too: the same figures in any batch and on every machine;
    bfloat16 only on request."""

    def __post_init__(self) -> None:
        refuse(
            choice_problem("device", self.device, DEVICES)
            + choice_problem("dtype", self.dtype, DTYPES)
            + choice_problem("bad_rows", self.bad_rows, BAD_ROWS)
            + columns_problem("text_column", self.text_column)
            + range_problem("batch_size", self.batch_size, 1)
        )


@dataclass
class DataFileConfig:
    """How a file of texts with labels, or of prompts with answers, is read."""

    text_column: Any = None
    """Column of the text, or a list of those joined; found by its name, or that in training, when null."""
    label_column: Any = None
    """Column of the label, or a list of columns with 0 or 1; found by its name when null."""
    label_separator: str | None = None
    """What stands between the labels in a cell with any number of them, as ';'."""
    prompt_column: str | None = None
    """Column of the prompt; found by its name when null."""
    answer_column: str | None = None
    """Column of the answer; found by its name when null."""

    def __post_init__(self) -> None:
        refuse(self.problems())

    def problems(self) -> list[str]:
        """What is wrong; a class below adds its own, so that all of it is said at once."""
        return columns_problem("text_column", self.text_column) + columns_problem(
            "label_column", self.label_column
        )


@dataclass
class QuestionsConfig(DataFileConfig):
    """How the rows of a file are put to a model: what `evaluate` and `compare` share."""

    bad_rows: str = "refuse"
    """A broken row, or one with a label that a classifier has not, ends the run (`refuse`) or is skipped and counted (`skip`)."""
    shots: int = 0
    """Of a language model: examples in front of each question, others for each, drawn by the seed."""
    template: str | None = None
    """Of a language model: how a text becomes a prompt, with `{text}` in its place and `\\n` for the end of a line; null: by what the file is."""
    label_words: Any = None
    """Of a language model: what labels are called in prompts, as `{0: negative, 1: positive}`; others by themselves."""
    micro_batch_tokens: int | None = None
    """Tokens that go through a model at once, padding counted; null: 16,384 on cuda, else 4,096."""
    seed: int = 0
    """Seed of the examples, of the items that are drawn and of the resamples for the intervals."""
    device: str = "auto"
    """`auto` takes cuda, then mps, then cpu."""

    def problems(self) -> list[str]:
        problems = (
            super().problems()
            + choice_problem("device", self.device, DEVICES)
            + choice_problem("bad_rows", self.bad_rows, BAD_ROWS)
            + range_problem("micro_batch_tokens", self.micro_batch_tokens, 1)
            + range_problem("shots", self.shots, 0, 1000)
        )
        words: Any = self.label_words
        if words is not None and not (
            isinstance(words, dict) and all(isinstance(word, str) for word in words.values())
        ):
            problems.append(
                f"label_words={words}: write what labels are called, as "
                "{0: negative, 1: positive}; a word such as true in quotes"
            )
        return problems

    @property
    def words_of_labels(self) -> dict[str, str]:
        """`label_words`, with labels as they are read from files."""
        words: Any = self.label_words or {}
        return {
            str(label).lower() if isinstance(label, bool) else str(label): word
            for label, word in words.items()
        }


@dataclass
class EvaluateCheckpointConfig(QuestionsConfig):
    """`llmstages evaluate CHECKPOINT [FILE ...]`: a classifier on a labelled file; what a language model is able to do."""

    checkpoint_dir: str | None = None
    """Run directory (its best checkpoint) or checkpoint directory; of several trainings of a classifier the directory of all, as one."""
    data: Any = None
    """Of a classifier: a file of texts with labels. Of a language model: files or folders of questions, or corpora, whose held-out text is read; null: that of its own corpus."""
    output: str | None = None
    """File for the JSON object; null prints it."""
    require: list[str] = field(default_factory=list)
    """What figures must reach, as `macro_f1>=0.95,log_loss<=0.2`, of several files `copa.acc>=0.6`; the exit status is 1 where one does not."""
    head: str | None = None
    """Of a classifier: which of the further heads beside the checkpoint is used; null: its own."""
    shots_data: str | None = None
    """File that the examples are taken from; null: the other questions."""
    max_items: int | None = None
    """Questions of each file that are asked, spread over it; null: all."""
    max_tokens: int | None = None
    """Held-out tokens of a corpus that are read, spread over it; null: all."""
    max_new_tokens: int = 64
    """Longest answer that is written, in tokens."""
    chat: str = "auto"
    """Questions to be answered are a user's turns (`on`) or plain text (`off`); `auto`: as the checkpoint was trained."""

    def problems(self) -> list[str]:
        problems = (
            super().problems()
            + choice_problem("chat", self.chat, SWITCH)
            + range_problem("max_items", self.max_items, 1)
            + range_problem("max_tokens", self.max_tokens, 1)
            + range_problem("max_new_tokens", self.max_new_tokens, 1)
        )
        if self.shots_data is not None and not self.shots:
            problems.append(f"shots_data={self.shots_data} is given without shots: how many?")
        return problems

    @property
    def data_paths(self) -> list[str]:
        """The paths in `data`."""
        return paths_in(self.data)


@dataclass
class CompareConfig(QuestionsConfig):
    """`llmstages compare A B [FILE]`: two checkpoints on the same held-out items."""

    checkpoint_a: str | None = None
    """Run directory (its best checkpoint) or checkpoint directory: the one compared with."""
    checkpoint_b: str | None = None
    """The other, which is said to be better or worse."""
    data: str | None = None
    """File of texts with labels where one is a classifier; for language models any that `evaluate` takes, or a corpus directory for its validation text; null: that of the corpus on which both were pretrained."""
    max_items: int | None = None
    """Most items that are compared, drawn by the seed; null: 200 answers, 500 passages, all else."""
    num_examples: int = 5
    """Items shown side by side."""
    max_new_tokens: int = 128
    """Longest answer or continuation generated, in tokens."""
    dtype: str = "float32"
    """Type of matrix products; `auto`: bfloat16 where the processor has it. A classifier's labels are always given in float32."""
    json: bool = False
    """Print one JSON object, with every item, instead of tables."""

    def problems(self) -> list[str]:
        return (
            super().problems()
            + choice_problem("dtype", self.dtype, DTYPES)
            + range_problem("max_items", self.max_items, 2)
            + range_problem("num_examples", self.num_examples, 0)
            + range_problem("max_new_tokens", self.max_new_tokens, 1)
        )


@dataclass
class InspectConfig(DataFileConfig):
    """`llmstages inspect PATH`: what a corpus, run, checkpoint or labelled file holds."""

    path: str | None = None
    """A corpus, run or checkpoint directory, or a data file."""
    id: str | None = None
    """Id of a document of a corpus: show it, or why it was dropped."""
    num_examples: int = 3
    """Documents or rows shown."""
    base: str | None = None
    """Of a file of conversations: checkpoint as which they are read; null takes runs/pretrain where it is."""
    prove: bool = False
    """Of a run: do some of its steps again from a kept checkpoint, and compare them bit for bit."""
    prove_steps: int = 20
    """Steps done again, at most."""
    data: str | None = None
    """Of a checkpoint: file of test items that are looked for in the text it was pretrained on; null: the test rows of its run."""
    check: str = "auto"
    """Of a checkpoint: compare hashes and look for test items in its corpora (`on`), or not (`off`); `auto`: of corpora up to 256 MiB of text."""
    json: bool = False
    """Of a checkpoint: print one JSON object instead of tables."""

    def problems(self) -> list[str]:
        return (
            super().problems()
            + choice_problem("check", self.check, SWITCH)
            + range_problem("num_examples", self.num_examples, 0)
            + range_problem("prove_steps", self.prove_steps, 1)
        )


@dataclass
class PageConfig:
    """`llmstages report [RUN ...]`: runs -> one HTML page that needs no network."""

    runs: Any = None
    """A run, a directory of runs, a corpus, or a list of these; null takes all runs in `runs_dir`."""
    runs_dir: str = "runs"
    """Where runs are kept."""
    output: str = "report.html"
    """File that is written."""

    @property
    def places(self) -> list[str]:
        """What is looked through."""
        runs: Any = self.runs_dir if self.runs is None else self.runs
        return [str(place) for place in (runs if isinstance(runs, list) else [runs])]


@dataclass
class ExportConfig:
    """`llmstages export CHECKPOINT`: a model for other programs."""

    checkpoint_dir: str | None = None
    """Run directory (its best checkpoint) or checkpoint directory."""
    format: str = "auto"
    """`auto`: `onnx` of a classifier, else `gguf`. `gguf`: a language model for llama.cpp and Ollama; `safetensors`: a Hugging Face directory; `onnx`: a classifier, for ONNX Runtime."""
    dtype: str = "auto"
    """Type of the weights. `gguf`: `f16` (`auto`), `f32`, `bf16`, or quantised `q8_0`, `q5_1`, `q5_0`, `q4_1`, `q4_0`. `safetensors`: `bf16` (`auto`), `fp16`, `fp32`. `onnx`: `fp32`."""
    output: str | None = None
    """Directory that is written; null takes exports/<name of the run>-<format>-<dtype>."""
    overwrite: bool = False
    """Replace an export in that directory."""

    def __post_init__(self) -> None:
        problems = choice_problem("format", self.format, ("auto", *EXPORT_DTYPES))
        if not problems and self.format != "auto":
            dtypes = EXPORT_DTYPES[self.format]
            if self.dtype == "auto":
                self.dtype = dtypes[0]
            if self.dtype not in dtypes:  # no guess: of several near ones none is meant
                problems = [f"dtype={self.dtype} is unknown: choose one of {', '.join(dtypes)}"]
            if problems and re.fullmatch(r"i?q\d_\w+", self.dtype) and self.format == "gguf":
                problems = [
                    f"dtype={self.dtype} is not written here ({', '.join(dtypes)} are): export f32 "
                    f"and let llama.cpp's llama-quantize make {self.dtype.upper()} of it"
                ]
        refuse(problems)


@dataclass
class DoctorConfig:
    """`llmstages doctor`: what this machine has, what is fast on it, and what is missing."""
