"""What is an override, what a flag, what a bare word; and quoting, against Hydra's own parser."""

from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llmstages.config.subcommands import SUBCOMMANDS
from llmstages.config.words import (
    USAGES,
    override_key,
    quote,
    sort_arguments,
    words_to_overrides,
)
from llmstages.errors import UserError


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("a=1", "a"),
        ("a_b.c1.d=", "a_b.c1.d"),
        ("+a=1", "a"),
        ("++a.b=1", "a.b"),
        ("~a=1", "a"),
        ("~a.b", "a.b"),
        ("experiment/pretrain=x", "experiment/pretrain"),
        ("hydra/launcher=joblib", "hydra/launcher"),
        ("corpus@x=y", "corpus@x"),
        ("sample_prompts.0=x", "sample_prompts.0"),
        ("finetune-x=1", "finetune-x"),
        ("a=b=c d\ne", "a"),
        ("./a=b", None),
        ("/a/b=c", None),
        ("a b=c", None),
        ("a", None),
        ("=a", None),
        ("1a=b", None),
        ("x = 5", None),
        ("é=1", None),
        ("~/data/a.txt", None),
        ("+++a=1", None),
        ("a..b=1", None),
        ("", None),
    ],
)
def test_what_is_an_override(argument: str, key: str | None) -> None:
    assert override_key(argument) == key


def test_flags_overrides_and_words_are_told_apart() -> None:
    got = sort_arguments(
        ["x", "-cd", "a=b", "-c", "job", "k=1", "--info", "y=2", "-m", "-", "--", "-m", "--", "z=3"]
    )
    assert got.flags == ["--config-dir", "a=b", "--cfg", "job", "--info", "all", "--multirun"]
    assert got.overrides == ["k=1", "y=2"]
    assert got.words == ["x", "-", "-m", "--", "z=3"]
    assert got.flag_value("--config-dir") == "a=b"
    assert got.value_of("y") == "2"
    assert got.value_of("z") is None


def test_words_become_overrides() -> None:
    def overrides(subcommand: str, *argv: str) -> list[str]:
        return words_to_overrides(subcommand, sort_arguments(list(argv)))

    assert overrides("collect", "a,b", "c") == ["paths=['a,b','c']", "corpus=local"]
    assert overrides("collect", "a", "corpus=mine") == ["paths=['a']"]
    assert overrides("pretrain") == []
    assert overrides("generate", "a", "b", "c d") == ["checkpoint_dir='a'", "prompt='b c d'"]
    assert overrides("predict", "a") == ["checkpoint_dir='a'"]
    with pytest.raises(UserError, match="'b' is one word too many"):
        overrides("inspect", "a", "b")


def test_bare_words_are_keys_of_their_subcommand() -> None:
    assert set(USAGES) == {*SUBCOMMANDS, "finetune"}
    for subcommand, schema in SUBCOMMANDS.items():
        for key in USAGES[subcommand].keys:
            assert key in schema.__dataclass_fields__  # type: ignore[attr-defined]


@cache
def parser() -> OverridesParser:
    return OverridesParser.create()


def read_back(text: str) -> tuple[str, str]:
    """A quoted text as the config has it, directly and after a sweep has written it out again."""
    values = []
    value = quote(text)
    for _ in range(2):
        override = parser().parse_override(f"key={value}")
        config = OmegaConf.create({"key": "before"})
        OmegaConf.update(config, "key", override.value())
        values.append(OmegaConf.to_container(config, resolve=True)["key"])  # type: ignore
        value = override.get_value_element_as_str()
    return values[0], values[1]


@settings(max_examples=500, deadline=None)
@example("${a")
@example(r"\${a}")
@example(r"\\${a}\\")
@example("'\\")
@example("\\'\\\\'")
@example("???")
@example(" ")
@given(
    st.text(
        st.one_of(
            st.sampled_from("\\'\"${}[](),= :?~+-\n\tab"),
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        ),
        max_size=12,
    )
)
def test_a_quoted_text_is_read_back_exactly(text: str) -> None:
    assert read_back(text) == (text, text)
