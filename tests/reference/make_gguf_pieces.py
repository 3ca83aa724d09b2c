"""Trains two small SentencePiece models and writes them as GGUF files without tensors, with the tokens of some texts.

    pip install -r tests/reference/requirements-fixtures.txt
    python tests/reference/make_gguf_pieces.py

`tests/fixtures/gguf/pieces-NAME.gguf` holds the metadata that llama.cpp's converter writes, `pieces-NAME.json` the
tokens that transformers makes of each text in `texts.json`, which are sentencepiece's except for words like `<s>`,
and the text that it makes of the tokens. One is like Llama 2 (a space goes before every text), one like Gemma
(no space does; runs of spaces and newlines are pieces).
"""

import io
import json
import tempfile
from pathlib import Path

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS = {
    "llama": dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, add_dummy_prefix=True),
    "gemma": dict(
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>", add_dummy_prefix=False,
        user_defined_symbols=["<mask>", "<table>", "</table>", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁"],
    ),
}  # fmt: skip


def train(texts: list[str], settings: dict) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=520,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def corpus(texts: list[str]) -> list[str]:
    """English text that doesn't change, and the texts themselves."""
    return (FIXTURES.parents[1] / "LICENSE-APACHE").read_text().splitlines() + 2 * texts


def write_gguf(path: Path, model: bytes, settings: dict) -> None:
    proto = model_pb2.ModelProto.FromString(model)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # sentencepiece's numbers of the types are llama.cpp's. Its converter writes user-defined spaces as such.
    user = gguf.TokenType.USER_DEFINED
    writer.add_token_list([p.piece.replace("▁", " ") if p.type == user else p.piece for p in proto.pieces])
    writer.add_token_scores([-1000.0 if p.type == user else p.score for p in proto.pieces])
    writer.add_token_types([p.type for p in proto.pieces])
    writer.add_unk_token_id(settings["unk_id"])
    writer.add_bos_token_id(settings["bos_id"])
    writer.add_eos_token_id(settings["eos_id"])
    if not settings["add_dummy_prefix"]:
        writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def by_transformers(name: str, path: Path):
    """The tokenizer that transformers makes from the model."""
    slow = LlamaTokenizer(str(path), legacy=True) if name == "llama" else GemmaTokenizer(str(path))
    # In published files the unknown token is an added one.
    return PreTrainedTokenizerFast(tokenizer_object=convert_slow_tokenizer(slow), unk_token="<unk>")


def main() -> None:
    texts = json.loads((FIXTURES / "gguf/texts.json").read_text())
    for name, settings in KINDS.items():
        model = train(corpus(texts), settings)
        write_gguf(FIXTURES / f"gguf/pieces-{name}.gguf", model, settings)
        with tempfile.NamedTemporaryFile(suffix=".model") as file:
            file.write(model)
            file.flush()
            ours = by_transformers(name, Path(file.name))
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        cases = []
        for text in texts:
            tokens = ours.encode(text, add_special_tokens=False)
            assert tokens == processor.encode(text) or "<s>" in text or "<bos>" in text, text
            cases.append({"text": text, "tokens": tokens, "decoded": ours.decode(tokens)})
        content = ",\n".join(json.dumps(case) for case in cases)
        (FIXTURES / f"gguf/pieces-{name}.json").write_text(f"[\n{content}\n]\n")


if __name__ == "__main__":
    main()
