"""What a language model is able to do without having been tuned for it: figures of a task.

`measures_of` gives each figure as a `Measure`, whose `statistics` have a row for each question: so
two models that were asked the same questions can be compared question by question.

- `choices` and `labels`: the model takes the choice that it finds likeliest after the prompt
  (`acc`), or likeliest a character (`acc_norm`); of labels `macro_f1` of the former too.
- `last_word`: the share of words of which each token was the likeliest (`acc`), and the
  `perplexity` of the words.
- `answers`: what `llmstages.evaluate.text_metrics` says of answers that the model writes.

`acc`, `acc_norm` and `perplexity` are EleutherAI's lm-evaluation-harness's (Gao et al.) of the same
questions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llmstages.data.order import permutation
from llmstages.data.rows import located
from llmstages.data.tasks import BETWEEN, Kind, Task
from llmstages.errors import UserError
from llmstages.evaluate.bootstrap import Figures, Measure, mean, proportion
from llmstages.evaluate.continuations import Subject, continuation_scores
from llmstages.evaluate.greedy import greedy_answers
from llmstages.evaluate.text_metrics import text_metrics
from llmstages.model.generation import fit_prompt
from llmstages.report.terminal import warn
from llmstages.text.chat import Message, answer_end_id, render
from llmstages.text.tokenizer import Tokenizer

FIGURES: dict[Kind, tuple[str, ...]] = {
    "choices": ("acc", "acc_norm"),
    "last_word": ("acc", "perplexity"),
    "labels": ("acc", "acc_norm", "macro_f1"),
    "answers": ("chrf", "exact_match", "bleu", "rouge_1", "rouge_2", "rouge_l"),
}
"""Of each kind of task; the first one stands for it."""
ANSWER_TOKENS = 64


def measures_of(
    subject: Subject, task: Task, *, max_new_tokens: int = ANSWER_TOKENS, chat: bool = False
) -> dict[str, Measure]:
    """The figures of a model in a task by name; row n of each one's `statistics` is question n's.

    max_new_tokens, chat: of answers, as `answers_of` says.
    """
    if task.kind == "answers":
        return answer_measures(task, answers_of(subject, task, max_new_tokens, chat=chat))
    scores = choice_scores(subject, task)
    if task.kind == "last_word":
        nats = mean(-scores[:, 0]).statistics
        return {
            "acc": proportion(scores[:, 1] == 1),
            "perplexity": Measure(nats, lambda sums: math.exp(min(700.0, sums[0] / sums[1]))),
        }
    gold = np.array([item.gold for item in task.items])
    taken, taken_norm = choices_taken(task, scores[:, 0])
    measures: dict[str, Measure] = {
        "acc": proportion(taken == gold),
        "acc_norm": proportion(taken_norm == gold),
    }
    if task.kind == "labels":
        measures["macro_f1"] = macro_f1(gold, taken, len(task.labels))
    return measures


def choice_scores(subject: Subject, task: Task) -> NDArray[np.float64]:
    """[n, 2] of every choice of every question, as `continuation_scores` says."""
    pairs = []
    for index, item in enumerate(task.items):
        prompt = task.prompt(index)
        pairs += [(prompt, BETWEEN + choice) for choice in item.choices]
    return continuation_scores(subject, pairs)


def choices_taken(task: Task, scores: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """The likeliest choice of each question by `scores` of all, and the likeliest a character."""
    lengths = np.array([len(choice) for item in task.items for choice in item.choices])
    borders = np.cumsum([len(item.choices) for item in task.items])[:-1]
    return [
        np.array([part.argmax() for part in np.split(values, borders)])
        for values in (scores, scores / lengths)
    ]


def fitting(task: Task, tokenizer: Tokenizer, context_length: int, bad_rows: str) -> Task:
    """The questions of a task whose choices fit the context of a model.

    Raises:
        UserError: with `bad_rows="refuse"` one does not, and is named; or none does.
    """
    if task.kind == "answers":
        return task
    texts = list({BETWEEN + choice for item in task.items for choice in item.choices})
    lengths = dict(zip(texts, map(len, tokenizer.encode_batch(texts)), strict=True))
    kept = []
    for item in task.items:
        longest = max(lengths[BETWEEN + choice] for choice in item.choices)
        if longest < context_length:  # a token may be split where it meets the prompt
            kept.append(item)
        elif bad_rows == "refuse":
            raise UserError(
                f"{located(item.path, item.line)}: a choice of {longest:,} tokens does not fit the "
                f"model's context of {context_length:,}: bad_rows=skip leaves such questions out"
            )
    if not kept:
        raise UserError(f"{task.name}: no question fits the context of {context_length:,} tokens")
    num_left_out = len(task.items) - len(kept)
    if num_left_out:
        warn(f"{task.name}: {num_left_out:,} questions left out: a choice does not fit the context")
    return replace(task, items=tuple(kept), num_skipped=task.num_skipped + num_left_out)


def chances_of(task: Task) -> dict[str, float]:
    """What the figures come to without reading the questions.

    Of choices a random one; of labels and words always the commonest; of answers those of another
    question, where there is one. A perplexity has none.
    """
    if task.kind == "choices":
        share = float(np.mean([1 / len(item.choices) for item in task.items]))
        return {"acc": share, "acc_norm": share}
    if task.kind == "answers" and len(task.items) < 2:
        return {}
    if task.kind == "answers":
        order = permutation(len(task.items), "chance", task.seed)
        others = np.empty_like(order)
        others[order] = np.roll(order, 1)
        texts = [task.items[index].answer for index in others]
        return {name: found.value for name, found in answer_measures(task, texts).items()}
    share = Counter(item.answer for item in task.items).most_common(1)[0][1] / len(task.items)
    if task.kind == "last_word":
        return {"acc": share}
    present = len({item.gold for item in task.items})
    return {"acc": share, "acc_norm": share, "macro_f1": 2 * share / (1 + share) / present}


def macro_f1(gold: NDArray[np.int64], taken: NDArray[np.int64], num_labels: int) -> Measure:
    """The mean F1 of the labels that are true of some question, or were taken in some."""
    truth, answers = (np.eye(num_labels)[labels] for labels in (gold, taken))
    statistics = np.concatenate([truth, answers, truth * answers], axis=1)

    def score(sums: Figures) -> float:
        support, chosen, hits = sums.reshape(3, num_labels)
        there = support + chosen > 0
        return float((2 * hits[there] / (support + chosen)[there]).mean())

    return Measure(statistics, score)


def answer_measures(task: Task, answers: Sequence[str]) -> dict[str, Measure]:
    """Answers of a model, question by question, against the right ones."""
    found = text_metrics(answers, [item.answer for item in task.items])
    return {name: found[name] for name in FIGURES["answers"]}


def answers_of(
    subject: Subject, task: Task, max_new_tokens: int = ANSWER_TOKENS, *, chat: bool = False
) -> list[str]:
    """The likeliest answer of a model to each question.

    A model that was not trained to answer writes the rest of a line; with `chat` the question is a
    user's turn, examples are turns before it, and the answer is all of the assistant's.
    """
    tokenizer = subject.tokenizer
    prompts = [
        chat_prompt(tokenizer, task, index) if chat else tokenizer.opening(task.prompt(index))
        for index in range(len(task.items))
    ]
    context_length = subject.model.config.context_length
    new_tokens = min(max_new_tokens, context_length // 2)
    num_cut = sum(fit_prompt(ids, new_tokens, context_length) != ids for ids in prompts)
    if num_cut and not subject.quiet:
        warn(
            f"{task.name}: {num_cut:,} of {len(prompts):,} prompts leave no room for an answer in "
            f"the model's context of {context_length:,} tokens: their beginnings are left out"
        )
    found = greedy_answers(
        subject.model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=[answer_end_id(tokenizer), tokenizer.end_id] if chat else [tokenizer.end_id],
        dtype=subject.dtype,
    )
    texts = [tokenizer.decode(answer.tokens).strip() for answer in found]
    return texts if chat else [text.partition("\n")[0].rstrip() for text in texts]


def chat_prompt(tokenizer: Tokenizer, task: Task, index: int) -> list[int]:
    """Ids of a question as the turns that it is, after its examples', open for the answer."""
    turns: list[Message] = []
    own = task.items[index].turns
    for item in task.examples(index):  # what the system says stands in front of all turns
        turns += [turn for turn in item.turns if turn.role != "system"]
        turns.append(Message("assistant", item.answer))
    system = [turn for turn in own if turn.role == "system"]
    turns = [*system, *turns, *(turn for turn in own if turn.role != "system")]
    return render(turns, tokenizer, open_answer=True)[0]
