"""Hostile input for every reader of files, for as long as asked.

    python scripts/fuzz.py [--seconds 60] [--seed S] [--only TEXT] [--json FILE]

Inputs are made at random, anew with every seed (by default one that no run had before), and each
reader must keep its promise: a `UserError` of one line, or values that stand in the file; no
traceback, no hang, no blow-up of memory. The exit status is 1 when one did not, and the smallest
input found for it is shown. What the properties are stands in scripts/hostile.py.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hostile import PROPERTIES, Property
from hypothesis import HealthCheck, Phase, given, seed, settings
from measurement import provenance, widen_output, write_record

from llmstages.report.terminal import progress, table
from llmstages.train.device import choose_device, hardware_facts, machine_facts

INPUTS_A_ROUND = 40
LONGEST_REPORT = 2000


def run_property(
    tested: Property, number: int, max_examples: int, tried: "Counter[str]", name: str
) -> str | None:
    """Try so many inputs; what failed with the smallest input for it, None when nothing did."""

    @seed(number)
    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(tested.inputs)
    def check(case: Any) -> None:
        tried[name] += 1
        with tempfile.TemporaryDirectory(prefix="llmstages-hostile-") as folder:
            tested.check(Path(folder), case)

    try:
        check()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        notes = " ".join(getattr(error, "__notes__", []))
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"{type(error).__name__}: {error} ({where}) {notes}"[:LONGEST_REPORT]
    return None


def main() -> int:
    """Run the properties in turn until the time is over; 1 when one failed."""
    widen_output()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of the inputs; by default a new one")
    parser.add_argument("--only", default="", help="properties whose name holds this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("llmstages").setLevel(logging.ERROR)  # thousands of skipped rows
    number = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    begin = time.monotonic()
    tried: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    failures: dict[str, str] = {}
    names = [name for name in PROPERTIES if arguments.only in name]
    rounds = 0
    with progress(f"seed {number}", unit="rounds") as advance:
        while time.monotonic() - begin < arguments.seconds and len(failures) < len(names):
            for name in names:
                if name not in failures:
                    start = time.monotonic()
                    failed = run_property(
                        PROPERTIES[name],
                        number + rounds,
                        INPUTS_A_ROUND // PROPERTIES[name].cost,
                        tried,
                        name,
                    )
                    seconds[name] += time.monotonic() - start  # type: ignore[assignment]
                    if failed is not None:
                        failures[name] = failed
            rounds += 1
            advance(1)
    table(
        f"hostile input, seed {number}, {rounds} rounds",
        ("reader", "inputs", "seconds", "kept its promise"),
        [(n, tried[n], float(seconds[n]), "NO" if n in failures else "yes") for n in names],
        to_output=True,
    )
    for name, failed in failures.items():
        table("", (name,), [(failed,)], to_output=True)
    if arguments.json:
        device = choose_device("cpu")
        results = [
            {"reader": n, "inputs": tried[n], "seconds": seconds[n], "failed": failures.get(n)}
            for n in names
        ]
        record = {
            **provenance(__file__, sys.argv[1:]),
            "machine": machine_facts(device) | hardware_facts(device),
            "seed": number,
            "results": results,
        }
        write_record(arguments.json, record)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
