"""Extraction of main text: pages a second and F1 of each extractor, on labelled pages.

    python scripts/bench_extraction.py FOLDER [FOLDER ...] [--output FILE]

A folder is laid out like the pages of mozilla/readability (test-pages/NAME/source.html and
expected.html) or like scrapinghub/article-extraction-benchmark (ground-truth.json and
html/NAME.html.gz). Each extractor gets the bytes of all pages in one process and one thread.

Precision and recall compare multisets of four consecutive words, a page at a time, and are means
over the pages; F1 is of these two means, as in the article extraction benchmark. The texts are
written by humans there, and by Readability, corrected by humans, in mozilla's pages.
"""

import argparse
import gzip
import json
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean

from llmstages.collect.pages.extraction import extract_page, visible_text
from llmstages.errors import UserError
from llmstages.report.terminal import table

WORDS_IN_SHINGLE = 4
PACKAGES = ("llmstages", "trafilatura", "resiliparse", "justext", "selectolax", "lxml")

Extractor = Callable[[bytes], str]
Labelled = tuple[bytes, str]
"""A page and the text a human found to be its main text."""


def labelled_pages(folder: Path) -> Iterator[Labelled]:
    """The pages of a folder in either layout."""
    truth = folder / "ground-truth.json"
    if truth.is_file():
        for name, entry in sorted(json.loads(truth.read_text(encoding="utf-8")).items()):
            page = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
            yield page, entry.get("articleBody", "")
        return
    expected = sorted(folder.rglob("expected.html"))
    if not expected:
        raise UserError(f"{folder}: neither ground-truth.json nor any expected.html in it")
    for path in expected:
        yield (
            path.with_name("source.html").read_bytes(),
            visible_text(path.read_text(encoding="utf-8")),
        )


def extractors() -> dict[str, Extractor]:
    """The default, trafilatura in two settings, and what else is installed."""
    from trafilatura import extract

    found: dict[str, Extractor] = {
        "llmstages": lambda page: extract_page(page).text,
        "trafilatura": lambda page: extract(page, include_comments=False) or "",
        "trafilatura, fast": lambda page: extract(page, include_comments=False, fast=True) or "",
    }
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        found["resiliparse"] = lambda page: extract_plain_text(
            bytes_to_str(page, detect_encoding(page, from_html_meta=True) or "utf-8"),
            main_content=True,
        )
    except ImportError:
        pass
    try:
        import justext  # type: ignore[import-not-found,import-untyped,unused-ignore]

        stop_words = justext.get_stoplist("English")
        found["justext"] = lambda page: "\n".join(
            paragraph.text
            for paragraph in justext.justext(page, stop_words)
            if not paragraph.is_boilerplate
        )
    except ImportError:
        pass
    return found


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Counts of four consecutive words; of all words of a shorter text."""
    words = re.findall(r"\w+", text)
    return Counter(
        tuple(words[start : start + WORDS_IN_SHINGLE])
        for start in range(max(1, len(words) - WORDS_IN_SHINGLE + 1))
        if words
    )


def scores(pairs: list[tuple[str, str]]) -> tuple[float, float, float]:
    """Mean precision, mean recall, and F1 of the two, of pairs of expected and found text."""
    precisions, recalls = [], []
    for expected, found in ((shingles(one), shingles(other)) for one, other in pairs):
        common = (expected & found).total()
        if found:
            precisions.append(common / found.total())
        if expected:
            recalls.append(common / expected.total())
    precision, recall = (mean(values) if values else 0.0 for values in (precisions, recalls))
    return precision, recall, 2 * precision * recall / (precision + recall or 1.0)


def measure(name: str, extractor: Extractor, pages: list[Labelled]) -> dict[str, object]:
    """One row of the table. The first page is read once before, for what is loaded then."""
    extractor(pages[0][0])
    began = time.perf_counter()
    texts = [extractor(page) for page, _ in pages]
    seconds = time.perf_counter() - began
    pairs = [(expected, text) for (_, expected), text in zip(pages, texts, strict=True)]
    precision, recall, f1 = scores(pairs)
    return {
        "extractor": name,
        "pages": len(pages),
        "seconds": round(seconds, 2),
        "pages_per_second": round(len(pages) / seconds, 1),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
    }


def versions() -> dict[str, str]:
    """Of the packages measured, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Its name, where the system tells."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    named = re.search(r"model name\s*:\s*(.+)", facts)
    return named.group(1) if named else platform.processor()


def main() -> None:
    """Measure all extractors on each folder."""
    parser = argparse.ArgumentParser(description="Speed and F1 of main text extraction.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, help="write the rows to this JSON file too")
    parser.add_argument("--extractors", nargs="+", help="only these")
    arguments = parser.parse_args()
    rows = []
    for folder in arguments.folders:
        pages = list(labelled_pages(folder))
        measured = [
            measure(name, extractor, pages)
            for name, extractor in extractors().items()
            if not arguments.extractors or name in arguments.extractors
        ]
        table(
            f"main text, {folder.name}",
            [column.replace("_", " ") for column in measured[0]],
            [list(row.values()) for row in measured],
            to_output=True,
        )
        rows += [{"folder": folder.name, **row} for row in measured]
    if arguments.output:
        result = {
            # Paths of this machine are nobody else's.
            "command": " ".join(
                ["python", "scripts/bench_extraction.py"]
                + [Path(word).name if "/" in word else word for word in sys.argv[1:]]
            ),
            "date": date.today().isoformat(),
            "machine": f"{processor()}, one process",
            "python": platform.python_version(),
            "versions": versions(),
            "metric": "4-gram multisets of words; means over pages of precision and recall",
            "rows": rows,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
