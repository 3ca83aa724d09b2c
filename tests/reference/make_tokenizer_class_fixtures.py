"""Records what AutoTokenizer makes of generated tokenizer folders: tests/fixtures/tokenizer-classes/*.json.

Run it once with each version, in an environment of its own, and without torch:
    pip install transformers==4.57.6 tokenizers==0.22.1 sentencepiece protobuf && python make_tokenizer_class_fixtures.py
    pip install transformers==5.24.0 && python make_tokenizer_class_fixtures.py
The file is named after the major version. Each case is a folder: a small tokenizer.json of some kind, the class and the
flags that tokenizer_config.json gives, and which file names which tokens. What is recorded: the tokens of texts with and
without the tokenizer's own around them, and the named tokens; or that transformers refuses the folder. saved-*.json lists
the files that save_pretrained writes, and templates-*.json the chat templates of folders that have them in several places.
The cases are drawn with a fixed seed, and some are written by hand.
"""

import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
os.environ["HF_HUB_OFFLINE"] = "1"
import transformers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

MAJOR = int(transformers.__version__.split(".")[0])
OUT = Path(__file__).parent.parent / "fixtures" / "tokenizer-classes"

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "<|endoftext|>",
           "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<image>", "<Think>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"]
WORDS = ["hello", "Hello", "##s", "world", "World", "a", "b", "e", "é", "E", "中", "文", "中文", "<", ">", "|", "/", "[",
         "]", "im", "think", "_"]
LETTERS = list("abcdefghiklmnorstuvwxyzABCDEGHKLMNOPRSTUW<>|/[]_!?0123456789")
TEXTS = ["Hello World", "é World  a", " hello<|im_end|>a", "中文a <mask> b[MASK]a", "<Think>a<think> </s>b</S>",
         "<|im_start|>a <image>\n[SEP] <s>a"]


def ids(pieces):
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def document(model, normalizer, pre_tokenizer, decoder=None, post_processor=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


def bpe(vocab, merges, **fields):
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {**base, **fields, "vocab": vocab, "merges": merges}


def byte_level(prefix):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}


def kinds():
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    pieces = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": ids(SPECIAL + WORDS)}
    word_piece = document(pieces, bert, {"type": "BertPreTokenizer"}, {"type": "WordPiece", "prefix": "##", "cleanup": True})
    from tokenizers import pre_tokenizers
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [["Ġ", "a"], ["Ġ", "b"], ["Ġ", "W"], ["l", "l"], ["Ġ", "H"]]
    bytes_ = document(bpe(ids(SPECIAL + alphabet + ["".join(m) for m in merges]), merges), None, byte_level(True), byte_level(True))
    steps = [{"type": "Digits", "individual_digits": True}, byte_level(False)]
    steps = {"type": "Sequence", "pretokenizers": steps}
    many = document(bpe(ids(SPECIAL + alphabet + ["".join(m) for m in merges]), merges), {"type": "NFC"}, steps, byte_level(True))
    lower = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    lowered = document(bpe(ids(SPECIAL + alphabet + ["".join(m) for m in merges]), merges), lower, byte_level(False), byte_level(True))
    spm = SPECIAL + ["▁"] + [f"<0x{b:02X}>" for b in range(256)] + LETTERS + ["▁a", "▁b", "▁W", "ll", "▁H"]
    merges = [["▁", "a"], ["▁", "b"], ["▁", "W"], ["l", "l"], ["▁", "H"]]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    pieces = document(bpe(ids(spm), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True), normalizer, None)
    scores = [[piece, 0.0 if index < len(SPECIAL) else -float(index % 17) - 1] for index, piece in enumerate(ids(spm))]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    unigram = document({"type": "Unigram", "unk_id": 7, "vocab": scores, "byte_fallback": False}, {"type": "NFKC"}, space)
    return {"word-piece": word_piece, "bytes": bytes_, "bytes-steps": many, "bytes-lower": lowered, "pieces": pieces, "unigram": unigram}


KINDS = kinds()
CLASSES = {
    "word-piece": ["BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "DistilBertTokenizer", "MPNetTokenizer",
                   "FunnelTokenizer", "LayoutLMTokenizer", "LxmertTokenizer", "MobileBertTokenizer", "RetriBertTokenizer",
                   "SplinterTokenizer", "SqueezeBertTokenizer", "ConvBertTokenizer", "PreTrainedTokenizerFast"],
    "bytes": ["GPT2Tokenizer", "RobertaTokenizer", "BartTokenizerFast", "LongformerTokenizer", "LEDTokenizer", "MvpTokenizer",
              "DebertaTokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast", "GPTNeoXTokenizerFast", "CodeGenTokenizer",
              "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", "BlenderbotTokenizer"],
    "bytes-steps": ["CohereTokenizerFast", "BloomTokenizerFast", "PreTrainedTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer",
                    "GPTNeoXTokenizer"],
    "bytes-lower": ["PreTrainedTokenizerFast", "GPT2TokenizerFast", "Qwen2Tokenizer", "TokenizersBackend"],
    "pieces": ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer", "GemmaTokenizerFast",
               "PreTrainedTokenizerFast"],
    "unigram": ["XLMRobertaTokenizer", "DebertaV2Tokenizer", "AlbertTokenizer", "T5Tokenizer", "CamembertTokenizer",
                "BarthezTokenizer", "BigBirdTokenizer", "RemBertTokenizer", "PreTrainedTokenizerFast"],
}
FLAGS = {
    "word-piece": {"do_lower_case": [True, False], "strip_accents": [None, True, False], "tokenize_chinese_chars": [True, False]},
    "bytes": {"add_prefix_space": [True, False, None], "trim_offsets": [False], "add_bos_token": [True, False],
              "add_eos_token": [True, False]},
    "pieces": {"add_bos_token": [True, False], "add_eos_token": [True], "legacy": [True, False], "add_prefix_space": [None]},
    "unigram": {"do_lower_case": [True, False], "keep_accents": [True], "split_by_punct": [True], "add_prefix_space": [False]},
}
FLAGS["bytes-steps"] = FLAGS["bytes-lower"] = FLAGS["bytes"]


def entry(content, **flags):
    base = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {**base, **flags}


def draw(rng, kind, name):
    """One folder: the kind, the changes of tokenizer.json and the other files."""
    config = {"tokenizer_class": name}
    for flag, values in FLAGS[kind].items():
        if rng.random() < 0.45:
            config[flag] = rng.choice(values)
    change, files = {}, {"tokenizer_config.json": config}
    vocab = KINDS[kind]["model"]["vocab"]
    index = {piece: i for i, piece in enumerate(p[0] for p in vocab)} if isinstance(vocab, list) else vocab
    known = rng.sample(SPECIAL, rng.choice([0, 3, 8]))
    listed = []
    for text in known:
        flags = {"lstrip": rng.random() < 0.15, "rstrip": rng.random() < 0.1}
        flags |= rng.choice([{}, {}, {"special": False, "normalized": True}, {"normalized": True}, {"special": False}])
        listed.append({"id": index[text], **entry(text, **flags)})
    if listed:
        change["added_tokens"] = sorted(listed, key=lambda token: token["id"])
    if kind == "word-piece":
        change["normalizer"] = {**KINDS[kind]["normalizer"], "lowercase": rng.random() < 0.5,
                                "strip_accents": rng.choice([None, True, False]), "handle_chinese_chars": rng.random() < 0.7}
        if rng.random() < 0.1:
            change["normalizer"] = {"type": "Sequence", "normalizers": [change["normalizer"]]}
    if rng.random() < 0.4:
        decoder = {}
        for text in rng.sample(SPECIAL, 5):
            flags = rng.choice([{}, {"lstrip": True}, {"special": False, "normalized": True}, {"rstrip": True}])
            # Files that were saved agree on special tokens; 4.57 mixes the flags of files that don't.
            other = next((token for token in listed if token["content"] == text), None)
            if other and (other["special"] or flags.get("special", True)):
                flags = {k: v for k, v in other.items() if k not in ("id", "content")}
            decoder[str(index[text])] = entry(text, **flags)
        if rng.random() < 0.3:
            decoder[str(len(index))] = entry("<|new|>")
        config["added_tokens_decoder"] = decoder
    places = [config]
    if rng.random() < 0.5:
        places.append(files.setdefault("special_tokens_map.json", {}))
    for role in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]:
        for place in places:
            if rng.random() < 0.25:
                text = rng.choice(SPECIAL)
                form = rng.random()
                if form < 0.7:
                    place[role] = text
                elif form < 0.9:
                    token = entry(text, lstrip=rng.random() < 0.5)
                    token.pop("special")
                    place[role] = {"__type": "AddedToken", **token} if place is config else token
                elif place is config:
                    place[role] = None
    for place in places:
        if rng.random() < 0.3:
            place["additional_special_tokens"] = rng.sample(SPECIAL, 2)
    draw_extra(rng, config, files, index)
    return {"kind": kind, "change": change, "files": files}


def draw_extra(rng, config, files, index):
    if rng.random() < 0.15:
        config["extra_special_tokens"] = {"image_token": "<image>"}
    elif rng.random() < 0.1 and MAJOR >= 5:
        config["extra_special_tokens"] = ["<image>", "<|im_start|>"]
    elif rng.random() < 0.2:
        config["extra_special_tokens"] = {}
    if rng.random() < 0.1:
        config["image_token"] = "<image>"
    if rng.random() < 0.15:
        files["added_tokens.json"] = {text: index[text] for text in rng.sample(SPECIAL, 2)}


def written_out():
    """Cases that random drawing makes too rarely."""
    for flags in itertools.product([None, True, False], [None, True, False], [None, True, False]):
        lower, accents, chinese = flags
        config = {"tokenizer_class": "BertTokenizer", "strip_accents": accents}
        config |= {} if lower is None else {"do_lower_case": lower}
        config |= {} if chinese is None else {"tokenize_chinese_chars": chinese}
        yield {"kind": "word-piece", "change": {}, "files": {"tokenizer_config.json": config}}
    for prefix in ["absent", None, True, False]:
        for name in ["PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizer", "Qwen2Tokenizer", "RobertaTokenizer"]:
            config = {"tokenizer_class": name} | ({} if prefix == "absent" else {"add_prefix_space": prefix})
            yield {"kind": "bytes", "change": {}, "files": {"tokenizer_config.json": config}}
    for model in ["bert", "deberta-v2", "gemma2", "gemma3_text", "llama", "mistral", "modernbert", "phi3", "qwen2", "qwen3", "smollm3"]:
        kind = {"bert": "word-piece", "deberta-v2": "unigram", "llama": "pieces", "phi3": "pieces", "mistral": "pieces"}
        kind = kind.get(model, "pieces" if model.startswith("gemma") else "bytes")
        for config in [{}, {"tokenizer_class": "PreTrainedTokenizerFast"}, {"tokenizer_class": "LlamaTokenizerFast"}]:
            yield {"kind": kind, "change": {}, "files": {"tokenizer_config.json": config, "config.json": {"model_type": model}}}
    for eos in [{"config": "<|im_end|>"}, {"map": "<|im_end|>"}, {"config": "<|im_end|>", "map": "<eos>"}]:
        for decoder in [None, {}, {"16": entry("<Think>", special=False, normalized=True)}]:
            config = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"eos_token": eos["config"]} if "config" in eos else {})
            config |= {} if decoder is None else {"added_tokens_decoder": decoder}
            files = {"tokenizer_config.json": config}
            if "map" in eos:
                files["special_tokens_map.json"] = {"eos_token": eos["map"]}
            for kind in ["bytes-lower", "pieces"]:
                yield {"kind": kind, "change": {}, "files": files}
    yield from contradictory()


def contradictory():
    """Files that say different things about one token."""
    flags = [dict(zip(("special", "normalized"), pair)) for pair in itertools.product([True, False], repeat=2)]
    for first, second, kind in itertools.product(flags, flags, ["bytes-lower", "pieces"]):
        change = {"added_tokens": [{"id": SPECIAL.index("<Think>"), **entry("<Think>", **first)}]}
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
        decoder = {str(SPECIAL.index("<Think>")): entry("<Think>", lstrip=True, **second)}
        yield {"kind": kind, "change": change, "files": {"tokenizer_config.json": {**config, "added_tokens_decoder": decoder}}}
        role = {"__type": "AddedToken", **entry("<Think>", lstrip=True, normalized=second["normalized"])}
        del role["special"]
        named = {**config, "bos_token": role if second["special"] else "<Think>"}
        yield {"kind": kind, "change": change, "files": {"tokenizer_config.json": named}}
        if first["special"]:
            added = {"<Think>": SPECIAL.index("<Think>"), "<image>": SPECIAL.index("<image>")}
            yield {"kind": kind, "change": {}, "files": {"tokenizer_config.json": named, "added_tokens.json": added}}


def record(case):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = {"config.json": {"model_type": "smollm3" if "config.json" not in case["files"] else None}}
        if "config.json" not in case["files"]:
            files = {}
        files |= case["files"]
        files["tokenizer.json"] = {**KINDS[case["kind"]], **case["change"]}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:  # whatever it is, the folder is refused
            return {"refused": type(error).__name__}
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    alone = tokenizer("a")["input_ids"]
    # CodeLlama's class takes a second text, which comes after a gap.
    pair = {"input_ids": None} if "CodeLlama" in type(tokenizer).__name__ else tokenizer("a", "b")
    return {"class": type(tokenizer).__name__, "tokens": texts, "alone": alone, "pair": pair["input_ids"],
            "named": {role: text for role, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}}


def saved():
    """The files that save_pretrained writes, of tokenizers with several templates and with added tokens."""
    names = set()
    for kind, name in [("word-piece", "BertTokenizer"), ("bytes", "GPT2Tokenizer"), ("bytes", "Qwen2Tokenizer"),
                       ("unigram", "XLMRobertaTokenizer"), ("bytes", "PreTrainedTokenizerFast")]:
        for templates in [None, "{{ messages }}", {"default": "{{ messages }}", "rag": "RAG"}]:
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                (folder / "tokenizer.json").write_text(json.dumps(KINDS[kind]))
                (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
                tokenizer = AutoTokenizer.from_pretrained(folder)
                tokenizer.add_tokens(["<new>"])
                tokenizer.chat_template = templates
                tokenizer.save_pretrained(folder / "out")
                names |= {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*") if path.is_file()}
                transformers.GenerationConfig(eos_token_id=1).save_pretrained(folder / "out")
                names.add("generation_config.json")
    return sorted(names)


def templates():
    """The chat templates of folders that have them in several places."""
    config = [None, "C", [{"name": "default", "template": "CD"}, {"name": "rag", "template": "CR"}],
              [{"name": "rag", "template": "CR"}], {"default": "DD", "rag": "DR"}, []]
    further = [{}, {"rag.jinja": "AR"}, {"default.jinja": "AD"}, {"rag.jinja": "AR", "x.txt": "no", "tool use.jinja": "T"}]
    for given, own, more in itertools.product(config, [None, "J"], further):
        with tempfile.TemporaryDirectory() as folder:
            files = {f"additional_chat_templates/{name}": source for name, source in more.items()}
            files |= {} if own is None else {"chat_template.jinja": own}
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": given}
            (Path(folder) / "additional_chat_templates").mkdir()
            for name, content in {**files, "tokenizer_config.json": json.dumps(settings), "tokenizer.json": json.dumps(KINDS["bytes"])}.items():
                (Path(folder) / name).write_text(content)
            found = AutoTokenizer.from_pretrained(folder).chat_template
        found = {"default": found} if isinstance(found, str) else found or {}
        yield {"config": settings, "files": files, "templates": found}


def main():
    rng = random.Random(20261128)
    cases = list(written_out())
    for kind, names in CLASSES.items():
        for name in names:
            cases += [draw(rng, kind, name) for _ in range(5)]
    for number, case in enumerate(cases):
        case.update(record(case))
        if "config.json" not in case["files"]:
            case["files"]["config.json"] = {"transformers_version": transformers.__version__}
        else:
            case["files"]["config.json"]["transformers_version"] = transformers.__version__
    OUT.mkdir(parents=True, exist_ok=True)
    refused = sum("refused" in case for case in cases)
    print(f"{len(cases)} cases, {refused} of them refused", file=sys.stderr)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    (OUT / f"transformers-{MAJOR}.json").write_text(f'{{"texts":{json.dumps(TEXTS, ensure_ascii=False)},"cases":[\n{lines}\n]}}\n')
    (OUT / f"templates-{MAJOR}.json").write_text("[\n" + ",\n".join(map(json.dumps, templates())) + "\n]\n")
    (OUT / f"saved-{MAJOR}.json").write_text(json.dumps(saved()) + "\n")
    kinds = ",\n".join(f"{json.dumps(name)}:{json.dumps(kind, ensure_ascii=False, separators=(',', ':'))}" for name, kind in KINDS.items())
    (OUT / "kinds.json").write_text(f"{{{kinds}}}\n")


if __name__ == "__main__":
    main()
