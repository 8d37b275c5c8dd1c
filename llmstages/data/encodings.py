"""Which encoding bytes are in: Unicode by its marks and rules, others by the characters they give.

`decode_bytes` never fails: bytes that do not fit the encoding found become U+FFFD.
"""

import logging
import re

logger = logging.getLogger("llmstages")

SAMPLE_BYTES = 2**20
# Encodings looked for when a text is not Unicode and not western European.
EAST_ASIAN = ("euc_jp", "shift_jis", "cp949", "gb18030", "big5")
SINGLE_BYTE = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp874", "latin_1")

_SURROGATES = re.compile("[\ud800-\udfff]")
_HIGH_RUNS = re.compile(rb"[\x80-\xff]+")


def decode_bytes(data: bytes, name: str | None = None) -> tuple[str, str]:
    """Decode the bytes of a text file; returns the text (without byte order mark) and the encoding.

    UTF-8 with a few broken bytes stays UTF-8 and the broken bytes become U+FFFD. With `name`, an
    encoding other than UTF-8 is said through the logger.
    """
    encoding = detect_encoding(data)
    if name is not None and encoding != "utf-8":
        logger.info("%s: read as %s", name, encoding)
    return data.decode(encoding, errors="replace"), encoding


def detect_encoding(data: bytes) -> str:
    """Name of the Python codec that reads `data`; marks at the start are taken off by the codec.

    In this order: byte order marks, UTF-16 by its zero bytes, UTF-8 (also when it is damaged in a
    few places), then western single-byte text by its short runs of high bytes, then
    charset-normalizer among the encodings in wide use.
    """
    for mark, codec in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return codec
    unmarked = _utf16_without_mark(data)
    if unmarked:
        return unmarked
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        # Bytes cut off at the end of a sample are no sign of another encoding.
        if error.reason == "unexpected end of data" and len(data) - error.start < 4 < error.start:
            return "utf-8"
        # The neighbourhood of the first foreign byte tells enough, in bounded time and memory.
        near = data[max(0, error.start - SAMPLE_BYTES) : error.start + SAMPLE_BYTES]
    text = near.decode("utf-8", errors="surrogateescape")
    num_broken = len(_SURROGATES.findall(text))
    num_valid = len(text) - len(text.encode("ascii", errors="ignore")) - num_broken
    if num_valid > 10 * num_broken:
        return "utf-8"
    return _legacy_encoding(data, near)


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 shows by zero bytes that are all on even or all on odd places."""
    start = data[: 2**16]
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if even + odd < max(1, len(start) // 200):
        return None
    if odd >= 10 * even + 1 and odd > 0:
        codec = "utf-16-le"
    elif even >= 10 * odd + 1 and even > 0:
        codec = "utf-16-be"
    else:
        return None
    if even + odd < len(start) / 10:
        # Few zeros: East Asian UTF-16, or UTF-8 with a stray NUL.
        try:
            start.decode("utf-8")
            return None
        except UnicodeDecodeError:
            pass
    try:
        start[: len(start) // 2 * 2].decode(codec, errors="strict")
    except UnicodeDecodeError as error:
        if len(start) - error.start > 4:
            return None
    return codec


def _legacy_encoding(data: bytes, near: bytes) -> str:
    """The 8-bit or East Asian encoding of bytes that are not Unicode, judged by some of them."""
    lines = [line for line in near.split(b"\n") if not line.isascii()]
    sample = b"\n".join(lines[:20_000])
    if (first := _HIGH_RUNS.search(sample)) is not None:
        sample = sample[max(0, first.start() - 1000) :]  # a line may begin with a megabyte of ASCII
    sample = sample[: 2**18]
    sample = sample[: sample.rfind(b"\n")] if sample.count(b"\n") > 1 else sample
    runs = [len(run) for run in _HIGH_RUNS.findall(sample)]
    # In western text accented letters stand among ASCII ones, so runs of high bytes are short;
    # in Korean, Chinese, Japanese, Cyrillic or Greek text whole words are high bytes.
    if sum(runs) / len(runs) < 3:
        return _western(data)
    shares = {codec: _everyday_share(sample, codec) for codec in EAST_ASIAN}
    codec = max(shares, key=lambda codec: shares[codec])
    if shares[codec] > 0.6:
        return codec
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(SINGLE_BYTE), threshold=0.5).best()
    return str(best.encoding) if best is not None else _western(data)


def _everyday_share(sample: bytes, codec: str) -> float:
    """Share of the characters above ASCII that texts in this encoding mostly consist of.

    Korean: the syllables of KS X 1001. Japanese: any, provided that a fifth are kana. Chinese: the
    commoner half of the characters (level 1), in each standard the lower rows. Read in a wrong
    encoding, text comes out as rare characters or none.
    """
    text = sample.decode(codec, errors="replace")
    above = [character for character in text if character > "\x7f"]
    if not above or above.count("\ufffd") > len(above) / 100:
        return 0.0
    if codec == "cp949":
        # Python spells a syllable that KS X 1001 lacks in eight bytes.
        hangul = (character for character in above if "\uac00" <= character <= "\ud7a3")
        return sum(len(character.encode("euc_kr")) == 2 for character in hangul) / len(above)
    if codec in ("shift_jis", "euc_jp"):
        kana = sum("\u3041" <= character <= "\u30fe" for character in above)
        return 1.0 if kana > len(above) / 5 else 0.0
    lowest, highest = (0xB0, 0xD7) if codec == "gb18030" else (0xA4, 0xC6)
    common = sum(lowest <= character.encode(codec)[0] <= highest for character in above)
    # Just below Korean: its syllables are all level-1 bytes to GB 18030.
    return 0.99 * common / len(above)


def _western(data: bytes) -> str:
    """Latin-1, or Windows-1252 where bytes that are controls in Latin-1 are letters or quotes."""
    if not any(0x80 <= byte <= 0x9F for byte in set(data)):
        return "latin-1"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"
