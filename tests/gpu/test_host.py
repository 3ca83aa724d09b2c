"""What can be checked without a GPU: the graphs, the reference and the packing. Run: python -m unittest, in this folder."""

import pathlib
import struct
import tempfile
import unittest

import numpy as np
import onnxruntime

import fatbin
import graphs
import unpack
from host import HostMachine
from operator_cases import CASES, Case, expected, largest_difference, run_case
from paged_model import SmallModel, random_weights
from reference import llama


class Operator(unittest.TestCase):
    def test_every_case_agrees_with_the_reference_through_the_graph(self):
        for size in (64, 128):
            for case in CASES:
                with self.subTest(case=case.name, size=size):
                    result = run_case(HostMachine(), case, "float32", size, 16)
                    self.assertLess(result["error"], 1e-5)
                    self.assertTrue(result["cache_right"])

    def test_a_wrong_result_is_seen(self):
        case = Case("wrong", past=(20, 5), new=(1, 1))
        inputs = case.inputs("float32", 64, 16)
        out, _, _ = expected(case, inputs, "float32")
        inputs["past"][0] -= 1
        self.assertGreater(largest_difference(out, expected(case, inputs, "float32")[0]), 0.01)

    def test_onnx_runtime_knows_every_graph(self):
        for case in CASES:
            with self.assertRaises(Exception) as caught:
                onnxruntime.InferenceSession(
                    case.graph("float16", 64).SerializeToString(), providers=["CPUExecutionProvider"]
                )
            self.assertIn("NOT_IMPLEMENTED", str(caught.exception))  # the graph is valid; the CPU has no such kernel


class Model(unittest.TestCase):
    def test_forks_copies_and_a_poisoned_cache_agree_with_whole_sequences(self):
        for block in (16, 32):
            with self.subTest(block=block):
                report = SmallModel(HostMachine(), graphs.TINY, "float32", block, blocks=24, poison=True).conformance()
                self.assertLess(report["largest_difference"], 1e-4)
                self.assertTrue(report["copies_exact"])

    def test_the_shapes_are_those_of_the_named_models(self):
        # In millions. Tied embeddings count twice, because embedding and head are two weights here.
        millions = {graphs.SMOLLM2: 162.8, graphs.QWEN: 1777.1, graphs.LLAMA: 8030.3}
        for shape, expected_millions in millions.items():
            count = sum(int(np.prod(s)) for s in shape.weight_shapes().values())
            self.assertAlmostEqual(count / 1e6, expected_millions, delta=0.1)

    def test_the_model_depends_on_every_token(self):
        weights = random_weights(graphs.TINY)
        first, second = np.arange(40), np.arange(40)
        second[0] = 7
        self.assertGreater(
            abs(llama(weights, graphs.TINY, first)[-1] - llama(weights, graphs.TINY, second)[-1]).max(), 1e-3
        )


class Packing(unittest.TestCase):
    def test_only_the_wanted_architecture_stays_and_comes_first(self):
        library = _library([[(80, b"old" * 8), (90, b"new" * 8)], [(80, b"only" * 4)]])
        before = len(library)
        counts = fatbin.keep_architecture(library, 90)
        self.assertEqual(counts, {"kept": 1, "dropped": 1, "containers": 2, "untouched": 1})
        self.assertEqual(len(library), before)
        self.assertNotIn(b"old", library)
        self.assertIn(b"new" * 8, library)
        self.assertIn(b"only" * 4, library)
        with self.assertRaises(ValueError):
            fatbin.keep_architecture(library, 75)

    def test_a_damaged_slice_is_refused(self):
        import pack

        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            wheel = _wheel(folder, _library([[(80, b"old" * 8), (90, b"new" * 8)]]))
            pack.pack(wheel, folder / "out", 90, 1 << 20, False)
            parts = sorted((folder / "out").iterdir())
            unpack.unpack(folder / "site", parts)
            self.assertTrue((folder / "site" / pack.CUDA_LIBRARY).is_file())
            self.assertFalse((folder / "site" / "onnxruntime/capi/libonnxruntime_providers_tensorrt.so").exists())
            slice_file = next((folder / "out").glob("*/slice-000.xz"))
            slice_file.write_bytes(slice_file.read_bytes()[:-1] + b"\0")
            with self.assertRaisesRegex(SystemExit, "slice-000.xz is damaged"):
                unpack.unpack(folder / "again", parts)


def _library(containers):
    """A minimal ELF file with a section .nv_fatbin of such containers."""
    section = b""
    for entries in containers:
        body = b"".join(
            struct.pack("<HHIQ12xI32x", 2, 0x101, 64, len(code), architecture) + code for architecture, code in entries
        )
        section += struct.pack("<IHHQ", fatbin.CONTAINER_MAGIC, 1, 16, len(body)) + body
    names = b"\0.nv_fatbin\0.shstrtab\0"
    at = 64
    table = at + len(section) + len(names)
    header = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    sections = struct.pack("<64x") + struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, at, len(section), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 12, 3, 0, 0, at + len(section), len(names), 0, 0, 1, 0)
    return bytearray(header + section + names + sections)


def _wheel(folder, library):
    import zipfile

    import pack

    wheel = folder / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(pack.CUDA_LIBRARY, bytes(library))
        archive.writestr("onnxruntime/__init__.py", "")
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", b"x")
    return wheel


if __name__ == "__main__":
    unittest.main()
