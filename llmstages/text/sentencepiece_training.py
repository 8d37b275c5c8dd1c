"""Training of a SentencePiece model that can spell every string.

Promise: the same texts and settings give the same model, byte for byte, whatever the number of
cores; the model normalises nothing, spells what it has no piece for in bytes, and has control
pieces for padding, the end of a document and chat turns that no text can produce.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sentencepiece

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.errors import UserError
from llmstages.report.terminal import warn
from llmstages.text.sentencepiece_proto import round_scores

PAD = "<|pad|>"
END = "<|endoftext|>"
UNKNOWN = "<|unk|>"  # SentencePiece insists on one; byte pieces leave nothing unknown
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

# Marks for the trainer where a word ends although no space follows. No piece crosses it.
WORD_BREAK = "\x1f"
# The trainer skips sentences with U+2581, U+2585 or a tab, its own marks; NUL and the word break
# cannot be pieces either. They are single bytes or spelled in bytes, so nothing is lost.
UNTRAINABLE = re.compile("[\0\t\x1f\u2581\u2585]+")
# Newlines belong to the word before them (".\n\n", "):\n"), never to the one after, so that a
# header line such as "user\n" is spelled alike whatever follows it.
NEWLINES = re.compile("\n+")

NUM_FIXED_PIECES = 256 + 5  # bytes, and the names above
CHUNK_CHARACTERS = 2000  # at most 8 kB: below the least `tokenizer.sample_bytes`
# Paths of a unigram model with the same pieces in another order tie. SentencePiece adds scores in
# single precision, Hugging Face in double, so rounding would decide differently. Sums of multiples
# of this unit, in nats, are exact in both (up to 65,536 in single precision: some 30 kB of text).
SCORE_UNIT = 2.0**-8
NUM_THREADS = 4  # fixed: the trainer adds up floating-point sums thread by thread


def train_sentencepiece(texts: Iterable[str], config: TokenizerConfig) -> bytes:
    """Train on a sample of `texts` (well-formed strings) and return the serialized model.

    The vocabulary is smaller than `config.vocab_size`, with a warning, when the text does not
    offer enough pieces. Raises `UserError` when there is no text.
    """
    sample = spread_sample(texts, config.sample_bytes)
    sentences = [sentence for chunk in sample if (sentence := mark_words(chunk, config.kind))]
    if not any(sentence.strip() for sentence in sentences):
        raise UserError("no text to train a tokenizer on: give at least a few sentences")
    settings = trainer_settings(config)
    try:
        model = run_trainer(sentences, settings)
    except RuntimeError as error:
        if "required_chars" not in str(error):
            raise
        model = train_with_fewer_characters(sentences, settings, config)
    if config.kind == "unigram":
        model = round_scores(model, SCORE_UNIT)
    num_pieces = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    if config.kind != "char" and num_pieces < config.vocab_size:
        warn(
            f"the text offers only {num_pieces:,} pieces: "
            f"tokenizer.vocab_size={config.vocab_size} is made smaller"
        )
    return model


def trainer_settings(config: TokenizerConfig) -> dict[str, Any]:
    """Keyword arguments of SentencePiece's trainer."""
    settings: dict[str, Any] = {
        "model_type": config.kind,
        "vocab_size": config.vocab_size,
        "hard_vocab_limit": False,
        "character_coverage": config.character_coverage,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": config.split_digits,
        "pad_id": 0,
        "pad_piece": PAD,
        "eos_id": 1,
        "eos_piece": END,
        "unk_id": 2,
        "unk_piece": UNKNOWN,
        "bos_id": -1,
        "control_symbols": [TURN_START, TURN_END],
        "max_sentence_length": 16 * CHUNK_CHARACTERS,  # bytes; above any chunk
        "num_threads": NUM_THREADS,
        "minloglevel": 2,
    }
    if config.kind != "char":
        settings["pretokenization_delimiter"] = WORD_BREAK
    return settings


def run_trainer(sentences: Sequence[str], settings: dict[str, Any]) -> bytes:
    """One run of SentencePiece's trainer; raises its `RuntimeError`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, **settings
    )
    return model.getvalue()


def train_with_fewer_characters(
    sentences: Sequence[str], settings: dict[str, Any], config: TokenizerConfig
) -> bytes:
    """Train when the vocabulary has less room than the characters asked for.

    The most frequent characters get half of the room, the rest of it is left for longer pieces;
    the trainer never sees the other characters.
    """
    counts = Counter("".join(sentences).replace(WORD_BREAK, ""))
    num_characters = (config.vocab_size - NUM_FIXED_PIECES) // 2
    kept = {character for character, _ in counts.most_common(num_characters)}
    warn(
        f"tokenizer.vocab_size={config.vocab_size} has no room for the characters of this text: "
        f"only the {num_characters:,} most frequent get a piece, others are spelled in bytes"
    )
    words_only = str.maketrans(dict.fromkeys(counts.keys() - kept, WORD_BREAK))
    return run_trainer(
        [sentence.translate(words_only) for sentence in sentences],
        settings | {"character_coverage": 1.0},
    )


def spread_sample(texts: Iterable[str], max_bytes: int) -> list[str]:
    """At most `max_bytes` (UTF-8) of the texts in chunks, evenly spread over all of them.

    Whenever the chunks kept exceed the limit, every second one is dropped and the step between
    the chunks taken doubles: one pass, bounded memory, nothing random.
    """
    kept: list[str] = []
    size = 0
    step = 1
    position = 0
    for text in texts:
        for chunk in cut(text):
            if position % step == 0:
                kept.append(chunk)
                size += len(chunk.encode())
            position += 1
            while size > max_bytes and len(kept) > 1:
                kept = kept[::2]
                step *= 2
                size = sum(len(chunk.encode()) for chunk in kept)
    return kept


def cut(text: str) -> Iterator[str]:
    """Cut a text into chunks of at most `CHUNK_CHARACTERS`, after a newline where there is one."""
    start = 0
    while start < len(text):
        end = min(start + CHUNK_CHARACTERS, len(text))
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end


def mark_words(chunk: str, kind: str) -> str:
    """Write `WORD_BREAK` after newlines and for characters that cannot be trained on.

    The break after the last newline also keeps the trainer from stripping it. A character model
    has no words to mark.
    """
    if kind == "char":
        return UNTRAINABLE.sub("", chunk)
    return NEWLINES.sub(lambda found: found[0] + WORD_BREAK, UNTRAINABLE.sub(WORD_BREAK, chunk))
