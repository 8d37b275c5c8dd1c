"""Text and next words on standard output."""

import pytest

from llmstages.model.generation import Sampling, generate
from llmstages.text.chat import Message, render
from llmstages.train.checkpoint import load_checkpoint


def test_greedy_text_is_the_prompt_and_its_continuation(cli, tiny_run):
    loaded = load_checkpoint(tiny_run)
    tokenizer = loaded.tokenizer
    (expected,) = generate(
        loaded.model.eval(),
        [tokenizer.encode("The for, x=1")],
        max_new_tokens=7,
        stop_ids=[tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    status, out, err = cli(
        "generate", tiny_run, "The for, x=1", "temperature=0", "max_new_tokens=7"
    )
    assert status == 0, err
    assert out == "The for, x=1" + tokenizer.decode(expected.tokens) + "\n"
    assert f"{len(expected.tokens)} tokens" in err


def test_samples_follow_the_seed(cli, tiny_run):
    words = ["generate", tiny_run, "The", "max_new_tokens=9", "num_samples=3"]
    first, again, other = cli(*words), cli(*words), cli(*words, "seed=1")
    assert first[:2] == again[:2]
    assert first[1] != other[1]
    assert first[1].count("The") >= 3


@pytest.mark.parametrize("prompt", ["", "word " * 500])
def test_empty_and_long_prompts(cli, tiny_run, prompt):
    status, out, err = cli("generate", tiny_run, f"prompt='{prompt}'", "max_new_tokens=3")
    assert status == 0, err
    assert out.startswith(prompt)
    assert ("are used" in err) == bool(prompt)


def test_a_specialist_answers_a_users_turn(cli, instruct_run):
    loaded = load_checkpoint(instruct_run)
    ids, _ = render([Message("user", "What is DEBUGGING?")], loaded.tokenizer, open_answer=True)
    (expected,) = generate(
        loaded.model.eval(),
        [ids],
        max_new_tokens=5,
        stop_ids=[loaded.tokenizer.turn_end_id, loaded.tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    words = ["generate", instruct_run, "What is DEBUGGING?", "temperature=0", "max_new_tokens=5"]
    status, out, err = cli(*words)
    assert status == 0, err
    assert out == loaded.tokenizer.decode(expected.tokens) + "\n"
    assert cli(*words, "chat='off'")[1].startswith("What is DEBUGGING?")


def test_next_words(cli, tiny_run):
    status, out, err = cli("generate", tiny_run, "The value of the", "top=5")
    assert status == 0, err
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 5
    shares = [float(row.split("│")[3]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
