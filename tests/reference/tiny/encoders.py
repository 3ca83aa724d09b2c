"""Encoders: classifiers of sequences and tokens, and sentence embeddings."""

import json
from dataclasses import dataclass, field

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from transformers import CONFIG_MAPPING

from . import tokenizers
from .common import ROOT, TOLERANCE, randomise, rng, rounded, save_checkpoint, seed, write_reference

BASE = dict(
    vocab_size=tokenizers.VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    initializer_range=0.3,
    pad_token_id=0,
)
BERT = dict(max_position_embeddings=96)
DEBERTA = dict(
    max_position_embeddings=96,
    relative_attention=True,
    max_relative_positions=-1,
    position_buckets=8,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
    type_vocab_size=0,
    layer_norm_eps=1e-7,
)
CONVOLUTION = dict(conv_kernel_size=3, conv_act="gelu")
MODERN = dict(
    max_position_embeddings=256,
    num_hidden_layers=4,
    global_attn_every_n_layers=3,
    local_attention=16,
    initializer_cutoff_factor=2.0,
    reference_compile=False,
    bos_token_id=2,
    cls_token_id=2,
    eos_token_id=3,
    sep_token_id=3,
)
TEXTS = {
    "a text": ("What is the capital of France?", None),
    "a pair": ("What is the capital of France?", "The capital of France is Paris."),
    "a longer pair": (" ".join(tokenizers.CORPUS[:2]), "Yes, no, maybe. The answer is ten."),
}
BFLOAT16 = torch.bfloat16
SEQUENCE, TOKEN, EMBEDDING = AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModel


@dataclass
class Encoder:
    """A checkpoint to make: model type, what differs from BASE, tokenizer, head, labels, and pooling of embeddings."""

    kind: str
    changes: dict
    tokenizer: str = "word-pieces"
    head: type = SEQUENCE
    labels: list = field(default_factory=lambda: ["LABEL_0"])
    pooling: str = "mean"
    normalise: bool = True
    dtype: torch.dtype = torch.float32


MODELS = {
    "bert-labels": Encoder("bert", BERT, labels=["contradiction", "entailment", "neutral"]),
    "bert-token-labels": Encoder("bert", BERT, head=TOKEN, labels=["O", "B-PER", "I-PER", "B-LOC"]),
    "bert-embedding": Encoder("bert", BERT, head=EMBEDDING),
    "bert-embedding-first": Encoder("bert", BERT, head=EMBEDDING, pooling="cls", normalise=False, dtype=torch.float16),
    # As in deberta-v2-xlarge, which has a convolution beside its first layer.
    "deberta-v2-labels": Encoder(
        "deberta-v2", {**DEBERTA, **CONVOLUTION}, "unigram", labels=["no", "yes"], dtype=BFLOAT16
    ),
    "deberta-v2-own-keys": Encoder(
        "deberta-v2", {**DEBERTA, "share_att_key": False, "type_vocab_size": 2}, "unigram", dtype=BFLOAT16
    ),
    "deberta-v3-reward": Encoder("deberta-v2", DEBERTA, "unigram"),
    "modernbert-mean": Encoder("modernbert", {**MODERN, "classifier_pooling": "mean"}, labels=["no", "yes"]),
    "modernbert-first": Encoder("modernbert", {**MODERN, "classifier_pooling": "cls"}, dtype=BFLOAT16),
}


def build(encoder):
    """The model in its initial float32 form."""
    config = CONFIG_MAPPING[encoder.kind](**{**BASE, **encoder.changes})
    if encoder.head is not EMBEDDING:
        config.id2label = dict(enumerate(encoder.labels))
        config.label2id = {label: index for index, label in enumerate(encoder.labels)}
    return encoder.head.from_config(config, **attention(encoder))


def attention(encoder):
    """The implementation of attention. DeBERTa has only one."""
    return {} if encoder.kind == "deberta-v2" else dict(attn_implementation="eager")


def make(only):
    for name, encoder in MODELS.items():
        if only and name not in only:
            continue
        seed(name)
        random = build(encoder)
        randomise(random)
        folder = save_checkpoint(random, name, encoder.dtype)
        model = type(random).from_pretrained(folder, dtype=torch.float32, **attention(encoder)).eval()
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "tokenizers" / encoder.tokenizer)
        cases = [text_case(model, encoder, tokenizer, *item) for item in TEXTS.items()]
        cases.append(random_case(model, encoder, tokenizer, name))
        write_reference(folder.parent, dict(**head(encoder, model, folder), tolerance=TOLERANCE, cases=cases))
        print(f"{name:24} {[str(case.get('scores', case.get('embedding')))[:24] for case in cases]}")


def head(encoder, model, folder):
    """The beginning of reference.json. For embeddings, this also writes the files of sentence-transformers."""
    kinds = {SEQUENCE: "sequence_classification", TOKEN: "token_classification", EMBEDDING: "embedding"}
    start = dict(kind=kinds[encoder.head], architecture=type(model).__name__, tokenizer=encoder.tokenizer)
    if encoder.head is EMBEDDING:
        write_sentence_transformer(folder, encoder, model.config.hidden_size)
        return dict(**start, pooling=encoder.pooling, normalise=encoder.normalise)
    return dict(**start, labels=encoder.labels)


def write_sentence_transformer(folder, encoder, size):
    names = ["Transformer", "Pooling"] + ["Normalize"] * encoder.normalise
    modules = []
    for index, name in enumerate(names):
        path = f"{index}_{name}" if index else ""
        modules.append(dict(idx=index, name=str(index), path=path, type=f"sentence_transformers.models.{name}"))
    modes = dict(cls_token="cls", mean_tokens="mean", max_tokens="max", mean_sqrt_len_tokens="sqrt")
    pooling = {f"pooling_mode_{mode}": short == encoder.pooling for mode, short in modes.items()}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", dict(max_seq_length=96, do_lower_case=False))
    write_json(folder / "1_Pooling" / "config.json", dict(word_embedding_dimension=size, **pooling))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def text_case(model, encoder, tokenizer, name, texts):
    text, pair = texts
    feed = tokenizer(text, pair, return_token_type_ids=True)
    case = dict(name=name, text=text, **({"pair": pair} if pair else {}))
    return dict(**case, **results(model, encoder, feed["input_ids"], feed["token_type_ids"]))


def random_case(model, encoder, tokenizer, name):
    """A case as long as the model allows. Half of it is of the second type."""
    middle = rng(name).integers(5, tokenizers.VOCABULARY, 88).tolist()
    tokens = [tokenizer.cls_token_id, *middle, tokenizer.sep_token_id]
    return dict(name="90 tokens", **results(model, encoder, tokens, [0] * 45 + [1] * 45))


@torch.no_grad()
def results(model, encoder, tokens, types):
    """The inputs, and raw logits (of the sequence, or one row per token) or the pooled embedding."""
    feed = dict(input_ids=torch.tensor([tokens]))
    inputs = dict(tokens=tokens)
    if getattr(model.config, "type_vocab_size", 0):
        feed["token_type_ids"] = torch.tensor([types])
        inputs["token_type_ids"] = types
    output = model(attention_mask=torch.ones_like(feed["input_ids"]), **feed)
    if encoder.head is EMBEDDING:
        states = output.last_hidden_state[0]
        pooled = states.mean(0) if encoder.pooling == "mean" else states[0]
        return dict(**inputs, embedding=rounded(pooled / pooled.norm() if encoder.normalise else pooled))
    if encoder.head is TOKEN:
        return dict(**inputs, scores=[rounded(row) for row in output.logits[0]])
    return dict(**inputs, scores=rounded(output.logits))
