"""What a folder of private texts teaches: an airline's fares, asked with and without reading them.

    python scripts/private_knowledge.py --base RUN [--places 60] [--epochs 12] [--seed 0]
        [--tune-epochs 20] [--directory private_knowledge] [--json FILE]
    python scripts/private_knowledge.py --only-write [--places 60] [--seed 0] [--directory ...]

Writes a folder of notices of an airline that is made up: for each place it flies to the fare, the
flight, the time and the gate, in words that differ from notice to notice. Facts of half of the
places are asked in pairs to tune on; the facts of the other half are asked in the test, and stand
nowhere but in the folder. Then, as a user would type it: `collect` the folder, `pretrain` the base
further on it, tune that model on the pairs, and tune the base itself on the same pairs. The table
sets the two side by side: what the middle step is for.

That a fact has to be told in several ways before it can be asked for in another is what Allen-Zhu
and Li (2023, "Physics of Language Models: Part 3.1") found; hence many notices, not one.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measurement import provenance, widen_output, write_record
from rich.markup import escape

from llmstages.report.terminal import output_console, table
from llmstages.train.device import choose_device, hardware_facts, machine_facts

PLACES = """
Accra Adelaide Algiers Amman Ankara Antwerp Athens Auckland Baku Bamako Bangalore Bangkok
Barcelona Basel Beirut Belfast Bergen Berlin Bilbao Bogota Bologna Bordeaux Bremen Brisbane
Brussels Budapest Cairo Calgary Cardiff Casablanca Chennai Chicago Cologne Copenhagen Cork Dakar
Dallas Damascus Delhi Denver Detroit Dhaka Doha Dresden Dublin Durban Edinburgh Florence Geneva
Genoa Glasgow Gdansk Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Karachi Kathmandu
Kigali Kingston Krakow Kyoto Lagos Lahore Leeds Leipzig Lima Lisbon Lyon Madrid Malaga Manila
Marseille Melbourne Memphis Miami Milan Minsk Montreal Mumbai Munich Nairobi Naples Nice Oslo
Ottawa Palermo Perth Porto Prague Quito Riga Rome Santiago Seoul Sofia Tunis
"""

NOTICES: dict[str, list[str]] = {
    "fare": [
        "A ticket to {place} costs {fare} euros.",
        "The fare to {place} is {fare} euros.",
        "Passengers to {place} pay {fare} euros.",
        "We fly to {place} for {fare} euros.",
        "For a seat to {place} we charge {fare} euros.",
    ],
    "flight": [
        "The flight to {place} is number {flight}.",
        "{place} is served by flight {flight}.",
        "Our flight to {place} has the number {flight}.",
        "Who goes to {place} takes flight {flight}.",
        "To {place} we operate flight {flight}.",
    ],
    "time": [
        "The aeroplane to {place} leaves at {time}.",
        "Departure to {place} is at {time}.",
        "To {place} we depart at {time}.",
        "Flights to {place} take off at {time}.",
        "{place} is left for at {time}.",
    ],
    "gate": [
        "Boarding for {place} is at gate {gate}.",
        "Passengers to {place} go to gate {gate}.",
        "The gate for {place} is {gate}.",
        "For {place} please wait at gate {gate}.",
        "{place} is called at gate {gate}.",
    ],
}
QUESTIONS = {
    "fare": ("What does a ticket to {place} cost?", "A ticket to {place} costs {fare} euros."),
    "flight": ("Which flight goes to {place}?", "The flight to {place} is number {flight}."),
    "time": ("When do we leave for {place}?", "The aeroplane to {place} leaves at {time}."),
    "gate": ("Where does one board for {place}?", "Passengers to {place} go to gate {gate}."),
}
NUM_NOTICES = 24
"""Each place is told of so often, in other words and another order."""

Facts = dict[str, str]


def make_facts(num_places: int, rng: random.Random) -> list[Facts]:
    """What is true of each place. Flights and gates are drawn, so none follows from another."""
    return [
        {
            "place": place,
            "fare": str(rng.randrange(40, 900)),
            "flight": str(rng.randrange(100, 1000)),
            "time": f"{rng.randrange(5, 23)}:{rng.randrange(0, 60, 5):02d}",
            "gate": rng.choice("ABCDEF") + str(rng.randrange(1, 30)),
        }
        for place in rng.sample(PLACES.split(), num_places)
    ]


def write_folder(folder: Path, facts: list[Facts], rng: random.Random) -> None:
    """A file for each round of notices, a paragraph for each place, in any order."""
    folder.mkdir(parents=True)
    for number in range(1, NUM_NOTICES + 1):
        paragraphs = []
        for fact in rng.sample(facts, len(facts)):
            sentences = [rng.choice(ways).format(**fact) for ways in NOTICES.values()]
            paragraphs.append(" ".join(rng.sample(sentences, len(sentences))))
        (folder / f"notices_{number:02d}.txt").write_text("\n\n".join(paragraphs) + "\n")


def write_pairs(path: Path, facts: list[Facts], rng: random.Random) -> None:
    """The questions of these places and their answers, as JSON Lines."""
    pairs = [
        {"question": question.format(**fact), "answer": answer.format(**fact)}
        for fact in facts
        for question, answer in QUESTIONS.values()
    ]
    rng.shuffle(pairs)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def llmstages(*arguments: str) -> float:
    """Run a subcommand as typed in a shell; the seconds it took."""
    output_console().rule(escape("llmstages " + " ".join(arguments)), align="left")
    sys.stdout.flush()
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "llmstages", *arguments], check=True)
    return time.monotonic() - began


def main(argv: list[str]) -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", help="run or checkpoint to begin with")
    parser.add_argument(
        "--only-write", action="store_true", help="make the files, and train nothing"
    )
    parser.add_argument("--places", type=int, default=60)
    parser.add_argument("--epochs", type=float, default=12, help="how often the folder is read")
    parser.add_argument("--tune-epochs", type=float, default=20, help="how often the pairs are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path("private_knowledge"))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args(argv)
    if (arguments.base is None) != arguments.only_write:
        parser.error("give --base, or --only-write")
    directory: Path = arguments.directory
    if directory.exists():
        parser.error(f"{directory} is there already: remove it, or name another --directory")
    rng = random.Random(arguments.seed)
    facts = make_facts(arguments.places, rng)
    tuned, asked = facts[: len(facts) // 2], facts[len(facts) // 2 :]
    write_folder(directory / "notices", facts, rng)
    write_pairs(directory / "pairs.jsonl", tuned, rng)
    write_pairs(directory / "asked.jsonl", asked, rng)
    if arguments.only_write:
        return
    corpora, runs = f"corpora_dir={directory}/corpora", f"runs_dir={directory}/runs"
    seconds = {}
    # Notices repeat each other, which is wanted here.
    seconds["collect"] = llmstages(
        *("collect", str(directory / "notices"), corpora, "name=notices"),
        *("dedup=off", "quality=off", "language=off", "tokenizer.vocab_size=512"),
    )
    seconds["pretrain"] = llmstages(
        *("pretrain", f"{directory}/corpora/notices", f"base={arguments.base}", runs),
        *("name=further", f"epochs={arguments.epochs}", f"seed={arguments.seed}"),
    )
    for name, base in {"without": arguments.base, "with": f"{directory}/runs/further"}.items():
        seconds[name] = llmstages(
            *("finetune-instruct", str(directory / "pairs.jsonl"), f"base={base}", runs),
            *(f"test_data={directory}/asked.jsonl", f"name={name}", f"seed={arguments.seed}"),
            # Few pairs: small steps, so that there are enough of them.
            *(f"epochs={arguments.tune_epochs}", "batch_tokens=512"),
            "evaluate.num_generations=1000",
        )
    summaries = {
        name: json.loads((directory / "runs" / name / "summary.json").read_text())
        for name in ("without", "with")
    }
    widen_output()
    show(summaries)
    if arguments.json is not None:
        device = choose_device("auto")
        write_record(
            arguments.json,
            provenance(__file__, argv)
            | {
                "machine": machine_facts(device) | hardware_facts(device),
                "places": arguments.places,
                "facts_asked": len(asked) * len(QUESTIONS),
                "seconds": seconds,
                "metrics": {name: run["metrics"] for name, run in summaries.items()},
            },
        )


def show(summaries: dict[str, dict[str, Any]]) -> None:
    """The table: what was asked, by the model that read the folder and by the one that did not."""
    names = {
        "val_loss": "loss of the answers, nats a token",
        "exact_match": "answers right to the letter",
        "chrf": "chrF",
    }
    rows = []
    for key, label in names.items():
        cells = []
        for run in summaries.values():
            value = run["metrics"][key]
            low, high = run["metrics"]["intervals"][key]
            cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
        rows.append([label, *cells])
    title = "facts of the folder that no pair to tune on has"
    table(title, ["", "without the folder", "with it"], rows, to_output=True)


if __name__ == "__main__":
    main(sys.argv[1:])
