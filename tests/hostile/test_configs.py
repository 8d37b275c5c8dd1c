"""Configs that were made to run code, fill the memory or end in a traceback."""

from pathlib import Path

import pytest

from llmstages.config.compose import from_file
from llmstages.config.groups import ModelConfig
from llmstages.config.yaml_files import MOST_VALUES, read_yaml_text
from llmstages.errors import UserError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
HOSTILE = {
    "broken": ("steps: [1,\n", "broken YAML"),
    "tag": ("steps: !!python/object/apply:os.system ['touch MARK']\n", "tag"),
    "new": ("!!python/object/new:os.system ['touch MARK']\n", "tag"),
    "nul": ("# @package _global_\nname: \0\n", "nul.yaml:2: a character that YAML"),
    "latin": (b"name: caf\xe9\n", "latin.yaml: not UTF-8"),
    "deep": ("name: " + "[" * 400 + "]" * 400 + "\n", "deep.yaml:1: nested more than 50 deep"),
    "itself": ("name: &a [*a]\n", "itself.yaml:1: *a stands for itself"),
    "bomb": (BOMB, "bomb.yaml:5: it stands for more than 100,000 values"),
    "digits": ("steps: " + "9" * 5000 + "\n", "digits.yaml:1: a number of 5,000 digits"),
    "unhashable": ("? [a, b]\n: 1\n", "unhashable key"),
    "escape": ('# @package _global_\n"na\\x1b[31mme": 1\n', "no key na\\x1b[31mme"),
    "huge": ("# @package _global_\nsteps: " + "9" * 40 + "\n", "steps is a number of 133 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_experiment_of_the_user(name, cli, tmp_path):  # type: ignore[no-untyped-def]
    content, said = HOSTILE[name]
    folder = tmp_path / "conf" / "experiment" / "pretrain"
    folder.mkdir(parents=True)
    data = content if isinstance(content, bytes) else content.encode()
    (folder / f"{name}.yaml").write_bytes(data)
    status, out, err = cli(
        "pretrain", f"experiment={name}", "data=x", f"--config-dir={tmp_path / 'conf'}"
    )
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert said in err
    assert "\x1b" not in err
    assert not (tmp_path / "MARK").exists()


def test_aliases_are_counted_as_what_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    ten = "x: &x [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"  # ten values with the list itself
    few = (MOST_VALUES - 100) // 10
    path.write_text(ten + "y: [" + ", ".join(["*x"] * few) + "]\n")
    assert read_yaml_text(path)
    path.write_text(ten + "y: [" + ", ".join(["*x"] * (few + 20)) + "]\n")
    with pytest.raises(UserError, match=r"a\.yaml:2: it stands for more"):
        read_yaml_text(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 1\n", "no settings"),
        ("0", "no settings"),
        ("some text", "no key some text"),
        ("steps: x\n", "no settings of pretrain"),
        ('data: "a\\0b"\n', "data holds a NUL character"),
        ("data: x\noptim: 3\n", "no settings of pretrain"),
        ("data: x\nstepz: 3\n", "did you mean steps?"),
        ("data: ${oc.env:NO_SUCH}\n", "no settings of pretrain"),
        ("? [a]\n: 1\n", "no settings of pretrain"),
        (BOMB, "stands for more"),
    ],
)
def test_the_settings_a_run_has_kept(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        from_file("pretrain", path)
    assert str(refused.value).startswith(f"{path}:")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "key", ["num_layers", "hidden_size", "num_heads", "intermediate_size", "context_length"]
)
def test_a_size_that_no_memory_holds(key: str) -> None:
    with pytest.raises(UserError, match=f"model.{key}=1e[+]12 must be"):
        ModelConfig(**{key: 10**12})  # type: ignore[arg-type]


def test_brackets_on_the_command_line(cli) -> None:  # type: ignore[no-untyped-def]
    status, _, err = cli("pretrain", "x", "sample_prompts=" + "[" * 500 + "]" * 500)
    assert status == 2
    assert len(err.splitlines()) == 1
