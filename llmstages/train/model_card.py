"""The model card of a checkpoint: its `README.md`, with the front matter that model hubs read.

It says what the checkpoint's own records say, and how it is used. Its sha256 is in no record:
whoever passes a model on may write into it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from llmstages import __version__
from llmstages.evaluate.decision import Decision
from llmstages.model.counts import num_parameters
from llmstages.model.transformer import TransformerConfig
from llmstages.train.hub import address_of

if TYPE_CHECKING:
    from llmstages.train.checkpoint import CheckpointInfo

CARD_NAME = "README.md"
TITLES = {
    "pretrain": "A language model that continues text",
    "finetune-instruct": "A language model that answers",
    "finetune-classify": "A text classifier",
}
"""By the stage that trained last."""
MOST_LABELS = 50


def model_card(
    config: TransformerConfig,
    info: "CheckpointInfo",
    entries: Mapping[str, Any],
    *,
    vocabulary: int,
    test: Mapping[str, float] | None = None,
    is_foreign: bool = False,
) -> str:
    """The card of a checkpoint.

    entries: those of its `config.json`. vocabulary: its tokens. test: figures of the test rows.
    is_foreign: another program trained it, and `info` says what it is for. Raises `ValueError` for
    a classifier's rule that does not fit its labels.
    """
    labels = list((entries.get("id2label") or {}).values())
    opens = "architectures" in entries
    front = {
        "library_name": "transformers" if opens else "llmstages",
        "pipeline_tag": "text-classification" if labels else "text-generation",
        "tags": ["llmstages", config.layout, *([] if is_foreign else [info.stage])],
    }
    if info.lineage.base is not None:
        front["base_model"] = address_of(info.lineage.base).repository
    lines = ["---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", ""]
    lines += [f"# {TITLES.get(info.stage, 'A model')}", ""]
    after = f"after step {info.step:,} of `{info.stage}`"
    when = "of a model that another program trained" if is_foreign else after
    lines += [f"Written by llmstages {__version__} {when}.", ""]
    size = {
        "parameters": num_parameters(config),
        "family": config.layout,
        "layers": config.num_layers,
        "width": config.hidden_size,
        "context, tokens": config.context_length,
        "vocabulary, tokens": vocabulary,
    }
    lines += _table(size if is_foreign else size | {"tokens seen": info.tokens_seen})
    if labels:
        shown = json.dumps(labels[:MOST_LABELS], ensure_ascii=False)
        more = f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
        lines += [f"## Labels{more and f', {MOST_LABELS}{more}'}", "", "```json", shown, "```", ""]
        if rule := "; ".join(Decision.of(info.classifier, len(labels)).sentences(labels)):
            ignored = (
                "; transformers' pipeline ignores this and gives the likeliest" if opens else ""
            )
            lines += [f"By its rule, which llmstages follows, {rule}{ignored}.", ""]
    figures = {
        f"`{name}`": value
        for name, value in info.metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if figures:
        of = ", of the validation rows" if info.stage.startswith("finetune") else ""
        lines += [f"## Held-out figures at this step{of}", "", *_table(figures)]
    if test:
        of_test = {f"`{name}`": value for name, value in test.items()}
        lines += ["## Figures of the test rows", "", *_table(of_test)]
    made_from = _training(info) | {
        f"sha256 of the {name.replace('_', ' ')}": f"`{value}`"
        for name, value in vars(info.lineage).items()
        if name != "base" and value is not None
    }
    if made_from:
        lines += ["## Made from", "", *_table(made_from)]
    return "\n".join([*lines, use_section(info.stage, opens=opens)])


def card_of_export(card: str, stage: str, format: str, use: Sequence[str]) -> str:
    """The card of a model in a format (`gguf`, `onnx`) whose use these lines say.

    What llmstages says of its use as a checkpoint makes room, all else stays, also of a card that
    somebody else wrote.
    """
    for opens in (True, False):
        card = card.replace(use_section(stage, opens=opens), "")
    if card.startswith("---\n"):
        card = re.sub(r"(?m)^library_name: .*$", f"library_name: {format}", card, count=1)
    return "\n".join([card.rstrip(), "", "## Use", "", *use, ""])


def use_section(stage: str, *, opens: bool) -> str:
    """How a checkpoint is used, by the stage that trained last."""
    return "\n".join(
        ["## Use", "", "With this directory as `model`:", "", *_use(stage, opens=opens)]
    )


def _training(info: "CheckpointInfo") -> dict[str, object]:
    """How a checkpoint was made, by what it is called in the card."""
    said = info.training
    method = said.get("method")
    if method is not None:
        rank = f" of rank {said['rank']}" if "rank" in said else ""
        aim = f", {said['objective']}" if "objective" in said else ""
        method = f"`{method}`{rank}{aim}"
    base = said.get("base", info.lineage.base)
    facts = {
        "continued from" if "lr" in said and info.stage == "pretrain" else "base": base
        and f"`{base}`",
        "data": ", ".join(f"`{name}`" for name in said.get("data", [])) or None,
        "training rows": said.get("rows"),
        "method": method,
        "optimizer": said.get("optimizer"),
        "learning rate": said.get("lr"),
        "epochs": info.step / said["steps_per_epoch"] if "steps_per_epoch" in said else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _table(facts: Mapping[str, object]) -> list[str]:
    """Names and values as a table, and an empty line."""
    rows = [f"| {name} | {_text(value)} |" for name, value in facts.items()]
    return ["| | |", "| --- | ---: |", *rows, ""]


def _text(value: object) -> str:
    """A value in a table."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _use(stage: str, *, opens: bool) -> list[str]:
    """Commands, and a snippet for transformers where it has a class for the model."""
    typed = {
        "finetune-instruct": ['llmstages generate model "What is a noun?"', "llmstages chat model"],
        "finetune-classify": ["llmstages predict model texts.csv"],
    }.get(stage, ['llmstages generate model "Once upon a time"'])
    code = ["from transformers import pipeline", ""]
    if stage == "finetune-classify":
        code += [
            'classify = pipeline("text-classification", "model")',
            'print(classify("A text."))',
        ]
    elif stage == "finetune-instruct":
        code += [
            'answer = pipeline("text-generation", "model")',
            'print(answer([{"role": "user", "content": "What is a noun?"}]))',
        ]
    else:
        code += [
            'go_on = pipeline("text-generation", "model")',
            'print(go_on("Once upon a time"))',
        ]
    lines = ["```sh", *typed, "```", ""]
    return [*lines, "```python", *code, "```", ""] if opens else lines
