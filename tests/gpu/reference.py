"""The same arithmetic in NumPy, in float64: what the operator and the model are held to.

Two things are here. `paged_attention` and `llama` are the reference: attention over a cache given by a block table, and
a whole model over whole sequences without any cache. `HOST_OPERATORS` teach `onnx.reference` the operators of the probe's
graphs, so that a machine without a GPU can check the graphs, the block tables and the reference against each other.
"""

import numpy as np
from onnx.reference.op_run import OpRun


def rotate(x, positions, cos, sin):
    """Rotary embedding, halves not interleaved. `x` is [tokens, heads, size], `cos` and `sin` [positions, size / 2]."""
    half = x.shape[-1] // 2
    c, s = cos[positions][:, None, :], sin[positions][:, None, :]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def attend(query, keys, values, first_position, scale, window=-1, softcap=0.0):
    """Causal attention of one sequence. `query` is [new, heads, size]; `keys` and `values` are [total, kv heads, size]."""
    new, heads, _ = query.shape
    groups = heads // keys.shape[1]
    keys, values = np.repeat(keys, groups, 1), np.repeat(values, groups, 1)
    scores = np.einsum("qhd,khd->hqk", query, keys) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    position = first_position + np.arange(new)[:, None]
    other = np.arange(keys.shape[0])[None, :]
    hidden = other > position
    if window > 0:
        hidden |= other <= position - window  # the window counts the token itself
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, values)


def paged_attention(
    query, key, value, key_cache, value_cache, cumulative, past, table, *, scale,
    slots=None, window=-1, softcap=0.0, norms=None, epsilon=1e-6, rotary=None, store=lambda x: x,
):  # fmt: skip
    """`com.microsoft.PagedAttention`. Writes into the caches; returns [tokens, heads, size].

    `query` is [tokens, heads, size], the caches [blocks, block, kv heads, size]. `store` rounds keys and values as the
    cache's type would. A slot of -1 writes nothing.
    """
    block = key_cache.shape[1]
    out = np.zeros_like(query)
    for sequence in range(len(past)):
        tokens = np.arange(cumulative[sequence], cumulative[sequence + 1])
        positions = past[sequence] + np.arange(len(tokens))
        q, k, v = query[tokens], key[tokens], value[tokens]
        if norms is not None:
            q, k = rms_norm(q, norms[0], epsilon), rms_norm(k, norms[1], epsilon)
        if rotary is not None:
            q, k = rotate(q, positions, *rotary), rotate(k, positions, *rotary)
        for i, position in enumerate(positions):
            slot = table[sequence][position // block] * block + position % block if slots is None else slots[tokens[i]]
            if slot >= 0:
                key_cache[slot // block, slot % block] = store(k[i])
                value_cache[slot // block, slot % block] = store(v[i])
        every = np.arange(past[sequence] + len(tokens))
        at = np.asarray(table[sequence])[every // block], every % block
        out[tokens] = attend(q, key_cache[at], value_cache[at], past[sequence], scale, window, softcap)
    return out


def llama(weights, shape, ids):
    """Logits of every position of one sequence, by a Llama-like model of `shape` (see graphs.py), without a cache."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    x, positions = w["embedding"][ids], np.arange(len(ids))
    size, heads, kv = shape.head, shape.heads, shape.kv_heads
    for layer in range(shape.layers):
        p = f"{layer}."
        qkv = rms_norm(x, w[p + "norm1"], shape.epsilon) @ w[p + "qkv"]
        if shape.qkv_bias:
            qkv = qkv + w[p + "qkv_bias"]
        qkv = qkv.reshape(len(ids), heads + 2 * kv, size)
        q = rotate(qkv[:, :heads], positions, w["cos"], w["sin"])
        k = rotate(qkv[:, heads : heads + kv], positions, w["cos"], w["sin"])
        x = x + attend(q, k, qkv[:, heads + kv :], 0, size**-0.5).reshape(len(ids), -1) @ w[p + "o"]
        y = rms_norm(x, w[p + "norm2"], shape.epsilon)
        gate = y @ w[p + "gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w[p + "up"])) @ w[p + "down"]
    return rms_norm(x, w["norm"], shape.epsilon) @ w["head"]


def dequantise(packed, scales, bits):
    """The weight of a MatMulNBits without zero points, [inner, outer]. The low half of a byte comes first."""
    outer, blocks, _ = packed.shape
    values = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1)
    values = values.reshape(outer, blocks, -1).astype(np.float64) - (1 << bits - 1)
    return (values * scales.astype(np.float64)[:, :, None]).reshape(outer, -1).T


class PagedAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, query, key, value, key_cache, value_cache, cumulative, past, table, cos=None, sin=None, slots=None,
             sink=None, q_norm=None, k_norm=None, k_scale=None, v_scale=None, metadata=None, num_heads=None,
             kv_num_heads=None, scale=None, local_window_size=None, softcap=None, do_rotary=None,
             rotary_interleaved=None, qk_norm_epsilon=None):  # fmt: skip
        # onnx.reference hands an input that is left out over as an array of nothing.
        key, cos, slots, q_norm = (None if x is None or x.ndim == 0 else x for x in (key, cos, slots, q_norm))
        size, kind = key_cache.shape[-1], query.dtype
        q = query.astype(np.float64).reshape(len(query), -1, size)
        if key is None:
            q, k, v = np.split(q, [num_heads, num_heads + kv_num_heads], 1)
        else:
            k, v = (x.astype(np.float64).reshape(len(x), kv_num_heads, size) for x in (key, value))
        # The cache is written where it lies, as on a device: outputs 1 and 2 are the inputs.
        out = paged_attention(
            q, k, v, key_cache, value_cache, cumulative, past, table, scale=scale or size**-0.5, slots=slots,
            window=local_window_size or -1, softcap=softcap or 0.0, epsilon=qk_norm_epsilon or 1e-6,
            norms=None if q_norm is None else (q_norm.astype(np.float64), k_norm.astype(np.float64)),
            rotary=(cos.astype(np.float64), sin.astype(np.float64)) if do_rotary else None,
        )  # fmt: skip
        return out.reshape(len(query), -1).astype(kind), key_cache, value_cache


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x, weight, axis=None, epsilon=None, stash_type=None):
        return (rms_norm(x.astype(np.float64), weight.astype(np.float64), epsilon).astype(x.dtype),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, skip, weight, epsilon=None):
        total = x.astype(np.float64) + skip.astype(np.float64)
        normed = rms_norm(total, weight.astype(np.float64), epsilon)
        return normed.astype(x.dtype), np.float32(0), np.float32(0), total.astype(x.dtype)


HOST_OPERATORS = [PagedAttention, SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization]
