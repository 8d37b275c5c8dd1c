"""Code of a peer, taken from its checkout while a benchmark runs."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file as the module `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def bare_package(directory: Path) -> None:
    """Make a package importable without running its `__init__`, which imports too much."""
    package = ModuleType(directory.name)
    package.__path__ = [str(directory)]
    sys.modules[directory.name] = package


def load_function(path: Path, name: str, namespace: dict[str, Any]) -> Any:
    """One function of a file whose imports are not all installed.

    namespace: what the function finds under its global names; it becomes part of it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    code = compile(ast.Module(body=[*found], type_ignores=[]), str(path), "exec")
    exec(code, namespace)
    return namespace[name]
