"""Conversations through a pipe and in a terminal that is played."""

import io
import json
import os
import re
import select
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmstages.config.uses import ChatConfig
from llmstages.data.conversations import read_conversations
from llmstages.model.generation import Sampling, generate
from llmstages.stages import chat as stage
from llmstages.stages.chat import Chat
from llmstages.stages.shared.speaker import open_speaker
from llmstages.text.chat import Message, render, stop_ids
from llmstages.text.streaming import TextStream
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import file_hash, load_checkpoint
from llmstages.train.records import read_sealed, write_sealed

GREEDY = ["temperature=0", "max_new_tokens=6"]


class Terminal(io.StringIO):
    """Standard input as if typed."""

    def isatty(self):
        return True


@pytest.fixture
def talk(cli, monkeypatch):
    """talk(run, typed, *settings) -> status, answers, notes."""

    def call(run, typed, *settings, stdin=io.StringIO):
        monkeypatch.setattr(sys, "stdin", stdin(typed))
        return cli("chat", run, *settings)

    return call


@pytest.fixture(scope="module")
def speaking_run(instruct_run, tmp_path_factory):
    """The tuned checkpoint with noise in its weights: it says this and that."""
    return speaking(instruct_run, tmp_path_factory.mktemp("run") / "best", 64)


@pytest.fixture(scope="module")
def patient_run(instruct_run, tmp_path_factory):
    """The same with so long a context that it can speak for minutes."""
    return speaking(instruct_run, tmp_path_factory.mktemp("run") / "best", 100_000)


def speaking(instruct_run, directory, context_length):
    shutil.copytree(instruct_run / "best", directory)
    weights = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in sorted(weights):
        weights[name] += 0.2 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = context_length
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    info = read_sealed(directory / "llmstages.json")
    for name in ("model.safetensors", "config.json"):
        info["files"][name] = file_hash(directory / name)
    write_sealed(directory / "llmstages.json", info)
    return directory


@pytest.fixture(scope="module")
def expected(speaking_run):
    """expected(turns) -> the likeliest answers, each computed from the whole conversation anew."""
    loaded = load_checkpoint(speaking_run)

    def answer(*questions, system=None, count=6):
        messages = [Message("system", system)] if system else []
        answers = []
        for question in questions:
            messages.append(Message("user", question))
            (found,) = generate(
                loaded.model,
                [render(messages, loaded.tokenizer, open_answer=True)[0]],
                max_new_tokens=count,
                stop_ids=stop_ids(loaded.tokenizer),
                sampling=Sampling(0.0),
            )
            answers.append(loaded.tokenizer.decode(found.tokens))
            messages.append(Message("assistant", answers[-1]))
        return answers

    return answer


def test_answers_through_a_pipe(talk, speaking_run, expected):
    status, out, err = talk(speaking_run, "What is if?\nAnd for?\n", *GREEDY)
    assert status == 0, err
    assert out == "".join(f"{answer}\n" for answer in expected("What is if?", "And for?"))
    assert err.count("tokens/s)") == 2
    assert "base model" not in err


def test_lines_joined_and_commands(talk, speaking_run, expected, tmp_path):
    typed = [
        *("/help", "/system Be brief.", "", "What is \\", "if?", "/nonsense", "/save kept.jsonl"),
        *("/reset", "/save x.jsonl", "//what", "/save kept.jsonl", "/save no/where.jsonl", "/quit"),
        "never asked",
    ]
    status, out, err = talk(speaking_run, "\n".join(typed), *GREEDY)
    assert status == 0, err
    (first,) = expected("What is \nif?", system="Be brief.")
    (second,) = expected("/what", system="Be brief.")
    assert out == f"{first}\n{second}\n"
    assert "/reset        forget" in err
    assert "/nonsense is no command" in err
    assert "nothing to save" in err
    assert "no/where.jsonl: No such file" in err
    kept = read_conversations(tmp_path / "kept.jsonl")
    assert [len(conversation.messages) for conversation in kept] == [3, 3]
    assert kept[0].messages == [
        Message("system", "Be brief."),
        Message("user", "What is \nif?"),
        Message("assistant", first),
    ]


@pytest.mark.parametrize("name", ["speaking_run", "patient_run"])
def test_a_long_conversation_is_answered_as_if_read_anew(name, request, monkeypatch):
    """Whether its oldest turns are dropped or not; where they are not, only news is read."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    run = request.getfixturevalue(name)
    config = ChatConfig(checkpoint_dir=str(run), temperature=0.0, max_new_tokens=9)
    speaker = open_speaker(config, "chat")
    chat = Chat(speaker, config)
    questions = ["What is if?", "Why?", "What is a list of lists?", "And for?", "A word?"]
    for question in questions:
        first, read = chat.first, chat.num_read
        anew = Chat(speaker, config)
        anew.messages = list(chat.messages)
        chat.say(question)
        anew.say(question)
        assert (chat.messages, chat.first) == (anew.messages, anew.first)
        if question != questions[0] and chat.first == first:
            assert chat.num_read - read < anew.num_read
    first = chat.first
    assert (first > 0) == (name == "speaking_run")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    # A message without an answer is taken back, and drops nothing.
    with monkeypatch.context() as patch:
        patch.setattr(stage, "stream", interrupted)
        chat.say("word " * 30)
    assert (chat.messages, chat.first) == (anew.messages, first)
    if first == 0:
        read = chat.num_read
        chat.reset()
        chat.say(questions[0])
        assert chat.num_read == read + 1  # all of it is known but the token that is asked of


def test_the_oldest_turns_are_dropped(talk, speaking_run):
    question = "What is the meaning of a word in a list of words?"
    typed = "\n".join([question] * 12)
    status, _, err = talk(speaking_run, typed, "system=Short.", "max_new_tokens=3")
    assert status == 0, err
    assert "oldest turns are no longer among them" in err
    status, _, err = talk(speaking_run, "word " * 500, "max_new_tokens=3")
    assert status == 0, err
    assert "tokens are used)" not in err
    assert "are used)" in err


def test_sampling_follows_the_seed(talk, speaking_run):
    words = [speaking_run, "What is if?\nAnd for?\n", "max_new_tokens=8", "temperature=2"]
    assert talk(*words)[1] == talk(*words)[1] != talk(*words, "seed=1")[1]


def test_a_base_model_says_so_and_a_classifier_is_refused(talk, tiny_run, classifier_run):
    status, out, err = talk(tiny_run, "The for statement\n", *GREEDY)
    assert status == 0, err
    assert "a base model, not tuned on instructions" in err
    loaded = load_checkpoint(tiny_run)
    turns = [Message("user", "The for statement")]
    (found,) = generate(
        loaded.model,
        [render(turns, loaded.tokenizer, open_answer=True, plain=True)[0]],
        max_new_tokens=6,
        stop_ids=[loaded.tokenizer.end_id],
        sampling=Sampling(0.0),
    )
    assert out == loaded.tokenizer.decode(found.tokens) + "\n"
    status, out, err = talk(classifier_run, "x\n")
    assert (status, out) == (2, "")
    assert "a classifier; use llmstages predict" in err


def test_an_interrupt_stops_the_answer_alone(talk, speaking_run, expected, monkeypatch):
    real, calls = stage.stream, []

    def interrupted(*args, **kwargs):
        calls.append(None)
        for count, token in enumerate(real(*args, **kwargs)):
            if len(calls) == 1 and count == 2:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(stage, "stream", interrupted)
    status, out, err = talk(speaking_run, "What is if?\nAnd for?\n", *GREEDY, stdin=Terminal)
    assert status == 0, err
    assert "(stopped)" in err
    (cut,) = expected("What is if?", count=2)
    loaded = load_checkpoint(speaking_run)
    turns = [Message("user", "What is if?"), Message("assistant", cut), Message("user", "And for?")]
    turns = turns if cut.strip() else turns[2:]
    (second,) = generate(
        loaded.model,
        [render(turns, loaded.tokenizer, open_answer=True)[0]],
        max_new_tokens=6,
        stop_ids=stop_ids(loaded.tokenizer),
        sampling=Sampling(0.0),
    )
    assert out == f"{cut}\n{loaded.tokenizer.decode(second.tokens)}\n"
    # Through a pipe nobody is there who wants to go on.
    calls.clear()
    assert talk(speaking_run, "What is if?\nAnd for?\n", *GREEDY)[0] == 130


def test_a_terminal(patient_run, tmp_path):
    """Played by keys through a pseudo-terminal that controls the process."""
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "from llmstages.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["chat", str(patient_run), "temperature=0", "max_new_tokens=20000"]
    keys, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(terminal)

    def told(pattern):
        """What is shown until the pattern is."""
        shown = ""
        while not re.search(pattern, shown):
            assert select.select([keys], [], [], 60)[0], shown
            shown += os.read(keys, 4096).decode("utf-8", "replace")
        return shown

    def typed(text, pattern):
        os.write(keys, text.encode())
        # A Ctrl-C just before the terminal waits for keys is seen at the next key only.
        while text == "\x03" and not select.select([keys], [], [], 10)[0]:
            os.write(keys, text.encode())
        return told(pattern)

    try:
        told(r"Ctrl-D leaves\)?\s+> $")
        typed("/system Be brief.\n", r"system: Be brief\.\s+> $")
        typed("What is if?\n", r"What is if\?\r\n.{9}")  # the answer has begun
        typed("\x03", r"\(stopped\)(?s:.*)tokens/s\)\s+> $")
        typed("\x03", r"\(Ctrl-D leaves\)\s+> $")
        typed("/save kept.jsonl\n", r"saved in kept\.jsonl\s+> $")
        typed("/reset\n", r"forgotten\s+> $")
        typed("/save kept.jsonl\n", r"nothing to save\s+> $")
        os.write(keys, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(keys)
    (conversation,) = read_conversations(tmp_path / "kept.jsonl")
    assert conversation.messages[:2] == [
        Message("system", "Be brief."),
        Message("user", "What is if?"),
    ]
    assert conversation.messages[2].content.strip()


@pytest.mark.parametrize("text", ["naïve — 한국어 🦁🦁\r\nnext", "plain words", "", "\ufffd end"])
def test_pieces_are_the_text_and_whole_characters(tiny_run, text):
    tokenizer = Tokenizer.load(tiny_run / "best")
    ids = tokenizer.encode(text)
    for chosen in (ids, ids[:-1], ids[1:]):
        stream = TextStream(tokenizer)
        pieces = [stream.add([index]) for index in chosen]
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
        assert "".join(pieces) + stream.end() == tokenizer.decode(chosen)


def test_a_terminal_sees_no_control_characters(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    stage.write("a\x1b[2Jb\n")
    assert screen.getvalue() == "a\\x1b[2Jb\n"


def test_what_was_saved_is_json(talk, speaking_run, tmp_path):
    typed = "Say ü\n/save kept.jsonl\nMore ü\n/save kept.jsonl\n/save kept.jsonl\n"
    (tmp_path / "kept.jsonl").write_text("an earlier one\n")
    talk(speaking_run, typed, *GREEDY)
    earlier, line = (tmp_path / "kept.jsonl").read_text("utf-8").splitlines()
    assert earlier == "an earlier one"
    assert [turn["role"] for turn in json.loads(line)["messages"]] == ["user", "assistant"] * 2
