"""A classifier as an ONNX graph, written node by node: ids in, probabilities out.

torch's own exporter would need onnxscript and onnx_ir besides, and some ten seconds for two blocks;
the arithmetic of this transformer is a page. Inputs are `input_ids` and `attention_mask`, int64
[batch, length], padded on the right, where causal attention never looks; the output is
`probabilities`, float32 [batch, labels]. Pooling is in the graph, and a temperature in its head.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmstages.model.transformer import RotaryTable, Transformer, query_factor

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""The first with GELU."""
IR_VERSION = 10
LARGEST_FILE = 2**31 - 2**20
"""Bytes that one file of protocol buffers can hold; weights of more lie beside it."""


class Graph:
    """Nodes and constants as they are added; results go by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant under a name, once."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """int64 [n]."""
        return self.constant(f"integers{values}".replace(" ", ""), np.array(values, np.int64))

    def number(self, value: float) -> str:
        """float32 []."""
        return self.constant(f"number({value!r})", np.array(value, np.float32))


class Builder:
    """The graph of one classifier."""

    def __init__(self, model: Transformer) -> None:
        self.config = model.config
        self.graph = Graph()
        self.weights = {n: p.detach().float().cpu().numpy() for n, p in model.named_parameters()}
        self.rotary, self.local_rotary = model.rotary, model.local_rotary

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """A parameter; a matrix [out, in] transposed, as products take it."""
        value = self.weights[name]
        return self.graph.constant(name, value.T if transposed else value)

    def linear(self, x: str, module: str) -> str:
        """[..., in] -> [..., out]."""
        product = self.graph.add("MatMul", x, self.weight(f"{module}.weight", transposed=True))
        if f"{module}.bias" not in self.weights:
            return product
        return self.graph.add("Add", product, self.weight(f"{module}.bias"))

    def norm(self, x: str, module: str | None) -> str:
        """RMSNorm or LayerNorm over the last dimension; None: without weights."""
        add, config = self.graph.add, self.config
        if config.layer_norm:
            weights = [self.weight(f"{module}.weight"), self.weight(f"{module}.bias")]
            return add("LayerNormalization", x, *weights, axis=-1, epsilon=config.norm_eps)
        mean = add("ReduceMean", add("Mul", x, x), self.graph.integers(-1), keepdims=1)
        root = add("Sqrt", add("Add", mean, self.graph.number(config.norm_eps)))
        normed = add("Div", x, root)
        if module is None or f"{module}.weight" not in self.weights:
            return normed
        weight = self.weights[f"{module}.weight"] + np.float32(config.norm_offset)
        return add("Mul", normed, self.graph.constant(f"{module}.weight", weight))

    def tables(self, table: RotaryTable, name: str, length: str) -> tuple[str, str]:
        """Cosines and sines of the positions, [T, 1, rotated]."""
        found = []
        for kind, values in (("cos", table.cos), ("sin", table.sin)):
            whole = self.graph.constant(f"{name}.{kind}", values.float().cpu().numpy()[:, None])
            found.append(self._first(whole, length))
        return found[0], found[1]

    def _first(self, x: str, length: str) -> str:
        """The first `length` rows."""
        zero = self.graph.integers(0)
        return self.graph.add("Slice", x, zero, length, zero)

    def rotate(self, x: str, tables: tuple[str, str]) -> str:
        """x [B, T, heads, head_dim] turned by its positions."""
        add, integers = self.graph.add, self.graph.integers
        rotated = int(self.config.head_dim * self.config.rotary_share)
        axis, end = integers(-1), integers(self.config.head_dim)

        def part(begin: int, until: int) -> str:
            return add("Slice", x, integers(begin), integers(until), axis)

        whole = rotated == self.config.head_dim
        turned = x if whole else part(0, rotated)
        other = add("Concat", part(rotated // 2, rotated), part(0, rotated // 2), axis=-1)
        turned = add("Add", add("Mul", turned, tables[0]), add("Mul", other, tables[1]))
        if whole:
            return turned
        rest = add("Slice", x, integers(rotated), end, axis)
        return add("Concat", turned, rest, axis=-1)

    def heads(self, x: str, number: int, norm: str, rotary: tuple[str, str] | None) -> str:
        """Queries or keys, [B, T, heads * head_dim] -> [B, T, heads, head_dim], in their places."""
        kind = self.config.query_key_norm
        if kind == "whole":
            x = self.norm(x, norm)
        x = self.graph.add("Reshape", x, self.graph.integers(0, 0, number, self.config.head_dim))
        if kind == "head":
            x = self.norm(x, norm)
        return x if rotary is None else self.rotate(x, rotary)

    def attention(self, x: str, module: str, rotary: tuple[str, str] | None, mask: str) -> str:
        """[B, T, hidden_size]; mask [T, T] is added to the scores."""
        add, integers, config = self.graph.add, self.graph.integers, self.config
        kv, size = config.num_kv_heads, config.head_dim
        group = config.num_heads // kv
        query = self.heads(
            self.linear(x, f"{module}.query"), config.num_heads, f"{module}.query_norm", rotary
        )
        key = self.heads(self.linear(x, f"{module}.key"), kv, f"{module}.key_norm", rotary)
        value = self.linear(x, f"{module}.value")
        query = add("Mul", query, self.graph.number(query_factor(config) / math.sqrt(size)))
        # The heads that share a key are a dimension of their own, [B, kv, group, T, head_dim].
        query = add("Reshape", query, integers(0, 0, kv, group, size))
        query = add("Transpose", query, perm=[0, 2, 3, 1, 4])
        key = add(
            "Transpose", add("Reshape", key, integers(0, 0, kv, 1, size)), perm=[0, 2, 3, 4, 1]
        )
        value = add("Reshape", value, integers(0, 0, kv, 1, size))
        value = add("Transpose", value, perm=[0, 2, 3, 1, 4])
        scores = add("Softmax", add("Add", add("MatMul", query, key), mask), axis=-1)
        mixed = add("Transpose", add("MatMul", scores, value), perm=[0, 3, 1, 2, 4])
        mixed = add("Reshape", mixed, integers(0, 0, config.num_heads * size))
        return self.linear(mixed, f"{module}.output")

    def feed_forward(self, x: str, module: str) -> str:
        """[B, T, hidden_size]."""
        add, kind = self.graph.add, self.config.activation
        up = self.linear(x, f"{module}.up")
        if kind == "relu2":
            positive = add("Relu", up)
            inner = add("Mul", positive, positive)
        elif kind == "gelu":
            inner = add("Gelu", up, approximate="tanh")
        else:
            gate = self.linear(x, f"{module}.gate")
            if kind == "geglu":
                gate = add("Gelu", gate, approximate="tanh")
            else:
                gate = add("Mul", gate, add("Sigmoid", gate))
            inner = add("Mul", gate, up)
        return self.linear(inner, f"{module}.down")

    def masks(self, length: str) -> tuple[str, str]:
        """[T, T], zero where a query may see a key, else minus infinity: any, and in a window."""
        add, integers = self.graph.add, self.graph.integers
        scalar = add("Squeeze", length)
        zero, one = (self.graph.constant(f"scalar{i}", np.array(i, np.int64)) for i in (0, 1))
        places = add("Range", zero, scalar, one)
        distance = add(
            "Sub", add("Unsqueeze", places, integers(1)), add("Unsqueeze", places, integers(0))
        )
        seen = add("GreaterOrEqual", distance, zero)
        near = seen
        if self.config.window is not None:
            window = self.graph.constant("window", np.array(self.config.window, np.int64))
            near = add("And", seen, add("Less", distance, window))
        allowed, hidden = self.graph.number(0.0), self.graph.number(-math.inf)
        return add("Where", seen, allowed, hidden), add("Where", near, allowed, hidden)

    def block(self, x: str, number: int, rotary: tuple[str, str] | None, mask: str) -> str:
        """x after a block."""
        module, config, add = f"blocks.{number}", self.config, self.graph.add
        for part in ("attention", "feed_forward"):
            inner = self.norm(x, f"{module}.{part}_norm") if config.norms_before else x
            if part == "attention":
                inner = self.attention(inner, f"{module}.attention", rotary, mask)
            else:
                inner = self.feed_forward(inner, f"{module}.feed_forward")
            if config.norms_after:
                inner = self.norm(inner, f"{module}.{part}_out_norm")
            x = add("Add", x, inner)
        return x

    def probabilities(self, ids: str, attention_mask: str) -> str:
        """[B, labels]."""
        add, integers, config = self.graph.add, self.graph.integers, self.config
        length = add("Shape", ids, start=1, end=2)
        x = add("Gather", self.weight("embedding.weight"), ids)
        if config.scaled_embedding:
            x = add("Mul", x, self.graph.number(math.sqrt(config.hidden_size)))
        if config.learned_positions:
            x = add("Add", x, self._first(self.weight("positions.weight"), length))
        if config.embedding_norm:
            x = self.norm(x, None)
        tables = None if self.rotary is None else self.tables(self.rotary, "rotary", length)
        local = tables
        if self.local_rotary is not None:
            local = self.tables(self.local_rotary, "local_rotary", length)
        seen, near = self.masks(length)
        for number in range(config.num_layers):
            windowed = config.is_windowed(number)
            rotary = (local if windowed else tables) if config.is_rotated(number) else None
            x = self.block(x, number, rotary, near if windowed else seen)
        count = add("ReduceSum", attention_mask, integers(1), keepdims=1)
        if config.pooling == "last":
            pooled = add("GatherND", x, add("Sub", count, integers(1)), batch_dims=1)
        else:
            share = add("Cast", add("Unsqueeze", attention_mask, integers(2)), to=1)
            total = add("ReduceSum", add("Mul", x, share), integers(1), keepdims=0)
            pooled = add("Div", total, add("Cast", count, to=1))
        logits = self.linear(self.norm(pooled, "norm"), "head")
        return add("Sigmoid", logits) if config.multi_label else add("Softmax", logits, axis=-1)


def write_onnx(path: Path, model: Transformer, labels: Sequence[str]) -> None:
    """Write a classifier; its labels are in the file's metadata, as JSON under `labels`."""
    import onnx
    from onnx import TensorProto, helper

    builder = Builder(model)
    names = ("input_ids", "attention_mask")
    result = builder.probabilities(*names)
    nodes = [*builder.graph.nodes, helper.make_node("Identity", [result], ["probabilities"])]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in names],
        [
            helper.make_tensor_value_info(
                *("probabilities", TensorProto.FLOAT, ["batch", len(labels)])
            )
        ],
        list(builder.graph.constants.values()),
    )
    made = helper.make_model(
        graph,
        producer_name="llmstages",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(made, {"labels": json.dumps(list(labels), ensure_ascii=False)})
    num_bytes = sum(len(tensor.raw_data) for tensor in builder.graph.constants.values())
    onnx.save_model(
        *(made, path),
        save_as_external_data=num_bytes > LARGEST_FILE,
        location=f"{path.name}.data",
    )
