"""Personal data, language, quality rules and the split, each by itself."""

from collections.abc import Callable

import daft
import pytest
from daft import col

from llmstages.collect.language import identify_language
from llmstages.collect.personal import replace_personal_data
from llmstages.collect.pipeline import judge, measure
from llmstages.collect.split import SplitKey, cut_tail, split_documents
from llmstages.config.groups import LanguageConfig, PiiConfig, QualityConfig
from llmstages.config.stages import CollectConfig


def verdicts(texts: list[str], config: CollectConfig) -> list[tuple[str | None, float | None]]:
    """The first rule that each text breaks, and the value measured."""
    nothing = [None] * len(texts)
    columns = {
        "id": [str(index) for index in range(len(texts))],
        "text": texts,
        **dict.fromkeys(("source", "url", "metadata", "note", "error"), nothing),
    }
    rows = judge(measure(daft.from_pydict(columns)), config).sort(col("id")).to_pylist()
    return [(row["rule"], row["value"]) for row in rows]


@pytest.mark.parametrize(
    ("rule", "threshold", "kept", "dropped", "value"),
    [
        ("min_words", 3, "one two three", "one two", 2),
        ("max_words", 2, "one two", "one two three", 3),
        ("min_mean_word_length", 2.0, "abc de", "a b cd", 4 / 3),
        ("max_mean_word_length", 4.0, "four char", "fives fives", 5),
        ("max_symbol_word_ratio", 0.5, "# a", "## a", 1),
        ("max_symbol_word_ratio", 0.5, "a b… c", "a… b...", 1),
        ("max_bullet_lines_share", 0.5, "- a\nb\n", "- a\n\n  • b\nc", 2 / 3),
        ("max_ellipsis_lines_share", 0.5, "a...\nb", "a...  \nb…\nc", 2 / 3),
        ("min_alphabetic_words_share", 0.5, "글 1", "a 1 2 --", 0.25),
        ("min_stop_words", 2, "The end OF it", "the the thesis", 1),
        ("max_duplicate_lines_share", 0.3, "a\nb\nc", "a\n  a  \n\nb", 1 / 3),
        ("max_replacement_share", 0.1, "a" * 20 + "\ufffd", "ab\ufffd\x00", 0.5),
    ],
)
def test_quality_rules(rule: str, threshold: float, kept: str, dropped: str, value: float) -> None:
    config = CollectConfig(quality=QualityConfig(**{rule: threshold}))
    first, second = verdicts([kept, dropped], config)
    assert first == (None, None)
    assert second == (rule, pytest.approx(value))


def test_the_first_broken_rule_is_named_and_empty_text_always_goes() -> None:
    config = CollectConfig(quality=QualityConfig(min_words=5, min_stop_words=2))
    assert verdicts(["  \n", "two words"], config) == [("empty", 0.0), ("min_words", 2.0)]
    assert verdicts(["x", ""], CollectConfig()) == [(None, None), ("empty", 0.0)]


def test_short_docstrings_and_korean_pass_the_shipped_rules() -> None:
    quality = QualityConfig(
        max_replacement_share=0.02, max_duplicate_lines_share=0.8, min_alphabetic_words_share=0.2
    )
    texts = ["Return x.", "안녕하세요", "你好世界。", "def f(x):\n    return x + 1", "O"]
    assert verdicts(texts, CollectConfig(quality=quality)) == [(None, None)] * len(texts)


def test_language() -> None:
    korean, english = "오늘은 날씨가 아주 좋습니다. 산책을 갑시다.", "The weather is fine today."
    assert identify_language(korean) == "ko"
    config = CollectConfig(language=LanguageConfig(identify=True, keep=["en"]))
    assert verdicts([english, korean], config) == [(None, None), ("language", None)]


def test_personal_data() -> None:
    text = "Write to jane.doe+x@mail.example.org or 8.8.8.8, not 127.0.0.1, 10.0.0.1, v1.2.3.4.5."
    both = PiiConfig(replace_emails=True, replace_ips=True)
    assert replace_personal_data(text, both) == (
        "Write to <email> or <ip>, not 127.0.0.1, 10.0.0.1, v1.2.3.4.5."
    )
    assert replace_personal_data(text, PiiConfig()) == text
    assert replace_personal_data("@decorator a@b 300.1.1.1", both) == "@decorator a@b 300.1.1.1"


def keys(sizes: list[int], fold: Callable[[int], str] = str, source: str = "s") -> list[SplitKey]:
    """Documents of these sizes."""
    return [SplitKey(source, fold(index), size) for index, size in enumerate(sizes)]


def test_the_share_holds_by_bytes_and_in_every_source() -> None:
    documents = keys([100 + index % 7 * 50 for index in range(1000)])
    documents += keys([2000] * 100, lambda index: f"t{index}", "t")
    parts = split_documents(documents, 0.05, 20, seed=0)
    for source in ("s", "t"):
        size = sum(d.bytes for d in documents if d.source == source)
        held = sum(
            d.bytes
            for d, part in zip(documents, parts, strict=True)
            if d.source == source and part == "validation"
        )
        assert 0.045 <= held / size <= 0.056
    assert parts == split_documents(documents, 0.05, 20, seed=0)
    assert parts != split_documents(documents, 0.05, 20, seed=1)


def test_equal_texts_never_straddle() -> None:
    documents = keys([100] * 400, lambda index: str(index // 4))
    parts = split_documents(documents, 0.1, 20, seed=0)
    assert "validation" in parts
    for start in range(0, 400, 4):
        assert len(set(parts[start : start + 4])) == 1
    assert split_documents(keys([9, 9, 5], lambda i: "a" if i < 2 else "b"), 0.1, 20, 0) == [
        *("train", "train", "both"),
    ]


def test_one_document_is_always_held_out_and_one_kept() -> None:
    parts = split_documents(keys([1000] * 19 + [10]), 0.001, 20, seed=0)
    assert parts == ["train"] * 19 + ["validation"]


@pytest.mark.parametrize("joint", ["\n\n", "\n", " ", ""])
def test_tails_are_cut_at_a_boundary(joint: str) -> None:
    text = joint.join(["abcdefghi"] * 100)
    head, tail = cut_tail(text, 0.1)
    assert head + tail == text
    assert 0.04 < len(tail) / len(text) < 0.16
    assert head.endswith(joint)
    assert cut_tail("short", 0.1) == ("short", "")


def test_a_source_of_few_documents_beside_a_large_one_gives_its_ends() -> None:
    keys = [SplitKey("topics", f"topic{i}", 1_000) for i in range(40)]
    keys += [SplitKey("novels", f"novel{i}", 400_000) for i in range(3)]
    parts = split_documents(keys, 0.05, 20, 0)
    assert parts[40:] == ["both"] * 3
    assert parts[:40].count("validation") == 2
    assert "both" not in parts[:40]


def test_copies_across_a_small_and_a_large_source_stay_together() -> None:
    keys = [SplitKey("large", f"text{i}", 1_000) for i in range(40)]
    keys += [SplitKey("small", f"text{i}", 1_000) for i in range(5)]
    for seed in range(20):
        parts = split_documents(keys, 0.2, 20, seed)
        assert [parts[40 + i] for i in range(5)] == [parts[i] for i in range(5)]
