"""Before and after instruction tuning on five public sets, and what adapters reach of it.

    python scripts/bench_instruct.py --base RUN [SET ...] [--data $LLMSTAGES_DATA] [--minutes 3]
        [--directory bench_instruct] [--json FILE]
    python scripts/bench_instruct.py --base RUN --methods full lora [--rates 0.1,0.3,1] [--seeds 2]
        [--epochs 3]

The first form tunes a base on each SET as a user would type it and writes a row a figure: before,
after, and the improvement, on rows that are alike no row that was tuned on. The second tunes on
rasbt's pairs alone by the whole model or by adapters (LoRA, rsLoRA, DoRA) with a tenth of the
parameters, at several learning rates, times the one that pretraining would take: by the loss on the
validation rows the rate is chosen, by that on the test rows the methods are compared.

Sets are files below --data; which key or column is what is found out by llmstages itself.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from measurement import widen_output, write_results
from rich.markup import escape

from llmstages.config.groups import MethodConfig
from llmstages.model.counts import num_parameters
from llmstages.model.lora import Lora, add_lora, is_adapter
from llmstages.report.terminal import output_console, table
from llmstages.stages.shared.methods import lora_targets
from llmstages.train.checkpoint import load_checkpoint
from llmstages.train.device import choose_device
from llmstages.train.optimizer import derived_lr

SETS = {
    "rasbt": "rasbt/instruction-data.json",
    "alpaca_en_demo": "llamafactory/alpaca_en_demo.json",
    "sharegpt": "sharegpt_format/dummy_conversation.json",
    "korean_chatbot": "korean_chatbot/ChatbotData.csv",
    "eng_fra_tatoeba": "eng_fra_tatoeba/eng-fra.txt",
}
FIGURES = {
    "val_loss": "answer loss",
    "perplexity": "perplexity",
    "exact_match": "exact match",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "stopped_share": "ends by itself",
    "base_bits_per_byte": "bits a byte of the base's corpus",
}
METHODS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "rslora": ["method=lora", "method.rank_stabilised=true"],
    "dora": ["method=lora", "method.decomposed=true"],
}
TENTH = 0.1
"""Share of the base's parameters that adapters may have."""


def tune(data: Path, name: str, arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Run `llmstages finetune-instruct` as typed in a shell; the run's summary."""
    runs = arguments.directory / "runs"
    words = ["finetune-instruct", str(data), f"base={arguments.base}", f"runs_dir={runs}"]
    words += [f"name={name}", "overwrite=true", "evaluate.num_samples=0", *more]
    output_console().rule(escape("llmstages " + " ".join(words)), align="left")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "llmstages", *words], check=True)
    summary: dict[str, Any] = json.loads((runs / name / "summary.json").read_text())
    return summary


def compare_sets(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Before and after on each set."""
    results = []
    for name in arguments.sets or SETS:
        path = arguments.data / "instruct" / SETS[name]
        length = [] if arguments.minutes is None else [f"budget.minutes={arguments.minutes}"]
        run = tune(path, name, arguments, *length)
        results.append(
            {
                "set": name,
                "examples": run["examples"],
                "seconds": run["seconds"],
                "before": run["metrics_before"],
                "after": run["metrics"],
                "improvement_percent": run["improvement_percent"],
            }
        )
    rows = []
    for result in results:
        for key, label in FIGURES.items():
            if key in result["after"]:
                percent = result["improvement_percent"].get(key)
                rows.append(
                    [
                        f"{result['set']} ({result['examples']['test']:,} rows)",
                        label,
                        with_interval(result["before"], key),
                        with_interval(result["after"], key),
                        "" if percent is None else f"{percent:+.0f} %",
                    ]
                )
    table("", ["set", "figure", "before", "after", "better by"], rows, to_output=True)
    return results


def with_interval(metrics: dict[str, Any], key: str) -> str:
    """A figure, and its 95 % interval where it has one."""
    interval = metrics["intervals"].get(key)
    shown = f"{metrics[key]:,.3f}"
    return shown if interval is None else f"{shown} ({interval[0]:,.3f} to {interval[1]:,.3f})"


def rank_for(share: float, base: str, method: MethodConfig) -> int:
    """The largest rank whose adapters beside all that the method adapts have this share."""
    model = load_checkpoint(base).model
    add_lora(model, Lora(1, 1.0, lora_targets(method, model.config)), seed=0)
    per_rank = sum(p.numel() for name, p in model.named_parameters() if is_adapter(name))
    return int(share * num_parameters(model.config) / per_rank)


def compare_methods(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The whole model and adapters on rasbt's pairs, at several rates and seeds."""
    path = arguments.data / "instruct" / SETS["rasbt"]
    model = load_checkpoint(arguments.base).model.config
    results = []
    for method in arguments.methods:
        words = list(METHODS[method])
        rank = None
        if method != "full":
            rank = rank_for(TENTH, arguments.base, MethodConfig(decomposed=method == "dora"))
            words += [f"method.rank={rank}", f"method.alpha={2 * rank}"]
        for rate in map(float, arguments.rates.split(",")):
            lr = rate * derived_lr("muon", model.hidden_size)
            for seed in range(arguments.seeds):
                more = [f"optim.lr={lr:.3g}", f"seed={seed}", f"epochs={arguments.epochs}"]
                name = f"{method}-{rate:g}-{seed}"
                run = tune(path, name, arguments, *words, *more, "evaluate.num_generations=1")
                results.append(
                    {
                        "method": method,
                        "rank": rank,
                        "rate": rate,
                        "seed": seed,
                        "validation_loss": best_validation(arguments.directory / "runs" / name),
                        "test_loss_before": run["metrics_before"]["val_loss"],
                        "test_loss": run["metrics"]["val_loss"],
                        "seconds": run["seconds"],
                    }
                )
    rows = []
    for method in arguments.methods:
        by_rate = {
            rate: [r for r in results if (r["method"], r["rate"]) == (method, rate)]
            for rate in map(float, arguments.rates.split(","))
        }
        losses = {rate: mean(r["validation_loss"] for r in runs) for rate, runs in by_rate.items()}
        best = min(losses, key=losses.__getitem__)
        shown = [f"{rate:g}: {loss:.3f}" for rate, loss in losses.items()]
        test = mean(r["test_loss"] for r in by_rate[best])
        rows.append([method, ", ".join(shown), f"{best:g}", f"{test:.4f}"])
    title = f"rasbt's pairs, {arguments.epochs:g} epochs"
    columns = ["method", "validation loss by rate", "best rate", "test loss at it"]
    table(title, columns, rows, to_output=True)
    return results


def best_validation(run: Path) -> float:
    """The loss of the checkpoint that was chosen."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return min(float(line["val_loss"]) for line in lines if "val_loss" in line)


def main(argv: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], metavar="SET")
    parser.add_argument("--base", required=True, help="run or checkpoint to tune")
    default = os.environ.get("LLMSTAGES_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default))
    parser.add_argument("--minutes", type=float, default=None, help="budget of each set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=None)
    parser.add_argument("--rates", default="0.1,0.3,1", help="times the rate of pretraining")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--directory", type=Path, default=Path("bench_instruct"))
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args(argv)
    if arguments.data is None:
        parser.error("--data or LLMSTAGES_DATA names the folder of data sets")
    widen_output()
    results = compare_methods(arguments) if arguments.methods else compare_sets(arguments)
    if arguments.json is not None:
        device = choose_device("auto")
        write_results(arguments.json, __file__, argv, device, results)


if __name__ == "__main__":
    main(sys.argv[1:])
