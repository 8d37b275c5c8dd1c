"""Evaluation text is found in documents, and cut out of them."""

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmstages.collect.duplicates.decontamination import (
    EvaluationCounts,
    EvaluationIndex,
    Hit,
    common_ngrams,
    cut,
)
from llmstages.config.collect_groups import DecontaminateConfig
from llmstages.duplicates.words import word_spans
from llmstages.errors import UserError

CONFIG = DecontaminateConfig()
QUESTION = (
    "Which statement best explains why photosynthesis is the foundation of most food webs on land?"
)
SHORT = "A guinea pig needs a cage with straw."  # 8 words
DATA = os.environ.get("LLMSTAGES_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LLMSTAGES_DATA is not set")


def filler(count: int, seed: int = 0) -> str:
    """`count` words that are in no evaluation text."""
    rng = random.Random(seed)
    return " ".join(f"x{rng.randrange(10**6)}" for _ in range(count))


def index_of(
    tmp_path: Path, *rows: object, config: DecontaminateConfig = CONFIG
) -> EvaluationIndex:
    path = tmp_path / "evaluation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return EvaluationIndex.build([str(path)], CONFIG)


def spans(text: str, hits: list[Hit]) -> list[str]:
    return [text[hit["start"] : hit["end"]] for hit in hits]


class TestIndex:
    def test_counts(self, tmp_path: Path) -> None:
        index = index_of(
            tmp_path,
            {"question": QUESTION, "choices": ["yes", "no way", SHORT], "label": "spam"},
            {"question": "Too short this is.", "label": "ham"},
            {"meta": {"deep": [{"deeper": filler(20)}]}},
        )
        assert index.counts == EvaluationCounts(rows=3, uncovered_rows=1, texts=3, short_texts=2)
        # 15, 8 and 20 words: 3, 1 and 8 n-grams.
        assert len(index.ngrams) == 12
        assert index.sizes.tolist() == [8, 13]
        (note,) = index.notes
        assert note.text.startswith("1 of 3 evaluation rows have no text of 8 words or more")

    def test_formats_and_folders(self, tmp_path: Path) -> None:
        texts = [filler(13, seed) for seed in range(7)]
        folder = tmp_path / "evaluation" / "more"
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_text(json.dumps({"q": texts[0]}) + "\n")
        (folder / "b.csv").write_text(f"text,label\n{texts[1]},spam\n")
        (folder / "c.json").write_text(json.dumps([{"q": [texts[2]]}]))
        (folder / "d.txt").write_text(f"{texts[3]}\n\n{texts[4]}\n")
        (folder / "e.tsv.gz").write_bytes(gzip.compress(f"text\tlabel\n{texts[5]}\tx\n".encode()))
        pq.write_table(pa.table({"text": [texts[6]], "n": [1]}), folder / "f.parquet")
        (folder / "SOURCE.md").write_text(filler(50, 99))
        index = EvaluationIndex.build([str(tmp_path / "evaluation")], CONFIG)
        assert sorted(index.hits(texts)) == list(range(7))
        assert len(index.ngrams) == 7

    def test_paragraphs_of_plain_text(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(f"{filler(5, 1)}\n{filler(5, 2)}\n\n{filler(9, 3)}\n")
        counts = EvaluationIndex.build([str(path)], CONFIG).counts
        assert (counts.rows, counts.texts) == (2, 2)

    def test_lines_without_paragraphs(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(f"{filler(8, 1)}\n{filler(9, 2)}\n")
        assert EvaluationIndex.build([str(path)], CONFIG).sizes.tolist() == [8, 9]

    def test_wrong_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nowhere"):
            EvaluationIndex.build([str(tmp_path / "nowhere.jsonl")], CONFIG)

    def test_folder_without_files_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no evaluation file in this folder"):
            EvaluationIndex.build([str(tmp_path)], CONFIG)

    def test_zip_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
        with pytest.raises(UserError, match="unpack it"):
            EvaluationIndex.build([str(tmp_path / "a.zip")], CONFIG)

    def test_file(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION}, {"q": SHORT})
        index.save(tmp_path / "index")
        loaded = EvaluationIndex.load(tmp_path / "index")
        assert loaded.fingerprint == index.fingerprint
        assert loaded.counts == index.counts
        assert loaded.hits([QUESTION, SHORT]) == index.hits([QUESTION, SHORT])

    def test_fingerprint_is_that_of_the_texts(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION}, {"q": SHORT})
        same = index_of(tmp_path, {"a": SHORT, "label": "x"}, {"b": QUESTION.upper()})
        other = index_of(tmp_path, {"q": QUESTION})
        assert index.fingerprint == same.fingerprint != other.fingerprint
        assert len(index.fingerprint) == 64


class TestHits:
    def test_positions(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION})
        text = f"{filler(30)} «{QUESTION.upper().replace('?', ' ...')}» {filler(30, 1)}"
        (hits,) = index.hits([text]).values()
        words = QUESTION.upper().rstrip("?").split()
        expected = [" ".join(words[start : start + 13]) for start in range(3)]
        assert spans(text, hits) == expected
        assert {hit["ngram"] for hit in hits} == {0, 1, 2}

    def test_twelve_words_of_a_long_text_are_no_hit(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION})
        words = QUESTION.split()
        assert index.hits([" ".join(words[:12]), " ".join(words[:13])]).keys() == {1}

    def test_short_texts_are_searched_for_whole(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": SHORT}, {"q": "Only seven words are in this one."})
        cut_short = SHORT.rsplit(" ", 1)[0]
        texts = [f"so {SHORT} yes", cut_short, "only seven words are in this one", ""]
        assert index.hits(texts).keys() == {0}

    def test_words_of_two_documents_are_no_hit(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION})
        words = QUESTION.split()
        assert index.hits([" ".join(words[:8]), " ".join(words[8:])]) == {}

    def test_chinese(self, tmp_path: Path) -> None:
        question = "下列哪一项最能解释光合作用是大多数食物网的基础?"
        text = f"前言。{question}后记。"
        (hits,) = index_of(tmp_path, {"q": question}).hits([text]).values()
        assert hits[0]["start"] == 3
        assert hits[-1]["end"] == 3 + len(question) - 1

    def test_index_without_ngrams(self, tmp_path: Path) -> None:
        assert index_of(tmp_path, {"label": "spam"}).hits([QUESTION]) == {}


class TestCommonNgrams:
    def test_more_than_max_documents(self) -> None:
        documents = [{1, 2}, {1}, {1, 3}, {2, 3}]
        assert common_ngrams(documents, 2) == {1}
        assert common_ngrams(documents, 3) == frozenset()

    def test_a_document_counts_once(self) -> None:
        assert common_ngrams([[1, 1, 1], [1]], 2) == frozenset()


class TestCut:
    def test_without_hits(self) -> None:
        assert cut("text", [], CONFIG) is None

    def test_margin_up_to_the_ends_of_words(self) -> None:
        text = "abcd " * 400
        # The margins begin and end at words: white space alone goes.
        assert cut(text, [(1000, 1050)], CONFIG) == [(0, 799), (1250, 1999)]
        config = DecontaminateConfig(margin_characters=202)
        assert cut(text, [(1000, 1050)], config) == [(0, 794), (1255, 1999)]

    def test_hits_that_overlap_are_one_cut(self) -> None:
        text = "abcd " * 400
        once = cut(text, [(1000, 1100)], CONFIG)
        assert cut(text, [(1050, 1100), (1000, 1060)], CONFIG) == once
        assert len(once or []) == 2

    def test_short_pieces_are_dropped(self) -> None:
        text = "abcd " * 200
        # 199 characters are left before the cut.
        assert cut(text, [(400, 410)], CONFIG) == [(610, 999)]
        config = DecontaminateConfig(min_piece_characters=199)
        assert cut(text, [(400, 410)], config) == [(0, 199), (610, 999)]

    def test_nothing_left(self) -> None:
        assert cut("abcd " * 100, [(200, 300)], CONFIG) == []

    def test_too_many_pieces(self) -> None:
        text = "abcd " * 3000
        hits = [(1000 * number, 1000 * number + 50) for number in range(1, 12)]
        assert cut(text, hits, CONFIG) == []
        assert len(cut(text, hits[:9], CONFIG) or []) == 10

    def test_no_piece_allowed(self) -> None:
        assert cut("abcd " * 3000, [(5000, 5050)], DecontaminateConfig(max_pieces=0)) == []

    def test_text_without_white_space(self) -> None:
        text = "字" * 2000
        assert cut(text, [(1000, 1013)], CONFIG) == [(0, 800), (1213, 2000)]

    def test_a_question_is_gone(self, tmp_path: Path) -> None:
        index = index_of(tmp_path, {"q": QUESTION})
        text = f"{filler(200)} {QUESTION} {filler(200, 1)}"
        hits = [(hit["start"], hit["end"]) for hit in index.hits([text])[0]]
        pieces = [text[start:end] for start, end in cut(text, hits, CONFIG) or []]
        assert len(pieces) == 2
        assert all("photosynthesis" not in piece and "foundation" not in piece for piece in pieces)
        assert text.startswith(pieces[0])
        assert text.endswith(pieces[1])


@needs_data
class TestRealData:
    def novels(self) -> list[str]:
        names = ("Cbronte_Jane_1847", "Chesterton_Innocence_1911", "Burnett_Garden_1911")
        paths = [Path(DATA or "") / "english_novels" / f"{name}.txt.gz" for name in names]
        return [gzip.decompress(path.read_bytes()).decode("utf-8-sig") for path in paths]

    def index(self) -> EvaluationIndex:
        return EvaluationIndex.build([str(Path(DATA or "") / "eval_mcq" / "llm_foundry")], CONFIG)

    def test_inserted_questions_are_all_found_and_gone(self) -> None:
        path = Path(DATA or "") / "eval_mcq" / "llm_foundry" / "arc_easy.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line)["query"] for line in lines]
        questions = [text for text in questions if len(word_spans(text)[0]) >= 8]
        novels, rng, texts = self.novels(), random.Random(0), []
        for number, question in enumerate(questions):
            novel = novels[number % len(novels)]
            place = novel.index(" ", rng.randrange(2000, len(novel) - 2000))
            texts.append(f"{novel[place - 1000 : place]} {question} {novel[place : place + 1000]}")
        found = self.index().hits(texts)
        assert len(questions) > 2000
        assert len(found) == len(texts)
        for number, (text, question) in enumerate(zip(texts, questions, strict=True)):
            hits = [(hit["start"], hit["end"]) for hit in found[number]]
            pieces = cut(text, hits, CONFIG)
            assert pieces is not None
            assert all(question not in text[start:end] for start, end in pieces)

    def test_novels_stay_as_they_are(self) -> None:
        assert self.index().hits(self.novels()) == {}


def test_index_of_many_ngrams_finds_each(tmp_path: Path) -> None:
    texts = [filler(40, seed) for seed in range(300)]
    index = index_of(tmp_path, *({"q": text} for text in texts))
    assert len(index.ngrams) == 300 * 28
    found = index.hits(texts)
    assert [len(found[number]) for number in range(300)] == [28] * 300
    all_hits = np.sort([hit["ngram"] for hits in found.values() for hit in hits])
    assert (all_hits == np.arange(300 * 28)).all()
