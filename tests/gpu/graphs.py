"""The probe's graphs, made with onnx.helper: one attention node, a Llama-like model, block copies, a quantised product."""

import dataclasses

import numpy as np
from onnx import TensorProto, helper

from machine import ELEMENTS

MICROSOFT = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like decoder."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    qkv_bias: bool = False
    epsilon: float = 1e-5
    theta: float = 10000.0
    positions: int = 4096

    @property
    def fast_block(self):
        """The smallest block size that Flash attention reads in place (see docs/gpu.md)."""
        return 256 if self.head <= 64 else 128 if self.head <= 128 else 64

    def weight_shapes(self):
        """Every weight's name and shape; layer weights are called `<layer>.<name>`."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head
        shapes = {"embedding": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            p = f"{layer}."
            shapes |= {p + "norm1": (self.hidden,), p + "qkv": (self.hidden, qkv)}
            if self.qkv_bias:
                shapes[p + "qkv_bias"] = (qkv,)
            shapes |= {p + "o": (self.heads * self.head, self.hidden), p + "norm2": (self.hidden,)}
            shapes |= {p + "gate": (self.hidden, self.inner), p + "up": (self.hidden, self.inner)}
            shapes[p + "down"] = (self.inner, self.hidden)
        return shapes | {"norm": (self.hidden,), "head": (self.hidden, self.vocabulary)}

    def step_bytes(self, batch, context, element_bytes=2):
        """Bytes that a decode step has to read: every weight but the embedding, and the keys and values of the context."""
        weights = sum(int(np.prod(s)) for n, s in self.weight_shapes().items() if n != "embedding")
        cache = 2 * self.layers * batch * context * self.kv_heads * self.head
        return (weights + cache) * element_bytes


TINY = Shape("tiny", 128, 2, 4, 2, 64, 256, 512, qkv_bias=True)
TINY_128 = dataclasses.replace(TINY, name="tiny, heads of 128", head=128)
SMOLLM2 = Shape("SmolLM2-135M", 576, 30, 9, 3, 64, 1536, 49152)
QWEN = Shape("Qwen2.5-1.5B", 1536, 28, 12, 2, 128, 8960, 151936, qkv_bias=True, epsilon=1e-6, theta=1e6)
LLAMA = Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256, theta=5e5)


def rotary_tables(shape):
    """cos and sin, [positions, head / 2], in float32."""
    frequency = shape.theta ** (-np.arange(0, shape.head, 2) / shape.head)
    angle = np.arange(shape.positions)[:, None] * frequency[None, :]
    return {"cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}


def _model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "probe", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name, element, dims):
    return helper.make_tensor_value_info(name, ELEMENTS[element].onnx, dims)


def inline(name, array, element):
    """An initializer that carries its bytes in the model."""
    data = np.ascontiguousarray(array.astype(ELEMENTS[element].numpy))
    return helper.make_tensor(name, ELEMENTS[element].onnx, data.shape, data.tobytes(), raw=True)


def external(name, dims, element, file):
    """An initializer whose bytes are the first of `file`. Weights may share bytes where only speed is measured."""
    tensor = TensorProto(name=name, data_type=ELEMENTS[element].onnx, dims=dims, data_location=TensorProto.EXTERNAL)
    length = int(np.prod(dims)) * ELEMENTS[element].numpy.itemsize
    for key, value in (("location", file), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def attention(
    element, heads, kv_heads, size, *, window=-1, softcap=0.0, norms=False, rotary=False, slots=False, metadata=True
):
    """One PagedAttention node. Its inputs are named as in the operator's documentation, shortened."""
    inputs = ["query", "key", "value", "key_cache", "value_cache", "cumulative", "past", "table"]
    inputs += ["cos", "sin"] if rotary else ["", ""]
    inputs += ["slots" if slots else "", ""]
    inputs += ["q_norm", "k_norm"] if norms else ["", ""]
    inputs += ["", "", "metadata" if metadata else ""]
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "local_window_size": window, "do_rotary": int(rotary)}
    if softcap:
        attributes["softcap"] = softcap
    node = helper.make_node(
        "PagedAttention", inputs, ["out", "key_cache_out", "value_cache_out"], domain=MICROSOFT, **attributes
    )
    cache = ["blocks", "block", kv_heads, size]
    dims = {"query": ["t", heads * size], "key": ["t", kv_heads * size], "value": ["t", kv_heads * size]}
    dims |= {
        "key_cache": cache,
        "value_cache": cache,
        "cos": ["p", size // 2],
        "sin": ["p", size // 2],
        "q_norm": [size],
        "k_norm": [size],
    }
    integers = {"cumulative": ["b1"], "past": ["b"], "table": ["b", "m"], "slots": ["t"], "metadata": [3]}
    values = [_value(n, element, dims[n]) if n in dims else _value(n, "int32", integers[n]) for n in inputs if n]
    outputs = [_value("out", element, ["t", heads * size])]
    outputs += [_value(n, element, cache) for n in ("key_cache_out", "value_cache_out")]
    return _model([node], values, outputs)


def llama(shape, element, initializers):
    """A decoder over packed tokens with a paged cache. `initializers` holds the weights of `weight_shapes`, cos and sin.

    `rows` chooses the tokens whose logits are computed. The caches are `key.<layer>` and `value.<layer>`; their outputs
    carry `.out` and have to be bound to the same memory.
    """
    nodes, node = [], helper.make_node
    cache = ["blocks", "block", shape.kv_heads, shape.head]
    inputs = [_value("ids", "int64", ["t"]), _value("rows", "int64", ["r"])]
    inputs += [
        _value("cumulative", "int32", ["b1"]),
        _value("past", "int32", ["b"]),
        _value("table", "int32", ["b", "m"]),
    ]
    inputs.append(_value("metadata", "int32", [3]))
    outputs = [_value("logits", element, ["r", shape.vocabulary])]
    nodes.append(node("Gather", ["embedding", "ids"], ["x"]))
    nodes.append(node("SimplifiedLayerNormalization", ["x", "0.norm1"], ["0.y"], axis=-1, epsilon=shape.epsilon))
    residual = "x"
    for layer in range(shape.layers):
        p = f"{layer}."
        last = layer + 1 == shape.layers
        names = [f"key.{layer}", f"value.{layer}"]
        inputs += [_value(name, element, cache) for name in names]
        outputs += [_value(name + ".out", element, cache) for name in names]
        nodes.append(node("MatMul", [p + "y", p + "qkv"], [p + "product"]))
        packed = p + "product"
        if shape.qkv_bias:
            packed = p + "packed"
            nodes.append(node("Add", [p + "product", p + "qkv_bias"], [packed]))
        paged = [packed, "", "", *names, "cumulative", "past", "table", "cos", "sin", *[""] * 6, "metadata"]
        nodes.append(
            node("PagedAttention", paged, [p + "attended", *(name + ".out" for name in names)], domain=MICROSOFT,
                 num_heads=shape.heads, kv_num_heads=shape.kv_heads, do_rotary=1)
        )  # fmt: skip
        nodes.append(node("MatMul", [p + "attended", p + "o"], [p + "projected"]))
        nodes.append(_skip_norm(residual, p + "projected", p + "norm2", p + "z", p + "middle", shape.epsilon))
        nodes.append(node("MatMul", [p + "z", p + "gate"], [p + "gated"]))
        nodes.append(node("MatMul", [p + "z", p + "up"], [p + "raised"]))
        nodes.append(node("Sigmoid", [p + "gated"], [p + "sigmoid"]))
        nodes.append(node("Mul", [p + "gated", p + "sigmoid"], [p + "silu"]))
        nodes.append(node("Mul", [p + "silu", p + "raised"], [p + "inner"]))
        nodes.append(node("MatMul", [p + "inner", p + "down"], [p + "lowered"]))
        residual = f"{layer + 1}.x"
        weight, normed = ("norm", "normed") if last else (f"{layer + 1}.norm1", f"{layer + 1}.y")
        nodes.append(_skip_norm(p + "middle", p + "lowered", weight, normed, "" if last else residual, shape.epsilon))
    nodes.append(node("Gather", ["normed", "rows"], ["wanted"]))
    nodes.append(node("MatMul", ["wanted", "head"], ["logits"]))
    return _model(nodes, inputs, outputs, initializers)


def _skip_norm(x, skip, weight, normed, total, epsilon):
    outputs = [normed, "", "", total] if total else [normed]
    return helper.make_node(
        "SkipSimplifiedLayerNormalization", [x, skip, weight], outputs, domain=MICROSOFT, epsilon=epsilon
    )


def copy_blocks(element, kv_heads, size):
    """Copies blocks `source` of a cache onto its blocks `target`, in place when input and output are the same memory."""
    cache = ["blocks", "block", kv_heads, size]
    nodes = [
        helper.make_node("Gather", ["cache", "source"], ["copied"]),
        helper.make_node("ScatterND", ["cache", "target", "copied"], ["cache_out"]),
    ]
    inputs = [_value("cache", element, cache), _value("source", "int64", ["n"]), _value("target", "int64", ["n", 1])]
    return _model(nodes, inputs, [_value("cache_out", element, cache)])


def products(element, inner, outer, count, file, bits=16, block=0):
    """`count` products of `x` [rows, inner], each by a weight of its own: MatMul, or MatMulNBits for 4 and 8 bits.

    Several products in one graph make what a run costs on the host small beside them. All weights take the first bytes
    of `file`, but each lies in device memory once.
    """
    nodes, initializers, outputs = [], [], []
    for i in range(count):
        if bits == 16:
            nodes.append(helper.make_node("MatMul", ["x", f"weight.{i}"], [f"y.{i}"]))
            initializers.append(external(f"weight.{i}", (inner, outer), element, file))
        else:
            attributes = {"K": inner, "N": outer, "bits": bits, "block_size": block}
            nodes.append(
                helper.make_node(
                    "MatMulNBits", ["x", f"packed.{i}", f"scales.{i}"], [f"y.{i}"], domain=MICROSOFT, **attributes
                )
            )
            initializers.append(external(f"packed.{i}", (outer, inner // block, block * bits // 8), "uint8", file))
            initializers.append(external(f"scales.{i}", (outer, inner // block), element, file))
        outputs.append(_value(f"y.{i}", element, ["r", outer]))
    return _model(nodes, [_value("x", element, ["r", inner])], outputs, initializers)


def doubled(element):
    """y = x + x: the cheapest graph with an output as large as wanted."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return _model(nodes, [_value("x", element, ["r", "c"])], [_value("y", element, ["r", "c"])])
