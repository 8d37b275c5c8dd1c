"""The likeliest next words of a language model: words, not tokens.

A word begins after a space (the prompt's own, or one that the model adds) and goes up to the next
space, line or sign; a sign is a word of its own. The prompt's last word is not gone on with. A
word's probability is that of its tokens, times that of the text after it not going on with the
same word, summed over the ways to spell it that were looked at. The search expands the likeliest
beginnings first, so the words come out in the order of their probability; what is left unexpanded
bounds what could be missing.
"""

import heapq
import re
import unicodedata
from dataclasses import dataclass

import torch

from llmstages.model.transformer import Transformer
from llmstages.text.tokenizer import Tokenizer

MAX_WORD_TOKENS = 12
MAX_EXPANSIONS = 400
BATCH = 16
WORD_SIGNS = tuple("'’-_")
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies of SentencePiece write a byte of a character that they have not."""


@dataclass(frozen=True)
class NextWord:
    """A word and its probability."""

    word: str
    probability: float


def continues_word(text: str) -> bool:
    """Whether a token that begins like this goes on with the word before it.

    So does a token that is a part of a character, which a vocabulary does not have whole, and an
    accent that is a character of its own.
    """
    if is_part_of_character(text):
        return True
    first = text[:1]
    return first.isalnum() or first in WORD_SIGNS or unicodedata.category(first or " ")[0] == "M"


def ends_in_word(text: str) -> bool:
    """Whether the word at the end of a token can be gone on with."""
    return continues_word(text if is_part_of_character(text) else text[-1:])


def is_part_of_character(text: str) -> bool:
    """Whether a token is bytes of UTF-8 beyond ASCII that are no whole character."""
    byte = BYTE_TOKEN.fullmatch(text)
    return int(byte[1], 16) >= 0x80 if byte else text.startswith("\N{REPLACEMENT CHARACTER}")


@torch.no_grad()
def next_words(
    model: Transformer, tokenizer: Tokenizer, prompt_ids: list[int], count: int
) -> list[NextWord]:
    """The `count` likeliest next words after a prompt (at least one token), likeliest first."""
    device = model.embedding.weight.device
    texts = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
    unused = model.config.vocab_size - len(texts)  # rows that pad the embedding
    texts += [""] * unused
    inside = torch.tensor([continues_word(text) for text in texts], device=device)
    room = model.config.context_length - MAX_WORD_TOKENS
    prompt = prompt_ids[-room:] if room > 0 else prompt_ids[-model.config.context_length :]

    prompt_ends_in_word = ends_in_word(tokenizer.decode(prompt))

    def probabilities(beginnings: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, beginnings))
        rows = [[*prompt, *b] + [0] * (longest - len(b)) for b in beginnings]
        tokens = torch.tensor(rows, device=device)[:, -model.config.context_length :]
        hidden = model(tokens)
        last = torch.tensor([len(b) - longest - 1 for b in beginnings], device=device)
        picked = hidden[torch.arange(len(rows), device=device), last]
        logits = model.logits(picked).float()
        logits[:, tokenizer.vocab_size :] = -torch.inf
        return logits.softmax(dim=-1)

    found: dict[str, float] = {}
    # (minus probability, tokens) of beginnings that are not yet known to be whole words
    frontier: list[tuple[float, list[int]]] = []

    def add(beginning: list[int], row: torch.Tensor, probability: float) -> None:
        if beginning and tokenizer.decode(beginning).strip():
            row = row * inside  # a longer word; what ends it here has been counted
        elif not beginning and prompt_ends_in_word:
            row = row * ~inside
        values, tokens = row.topk(min(4 * count + 16, len(row)))
        for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
            extended = [*beginning, token]
            if (value > 0 and tokenizer.decode(extended).strip()) or (
                value > 0 and texts[token].isspace() and len(extended) <= 2
            ):
                heapq.heappush(frontier, (-probability * value, extended))

    add([], probabilities([[]])[0], 1.0)
    expansions = 0
    while frontier and expansions < MAX_EXPANSIONS:
        floor = sorted(found.values(), reverse=True)[count - 1] if len(found) >= count else 0.0
        if -frontier[0][0] <= floor:
            break
        chosen = [heapq.heappop(frontier) for _ in range(min(BATCH, len(frontier)))]
        expansions += len(chosen)
        rows = probabilities([tokens for _, tokens in chosen])
        for (negative, tokens), row in zip(chosen, rows, strict=True):
            text = tokenizer.decode(tokens)
            goes_on = float(row[inside].sum())
            if text.strip():
                ends = 1.0 - goes_on if ends_in_word(text.strip()) else 1.0
                word = text.strip()
                found[word] = found.get(word, 0.0) - negative * ends
            else:
                goes_on = 1.0
            grows = not text.strip() or ends_in_word(text.strip())
            if grows and len(tokens) < MAX_WORD_TOKENS:
                add(tokens, row, -negative)
    best = sorted(found.items(), key=lambda item: -item[1])[:count]
    return [NextWord(word, probability) for word, probability in best]
