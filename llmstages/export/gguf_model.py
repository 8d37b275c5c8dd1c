"""A transformer as a GGUF file of llama.cpp: its architecture, settings and tensors.

Names come from the gguf package's own table. What llmstages and llama.cpp lay out differently is
the order of rows that are rotated together, and Gemma's norms, which are one more there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmstages.errors import UserError
from llmstages.export.gguf_vocabulary import Vocabulary, vocabulary_of
from llmstages.model.layouts import LAYOUTS, to_disk
from llmstages.model.transformer import Transformer, TransformerConfig
from llmstages.text.chat import answer_end_id
from llmstages.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import gguf

LARGEST_BLOCK = 32
"""Numbers of a row that share a scale in the types written here."""
GEMMA_PERIOD = 6
"""Each sixth layer has no window, for llama.cpp."""
UNROTATED_PERIOD = 4
"""Each fourth layer of SmolLM3 has no RoPE there."""
GEMMA_27B_LAYERS = 62
"""Where llama.cpp takes another scale of scores."""


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp knows of a family beside its name."""

    name: str
    rotates_neighbours: bool = False
    """Numbers 2i and 2i + 1 of a head are rotated together, not i and i + half."""
    has_biases: bool = False
    """Of any matrix."""
    needs_output: bool = False
    """An output matrix must be there, also where it is the embedding."""


ARCHITECTURES = {
    "qwen3": Architecture("qwen3"),
    "llama": Architecture("llama", rotates_neighbours=True, has_biases=True),
    "mistral": Architecture("llama", rotates_neighbours=True),
    "qwen2": Architecture("qwen2", has_biases=True),
    "smollm3": Architecture("smollm3", rotates_neighbours=True),
    "olmo2": Architecture("olmo2", needs_output=True),
    "phi3": Architecture("phi3", needs_output=True),
    "gemma3_text": Architecture("gemma3"),
    "gpt2": Architecture("gpt2", has_biases=True),
}
"""By layout."""


def require_known(config: TransformerConfig) -> None:
    """Raise `UserError` for a model that llama.cpp would not compute as it is."""
    layout, layers = config.layout, range(config.num_layers)
    if layout not in ARCHITECTURES:
        raise UserError(
            f"format=gguf: llama.cpp has no {layout} architecture: it reads "
            f"{', '.join(sorted(ARCHITECTURES))}; format=safetensors is read by transformers"
        )
    wrong = []
    is_gemma, scaling = layout == "gemma3_text", config.rope_scaling
    if is_gemma:
        windowed = [config.is_windowed(i) for i in layers]
        if windowed != [(i + 1) % GEMMA_PERIOD > 0 for i in layers]:
            wrong.append(f"windows in other layers than all but each {GEMMA_PERIOD}th")
        usual = config.hidden_size / config.num_heads
        is_largest = config.num_layers == GEMMA_27B_LAYERS
        if (config.query_scalar or config.head_dim) != (usual if is_largest else config.head_dim):
            wrong.append(f"query_pre_attn_scalar {config.query_scalar:g}")
    elif config.window is not None and config.window < config.context_length:
        wrong.append(f"a window of {config.window} tokens")
    if layout == "smollm3":
        if [config.is_rotated(i) for i in layers] != [
            (i + 1) % UNROTATED_PERIOD > 0 for i in layers
        ]:
            wrong.append(f"RoPE in other layers than all but each {UNROTATED_PERIOD}th")
    if config.logit_softcap is not None:
        wrong.append("a soft cap of logits")
    if scaling is not None and scaling.kind == "llama3" and ARCHITECTURES[layout].name != "llama":
        wrong.append("rope_type llama3")
    biased = config.query_key_value_bias or config.output_bias or config.feed_forward_bias
    if biased and not ARCHITECTURES[layout].has_biases:
        wrong.append("biases")
    if layout == "qwen2" and (config.output_bias or config.feed_forward_bias):
        wrong.append("biases beside those of queries, keys and values")
    if wrong:
        raise UserError(
            f"format=gguf: llama.cpp's {ARCHITECTURES[layout].name} has no {' and no '.join(wrong)}"
        )


@dataclass(frozen=True)
class Written:
    """What a GGUF file has."""

    vocabulary: Vocabulary
    not_quantised: list[str]
    """Matrices that are f16, since their rows are no multiple of 32 numbers long."""


def write_gguf(
    path: Path, model: Transformer, tokenizer: Tokenizer, *, dtype: str, name: str, speaks: bool
) -> Written:
    """Write a language model with its tokenizer.

    dtype: of matrices; vectors are float32. Of a quantised type embedding and output matrix are
    `q8_0`. name: in the file's metadata. speaks: the end of a turn ends what is generated.
    Raises `UserError` for what llama.cpp has no form for.
    """
    import gguf

    config = model.config
    require_known(config)
    vocabulary = vocabulary_of(tokenizer).of_size(config.vocab_size)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.layout].name)
    writer.add_type("model")
    writer.add_name(name)
    _add_settings(writer, config)
    writer.add_file_type(_file_type(dtype))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    writer.add_add_space_prefix(vocabulary.has_space_prefix)
    writer.add_remove_extra_whitespaces(False)
    _add_special_tokens(writer, tokenizer, speaks=speaks)

    tensors = dict(gguf_tensors(model))
    types = {key: tensor_type(key, tensor, dtype) for key, tensor in tensors.items()}
    for key, tensor in tensors.items():
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, types[key])
        whole = types[key] in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        writer.add_tensor_info(
            *(
                key,
                tuple(tensor.shape) if whole else shape,
                np.dtype(np.float32 if whole else np.uint8),
            ),
            *(int(np.prod(shape)), types[key]),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for key, tensor in tensors.items():
        writer.write_tensor_data(gguf.quantize(tensor.float().numpy(), types[key]))
    writer.close()
    f16 = gguf.GGMLQuantizationType.F16
    left = [key for key, found in types.items() if found == f16 and dtype != "f16"]
    return Written(vocabulary, left)


def _quantisation(dtype: str) -> "gguf.GGMLQuantizationType":
    """The type of a name such as q8_0."""
    import gguf

    return gguf.GGMLQuantizationType[dtype.upper()]


def _file_type(dtype: str) -> int:
    """What the file says it mostly holds."""
    import gguf

    return int(gguf.LlamaFileType["ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"])


def tensor_type(key: str, tensor: Tensor, dtype: str) -> "gguf.GGMLQuantizationType":
    """Type of a tensor in a file of a type, as llama.cpp's own tools choose it."""
    import gguf

    if tensor.dim() < 2 or key.startswith(("position_embd", "rope_freqs")):
        return gguf.GGMLQuantizationType.F32
    if dtype in ("f32", "f16", "bf16"):
        return _quantisation(dtype)
    if tensor.shape[-1] % LARGEST_BLOCK:
        return gguf.GGMLQuantizationType.F16
    outer = key.startswith(("token_embd", "output."))
    return _quantisation("q8_0" if outer else dtype)


def _add_settings(writer: "gguf.GGUFWriter", config: TransformerConfig) -> None:
    """Shape and arithmetic of the model."""
    import gguf

    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.layer_norm:
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.learned_positions:
        return
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(int(config.head_dim * config.rotary_share))
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
    if config.layout == "gemma3_text":
        assert config.window is not None
        writer.add_sliding_window(config.window)
        writer.add_rope_freq_base_swa(config.local_rope_theta or config.rope_theta)


def _add_special_tokens(writer: "gguf.GGUFWriter", tokenizer: Tokenizer, *, speaks: bool) -> None:
    """What begins and ends a text or a turn, and the chat template."""
    if len(tokenizer.begin_ids) > 1:
        raise UserError(f"format=gguf: {len(tokenizer.begin_ids)} tokens begin a text, not one")
    # A new document follows the end of another, where nothing else begins it.
    writer.add_bos_token_id(next(iter(tokenizer.begin_ids), tokenizer.end_id))
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(bool(tokenizer.begin_ids))
    writer.add_add_eos_token(False)
    if speaks:
        writer.add_eot_token_id(answer_end_id(tokenizer))
    writer.add_chat_template(tokenizer.chat_template)


def gguf_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Tensors by llama.cpp's names, in its order of rows; float32, on the CPU."""
    import gguf

    config = model.config
    architecture = ARCHITECTURES[config.layout]
    known = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == architecture.name)
    names = gguf.get_tensor_name_map(known, config.num_layers)
    parameters = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    if architecture.rotates_neighbours:
        parameters |= _interleaved(parameters, config)
    for there, tensor in to_disk(parameters, config).items():
        name = names.get_name(there, try_suffixes=(".weight", ".bias"))
        assert name is not None, there
        if is_transposed_there(name, config):
            tensor = tensor.t().contiguous()
        yield name, tensor + config.norm_offset if "norm" in name else tensor
    if architecture.needs_output and config.tie_embeddings:
        yield "output.weight", parameters["embedding.weight"]
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        half = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        frequencies = config.rope_theta**-half
        yield "rope_freqs.weight", frequencies / scaling(frequencies)


def is_transposed_there(name: str, config: TransformerConfig) -> bool:
    """Whether a matrix of the family's files is the other way round in llama.cpp's."""
    is_matrix = name.endswith(".weight") and name.startswith("blk.") and "norm" not in name
    return LAYOUTS[config.layout].transposed and is_matrix


def _interleaved(parameters: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Queries and keys with the two halves of each head's rows in turns."""
    found = {}
    for name, tensor in parameters.items():
        if ".attention.query." in name or ".attention.key." in name:
            heads = tensor.reshape(-1, 2, config.head_dim // 2, *tensor.shape[1:])
            found[name] = heads.transpose(1, 2).reshape(tensor.shape)
    return found
