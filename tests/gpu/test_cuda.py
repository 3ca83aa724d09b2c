"""The probe's CUDA code against a fake CUDA runtime in host memory, and a session that runs the reference.

This finds mistakes in addresses, sizes, types and names before a GPU's time is spent on them. It says nothing about CUDA.
"""

import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

import cuda
import parts_checks
import parts_speed
import probe
from machine import ELEMENTS
from reference import HOST_OPERATORS

HERE = pathlib.Path(__file__).parent
NUMPY = {element.onnx: element.numpy for element in ELEMENTS.values()}


class FakeBinding:
    """Reads and writes what is bound by address, as a device would."""

    def __init__(self):
        self.inputs, self.outputs = {}, {}

    @staticmethod
    def view(device, number, kind, shape, address):
        assert (device, number) == ("cuda", 0)
        size = int(np.prod(shape)) * NUMPY[kind].itemsize
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memory, np.uint8).view(NUMPY[kind]).reshape(shape)

    def bind_cpu_input(self, name, array):
        assert name == "metadata", f"{name} belongs on the device"
        self.inputs[name] = array

    def bind_input(self, name, *where):
        self.inputs[name] = self.view(*where)

    def bind_output(self, name, *where):
        self.outputs[name] = self.view(*where)


class FakeSession:
    def __init__(self, model, options, providers, enable_fallback):
        model = onnx.load(model) if isinstance(model, str) else onnx.load_from_string(model)
        (self.provider,) = providers
        assert enable_fallback == 0 and self.provider[0] == "CUDAExecutionProvider"
        self.evaluator = ReferenceEvaluator(model, new_ops=HOST_OPERATORS)
        self.names = [value.name for value in model.graph.output]

    def get_providers(self):
        return [self.provider[0], "CPUExecutionProvider"]

    def get_provider_options(self):
        return dict([self.provider])

    def get_provider_graph_assignment_info(self):
        return []

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, options):
        if parts_checks.DEBUG in os.environ:
            os.write(1, b"\x1b[36mOperator=PagedAttention DataType=fp16 SdpaKernel=FAKE\x1b[0m\n")
        for name, array in zip(self.names, self.evaluator.run(None, binding.inputs)):
            target = binding.outputs[name]
            assert (target.shape, target.dtype) == (array.shape, array.dtype), name
            target[...] = array


@unittest.skipUnless(shutil.which("cc"), "needs a C compiler")
class OnAFakeRuntime(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        library = os.path.join(cls.folder.name, "libcudart.so.13")
        command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcudart.so.13", "-o", library, str(HERE / "fake_cudart.c")]
        subprocess.run(command, check=True)
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)  # found by its name from now on
        for target, name, value in (
            (onnxruntime, "InferenceSession", FakeSession),
            (cuda, "load_nvidia_libraries", lambda: {"cudnn.so.9": "missing: this is a fake"}),
            (cuda.CudaMachine, "bandwidth", lambda self: 4.3e12),
        ):
            patch = mock.patch.object(target, name, value)
            patch.start()
            cls.addClassCleanup(patch.stop)

    def findings(self, part):
        """Runs a part with small sizes, in both of CUDA's types."""
        out = os.path.join(self.folder.name, part + ".jsonl")
        context = probe.Context(part, "cuda", out)
        context.small, context.repeat, context.blocks = True, 1, (16, 64)
        context.machine = cuda.CudaMachine()
        function = getattr(parts_checks, part, None) or getattr(parts_speed, part)
        with mock.patch.dict(os.environ):
            function(context)
        with open(out) as file:
            found = [json.loads(line) for line in file]
        self.assertFalse([finding for finding in found if "refused" in finding or "capture_refused" in finding])
        self.assertEqual(context.wrong, 0)
        return found

    def test_the_device_is_described(self):
        found = self.findings("library")
        self.assertEqual((found[0]["compute_capability"], found[0]["cuda_driver"]), ("9.0", "13.0"))
        self.assertEqual(found[1]["provider_options"]["device_id"], "0")

    def test_the_operator_is_right_in_both_types_and_its_kernel_is_seen(self):
        found = self.findings("operator")
        self.assertEqual({finding["element"] for finding in found}, {"float16", "bfloat16"})
        self.assertEqual({tuple(finding["kernels"]) for finding in found}, {("FAKE",)})

    def test_models_are_right_in_both_types(self):
        found = self.findings("model")
        self.assertEqual(len(found), 2 * 2 * 2 + 2 * 2)  # shapes, blocks, types; and captured

    def test_speeds_are_measured(self):
        _loaded, one, three, prompt = self.findings("decode")
        self.assertEqual((one["batch"], three["batch"], prompt["tokens"]), (1, 3, 16))
        for name in ("eager_ms", "captured_ms", "eager_host_ms", "captured_host_ms", "bound_ms"):
            self.assertGreater(one[name], 0)
        self.assertEqual({tuple(finding["kernels"]) for finding in self.findings("blocks")}, {("FAKE",)})

    def test_a_wrong_result_fails_the_part(self):
        context = probe.Context("operator", "cuda", os.path.join(self.folder.name, "wrong.jsonl"))
        context.emit(right=False)
        self.assertEqual(context.wrong, 1)


if __name__ == "__main__":
    unittest.main()
