"""Near duplicates: found by bands, confirmed by exact Jaccard similarity, joined to components."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from llmstages.collect.duplicates.near_duplicates import (
    NearDuplicates,
    find_near_duplicates,
)
from llmstages.config.collect_groups import DedupConfig
from llmstages.duplicates.minhash import band_hashes, jaccard, shingles

CONFIG = DedupConfig()
Pairs = dict[tuple[int, int], float]


def find(
    texts: Sequence[str],
    scratch: Path,
    config: DedupConfig = CONFIG,
    rank: NDArray[np.int64] | None = None,
) -> NearDuplicates:
    bands = band_hashes(texts, config)

    def backwards(positions: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        return ((int(position), texts[position]) for position in positions[::-1])

    rank = np.arange(len(texts)) if rank is None else rank
    return find_near_duplicates(rank, lambda band: bands[band], backwards, config, scratch)


def numbered(start: int, count: int) -> str:
    """`count` different words; two such texts share the n-grams of the numbers they share."""
    return " ".join(f"w{number}" for number in range(start, start + count))


class Sample(NamedTuple):
    texts: list[str]
    similarity: Pairs
    """Exact similarity of all pairs that share anything."""


def varied_copies(seed: int, num_originals: int, num_copies: int) -> list[str]:
    """Texts of a Zipf vocabulary and copies of them, changed a little or much."""
    rng = random.Random(seed)
    words = [f"{'bcdfgklmnprst'[n % 13]}{'aeiou'[n % 5]}{n:x}" for n in range(5000)]
    weights = list(accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    boilerplates = [
        rng.choices(words, cum_weights=weights, k=rng.randint(10, 80)) for _ in range(5)
    ]
    texts = []
    for _ in range(num_originals):
        original = rng.choices(words, cum_weights=weights, k=int(rng.lognormvariate(5.3, 0.7)) + 20)
        for copy in range(num_copies):
            changed = list(original)
            # A share of changed words of 2.3 % makes a similarity of 0.8 in 5-grams.
            for _ in range(round(len(original) * rng.choice((0, 0.003, 0.01, 0.02, 0.05)) * copy)):
                place = rng.randrange(len(changed))
                edit = rng.randrange(3)
                new = rng.choices(words, cum_weights=weights, k=1) if edit else []
                changed[place : place + (edit < 2)] = new
            if rng.random() < 0.3:
                third = len(changed) // 3
                changed = changed[third : 2 * third] + changed[:third] + changed[2 * third :]
            if rng.random() < 0.3:
                changed += rng.choice(boilerplates)
            texts.append(" ".join(changed))
    rng.shuffle(texts)
    return texts


def exact_similarities(texts: Sequence[str], ngram_words: int) -> Pairs:
    """Similarity of all pairs that share an n-gram, from sets of Python's own."""
    sets = []
    for text in texts:
        words = text.split()
        last = max(len(words) - ngram_words, 0)
        sets.append({tuple(words[start : start + ngram_words]) for start in range(last + 1)})
    holders = defaultdict(list)
    for number, ngrams in enumerate(sets):
        for ngram in ngrams:
            holders[ngram].append(number)
    shared = Counter(pair for numbers in holders.values() for pair in combinations(numbers, 2))
    return {
        (a, b): count / (len(sets[a]) + len(sets[b]) - count) for (a, b), count in shared.items()
    }


@pytest.fixture(scope="module")
def sample() -> Sample:
    texts = varied_copies(seed=1, num_originals=220, num_copies=6)
    return Sample(texts, exact_similarities(texts, CONFIG.ngram_words))


def together(found: NearDuplicates) -> set[tuple[int, int]]:
    """All pairs of documents in one component."""
    groups = defaultdict(list)
    for position, survivor in enumerate(found.component.tolist()):
        groups[survivor].append(position)
    return {pair for group in groups.values() for pair in combinations(group, 2)}


class TestOnASample:
    """Against exact similarities, which cover 0 to 1."""

    def test_the_sample_covers_all_similarities(self, sample: Sample) -> None:
        counts = np.histogram(list(sample.similarity.values()), bins=10, range=(0, 1))[0]
        assert counts.min() > 50

    def test_recall(self, sample: Sample, tmp_path: Path) -> None:
        similar = {pair for pair, value in sample.similarity.items() if value >= 0.8}
        found = together(find(sample.texts, tmp_path))
        assert len(similar & found) / len(similar) >= 0.95

    def test_precision_of_confirmed_pairs(
        self, sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from llmstages.collect.duplicates import near_duplicates

        halves = (shingles(text, CONFIG.ngram_words) >> np.uint64(32) for text in sample.texts)
        number = {np.unique(half).astype(np.uint32).tobytes(): n for n, half in enumerate(halves)}
        confirmed = set()

        def recorded(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> float:
            similarity = jaccard(a, b)
            if similarity >= 0.8 and a.tobytes() != b.tobytes():
                confirmed.add(tuple(sorted((number[a.tobytes()], number[b.tobytes()]))))
            return similarity

        monkeypatch.setattr(near_duplicates, "jaccard", recorded)
        find(sample.texts, tmp_path)
        assert len(confirmed) > 150
        right = sum(sample.similarity[pair] >= 0.8 for pair in confirmed)
        assert right / len(confirmed) >= 0.95

    def test_precision_of_components(self, sample: Sample, tmp_path: Path) -> None:
        # Two documents may both be like a third without being so to each other, and copies of this
        # sample lie close at every similarity. Most are right nevertheless.
        pairs = together(find(sample.texts, tmp_path))
        right = sum(sample.similarity.get(pair, 0) >= 0.8 for pair in pairs)
        assert right / len(pairs) >= 0.8

    def test_what_is_dropped_has_a_confirmed_duplicate(
        self, sample: Sample, tmp_path: Path
    ) -> None:
        result = find(sample.texts, tmp_path)
        dropped = np.flatnonzero(result.component != np.arange(len(sample.texts)))
        of_document = defaultdict(set)
        for (a, b), value in sample.similarity.items():
            of_document[a].add(np.float32(value))
            of_document[b].add(np.float32(value))
        assert len(dropped) > 300
        assert all(result.similarity[n] in of_document[n] for n in dropped)
        assert np.nanmin(result.similarity) >= np.float32(0.8)
        assert np.isnan(np.delete(result.similarity, dropped)).all()

    def test_bands_alone_are_less_precise(self, sample: Sample, tmp_path: Path) -> None:
        similar = {pair for pair, value in sample.similarity.items() if value >= 0.8}
        unconfirmed = together(find(sample.texts, tmp_path, DedupConfig(min_similarity=0.0)))
        assert len(similar & unconfirmed) / len(unconfirmed) < 0.6

    def test_order_of_documents_changes_nothing(self, sample: Sample, tmp_path: Path) -> None:
        first = find(sample.texts, tmp_path)
        order = np.random.default_rng(0).permutation(len(sample.texts))
        second = find([sample.texts[n] for n in order], tmp_path, rank=order)
        assert (order[second.component] == first.component[order]).all()
        np.testing.assert_array_equal(second.similarity, first.similarity[order])


class TestSurvivors:
    def test_lowest_rank_stays(self, tmp_path: Path) -> None:
        texts = [numbered(0, 100), "something else entirely here", numbered(0, 101)]
        found = find(texts, tmp_path, rank=np.array([7, 3, 5]))
        assert found.component.tolist() == [2, 1, 2]
        # 96 and 97 n-grams, 96 of them shared.
        assert found.similarity[0] == np.float32(96 / 97)
        assert np.isnan(found.similarity[1:]).all()

    def test_threshold_is_included(self, tmp_path: Path) -> None:
        # 5 and 4 n-grams, 4 of them shared: exactly 0.8. One word a hash finds it for certain.
        texts = [numbered(0, 9), numbered(0, 8)]
        config = DedupConfig(num_bands=100, rows_per_band=1)
        assert find(texts, tmp_path, config).component.tolist() == [0, 0]
        config = DedupConfig(num_bands=100, rows_per_band=1, min_similarity=0.81)
        assert find(texts, tmp_path, config).component.tolist() == [0, 1]

    def test_chains_are_one_component(self, tmp_path: Path) -> None:
        texts = [numbered(10 * step, 300) for step in range(5)]
        found = find(texts, tmp_path)
        assert found.component.tolist() == [0] * 5
        # 256 of 336 n-grams of the first and the last are the same, but 266 of 326 of others.
        assert found.similarity[4] == np.float32(266 / 326)

    def test_texts_without_words_stay(self, tmp_path: Path) -> None:
        found = find(["", "...", "", "***"], tmp_path)
        assert found.component.tolist() == [0, 1, 2, 3]

    def test_short_texts(self, tmp_path: Path) -> None:
        found = find(["Yes, sir.", "yes sir", "yes", "no sir"], tmp_path)
        assert found.component.tolist() == [0, 0, 2, 3]

    def test_no_documents(self, tmp_path: Path) -> None:
        assert len(find([], tmp_path).component) == 0

    def test_scratch_is_left_empty(self, tmp_path: Path) -> None:
        find([numbered(0, 50)] * 3, tmp_path / "scratch")
        assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.skipif("LLMSTAGES_DATA" not in os.environ, reason="LLMSTAGES_DATA is not set")
def test_two_editions_of_a_book(tmp_path: Path) -> None:
    from llmstages.collect.pages.extraction import extract_page

    folder = Path(os.environ["LLMSTAGES_DATA"]) / "gutenberg_raw"
    texts = [
        (folder / "972.txt").read_text(encoding="latin-1"),
        extract_page((folder / "972-h.htm").read_bytes()).text,
        (folder / "2701-0.txt").read_text(encoding="utf-8"),
    ]
    found = find(texts, tmp_path)
    assert found.component.tolist() == [0, 0, 2]
    assert found.similarity[1] > 0.95


def test_a_bucket_of_many_costs_one_comparison_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmstages.collect.duplicates import near_duplicates

    comparisons = []

    def counted(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> float:
        comparisons.append(1)
        return jaccard(a, b)

    monkeypatch.setattr(near_duplicates, "jaccard", counted)
    found = find([numbered(0, 40)] * 1000, tmp_path)
    assert (found.component == 0).all()
    assert len(comparisons) == 999


class TestBands:
    def test_texts_without_words_have_none(self) -> None:
        texts = [numbered(0, 50), None, "", numbered(0, 50).upper() + "!"]
        bands = band_hashes(texts, CONFIG)
        assert bands.shape == (14, 4)
        for first, null, empty, same in bands.tolist():
            assert null == empty == 0
            assert first == same != 0
        assert len(set(bands[:, 0].tolist())) == 14

    def test_do_not_depend_on_the_batch(self) -> None:
        texts = [numbered(n, 30 + 7 * n) for n in range(100)]
        alone = np.hstack([band_hashes([text], CONFIG) for text in texts])
        np.testing.assert_array_equal(band_hashes(texts, CONFIG), alone)

    def test_agree_as_often_as_texts_are_similar(self) -> None:
        # 256 bands of one hash each, of which half agree, within four standard deviations.
        texts = [numbered(0, 304), numbered(100, 304)]
        a, b = band_hashes(texts, DedupConfig(num_bands=256, rows_per_band=1)).T
        expected = 200 / 400
        assert abs((a == b).mean() - expected) < 4 * (0.25 / 256) ** 0.5

    def test_are_the_same_on_every_machine(self) -> None:
        bands = band_hashes(["The quick brown fox jumps over the lazy dog."], CONFIG)[:, 0]
        assert bands[[0, 13]].tolist() == [12323550356237611174, 13670498423048296227]


class TestShingles:
    def test_are_those_of_the_words(self) -> None:
        words = ["to", "be", "or", "not", "to", "be", "or", "not", "to", "be"]
        different = {tuple(words[n : n + 3]) for n in range(len(words) - 2)}
        found = shingles(" ".join(words), 3)
        assert len(found) == len(different) == 4
        assert found.dtype == np.uint64
        assert all(a < b for a, b in pairwise(found.tolist()))

    def test_jaccard(self) -> None:
        a, b = shingles(numbered(0, 24), 5), shingles(numbered(5, 24), 5)
        assert jaccard(a, b) == 15 / 25
        assert jaccard(a, shingles("", 5)) == 0.0
