"""Several trainings of one classifier as one: the mean of their probabilities (Lakshminarayanan et
al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles")."""

from pathlib import Path

from llmstages.errors import UserError
from llmstages.stages.classifying.probabilities import decision_of
from llmstages.train.checkpoint import Checkpoint, load_checkpoint
from llmstages.train.records import read_record


def member_dirs(directory: Path) -> list[Path]:
    """The trainings that a finished directory of several seeds or folds holds; none of another."""
    path = directory / "summary.json"
    members = read_record(path).get("members") if path.is_file() else None
    if not isinstance(members, list):
        return []
    return [directory / str(name) for name in members]


def load_members(name: str, head: str | None = None) -> list[Checkpoint]:
    """The checkpoint of that name, or the best ones of all trainings in a directory of several.

    head: a further head of it that is asked for, which several trainings have not.

    Raises:
        UserError: they are not there; they cannot be asked the same, or each has a rule of its own.
    """
    members = member_dirs(Path(name).expanduser())
    if not members:
        return [load_checkpoint(name)]
    if head is not None:
        raise UserError(f"{name}: holds several trainings, head={head} is of one: name it")
    checkpoints = [load_checkpoint(str(member)) for member in members]
    first = checkpoints[0]
    for checkpoint, member in zip(checkpoints, members, strict=True):
        if checkpoint.labels != first.labels or checkpoint.tokenizer.hash != first.tokenizer.hash:
            raise UserError(f"{member}: other labels or another tokenizer than {members[0]} has")
        if decision_of(checkpoint) != decision_of(first):
            raise UserError(
                f"{name}: each of its trainings gives labels by a threshold of its own: name one, "
                f"such as {members[0]}"
            )
    return checkpoints
