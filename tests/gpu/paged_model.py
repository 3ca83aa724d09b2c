"""A model with a paged cache, driven as an engine drives it: packed steps, shared blocks, copies before writes."""

import numpy as np

import graphs
from operator_cases import largest_difference
from reference import llama


def random_weights(shape, seed=5):
    """Weights of a small model in float32, with cos and sin. Every logit depends on every token before it."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, dims in shape.weight_shapes().items():
        if "norm" in name:
            weights[name] = (1 + 0.1 * random.normal(size=dims)).astype(np.float32)
        else:
            scale = 0.1 if name.endswith("bias") else 1.0 if name == "embedding" else dims[0] ** -0.5
            weights[name] = (scale * random.normal(size=dims)).astype(np.float32)
    return weights | graphs.rotary_tables(shape)


class PagedModel:
    """A decoder's session, with a cache of `blocks` blocks for each layer and side.

    With `poison` every row of the caches is a NaN until it is written. A kernel that reads a row it should not read, and
    merely multiplies it by zero, then fails.
    """

    def __init__(
        self,
        machine,
        shape,
        element,
        block,
        blocks,
        initializers,
        *,
        poison=False,
        folder=None,
        provider=None,
        config=None,
    ):
        self.machine, self.shape, self.element, self.block = machine, shape, element, block
        model = graphs.llama(shape, element, initializers)
        self.session = machine.session(model, folder=folder, provider=provider, config=config)
        dims = (blocks, block, shape.kv_heads, shape.head)
        self.caches = {
            f"{side}.{layer}": machine.empty(dims, element, 0xFF if poison else 0)
            for layer in range(shape.layers) for side in ("key", "value")
        }  # fmt: skip

    def bind(self, news, pasts, tables, ids=None, rows=None, bounds=None):
        """A step's binding, and the buffers of its inputs and logits by name. `bounds` replaces the exact metadata."""
        totals = [past + new for past, new in zip(pasts, news)]
        columns = max(len(table) for table in tables)
        # Block 0 belongs to nobody. Unused columns point at it, and it stays as it was made.
        table = np.array([list(row) + [0] * (columns - len(row)) for row in tables])
        rows = np.arange(sum(news)) if rows is None else np.asarray(rows)
        arrays = {
            "ids": (np.zeros(sum(news)) if ids is None else np.asarray(ids), "int64"), "rows": (rows, "int64"),
            "cumulative": (np.concatenate([[0], np.cumsum(news)]), "int32"), "past": (np.array(pasts), "int32"), "table": (table, "int32"),
        }  # fmt: skip
        buffers = {name: self.machine.buffer(array, element) for name, (array, element) in arrays.items()}
        metadata = np.array(bounds or [max(news), max(totals), max(totals)], np.int32)
        logits = self.machine.empty((len(rows), self.shape.vocabulary), self.element, 0xFF)
        outputs = {"logits": logits} | {name + ".out": cache for name, cache in self.caches.items()}
        binding = self.session.bind(buffers | {"metadata": metadata} | self.caches, outputs)
        return binding, buffers | {"logits": logits}

    def step(self, ids, news, pasts, tables):
        """Logits of every token of a packed step."""
        binding, buffers = self.bind(news, pasts, tables, ids)
        binding.run()
        logits = buffers["logits"].read().astype(np.float64)
        free(buffers)
        return logits

    def free(self):
        free(self.caches)


def free(buffers):
    for buffer in buffers.values():
        buffer.free()


class SmallModel(PagedModel):
    """A model with inline weights that the reference computes too, and the graph that copies blocks."""

    def __init__(self, machine, shape, element, block, blocks, **more):
        weights = random_weights(shape)
        initializers = [graphs.inline(name, array, element) for name, array in weights.items()]
        super().__init__(machine, shape, element, block, blocks, initializers, **more)
        # The reference computes with the rounded weights, so that only the arithmetic differs.
        self.rounded = {
            name: array.astype(graphs.ELEMENTS[element].numpy).astype(np.float64) for name, array in weights.items()
        }
        self.copier = machine.session(graphs.copy_blocks(element, shape.kv_heads, shape.head))

    def copy(self, source, target):
        """Copies whole blocks in every cache. True if exactly those blocks changed, and to exactly the same bits."""
        exact = True
        ids = [self.machine.buffer(np.array(source), "int64"), self.machine.buffer(np.array(target)[:, None], "int64")]
        for cache in self.caches.values():
            wanted = cache.read()
            wanted[target] = wanted[source]
            self.copier.bind({"cache": cache, "source": ids[0], "target": ids[1]}, {"cache_out": cache}).run()
            exact &= cache.read().tobytes() == wanted.tobytes()
        return exact

    def conformance(self):
        """A prompt, two forks of it, decode steps, and a prompt's chunk beside them, against whole sequences."""
        random = np.random.default_rng(11)
        block, differences = self.block, {}

        def tokens(count):
            return [int(token) for token in random.integers(0, self.shape.vocabulary, count)]

        def compare(name, logits, parts):
            wanted = np.concatenate([llama(self.rounded, self.shape, np.array(ids))[rows] for ids, rows in parts])
            differences[name] = max(differences.get(name, 0.0), largest_difference(logits, wanted))

        # The prefix fills a block and 5 tokens of the next one; both forks need a copy of that.
        prefix = tokens(block + 5)
        first, second = prefix + tokens(7), prefix + tokens(4)
        tables = [[3, 4], [3, 5]]
        compare("prompt", self.step(prefix, [len(prefix)], [0], [[3, 4]]), [(prefix, slice(None))])
        exact = self.copy([4], [5])
        new = first[len(prefix) :] + second[len(prefix) :]
        rest = slice(len(prefix), None)
        compare("forks", self.step(new, [7, 4], [len(prefix)] * 2, tables), [(first, rest), (second, rest)])
        for _ in range(3):
            pasts = [len(first), len(second)]
            first, second = first + tokens(1), second + tokens(1)
            compare(
                "decode", self.step([first[-1], second[-1]], [1, 1], pasts, tables), [(first, [-1]), (second, [-1])]
            )
        third = prefix[:block] + tokens(9)
        past, first = len(first), first + tokens(1)
        logits = self.step([first[-1], *third[block:]], [1, 9], [past, block], [[3, 4], [3, 6]])
        compare("chunk beside decode", logits, [(first, [-1]), (third, slice(block, None))])
        return {
            "differences": differences,
            "largest_difference": max(differences.values()),
            "copies_exact": bool(exact),
        }
