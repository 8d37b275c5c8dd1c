"""`llmstages inspect RUN prove=true`: is this run what its files say, to the last bit?

Every file of every checkpoint is compared with its hash, and so is all that the run was made from,
as far as it is there (`lineage/links.py`). Then some steps are done again in a directory
of their own, from a kept checkpoint and the inputs that the run names: the stage refuses inputs
whose hashes are others, and what it records must equal what the run recorded.
"""

import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

from llmstages.config.compose import from_file
from llmstages.data.json_files import as_type, parse_json
from llmstages.errors import CheckFailed, UserError
from llmstages.report.terminal import say, table, warn
from llmstages.report.trackers import flatten
from llmstages.stages.lineage.links import MISSING, check_lineage
from llmstages.train.checkpoint import complete_checkpoints, read_info, verify_files
from llmstages.train.records import SEAL, read_record, read_sealed
from llmstages.train.run import OtherRun, read_plan

TRAINING_STAGES = ("pretrain", "finetune-classify", "finetune-instruct")
COMPARED_FILES = ("model.safetensors", "trainer/state.safetensors")


def prove(run_dir: Path, max_steps: int) -> None:
    """Print the verdict.

    Raises `CheckFailed` when a file or a step differs, `UserError` when no step can be done again.
    """
    plan = read_plan(run_dir)
    if plan["stage"] not in TRAINING_STAGES:
        raise UserError(f"{run_dir / 'plan.json'}: {plan['stage']!r} is no training stage")
    checkpoints = complete_checkpoints(run_dir)
    for path in checkpoints:
        try:
            verify_files(path, read_info(path), trainer=True)
        except UserError as error:
            raise CheckFailed(f"{run_dir}: not proved: {error}") from error
    if (run_dir / "summary.json").is_file():
        check_summary(run_dir / "summary.json")
    chain = list(check_lineage(run_dir))
    recorded = entries_of(run_dir)
    last_step = max((entry["step"] for entry in recorded), default=0)
    begin = next((path for path in reversed(checkpoints) if read_info(path).step < last_step), None)
    if begin is None:
        raise UserError(
            f"{run_dir}: its {len(checkpoints)} checkpoints are as they were written; no step is "
            "recorded after one of them, so none can be done again: continue the run first"
        )
    first = read_info(begin).step
    later = {read_info(path).step: path for path in checkpoints if read_info(path).step > first}
    end = min([first + max_steps, last_step, *later])
    with tempfile.TemporaryDirectory(prefix="llmstages-") as folder:
        again = Path(folder) / "again"
        do_again(run_dir, begin, again, plan["stage"], end - first)
        compare(recorded, entries_of(again), first, end)
        files = 0
        if end in later:
            files = compare_files(later[end], again / "checkpoints" / later[end].name)
    rows = [
        ("checkpoints, every file by its hash", len(checkpoints)),
        (
            "inputs, by their hashes",
            ", ".join(k for k, v in dict(plan["settings"].get("inputs", {})).items() if v),
        ),
        ("steps done again", f"{first + 1:,} to {end:,}"),
        ("files of weights and optimizer at their end", files),
    ]
    links = [(link.what, str(link.where), link.sha256[:16]) for link in chain]
    table("made from", ("", "where", "sha256"), links, to_output=True)
    if missing := sum(link.sha256 == MISSING for link in chain):
        warn(f"{run_dir}: {missing} of what it was made from is not where it was: not checked")
    table(f"{run_dir}: proved", ("equal to the last bit", ""), rows, to_output=True)


def check_summary(path: Path) -> None:
    """Raise `CheckFailed` when a summary was changed; those of older versions have no hash."""
    if SEAL in read_record(path):
        try:
            read_sealed(path)
        except UserError as error:
            raise CheckFailed(f"not proved: {error}") from error


def do_again(run_dir: Path, begin: Path, again: Path, stage: str, steps: int) -> None:
    """Continue a copy of the run from one of its checkpoints, for so many steps."""
    (again / "checkpoints").mkdir(parents=True)
    copytree(begin, again / "checkpoints" / begin.name)
    for name in ("plan.json", "config.yaml", "metrics.jsonl"):
        (again / name).write_bytes((run_dir / name).read_bytes())
    config = from_file(stage, run_dir / "config.yaml")
    config = replace(
        config,
        runs_dir=str(again.parent),
        name=again.name,
        name_suffix=None,
        overwrite=False,
        stop_after=steps,
        report=replace(config.report, curves=False, live="off"),
        logger=[],
    )
    say(f"{steps:,} steps again, from {begin}")
    # What this stage does after its last step may go into the base, and train once more.
    proof = {"is_proof": True} if stage == "finetune-classify" else {}
    try:
        import_module(f"llmstages.stages.{stage.replace('-', '_')}").run(config, **proof)
    except KeyboardInterrupt:
        if not (again / "last").is_symlink():  # the user's own
            raise
    except OtherRun as error:
        raise CheckFailed(
            f"{run_dir}: not proved: its config.yaml or an input is not that of the run "
            f"({error.difference})"
        ) from error


def entries_of(run_dir: Path) -> list[dict[str, Any]]:
    """What a run recorded, without what a clock decides."""
    path = run_dir / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        entries = [flatten(as_type(dict[str, Any], parse_json(line), "a line")) for line in lines]
        for entry in entries:
            as_type(int, entry.get("step"), "step")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not the record of a run ({error})") from error
    return [
        {key: value for key, value in entry.items() if "second" not in key} for entry in entries
    ]


def compare(
    recorded: list[dict[str, Any]], found: list[dict[str, Any]], first: int, end: int
) -> None:
    """Raise `CheckFailed` at the first entry of steps first+1..end that differs."""
    was, now = (
        [entry for entry in entries if first < entry["step"] <= end]
        for entries in (recorded, found)
    )
    for old, new in zip(was, now, strict=False):
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                raise CheckFailed(
                    f"not proved: step {old['step']}: {key} was {old.get(key)}, is {new.get(key)} "
                    "when it is done again"
                )
    if len(was) != len(now):
        raise CheckFailed(
            f"not proved: steps {first + 1} to {end}: {len(was)} lines were recorded, "
            f"now {len(now)}"
        )


def compare_files(kept: Path, again: Path) -> int:
    """How many files of two checkpoints are equal; `CheckFailed` when one is not."""
    for name in COMPARED_FILES:
        if read_info(kept).files.get(name) != read_info(again).files.get(name):
            raise CheckFailed(f"not proved: {kept / name}: done again it is another")
    return len(COMPARED_FILES)
