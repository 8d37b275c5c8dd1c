"""`hf://ORG/NAME` against a hub of our own on this machine: fetched, recorded, offline, refused."""

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from safetensors.torch import load, load_file, save

from llmstages.cli import main
from llmstages.config.stages import FinetuneInstructConfig
from llmstages.errors import UserError
from llmstages.stages import finetune_instruct
from llmstages.stages.lineage.links import MISSING, check_lineage
from llmstages.train.checkpoint import load_checkpoint, read_info, weights_files
from llmstages.train.hub import fetched

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf://some-org/tiny"


def speak_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library have read this from `HF_ENDPOINT`."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class Hub(ThreadingHTTPServer):
    """What a hub answers: `some-org/tiny` (branch main, tag v1), `gated/model`, and no others."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: list[str] = []
        """Paths, with their methods."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def fetched(self) -> set[str]:
        """Files whose contents were sent."""
        head = f"GET /some-org/tiny/resolve/{COMMIT}/"
        return {path.removeprefix(head) for path in self.asked if path.startswith(head)}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        files = self.server.files
        place = unquote(self.path).partition("?")[0]
        if place.startswith("/api/models/gated/"):
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif place in {f"/api/models/some-org/tiny/revision/{name}" for name in ("main", "v1")}:
            info = {"id": "some-org/tiny", "sha": COMMIT, "siblings": []}
            self.answer(200, json.dumps(info).encode())
        elif place == f"/api/models/some-org/tiny/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                for name, data in files.items()
            ]
            self.answer(200, json.dumps(tree).encode())
        elif (name := place.removeprefix(f"/some-org/tiny/resolve/{COMMIT}/")) in files:
            data = files[name]
            self.answer(200, data, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": COMMIT})
        elif place.startswith("/api/models/some-org/tiny/"):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the model of a tiny run, and what else lies in such repositories."""
    best = tiny_run / "best"
    served = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    files = {name: (best / name).read_bytes() for name in served}
    files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "onnx/config.json": b"{}"}
    with Hub(files) as server:
        speak_to(server.address, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_base_is_fetched_once_and_recorded(
    hub: Hub,
    tiny_run: Path,
    tmp_path: Path,
    instruct_config: Callable[..., FinetuneInstructConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmstages.config.groups import MethodConfig

    method = MethodConfig(name="lora")
    config = instruct_config(tmp_path / "runs", base=f"{NAME}@v1", steps=1, method=method)
    finetune_instruct.run(config)
    assert hub.fetched == set(hub.files) - {"pytorch_model.bin", "modeling.py", "onnx/config.json"}
    best = tmp_path / "runs" / "pairs-instruct" / "best"
    lineage = read_info(best).lineage
    assert lineage.base == f"{NAME}@{COMMIT}"
    assert lineage.parent == load_checkpoint(tiny_run).hash
    card = (best / "README.md").read_text("utf-8")
    assert "base_model: some-org/tiny\n" in card
    assert f"| base | `{NAME}@{COMMIT}` |" in card
    assert "| method | `lora` of rank 16 |" in card
    adapters = json.loads((best / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert adapters["base_model_name_or_path"] == "some-org/tiny"
    assert adapters["revision"] == COMMIT
    # Nothing is asked where nobody has typed the name; then what is cached counts, and is no more.
    hub.asked.clear()
    base = [link for link in check_lineage(best.parent) if link.what == "base model"]
    assert [(link.where, link.sha256) for link in base] == [(lineage.base, lineage.parent)]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    base = [link for link in check_lineage(best.parent) if link.what == "base model"]
    assert [link.sha256 for link in base] == [MISSING]
    assert hub.asked == []
    # A branch that has moved is another base; an unfinished run goes on with the commit it has.
    (best.parent / "summary.json").unlink()
    weights = load(hub.files["model.safetensors"])
    hub.files["model.safetensors"] = save({name: 2 * tensor for name, tensor in weights.items()})
    monkeypatch.setattr(sys.modules[__name__], "COMMIT", "f" * 40)
    with pytest.raises(UserError, match=f"base={lineage.base} continues it, name="):
        finetune_instruct.run(config)


def test_offline_the_cache_counts(
    hub: Hub,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", NAME]) == 0
    assert "parameters" in capsys.readouterr().out
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load_checkpoint(NAME)
    assert loaded.source == f"{NAME}@{COMMIT}"
    weights = load_file(tiny_run / "best" / "model.safetensors")
    assert load_file(loaded.directory / "model.safetensors").keys() == weights.keys()
    with pytest.raises(UserError, match=r"hf://some-org/tiny@v1: not whole.* HF_HUB_OFFLINE"):
        load_checkpoint(f"{NAME}@v1")
    assert hub.asked == []


def test_a_checkpoint_is_whole_or_refused(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights lie where the index says, whatever their names; the cache may have lost some."""
    index = "model.safetensors.index.json"
    weights = load(hub.files.pop("model.safetensors"))
    shards = {f"weights.{part}[of-2].safetensors": list(weights)[part::2] for part in (0, 1)}
    places = {name: file for file, names in shards.items() for name in names}
    hub.files |= {file: save({name: weights[name] for name in shards[file]}) for file in shards}
    hub.files[index] = json.dumps({"weight_map": places}).encode()
    load_checkpoint(NAME)
    # Older versions of the library have not written down what a repository has.
    cache, older = tmp_path / "cache", tmp_path / "older"
    shutil.copytree(cache, older, symlinks=True, ignore=shutil.ignore_patterns("trees"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(older))
    directory = fetched(NAME, from_cache=True)
    for lost in (*shards, "tokenizer.json"):
        kept = (directory / lost).rename(tmp_path / "kept")
        with pytest.raises(UserError, match=f"{NAME}: not whole in the cache, and HF_HUB_OFFLINE"):
            fetched(NAME, from_cache=True)
        with monkeypatch.context() as unreachable:
            speak_to("http://127.0.0.1:9", unreachable)
            with pytest.raises(UserError, match=r"not whole in the cache, and .* be reached"):
                fetched(NAME)
        kept.rename(directory / lost)
    (directory / "weights.0[of-2].safetensors").unlink()
    assert len(weights_files(fetched(NAME))) == 2
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    del hub.files["weights.1[of-2].safetensors"]
    said = f"the repository has no weights.1[of-2].safetensors, which {index} names"
    with pytest.raises(UserError, match=re.escape(said)):
        fetched(NAME)


def test_what_a_hub_does_not_give_is_said_in_a_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(name: str) -> str:
        assert main(["inspect", name]) == 2
        said = capsys.readouterr().err.splitlines()[-1]  # the library's bars stand before it
        assert said.startswith(f"error: {name}")
        return said

    assert "no such repository, or it is private" in refusal("hf://some-org/other")
    assert f"ask for it at {hub.address}/gated/model, then set HF_TOKEN" in refusal(
        "hf://gated/model"
    )
    assert "no branch, tag or commit v2" in refusal(f"{NAME}@v2")
    assert "names no repository" in refusal("hf://a/b/c")
    for name in ("hf://", f"{NAME}@"):
        assert "write hf://ORG/NAME" in refusal(name)
    del hub.files["model.safetensors"]
    assert "no model.safetensors and no model.safetensors.index.json; pickles" in refusal(NAME)
    speak_to("http://127.0.0.1:9", monkeypatch)
    assert "127.0.0.1:9 cannot be reached" in refusal("hf://some-org/another")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'llmstages[hub]'" in refusal(NAME)
