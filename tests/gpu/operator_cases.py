"""The cases that PagedAttention is held to the reference over."""

import dataclasses

import numpy as np

import graphs
from machine import ELEMENTS
from reference import paged_attention

HEADS, KV_HEADS = 4, 2


@dataclasses.dataclass(frozen=True)
class Case:
    """Sequences of `past` cached and `new` tokens each, and the features of the node."""

    name: str
    past: tuple
    new: tuple
    window: int = -1
    softcap: float = 0.0
    norms: bool = False
    rotary: bool = False
    metadata: bool = True
    slots: bool = False
    shared: int = 0  # whole tokens of a prefix whose blocks all sequences share, rounded down to blocks
    feature: bool = False  # needs a graph of its own: tried on fewer block sizes

    def graph(self, element, size):
        return graphs.attention(
            element, HEADS, KV_HEADS, size, window=self.window, softcap=self.softcap, norms=self.norms,
            rotary=self.rotary, slots=self.slots, metadata=self.metadata,
        )  # fmt: skip

    def inputs(self, element, size, block):
        """Random inputs, by name. Blocks are handed out in random order; unused columns of the table are -1."""
        random = np.random.default_rng(7)
        kind, batch, tokens = ELEMENTS[element].numpy, len(self.past), sum(self.new)
        total = [past + new for past, new in zip(self.past, self.new)]
        columns = max(-(-length // block) for length in total)
        free = list(random.permutation(batch * columns + 2))
        shared = [free.pop() for _ in range(self.shared // block)]
        table = np.full((batch, columns), -1, np.int32)
        for sequence, length in enumerate(total):
            needed = -(-length // block)
            table[sequence, :needed] = (shared + [free.pop() for _ in range(needed - len(shared))])[:needed]
        cache = (batch * columns + 2, block, KV_HEADS, size)

        def normal(*shape):
            return random.normal(size=shape).astype(np.float32).astype(kind)

        inputs = {
            "query": normal(tokens, HEADS * size), "key": normal(tokens, KV_HEADS * size), "value": normal(tokens, KV_HEADS * size),
            "key_cache": normal(*cache), "value_cache": normal(*cache),
            "cumulative": np.concatenate([[0], np.cumsum(self.new)]).astype(np.int32),
            "past": np.array(self.past, np.int32), "table": table,
        }  # fmt: skip
        if self.metadata:
            inputs["metadata"] = np.array([max(self.new), max(total), max(total)], np.int32)
        if self.rotary:
            angle = np.arange(max(total))[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
            inputs |= {"cos": np.cos(angle).astype(kind), "sin": np.sin(angle).astype(kind)}
        if self.norms:
            inputs |= {"q_norm": (1 + 0.1 * normal(size)).astype(kind), "k_norm": (1 + 0.1 * normal(size)).astype(kind)}
        if self.slots:
            inputs["slots"] = self._slots(inputs, block)
        return inputs

    def _slots(self, inputs, block):
        """Where each token is written. The first new token of every sequence is not written: the cache has it already."""
        slots = []
        for sequence, (past, new) in enumerate(zip(self.past, self.new)):
            slots += [inputs["table"][sequence, p // block] * block + p % block for p in range(past, past + new)]
            slots[-new] = -1
        return np.array(slots, np.int32)


CASES = [
    Case("prompts", past=(0, 0, 0, 0), new=(9, 33, 1, 70)),
    Case("decode", past=(20, 37, 5, 300), new=(1, 1, 1, 1)),
    Case("long decode", past=(700, 650), new=(1, 1)),
    Case("chunk beside decode", past=(20, 270, 5), new=(9, 1, 30)),
    Case("shared prefix", past=(260, 260, 261), new=(1, 7, 2), shared=256),
    Case("window", past=(20, 300), new=(9, 1), window=12, feature=True),
    Case("window, decode", past=(20, 300), new=(1, 1), window=12, feature=True),
    Case("softcap", past=(20, 300), new=(9, 1), softcap=5.0, feature=True),
    Case("softcap, decode", past=(20, 300), new=(1, 1), softcap=5.0, feature=True),
    Case("norms", past=(20, 300), new=(9, 1), norms=True, rotary=True, feature=True),
    Case("rotary", past=(20, 300), new=(9, 1), rotary=True, feature=True),
    Case("slots", past=(20, 300), new=(9, 3), slots=True, feature=True),
    Case("no metadata", past=(20, 300), new=(9, 1), metadata=False, feature=True),
    Case("no metadata, decode", past=(20, 300), new=(1, 1), metadata=False, feature=True),
]


def expected(case, inputs, element):
    """Output and caches by the reference, in float64; what is stored is rounded to the cache's type."""
    kind = ELEMENTS[element].numpy
    size = inputs["key_cache"].shape[-1]

    def wide(name, heads=None):
        array = inputs[name].astype(np.float64)
        return array if heads is None else array.reshape(len(array), heads, size)

    caches = wide("key_cache"), wide("value_cache")
    out = paged_attention(
        wide("query", HEADS), wide("key", KV_HEADS), wide("value", KV_HEADS), *caches,
        inputs["cumulative"], inputs["past"], inputs["table"], scale=size**-0.5, slots=inputs.get("slots"),
        window=case.window, softcap=case.softcap, norms=(wide("q_norm"), wide("k_norm")) if case.norms else None,
        rotary=(wide("cos"), wide("sin")) if case.rotary else None,
        store=lambda x: x.astype(kind).astype(np.float64),
    )  # fmt: skip
    return out.reshape(len(out), -1), *caches


def largest_difference(a, b):
    difference = float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
    return difference if np.isfinite(difference) else float("inf")


def run_case(machine, case, element, size, block, session=None, around=None):
    """Runs one case. `around` is a context manager that watches the run; see probe.py. Returns what came."""
    inputs = case.inputs(element, size, block)
    session = session or machine.session(case.graph(element, size))
    bound = {n: a if n == "metadata" else machine.buffer(a, _element(n, element)) for n, a in inputs.items()}
    bound["out"] = machine.empty(inputs["query"].shape, element, 0xFF)
    outputs = {"out": bound["out"], "key_cache_out": bound["key_cache"], "value_cache_out": bound["value_cache"]}
    binding = session.bind({n: bound[n] for n in inputs}, outputs)
    if around is None:
        binding.run()
    else:
        with around:
            binding.run()
    out, key_cache, value_cache = expected(case, inputs, element)
    keys, values = bound["key_cache"].read(), bound["value_cache"].read()
    key_error = largest_difference(keys, key_cache)
    # Norms and rotary compute the keys that are stored; everything else is stored as it came.
    computed = 0 if not case.rotary else 1e-5 if element == "float32" else 0.05
    result = {
        "error": largest_difference(bound["out"].read(), out),
        "key_cache_error": key_error,
        "cache_right": key_error <= computed and largest_difference(values, value_cache) == 0,
    }
    for value in bound.values():
        if not isinstance(value, np.ndarray):
            value.free()
    return result


def _element(name, element):
    return "int32" if name in ("cumulative", "past", "table", "slots") else element
