"""The probe's later parts: how fast is it, and what does it cost on the host?

Times are medians and include the device's work, unless a name says `host`. Contents are random; only speed is measured.
"""

import itertools
import os
import statistics
import tempfile
import time

import numpy as np

import graphs
from cuda import DEVICE_TO_HOST
from machine import ELEMENTS
from operator_cases import largest_difference
from paged_model import PagedModel, free
from parts_checks import DEBUG, KERNEL_CHOICES, Watch
from reference import dequantise

WEIGHTS = "weights.bin"


def milliseconds(machine, run, repeat):
    for _ in range(3):
        run()
    machine.wait()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        machine.wait()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def host_milliseconds(machine, binding, repeat, graph=None):
    """Time until the call returns, with the device's work still under way."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        binding.run(graph=graph, wait=False)
        times.append(time.perf_counter() - start)
        machine.wait()
    return 1e3 * statistics.median(times)


def write_weights(folder, element, size):
    """A file of small random numbers, `size` bytes or more. It repeats after 16 MiB."""
    count = (16 << 20) // ELEMENTS[element].numpy.itemsize
    block = (
        (0.02 * np.random.default_rng(3).standard_normal(count, np.float32)).astype(ELEMENTS[element].numpy).tobytes()
    )
    with open(os.path.join(folder, WEIGHTS), "wb") as file:
        file.writelines(block for _ in range(-(-size // len(block))))


def blocks(context):
    """One attention node at the sizes of real models, over block sizes: the kernel that runs, and its time."""
    heads = ((32, 8, 128), (9, 3, 64)) if not context.small else ((4, 2, 64),)
    steps = {
        "decode, 64 sequences of 1024": (64, 1, 1023),
        "prompt of 2048": (1, 2048, 0),
        "chunk of 512 after 1536": (1, 512, 1536),
    }
    if context.small:
        steps = {"decode, 2 sequences of 40": (2, 1, 39)}
    for sizes, kernels, block, name in itertools.product(heads, KERNEL_CHOICES, (16, 64, 128, 256), steps):
        record = {"heads": sizes, "block": block, "sdpa_kernel": kernels, "step": name}
        try:
            context.emit(**record, **_attention_time(context, sizes, kernels, block, *steps[name]))
        except Exception as error:
            context.emit(**record, refused=str(error)[-300:])


def _attention_time(context, heads, kernels, block, batch, new, past):
    machine, (query_heads, kv_heads, size), element = context.machine, heads, context.element
    columns = -(-(past + new) // block)
    cache = (batch * columns, block, kv_heads, size)
    shapes = {
        "query": (batch * new, query_heads * size),
        "key": (batch * new, kv_heads * size),
        "value": (batch * new, kv_heads * size),
    }
    bound = {
        name: machine.empty(shape, element)
        for name, shape in (shapes | {"key_cache": cache, "value_cache": cache}).items()
    }
    bound["cumulative"] = machine.buffer(np.arange(batch + 1) * new, "int32")
    bound["past"] = machine.buffer(np.full(batch, past), "int32")
    bound["table"] = machine.buffer(
        np.random.default_rng(1).permutation(batch * columns).reshape(batch, columns), "int32"
    )
    inputs = bound | {"metadata": np.array([new, past + new, past + new], np.int32)}
    out = machine.empty(shapes["query"], element)
    outputs = {"out": out, "key_cache_out": bound["key_cache"], "value_cache_out": bound["value_cache"]}

    def binding():
        session = machine.session(
            graphs.attention(element, query_heads, kv_heads, size), provider={"sdpa_kernel": kernels}
        )
        return session.bind(inputs, outputs)

    os.environ[DEBUG] = "1"  # read when a session is made
    watch, watched = Watch(), binding()
    with watch:
        watched.run()
    del os.environ[DEBUG]
    result = {"kernels": watch.kernels, "ms": milliseconds(machine, binding().run, context.repeat)}
    free(bound | {"out": out})
    return result


def decode(context):
    """Decode steps and prompts of whole models, with fast blocks and with blocks of 16."""
    if context.small:
        return _model_speed(context, graphs.TINY, "3", batches=(1, 3), context_length=20, prompts=(16,))
    slow = {"block": 16, "batches": (12, 64), "prompts": (2048,)}
    for shape, kernels, more in (
        (graphs.SMOLLM2, "3", {}),
        (graphs.QWEN, "3", {}),
        (graphs.QWEN, "0", {"prompts": ()}),
        (graphs.QWEN, "3", slow),
        (graphs.SMOLLM2, "0", {"prompts": ()}),
        (graphs.SMOLLM2, "3", slow),
    ):
        try:
            _model_speed(context, shape, kernels, **more)
        except Exception as error:
            context.emit(model=shape.name, sdpa_kernel=kernels, settings=more, refused=str(error)[-300:])


def large(context):
    """The same for a model of 8 thousand million weights."""
    if context.small:
        return _model_speed(context, graphs.TINY_128, "3", batches=(2,), context_length=20, prompts=())
    _model_speed(context, graphs.LLAMA, "3")


def _model_speed(
    context, shape, kernels, block=None, batches=(1, 12, 64, 200), context_length=512, prompts=(512, 2048)
):
    machine, element, block = context.machine, context.element, block or shape.fast_block
    columns = -(-max(context_length + 1, *prompts, 1) // block)
    decode_columns = -(-(context_length + 1) // block)
    record = {"model": shape.name, "element": element, "block": block, "sdpa_kernel": kernels}
    with tempfile.TemporaryDirectory() as folder:
        weights = shape.weight_shapes()
        write_weights(
            folder, element, max(int(np.prod(dims)) for dims in weights.values()) * ELEMENTS[element].numpy.itemsize
        )
        initializers = [graphs.external(name, dims, element, WEIGHTS) for name, dims in weights.items()]
        initializers += [graphs.inline(name, table, element) for name, table in graphs.rotary_tables(shape).items()]
        provider = {"sdpa_kernel": kernels, "enable_cuda_graph": "1"}
        start = time.perf_counter()
        count = 1 + max(columns, max(batches) * decode_columns)
        model = PagedModel(machine, shape, element, block, count, initializers, folder=folder, provider=provider)
        context.emit(**record, load_seconds=time.perf_counter() - start, placement=model.session.placement())
    bandwidth = machine.bandwidth()
    for batch in batches:
        bound_ms = 1e3 * shape.step_bytes(batch, context_length, ELEMENTS[element].numpy.itemsize) / bandwidth
        context.emit(**record, step="decode", batch=batch, context=context_length, bound_ms=bound_ms,
                     **_decode_speed(context, model, batch, context_length, decode_columns))  # fmt: skip
    for length in prompts:
        binding, buffers = model.bind([length], [0], [list(range(1, 1 + columns))], rows=[length - 1])
        ms = milliseconds(machine, lambda: binding.run(graph=-1), max(3, context.repeat // 2))
        context.emit(**record, step="prompt", tokens=length, ms=ms, tokens_per_second=1e3 * length / ms)
        free(buffers)
    model.free()


def _decode_speed(context, model, batch, length, columns):
    machine, repeat = context.machine, context.repeat
    tables = 1 + np.random.default_rng(2).permutation(batch * columns).reshape(batch, columns)
    eager, exact = model.bind([1] * batch, [length] * batch, tables.tolist())
    result = {"eager_ms": milliseconds(machine, lambda: eager.run(graph=-1), repeat)}
    result["eager_host_ms"] = host_milliseconds(machine, eager, repeat, graph=-1)
    try:
        bounds = [1, columns * model.block, length]
        captured, held = model.bind([1] * batch, [length] * batch, tables.tolist(), bounds=bounds)
        start = time.perf_counter()
        captured.run(graph=batch)  # eager
        captured.run(graph=batch)  # captures
        machine.wait()
        result["capture_ms"] = 1e3 * (time.perf_counter() - start)
        result["captured_ms"] = milliseconds(machine, lambda: captured.run(graph=batch), repeat)
        result["captured_host_ms"] = host_milliseconds(machine, captured, repeat, graph=batch)
        result["logits_difference"] = largest_difference(held["logits"].read(), exact["logits"].read())
        # The captured graph keeps the addresses; its buffers live on.
        context.keep.append((captured, held))
    except Exception as error:
        result["capture_refused"] = str(error)[-300:]
    free(exact)
    return result


def transfers(context):
    """Logits of a step on their way to the host, by several routes."""
    machine = context.machine
    columns = 50 if context.small else 151936
    for element in ("float16", "float32"):
        session = machine.session(graphs.doubled(element))
        for rows in (12, 200):
            source, target = machine.empty((rows, columns), element), machine.empty((rows, columns), element)
            binding = session.bind({"x": source}, {"y": target})
            record = {"element": element, "rows": rows, "columns": columns}
            context.emit(**record, route="stays on the device", ms=milliseconds(machine, binding.run, context.repeat))
            if not context.small:
                for route, ms in _routes(context, session, source, target):
                    context.emit(**record, route=route, **ms)
            source.free()
            target.free()


def _routes(context, session, source, target):
    """Each route's name and time."""
    import onnxruntime

    machine, kind = context.machine, ELEMENTS[target.element]

    def timed(run):
        return {"ms": milliseconds(machine, run, context.repeat)}

    def copy_to(memory):
        return timed(lambda: machine.copy(memory.ctypes.data, target.address, target.size, DEVICE_TO_HOST))

    pinned = machine.pinned(target.size)
    yield "cudaMemcpyAsync, pageable", copy_to(np.ones(target.size, np.uint8))
    yield "cudaMemcpyAsync, pinned", copy_to(pinned)

    binding = session.session.io_binding()
    binding.bind_input("x", "cuda", 0, kind.onnx, source.shape, source.address)
    binding.bind_output("y", "cpu", 0, kind.onnx, target.shape, pinned.ctypes.data)
    yield "output bound to pinned host memory", timed(lambda: session.session.run_with_iobinding(binding))
    binding.bind_output("y", "cpu")
    yield "output left to the CPU", timed(lambda: session.session.run_with_iobinding(binding))

    host = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(target.shape, kind.numpy))
    device = onnxruntime.OrtValue.ortvalue_from_numpy(host.numpy(), "cuda", 0)
    yield "OrtValue.numpy", timed(device.numpy)
    back = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(target.shape, kind.numpy))
    try:
        result = timed(lambda: onnxruntime.copy_tensors([device], [back]))
        yield "CopyTensors", result | {"right": bool((back.numpy() == 1).all())}
    except Exception as error:  # data transfers are looked up among plug-in providers
        yield "CopyTensors", {"refused": str(error)[-300:]}


def quantised(context):
    """Products with weights of 16, 8 and 4 bits at several rows, with and without the fused integer kernels."""
    forms = [(bits, block, fused) for bits, block in ((8, 32), (8, 128), (4, 32), (4, 128)) for fused in ("0", "1")]
    sizes, rows, count = (4096, 14336), (1, 12, 64), 8
    if context.small:
        forms, sizes, rows, count = [(8, 32, "0"), (4, 32, "0")], (64, 96), (1, 3), 1
    with tempfile.TemporaryDirectory() as folder:
        for element in context.elements:
            write_weights(folder, element, sizes[0] * sizes[1] * 2)
            for bits, block, fused in [(16, 0, "0"), *forms]:
                record = {"element": element, "bits": bits, "block": block, "fpa_intb_gemm": fused, "sizes": sizes}
                try:
                    model = graphs.products(element, *sizes, count, WEIGHTS, bits, block)
                    config = {"ep.cuda.fpa_intb_gemm": fused}
                    session = context.machine.session(model, folder=folder, config=config)
                    for many in rows:
                        found = _product_time(context, session, folder, element, *sizes, count, bits, block, many)
                        context.emit(**record, rows=many, **found)
                except Exception as error:
                    context.emit(**record, refused=str(error)[-300:])


def _product_time(context, session, folder, element, inner, outer, count, bits, block, rows):
    machine, kind = context.machine, ELEMENTS[element].numpy
    x = np.random.default_rng(rows).standard_normal((rows, inner)).astype(np.float32).astype(kind)
    source, targets = (
        machine.buffer(x, element),
        {f"y.{i}": machine.empty((rows, outer), element) for i in range(count)},
    )
    binding = session.bind({"x": source}, targets)
    ms = milliseconds(machine, binding.run, context.repeat)
    wanted = x.astype(np.float64) @ _first_weight(folder, element, inner, outer, bits, block, 256)
    got = targets["y.0"].read()[:, : wanted.shape[1]].astype(np.float64)
    source.free()
    free(targets)
    return {"ms_each": ms / count, "relative_error": largest_difference(got, wanted) / float(abs(wanted).max())}


def _first_weight(folder, element, inner, outer, bits, block, columns):
    """The first columns of the weight that the graph read from the file."""
    kind, path = ELEMENTS[element].numpy, os.path.join(folder, WEIGHTS)
    if bits == 16:
        return np.fromfile(path, kind, inner * outer).reshape(inner, outer)[:, :columns].astype(np.float64)
    columns = min(columns, outer)
    packed = np.fromfile(path, np.uint8, columns * inner * bits // 8).reshape(columns, inner // block, -1)
    return dequantise(packed, np.fromfile(path, kind, columns * inner // block).reshape(columns, -1), bits)


def transformers(context):
    """For comparison: a decode step of the same sizes by transformers and PyTorch, where they are installed."""
    if context.small:
        return
    import torch
    import transformers as library

    torch.set_grad_enabled(False)
    for shape in (graphs.SMOLLM2, graphs.QWEN):
        config = library.LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head, attention_bias=False,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            model = library.LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
        for batch in (12, 64):
            ids = torch.randint(0, shape.vocabulary, (batch, 512), device="cuda")
            cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
            times = []
            for _ in range(context.repeat + 3):
                torch.cuda.synchronize()
                start = time.perf_counter()
                model(ids[:, :1], past_key_values=cache, use_cache=True)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            versions = {"torch": torch.__version__, "transformers": library.__version__}
            context.emit(
                model=shape.name,
                batch=batch,
                context=512,
                element="bfloat16",
                ms=1e3 * statistics.median(times[3:]),
                **versions,
            )
        del model, cache
        torch.cuda.empty_cache()
