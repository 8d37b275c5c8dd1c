"""All stages on this machine's own text, in a few minutes, and one table of what came out.

Each stage is run as a user would type it. Everything is written to `demo/` in the working
directory, and anew each time. The time budgets make the whole fit into six minutes on two cores.

The pairs and labelled texts come from packages whose documentation is in the corpus too, as a
company's questions and answers come from a company whose texts one collects: tuning and testing
never share a pair, but the base model may have read what is asked.

    python scripts/demo.py [--check]

With --check the exit status is 1 when a figure is not what docs/architecture.md promises.
"""

import json
import lzma
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.markup import escape

from llmstages.data.corpus import Corpus
from llmstages.report.terminal import output_console, table

DEMO_DIR = Path("demo")
PRETRAIN_SECONDS = 195
INSTRUCT_SECONDS = 50
CLASSIFY_SECONDS = 45


def llmstages(*arguments: str) -> str:
    """Run a subcommand as typed in a shell; returns what it printed to standard output."""
    shown = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    output_console().rule(escape(f"llmstages {shown}"), align="left")
    sys.stdout.flush()
    command = [sys.executable, "-m", "llmstages", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    print(done.stdout, end="")
    return done.stdout


def xz_bits_per_byte(texts: list[str]) -> float:
    """Bits a byte that `xz -9e` needs for the texts in one stream."""
    data = "\n".join(texts).encode()
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def summary(name: str) -> dict[str, Any]:
    """`summary.json` of a run."""
    text = (DEMO_DIR / "runs" / name / "summary.json").read_text(encoding="utf-8")
    contents: dict[str, Any] = json.loads(text)
    return contents


def main() -> None:
    """Run the demo."""
    began = time.monotonic()
    places = [f"corpora_dir={DEMO_DIR}/corpora", "overwrite=true"]
    runs = [f"runs_dir={DEMO_DIR}/runs", "evaluate.num_samples=1"]
    llmstages("collect", *places)
    data_dir = DEMO_DIR / "data"
    script = Path(__file__).with_name("demo_data.py")
    subprocess.run([sys.executable, str(script), str(data_dir)], check=True)
    pretrain_budget = f"budget.seconds={PRETRAIN_SECONDS}"
    llmstages("pretrain", "model=nano", pretrain_budget, *places, *runs)
    functions, packages = str(data_dir / "functions.jsonl"), str(data_dir / "packages.jsonl")
    llmstages("finetune", functions, f"budget.seconds={INSTRUCT_SECONDS}", "overwrite=true", *runs)
    llmstages("finetune", packages, f"budget.seconds={CLASSIFY_SECONDS}", "overwrite=true", *runs)
    base, instruct = f"{DEMO_DIR}/runs/pretrain", f"{DEMO_DIR}/runs/functions-instruct"
    classifier = f"{DEMO_DIR}/runs/packages-classify"
    llmstages("generate", base, "The return value of the", "top=10")
    llmstages("generate", base, "Return a new list with", "max_new_tokens=60")
    llmstages("generate", instruct, "What does the function os.path.join do?", "temperature=0")
    llmstages("predict", classifier, "Compute the eigenvalues of a symmetric matrix.")
    passed = report(time.monotonic() - began)
    if "--check" in sys.argv and not passed:
        sys.exit(1)


def report(seconds: float) -> bool:
    """Print the table of stages and the promises; returns whether all are kept."""
    corpus = Corpus.open(DEMO_DIR / "corpora" / "python")
    collected = json.loads((corpus.directory / "collect.json").read_text(encoding="utf-8"))
    pretrained = summary("pretrain")
    tuned = summary("functions-instruct")
    classified = summary("packages-classify")
    words = corpus.counts("train").words + corpus.counts("validation").words
    num_bytes = corpus.counts("train").bytes + corpus.counts("validation").bytes

    def stage_row(
        name: str, objective: str, data: str, run: dict[str, Any], before: str, after: str
    ) -> tuple[str, ...]:
        return (
            name,
            objective,
            data,
            f"{run['seconds']:,.0f}",
            f"{run['words']:,}",
            f"{run['tokens_per_second']:,.0f}",
            before,
            after,
        )

    before, after = tuned["metrics_before"], tuned["metrics"]
    examples, labelled = tuned["examples"], classified["examples"]
    xz = xz_bits_per_byte([document.text for document in corpus.documents("validation")])
    majority = classified["baselines"]["majority"]
    tfidf = classified["baselines"]["tfidf"]
    probe = classified["metrics_before"]
    table(
        "",
        ("stage", "objective", "data", "seconds", "words", "tokens/s", "before", "after"),
        [
            (
                "collect",
                "clean text",
                f"documentation, {num_bytes / 1e6:.1f} MB",
                f"{collected['seconds']:,.0f}",
                f"{words:,}",
                "",
                "",
                f"{words:,} words",
            ),
            stage_row(
                "pretrain",
                "next word",
                f"unlabelled, {corpus.counts('train').documents:,} documents",
                pretrained,
                f"{pretrained['metrics_before']['val_bits_per_byte']:.2f} bits/byte",
                f"{pretrained['metrics']['val_bits_per_byte']:.2f} bits/byte",
            ),
            stage_row(
                "finetune-instruct",
                "next word of the answer",
                f"{examples['train']:,} pairs",
                tuned,
                f"loss {before['val_loss']:.2f}, {before['stopped_share']:.0%} stop",
                f"loss {after['val_loss']:.2f}, {after['stopped_share']:.0%} stop",
            ),
            stage_row(
                "finetune-classify",
                "label of a text",
                f"{labelled['train']:,} labelled texts",
                classified,
                f"macro F1 {probe['macro_f1']:.3f} (linear probe)",
                f"macro F1 {classified['metrics']['macro_f1']:.3f}",
            ),
        ],
        to_output=True,
    )
    fall = 1 - after["val_loss"] / before["val_loss"]
    bits = pretrained["metrics"]["val_bits_per_byte"]
    accuracy = classified["metrics"]["accuracy"]
    promises = [
        (
            bits < xz,
            f"the base model needs {bits:.3f} bits a byte of validation text, xz -9e {xz:.3f}",
        ),
        (fall >= 0.2, f"tuning lowers the loss on held-out answers by {fall:.0%} (at least 20 %)"),
        (
            after["stopped_share"] >= 0.9,
            f"{after['stopped_share']:.0%} of the answers end by themselves (at least 90 %)",
        ),
        (
            accuracy > majority["accuracy"] + 0.2,
            f"the classifier is right on {accuracy:.1%} of the test texts; the majority class "
            f"gives {majority['accuracy']:.1%}, TF-IDF + logistic regression "
            f"{tfidf['accuracy']:.1%}",
        ),
        (seconds < 360, f"all of it took {seconds:,.0f} s (less than 360)"),
    ]
    for kept, text in promises:
        output_console().print(f"{'yes' if kept else ' no'}  {text}", markup=False)
    return all(kept for kept, _ in promises)


if __name__ == "__main__":
    main()
