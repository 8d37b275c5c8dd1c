"""Known words of held-out text, against the plain way to count them."""

from pathlib import Path

import pytest
import torch

from llmstages.data.corpus import Corpus
from llmstages.data.streams import validation_windows
from llmstages.evaluate.continuations import Subject
from llmstages.evaluate.held_out_words import held_out_words
from llmstages.evaluate.next_words import continues_word, ends_in_word
from llmstages.stages.shared.mixture import open_shards
from llmstages.train.checkpoint import load_checkpoint


def test_words_are_counted_one_by_one(tiny_run: Path, tiny_corpus: Path) -> None:
    checkpoint = load_checkpoint(tiny_run)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    _, shards = open_shards(Corpus.open(tiny_corpus), tokenizer)
    subject = Subject(model, tokenizer, torch.device("cpu"), batch_tokens=256, quiet=True)
    found = held_out_words(subject, shards, max_tokens=3000)
    assert found.keys() == {"all", *(shard.info.source for shard in shards)}

    known, words = 0, []
    for windows in validation_windows(shards, context_length=64, max_tokens=3000):
        for window in windows:
            ids = torch.from_numpy(window.ids)
            with torch.no_grad():
                best = model.logits(model(ids[None, :-1]))[0].argmax(dim=-1)
            open_word: list[int] | None = None  # places of the word that has begun in the window
            for place, token in enumerate(ids[1:].tolist()):
                text = tokenizer.token_text(token)
                goes_on = continues_word(text) and ends_in_word(
                    tokenizer.token_text(int(ids[place]))
                )
                if goes_on and token != tokenizer.end_id:
                    if open_word is not None:
                        open_word.append(place)
                    continue
                if open_word and (ids[1 + place :] != tokenizer.end_id).any():
                    words.append(tuple(ids[1:][open_word].tolist()))
                    known += bool((best[open_word] == ids[1:][open_word]).all())
                blank = token == tokenizer.end_id or not text.strip()
                open_word = [] if blank else [place]
    assert len(words) > 500
    assert 0 < known < len(words)
    accuracy = found["all"].measures["next_word_accuracy"]
    assert found["all"].num_words == len(words)
    assert accuracy.value == known / len(words)
    commonest = max(words.count(word) for word in set(words))
    assert found["all"].chances["next_word_accuracy"] == pytest.approx(commonest / len(words))
