"""Every stage, tiny, in a temporary directory: does everything run? Under a minute.

python scripts/smoke.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = [
    {"instruction": f"What is {a} plus {b}?", "output": f"It is {a + b}."}
    for a in range(8)
    for b in range(8)
]
LABELLED = [
    {"text": f"{number} is {'even' if number % 2 == 0 else 'odd'}", "label": str(number % 2 == 0)}
    for number in range(80)
]


def llmstages(*arguments: str, cwd: Path) -> None:
    """Run a subcommand; a failure ends the script."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "llmstages", *arguments], cwd=cwd, check=True)
    print(f"llmstages {arguments[0]}: {time.monotonic() - began:.1f} s", flush=True)


def main() -> None:
    """Run all stages."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        for file, rows in (("pairs.jsonl", PAIRS), ("labelled.jsonl", LABELLED)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (cwd / file).write_text(text, encoding="utf-8")
        llmstages("collect", "experiment=smoke", cwd=cwd)
        llmstages("pretrain", "experiment=smoke", cwd=cwd)
        llmstages("finetune", "pairs.jsonl", "experiment=smoke", cwd=cwd)
        llmstages("finetune", "labelled.jsonl", "experiment=smoke", cwd=cwd)
        llmstages("generate", "runs/smoke", "The lion is in the", "top=5", cwd=cwd)
        llmstages("generate", "runs/smoke-instruct", "What is 1 plus 1?", cwd=cwd)
        llmstages("predict", "runs/smoke-classify", "labelled.jsonl", "output=out.jsonl", cwd=cwd)
        llmstages("inspect", "runs/smoke-classify", cwd=cwd)
    print(f"smoke: all stages ran in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
