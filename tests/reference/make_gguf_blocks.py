"""Writes tests/fixtures/gguf/blocks.gguf: random blocks of every quantised type, each with the numbers in it
according to gguf-py.

    pip install -r tests/reference/requirements-fixtures.txt
    python tests/reference/make_gguf_blocks.py
"""

from pathlib import Path

import gguf
import numpy as np

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Offsets of the f16 scale and minimum of a block. Negative ones count from its end.
SCALES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [-4, -2], "Q3_K": [-2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [-2]}
# One block for each: ordinary, negative, the largest, the smallest subnormal, nothing.
EXTREMES = [0.0123, -0.75, 65504.0, 2.0**-24, 0.0]


def main() -> None:
    path = Path(__file__).parents[1] / "fixtures/gguf/blocks.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    random = np.random.default_rng(20)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        # 256 elements per row, so that small blocks get several quants for each scale.
        blocks = random.integers(0, 256, (len(EXTREMES), 256 // elements, size), dtype=np.uint8)
        for row, extreme in zip(blocks, EXTREMES):
            for at in SCALES.get(name, [0]):
                value = np.float16(extreme if at in (0, -4) or name in ("Q3_K", "Q6_K") else -extreme)
                row[:, at % size : at % size + 2] = np.frombuffer(value.tobytes(), np.uint8)
        blocks = blocks.reshape(len(EXTREMES), -1)
        writer.add_tensor(name, blocks, raw_dtype=kind)
        writer.add_tensor(f"{name}.values", gguf.quants.dequantize(blocks, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
