"""Near duplicates among rows: found, not made up, whatever template the rows share."""

import random
from itertools import combinations

from llmstages.duplicates.near_rows import near_pairs

WORDS = [f"{a}{b}{n}" for a in "bdgk" for b in "aeio" for n in range(40)]


def sentence(rng: random.Random, length: int) -> list[str]:
    return rng.choices(WORDS, k=length)


def similarity(one: str, other: str) -> float:
    sets = [set(zip(text.split(), text.split()[1:], strict=False)) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def components(count: int, pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    parent = {number: {number} for number in range(count)}
    for one, other in pairs:
        together = parent[one] | parent[other]
        for number in together:
            parent[number] = together
    return {frozenset(found) for found in parent.values() if len(found) > 1}


def test_the_pairs_are_those_of_the_exact_similarity() -> None:
    rng = random.Random(0)
    texts = [" ".join(sentence(rng, rng.randint(6, 40))) for _ in range(150)]
    for number in range(100):
        words = texts[number].split()
        for _ in range(rng.randint(1, 4)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    exact = [
        pair
        for pair in combinations(range(len(texts)), 2)
        if similarity(texts[pair[0]], texts[pair[1]]) >= 0.8
    ]
    assert len(exact) > 10
    assert components(len(texts), near_pairs(texts)) == components(len(texts), exact)


def test_a_template_says_nothing() -> None:
    rng = random.Random(1)
    head = "Translate the following sentence from English into French and keep its tone and length"
    texts = [f"{head}: {' '.join(sentence(rng, 6))}" for _ in range(60)]
    assert near_pairs(texts) == []
    long = sentence(rng, 30)
    texts += [f"{head}: {' '.join(long)}", f"{head}: {' '.join([*long[:-1], 'changed'])}"]
    assert components(62, near_pairs(texts)) == {frozenset({60, 61})}


def test_order_does_not_matter_and_nothing_is_fine() -> None:
    assert near_pairs([]) == []
    assert near_pairs(["", "?!", "one"]) == []
    texts = [" ".join([*WORDS[:20], word]) for word in WORDS[:12]]
    found = {frozenset(texts[n] for n in group) for group in components(12, near_pairs(texts))}
    backwards = texts[::-1]
    again = components(12, near_pairs(backwards))
    assert {frozenset(backwards[n] for n in group) for group in again} == found != set()
