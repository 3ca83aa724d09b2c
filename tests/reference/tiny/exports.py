"""ONNX Runtime's results with an exported language model. A reader of the file must give the same."""

import json

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from .common import ROOT, TOLERANCE, rounded, write_reference

NEW_TOKENS = 24
MARGIN = 2e-3
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(bool)": bool}


class Graph:
    """A language model as exporters write it: ids, mask, positions if it asks for them, past in and present out."""

    def __init__(self, path, config):
        heads = config["num_attention_heads"]
        self.heads = config.get("num_key_value_heads", heads)
        self.head_size = config.get("head_dim") or config["hidden_size"] // heads
        options = ort.SessionOptions()
        options.log_severity_level = 3
        model = onnx.load(path)
        for node in model.graph.node:
            # Keys beyond the window are kept in a ring: the same values, but only in a buffer that the caller provides.
            kept = [attribute for attribute in node.attribute if attribute.name != "sliding_window_cache"]
            del node.attribute[:]
            node.attribute.extend(kept)
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]

    def empty(self):
        past = [node for name, node in self.inputs.items() if name.startswith("past_key_values.")]
        return {node.name: np.zeros((1, self.heads, 0, self.head_size), NUMPY[node.type]) for node in past}

    def run(self, tokens, past, start):
        """Rows of log-probabilities for `tokens`, whose first stands at position `start`; and the new past."""
        feed = dict(past)
        for name, node in self.inputs.items():
            if name == "input_ids":
                feed[name] = np.array([tokens], NUMPY[node.type])
            elif name == "attention_mask":
                feed[name] = np.ones((1, start + len(tokens)), NUMPY[node.type])
            elif name == "position_ids":
                feed[name] = np.arange(start, start + len(tokens), dtype=NUMPY[node.type])[None]
            elif name == "use_cache_branch":
                feed[name] = np.array([start > 0])
            elif name == "num_logits_to_keep":
                feed[name] = np.array(0 if node.shape == [] else [0], NUMPY[node.type])
        # The unused branch of a merged graph wants a past of some length.
        if "use_cache_branch" in self.inputs and start == 0:
            shape = (1, self.heads, 1, self.head_size)
            feed |= {name: np.zeros(shape, value.dtype) for name, value in past.items()}
        results = dict(zip(self.outputs, self.session.run(self.outputs, feed), strict=True))
        logits = results["logits"][0].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return rows, {name: results[name.replace("past_key_values", "present")] for name in past}

    def whole(self, tokens):
        return self.run(tokens, self.empty(), 0)[0]

    def stepwise(self, tokens):
        past, rows = self.empty(), []
        for position, token in enumerate(tokens):
            row, past = self.run([token], past, position)
            rows.append(row[0])
        return np.stack(rows)

    def greedy(self, prompt):
        """Tokens that follow, every one from the whole text before it; None if the best two are ever too close."""
        tokens = list(prompt)
        for _ in range(NEW_TOKENS):
            row = self.whole(tokens)[-1]
            second, first = np.sort(row)[-2:]
            if first - second < MARGIN:
                return None
            tokens.append(int(row.argmax()))
        return tokens[len(prompt) :]


def of_tokens(rows, tokens):
    """Log-probabilities of tokens[1:], each given those before it."""
    return rows[np.arange(len(tokens) - 1), tokens[1:]]


def prompts(name):
    """The prompts in the reference of the checkpoint `name`."""
    cases = json.loads((ROOT / name / "reference.json").read_text(encoding="utf-8"))["cases"]
    return {case["name"]: case["tokens"] for case in cases}


def write(folder, graph, cases, quantised=False, switch=None):
    """Writes the reference.json of an export: the results of ONNX Runtime's own run of `graph` for `cases`.

    `noise` is how far this run is from another one of the same file, token by token over the cache: the mean distance.
    With `switch`, rotary tables change after so many tokens, and what is computed token by token mixes both.
    """
    entries, distances = [], []
    for name, tokens in cases.items():
        whole = of_tokens(graph.whole(tokens), tokens)
        entry = dict(name=name, tokens=tokens, logprobs=rounded(whole))
        if switch is None or len(tokens) <= switch:
            distances.append(np.abs(of_tokens(graph.stepwise(tokens), tokens) - whole))
        if not quantised and (greedy := graph.greedy(tokens)):
            entry["greedy"] = greedy
        entries.append(entry)
    noise = np.concatenate(distances).mean()
    head = dict(kind="decoder", tokenizer="bytes", quantised=quantised, by=f"onnxruntime {ort.__version__}")
    tolerance = {} if quantised else {"tolerance": TOLERANCE}
    write_reference(folder, dict(**head, **tolerance, noise=float(f"{noise:.3g}"), cases=entries))
    decoded = sum("greedy" in entry for entry in entries)
    print(f"{folder.relative_to(ROOT)}: noise {noise:.1e}, greedy tokens in {decoded} cases")


def widened(path, target):
    """A copy of the float16 graph at `path` that computes in float32 with the same weights."""
    model = onnx.load(path)
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
            elif attribute.HasField("t"):
                widen(attribute.t)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    onnx.save(model, target)


def widen(tensor):
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
