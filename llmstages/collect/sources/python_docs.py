"""The documentation every Python carries, read without importing any of it.

Three sources: the chapters of the language reference behind `help()` (pydoc_data), the docstrings
of the standard library, and the docstrings and documentation files of installed packages. A module
is one document: its docstrings in order, each under its qualified signature. The order of
everything is fixed, so the same installation always gives the same documents.
"""

import ast
import csv
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from inspect import cleandoc
from pathlib import Path, PurePosixPath
from typing import cast

from llmstages.collect.sources.records import Input, Note, RawDocument

SKIPPED_FOLDERS = frozenset(
    (
        *("test", "tests", "_test", "_tests", "testing", "idle_test", "idlelib", "turtledemo"),
        *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "__phello__"),
        # Copies of other packages: their documents would be duplicates.
        *("_vendor", "vendor", "vendored", "_vendored", "_bundled", "node_modules"),
    )
)
DOCUMENT_SUFFIXES = (".rst", ".md")
OWN_PACKAGE = "llmstages"
LONGEST_SIGNATURE = 240
"""Characters; a longer signature (dozens of settings) is shown without its parameters."""


@dataclass(frozen=True)
class Docstring:
    """One docstring, where it stands and what it describes."""

    kind: str
    """`module`, `class` or `function`."""
    qualified_name: str
    signature: str
    """The qualified name, for functions and classes with their parameters."""
    text: str


def iter_docstrings(code: bytes | str, module: str) -> Iterator[Docstring]:
    """The docstrings of a module's source code in order; none when it does not parse.

    Names that start with an underscore are private and left out, and so are inner functions.
    """
    if isinstance(code, bytes) and b'"""' not in code and b"'''" not in code:
        return  # the common case of modules without documentation, told without parsing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the code of others: nobody here can mend it
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return
    if text := _docstring(tree):
        yield Docstring("module", module, module, text)
    yield from _inner_docstrings(tree, module)


def _inner_docstrings(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[Docstring]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            if text := _docstring(node):
                bases = ", ".join(ast.unparse(base) for base in node.bases)
                yield Docstring("class", name, f"class {name}({bases})" if bases else name, text)
            yield from _inner_docstrings(node, name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not node.name.startswith("_") and (text := _docstring(node)):
                name = f"{prefix}.{node.name}"
                yield Docstring("function", name, _signature(name, node.args), text)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return cleandoc(ast.get_docstring(node, clean=False) or "").strip()


def _signature(name: str, arguments: ast.arguments) -> str:
    signature = f"{name}({ast.unparse(arguments)})"
    return signature if len(signature) <= LONGEST_SIGNATURE else f"{name}(...)"


def module_document(code: bytes, module: str) -> str:
    """One document of all docstrings of a module; empty when there are none."""
    return "\n\n".join(
        entry.text if entry.kind == "module" else f"{entry.signature}\n\n{entry.text}"
        for entry in iter_docstrings(code, module)
    )


# The chapters of the language reference.


def list_topics() -> tuple[list[Input], list[Note]]:
    """pydoc's chapters; a note where a distribution of Python leaves them out."""
    path = _stdlib_dir() / "pydoc_data" / "topics.py"
    if not path.is_file():
        return [], [Note("python_topics", "this Python comes without pydoc's chapters")]
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return [Input("pydoc_data/topics.py", str(path), len(data), digest)], []


def read_topics(entry: Input) -> Iterator[RawDocument]:
    """One document a chapter."""
    for node in ast.parse(Path(entry.path).read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            for topic in sorted(topics):
                yield RawDocument(f"topics/{topic}", 0, topics[topic], metadata={"topic": topic})


# The standard library.


def _stdlib_dir() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def list_stdlib() -> tuple[list[Input], list[Note]]:
    """The standard library as one input."""
    digest = hashlib.sha256()
    size = 0
    root = _stdlib_dir()
    for path in _modules(root):
        data = path.read_bytes()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + data)
        size += len(data)
    if not size:
        return [], [Note("python_stdlib", "this Python comes without the library's source code")]
    version = ".".join(map(str, sys.version_info[:3]))
    return [Input(f"python-{version}", str(root), size, digest.hexdigest())], []


def read_stdlib(entry: Input) -> Iterator[RawDocument]:
    """One document a module."""
    root = Path(entry.path)
    for path in _modules(root):
        module = _module_name(path.relative_to(root).as_posix())
        if text := module_document(path.read_bytes(), module):
            yield RawDocument(module, 0, text, metadata={"module": module})


def _modules(root: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if name.endswith(".py") and not _is_test(name):
                yield Path(directory) / name


# Installed packages.


def list_packages() -> tuple[list[Input], list[Note]]:
    """Every installed package but this project, sorted by name.

    Its hash is that of the list of files and hashes that its installer recorded.
    """
    inputs: dict[str, Input] = {}
    for package in importlib.metadata.distributions():
        name = _headers(package).get("Name", "").lower().replace("_", "-")
        if not name or name == OWN_PACKAGE or name in inputs:
            continue
        files = _package_files(package)
        listing = "\n".join(f"{path},{digest}" for path, digest, _ in files)
        listing += package.read_text("METADATA") or ""
        inputs[name] = Input(
            f"{name}-{package.version}",
            name,
            sum(size for _, _, size in files),
            hashlib.sha256(listing.encode("utf-8", "replace")).hexdigest(),
        )
    notes = [] if inputs else [Note("python_packages", "no packages are installed")]
    return sorted(inputs.values(), key=lambda entry: entry.locator), notes


def read_package(entry: Input, max_bytes: int) -> Iterator[RawDocument]:
    """The package's description, its documentation files, and one document a module.

    Reading ends once `max_bytes` of text are read. Modules come in the order of a hash of their
    names, so that what is taken of a large package is spread over all of it.
    """
    package = importlib.metadata.distribution(entry.path)
    metadata = {"package": entry.path, "version": package.version}
    headers = _headers(package)
    license_name = headers.get("License-Expression") or headers.get("License")
    if license_name and len(license_name) < 100 and "\n" not in license_name:
        metadata["license"] = license_name
    taken = 0
    description = str(headers.get_payload()).strip()
    if description:
        taken += len(description)
        yield RawDocument(f"{entry.path}/README", 0, description, metadata=metadata)
    for path, _, _ in sorted(_package_files(package), key=_reading_order):
        try:
            data = Path(str(package.locate_file(path))).read_bytes()
        except OSError:
            continue  # recorded by the installer, removed since
        if path.endswith(".py"):
            module = _module_name(path)
            text = module_document(data, module)
            more = {"module": module}
        else:
            text = data.decode("utf-8", errors="replace")
            more = {"file": path}
        taken += len(text)
        if taken > max_bytes:  # the last document ends where a line does
            text = text[: max_bytes - taken].rpartition("\n")[0]
        if text.strip():
            yield RawDocument(f"{entry.path}/{path}", 0, text, metadata=metadata | more)
        if taken >= max_bytes:
            return


def _headers(package: importlib.metadata.Distribution) -> Message:
    """What METADATA says; the class behind the protocol has more than the protocol."""
    return cast(Message, package.metadata)


def _reading_order(file: tuple[str, str, int]) -> tuple[bool, str]:
    """Documentation first, then modules in the order of a hash."""
    path = file[0]
    return path.endswith(".py"), hashlib.sha256(path.encode()).hexdigest()


def _package_files(package: importlib.metadata.Distribution) -> list[tuple[str, str, int]]:
    """Path, hash and size of the modules and documentation files of a package, sorted.

    Read from the installer's RECORD: `Distribution.files` asks the file system about every file,
    which takes seconds for large packages.
    """
    files: list[tuple[str, str, int]] = []
    for row in csv.reader((package.read_text("RECORD") or "").splitlines()):
        if len(row) == 3 and _is_documented(row[0]):
            files.append((row[0], row[1], int(row[2] or 0)))
    return sorted(files)


def _is_documented(path: str) -> bool:
    if path.startswith(("..", "/")):
        return False
    *folders, name = PurePosixPath(path).parts
    if any(part in SKIPPED_FOLDERS or part.endswith(".dist-info") for part in folders):
        return False
    if path.endswith(".py"):
        return not _is_test(name)
    if name.lower().startswith(("license", "licence", "copying", "notice")):
        return False
    if path.endswith(".txt"):  # elsewhere .txt is mostly data
        return name.lower().startswith(("readme", "changes", "news")) or "doc" in path.lower()
    return path.endswith(DOCUMENT_SUFFIXES)


def _is_test(name: str) -> bool:
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
