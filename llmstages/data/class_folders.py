"""Folders of mails and texts, whose labels are the names of the folders or mailboxes they lie in.

A label is a subfolder, with a file a text (`spam/0001.eml`, `pos/9_8.txt`) or mailboxes in it, or a
mailbox (`spam.mbox`). What is neither mail nor text, and mail without text in it, is set aside and
counted: a folder of mail always holds some, so that it never ends the reading. Mail is read as
`collect` reads it.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmstages.data.encodings import decode_bytes
from llmstages.data.opening import UNREADABLE, check_file, inner_name, inner_suffix, open_bytes
from llmstages.data.rows import fault_of
from llmstages.data.table import SUFFIXES
from llmstages.errors import UserError

logger = logging.getLogger("llmstages")

Kind = Literal["mail", "text", "bare text"]
"""`bare text` has no suffix: among mails it is no text but a list, an index and the like."""

MAILBOX_SUFFIXES = (".mbox", ".mbx")
TEXT_BYTES = 64 * 2**20
"""Of a text file; a longer one is a log or a dump."""
SPLIT_NAMES = frozenset(("train", "training", "valid", "validation", "val", "dev", "test"))
NOTES_PER_TABLE = 10
"""Most texts that are taken for notes beside a file of rows."""
REASONS_SHOWN = 5
# Headers of a message, as `From: ada@example.org`; a group of news has no `Received`.
_HEADERS = re.compile(rb"(?:[A-Za-z][A-Za-z-]{1,40}:[ \t].*\r?\n(?:[ \t]+\S.*\r?\n)*){2}")
_WHO_AND_WHAT = re.compile(rb"^(?:From|Subject):", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """A message or the text of a file."""

    path: Path
    number: int
    """Of the message in its file, from 1."""
    text: str

    def id_below(self, folder: Path) -> str:
        """Its name in a folder; messages of a mailbox are numbered."""
        name = readable(self.path.relative_to(folder).as_posix())
        mailbox = inner_suffix(name) in MAILBOX_SUFFIXES or self.number > 1
        return f"{name}#{self.number}" if mailbox else name


def readable(name: Path | str) -> str:
    """A name to show and to write: bytes of it that are not UTF-8 stand as `\\xe9`."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def class_files(path: Path) -> dict[str, list[Path]]:
    """The files of each label of a folder, by name; empty where a path is no such folder.

    It is one when its subfolders and mailboxes hold mails or texts and are no files of rows
    (`are_rows`). What is set aside is among the files.

    Raises:
        UserError: the subfolders are parts of a data set, each with labels of its own.
    """
    if not os.path.isdir(path):  # False too for what can be no path; `Path.is_dir` raises
        return {}
    found: dict[str, list[Path]] = {}
    unlabelled: list[Path] = []
    for child in sorted(path.iterdir()):
        if child.name.startswith("."):
            continue
        if child.is_dir():
            found.setdefault(readable(child.name), []).extend(files_below(child))
        elif child.is_file() and _is_mailbox(child):
            label = inner_name(child.name).rpartition(".")[0] or child.name
            found.setdefault(readable(label), []).append(child)
        else:
            unlabelled.append(child)
    with_documents = {
        label: files for label, files in found.items() if any(map(kind_of_document, files))
    }
    labelled = [file for files in found.values() for file in files]
    if not with_documents or are_rows(labelled, unlabelled):
        return {}
    if with_documents.keys() <= SPLIT_NAMES:
        first = path / next(iter(with_documents))
        raise UserError(
            f"{path}: its folders {', '.join(with_documents)} are parts of a data set: name them, "
            f"such as data={first} test_data={path / 'test'}"
        )
    return with_documents


def are_rows(files: Iterable[Path], others: Iterable[Path] = ()) -> bool:
    """Whether files are tables of rows with notes beside them, such as a README and a licence.

    Texts that far outnumber the files of rows, those among `others` too, are no notes, nor is mail.
    """
    files = list(files)
    num_rows = sum(inner_suffix(file.name) in SUFFIXES for file in (*files, *others))
    if not num_rows:
        return False
    kinds = Counter(map(kind_of_document, files))
    num_notes = kinds["text"] + kinds["bare text"]
    return kinds["mail"] <= num_rows and num_notes <= NOTES_PER_TABLE * num_rows


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders, by name; hidden ones are left alone."""
    found: list[Path] = []
    waiting = [(os.fspath(folder), True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            found.append(Path(path))
            continue
        # Without the means of `Path`, which takes seconds for 20,000 mails.
        with suppress(PermissionError), os.scandir(path) as entries:
            inside = [
                (entry.path, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir(follow_symlinks=False) or _is_file(entry))
            ]
            waiting += sorted(inside, reverse=True)
    return found


def kind_of_document(path: Path) -> Kind | None:
    """What a file of a folder is taken for; None for what is set aside."""
    # Imported here: `finetune` looks into its file before anything else is needed.
    from llmstages.collect.sources.formats import SNIFF_BYTES, find_format, needs_head

    head = b""
    try:
        if needs_head(path.name):
            with open_bytes(path) as stream:
                head = stream.read(SNIFF_BYTES)
            if _HEADERS.match(head) and _WHO_AND_WHAT.search(head):
                return "mail"
        format = find_format(path.name, head, maybe_text=not inner_suffix(path.name))
    except (UserError, *UNREADABLE):
        return None
    if format == "text":
        return "text" if inner_suffix(path.name) else "bare text"
    return "mail" if format == "mail" else None


def is_mail(path: Path) -> bool:
    """Whether a file is a message or a mailbox."""
    rows = inner_suffix(path.name) in (*SUFFIXES, ".txt")
    return not rows and os.path.isfile(path) and kind_of_document(path) == "mail"


def read_documents(files: list[Path], aside: Counter[str]) -> Iterator[Document]:
    """The texts of files, streamed; why others are set aside is counted in `aside`."""
    kinds = {file: kind_of_document(file) for file in files}
    among_mails = "mail" in kinds.values()
    for file, kind in kinds.items():
        if kind is None or (kind == "bare text" and among_mails):
            suffix = readable(inner_suffix(file.name)) or "no suffix"
            aside[f"no mail and no text ({suffix})"] += 1
            continue
        try:
            check_file(file)
            yield from (_read_mail if kind == "mail" else _read_text)(file, aside)
        except UserError:
            aside["empty file"] += 1
        except UNREADABLE:
            aside["broken or cut-off data"] += 1


def said_aside(where: Path | str, aside: Counter[str]) -> None:
    """Say how many texts are set aside and why, the commonest reason first."""
    if aside:
        reasons = aside.most_common(REASONS_SHOWN)
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        more = ", ..." if len(aside) > len(reasons) else ""
        logger.warning("%s: %s set aside: %s%s", where, f"{aside.total():,}", listed, more)


def _read_mail(path: Path, aside: Counter[str]) -> Iterator[Document]:
    from llmstages.collect.sources.mail import read_mail
    from llmstages.collect.sources.records import RawDocument, Skipped

    with open_bytes(path) as stream:
        for found in read_mail(stream, path.name):
            if isinstance(found, RawDocument):
                if (fault := fault_of(found.text)) is not None:
                    aside[fault] += 1
                else:
                    yield Document(path, found.ordinal + 1, found.text)
            elif isinstance(found, Skipped) and found.reason != "attachment":
                aside[found.reason] += found.count


def _read_text(path: Path, aside: Counter[str]) -> Iterator[Document]:
    with open_bytes(path) as stream:
        data = stream.read(TEXT_BYTES + 1)
    text = decode_bytes(data)[0]
    fault = f"text over {TEXT_BYTES // 2**20} MiB" if len(data) > TEXT_BYTES else fault_of(text)
    if fault is not None:
        aside[fault] += 1
    else:
        yield Document(path, 1, text.strip())


def _is_file(entry: os.DirEntry[str]) -> bool:
    """False, and no error, for a link that leads in a circle."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def _is_mailbox(path: Path) -> bool:
    if inner_suffix(path.name) in MAILBOX_SUFFIXES:
        return True
    if inner_suffix(path.name):
        return False
    try:
        with open_bytes(path) as stream:
            return stream.read(5) == b"From " and kind_of_document(path) == "mail"
    except (UserError, *UNREADABLE):
        return False
