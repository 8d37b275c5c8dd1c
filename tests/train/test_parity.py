"""Our checkpoints in transformers, and theirs here: same logits, ids, labels and continuations."""

import json

import pytest
import torch

from llmstages.data.examples import labelled_example
from llmstages.errors import UserError
from llmstages.model.generation import Sampling, generate
from llmstages.model.layouts import make_config
from llmstages.model.transformer import Transformer
from llmstages.stages.predict import scores_of
from llmstages.text.tokenizer import Tokenizer
from llmstages.train.checkpoint import CheckpointInfo, Lineage, load_checkpoint, save_checkpoint

INFO = CheckpointInfo(
    stage="finetune-instruct", step=1, tokens_seen=2, metrics={}, lineage=Lineage()
)
LAYOUTS = ("qwen3", "nanochat")
"""Those that are pretrained here; tests/model/test_families.py has the others."""
TEXTS = ["", " ", "The lion", "a\tb  c\n\nd", "안녕 🙂", "def f(x): return x ** 2", "word " * 300]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def tokenizer(tiny_corpus):
    return Tokenizer.load(tiny_corpus / "tokenizer")


@pytest.fixture
def saved(tokenizer, tmp_path):
    """saved(**shape): a checkpoint with all weights random, and its directory."""

    def make(layout="qwen3", labels=None, **shape):
        config = make_config(
            layout,
            **{
                "vocab_size": tokenizer.vocab_size,
                "num_layers": 2,
                "hidden_size": 32,
                "num_heads": 4,
                "num_kv_heads": 2,
                "head_dim": 8,
                "intermediate_size": 48,
                "context_length": 64,
                "num_labels": labels and len(labels),
                **shape,
            },
        )
        model = Transformer(config).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                mean = 1.0 if parameter.dim() == 1 else 0.0
                parameter.normal_(mean, 0.2, generator=generator)
        directory = tmp_path / "checkpoint"
        save_checkpoint(directory, model, tokenizer, INFO, labels=labels)
        return model, directory

    return make


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("layout", "name"), [("qwen3", "Qwen3ForCausalLM"), ("nanochat", "NanoChatForCausalLM")]
)
def test_language_model_logits(transformers, saved, tokenizer, tie, num_kv_heads, layout, name):
    model, directory = saved(
        layout, tie_embeddings=tie, num_kv_heads=num_kv_heads, rope_theta=3e4, norm_eps=1e-5
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    assert type(theirs).__name__ == name
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 40))
    with torch.inference_mode():
        ours = model.logits(model(tokens))
        torch.testing.assert_close(theirs(tokens).logits, ours, atol=1e-4, rtol=0)
        assert float(ours.std()) > 0.5  # the comparison is not of zeros


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_greedy_continuation(transformers, saved, tokenizer, stops, layout):
    model, directory = saved(layout, tie_embeddings=layout == "qwen3")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    stop_ids = [tokenizer.end_id, tokenizer.turn_end_id] if stops else []
    if not stops:
        theirs.generation_config.eos_token_id = None
    prompt = tokenizer.encode("The for statement is used to")
    (ours,) = generate(
        model,
        [prompt],
        max_new_tokens=20,
        stop_ids=stop_ids,
        sampling=Sampling(temperature=0.0),
    )
    ids = torch.tensor([prompt])
    found = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )[0, len(prompt) :].tolist()
    assert ours.stopped == (found[-1] in stop_ids)
    assert ours.tokens == (found[:-1] if ours.stopped else found)
    assert stops or (len(found) == 20 and len(set(found)) > 3)


def test_generation_stops_where_ours_does(transformers, saved, tokenizer):
    _, directory = saved()
    config = transformers.GenerationConfig.from_pretrained(directory)
    assert config.eos_token_id == [tokenizer.end_id, tokenizer.turn_end_id]
    assert config.pad_token_id == tokenizer.pad_id != tokenizer.end_id


def test_tokenizer_ids(transformers, saved, tokenizer):
    _, directory = saved()
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text), text


@pytest.mark.parametrize("labels", [["ham", "spam"], ["a", "b", "c, d", "no"]])
def test_pipeline_gives_our_labels_and_scores(transformers, saved, tokenizer, labels):
    _, directory = saved(labels=labels)
    checkpoint = load_checkpoint(directory)
    assert checkpoint.labels == labels
    checkpoint.model.eval()
    texts = [text for text in TEXTS if len(tokenizer.encode(text)) < 64]  # others: in windows
    assert len(texts) == len(TEXTS) - 1
    ours = scores_of(checkpoint, texts, 4, torch.device("cpu"), torch.float32)
    pipeline = transformers.pipeline("text-classification", str(directory), device="cpu")
    for batch_size in (1, 4):
        theirs = pipeline(texts, top_k=None, truncation=True, batch_size=batch_size)
        for text, mine, found in zip(texts, ours, theirs, strict=True):
            scores = {entry["label"]: entry["score"] for entry in found}
            assert scores == pytest.approx(mine, abs=1e-4), text
            assert found[0]["label"] == max(mine, key=mine.get)
    assert len({round(scores[labels[0]], 3) for scores in ours}) > 3


def test_classification_logits(transformers, saved, tokenizer):
    model, directory = saved(labels=["a", "b", "c"])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    assert type(theirs).__name__ == "Qwen3ForSequenceClassification"
    ids = torch.tensor([[*tokenizer.encode("lists and tuples"), tokenizer.end_id]])
    with torch.inference_mode():
        ours = model.logits(model(ids)[:, -1])
        torch.testing.assert_close(theirs(ids).logits, ours, atol=1e-4, rtol=0)


def test_the_first_window_of_a_long_text_is_what_the_pipeline_reads(transformers, saved, tokenizer):
    _, directory = saved(labels=["a", "b"])
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    text = "word " * 300
    ids = tokenizer.encode(text)
    ours = labelled_example(ids, tokenizer.end_id, 0, 64, "").tokens
    assert theirs(text, truncation=True)["input_ids"] == ours
    assert ours == [*ids[:63], tokenizer.end_id]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_by_transformers_loads_here(
    transformers, saved, tokenizer, tmp_path, dtype, tie, layout
):
    _, directory = saved(layout, tie_embeddings=tie, rope_theta=3e4)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert loaded.info is None
    assert loaded.model.config.tie_embeddings == tie
    assert loaded.model.config.rope_theta == 3e4
    assert loaded.model.embedding.weight.dtype == torch.float32
    assert [loaded.tokenizer.encode(text) for text in TEXTS] == [
        tokenizer.encode(text) for text in TEXTS
    ]
    tokens = torch.randint(0, tokenizer.vocab_size, (1, 30))
    with torch.inference_mode():
        expected = theirs.float()(tokens).logits
        found = loaded.model.eval().logits(loaded.model(tokens))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_classifier_saved_by_transformers_loads_here(transformers, saved, tmp_path):
    model, directory = saved(labels=["yes", "no", "maybe"])
    name = transformers.AutoModelForSequenceClassification
    name.from_pretrained(directory).save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "theirs")
    loaded = load_checkpoint(tmp_path / "theirs")
    assert loaded.labels == ["yes", "no", "maybe"]
    assert torch.equal(loaded.model.head.weight, model.head.weight)


@pytest.mark.parametrize("labels", [None, ["ham", "spam"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_is_exact(saved, labels, layout):
    model, directory = saved(layout, labels=labels)
    loaded = load_checkpoint(directory)
    assert loaded.model.config == model.config
    assert loaded.labels == labels
    for (name, before), (_, after) in zip(
        model.named_parameters(), loaded.model.named_parameters(), strict=True
    ):
        assert torch.equal(before, after), name


def test_a_classifier_starts_from_a_language_model_with_a_new_head(saved):
    model, directory = saved(tie_embeddings=False)
    loaded = load_checkpoint(directory, num_labels=3)
    assert loaded.labels is None
    assert loaded.model.head.weight.tolist() == [[0.0] * 32] * 3
    assert torch.equal(loaded.model.embedding.weight, model.embedding.weight)


def test_config_without_a_tensor_names_the_file(saved):
    _, directory = saved()
    (directory / "llmstages.json").unlink()  # as if another program had written it
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for change, said in [
        ({"tie_word_embeddings": False}, "it has no tensor lm_head.weight"),
        ({"hidden_size": 16}, "has shape"),
    ]:
        (directory / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
        with pytest.raises(UserError, match=f"model.safetensors: .*{said}"):
            load_checkpoint(directory)
