"""Next words against a sum over all ways to spell a word in a vocabulary of a few tokens."""

from collections import defaultdict

import pytest
import torch

from llmstages.evaluate.next_words import continues_word, ends_in_word, next_words
from llmstages.model.transformer import Transformer, TransformerConfig

TOKENS = ["<end>", " ", "a", "b", "ab", " a", " b", ".", "\n"]
END = 0
MOST_TOKENS = 5
"""Enough for every spelling of a word of three letters after up to two spaces."""


class Letters:
    """As much of a tokenizer as the search uses."""

    vocab_size = len(TOKENS)

    def decode(self, ids):
        return "".join(TOKENS[i] for i in ids if i != END)

    def token_text(self, index):
        return TOKENS[index]


@pytest.fixture(scope="module")
def model():
    made = Transformer(TransformerConfig(len(TOKENS), 1, 16, 2, 1, 8, 16, 32)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.35, generator=generator)
    return made


def brute_force(model, prompt, *, prompt_ends_in_word):
    """Probability of each word, summed over all its spellings of at most MOST_TOKENS tokens."""
    inside = torch.tensor([continues_word(text) for text in TOKENS])
    words = defaultdict(float)
    level = [([], 1.0)]
    for depth in range(MOST_TOKENS + 1):
        rows = torch.tensor([[*prompt, *tokens] for tokens, _ in level])
        with torch.inference_mode():
            following = model.logits(model(rows)[:, -1]).softmax(dim=-1)
        beyond = []
        for (tokens, probability), row in zip(level, following, strict=True):
            text = "".join(TOKENS[t] for t in tokens)
            word = text.strip()
            grows = not word or continues_word(word[-1])
            if word:
                goes_on = float(row[inside].sum())
                words[word] += probability * (1 - goes_on if continues_word(word[-1]) else 1.0)
            if not grows or depth == MOST_TOKENS:
                continue
            for token, share in enumerate(row.tolist()):
                if token == END or (word and not inside[token]):
                    continue
                if not tokens and prompt_ends_in_word and inside[token]:
                    continue
                if not word and depth >= 2 and TOKENS[token].isspace():
                    continue
                beyond.append(([*tokens, token], probability * share))
        level = beyond
        if not level:
            break
    return words


@pytest.mark.parametrize(
    ("prompt", "in_word"), [([2, 7, 1], False), ([2, 3], True), ([END], False)]
)
def test_words_have_the_probability_of_all_their_spellings(model, prompt, in_word):
    expected = brute_force(model, prompt, prompt_ends_in_word=in_word)
    # Asking for many words keeps the search from stopping before rare spellings.
    found = next_words(model, Letters(), prompt, 60)
    probabilities = [word.probability for word in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 + 1e-6
    short = {w.word: w.probability for w in found if len(w.word) <= 2}
    assert {"a", "b", "ab", "."} <= short.keys()
    for word, probability in short.items():
        assert probability == pytest.approx(expected[word], abs=2e-3), word
    best = sorted((w for w in expected if len(w) <= 2), key=expected.get, reverse=True)[:3]
    assert [w.word for w in found if len(w.word) <= 2][:3] == best


def test_few_words_are_the_first_of_many(model):
    many = next_words(model, Letters(), [2, 7, 1], 60)
    few = next_words(model, Letters(), [2, 7, 1], 3)
    assert [w.word for w in few] == [w.word for w in many[:3]]


def test_a_prompt_longer_than_the_context(model):
    assert len(next_words(model, Letters(), [2, 1] * 100, 4)) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", True),
        ("'s", True),
        ("-x", True),
        ("한", True),
        ("<0xEC>", True),
        ("�x", True),
        ("\u0301", True),
        ("<0x0A>", False),
        (" a", False),
        (".", False),
        ("", False),
    ],
)
def test_what_goes_on_with_a_word(text, expected):
    assert continues_word(text) is expected
    assert ends_in_word(text.strip()) is (expected or text == " a")


def test_no_text_is_no_word():
    assert continues_word("") is False
