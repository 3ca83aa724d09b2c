#!/usr/bin/env python3
"""Makes what the peers read from the demo's GGUF: transformers' checkpoint, the GGUF in another quantisation, or
OpenVINO's graph.

    python benches/peers/prepare.py hf --gguf FILE --to target/peers/smollm2-135m-instruct-hf
    python benches/peers/prepare.py q4_0 --gguf FILE --to target/peers/smollm2-135m-instruct-q4_0.gguf

Each appears under its name only when it is whole, so its presence is enough; if it is there, nothing is done.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

REFERENCE_SCRIPTS = Path(__file__).resolve().parents[2] / "tests/reference"
FILE_TYPES = {"q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0"}


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """A float32 Hugging Face checkpoint."""
    # Only here: among those scripts is one that is called llama_cpp too.
    sys.path.insert(0, str(REFERENCE_SCRIPTS))
    import smollm2_checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    smollm2_checkpoint.write_checkpoint(gguf, folder)


def quantize(gguf: Path, file: Path, form: str) -> None:
    """The same model as llama.cpp's own quantiser stores it. It loses quality, coming from 4 bits, but not speed."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = getattr(llama_cpp, FILE_TYPES[form]), True
    status = llama_cpp.llama_model_quantize(str(gguf).encode(), str(file).encode(), params)
    if status:
        raise SystemExit(f"llama.cpp could not quantise {gguf} to {form}: {status}")


def write_float16(gguf_file: Path, to: Path) -> None:
    """The GGUF with its matrices in float16."""
    import gguf
    import numpy

    reader = gguf.GGUFReader(gguf_file)
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    left_out = ("general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in left_out:
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=field.types[-1] if is_array else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(numpy.float16 if values.ndim == 2 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def openvino_graph(gguf: Path, folder: Path, form: str) -> None:
    """What OpenVINO GenAI's own reader of GGUF makes; in 8 bits, with the weights compressed by NNCF as its users do."""
    import openvino_genai

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # It writes beside the file that it reads.
    half = folder / "float16.gguf"
    write_float16(gguf, half)
    openvino_genai.LLMPipeline(str(half), "CPU", enable_save_ov_model=True)
    half.unlink()
    if form == "openvino-int8":
        import nncf
        import openvino

        plain = folder / "openvino_model.xml"
        graph = nncf.compress_weights(openvino.Core().read_model(plain), mode=nncf.CompressWeightsMode.INT8_ASYM)
        smaller = folder / "smaller.xml"
        openvino.save_model(graph, smaller, compress_to_fp16=False)
        del graph
        for end in (".xml", ".bin"):
            smaller.with_suffix(end).replace(plain.with_suffix(end))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=("hf", "openvino", "openvino-int8", *FILE_TYPES))
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--to", type=Path, required=True, help="the folder or file to make")
    arguments = parser.parse_args()
    if arguments.to.exists():
        return
    if not arguments.gguf.is_file():
        raise SystemExit(f"{arguments.gguf}: no such file; `make fetch` fetches it")
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = arguments.to.with_name(f"{arguments.to.name}.part")
    if arguments.form == "hf":
        write_checkpoint(arguments.gguf, unfinished)
    elif arguments.form.startswith("openvino"):
        openvino_graph(arguments.gguf, unfinished, arguments.form)
    else:
        quantize(arguments.gguf, unfinished, arguments.form)
    unfinished.rename(arguments.to)


if __name__ == "__main__":
    main()
