"""Where config files lie, and which choices they offer."""

from collections.abc import Sequence
from pathlib import Path

from llmstages.config.schema import nested_schema, schema_keys
from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import experiments_of


def conf_dir() -> Path:
    """The shipped `conf` folder, absolute.

    A wheel carries it inside the package; in a checkout (also an editable installation of one) it
    stands beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def group_choices(subcommand: str, folders: Sequence[Path]) -> dict[str, list[str]]:
    """The groups a user may choose from for a subcommand, and the names in each, sorted.

    The subcommand's experiments are the group `experiment`. Of folders other than the first, which
    is the shipped one, groups that llmstages does not know are listed too: they are the user's own.
    """
    keys = schema_keys(SUBCOMMANDS[subcommand])
    places = {name: name for name, key in keys.items() if nested_schema(key.type)}
    places["experiment"] = experiments_of(subcommand)
    for folder in folders[1:]:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.is_dir() and not (folders[0] / path.name).is_dir():
                places.setdefault(path.name, path.name)
    names = {
        group: sorted({path.stem for folder in folders for path in (folder / place).glob("*.yaml")})
        for group, place in places.items()
    }
    return {group: choices for group, choices in names.items() if choices}
