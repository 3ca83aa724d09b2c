"""Makes tests/fixtures/cl100k.json: how many tokens of cl100k_base texts have, as tiktoken counts them.

    python tests/reference/make_token_counts.py

tiktoken downloads the vocabulary; here it gets the copy in the crate `bpe-openai`, a dependency of ours, and checks its
hash. Control tokens in a text are text (`disallowed_special=()`), as CollabLLM's implementation counts them.
"""

import gzip
import hashlib
import json
import os
import pathlib
import random
import subprocess
import tempfile

import tiktoken
from metric_texts import CODE, PROSE, ROOT, sentences

URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
OUT = ROOT / "tests" / "fixtures" / "cl100k.json"


def ranks():
    """The vocabulary, from cargo's sources of dependencies."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    [crate] = [package for package in metadata["packages"] if package["name"] == "bpe-openai"]
    packed = pathlib.Path(crate["manifest_path"]).parent / "data" / "cl100k_base.tiktoken.gz"
    return gzip.decompress(packed.read_bytes())


def garbage(rng):
    """Spaces, line ends, digits and apostrophes in an unusual order."""
    pieces = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "a", "I'M", "'ll", "'s", "12345", "é", "中文", "🙂", "...", "-", "_x"]
    return "".join(rng.choice(pieces) for _ in range(rng.randint(2, 40)))


def main():
    with tempfile.TemporaryDirectory() as cache:
        (pathlib.Path(cache) / hashlib.sha1(URL.encode()).hexdigest()).write_bytes(ranks())
        os.environ["TIKTOKEN_CACHE_DIR"] = cache
        encoding = tiktoken.get_encoding("cl100k_base")
    rng = random.Random(7)
    texts = PROSE + CODE + rng.sample(sentences(), 10) + [garbage(rng) for _ in range(50)]
    cases = [{"text": text, "tokens": len(encoding.encode(text, disallowed_special=()))} for text in texts]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
