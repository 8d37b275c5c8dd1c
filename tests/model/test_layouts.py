"""Names and settings on disk."""

import pytest

from llmstages.errors import UserError
from llmstages.model.layouts import LAYOUTS, config_from_disk, config_to_disk, disk_name

EXTRA = {"end_id": 0, "pad_id": 1, "labels": None}


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("labels", [None, ["ham", "spam"]])
@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"gpt2"}))
def test_config_round_trip(random_model, tie, labels, layout):
    config = random_model(
        layout,
        tie_embeddings=tie,
        num_labels=labels and len(labels),
        rope_theta=5e5,
        norm_eps=1e-5,
    ).config
    disk = config_to_disk(config, end_id=0, pad_id=1, labels=labels)
    assert config_from_disk(disk, "config.json") == config


@pytest.mark.parametrize(
    ("layout", "number", "one"),
    [
        ("qwen3", 2 * 11 + 3, "model.layers.1.self_attn.q_norm.weight"),
        ("nanochat", 2 * 6 + 2, "model.layers.1.mlp.fc1.weight"),
    ],
)
def test_every_parameter_has_a_name_of_its_own(random_model, layout, number, one):
    names = [n for n, _ in random_model(layout, tie_embeddings=False).named_parameters()]
    on_disk = {disk_name(name, layout=layout, classifier=False) for name in names}
    assert len(on_disk) == len(names) == number
    assert one in on_disk


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not supported: gemma3_text, gpt2, "),
        ({"rope_scaling": {"type": "yarn"}}, "rope_type yarn is not supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type yarn is not supported"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0.5 is not supported"),
        ({"layer_types": ["full_attention"]}, "layer_types does not say"),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not supported"),
        ({"hidden_size": None}, "not a complete qwen3 config"),
    ],
)
def test_what_this_transformer_cannot_do_is_refused(random_model, change, said):
    disk = {**config_to_disk(random_model().config, **EXTRA), **change}
    with pytest.raises(UserError, match=said) as refused:
        config_from_disk(disk, "some/config.json")
    assert str(refused.value).startswith("some/config.json: ")
