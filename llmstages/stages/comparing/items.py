"""The items on which `compare` measures two models, and what each makes of them.

Each kind of data gives the same: figures as functions of how often an item counts, and an entry an
item. Figures never depend on how a tokenizer cuts text: labels, generated text, or bits a byte.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstages.config.uses import CompareConfig
from llmstages.data.conversations import Conversation, read_conversations
from llmstages.data.corpus import Corpus
from llmstages.data.examples import Example, make_batch
from llmstages.data.labelled_files import data_files
from llmstages.data.labelled_texts import LabelledText, read_known_labels
from llmstages.data.order import permutation
from llmstages.data.streams import stack_rows
from llmstages.data.tasks import Task, label_items, with_shots
from llmstages.data.text_template import TextTemplate
from llmstages.errors import UserError
from llmstages.evaluate.abilities import choice_scores, choices_taken, fitting, measures_of
from llmstages.evaluate.bootstrap import Measure, proportion
from llmstages.evaluate.class_figures import label_figures, multi_label_figures
from llmstages.evaluate.continuations import Subject
from llmstages.evaluate.greedy import greedy_answers
from llmstages.evaluate.multi_label import THRESHOLD
from llmstages.evaluate.paired import Weighted, weighted
from llmstages.evaluate.perplexity import row_likelihoods
from llmstages.evaluate.text_metrics import text_metrics
from llmstages.report.terminal import warn
from llmstages.stages.asking.abilities import reading_of
from llmstages.stages.classifying.probabilities import (
    LabelSets,
    decision_of,
    examples_of,
    probabilities,
)
from llmstages.stages.finetune_instruct import answer_all
from llmstages.stages.shared.objectives import EVALUATION_BATCH, cut_example, rendered_ids
from llmstages.stages.shared.setup import Machine
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import Checkpoint

PASSAGE_CHARACTERS = 4096
"""Most characters of held-out text that are one item."""
DEFAULT_ITEMS = {"instruct": 200, "text": 500}
OPENING_CHARACTERS = 200
"""Of a passage, for a model to go on from."""


@dataclass
class Measured:
    """What a model makes of the items."""

    figures: dict[str, Weighted]
    entries: list[dict[str, Any]]
    """What it said of each item."""
    right: list[bool] | None = None
    """Whether that was right, where it is one or the other."""


@dataclass
class Items:
    """What both models are measured on."""

    kind: str
    """`classify`, `instruct`, `text`, or that of a task."""
    entries: list[dict[str, Any]]
    """Of each item what is known of it without a model."""
    measure: Callable[[int, Machine], Measured]
    """What the first model (0) or the second (1) makes of them."""


def drawn(count: int, config: CompareConfig, kind: str) -> list[int]:
    """Which of so many items are compared, in their order."""
    most = config.max_items or DEFAULT_ITEMS.get(kind) or count
    return sorted(permutation(count, "compared", config.seed)[:most].tolist())


# -------------------------------------------------------------------------------------------------
# texts with labels


def labelled_items(config: CompareConfig, checkpoints: Sequence[Checkpoint]) -> Items:
    """The rows of a file that all classifiers among the two can be asked, each as it reads them.

    A language model reads a row as the classifier does, and takes the likeliest of its labels.
    """
    assert config.data is not None
    classifiers = [checkpoint for checkpoint in checkpoints if checkpoint.labels is not None]
    several = {checkpoint.model.config.multi_label for checkpoint in classifiers}
    if len(several) > 1:
        raise UserError("one classifier gives one label, the other any number: not comparable")
    if len(classifiers) < 2 and several == {True}:
        raise UserError("a language model gives one label of a text, the classifier any number")
    by_place: list[dict[tuple[str, int, int], LabelledText]] = []
    for checkpoint in classifiers:
        rows, _ = read_known_labels(
            *(config.data, checkpoint.labels or [], config.text_column, config.label_column),
            config.bad_rows,
            multi_label=several == {True},
            label_separator=config.label_separator,
            template=TextTemplate.from_record(
                checkpoint.info.classifier if checkpoint.info else None
            ),
        )
        seen: Counter[tuple[str, int]] = Counter()  # several rows may begin on a line
        found = {}
        for row in rows:
            seen[row.path, row.line] += 1
            found[row.path, row.line, seen[row.path, row.line]] = row
        by_place.append(found)
    both = [place for place in by_place[0] if place in by_place[-1]]
    if not both:
        raise UserError(f"{config.data}: no row that both classifiers can be asked")
    chosen = drawn(len(both), config, "classify")
    rows_of = [[rows[both[index]] for index in chosen] for rows in by_place]
    entries = [
        {
            "file": first.path,
            "line": first.line,
            "text": first.text,
            "label": first.label if first.labels is None else list(first.all_labels),
        }
        for first in rows_of[0]
    ]
    labels = classifiers[0].labels or []
    own_rows = iter(rows_of)
    models = [
        prompted(config, checkpoint, [by_place[0][place] for place in both], chosen, labels)
        if checkpoint.labels is None
        else partial(measure_labels, checkpoint, next(own_rows))
        for checkpoint in checkpoints
    ]

    def measure(which: int, machine: Machine) -> Measured:
        return models[which](machine)

    return Items("classify", entries, measure)


def measure_labels(
    checkpoint: Checkpoint, rows: Sequence[LabelledText], machine: Machine
) -> Measured:
    """Accuracy and F1 of a classifier."""
    labels, model = checkpoint.labels, checkpoint.model
    assert labels is not None
    sets = LabelSets.of(rows, labels)
    examples = examples_of(rows, labels, checkpoint.tokenizer, model.config.context_length, sets)
    found = probabilities(model, examples, machine)
    targets = np.array([windows[0].targets[-1] for windows in examples])
    if sets is not None:
        truth, given = sets.members[targets], found > THRESHOLD

        def of_sets(name: str) -> Weighted:
            return lambda counts: multi_label_figures(truth, found, given, counts)[name]

        return Measured(
            {name: of_sets(name) for name in ("micro_f1", "macro_f1", "subset_accuracy")},
            [
                {"labels": [label for label, on in zip(labels, row, strict=True) if on]}
                for row in given.tolist()
            ],
            (truth == given).all(axis=1).tolist(),
        )
    predicted = decision_of(checkpoint).labels(found)
    return label_measures(targets, predicted, labels, found[np.arange(len(found)), predicted])


def label_measures(
    targets: NDArray[np.int64],
    predicted: NDArray[np.int64],
    labels: Sequence[str],
    shares: NDArray[np.float64] | None = None,
) -> Measured:
    """Of one label a text, of which a classifier gives the probability too (`shares`)."""

    def of_labels(name: str) -> Weighted:
        return lambda counts: label_figures(targets, predicted, len(labels), counts)[name]

    entries: list[dict[str, Any]] = [{"label": labels[best]} for best in predicted.tolist()]
    for entry, share in zip(entries, () if shares is None else shares.tolist(), strict=False):
        entry["probability"] = share
    figures = {name: of_labels(name) for name in ("accuracy", "macro_f1")}
    return Measured(figures, entries, (targets == predicted).tolist())


def prompted(
    config: CompareConfig,
    checkpoint: Checkpoint,
    rows: Sequence[LabelledText],
    chosen: Sequence[int],
    labels: Sequence[str],
) -> Callable[[Machine], Measured]:
    """How a language model is asked for the labels that a classifier has learnt.

    rows: of the file; those `chosen` are asked, the others are examples too.
    """
    assert config.data is not None
    reading = reading_of(config)
    known = tuple(label_items(rows, labels, reading, config.data))
    task = with_shots(Task(config.data, "labels", known, seed=config.seed), config.shots)
    items = [known[index] for index in chosen]
    task = replace(task, items=tuple(items))
    fitting(task, checkpoint.tokenizer, checkpoint.model.config.context_length, "refuse")

    def measure(machine: Machine) -> Measured:
        scores = choice_scores(subject_of(checkpoint, machine), task)
        targets = np.array([item.gold for item in items])
        return label_measures(targets, choices_taken(task, scores[:, 0])[0], labels)

    return measure


def subject_of(checkpoint: Checkpoint, machine: Machine) -> Subject:
    """A language model that is asked on a machine."""
    return Subject(
        *(checkpoint.model.eval(), checkpoint.tokenizer, machine.device),
        *(machine.dtype, machine.micro_batch_tokens),
    )


# -------------------------------------------------------------------------------------------------
# prompts with answers


def instruct_items(config: CompareConfig, checkpoints: Sequence[Checkpoint]) -> Items:
    """Conversations of a file whose last answer is asked for."""
    assert config.data is not None
    columns = (config.prompt_column, config.answer_column)
    rows = [
        row
        for file in data_files(config.data)
        for row in read_conversations(file, *columns, config.bad_rows)
    ]
    chosen = [rows[index] for index in drawn(len(rows), config, "instruct")]
    entries = [
        {
            "file": row.path or config.data,
            "line": row.line,
            "question": "\n".join(message.content for message in row.messages[:-1]),
            "reference": row.messages[-1].content,
        }
        for row in chosen
    ]
    references = [reference_examples(checkpoint, chosen) for checkpoint in checkpoints]
    fits = [None not in both for both in zip(*references, strict=True)]
    if num_left_out := fits.count(False):
        warn(
            f"{num_left_out:,} of {len(fits):,} references do not fit the context of a model: "
            "bits a byte are of the others"
        )
    references = [
        [example if fit else None for example, fit in zip(own, fits, strict=True)]
        for own in references
    ]

    def measure(which: int, machine: Machine) -> Measured:
        return measure_answers(
            *(checkpoints[which], chosen, references[which], machine),
            *(config.max_new_tokens, "AB"[which]),
        )

    return Items("instruct", entries, measure)


def measure_answers(
    checkpoint: Checkpoint,
    rows: Sequence[Conversation],
    references: Sequence[Example | None],
    machine: Machine,
    max_new_tokens: int,
    name: str,
) -> Measured:
    """Generated answers against the file's, and how likely those are, as far as both models have
    room for them."""
    answers = answer_all(
        *(checkpoint.model, checkpoint.tokenizer, rows, max_new_tokens, machine),
        f"answers of {name}",
    )
    texts = [checkpoint.tokenizer.decode(answer.tokens) for answer in answers]
    bits = reference_bits(checkpoint, rows, references, machine)
    measures = {
        **({} if bits is None else {"answer_bits_per_byte": bits}),
        **text_metrics(texts, [row.messages[-1].content for row in rows]),
        "stopped_share": proportion([answer.stopped for answer in answers]),
    }
    chrf = measures["chrf"]
    entries = [
        {"answer": text, "stopped": answer.stopped, "chrf": chrf.score(statistics)}
        for text, answer, statistics in zip(texts, answers, chrf.statistics, strict=True)
    ]
    return Measured({key: weighted(measure) for key, measure in measures.items()}, entries)


def reference_examples(
    checkpoint: Checkpoint, rows: Sequence[Conversation]
) -> list[Example | None]:
    """Conversations as a model reads them; None for what does not fit its context."""
    context_length = checkpoint.model.config.context_length
    found = []
    for row in rows:
        ids, learnt = rendered_ids(row, checkpoint.tokenizer, row.path)
        example, is_cut = cut_example(row, ids, learnt, context_length, row.path)
        found.append(None if is_cut else example)
    return found


def reference_bits(
    checkpoint: Checkpoint,
    rows: Sequence[Conversation],
    references: Sequence[Example | None],
    machine: Machine,
) -> Measure | None:
    """Bits a byte of the answers in the file; the token that ends an answer is counted with it.

    None where no reference fits.
    """
    kept = [(index, example) for index, example in enumerate(references) if example is not None]
    if not kept:
        return None
    statistics = np.zeros((len(rows), 2))
    batches = (
        make_batch([[example] for _, example in kept[i : i + EVALUATION_BATCH]])
        for i in range(0, len(kept), EVALUATION_BATCH)
    )
    nats = row_likelihoods(checkpoint.model, batches, machine.device, machine.dtype)[:, 0]
    for (index, _), own in zip(kept, nats, strict=True):
        answers = [m.content for m in rows[index].messages if m.role == "assistant"]
        statistics[index] = own / np.log(2), sum(len(answer.encode()) for answer in answers)
    return Measure(statistics)


# -------------------------------------------------------------------------------------------------
# questions with choices, last words, labels by prompt


def task_items(config: CompareConfig, checkpoints: Sequence[Checkpoint], task: Task) -> Items:
    """Questions that language models are asked without having been tuned for them."""
    task = with_shots(task, config.shots)
    for checkpoint in checkpoints:
        model = checkpoint.model.config
        task = fitting(task, checkpoint.tokenizer, model.context_length, config.bad_rows)
    chosen = [task.items[index] for index in drawn(len(task.items), config, task.kind)]
    task = replace(task, items=tuple(chosen))
    entries = [
        {"file": item.path, "line": item.line, "prompt": item.prompt, "answer": item.answer}
        for item in chosen
    ]

    def measure(which: int, machine: Machine) -> Measured:
        measures = measures_of(subject_of(checkpoints[which], machine), task)
        right = [bool(hits) for hits, *_ in measures["acc"].statistics]
        figures = {key: weighted(found) for key, found in measures.items()}
        return Measured(figures, [{"right": hit} for hit in right], right)

    return Items(task.kind, entries, measure)


# -------------------------------------------------------------------------------------------------
# held-out text


def text_items(config: CompareConfig, checkpoints: Sequence[Checkpoint], corpus: Corpus) -> Items:
    """Passages of the validation text of a corpus."""

    def found() -> Iterator[dict[str, Any]]:
        for document in corpus.documents("validation", columns=["id", "text", "source"]):
            for text in passages(document.text):
                yield {"document": document.id, "source": document.source, "text": text}

    count = sum(1 for _ in found())
    if count < 2:
        raise UserError(f"{corpus.directory}: too little validation text to compare on")
    chosen = set(drawn(count, config, "text"))  # of a great corpus the text does not fit memory
    entries = [entry for index, entry in enumerate(found()) if index in chosen]
    texts = [entry["text"] for entry in entries]
    shown = [opening_of(text) for text in texts[: config.num_examples]]
    for entry, opening in zip(entries, shown, strict=False):
        entry["opening"] = opening

    def measure(which: int, machine: Machine) -> Measured:
        measured = measure_text(checkpoints[which], texts, machine)
        said = continuations(checkpoints[which], shown, machine, config.max_new_tokens)
        for entry, continuation in zip(measured.entries, said, strict=False):
            entry["continuation"] = continuation
        return measured

    return Items("text", entries, measure)


def passages(text: str) -> Iterator[str]:
    """A text in pieces, cut at white space where there is some."""
    begin = 0
    while begin < len(text):
        end = min(begin + PASSAGE_CHARACTERS, len(text))
        if end < len(text):
            end = max(text.rfind(" ", begin, end), text.rfind("\n", begin, end)) + 1 or end
            end = end if end > begin else begin + PASSAGE_CHARACTERS
        if text[begin:end].strip():
            yield text[begin:end]
        begin = end


def measure_text(checkpoint: Checkpoint, texts: Sequence[str], machine: Machine) -> Measured:
    """Bits a byte of passages, all of whose tokens are predicted.

    Each is read alone, after the token that begins a text or else the one that ends it; of one
    longer than the context the windows follow one another without overlap.
    """
    nats = passage_nats(checkpoint, texts, machine)
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    measure = Measure(np.stack([nats / np.log(2), sizes], axis=1))
    entries = [{"bits_per_byte": bits / size} for bits, size in measure.statistics]
    return Measured({"bits_per_byte": weighted(measure)}, entries)


def passage_nats(
    checkpoint: Checkpoint, texts: Sequence[str], machine: Machine
) -> NDArray[np.float64]:
    """[n] minus the log probability of each text."""
    tokenizer, length = checkpoint.tokenizer, checkpoint.model.config.context_length
    first = [*tokenizer.begin_ids][-1:] or [tokenizer.end_id]
    windows: list[tuple[NDArray[np.int64], int]] = []
    for number, ids in enumerate(tokenizer.encode_batch(texts)):
        whole = np.array([*first, *ids], dtype=np.int64)
        windows += [
            (whole[begin : begin + length + 1], number) for begin in range(0, len(ids), length)
        ]
    windows.sort(key=lambda window: len(window[0]))
    rows = max(1, machine.micro_batch_tokens // length)
    batches = (
        stack_rows([(ids, str(number)) for ids, number in windows[i : i + rows]])
        for i in range(0, len(windows), rows)
    )
    found = row_likelihoods(checkpoint.model, batches, machine.device, machine.dtype)[:, 0]
    nats = np.zeros(len(texts))
    np.add.at(nats, [number for _, number in windows], found)
    return nats


def opening_of(text: str) -> str:
    """The beginning of a passage, up to a word."""
    return text[:OPENING_CHARACTERS].rsplit(" ", 1)[0]


def continuations(
    checkpoint: Checkpoint, openings: Sequence[str], machine: Machine, max_new_tokens: int
) -> list[str]:
    """How a model likeliest goes on."""
    tokenizer: Tokenizer = checkpoint.tokenizer
    prompts = [tokenizer.opening(opening) for opening in openings]
    found = greedy_answers(
        checkpoint.model,
        prompts,
        max_new_tokens=max_new_tokens,
        stop_ids=[tokenizer.end_id],
        dtype=machine.dtype,
    )
    return [
        tokenizer.decode(answer.tokens, after=ids)
        for ids, answer in zip(prompts, found, strict=True)
    ]
