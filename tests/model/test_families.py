"""Every family against transformers: the same model here and there, loaded, trained and saved."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from llmstages.errors import UserError
from llmstages.model.counts import num_parameters
from llmstages.model.generation import Sampling, generate
from llmstages.model.lora import Lora, add_lora, from_peft, peft_config, to_peft
from llmstages.train.checkpoint import CheckpointInfo, Lineage, load_checkpoint, save_checkpoint

VOCAB_SIZE = 100
INFO = CheckpointInfo("pretrain", step=1, tokens_seen=2, metrics={}, lineage=Lineage())
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 3e4, "factor": 2.0}},
    ),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {}),
    "qwen2-windows": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {}),
    "gpt2": ("GPT2", {}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4}),
    "olmo2": ("Olmo2", {}),
    "phi3": ("Phi3", {"sliding_window": 7}),
    "phi3-partial": (
        "Phi3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 12,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def theirs(transformers, tmp_path, word_tokenizer):
    """theirs(family, **settings): a random model of transformers, and its directory."""

    def make(family, head="CausalLM", **settings):
        name, own = FAMILIES[family]
        text = "Text" if name == "Gemma3" else ""
        config = getattr(transformers, f"{name}{text}Config")(**{**SHAPE, **own, **settings})
        prefix = name if head == "CausalLM" else f"{name}{text}"
        ending = "LMHeadModel" if (name, head) == ("GPT2", "CausalLM") else f"For{head}"
        model = getattr(transformers, prefix + ending)(config).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                mean = float(parameter.mean()) if parameter.dim() == 1 else 0.0
                parameter.normal_(mean, 0.2, generator=generator)
        directory = tmp_path / family
        model.save_pretrained(directory)
        word_tokenizer(directory)
        return model, directory

    return make


@pytest.fixture
def word_tokenizer():
    """word_tokenizer(directory): the `tokenizer.json` of a hundred words, as others write it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    def write(directory):
        words = ["<end>", "<pad>", "<unk>", *(f"w{number}" for number in range(VOCAB_SIZE - 3))]
        made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.add_special_tokens(words[:3])
        made.save(str(directory / "tokenizer.json"))
        names = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
        (directory / "tokenizer_config.json").write_text(json.dumps(names))

    return write


def tokens_of(*shape):
    return torch.randint(3, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_that_transformers_has(theirs, transformers, tmp_path, family):
    reference, directory = theirs(family)
    loaded = load_checkpoint(directory)
    ours = loaded.model.eval()
    assert num_parameters(ours.config) == sum(p.numel() for p in ours.parameters())
    assert num_parameters(ours.config) == reference.num_parameters()
    tokens = tokens_of(2, 40)
    with torch.inference_mode():
        expected = reference(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens)), expected, atol=1e-4, rtol=0)

    # Continued: from a prompt longer than any window here, and from several of different lengths.
    prompts = [tokens[0, :20].tolist(), tokens[1, :5].tolist()]
    answers = generate(
        ours, prompts, max_new_tokens=12, stop_ids=[], sampling=Sampling(temperature=0)
    )
    alone = [
        generate(ours, [p], max_new_tokens=12, stop_ids=[], sampling=Sampling(temperature=0))[0]
        for p in prompts
    ]
    for prompt, answer, single in zip(prompts, answers, alone, strict=True):
        continued = reference.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert answer.tokens == single.tokens == continued[0, len(prompt) :].tolist()

    # Trained: the same gradients, in a row of the length where the window matters.
    ours.train()
    logits = ours.logits(ours(tokens))
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    reference(tokens, labels=tokens).loss.backward()
    layer = reference.base_model.h if family == "gpt2" else reference.base_model.layers
    down = layer[0].mlp.c_proj.weight if family == "gpt2" else layer[0].mlp.down_proj.weight
    expected = down.grad.t() if family == "gpt2" else down.grad
    found = ours.blocks[0].feed_forward.down.weight.grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    embedding = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.embedding.weight.grad, embedding, atol=1e-5, rtol=1e-4)

    # Saved: transformers has the same model, and so have we.
    saved = tmp_path / "saved"
    save_checkpoint(saved, ours, loaded.tokenizer, INFO)
    again = transformers.AutoModelForCausalLM.from_pretrained(saved).eval()
    assert type(again) is type(reference)
    with torch.inference_mode():
        torch.testing.assert_close(again(tokens).logits, reference(tokens).logits)
    ours_again = load_checkpoint(saved).model
    assert ours_again.config == ours.config
    for name, parameter in ours_again.named_parameters():
        torch.testing.assert_close(parameter, ours.get_parameter(name), msg=name)


@pytest.mark.parametrize(
    "family", ["mistral", "qwen2", "gpt2", "smollm3", "olmo2", "phi3", "gemma3"]
)
def test_a_classifier_is_the_same_there(theirs, transformers, tmp_path, family):
    labels = {"id2label": {0: "ham", 1: "spam"}, "problem_type": "single_label_classification"}
    reference, directory = theirs(family, "SequenceClassification", **labels)
    loaded = load_checkpoint(directory)
    ours, tokens = loaded.model.eval(), tokens_of(2, 40)
    assert loaded.labels == ["ham", "spam"]
    ends = torch.tensor([[39], [30]])
    documents = torch.tensor([[0] * 20 + [1] * 20, [0] * 11 + [1] * 29])
    positions = torch.tensor([[*range(20), *range(20)], [*range(11), *range(29)]])
    texts = [tokens[:1, 20:], tokens[1:, 11:31]]
    with torch.inference_mode():
        expected = torch.cat([reference(text).logits for text in texts])
        # Behind another text in the row, and of the last block nothing but the ends.
        found = ours.logits(ours(tokens, positions, documents, ends))[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    saved = tmp_path / "saved"
    save_checkpoint(saved, ours, loaded.tokenizer, INFO, labels=loaded.labels)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(saved).eval()
    assert type(again) is type(reference)
    with torch.inference_mode():
        torch.testing.assert_close(again(texts[0]).logits, expected[:1])


# PEFT asks transformers for an attribute by its former name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
# It has one setting for matrices that are transposed and for those that are not.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize(
    ("family", "targets", "settings"),
    [
        ("qwen2", ("query", "value", "down"), {"decomposed": True}),
        ("gpt2", ("query", "value", "output", "embedding"), {}),
        ("phi3", ("key", "gate", "up", "down"), {"rank_stabilised": True}),
        ("gemma3", ("query", "gate"), {}),
    ],
)
def test_peft_reads_the_adapters(theirs, tmp_path, family, targets, settings):
    peft = pytest.importorskip("peft")
    reference, directory = theirs(family)
    ours = load_checkpoint(directory).model.eval()
    lora = Lora(4, 8.0, targets, **settings)
    add_lora(ours, lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    weights = {name: p.detach() for name, p in ours.named_parameters()}
    stored = to_peft(weights, ours.config)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = peft_config(lora, ours.config, str(directory))
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    adapted = peft.PeftModel.from_pretrained(reference, folder).eval()
    tokens = tokens_of(2, 20)
    with torch.inference_mode():
        expected = adapted(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens)), expected, atol=1e-4, rtol=0)
    for name, tensor in from_peft(stored, list(weights), ours.config).items():
        assert torch.equal(tensor, weights[name]), name


def test_weights_in_halves_and_in_several_files(theirs, transformers, tmp_path):
    reference, directory = theirs("llama")
    reference.half().save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    (directory / "model.safetensors").unlink()
    for path in (tmp_path / "shards").iterdir():
        path.rename(directory / path.name)
    index = directory / "model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    loaded = load_checkpoint(directory)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    tokens = tokens_of(1, 12)
    reference = type(reference).from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        found = loaded.model.logits(loaded.model(tokens))
        torch.testing.assert_close(found, reference(tokens).logits, atol=1e-4, rtol=0)
    assert load_checkpoint(directory).hash == loaded.hash
    gone = next(directory.glob("model-00002-*"))
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name} is not there"):
        load_checkpoint(directory)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(UserError, match="does not name files of the directory"):
        load_checkpoint(directory)
