"""Public dialogues and questions as texts to pretrain on, one JSON Lines file for each source.

    python scripts/dialogue_texts.py FOLDER OUTPUT

FOLDER holds clones of these repositories, or of some; labels, actions and test answers in them are
left out, speakers' words stay, a turn a line.

    google-research-datasets/dstc8-schema-guided-dialogue   CC BY-SA 4.0
    google-research-datasets/Taskmaster (TM-3, TM-4)        CC BY 4.0
    clinc/oos-eval                                          CC BY 3.0
    xliuhw/NLU-Evaluation-Data (one fold)                   CC BY 4.0
    amazon-science/dstc11-track2-intent-induction           Apache-2.0
    MrJay10/banking-faq-bot                                 none stated
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def parsed(root: Path, pattern: str) -> Iterator[Any]:
    """The JSON of each file that matches, in order."""
    for path in sorted(root.glob(pattern)):
        yield json.loads(path.read_text("utf-8"))


def schema_guided(root: Path) -> Iterator[str]:
    """Twenty services: banks, music, films, restaurants, weather, travel."""
    for dialogues in parsed(root, "*/dialogues_*.json"):
        for dialogue in dialogues:
            yield "\n".join(turn["utterance"] for turn in dialogue["turns"])


def taskmaster(root: Path) -> Iterator[str]:
    """Coffee and food ordered (TM-4), cinema tickets bought (TM-3, the longest context of each)."""
    for dialogues in parsed(root, "TM-4-2024/data/*.json"):
        for dialogue in dialogues:
            yield "\n".join(turn["text"] for turn in dialogue["utterances"])
    longest: dict[str, list[str]] = {}
    for contexts in parsed(root, "TM-3-2020/reward/*.json"):
        for entry in contexts:
            turns = [turn["text"] for turn in json.loads(entry["context"]) if "text" in turn]
            identity = entry["conversation_id"]
            longest[identity] = max(longest.get(identity, []), turns, key=len)
    yield from ("\n".join(turns) for turns in longest.values())


def clinc(root: Path) -> Iterator[str]:
    """Questions to an assistant, of 150 kinds and of none."""
    for splits in parsed(root, "data/data_full.json"):
        yield from dict.fromkeys(text for rows in splits.values() for text, _intent in rows)


def nlu_evaluation(root: Path) -> Iterator[str]:
    """Commands to an assistant at home."""
    for path in sorted(root.rglob("WatsonNluIntentsMerged*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (row[0] for row in csv.reader(file) if row)


def intent_induction(root: Path) -> Iterator[str]:
    """What customers of a bank, an insurer and a finance house say first."""
    for path in sorted(root.rglob("test-utterances.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)["utterance"]


def bank_questions(root: Path) -> Iterator[str]:
    """Questions and answers of a bank's pages."""
    for path in sorted(root.glob("BankFAQs.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (f"{row['Question']}\n{row['Answer']}" for row in csv.DictReader(file))


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "dstc8-schema-guided-dialogue": schema_guided,
    "Taskmaster": taskmaster,
    "oos-eval": clinc,
    "NLU-Evaluation-Data": nlu_evaluation,
    "dstc11-track2-intent-induction": intent_induction,
    "banking-faq-bot": bank_questions,
}
"""By the name of the clone's folder."""


def main() -> None:
    """Write the texts of each clone that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    arguments = parser.parse_args()
    found = {name: arguments.folder / name for name in SOURCES}
    found = {name: root for name, root in found.items() if root.is_dir()}
    if not found:
        parser.error(f"{arguments.folder} holds none of {', '.join(SOURCES)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, root in found.items():
        texts = [text for text in SOURCES[name](root) if text.strip()]
        with (arguments.output / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        print(f"{name}: {len(texts):,} texts, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    main()
