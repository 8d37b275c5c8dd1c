"""Checkpoints on a model hub, named `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`.

They are fetched by huggingface_hub into its own cache, where they are never changed. What is
fetched is what is read here: no pickle, no code. The library's environment counts (`HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_HOME`). Nothing else reaches for the network on behalf of a model.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

from llmstages.errors import UserError
from llmstages.train.records import read_record

PREFIX = "hf://"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""One of them is in every repository that can be read."""
FILES = (
    *WEIGHTS,
    "model-*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "llmstages.json",
    "adapter/*",
    "heads/*.safetensors",
)
"""What is fetched first: all that is read of a checkpoint, but for weights in files of other names.
Much else lies in many repositories, such as the same weights for other programs."""
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
"""The files of one of them are in every repository that can be read."""


@dataclass(frozen=True)
class Address:
    """What `hf://ORG/NAME@REVISION` names; `revision` None: the newest of the main branch."""

    repository: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_on_hub(name: str) -> bool:
    """Whether a name is that of a checkpoint on a hub."""
    return name.startswith(PREFIX)


def address_of(name: str) -> Address:
    """The parts of a name. Raises `UserError` where there are none."""
    repository, at, revision = name.removeprefix(PREFIX).partition("@")
    if not repository.strip("/") or (at and not revision):
        raise UserError(f"{name}: write {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION")
    return Address(repository.rstrip("/"), revision or None)


def fetched(name: str, *, from_cache: bool = False) -> Path:
    """The directory of a checkpoint on a hub, in the library's cache; its name is the commit's.

    The hub is asked which commit is meant, and for what the cache lacks. Where it cannot be
    reached, what the cache has of the revision counts. from_cache: it is not asked at all.

    Raises:
        UserError: there is no such repository or revision, it may not be read, it holds no
            safetensors, or the hub cannot be reached and the cache has it not.
    """
    address = address_of(name)
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            DryRunError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise UserError(
            f"{name} needs huggingface_hub: install it with pip install 'llmstages[hub]'"
        ) from None

    def snapshot(*more: str, dry_run: bool = False) -> Path:
        path = snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=[*FILES, *more],
            local_files_only=from_cache,
            dry_run=dry_run,
        )
        return Path("." if dry_run else str(path))

    try:
        directory = snapshot()
        lacking = _lacking(directory)
        if shards := [glob.escape(file) for file in lacking if file.endswith(".safetensors")]:
            directory = snapshot(*shards)
            lacking = _lacking(directory)
        if lacking:  # what a hub that was not reached may have besides is refused here
            snapshot(dry_run=True)
    except HFValidationError as error:
        raise UserError(
            f"{name}: {address.repository!r} names no repository: write {PREFIX}ORG/NAME or "
            f"{PREFIX}ORG/NAME@REVISION"
        ) from error
    except GatedRepoError as error:
        raise UserError(
            f"{name}: access is granted by its owners: ask for it at "
            f"{constants.ENDPOINT}/{address.repository}, then set HF_TOKEN or run hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: {constants.ENDPOINT} has no such repository, or it is private: check the "
            "name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{name}: the repository has no branch, tag or commit {address.revision}"
        ) from error
    except (LocalEntryNotFoundError, DryRunError) as error:
        if from_cache or constants.HF_HUB_OFFLINE:
            reason = "not whole in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        else:
            reason = f"not whole in the cache, and {constants.ENDPOINT} cannot be reached"
            reason += f" ({_first_line(error.__cause__ or error)})"
        raise UserError(f"{name}: {reason}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{name}: {constants.ENDPOINT} refused: {_first_line(error)}") from error
    if WEIGHTS[0] in lacking:
        raise UserError(
            f"{name}: the repository has no {' and no '.join(WEIGHTS)}; pickles are never opened: "
            "name one that has safetensors"
        )
    if lacking and lacking[0] not in TOKENIZERS[0]:
        raise UserError(f"{name}: the repository has no {lacking[0]}, which {WEIGHTS[1]} names")
    return directory


def exact(name: str, directory: Path) -> str:
    """A name with the commit that was fetched, for the record."""
    return str(Address(address_of(name).repository, directory.name))


def _lacking(directory: Path) -> list[str]:
    """Files that a checkpoint needs and a directory has not."""
    weights = [WEIGHTS[0]]
    if not (directory / WEIGHTS[0]).is_file() and (directory / WEIGHTS[1]).is_file():
        places = read_record(directory / WEIGHTS[1]).get("weight_map")
        names = set(map(str, places.values())) if isinstance(places, dict) else set()
        weights = sorted(name for name in names if Path(name).name == name)
    lacking = [file for file in weights if not (directory / file).is_file()]
    if not any(all((directory / file).is_file() for file in files) for files in TOKENIZERS):
        lacking += TOKENIZERS[0]
    return lacking


def _first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return said or type(error).__name__
