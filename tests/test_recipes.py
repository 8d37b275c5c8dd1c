"""Every recipe that is shipped runs, tiny, as docs/recipes.md has it: on a sample of the real data
where LLMSTAGES_DATA names it, else on rows made here."""

import csv
import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmstages.config.folders import conf_dir
from llmstages.stages import pretrain

ROOT = Path(__file__).resolve().parent.parent
DATA = os.environ.get("LLMSTAGES_DATA")
NO_RECIPES = {"smoke", "thorough", "novels", "shakespeare-char", "shakespeare-char-long"}
NUM_ROWS = 60
TINY = [
    *("device=cpu", "dtype=float32", "compile='off'", "report.curves=false", "epochs=null"),
    *("steps=2", "evaluate.max_tokens=500"),
]
CLASSIFY = [*TINY, "batch_size=16", "baselines=false"]
# Some real texts are longer than any tiny base's context.
INSTRUCT = [*TINY, "batch_tokens=512", "max_new_tokens=4", "max_cut_share=1"]
INSTRUCT += ["evaluate.num_samples=1", "evaluate.num_generations=4"]

FILES = {  # of real data, its header where it has one, and rows made here
    "spam": (
        "classify/sms_spam/SMSSpamCollection",
        "Label\tSMS",
        ["ham\tI am at the {n}th stop, see you", "spam\tWIN {n} pounds now, call 0800{n}"],
    ),
    "banking": (
        "classify/banking77/train.csv",
        "text,category",
        ["Where is my card {n}?,card_arrival", "How do I top up {n} pounds?,top_up"],
    ),
    "intents": (
        "classify/korean_3i4k/fci_train_val.txt",
        None,
        ["1\t요금제를 {n}월에 바꿨어요", "2\t데이터가 {n}기가 남았나요", "3\t{n}번으로 걸어 줘"],
    ),
    "replies": (
        "instruct/korean_chatbot/ChatbotData.csv",
        "Q,A,label",
        ["{n}월 요금이 얼마예요?,{n}만 원입니다.,0"],
    ),
    "french": (
        "instruct/eng_fra_tatoeba/eng-fra.txt",
        None,
        ["I have {n} cats.\tJ'ai {n} chats.\tCC-BY 2.0 (France) #{n}"],
    ),
    "questions": (
        "eval_mcq/llm_foundry/arc_easy.jsonl",
        None,
        ['{{"query": "Question: What is {n} - 1?", "choices": ["{n}", "-1 + {n}"], "gold": 1}}'],
    ),
}


def write(name, lines):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_json(name, rows):
    return write(name, [json.dumps(row, ensure_ascii=False) for row in rows])


def sample(name, suffix="txt"):
    """A file of rows from all over the real one, or of made ones."""
    path, header, made = FILES[name]
    lines = [way.format(n=n) for n in range(NUM_ROWS // len(made)) for way in made]
    if DATA:
        real = (Path(DATA) / path).read_text("utf-8").splitlines()[1:]
        # Of 77 intents a few: one row of each could not be split.
        real = real[:1000] if name == "banking" else real
        lines = [line for line in real[:: len(real) // NUM_ROWS] if line.count('"') % 4 in (0, 2)]
    return write(f"{name}.{suffix}", [*([header] if header else []), *lines])


def rows_of(name, made):
    """Rows of a JSON or CSV file of real data, or made ones."""
    if not DATA:
        return [made(n) for n in range(NUM_ROWS)]
    with (Path(DATA) / name).open(encoding="utf-8", newline="") as file:
        if name.endswith(".json"):
            return json.load(file)[:NUM_ROWS]
        return [row for row in csv.DictReader(file) if row["selftext"]][:NUM_ROWS]


@pytest.fixture(scope="module")
def base(tmp_path_factory, pretrain_config):
    """`base=` a finished run with room for whole answers in its context."""
    runs_dir = tmp_path_factory.mktemp("base")
    config = pretrain_config(runs_dir, steps=2)
    pretrain.run(replace(config, model=replace(config.model, context_length=512)))
    return f"base={runs_dir / 'pretrain'}"


@pytest.fixture
def runs(cli):
    """runs(subcommand, ...) -> summary.json of the run that it makes, by a pattern of its name."""

    def call(subcommand, *words):
        tiny = {"collect": [], "pretrain": [*TINY, "batch_tokens=256"]}
        tiny |= {"finetune-classify": CLASSIFY, "finetune-instruct": INSTRUCT}
        status, _, err = cli(subcommand, *words, *tiny[subcommand])
        assert status == 0, err
        if subcommand == "collect":
            return None
        newest = max(Path("runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime_ns)
        found = json.loads(newest.read_text("utf-8"))
        assert (found["stage"], found["status"]) == (subcommand, "finished")
        return found

    return call


def rule(run):
    """By what a classifier gives its labels."""
    found = json.loads(Path("runs", run, "best/llmstages.json").read_text("utf-8"))["classifier"]
    assert found["pooling"] == "mean"
    return found["decision"]


def test_every_recipe_is_in_the_page_and_run_here():
    page = (ROOT / "docs" / "recipes.md").read_text("utf-8")
    typed = re.findall(r"^llmstages (\S+) .*?experiment=(\S+)", page, re.MULTILINE)
    tests = Path(__file__).read_text("utf-8")
    run = re.findall(r'runs\(\s*"(\S+)",.*?"experiment=([a-z-]+)"', tests, re.DOTALL)
    recipes = {(path.parent.name, path.stem) for path in conf_dir().glob("experiment/*/*.yaml")}
    recipes = {(stage, name) for stage, name in recipes if name not in NO_RECIPES}
    assert recipes == set(typed) == set(run)


def test_spam_is_named_by_its_precision(runs, base):
    runs("finetune-classify", sample("spam"), "experiment=spam-filter", base)
    if not DATA:  # of so few real messages hardly one in the validation rows is spam
        assert rule("spam-filter")["threshold"] > 0


def test_a_bank_routes_and_answers(runs, base):
    runs("finetune-classify", sample("banking", "csv"), "experiment=banking", base)
    assert "min_probability" in rule("banking")
    answers = [f"What does transfer {n} cost?,It costs {n} pence." for n in range(NUM_ROWS)]
    faq = write("faq.csv", ["question,answer", *answers])
    runs("finetune-instruct", faq, "experiment=banking", base)


def test_a_telecom_knows_intents_and_answers(runs, base):
    runs("finetune-classify", sample("intents"), "experiment=telecom", base)
    assert "min_probability" in rule("telecom-intents")
    summaries = [
        {
            "instruction": "상담을 요약하세요.",
            "input": f"고객: {n}월 요금?",
            "output": f"{n}월 요금",
        }
        for n in range(NUM_ROWS)
    ]
    files = (sample("replies", "csv"), write_json("summaries.jsonl", summaries))
    runs("finetune-instruct", *files, "experiment=telecom", base)


def test_a_translator(runs, base):
    runs("finetune-instruct", sample("french"), "experiment=translator", base)


def test_a_writer_of_summaries(runs, base):
    def made(n):
        return {"selftext": f"Case {n} was heard and lost.", "title": f"Case {n} lost"}

    posts = rows_of("linklists/reddit_top/law.csv", made)
    posts = [{"text": row["selftext"][:300], "summary": row["title"][:60]} for row in posts]
    file = write_json("posts.jsonl", posts)
    found = runs("finetune-instruct", file, "experiment=summaries", base)
    assert "rouge_l" in found["metrics"]


def test_a_writer_of_questions(runs, base, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import turn_questions

    turn_questions.main([str(sample("questions", "jsonl")), "pairs.jsonl"])
    runs("finetune-instruct", "pairs.jsonl", "experiment=question-writer", base)


def test_a_personal_assistant_learns_to_answer_and_then_what_is_liked(runs, base):
    def pair(n):
        return {"instruction": f"Add 1 to {n}.", "output": f"That is {n + 1}."}

    def liked(n):
        return {**pair(n), "chosen": f"It is {n + 1}.", "rejected": f"Surely {n}?"}

    general = write_json(
        "general.jsonl", rows_of("instruct/llamafactory/alpaca_en_demo.json", pair)
    )
    who = write_json("who.jsonl", rows_of("instruct/llamafactory/identity.json", pair)[:20])
    weights = "data_weights=[0.9,0.1]"
    runs("finetune-instruct", general, who, "experiment=personal-assistant", base, weights)
    name = "instruct/rasbt/instruction-data-with-preference.json"
    file = write_json("liked.jsonl", rows_of(name, liked))
    found = runs("finetune-instruct", file, "experiment=personal-assistant-liked")
    assert "preference_accuracy" in found["metrics"]


# Daft leaves the pipes of its worker processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_airline_reads_its_notices_first(runs, base, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import private_knowledge

    words = ["--only-write", "--places", "6", "--directory", "airline"]
    private_knowledge.main(words)
    runs("collect", "airline/notices", "experiment=airline", "tokenizer.vocab_size=400")
    runs("pretrain", "experiment=airline", base)
    asked = "test_data=airline/asked.jsonl"
    runs("finetune-instruct", "airline/pairs.jsonl", "experiment=airline", asked)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_legal_assistant_reads_its_matters_first(runs, base):
    words = ["tenant", "lessor", "shall", "may", "not", "sublet", "repair", "notice", "rent", "due"]
    for n in range(30):
        clauses = [" ".join(random.Random(40 * n + k).sample(words, 8)) for k in range(40)]
        write(f"matters/{n}.txt", [*clauses, f"Notices go to anna{n}@lessor.example."])
    runs("collect", "matters", "experiment=legal", "tokenizer.vocab_size=400")
    documents = [pq.read_table(path) for path in Path("corpora/legal/documents").rglob("*.parquet")]
    kept = "".join(text for table in documents for text in table["text"].to_pylist())
    assert "Notices go to" in kept
    assert "lessor.example" not in kept
    runs("pretrain", "experiment=legal", base)
    clauses = [
        {"instruction": "When is rent due?", "input": f"Rent: day {n}.", "output": f"On day {n}."}
        for n in range(NUM_ROWS)
    ]
    runs("finetune-instruct", write_json("clauses.jsonl", clauses), "experiment=legal")
