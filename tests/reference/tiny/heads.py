"""Decoders with a head of scores: reward models, classifiers of sequences and tokens, process rewards."""

from dataclasses import dataclass, field

import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from transformers import Qwen2Model, Qwen2PreTrainedModel

from . import decoders, tokenizers
from .common import ROOT, TOLERANCE, randomise, rng, rounded, save_checkpoint, seed, write_reference

CHATS = {
    "one turn": [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ],
    "two turns": [
        {"role": "user", "content": "What is two and three?"},
        {"role": "assistant", "content": "It is five."},
        {"role": "user", "content": "And twice that?"},
        {"role": "assistant", "content": "Ten, no doubt."},
    ],
}
STEPS = [
    {"role": "system", "content": "Reason step by step."},
    {"role": "user", "content": "What is two and three, doubled?"},
    {
        "role": "assistant",
        "content": "First we add, which gives five.<extra_0>Then we double it.<extra_0>Ten.<extra_0>",
    },
]


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The model of Qwen2.5-Math-PRM, whose code is published with its weights: two layers over each token's state."""

    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, config.num_labels)
        )
        self.post_init()

    def forward(self, input_ids):
        self.logits = self.score(self.model(input_ids).last_hidden_state)
        return self


SEQUENCE, TOKEN = AutoModelForSequenceClassification, AutoModelForTokenClassification
PROCESS = Qwen2ForProcessRewardModel
BFLOAT16 = torch.bfloat16
ONE, TWO = ["LABEL_0"], ["LABEL_0", "LABEL_1"]
SEVERAL = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]


@dataclass
class Head:
    """A checkpoint to make: a decoder of the other table, the head upon it and its labels."""

    decoder: str
    head: type = SEQUENCE
    labels: list = field(default_factory=lambda: ONE)
    dtype: torch.dtype = torch.float32


HEADS = {
    "llama-reward": Head("llama-rope-llama3"),
    "llama-labels": Head("llama", labels=SEVERAL, dtype=BFLOAT16),
    "mistral-reward": Head("mistral"),
    "qwen2-reward": Head("qwen2"),
    "qwen3-reward": Head("qwen3", dtype=BFLOAT16),
    "gemma2-reward": Head("gemma2", dtype=BFLOAT16),
    "gemma3-reward": Head("gemma3", dtype=BFLOAT16),
    "qwen2-token-labels": Head("qwen2.5", TOKEN, ["wrong", "neutral", "right"], BFLOAT16),
    "qwen2-process-reward": Head("qwen2.5", PROCESS, TWO, BFLOAT16),
}


def build(head):
    """The model in its float32 beginning."""
    config = decoders.configuration(decoders.MODELS[head.decoder])
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: index for index, label in enumerate(head.labels)}
    config._attn_implementation = "eager"
    return PROCESS(config) if head.head is PROCESS else head.head.from_config(config)


def make(only):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tokenizers" / "bytes")
    for name, head in HEADS.items():
        if only and name not in only:
            continue
        seed(name)
        random = build(head)
        randomise(random)
        folder = save_checkpoint(random, name, head.dtype)
        model = type(random).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        chats = {**CHATS, "steps": STEPS}
        cases = [random_case(model, head, name, length) for length in (5, 23, 70)]
        cases += [chat_case(model, head, tokenizer, *chat) for chat in chats.items()]
        kind = "sequence_classification" if head.head is SEQUENCE else "token_classification"
        reference = dict(kind=kind, architecture=type(model).__name__, tokenizer="bytes", labels=head.labels)
        if head.head is PROCESS:
            reference.update(marker="<extra_0>", positive=1)
        write_reference(folder.parent, dict(**reference, tolerance=TOLERANCE, cases=cases))
        print(f"{name:24} {cases[0]['scores']}"[:120])


def random_case(model, head, name, length):
    tokens = rng(f"{name} {length}").integers(5, tokenizers.VOCABULARY, length).tolist()
    return dict(name=f"{length} tokens", tokens=tokens, **results(model, head, tokens))


def chat_case(model, head, tokenizer, name, messages):
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    tokens = tokenizer(rendered, add_special_tokens=False).input_ids
    return dict(name=name, messages=messages, rendered=rendered, tokens=tokens, **results(model, head, tokens))


@torch.no_grad()
def results(model, head, tokens):
    """Raw logits: of the sequence, or one row a token. For process rewards also the probability at each marker."""
    logits = model(torch.tensor([tokens])).logits[0]
    if head.head is SEQUENCE:
        return dict(scores=rounded(logits))
    scores = dict(scores=[rounded(row) for row in logits])
    if head.head is PROCESS:
        marked = torch.tensor(tokens) == tokenizers.MARKER
        scores["steps"] = rounded(logits.softmax(-1)[marked, 1])
    return scores
