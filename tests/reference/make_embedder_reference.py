"""Makes tests/fixtures/embedder.json: a published model's tokens and sentence embeddings, by transformers.

    python tools/fetch.py embedder
    python tests/reference/make_embedder_reference.py

Needs transformers (4.57). The model is fetched, not committed. Pooling and normalisation are done here as its
`modules.json` says: the mean over tokens, divided by its length.
"""

import json
import pathlib

import torch
from transformers import AutoModel, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "target" / "downloads" / "all-MiniLM-L6-v2"
OUT = ROOT / "tests" / "fixtures" / "embedder.json"

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "Someone in a gorilla costume is playing a set of drums.",
    "The quick brown fox jumps over the lazy dog.",
    "Write a short poem about the sea.",
    "WRITE A SHORT POEM ABOUT THE SEA!",
    "What is the capital of France?",
    "Paris is the capital and largest city of France.",
    "for i in range(10):\n    print(i ** 2)",
    "Ein Mann isst ein Stück Brot. 男は食べる。",
    "e = mc²",
    "word",
    "A longer text goes on and on, and says the same thing in other words. " * 12,
]


def embedding(model, tokens):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(dim=0), dim=0)


def main():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModel.from_pretrained(MODEL, attn_implementation="eager").eval()
    cases = []
    for text in TEXTS:
        tokens = tokenizer(text)["input_ids"]
        assert len(tokens) <= 256, "sentence-transformers would cut it off"
        numbers = [round(number, 6) for number in embedding(model, tokens).tolist()]
        cases.append({"text": text, "tokens": tokens, "embedding": numbers})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
