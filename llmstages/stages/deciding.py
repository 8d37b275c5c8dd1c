"""What a trained classifier learns from its validation rows: how sure it may be of its labels.

All of it is kept in the run's best checkpoint, for `predict`, `evaluate` and whoever opens it.
"""

from collections.abc import Sequence
from typing import Any

import torch

from llmstages.config.groups import DecideConfig
from llmstages.data.examples import Example
from llmstages.evaluate.temperature import MIN_ROWS, fitted_temperature
from llmstages.model.transformer import Transformer
from llmstages.report.terminal import say
from llmstages.stages.classifying import probabilities
from llmstages.stages.training import Machine
from llmstages.train import parallel
from llmstages.train.checkpoint import best_of_run, read_info, revise_classifier
from llmstages.train.run import Run


def decide(
    run: Run,
    config: DecideConfig,
    model: Transformer,
    validation: Sequence[Sequence[Example]],
    machine: Machine,
) -> dict[str, Any]:
    """Find what `decide.*` asks for; returns it as `llmstages.json` of the best checkpoint has it.

    The model, which has that checkpoint's weights, and the checkpoint are changed alike. A
    temperature is divided into the head: of a text of one window the likeliest label stays.
    """
    directory = best_of_run(run.directory)
    # A run that was killed before its summary has divided the head already.
    earlier = (read_info(directory).classifier or {}).get("temperature") or 1.0
    divide_head(model, 1 / earlier)
    windows = [[window] for text in validation for window in text]
    found = probabilities(model, windows, machine)
    parallel.shard_again(model)
    num_windows = [len(text) for text in validation]
    truth = [text[0].targets[-1] for text in validation]
    temperature = None
    if config.calibrate and len(truth) < MIN_ROWS:
        say(f"no temperature: {len(truth)} validation rows, and it takes {MIN_ROWS}")
    elif config.calibrate:
        temperature = parallel.from_first(fitted_temperature(found, num_windows, truth))
        none = "none makes the validation rows likelier"
        say(f"temperature: {none if temperature is None else f'{temperature:.3f}'}")
    divisor = temperature or 1.0
    divide_head(model, divisor)
    decided = {"temperature": temperature}
    parallel.wait_for_all()  # all have read the checkpoint
    if parallel.is_first():
        revise_classifier(directory, decided, divisor / earlier)
    parallel.wait_for_all()
    return decided


def divide_head(model: Transformer, divisor: float) -> None:
    """Divide a classifier's logits by a number."""
    with torch.no_grad():
        model.output_weight.div_(divisor)
