"""Exact match, chrF and BLEU of answers."""

import random
import sys

import pytest

from llmstages.errors import UserError
from llmstages.evaluate.text_metrics import bleu_signature, text_metrics


def values(predictions: list[str], references: list[str]) -> dict[str, float]:
    measures = text_metrics(predictions, references)
    return {name: measure.value for name, measure in measures.items()}


def test_exact_match_folds_white_space_only() -> None:
    scores = values([" a  b\n", "c", "D"], ["a b", "c", "d"])
    assert scores["exact_match"] == pytest.approx(2 / 3)
    none_of_ten = text_metrics(["a"] * 10, ["b"] * 10)["exact_match"]
    assert none_of_ten.interval(0) == (0, pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4))


def test_chrf_ends() -> None:
    names = {"exact_match", "chrf", "bleu", "rouge_1", "rouge_2", "rouge_l"}
    same = values(["it is the same text"], ["it is the same text"])
    assert same.keys() == names
    assert same == pytest.approx(dict.fromkeys(names, 1.0) | {"chrf": 100.0, "bleu": 100.0})
    assert values([""], ["something"]) == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_corpus_scores_are_those_of_sacrebleu(seed: int) -> None:
    """Of answers with too few, other or no words, in several scripts."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    generator = random.Random(seed)
    words = [
        "the",
        "a",
        "lion,",
        "sees;",
        "книга",
        "не",
        "是的",
        "हिन्दी",
        "it's",
        "3.5",
        "—",
        "end.",
    ]
    pairs = [
        [" ".join(generator.choices(words, k=generator.randrange(0, 12))) for _ in range(2)]
        for _ in range(20)
    ]
    answers, references = [pair[0] for pair in pairs], [pair[1] or "x" for pair in pairs]
    measures = text_metrics(answers, references)
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        expected = metric.corpus_score(answers, [references]).score
        assert measures[name].value == pytest.approx(expected, rel=1e-12)
        half = measures[name].statistics[:10].sum(axis=0)
        expected = metric.corpus_score(answers[:10], [references[:10]]).score
        assert measures[name].score(half) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("answer", "reference", "tokenizer"),
    [
        ("猫はとても好きです。", "私は猫がとても好きです。", "char"),
        ("나는 고양이가 좋아요", "나는 고양이를 아주 좋아해요", "char"),
        ("the PyTorch 库 is good", "the PyTorch 库 is good.", "13a"),
    ],
)
def test_bleu_counts_characters_where_words_are_not_apart(
    answer: str, reference: str, tokenizer: str
) -> None:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenizer)
    expected = metric.corpus_score([answer], [[reference]]).score
    assert values([answer], [reference])["bleu"] == pytest.approx(expected, rel=1e-12)
    assert expected > 10
    assert bleu_signature([reference]) == str(metric.get_signature())


def test_chrf_by_hand() -> None:
    # "abc" against "abd": of 1-grams 2/3 are shared, of 2-grams 1/2, of 3-grams none; precision
    # and recall are equal, and orders beyond the text's length do not count.
    scores = values(["abc"], ["abd"])
    assert scores["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="1 answers but 0 references"):
        text_metrics(["a"], [])
    with pytest.raises(ValueError, match="no answer"):
        text_metrics([], [])


def test_missing_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sacrebleu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"pip install 'llmstages\[eval\]'"):
        text_metrics(["a"], ["a"])
