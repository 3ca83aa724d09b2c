//! The table of tokenizer classes, and which of them the files call for.

use serde_json::{Map, Value};

use super::five::Rebuild;
use super::four::Four;
use super::version::{FIVES, Version};

/// The tokens that a class names where the files name none.
type Defaults = &'static [(&'static str, &'static str)];

/// What a class makes of names that are given as texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wraps {
    /// Nothing: they stay texts.
    Nothing,
    /// The mask takes in the space before it; and whether it is found in normalized text.
    Mask(Option<bool>),
    /// As `Mask`, and every other one becomes an object as well.
    All(Option<bool>),
    /// All become special tokens that are found in text as it stands.
    Flat,
}

/// Tokens without a name that a class brings.
#[derive(Debug, Clone, Copy)]
enum Extra {
    Nothing,
    /// Where the files list none.
    Default(&'static [&'static str]),
    /// Beside those that the files list.
    Always(&'static [&'static str]),
    /// `<extra_id_0>` to `<extra_id_99>`, unless the files list such.
    Sentinels,
}

/// What one version does for a class.
struct Side<Rule> {
    defaults: Defaults,
    wraps: Wraps,
    extra: Extra,
    rule: Rule,
}

const fn side<Rule>(defaults: Defaults, wraps: Wraps, rule: Rule) -> Side<Rule> {
    Side { defaults, wraps, extra: Extra::Nothing, rule }
}

const fn with<Rule>(defaults: Defaults, wraps: Wraps, extra: Extra, rule: Rule) -> Side<Rule> {
    Side { defaults, wraps, extra, rule }
}

/// Classes that do the same. A version that lacks them, or whose rule isn't known here, has `None`.
struct Row {
    classes: &'static [&'static str],
    four: Option<Side<Four>>,
    five: Option<Side<Rebuild>>,
}

const BERT: Defaults = &[
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const FUNNEL: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "<sep>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<cls>"),
    ("mask_token", "<mask>"),
];
const ROBERTA: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];
const MPNET: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "[UNK]"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];
const DEBERTA: Defaults = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const ALBERT: Defaults = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "<unk>"),
    ("sep_token", "[SEP]"),
    ("pad_token", "<pad>"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const BIG_BIRD: Defaults = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "[SEP]"),
    ("pad_token", "<pad>"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
const GPT2: Defaults =
    &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];
const NEOX_FIVE: Defaults = &[
    ("bos_token", "<|endoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|padding|>"),
];
const QWEN: Defaults =
    &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")];
const LLAMA: Defaults = &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
const BLOOM: Defaults = &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
const GEMMA: Defaults =
    &[("bos_token", "<bos>"), ("eos_token", "<eos>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
const GEMMA_FIVE: Defaults = &[
    ("bos_token", "<bos>"),
    ("eos_token", "<eos>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];
const COHERE: Defaults =
    &[("bos_token", "<BOS_TOKEN>"), ("eos_token", "<|END_OF_TURN_TOKEN|>"), ("unk_token", "<UNK>")];
const COHERE_FIVE: Defaults = &[
    ("bos_token", "<BOS_TOKEN>"),
    ("eos_token", "<|END_OF_TURN_TOKEN|>"),
    ("unk_token", "<UNK>"),
    ("sep_token", "<SEP>"),
    ("pad_token", "<PAD>"),
    ("cls_token", "<CLS>"),
    ("mask_token", "<MASK_TOKEN>"),
];
const T5: Defaults = &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];

const MASK: Wraps = Wraps::Mask(Some(false));
const BARE: Wraps = Wraps::Nothing;
const LOWERS: Four = Four::NOTHING.lowering(true);
const LOWERS_BARELY: Four = Four::NOTHING.lowering(false);

/// Every class whose rule is known, without `Fast` at its end. What the rules do is said in `four` and `five`.
const TABLE: &[Row] = &[
    Row { classes: &["PreTrainedTokenizer"], four: Some(side(&[], BARE, Four::NOTHING)), five: None },
    Row {
        classes: &[
            "BertTokenizer",
            "DistilBertTokenizer",
            "ElectraTokenizer",
            "LayoutLMTokenizer",
            "LxmertTokenizer",
            "MobileBertTokenizer",
            "SqueezeBertTokenizer",
        ],
        four: Some(side(BERT, BARE, LOWERS)),
        five: Some(side(BERT, BARE, Rebuild::Bert)),
    },
    Row {
        classes: &["ConvBertTokenizer"],
        four: Some(side(BERT, BARE, LOWERS)),
        five: Some(side(BERT, BARE, Rebuild::BertAround)),
    },
    Row { classes: &["RetriBertTokenizer", "RealmTokenizer"], four: Some(side(BERT, BARE, LOWERS)), five: None },
    Row {
        classes: &["DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer"],
        four: Some(side(BERT, BARE, LOWERS)),
        five: Some(side(BERT, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["SplinterTokenizer"],
        four: Some(with(BERT, BARE, Extra::Default(&["[QUESTION]"]), LOWERS_BARELY)),
        five: Some(side(BERT, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["FunnelTokenizer"],
        four: Some(side(FUNNEL, BARE, LOWERS)),
        five: Some(side(FUNNEL, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["MPNetTokenizer"],
        four: Some(side(MPNET, Wraps::All(None), LOWERS_BARELY)),
        five: Some(side(MPNET, Wraps::All(None), Rebuild::MpNet)),
    },
    Row {
        classes: &["RobertaTokenizer", "LongformerTokenizer"],
        four: Some(side(ROBERTA, MASK, Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Roberta)),
    },
    Row {
        classes: &["BlenderbotTokenizer"],
        four: Some(side(ROBERTA, MASK, Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["BartTokenizer", "LEDTokenizer"],
        four: Some(side(ROBERTA, Wraps::Mask(Some(true)), Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Roberta)),
    },
    Row {
        classes: &["MvpTokenizer"],
        four: Some(side(ROBERTA, Wraps::All(None), Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Roberta)),
    },
    Row {
        classes: &["DebertaTokenizer"],
        four: Some(side(DEBERTA, BARE, Four::NOTHING)),
        five: Some(side(DEBERTA, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["DebertaV2Tokenizer"],
        four: Some(side(DEBERTA, BARE, Four::NOTHING)),
        five: Some(side(DEBERTA, BARE, Rebuild::DebertaV2)),
    },
    Row {
        classes: &["AlbertTokenizer"],
        four: Some(side(ALBERT, MASK, Four::NOTHING)),
        five: Some(side(ALBERT, BARE, Rebuild::Albert)),
    },
    Row {
        classes: &["XLMRobertaTokenizer"],
        four: Some(side(ROBERTA, MASK, Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::XlmRoberta)),
    },
    Row {
        classes: &["BarthezTokenizer"],
        four: Some(side(ROBERTA, MASK, Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["CamembertTokenizer"],
        four: Some(with(ROBERTA, MASK, Extra::Default(&["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]), Four::NOTHING)),
        five: Some(side(ROBERTA, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["BigBirdTokenizer"],
        four: Some(side(BIG_BIRD, Wraps::All(None), Four::NOTHING)),
        five: Some(side(BIG_BIRD, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["RemBertTokenizer"],
        four: Some(side(ALBERT, MASK, Four::NOTHING)),
        five: Some(side(ALBERT, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["T5Tokenizer", "MT5Tokenizer"],
        four: Some(with(T5, BARE, Extra::Sentinels, Four::NOTHING.prefix(None))),
        five: Some(side(T5, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["GPT2Tokenizer"],
        four: Some(side(GPT2, BARE, Four::NOTHING)),
        five: Some(side(GPT2, BARE, Rebuild::Gpt2)),
    },
    Row {
        classes: &["CodeGenTokenizer"],
        four: Some(side(GPT2, BARE, Four::NOTHING)),
        five: Some(side(GPT2, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["GPTNeoXTokenizer"],
        four: Some(side(GPT2, BARE, Four::NOTHING.around(false))),
        five: Some(side(NEOX_FIVE, BARE, Rebuild::GptNeoX)),
    },
    Row { classes: &["BloomTokenizer"], four: Some(side(BLOOM, BARE, Four::NOTHING.inner_prefix())), five: None },
    Row {
        classes: &["Qwen2Tokenizer"],
        four: Some(side(QWEN, Wraps::Flat, Four::NOTHING)),
        five: Some(side(QWEN, BARE, Rebuild::Qwen2)),
    },
    Row { classes: &["Qwen3_5Tokenizer"], four: None, five: Some(side(QWEN, BARE, Rebuild::Qwen35)) },
    Row {
        classes: &["LlamaTokenizer"],
        four: Some(side(LLAMA, BARE, Four::NOTHING.around(true).prefix(None).sentence_piece())),
        five: Some(side(LLAMA, BARE, Rebuild::Llama)),
    },
    Row {
        classes: &["CodeLlamaTokenizer"],
        four: Some(with(
            LLAMA,
            BARE,
            Extra::Always(&["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"]),
            Four::NOTHING.around(true),
        )),
        five: Some(side(LLAMA, BARE, Rebuild::Refused)),
    },
    Row {
        classes: &["GemmaTokenizer"],
        four: Some(side(GEMMA, BARE, Four::NOTHING.around(true))),
        five: Some(side(GEMMA_FIVE, BARE, Rebuild::Gemma)),
    },
    Row {
        classes: &["CohereTokenizer"],
        four: Some(side(COHERE, BARE, Four::NOTHING.around(true).inner_prefix())),
        five: Some(side(COHERE_FIVE, BARE, Rebuild::Cohere)),
    },
];

/// Classes that one of the versions has, but whose rule isn't known here, or that read no `tokenizer.json` at all.
const REFUSED: &[&str] = &[
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CLIPTokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DiaTokenizer",
    "ErnieMTokenizer",
    "EsmTokenizer",
    "EsmcTokenizer",
    "FNetTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSanJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "HerbertTokenizer",
    "JukeboxTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "M2M100Tokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MarianTokenizer",
    "MarkupLMTokenizer",
    "MgpstrTokenizer",
    "MistralCommonBackend",
    "MyT5Tokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PLBartTokenizer",
    "ParakeetTokenizer",
    "PegasusTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "ReformerTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "SeamlessM4TTokenizer",
    "SentencePieceBackend",
    "Siglip2Tokenizer",
    "SiglipTokenizer",
    "Speech2Text2Tokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "TapexTokenizer",
    "Tipsv2Tokenizer",
    "TransfoXLTokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMProphetNetTokenizer",
    "XLMTokenizer",
    "XLNetTokenizer",
];

/// The class of a model type where the tokenizer's files name none, in 4.57 and in 5; the types that foreturn knows.
const MODELS: &[(&str, &str, &str)] = &[
    ("bert", "BertTokenizer", "BertTokenizer"),
    ("deberta-v2", "DebertaV2Tokenizer", "DebertaV2Tokenizer"),
    ("gemma2", "GemmaTokenizer", "GemmaTokenizer"),
    ("gemma3", "GemmaTokenizer", "GemmaTokenizer"),
    ("gemma3_text", "GemmaTokenizer", "GemmaTokenizer"),
    ("llama", "LlamaTokenizer", ""),
    ("mistral", "LlamaTokenizer", "TokenizersBackend"),
    ("modernbert", "PreTrainedTokenizer", "TokenizersBackend"),
    ("phi3", "LlamaTokenizer", "TokenizersBackend"),
    ("qwen2", "Qwen2Tokenizer", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer", "Qwen2Tokenizer"),
    ("smollm3", "PreTrainedTokenizer", ""),
];

/// The class and the version whose rules hold.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) version: Version,
    /// Without `Fast` at its end.
    pub(super) class: String,
    row: Option<&'static Row>,
}

impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        (self.version, &self.class) == (other.version, &other.class)
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Row").field(&self.classes).finish()
    }
}

/// The classes of the table.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|row| row.classes).copied()
}

/// Finds the class as `AutoTokenizer` does.
pub(super) fn choose(
    model: &Map<String, Value>,
    config: &Map<String, Value>,
    generation: &Map<String, Value>,
    tokenizer: &Map<String, Value>,
) -> Result<Chosen, String> {
    let text = |file: &Map<String, Value>, key: &str| file.get(key).and_then(Value::as_str).map(str::to_owned);
    let stated = text(config, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
    let stated = stated.map(|class| class.strip_suffix("Fast").unwrap_or(&class).to_owned());
    let kind = text(model, "model_type");
    let kind = MODELS.iter().find(|(name, ..)| Some(*name) == kind.as_deref());
    let mut version = Version::of(model, config, generation);
    let class = match version {
        Version::Four => stated.or_else(|| kind.map(|(_, class, _)| (*class).to_owned())),
        Version::Five => of_five(stated, kind.map(|(name, _, class)| (*name, *class)), tokenizer),
    };
    let class = class.unwrap_or_else(|| {
        // 4.57 refuses such a folder, 5 takes the file as it stands.
        version = Version::Five;
        FIVES[0].to_owned()
    });
    let row = TABLE.iter().find(|row| row.classes.contains(&&*class));
    let known = row.is_some_and(|row| match version {
        Version::Four => row.four.is_some(),
        Version::Five => row.five.as_ref().is_some_and(|side| side.rule != Rebuild::Refused),
    });
    let remedy = "Set `tokenizer_class` of tokenizer_config.json to PreTrainedTokenizerFast if tokenizer.json gives the \
                  right tokens as it stands";
    if REFUSED.contains(&&*class)
        || row.is_some_and(|row| row.five.as_ref().is_some_and(|side| side.rule == Rebuild::Refused)) && !known
    {
        let version = version.number();
        return Err(format!(
            "the rules of the tokenizer class {class} of transformers {version} are not known. {remedy}"
        ));
    }
    if row.is_none() && config.get("auto_map").is_some_and(|map| map.is_array() || map.get("AutoTokenizer").is_some()) {
        return Err(format!("the tokenizer class {class} is code that comes with the model (`auto_map`). {remedy}"));
    }
    if !known && version == Version::Four {
        // 4.57 knows no such class; 5 takes the file as it stands, and so is done here.
        version = Version::Five;
    }
    Ok(Chosen { version, class, row: row.filter(|_| known) })
}

/// Version 5 distrusts what the files of some models name.
fn of_five(stated: Option<String>, kind: Option<(&str, &str)>, tokenizer: &Map<String, Value>) -> Option<String> {
    let plain = FIVES[0].to_owned();
    match (stated, kind) {
        (Some(_) | None, Some(("mistral" | "phi3" | "modernbert", _))) => Some(plain),
        (Some(_), Some(("qwen2", class))) => Some(class.to_owned()),
        (Some(class), _) if class == "LlamaTokenizer" && is_byte_level(tokenizer) => Some(plain),
        (Some(class), _) if FIVES[..2].contains(&&*class) || class == "PreTrainedTokenizer" => Some(plain),
        (Some(class), _) => Some(class),
        (None, Some((_, class))) if !class.is_empty() => Some(class.to_owned()),
        (None, _) => None,
    }
}

fn is_byte_level(tokenizer: &Map<String, Value>) -> bool {
    let within = |section: &str, list: &str| {
        let part = tokenizer.get(section)?;
        let steps = part.get(list).and_then(Value::as_array).map_or(std::slice::from_ref(part), Vec::as_slice);
        Some(steps.iter().any(|step| step.get("type").is_some_and(|kind| kind == "ByteLevel")))
    };
    within("pre_tokenizer", "pretokenizers") == Some(true) || within("decoder", "decoders") == Some(true)
}

impl Chosen {
    /// The token that the class names `role` where the files name none.
    pub(super) fn default(&self, role: &str) -> Option<&'static str> {
        let row = self.row?;
        let defaults = match self.version {
            Version::Four => row.four.as_ref()?.defaults,
            Version::Five => row.five.as_ref()?.defaults,
        };
        defaults.iter().find(|(name, _)| *name == role).map(|(_, text)| *text)
    }

    pub(super) fn wraps(&self) -> Wraps {
        let wraps = self.row.and_then(|row| match self.version {
            Version::Four => Some(row.four.as_ref()?.wraps),
            Version::Five => Some(row.five.as_ref()?.wraps),
        });
        wraps.unwrap_or(Wraps::Nothing)
    }

    /// The tokens without a name that the class brings, where the files list these.
    pub(super) fn extra(&self, listed: Option<&[&str]>) -> Vec<String> {
        let extra = self.row.filter(|_| self.version == Version::Four).and_then(|row| Some(row.four.as_ref()?.extra));
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        match extra.unwrap_or(Extra::Nothing) {
            Extra::Default(list) if listed.is_none() => own(list),
            Extra::Always(list) => own(list),
            Extra::Sentinels if !listed.unwrap_or_default().iter().any(|text| text.contains("<extra_id_")) => {
                (0..100).map(|number| format!("<extra_id_{number}>")).collect()
            }
            Extra::Nothing | Extra::Default(_) | Extra::Sentinels => Vec::new(),
        }
    }

    pub(super) fn four(&self) -> Four {
        self.row.and_then(|row| Some(row.four.as_ref()?.rule)).unwrap_or(Four::NOTHING)
    }

    /// How version 5 builds the tokenizer; `None` where it takes the file as it stands.
    pub(super) fn five(&self) -> Option<Rebuild> {
        let rule = self.row?.five.as_ref()?.rule;
        (self.version == Version::Five).then_some(rule)
    }
}
