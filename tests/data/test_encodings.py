"""Encodings are found by their bytes."""

import pytest

from llmstages.data.encodings import decode_bytes, detect_encoding

KOREAN = (
    "0\t연두색 꽃이 피었다\n1\t지금 몇 시야\n1\t회의는 언제 시작하니\n0\t오늘은 날씨가 참 좋네\n"
)
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 3
CHINESE = "我们从来没有见过这样的事情。今天天气不错，我想去公园散步。\n" * 3
RUSSIAN = "Мы никогда не видели ничего подобного. Сегодня хорошая погода.\n" * 3
FRENCH = "le café coûte 5 £ à Orléans\nça va très bien, merci\n"


class TestEncoding:
    @pytest.mark.parametrize(
        ("text", "encoding", "found"),
        [
            (FRENCH, "latin-1", "latin-1"),
            (FRENCH + "“quoted” – 5 €\n", "cp1252", "cp1252"),
            (KOREAN, "cp949", "cp949"),
            (KOREAN + "똠방각하 펲시콜라\n", "cp949", "cp949"),  # syllables only CP949 has
            (JAPANESE, "shift_jis", "shift_jis"),
            (JAPANESE, "euc_jp", "euc_jp"),
            (CHINESE, "gb18030", "gb18030"),
            (RUSSIAN, "cp1251", "cp1251"),
            (RUSSIAN, "koi8_r", "koi8_r"),
            (KOREAN, "utf-8", "utf-8"),
            (KOREAN, "utf-8-sig", "utf-8-sig"),
            (KOREAN, "utf-16", "utf-16"),
            (KOREAN, "utf-16-le", "utf-16-le"),
            (KOREAN, "utf-16-be", "utf-16-be"),
            (FRENCH, "utf-16-le", "utf-16-le"),
            (FRENCH, "utf-32", "utf-32"),
        ],
    )
    def test_found_and_decoded(self, text: str, encoding: str, found: str) -> None:
        assert decode_bytes(text.encode(encoding)) == (text, found)

    def test_one_foreign_byte_in_ascii_is_latin_1(self) -> None:
        assert decode_bytes(b"only \xa35 a week") == ("only £5 a week", "latin-1")

    def test_mojibake_pairs_stay_western(self) -> None:
        # The Kaggle spam file: pairs of high bytes that are also Chinese and Korean characters.
        data = b"spam,win \xe5\xa3100 now\nham,I\x89\xdb\xf7m on my way\nham,ok \xe5\xa35\n" * 5
        assert detect_encoding(data) in ("latin-1", "cp1252")

    def test_utf8_with_a_broken_byte_stays_utf8(self) -> None:
        text, encoding = decode_bytes("한국어 문장이다. ".encode() * 9 + b"\xff")
        assert encoding == "utf-8"
        assert text == "한국어 문장이다. " * 9 + "\ufffd"

    def test_cut_off_utf8_sample_is_utf8(self) -> None:
        assert detect_encoding("한국어".encode()[:-1]) == "utf-8"

    def test_nothing(self) -> None:
        assert decode_bytes(b"") == ("", "utf-8")
