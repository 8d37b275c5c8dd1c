"""Real archives, dumps, books and tables in one corpus, by the words of the README."""

import os
from pathlib import Path

import pytest

from llmstages import cli
from llmstages.data.corpus import Corpus

DATA = os.environ.get("LLMSTAGES_DATA")

pytestmark = [
    pytest.mark.skipif(DATA is None, reason="LLMSTAGES_DATA names no real data"),
    # Daft leaves the pipes of its worker processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RECIPE = """name: real
sources:
  crawl:
    paths: [{data}/warc_samples]
    weight: 0.3
  wikipedia:
    paths: [{data}/wikipedia_dumps]
    weight: 0.3
    priority: 1
    license: CC-BY-SA-4.0
  books:
    paths: [{data}/gutenberg_raw]
    weight: 0.2
  tables:
    paths: ["{data}/cc_text_jsonl/*.gz", {data}/web_text_demo]
    weight: 0.2
"""


def test_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "conf" / "corpus").mkdir(parents=True)
    (tmp_path / "conf" / "corpus" / "real.yaml").write_text(RECIPE.format(data=DATA))
    arguments = [f"--config-dir={tmp_path / 'conf'}", "corpus=real", f"corpora_dir={tmp_path}"]
    assert cli.main(["collect", *arguments, "pii=replace", "language=identify"]) == 0
    corpus = Corpus.open(tmp_path / "real")
    sources = {source.name: source for source in corpus.manifest.sources}
    # As their SOURCE.md says: 206 pages of which 100 are redirects, and so on.
    assert sources["wikipedia"].skipped["redirect"] == 100
    assert sources["wikipedia"].extracted.documents == 105
    assert sources["crawl"].skipped["revisit record"] > 0
    assert sources["crawl"].extracted.documents > 200
    assert sources["crawl"].dropped["duplicate"].documents > 50
    assert sources["books"].dropped["near_duplicate"].documents == 1
    assert sources["tables"].extracted.documents >= 331
    texts = {
        name: [document.text for document in corpus.documents("train", name)] for name in sources
    }
    assert not any("Project Gutenberg License" in text for text in texts["books"])
    assert not any("{{" in text and "$" not in text for text in texts["wikipedia"])
    assert not any("[[" in text for text in texts["wikipedia"])
    languages = {document.language for document in corpus.documents("train", "wikipedia")}
    assert {"en", "bg"} <= languages
