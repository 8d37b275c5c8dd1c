"""The one checkpoint format: a Hugging Face model directory with `llmstages.json` written last.

`config.json`, `model.safetensors`, the tokenizer's files and `generation_config.json` are what
transformers and serving engines read. `trainer/` holds what only resuming needs. Nothing is a
pickle, and no pickle is ever opened.
"""

import hashlib
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmstages.config.stages import POOLINGS
from llmstages.data.json_files import as_dataclass
from llmstages.errors import UserError
from llmstages.model.counts import num_parameters
from llmstages.model.layouts import (
    config_from_disk,
    config_to_disk,
    disk_name,
    from_disk,
    stored_together,
    to_disk,
)
from llmstages.model.lora import Lora, from_peft, merged, peft_config, to_peft
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.report.terminal import warn
from llmstages.text.chat import stop_ids
from llmstages.text.tokenizer import GENERATION_NAME, Tokenizer
from llmstages.train import parallel
from llmstages.train.hub import address_of, exact, fetched, is_on_hub
from llmstages.train.model_card import CARD_NAME, model_card
from llmstages.train.records import read_record, read_sealed, write_json, write_sealed

FORMAT_VERSION = 1
INFO_NAME = "llmstages.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
"""Of weights that lie in several files: which tensor lies where."""
ADAPTER_DIR = "adapter"
"""Adapters alone, as PEFT has them; in a directory of their own, or loaders would apply them twice.
"""
SCORE_NAME = disk_name("head.weight", layout="qwen3", classifier=True)
"""Of a classifier's head in `model.safetensors`, and how its name ends among adapters."""
HEAD_FILES = ("model.safetensors", f"{ADAPTER_DIR}/adapter_model.safetensors")
"""Files of a checkpoint that have a classifier's head."""
UNDIVIDED_NAME = "trainer/head.safetensors"
"""Of a classifier whose head a temperature has divided: the head as training left it."""
LLAMA2C_HEADER = "<7i"
"""Its shape, in front of the raw numbers: width, inner width, blocks, heads, heads of keys and
values, vocabulary (below 0 where the output matrix is one of its own), context."""
REPLACED = ".old"
"""End of the name of a checkpoint while another of the same step takes its place."""


@dataclass(frozen=True)
class Lineage:
    """Hashes of what a checkpoint was made from; None where there is none."""

    corpus_manifest: str | None = None
    tokenizer: str | None = None
    parent: str | None = None
    data: str | None = None
    """Of the labelled file."""
    replay: str | None = None
    """Of the manifest of the corpus whose text was replayed."""
    base: str | None = None
    """Of a parent on a model hub no hash but its name with its commit: `hf://ORG/NAME@COMMIT`."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The contents of `llmstages.json`."""

    stage: str
    step: int
    tokens_seen: int
    metrics: dict[str, Any]
    lineage: Lineage
    classifier: dict[str, Any] | None = None
    """Pooling and task type of a classifier, and what was found on the validation rows."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was made, in names without their directories: base, data, method, rate ..."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of every file but the model card, by its path in the checkpoint."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Adapted:
    """What a checkpoint of an adapted model says of its adapters."""

    lora: Lora
    base: str
    """Where the model lies that was adapted: a directory, or `hf://ORG/NAME@COMMIT`."""
    adapted_weights: Mapping[str, Tensor]
    """Of the model."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `info` is None for a directory that another program wrote."""

    directory: Path
    model: Transformer
    tokenizer: Tokenizer
    labels: list[str] | None
    info: CheckpointInfo | None
    source: str | None = None
    """Of one that a hub has: `hf://ORG/NAME@COMMIT`."""

    @property
    def name(self) -> str:
        """What it is called, wherever it lies: on a hub as there, else by its run or directory."""
        if self.source is not None:
            return self.source
        path = self.directory.resolve()
        return (path.parent.parent if path.parent.name == "checkpoints" else path).name

    @property
    def hash(self) -> str:
        """sha256 of the weights file: names this checkpoint in its children's lineage."""
        known = self.info.files.get(WEIGHTS_NAME) if self.info else None
        return known or weights_hash(self.directory)

    @property
    def is_tuned(self) -> bool:
        """Whether the model was trained to answer.

        Of another program's model a chat template of its own is taken for a sign of that.
        """
        if self.info is None:
            return self.tokenizer.templated_chat is not None
        return self.info.stage == "finetune-instruct"


def weights_hash(directory: Path) -> str:
    """sha256, hex, of the weights file, or over those of all where they lie in several."""
    hashes = [file_hash(path) for path in weights_files(directory)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def weights_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory. Raises `UserError` for a broken index."""
    if (directory / WEIGHTS_NAME).is_file():
        return [directory / WEIGHTS_NAME]
    path = directory / WEIGHTS_INDEX_NAME
    places = read_record(path).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    # Nothing outside the directory is opened, whatever the index says.
    if not names or any(Path(str(name)).name != name for name in names):
        raise UserError(f"{path}: weight_map does not name files of the directory; copy it again")
    files = [directory / name for name in sorted(names)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{path}: {missing[0]} is not there; copy the whole directory again")
    return files


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model directory, by their names on disk."""
    weights: dict[str, Tensor] = {}
    for path in weights_files(directory):
        weights |= read_tensors(path)
    return weights


def file_hash(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(
    directory: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    info: CheckpointInfo,
    *,
    labels: list[str] | None = None,
) -> None:
    """Write a checkpoint of a model as it is, with nothing for a trainer."""
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    write_checkpoint(directory, model.config, weights, tokenizer, info, labels=labels)


def write_checkpoint(
    directory: Path,
    config: TransformerConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    info: CheckpointInfo,
    *,
    labels: list[str] | None = None,
    adapted: Adapted | None = None,
    trainer_tensors: Mapping[str, Tensor] | None = None,
    trainer_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint: complete under its name, or not there at all.

    weights, trainer_tensors: on the CPU, contiguous; of an adapted model its adapters among them.
    Raises `OSError` when there is no room.
    """
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _write_files(
            *(staging, config, weights, tokenizer, info, labels),
            *(adapted, trainer_tensors, trainer_state),
        )
        put_in_place(staging, directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise OSError(f"{directory} could not be written ({error})") from error


def _write_files(
    staging: Path,
    config: TransformerConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    info: CheckpointInfo,
    labels: list[str] | None,
    adapted: Adapted | None,
    trainer_tensors: Mapping[str, Tensor] | None,
    trainer_state: Mapping[str, Any] | None,
) -> None:
    """Everything that a checkpoint consists of, on disk."""
    staging.mkdir(parents=True)
    plain_weights = dict(weights)
    if adapted is not None:
        plain_weights = merged(weights, adapted.lora, adapted.adapted_weights)
    # Nobody else speaks as a chat template says, which would have to be run to know where it stops.
    answers = info.stage == "finetune-instruct"
    entries = write_model(staging, config, plain_weights, tokenizer, labels=labels, answers=answers)
    card = model_card(config, info, entries, vocabulary=tokenizer.vocab_size)
    (staging / CARD_NAME).write_text(card, encoding="utf-8")
    if adapted is not None:
        folder = staging / ADAPTER_DIR
        folder.mkdir()
        adapters = to_peft(weights, config)
        write_tensors(folder / "adapter_model.safetensors", adapters, {"format": "pt"})
        base, revision = adapted.base, None
        if is_on_hub(base):
            address = address_of(base)
            base, revision = address.repository, address.revision
        settings = peft_config(adapted.lora, config, base, revision)
        write_json(folder / "adapter_config.json", settings)
    if trainer_tensors is not None:
        (staging / "trainer").mkdir()
        write_tensors(staging / "trainer" / "state.safetensors", trainer_tensors)
        write_json(staging / "trainer" / "state.json", dict(trainer_state or {}))
    _seal(staging, info)


def write_model(
    directory: Path,
    config: TransformerConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    labels: list[str] | None,
    answers: bool,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Write what transformers reads of a model: config, weights, tokenizer, where generation stops;
    returns the contents of `config.json`.

    weights: by our names, without adapters. answers: it also stops at the end of a turn. dtype: of
    the weights on disk.
    """
    on_disk = {name: tensor.to(dtype) for name, tensor in to_disk(weights, config).items()}
    write_tensors(directory / WEIGHTS_NAME, on_disk, {"format": "pt"})
    # What only goes on with a text is not stopped where an answer ends, unless its files say so.
    own = stop_ids(tokenizer) if answers else [tokenizer.end_id, *tokenizer.model_end_ids]
    stops = list(dict.fromkeys(own))
    entries = config_to_disk(
        config,
        end_id=stops[0] if len(stops) == 1 else stops,
        pad_id=tokenizer.pad_id,
        labels=labels,
        begin_id=next(iter(tokenizer.begin_ids), None),
    )
    entries["torch_dtype"] = str(dtype).removeprefix("torch.")
    write_json(directory / "config.json", entries)
    tokenizer.save(directory, append_end=labels is not None, model_max_length=config.context_length)
    generation = {**tokenizer.generation, "eos_token_id": stops, "pad_token_id": tokenizer.pad_id}
    # Of a file that says it was made from config.json, transformers may take that one's word.
    generation.pop("_from_model_config", None)
    write_json(directory / GENERATION_NAME, generation)
    return entries


def _seal(staging: Path, info: CheckpointInfo, known: Mapping[str, str] | None = None) -> None:
    """Write `llmstages.json` beside the files it has the hashes of, and see all of it on disk.

    known: hashes that need not be found, by file.
    """
    hashes = known or {}
    names = {
        path.relative_to(staging).as_posix()
        for path in staging.rglob("*")
        if path.is_file() and path not in (staging / INFO_NAME, staging / CARD_NAME)
    }
    files = {name: hashes.get(name) or file_hash(staging / name) for name in sorted(names)}
    write_sealed(staging / INFO_NAME, asdict(info) | {"files": files})
    for path in staging.rglob("*"):
        sync(path)


def undivided_head(directory: Path) -> dict[str, Tensor]:
    """A classifier's head as training left it, by its name in the model; none where the one in
    `model.safetensors` is that."""
    path = directory / UNDIVIDED_NAME
    return read_tensors(path) if path.is_file() else {}


def revise_classifier(directory: Path, classifier: Mapping[str, Any]) -> None:
    """Add to what a checkpoint says of its classifier, and divide its head by the `temperature`.

    The head as training left it is kept for a trainer. Nothing is written where nothing is new, and
    what stands in the checkpoint's place is complete at any moment. Raises `OSError` when there is
    no room.
    """
    info = read_info(directory)
    before = info.classifier or {}
    if all((before.get(name) or None) == (value or None) for name, value in classifier.items()):
        return
    temperature = classifier.get("temperature")
    written = {INFO_NAME, CARD_NAME}
    if temperature != before.get("temperature"):
        written |= {*HEAD_FILES, UNDIVIDED_NAME}
    staging = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        paths = {directory / name for name in written}
        shutil.copytree(
            directory,
            staging,
            copy_function=_link_or_copy,
            ignore=lambda folder, names: [name for name in names if Path(folder, name) in paths],
        )
        if UNDIVIDED_NAME in written:
            _write_divided(directory, staging, temperature)
        unchanged = {name: sha for name, sha in info.files.items() if name not in written}
        revised = replace(info, classifier={**before, **classifier})
        (staging / CARD_NAME).write_text(card_of(directory, revised), encoding="utf-8")
        _seal(staging, revised, unchanged)
        put_in_place(staging, directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise OSError(f"{directory} could not be written ({error})") from error


def card_of(directory: Path, info: CheckpointInfo, test: Mapping[str, float] | None = None) -> str:
    """The model card of a checkpoint on disk; info: what is said of it. test: of the test rows.

    Raises `UserError` for a rule that does not fit the labels.
    """
    path = directory / "config.json"
    entries = read_record(path)
    config = config_from_disk(entries, str(path))
    vocabulary = Tokenizer.load(directory).vocab_size
    try:
        return model_card(config, info, entries, vocabulary=vocabulary, test=test)
    except ValueError as error:
        raise UserError(f"{directory / INFO_NAME}: {error}") from error


def add_test_figures(directory: Path, test: Mapping[str, float]) -> None:
    """Write the model card of a checkpoint anew, with figures of the test rows."""
    staging = directory.with_name(f"{CARD_NAME}.tmp")
    staging.write_text(card_of(directory, read_info(directory), test), encoding="utf-8")
    staging.replace(directory / CARD_NAME)


def _write_divided(directory: Path, staging: Path, temperature: float | None) -> None:
    """Write the files of a checkpoint that have its head, divided by a temperature."""
    stored = {name: read_tensors(p) for name in HEAD_FILES if (p := directory / name).is_file()}
    kept = undivided_head(directory) or {"head.weight": stored[HEAD_FILES[0]][SCORE_NAME]}
    for name, tensors in stored.items():
        score = kept["head.weight"] / (temperature or 1.0)
        divided = {key: score if key.endswith(SCORE_NAME) else t for key, t in tensors.items()}
        write_tensors(staging / name, divided, {"format": "pt"})
    if temperature is not None:
        (staging / UNDIVIDED_NAME).parent.mkdir(exist_ok=True)
        write_tensors(staging / UNDIVIDED_NAME, kept)


def _link_or_copy(source: str, target: str) -> None:
    """A second name of a file that nobody changes, or a copy where there are no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def put_in_place(staging: Path, directory: Path) -> None:
    """Give a complete directory its name, in place of what has it."""
    replaced = directory.with_name(directory.name + REPLACED)
    shutil.rmtree(replaced, ignore_errors=True)
    if directory.exists():  # one of the two is there at any moment
        directory.rename(replaced)
    staging.rename(directory)
    sync(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def restore_replaced(run_dir: Path) -> None:
    """Give a checkpoint its name again that was being replaced when the process was killed."""
    for path in (run_dir / "checkpoints").glob(f"step-*{REPLACED}"):
        directory = path.with_name(path.name.removesuffix(REPLACED))
        if not directory.exists():
            path.rename(directory)


def sync(path: Path) -> None:
    """Make sure a file or a directory's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_info(directory: Path) -> CheckpointInfo:
    """Read `llmstages.json`. Raises `UserError` when it is missing, broken or of another format."""
    path = directory / INFO_NAME
    contents = read_sealed(path)
    if (version := contents.get("format_version")) != FORMAT_VERSION:
        raise UserError(f"{path}: format {version}, this version reads {FORMAT_VERSION}")
    try:
        return as_dataclass(CheckpointInfo, contents)
    except ValueError as error:
        raise UserError(f"{path}: not a complete checkpoint ({error})") from error


def verify_files(directory: Path, info: CheckpointInfo, *, trainer: bool = False) -> None:
    """Compare every file with its sha256. Raises `UserError` naming the first that differs.

    trainer: those that only resuming needs too; without it a copy may leave them out.
    """
    for name, expected in info.files.items():
        path = directory / name
        if name.startswith("trainer/") and not trainer:
            continue
        if not path.is_file():
            raise UserError(f"{path}: missing from the checkpoint")
        if file_hash(path) != expected:
            raise UserError(f"{path}: damaged (its sha256 is not the one in {INFO_NAME})")


def is_complete(directory: Path) -> bool:
    """Whether a directory under `checkpoints/` was written to its end."""
    try:
        read_info(directory)
    except UserError:
        return False
    return True


def checkpoint_dirs(run_dir: Path) -> list[Path]:
    """Checkpoints of a run, complete or not, oldest first; those half-written are left out."""
    found = {
        int(path.name.removeprefix("step-")): path
        for path in (run_dir / "checkpoints").glob("step-*")
        if path.name.removeprefix("step-").isdecimal() and path.is_dir()
    }
    return [found[step] for step in sorted(found)]


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; torn ones are named in a warning."""
    found = []
    for path in checkpoint_dirs(run_dir):
        if is_complete(path):
            found.append(path)
        else:
            warn(f"{path}: incomplete checkpoint, skipped")
    return found


def newest_sound(run_dir: Path, *, but: Path | None = None) -> Path | None:
    """The newest checkpoint of a run whose files are what was written; a damaged one is named in a
    warning. `but` is passed over."""
    for path in reversed(complete_checkpoints(run_dir)):
        if but is not None and path.resolve() == but.resolve():
            continue
        try:
            verify_files(path, read_info(path), trainer=True)
        except UserError as error:
            warn(f"{error}: the checkpoint is not used")
        else:
            return path
    return None


def resolve_checkpoint(name: str) -> Path:
    """The checkpoint directory meant by a name: a run's best, the directory itself, or one that is
    fetched from a model hub (`hf://`).

    Raises `UserError` for a path that leads nowhere, a file (which is called what it seems to be;
    pickles are never opened), a directory that is neither, or what a hub does not give.
    """
    path = fetched(name) if is_on_hub(name) else Path(name).expanduser()
    if path.is_file():
        raise UserError(
            f"{path}: a file, but a checkpoint is a directory with config.json and "
            f"model.safetensors; {path.name} {kind_of_file(path)}"
        )
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        if near:
            hint = f"did you mean {path.parent / near[0]}?"
        else:
            hint = "`llmstages pretrain` makes a base model in runs/pretrain"
        raise UserError(f"{path}: no such checkpoint or run: {hint}")
    if (path / "checkpoints").is_dir():
        return best_of_run(path)
    under_run = path.resolve().parent.name == "checkpoints"
    if under_run and not (path / INFO_NAME).is_file():
        raise UserError(f"{path}: incomplete checkpoint (no {INFO_NAME})")
    weights = WEIGHTS_INDEX_NAME if (path / WEIGHTS_INDEX_NAME).is_file() else WEIGHTS_NAME
    missing = [name for name in ("config.json", weights) if not (path / name).is_file()]
    if missing:
        others = [p.name for end in ("bin", "pt") for p in sorted(path.glob(f"*.{end}"))]
        hint = f"; {others[0]} {kind_of_file(path / others[0])}" if others else ""
        if inside := sorted(p for p in path.iterdir() if (p / "checkpoints").is_dir()):
            hint = f"; it holds runs: name one of them, such as {inside[0]}"
        raise UserError(f"{path}: not a checkpoint: it has no {' and no '.join(missing)}{hint}")
    return path


def kind_of_file(path: Path) -> str:
    """What a file of weights is, by its first bytes, where it is not one that is read here."""
    size, length = path.stat().st_size, struct.calcsize(LLAMA2C_HEADER)
    with path.open("rb") as file:
        begin = file.read(length)
    if begin.startswith((b"\x80", b"PK")):  # pickled, or the ZIP archive that torch.save makes
        return "is a pickle and is never opened"
    if len(begin) == length:
        width, inner, layers, heads, kv_heads, vocab, context = struct.unpack(LLAMA2C_HEADER, begin)
        if min(width, inner, layers, heads, kv_heads, context) > 0:
            head_dim, vocab_size = width // heads, abs(vocab)
            block = 2 * width + 2 * width * (width + kv_heads * head_dim) + 3 * width * inner
            numbers = vocab_size * width * (1 if vocab > 0 else 2) + layers * block + width
            if size == length + 4 * (numbers + context * head_dim):
                return "is a model of llama2.c: scripts/import_llama2c.py makes a directory of it"
    return "is not safetensors"


def best_of_run(run_dir: Path) -> Path:
    """A run's best checkpoint, or its newest complete one."""
    best = run_dir / "best"
    if best.is_dir() and is_complete(best):
        return best.resolve()
    complete = complete_checkpoints(run_dir)
    if not complete:
        raise UserError(f"{run_dir}: the run has no complete checkpoint yet")
    return complete[-1]


def load_checkpoint(
    name: str | Path,
    *,
    num_labels: int | None = None,
    pooling: str = "last",
    multi_label: bool = False,
    verified: bool = False,
) -> Checkpoint:
    """Load a model and its tokenizer; weights become float32, on the CPU.

    num_labels: start a classifier from this checkpoint: the body is kept, the head is new (zero),
    reads what `pooling` says, and with multi_label gives a text any number of labels. verified: the
    hashes of its files were compared just now.
    """
    directory = resolve_checkpoint(str(name))
    info = None
    if (directory / INFO_NAME).is_file():
        info = read_info(directory)
        if not verified:
            verify_or_offer(directory, info)
    config_path, weights_path = directory / "config.json", weights_files(directory)[0]
    disk = read_record(config_path)
    config = config_from_disk(disk, str(config_path))
    labels = None
    if config.num_labels is not None:
        labels = labels_of(disk, config.num_labels, config_path)
        config = replace(config, pooling=pooling_of(info, directory))
    tokenizer = Tokenizer.load(directory)
    # Some have control tokens of pictures beyond the vocabulary of a model that reads text alone.
    beyond = range(config.vocab_size, tokenizer.vocab_size)
    needed = {tokenizer.end_id, tokenizer.pad_id, *tokenizer.begin_ids}
    if any(index in needed or not tokenizer.is_control(index) for index in beyond):
        raise UserError(
            f"{config_path}: vocab_size {config.vocab_size:,}, but the tokenizer beside it has "
            f"ids up to {tokenizer.vocab_size - 1:,}: copy both from one model"
        )
    weights = read_weights(directory)
    require_weights_of(config, directory)
    if num_labels is not None:
        config = replace(config, num_labels=num_labels, pooling=pooling, multi_label=multi_label)
        labels = None
    model = Transformer(config)
    fill(model, weights, weights_path, new_head=num_labels is not None)
    source = exact(str(name), directory) if is_on_hub(str(name)) else None
    return Checkpoint(directory, model, tokenizer, labels, info, source)


def labels_of(disk: Mapping[str, Any], count: int, path: Path) -> list[str]:
    """The labels in a `config.json`, in order; `UserError` when they are not numbered from 0."""
    named = disk["id2label"]
    found = [named.get(str(index)) for index in range(count)] if isinstance(named, dict) else []
    labels = [label for label in found if isinstance(label, str)]
    if len(labels) != count or len(set(labels)) != count:
        raise UserError(f"{path}: id2label does not name {count} different labels, from 0 on")
    return labels


def pooling_of(info: CheckpointInfo | None, directory: Path) -> str:
    """What a saved classifier's head reads; `UserError` for a pooling that is not known here."""
    pooling = ((info.classifier if info else None) or {}).get("pooling", "last")
    if pooling not in POOLINGS:
        raise UserError(f"{directory / INFO_NAME}: pooling {pooling!r} is not supported")
    return str(pooling)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, readable to whom the user's other files are (safetensors itself
    gives it to its owner alone)."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises `UserError` when it is no such file."""
    try:
        return load_file(path)
    except Exception as error:  # for some headers torch complains, in ways of its own
        raise UserError(f"{path}: not a readable safetensors file ({error})") from error


def require_weights_of(config: TransformerConfig, directory: Path) -> None:
    """Raise `UserError` when a checkpoint's model has more parameters than its files have bytes:
    before memory is taken for it."""
    parameters = num_parameters(config)
    files = weights_files(directory)
    num_bytes = sum(path.stat().st_size for path in files)
    if parameters > num_bytes:
        name = files[0].name if len(files) == 1 else f"what {WEIGHTS_INDEX_NAME} names"
        raise UserError(
            f"{directory / 'config.json'}: a model of {parameters:,} parameters, but "
            f"{name} has {num_bytes:,} bytes"
        )


def restore_weights(model: Transformer, loaded: Checkpoint) -> None:
    """Give a model, which may be sharded, the weights of a checkpoint of its run.

    Of an adapted model only what is trained is taken: the rest is that of its base.
    """
    if model.lora is None:
        parallel.load_weights(model, loaded.model.state_dict())
        return
    path = loaded.directory / ADAPTER_DIR / "adapter_model.safetensors"
    try:
        stored = read_tensors(path)
        names = [name for name, _ in model.named_parameters()]
        parallel.load_weights(model, from_peft(stored, names, model.config))
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path}: not the adapters of this run ({error})") from error


def verify_or_offer(directory: Path, info: CheckpointInfo) -> None:
    """Compare the files of a checkpoint; `UserError` for damage, naming a sound one of its run."""
    try:
        verify_files(directory, info)
    except UserError as error:
        parent = directory.resolve().parent
        other = newest_sound(parent.parent, but=directory) if parent.name == "checkpoints" else None
        hint = "" if other is None else f"; {other} is sound: name that"
        raise UserError(f"{error}{hint}") from error


def fill(model: Transformer, weights: Mapping[str, Tensor], path: Path, *, new_head: bool) -> None:
    """Copy tensors into the model; `UserError` for a missing or misshapen one."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        if new_head:
            parameters.pop("head.weight").zero_()
        for stored, names in stored_together(parameters, model.config).items():
            # Some files have the body alone, without the name of what it is the body of.
            tensor = weights.get(stored, weights.get(stored.partition(".")[2]))
            if tensor is None:
                raise UserError(f"{path}: it has no tensor {stored}")
            try:
                found = from_disk(tensor, {name: parameters[name] for name in names}, model.config)
            except ValueError as error:
                raise UserError(
                    f"{path}: {stored} has shape {list(tensor.shape)}, config.json asks for {error}"
                ) from error
            if not tensor.is_floating_point():
                raise UserError(f"{path}: {stored} holds no floating-point numbers")
            for name, part in found.items():
                parameters[name].copy_(part)
