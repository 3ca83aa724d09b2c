"""Pack ONNX Runtime's GPU wheel small enough to carry it to a machine with a GPU and without a network.

    python pack.py onnxruntime_gpu-1.31.1-cp312-….whl OUT --architecture 90 --transfer 44

The wheel is 256 MB, most of it kernels for GPUs that the machine does not have. The pack keeps one architecture's
kernels (see fatbin.py), leaves out the TensorRT provider, and compresses the rest as slices that `unpack.py` decodes in
parallel. OUT then holds `transfer-1`, `transfer-2`, …, none of them over `--transfer` MiB, each with files
`slice-NNN.xz`; the last one also holds `manifest.json` with sizes and SHA-256 sums, and `unpack.py`.

The wheel has to be the one for the machine's Python version. `--c-library` adds `libonnxruntime.so`, which programs in
other languages load (8 MB compressed); Python's own module holds a copy of it already.
"""

import argparse
import concurrent.futures
import hashlib
import io
import json
import lzma
import os
import pathlib
import shutil
import tarfile
import zipfile

from fatbin import keep_architecture

SLICE = 24 << 20
CUDA_LIBRARY = "onnxruntime/capi/libonnxruntime_providers_cuda.so"


def wanted(name, c_library):
    """True for a file that is needed to run sessions on CUDA from Python."""
    if not name.startswith("onnxruntime/") or name.endswith("/"):
        return False
    if name.startswith(
        ("onnxruntime/transformers/", "onnxruntime/quantization/", "onnxruntime/tools/", "onnxruntime/datasets/")
    ):
        return False
    if "/libonnxruntime.so" in name:
        return c_library
    return "tensorrt" not in name and "ThirdPartyNotices" not in name


def tar_of_wheel(wheel, architecture, c_library):
    """The wanted files as one uncompressed archive, and the counts of kernels kept and dropped."""
    archive, counts = io.BytesIO(), None
    with zipfile.ZipFile(wheel) as source, tarfile.open(fileobj=archive, mode="w") as target:
        for entry in source.infolist():
            if not wanted(entry.filename, c_library):
                continue
            data = bytearray(source.read(entry))
            if entry.filename == CUDA_LIBRARY:
                counts = keep_architecture(data, architecture)
            info = tarfile.TarInfo(entry.filename)
            info.size, info.mode = len(data), 0o755 if ".so" in entry.filename else 0o644
            target.addfile(info, io.BytesIO(data))
    if counts is None:
        raise SystemExit(f"{wheel} holds no {CUDA_LIBRARY}; is it the GPU wheel?")
    return archive.getvalue(), counts


def pack(wheel, out, architecture, transfer, c_library):
    tar, counts = tar_of_wheel(wheel, architecture, c_library)
    slices = [tar[at : at + SLICE] for at in range(0, len(tar), SLICE)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:  # lzma releases the interpreter's lock
        packed = list(threads.map(lambda data: lzma.compress(data, preset=6), slices))

    manifest = {
        "wheel": pathlib.Path(wheel).name,
        "architecture": architecture,
        "kernels": counts,
        "tar_bytes": len(tar),
        "slices": [],
    }
    number, used = 1, 0
    for index, data in enumerate(packed):
        if len(data) > transfer:
            raise SystemExit(f"a slice is {len(data)} bytes compressed, more than one transfer of {transfer}")
        if used + len(data) > transfer:
            number, used = number + 1, 0
        folder = out / f"transfer-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"slice-{index:03}.xz"
        (folder / name).write_bytes(data)
        used += len(data)
        manifest["slices"].append(
            {"name": name, "transfer": number, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    last = out / f"transfer-{number}"
    (last / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copy(pathlib.Path(__file__).with_name("unpack.py"), last)
    return manifest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("wheel", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path, help="folder to make; must not exist")
    parser.add_argument(
        "--architecture",
        type=int,
        default=90,
        help="90 for H100 and H200, 80 for A100, 89 for L4 and RTX 40 (default 90)",
    )
    parser.add_argument("--transfer", type=float, default=44, help="MiB that may travel at once (default 44)")
    parser.add_argument("--c-library", action="store_true", help="also pack libonnxruntime.so")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    manifest = pack(
        arguments.wheel, arguments.out, arguments.architecture, int(arguments.transfer * (1 << 20)), arguments.c_library
    )
    for number in sorted({entry["transfer"] for entry in manifest["slices"]}):
        size = sum(entry["bytes"] for entry in manifest["slices"] if entry["transfer"] == number)
        print(f"transfer-{number}: {size / (1 << 20):.1f} MiB")
    print(f"kernels: {manifest['kernels']}")


if __name__ == "__main__":
    main()
