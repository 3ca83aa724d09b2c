"""The tokenizers that the models share, in tests/fixtures/models/tokenizers/<kind>."""

import shutil

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, DebertaV2TokenizerFast, PreTrainedTokenizerFast

from .common import ROOT

VOCABULARY = 320
CORPUS = [
    "The user asks a question and the assistant answers it in a few words. Yes, no, maybe.",
    "You are a helpful assistant. Write an essay about the sea; the sea is wide and deep.",
    "First we add two and three, which gives five. Then we double it. The answer is ten.",
    "What is the capital of France? The capital of France is Paris.",
] * 4
# ChatML, as Qwen and SmolLM use it.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PAD, START, END, MARKER, BOS = range(5)


def byte_level():
    """Byte-level BPE as of GPT-2 and its heirs; ids 0 to 4 are PAD, START, END, MARKER and BOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>", "<|begin_of_text|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[PAD],
        eos_token=special[END],
        additional_special_tokens=special[START : MARKER + 1],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def word_piece():
    """WordPiece as of BERT: lower case, [CLS] text [SEP] pair [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=512)


def unigram():
    """Unigram over pieces that begin with U+2581, as of DeBERTa-v2 and -v3."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return DebertaV2TokenizerFast(tokenizer_object=tokenizer, model_max_length=512)


KINDS = {"bytes": byte_level, "word-pieces": word_piece, "unigram": unigram}


def make(_only):
    for kind, build in KINDS.items():
        folder = ROOT / "tokenizers" / kind
        shutil.rmtree(folder, ignore_errors=True)
        build().save_pretrained(folder)
        for name in ("special_tokens_map.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
