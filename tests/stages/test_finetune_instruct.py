"""Instruction tuning: what is counted, cut and measured."""

import json

import pytest
import torch

from llmstages.data.batch import IGNORED
from llmstages.data.conversations import Conversation
from llmstages.errors import UserError
from llmstages.model.generation import Generated
from llmstages.stages import finetune_instruct
from llmstages.stages.finetune_instruct import answer_all
from llmstages.stages.shared.objectives import to_examples
from llmstages.stages.shared.setup import Machine
from llmstages.text.chat import Message, render
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import load_checkpoint

MACHINE = Machine(torch.device("cpu"), torch.float32, 1024)


def conversation(question, answer, line=1):
    return Conversation([Message("user", question), Message("assistant", answer)], line)


def test_loss_falls_on_the_answer_and_its_end_only(tiny_corpus):
    tokenizer = Tokenizer.load(tiny_corpus / "tokenizer")
    (example,) = to_examples([conversation("Why?", "So it is.")], tokenizer, 64, "d/pairs.jsonl")
    learnt = [target for target in example.targets if target != IGNORED]
    assert learnt == [*tokenizer.encode("So it is."), tokenizer.turn_end_id]
    assert example.reference == "pairs.jsonl:1"


def test_long_conversations_are_cut_and_counted(tiny_corpus, capfd):
    tokenizer = Tokenizer.load(tiny_corpus / "tokenizer")
    rows = [
        conversation("Why?", "So."),
        conversation("Why?", "because " * 100),
        conversation("why " * 100, "So."),
    ]
    examples = to_examples(rows, tokenizer, 32, "pairs.jsonl")
    assert [len(example.tokens) == 32 for example in examples] == [False, True]
    err = " ".join(capfd.readouterr().err.split())
    assert "of 3 conversations 1 are longer" in err
    assert "1 had no answer left" in err


def test_a_run_that_would_cut_the_answers_does_not_start(instruct_config, tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": f"why {n}", "completion": f"because{n} " * 100} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = instruct_config(tmp_path / "runs", data=str(path))
    with pytest.raises(UserError, match=r"long\.jsonl: all 16 answers are cut"):
        finetune_instruct.run(config)
    assert not (tmp_path / "runs").exists()


def test_answers_come_in_the_order_of_the_questions(instruct_run):
    loaded = load_checkpoint(instruct_run)
    questions = [conversation("x " * n, "y") for n in (9, 2, 30, 1, 5)]
    together = answer_all(loaded.model, loaded.tokenizer, questions, 16, MACHINE, None)
    alone = [
        answer_all(loaded.model, loaded.tokenizer, [q], 16, MACHINE, None)[0] for q in questions
    ]
    assert together == alone


def test_stopped_share_and_exact_match(tmp_path, instruct_config, monkeypatch):
    """Answers made by hand: two of four are right, three of four end by themselves."""
    tokenizer = load_checkpoint(instruct_config(tmp_path).base).tokenizer

    def answers(model, tokenizer_, conversations, max_new_tokens, machine, description):
        texts = [c.messages[-1].content for c in conversations]
        texts[0] = texts[1] = "wrong"
        return [Generated(tokenizer.encode(t), i != 3) for i, t in enumerate(texts)]

    monkeypatch.setattr(finetune_instruct, "answer_all", answers)
    loss = finetune_instruct.run(instruct_config(tmp_path, steps=1))
    path = tmp_path / "pairs-instruct" / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["metrics"]["exact_match"] == 0.5
    assert summary["metrics"]["stopped_share"] == 0.75
    assert summary["metrics"]["val_loss"] == loss
    assert summary["headline"] == "val_loss"


def test_a_prompt_is_how_training_began(tiny_corpus):
    tokenizer = Tokenizer.load(tiny_corpus / "tokenizer")
    messages = conversation("Why?", "So.").messages
    whole, _ = render(messages, tokenizer)
    prompt, _ = render(messages[:-1], tokenizer, open_answer=True)
    assert whole[: len(prompt)] == prompt
