"""GGUF files against llama.cpp itself: the same ids of texts, the same likeliest text."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmstages.config.collect_groups import TokenizerConfig
from llmstages.errors import UserError
from llmstages.export.gguf_model import require_known, write_gguf
from llmstages.export.gguf_vocabulary import PRE_TOKENIZERS, from_tokenizer_json
from llmstages.model.generation import Sampling, generate
from llmstages.model.layouts import make_config
from llmstages.model.transformer import RopeScaling, Transformer
from llmstages.stages.export import RECORD_NAME, export_gguf, whole_directory
from llmstages.text.tokenizer import Tokenizer as Ours
from llmstages.text.tokenizer import train_tokenizer
from llmstages.train.checkpoint import Checkpoint

gguf = pytest.importorskip("gguf")
SHAPE = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "context_length": 256,
}
WINDOWS = {
    "num_layers": 6,
    "window": 9,
    "windowed_layers": (0, 1, 2, 3, 4),
    "rope_theta": 1e6,
    "local_rope_theta": 1e4,
    "rope_scaling": RopeScaling("linear", 8.0),
}
BIASES = {"query_key_value_bias": True, "output_bias": True, "feed_forward_bias": True}
FAMILIES = {
    "qwen3": ("qwen3", {"tie_embeddings": False}),
    "llama-3": ("llama", {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16), **BIASES}),
    "mistral": ("mistral", {"rope_scaling": RopeScaling("linear", 2.0)}),
    "qwen2": ("qwen2", {}),
    "smollm3": ("smollm3", {"num_layers": 4, "unrotated_layers": (3,)}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"rotary_share": 0.5}),
    "gemma3": ("gemma3_text", WINDOWS),
    "gpt2": ("gpt2", {"num_kv_heads": 4}),
}
TEXTS = ["The lion is in the house.\n\n  It sleeps", "a\tb  ñ€ 12345, don't"]


class Llama:
    """A GGUF file in llama.cpp, one thread, nothing rounded that need not be."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel = 256, 1
        parameters.warmup = parameters.fit_params = False
        parameters.verbosity = 0
        parameters.cpuparams.n_threads = 1
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(parameters)

    def ids(self, text: str) -> list[int]:
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize",
            json.dumps({"content": text, "add_special": True, "parse_special": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            found: list[int] = json.load(answer)["tokens"]
        return found

    def text(self, prompt: str, tokens: int) -> str:
        request = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
        found: str = self.server.handle_completions(request)["choices"][0]["text"]
        return found

    def answer(self, prompt: str, tokens: int) -> str:
        messages = [{"role": "user", "content": prompt}]
        request = {"messages": messages, "max_tokens": tokens, "temperature": 0}
        answered = self.server.handle_chat_completions(request)
        found: str = answered["choices"][0]["message"]["content"]
        return found


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    pytest.importorskip("xllamacpp")


def random_model(layout: str, vocab_size: int, more: dict[str, Any]) -> Transformer:
    config = make_config(layout, vocab_size=vocab_size, **{**SHAPE, **more})
    model, generator = Transformer(config).eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and "norm" in name and name.endswith("weight")
            mean = 1 - config.norm_offset if is_norm else 0.0
            parameter.normal_(mean, 0.2, generator=generator)
    return model


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [topics[name] for name in sorted(topics)[:40]]


@pytest.fixture(scope="module")
def bpe(tiny_corpus: Path) -> Ours:
    return Ours.load(tiny_corpus / "tokenizer")


def assert_same(model: Transformer, tokenizer: Ours, path: Path, prompts: list[str]) -> None:
    """llama.cpp reads the prompts as we do and goes on alike."""
    write_gguf(path, model, tokenizer, dtype="f32", name="model", speaks=False)
    llama = Llama(path)
    for prompt in prompts:
        ids = tokenizer.opening(prompt)
        assert llama.ids(prompt) == ids
        (ours,) = generate(
            *(model, [ids]),
            max_new_tokens=12,
            stop_ids=[tokenizer.end_id],
            sampling=Sampling(temperature=0),
        )
        assert llama.text(prompt, 12) == tokenizer.decode(ours.tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_goes_on_alike(family: str, bpe: Ours, tmp_path: Path) -> None:
    layout, more = FAMILIES[family]
    assert_same(random_model(layout, bpe.vocab_size, more), bpe, tmp_path / "m.gguf", TEXTS)


def test_a_unigram_vocabulary(texts: list[str], tmp_path: Path) -> None:
    """Characters that are no pieces are another matter: llama.cpp has no bytes there."""
    settings = TokenizerConfig(kind="unigram", vocab_size=512, sample_bytes=200_000)
    tokenizer = train_tokenizer(texts, settings)
    model = random_model("qwen3", tokenizer.vocab_size, {})
    assert_same(model, tokenizer, tmp_path / "m.gguf", TEXTS[:1])


def byte_level(directory: Path, texts: list[str], pattern: str) -> Ours:
    """A tokenizer as Qwen and Llama 3 have them, with a token that begins every text."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    made.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|endoftext|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    directory.mkdir()
    made.save(str(directory / "tokenizer.json"))
    return Ours.load(directory)


@pytest.mark.parametrize("pattern", PRE_TOKENIZERS, ids=["qwen2", "dbrx"])
def test_byte_level_bpe(pattern: str, texts: list[str], tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "tokenizer", texts, pattern)
    model = random_model("qwen2", tokenizer.vocab_size + 5, {"tie_embeddings": False})
    with torch.no_grad():
        model.output_weight[tokenizer.vocab_size :] = 0
    assert_same(model, tokenizer, tmp_path / "m.gguf", TEXTS)


@pytest.mark.parametrize("prefix", [False, True])
def test_bpe_with_bytes_of_another_program(prefix: bool, bpe: Ours, tmp_path: Path) -> None:
    """As Llama 2, Mistral and Phi 3 have it: merges instead of scores."""
    bpe.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    if prefix:
        prepend = {"type": "Prepend", "prepend": "\u2581"}
        content["normalizer"] = {
            "type": "Sequence",
            "normalizers": [prepend, content["normalizer"]],
        }
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        content["decoder"]["decoders"].append(strip)
    path.write_text(json.dumps(content))
    tokenizer = Ours.load(tmp_path)
    write_gguf(
        tmp_path / "m.gguf",
        random_model("llama", tokenizer.vocab_size, {}),
        tokenizer,
        dtype="f32",
        name="model",
        speaks=False,
    )
    llama = Llama(tmp_path / "m.gguf")
    for text in TEXTS:
        assert llama.ids(text) == tokenizer.encode(text)
    assert (llama.ids("a") == bpe.encode(" a")) == prefix


def test_a_tokenizer_with_steps_of_its_own(bpe: Ours, tmp_path: Path) -> None:
    content = bpe.backend.tokenizer_json()
    for change, why in (
        ({"normalizer": {"type": "Lowercase"}}, "no step like its Lowercase"),
        ({"model": {"type": "WordPiece"}}, "no ids like those of WordPiece"),
        ({"model": {**content["model"], "byte_fallback": False}}, "cuts texts into words"),
    ):
        with pytest.raises(UserError, match=why):
            from_tokenizer_json({**content, **change})


def test_a_tuned_run(
    cli: Callable[..., tuple[int, str, str]], instruct_run: Path, tmp_path: Path
) -> None:
    status, _, err = cli("export", instruct_run, "dtype=f32")
    assert status == 0, err
    folder = tmp_path / "exports" / "pairs-instruct-gguf-f32"
    assert {path.name for path in folder.iterdir()} == {
        *("pairs-instruct-f32.gguf", "Modelfile", "export.json", "README.md")
    }
    card = (folder / "README.md").read_text()
    assert "library_name: gguf" in card
    assert "| base | `pretrain` |" in card
    assert card.endswith("llama-cli -m pairs-instruct-f32.gguf\n```\n")
    assert "llmstages chat" not in card
    llama = Llama(folder / "pairs-instruct-f32.gguf")
    prompt, settings = "What is a class?", ["temperature=0", "max_new_tokens=12"]
    for chat, found in (("off", prompt + llama.text(prompt, 12)), ("on", llama.answer(prompt, 12))):
        status, out, _ = cli("generate", instruct_run, prompt, *settings, f"chat={chat}")
        assert (status, out) == (0, found + "\n")
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./pairs-instruct-f32.gguf"
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "PARAMETER num_ctx 64" in lines


def test_a_foreign_chat_template(
    bpe: Ours, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpe.save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    config = tmp_path / "tokenizer_config.json"
    names = json.loads(config.read_text())
    turns = (
        "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}{{ eos_token }}{% endfor %}"
    )
    theirs = turns + "{% if add_generation_prompt %}[assistant]{% endif %}"
    for template, said in ((names["chat_template"], False), (theirs, True)):
        config.write_text(json.dumps(names | {"chat_template": template}))
        tokenizer = Ours.load(tmp_path)
        model = random_model("llama", tokenizer.vocab_size, {})
        export_gguf(tmp_path, Checkpoint(tmp_path, model, tokenizer, None, None), "m", "f16")
        lines = (tmp_path / "Modelfile").read_text()
        assert ("TEMPLATE" in lines, "no TEMPLATE" in capsys.readouterr().err) == (not said, said)


@pytest.mark.parametrize("dtype", ["q8_0", "q4_1", "q4_0", "q5_1", "q5_0", "bf16", "f16"])
def test_quantised(dtype: str, bpe: Ours, tmp_path: Path) -> None:
    """Rows that cannot be cut into blocks are f16; what is read back is what was written."""
    path = tmp_path / "m.gguf"
    model = random_model("qwen3", bpe.vocab_size, {"intermediate_size": 48})
    written = write_gguf(path, model, bpe, dtype=dtype, name="model", speaks=False)
    kept = ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert written.not_quantised == (kept if dtype.startswith("q") else [])
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    query = stored["blk.0.attn_q.weight"]
    assert query.tensor_type.name == dtype.upper()
    expected = model.blocks[0].attention.query.weight.detach().numpy()
    read = gguf.dequantize(query.data, query.tensor_type).reshape(expected.shape)
    error = abs(read - expected).max()
    assert 0 < error < {"q": 0.1, "b": 4e-3, "f": 4e-4}[dtype[0]]
    assert stored["token_embd.weight"].tensor_type.name == (
        "Q8_0" if dtype.startswith("q") else dtype.upper()
    )
    assert Llama(path).text("The lion", 4)


@pytest.mark.parametrize(
    ("layout", "more", "why"),
    [
        ("nanochat", {}, "no nanochat architecture"),
        ("mistral", {"window": 8}, "no a window of 8 tokens"),
        ("qwen3", {"query_key_value_bias": True}, "qwen3 has no biases"),
        ("qwen3", {"rope_scaling": RopeScaling("llama3", 8.0)}, "no rope_type llama3"),
        ("gemma3_text", {"window": 8}, "windows in other layers"),
        ("smollm3", {}, "RoPE in other layers"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise(
    layout: str, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        require_known(make_config(layout, vocab_size=8, **{**SHAPE, "num_layers": 8, **more}))


def test_what_cannot_be_exported(
    cli: Callable[..., tuple[int, str, str]], classifier_run: Path, instruct_run: Path
) -> None:
    for words, why in (
        ([classifier_run, "format=gguf"], "a classifier"),
        ([instruct_run, "dtype=q4_k_m"], "llama-quantize make Q4_K_M"),
        ([instruct_run, "dtype=q4"], "q8_0, q5_1, q5_0, q4_1, q4_0"),
    ):
        status, _, err = cli("export", *words)
        assert (status, why in err) == (2, True), err
    assert not list(Path().glob("exports/*"))


def test_an_export_is_whole_and_nothing_else_is_replaced(tmp_path: Path) -> None:
    def write(place: Path, text: str, *, overwrite: bool = False) -> None:
        with whole_directory(place, overwrite=overwrite) as staging:
            (staging / RECORD_NAME).write_text(text)
            if text == "bad":
                raise OSError("no room")

    made, mine = tmp_path / "exports" / "made", tmp_path / "mine"
    with pytest.raises(OSError, match="no room"):
        write(made, "bad")
    assert not list(made.parent.iterdir())
    write(made, "one")
    with pytest.raises(UserError, match="overwrite=true"):
        write(made, "two")
    with pytest.raises(OSError, match="no room"):
        write(made, "bad", overwrite=True)
    assert (made / RECORD_NAME).read_text() == "one"
    write(made, "two", overwrite=True)
    assert (made / RECORD_NAME).read_text() == "two"
    mine.mkdir()
    with pytest.raises(UserError, match="no export"):
        write(mine, "two", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*.*")] == [RECORD_NAME]
