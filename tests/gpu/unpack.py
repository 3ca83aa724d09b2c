"""Unpack what pack.py made: python unpack.py TARGET FOLDER…

Collects the slices of every FOLDER (the transfers), checks them against the manifest, and unpacks them into TARGET.
`PYTHONPATH=TARGET` then makes Python import this `onnxruntime`. Needs nothing but Python's own library.
"""

import concurrent.futures
import hashlib
import io
import json
import lzma
import os
import pathlib
import sys
import tarfile


def find(folders, name):
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{name} is in none of {', '.join(map(str, folders))}")


def unpack(target, folders):
    manifest = json.loads(find(folders, "manifest.json").read_text())

    def decode(entry):
        data = find(folders, entry["name"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise SystemExit(
                f"{entry['name']} is damaged: {len(data)} bytes, expected {entry['bytes']} with another SHA-256"
            )
        return lzma.decompress(data)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        tar = b"".join(threads.map(decode, manifest["slices"]))
    if len(tar) != manifest["tar_bytes"]:
        raise SystemExit(f"unpacked to {len(tar)} bytes, expected {manifest['tar_bytes']}")
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(target, filter="data")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    unpack(pathlib.Path(sys.argv[1]), [pathlib.Path(folder) for folder in sys.argv[2:]])
