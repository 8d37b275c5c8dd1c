"""Where the configs that come with llmstages lie, however it was installed."""

from pathlib import Path


def conf_dir() -> Path:
    """The shipped `conf` folder, absolute.

    A wheel carries it inside the package; in a checkout (also an editable installation of one) it
    stands beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
