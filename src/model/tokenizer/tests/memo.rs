//! Prompts that are joined from stretches have the tokens of the whole.

use super::*;

/// What `tokenizer.json` may say between a text and its model, beside what the fixtures' files say.
fn normalizers() -> Vec<Value> {
    vec![
        json!(null),
        json!({"type": "NFC"}),
        json!({"type": "NFKC"}),
        json!({"type": "NFD"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}),
        json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": true,
            "lowercase": true}),
    ]
}

fn pre_tokenizers() -> Vec<Value> {
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let bytes = |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let words = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
    vec![
        json!(null),
        metaspace("first", true),
        metaspace("first", false),
        metaspace("always", true),
        metaspace("never", false),
        bytes(false, true),
        bytes(true, true),
        bytes(true, false),
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false, false)]}),
        json!({"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}, metaspace("first", true)]}),
        json!({"type": "FixedLength", "length": 3}),
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "WhitespaceSplit"}),
    ]
}

/// A fixture's tokenizer, in which sections may be replaced and added tokens get flags.
#[derive(Debug, Clone)]
struct Kind {
    file: &'static str,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    /// `lstrip`, `rstrip`, `normalized` and `single_word` of each added token, over and over.
    flags: Vec<[bool; 4]>,
}

impl Kind {
    fn any() -> impl Strategy<Value = Kind> {
        let file = prop::sample::select(vec![
            "chat/bytes.tokenizer.json",
            "chat/pieces.tokenizer.json",
            "models/tokenizers/bytes/tokenizer.json",
            "models/tokenizers/unigram/tokenizer.json",
            "models/tokenizers/word-pieces/tokenizer.json",
        ]);
        let flag = || prop::bool::weighted(0.2);
        let flags = prop::collection::vec([flag(), flag(), flag(), flag()], 1..8);
        let normalizer = prop::option::of(prop::sample::select(normalizers()));
        let pre_tokenizer = prop::option::of(prop::sample::select(pre_tokenizers()));
        let kind = |(file, normalizer, pre_tokenizer, flags)| Kind { file, normalizer, pre_tokenizer, flags };
        (file, normalizer, pre_tokenizer, flags).prop_map(kind)
    }

    fn load(&self) -> Result<Tokenizer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(self.file);
        let mut file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for (section, value) in [("normalizer", &self.normalizer), ("pre_tokenizer", &self.pre_tokenizer)] {
            if let Some(value) = value {
                file[section] = value.clone();
            }
        }
        for (token, flags) in file["added_tokens"].as_array_mut().unwrap().iter_mut().zip(self.flags.iter().cycle()) {
            for (name, flag) in ["lstrip", "rstrip", "normalized", "single_word"].into_iter().zip(flags) {
                token[name] = (*flag).into();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        Tokenizer::load(folder.path(), 1000)
    }
}

/// Part of a prompt: a marker, by its number, or a text.
#[derive(Debug, Clone)]
enum Piece {
    Marker(usize),
    Slot,
    Text(String),
}

impl Piece {
    fn spell<'a>(&'a self, vocabulary: &'a Vocabulary) -> &'a str {
        match self {
            Piece::Marker(number) => &vocabulary.controls()[number % vocabulary.controls().len()].marker,
            Piece::Slot => vocabulary.slot().map_or("", |(slot, _)| slot),
            Piece::Text(text) => text,
        }
    }
}

/// Texts in which letters, white space and accents stand at the borders.
fn odd_text() -> impl Strategy<Value = String> {
    let pieces = vec![
        "",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\u{a0}",
        "▁",
        "_",
        "a",
        "A",
        "word",
        " the logs",
        "'s",
        "42",
        ".",
        "?!",
        "\u{301}",
        "e\u{301}",
        "é",
        "\u{200d}",
        "\u{fe0f}",
        "ﬁ",
        "中文",
        "ก็",
        "\u{1100}",
        "\u{1161}",
        "😀",
        "\u{fffd}",
        "\u{f0001}",
        "\u{f00fe}",
        "\u{f00ff}",
        "\u{100000}",
        "İ",
        "ß",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..5).prop_map(|pieces| pieces.concat())
}

fn pieces(most: usize) -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        4 => any::<usize>().prop_map(Piece::Marker),
        1 => Just(Piece::Slot),
        4 => odd_text().prop_map(Piece::Text),
        2 => hostile_text().prop_map(Piece::Text),
    ];
    prop::collection::vec(piece, 0..most)
}

/// The tokenizers of `NAMES`, each beside one that takes every prompt as a whole.
static LOADED: LazyLock<Vec<(&str, Tokenizer, Tokenizer)>> = LazyLock::new(|| {
    let load = |name| {
        let mut whole = tokenizer(name);
        whole.vocabulary.never_cut();
        (name, tokenizer(name), whole)
    };
    NAMES.map(load).into()
});

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 200, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn stretches_joined_are_the_whole(
        kind in Kind::any(),
        head in pieces(12),
        tails in prop::collection::vec(pieces(6), 1..4),
    ) {
        let tokenizer = kind.load();
        // Not every combination can keep messages apart.
        prop_assume!(!tokenizer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unsupported));
        let tokenizer = tokenizer.unwrap();
        let vocabulary = &tokenizer.vocabulary;
        for tail in &tails {
            let text: String = head.iter().chain(tail).map(|piece| piece.spell(vocabulary)).collect();
            let whole = vocabulary.encode_marked(&text).map_err(|e| e.to_string());
            for round in ["anew", "again"] {
                let joined = vocabulary.encode_prompt(&text).map_err(|e| e.to_string());
                prop_assert_eq!(&joined, &whole, "{}: {:?}", round, text);
            }
        }
    }

    #[test]
    fn conversations_are_the_same_in_stretches(
        contents in prop::collection::vec((prop_oneof![odd_text(), hostile_text()], prop::option::of(0_u32..400)), 1..6),
        add_generation_prompt in any::<bool>(),
    ) {
        let message = |(index, (content, id)): (usize, &(String, Option<u32>))| match (index % 2, id) {
            (0, _) => Message::new(Role::User, content.clone()),
            (_, None) => Message::new(Role::Assistant, content.clone()),
            (_, Some(id)) => sampled(content, vec![*id]),
        };
        let messages: Vec<Message> = contents.iter().enumerate().map(message).collect();
        let options = as_policy(RenderOptions { add_generation_prompt, ..safe() });
        for (name, joined, whole) in LOADED.iter() {
            for turns in 1..=messages.len() {
                let encode = |tokenizer: &Tokenizer| tokenizer.encode_chat(&messages[..turns], &options).ok();
                prop_assert_eq!(encode(joined), encode(whole), "{}, {} messages", name, turns);
            }
        }
    }
}

#[test]
fn markers_cut_unless_their_token_is_looked_for_in_normalized_text() {
    let chat = tokenizer("chatml");
    let markers: Vec<&str> = chat.vocabulary.controls().iter().map(|control| control.marker.as_str()).collect();
    let text = format!("a{}b{}{}c", markers[0], markers[1], markers[2]);
    assert_eq!(chat.vocabulary.cuts(&text).len(), 3);
    let normalized = Kind {
        file: "chat/bytes.tokenizer.json",
        normalizer: Some(json!({"type": "Prepend", "prepend": "x"})),
        pre_tokenizer: None,
        flags: vec![[false, false, true, false], [false; 4]],
    };
    let tokenizer = normalized.load().unwrap();
    let markers: Vec<&str> = tokenizer.vocabulary.controls().iter().map(|control| control.marker.as_str()).collect();
    let text = format!("a{}b{}{}c", markers[0], markers[1], markers[2]);
    assert_eq!(tokenizer.vocabulary.cuts(&text).len(), 1, "the second alone");
}

#[test]
fn threads_share_what_is_known() {
    let tokenizer = tokenizer("chatml");
    let prompt = |turns: usize, thread: usize| {
        let mut messages = user("What fills the disk?");
        messages.extend((0..turns).map(|turn| Message::new(Role::Assistant, format!("{turn} of {}", thread % 2))));
        messages
    };
    let mut whole = super::tokenizer("chatml");
    whole.vocabulary.never_cut();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (tokenizer, whole, prompt) = (&tokenizer, &whole, &prompt);
            scope.spawn(move || {
                for turns in 0..30 {
                    let messages = prompt(turns, thread);
                    let encode = |tokenizer: &Tokenizer| tokenizer.encode_chat(&messages, &safe()).unwrap();
                    assert_eq!(encode(tokenizer), encode(whole));
                }
            });
        }
    });
}
