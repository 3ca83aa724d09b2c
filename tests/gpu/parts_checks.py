"""The probe's first parts: does it load, and is it right?"""

import contextlib
import itertools
import os
import re
import sys
import tempfile

import numpy as np

import graphs
from operator_cases import CASES, run_case
from paged_model import SmallModel, free

DEBUG = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"  # makes ONNX Runtime print the attention kernel that each node runs
# The option sdpa_kernel: Flash and memory-efficient attention only, and ONNX Runtime's own choice.
KERNEL_CHOICES = ("3", "0")

# The largest errors that count as right: several times what rounding alone makes of the same cases in NumPy.
ATTENTION_TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
LOGITS_TOLERANCE = {"float32": 1e-4, "float16": 5e-2, "bfloat16": 1.5e-1}


class Watch(contextlib.AbstractContextManager):
    """Collects what native code prints to standard output; `kernels` is the attention kernels named there."""

    def __enter__(self):
        sys.stdout.flush()
        self.saved, self.file = os.dup(1), tempfile.TemporaryFile()
        os.dup2(self.file.fileno(), 1)

    def __exit__(self, *_):
        os.dup2(self.saved, 1)
        os.close(self.saved)
        self.file.seek(0)
        self.text = self.file.read().decode(errors="replace")
        self.file.close()
        self.kernels = sorted(set(re.findall(r"SdpaKernel=(\w+)", self.text)))


def library(context):
    """The provider loads and sees the device; its options as they stand; every node on it; the memory's bandwidth."""
    machine = context.machine
    context.emit(**machine.describe(), libraries=getattr(machine, "libraries", None), versions=context.versions())
    session = machine.session(graphs.attention("float16", 4, 2, 64))
    context.emit(provider_options=session.provider_options(), placement=session.placement())
    context.emit(copy_bytes_per_second=machine.bandwidth())


def operator(context):
    """PagedAttention over the case list, with the kernel that ran and the largest error."""
    os.environ[DEBUG] = "1"
    choices = KERNEL_CHOICES[:1] if context.small else KERNEL_CHOICES
    for setting in itertools.product(choices, (64, 128), context.blocks, context.elements):
        _cases(context, *setting)


def _cases(context, kernels, size, block, element):
    plain = None
    for case in CASES:
        if case.feature and (block not in (context.blocks[0], context.blocks[-1]) or kernels == "0" and block == 16):
            continue
        record = {"case": case.name, "head": size, "block": block, "element": element, "sdpa_kernel": kernels}
        watch = Watch()
        try:
            if case.feature:
                session = context.machine.session(case.graph(element, size), provider={"sdpa_kernel": kernels})
            else:  # the cases without features share one session
                plain = plain or context.machine.session(case.graph(element, size), provider={"sdpa_kernel": kernels})
                session = plain
            result = run_case(context.machine, case, element, size, block, session, watch)
        except Exception as error:  # one refused case must not hide the others
            context.emit(**record, refused=str(error)[-300:])
        else:
            right = result["error"] <= ATTENTION_TOLERANCE[element] and result["cache_right"]
            context.emit(**record, **result, right=right, kernels=watch.kernels)


def model(context):
    """A small decoder: packed prompt, forks, copies, decode, a chunk beside it, poisoned cache; then captured steps."""
    for shape in (graphs.TINY, graphs.TINY_128):
        for block in sorted({context.blocks[0], 64, context.blocks[-1]}):
            for element in context.elements:
                record = {"model": shape.name, "block": block, "element": element}
                try:
                    small = SmallModel(
                        context.machine, shape, element, block, 12, poison=True, provider={"sdpa_kernel": "3"}
                    )
                    report = small.conformance()
                    right = report["largest_difference"] <= LOGITS_TOLERANCE[element] and report["copies_exact"]
                    context.emit(**record, **report, right=right, placement=small.session.placement())
                    small.free()
                except Exception as error:
                    context.emit(**record, refused=str(error)[-300:])
    for shape in (graphs.TINY, graphs.TINY_128):
        for element in context.elements:
            report = _captured(context, shape, element)
            right = report["largest_difference"] <= LOGITS_TOLERANCE[element]
            context.emit(check="captured against eager", model=shape.name, element=element, right=right, **report)


def _captured(context, shape, element):
    """Replays of one CUDA graph while sequences grow and change, against eager steps with exact metadata."""
    block = shape.fast_block
    provider = {"sdpa_kernel": "3", "enable_cuda_graph": "1"}
    small = SmallModel(context.machine, shape, element, block, 12, provider=provider)
    tables = [[1, 2], [3, 4], [5, 6]]
    prompt = [17 * i % shape.vocabulary for i in range(3 * (block - 2))]
    binding, buffers = small.bind([block - 2] * 3, [0] * 3, tables, prompt)
    binding.run(graph=-1)
    free(buffers)
    # The bounds hold for every step that the graph will serve, and not only for the one that is captured.
    captured, held = small.bind([1] * 3, [block - 2] * 3, tables, [1, 2, 3], bounds=[1, 2 * block, block // 2])
    same, differences = True, []
    for step in range(6):  # crosses from the first into the second block
        past, ids = [block - 2 + step] * 3, [step, 7 * step + 1, 100 - step]
        held["past"].write(np.array(past, np.int32))
        held["ids"].write(np.array(ids, np.int64))
        captured.run(graph=1)
        replayed = held["logits"].read()
        eager, exact = small.bind([1] * 3, past, tables, ids)
        eager.run(graph=-1)
        wanted = exact["logits"].read()
        free(exact)
        same &= replayed.tobytes() == wanted.tobytes()
        differences.append(float(abs(replayed.astype("f8") - wanted.astype("f8")).max()))
    return {"equal_bits": bool(same), "largest_difference": max(differences), "steps": len(differences)}
