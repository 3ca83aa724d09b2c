//! Text to tokens and back, and conversations to prompts.
//!
//! ```text
//! messages ──template──▶ text of the prompt ──vocabulary──▶ tokens ──stream──▶ text of the reply
//! ```
//!
//! `files` reads the files of the model folder, and `auto` changes the tokenizer as transformers does after reading it.
//! `bounds` keeps hostile files from the library. `template` renders chat templates as transformers does, with `jinja`
//! for Jinja and Python and `date` for today. `vocabulary` holds the tokenizer twice, once as it is and once deaf to
//! control tokens in text; `memo` keeps the tokens of what was encoded. `prompt` brings them together so that what a
//! message says is never taken for structure, with the help of `disguise`. Reward models and encoders also need
//! `around` (the tokens around a text) and `steps` (a mark after each step of a solution). `spelling` says what each
//! token spells.
//!
//! Three things are ours, and not transformers'. The date that a template prints is the configuration's, or that of the day
//! on which the engine started; a ranking records it. Reasoning (`<think>…</think>`) stays in a message, because the model's
//! own template decides what later prompts keep of it; simulators and judges are shown what is left without it. If a
//! template takes no system message (Gemma 2), `chat::local` puts that of a chat request in front of the first message.
//! `engine::Model::render` and `generate` leave conversations as they are, errors included.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

mod around;
pub(crate) mod auto;
pub(crate) mod bounds;
mod date;
mod disguise;
pub(crate) mod files;
mod jinja;
mod memo;
mod prompt;
#[cfg(feature = "constraints")]
mod spelling;
mod steps;
mod stream;
mod strftime;
mod template;
#[cfg(test)]
mod tests;
mod vocabulary;

use around::Around;
pub use around::{Bos, EncodedText};
pub use date::DateTime;
pub use prompt::{Compat, EncodedChat, RenderOptions};
pub use steps::EncodedSteps;
pub use stream::TextStream;
use template::ChatTemplate;
use vocabulary::Vocabulary;

/// A model's tokenizer and its chat template. Immutable once loaded: share it by reference or `Arc`.
///
/// ```no_run
/// use std::path::Path;
///
/// use foreturn::chat::{Message, Role};
/// use foreturn::model::tokenizer::{RenderOptions, Tokenizer};
///
/// let tokenizer = Tokenizer::load(Path::new("target/models/smollm2-135m-instruct"), 49_152)?;
/// let chat = [Message::new(Role::User, "What does <|im_end|> mean?")];
/// let prompt = tokenizer.encode_chat(&chat, &RenderOptions::default())?;
/// assert_eq!(prompt.tokens.iter().filter(|id| Some(**id) == tokenizer.eos_token()).count(), 2);
/// # Ok::<(), foreturn::Error>(())
/// ```
pub struct Tokenizer {
    vocabulary: Vocabulary,
    /// A template that can't be compiled is an error only for those who use it.
    templates: BTreeMap<String, Result<ChatTemplate>>,
    named: Map<String, Value>,
    /// A post-processor that can't be read is an error only for those who use it.
    around: Result<Around>,
    folder: String,
    longest: OnceLock<usize>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` of a model
    /// folder; only the first must be there. `vocab_size` is the number of the model's logits.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] where a file is missing or damaged, or a token's id is beyond `vocab_size`;
    /// [`ErrorKind::Unsupported`] where message text can't be kept apart from control tokens.
    pub fn load(folder: impl AsRef<Path>, vocab_size: usize) -> Result<Self> {
        let folder = folder.as_ref();
        bounds::caught(&folder.display().to_string(), || Self::build(folder, vocab_size))
    }

    fn build(folder: &Path, vocab_size: usize) -> Result<Self> {
        let files = files::Files::read(folder)?;
        let compile = |(name, source): (&String, &String)| {
            let origin = format!("the chat template `{name}` of {}", folder.display());
            (name.clone(), ChatTemplate::compile(source, origin))
        };
        let templates = files.templates.iter().map(compile).collect();
        let (path, named) = (files.settled.path.clone(), files.settled.named.clone());
        let processor = files.settled.tokenizer.get("post_processor").cloned().unwrap_or_default();
        let vocabulary = Vocabulary::build(files, vocab_size)?;
        let around = Around::new(&processor).and_then(|around| match around.largest() {
            Some(id) if id as usize >= vocab_size => {
                Err(format!("`post_processor` puts token {id}, but the model knows {vocab_size} tokens only"))
            }
            _ => Ok(around),
        });
        let around = around.map_err(|why| Error::invalid_model(format!("{path}: {why}. Save it again, or correct it")));
        Ok(Tokenizer {
            templates,
            around,
            folder: folder.display().to_string(),
            vocabulary,
            named,
            longest: OnceLock::new(),
        })
    }

    /// What differs between two tokenizers, if they don't make the same prompts.
    pub(crate) fn difference(one: &Tokenizer, other: &Tokenizer) -> Option<&'static str> {
        fn sources(of: &Tokenizer) -> impl Iterator<Item = (&String, Option<&str>)> {
            of.templates.iter().map(|(name, template)| (name, template.as_ref().ok().map(ChatTemplate::source)))
        }
        if !sources(one).eq(sources(other)) {
            return Some("its chat template");
        }
        if [one.bos_token(), one.eos_token()] != [other.bos_token(), other.eos_token()] {
            return Some("the tokens that begin and end a text");
        }
        (!one.vocabulary.equals(&other.vocabulary)).then_some("its tokenizer")
    }

    /// The tokens of a text in which added tokens (`<|im_end|>`) are recognised. No token is put before or after.
    ///
    /// # Errors
    /// Fails where the tokenizer does.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.vocabulary.encode_real(text)
    }

    /// The tokens of a foreign text: whatever it spells, they are no control tokens.
    ///
    /// # Errors
    /// Fails where the tokenizer does.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        if self.vocabulary.has_marker(text) {
            return Err(Error::invalid_request(
                "the text contains this process's private marker; it cannot be encoded",
            ));
        }
        self.vocabulary.encode_marked(text)
    }

    /// The text of some tokens; with `skip_special`, without that of special tokens. Ids without a token give no text.
    ///
    /// # Errors
    /// Fails where the tokenizer's decoder does.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        bounds::caught(&self.folder, || {
            self.vocabulary.real().decode(tokens, skip_special).map_err(|e| {
                let message = format!("{}: the tokenizer cannot decode tokens {tokens:?}: {e}", self.folder);
                Error::new(ErrorKind::InvalidModel, message).with_source(e)
            })
        })
    }

    /// The id of a token by its name in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.real().token_to_id(token)
    }

    /// The token that ends a turn or a text, as `tokenizer_config.json` names it.
    pub fn eos_token(&self) -> Option<u32> {
        self.named_token("eos_token")
    }

    /// The token that begins a text, as `tokenizer_config.json` names it.
    pub fn bos_token(&self) -> Option<u32> {
        self.named_token("bos_token")
    }

    fn named_token(&self, name: &str) -> Option<u32> {
        self.token_id(self.named.get(name)?.as_str()?)
    }

    /// Whether an id is a control token: one that structures prompts and never comes from the text of a message.
    pub fn is_control_token(&self, id: u32) -> bool {
        self.vocabulary.is_control(id)
    }

    /// Whether the model has a control token of this text.
    pub fn has_control_token(&self, text: &str) -> bool {
        self.control_token(text).is_some()
    }

    /// The id of the model's control token of this text.
    pub(crate) fn control_token(&self, text: &str) -> Option<u32> {
        self.vocabulary.controls().iter().find(|control| control.text == text).map(|control| control.id)
    }

    /// Most bytes that a token stands for, as the vocabulary spells it.
    pub(crate) fn longest_token(&self) -> usize {
        let measure = || {
            let vocabulary = self.vocabulary.real().get_vocab(true);
            // Our own markers come from no text.
            let foreign = vocabulary.keys().filter(|token| !self.vocabulary.has_marker(token));
            foreign.map(String::len).max().unwrap_or(0)
        };
        *self.longest.get_or_init(measure)
    }

    /// The names of the model's chat templates; empty for a base model.
    pub fn template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The tokens with which a reply can open as an answer, given its spellings ("Yes", "yes"): each spelling that is
    /// one token gives it, as it stands and after a space.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] where no spelling is a single token.
    pub fn answer_tokens(&self, spellings: &[String]) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for spelling in spellings.iter().filter(|spelling| !spelling.trim().is_empty()) {
            for variant in [spelling.clone(), format!(" {spelling}")] {
                if let [id] = self.encode_text(&variant)?[..] {
                    found.push(id);
                }
            }
            // Tokenizers that put a space before every text know the word without it too.
            found.extend(self.token_id(spelling));
        }
        let mut answers = Vec::new();
        for id in found {
            let text = self.decode(&[id], false)?;
            let spelled = spellings.iter().any(|spelling| spelling.trim() == text.trim());
            if spelled && !self.is_control_token(id) && !answers.contains(&id) {
                answers.push(id);
            }
        }
        if answers.is_empty() {
            return Err(Error::invalid_request(format!(
                "no spelling of the answer {spellings:?} is a single token of the model; use shorter answers, such as \
                 Yes and No or A and B"
            )));
        }
        Ok(answers)
    }

    /// Refuses a model that can't be given a conversation.
    ///
    /// # Errors
    /// There is no (such) chat template, or it is not one that can be compiled.
    pub(crate) fn check_template(&self, options: &RenderOptions) -> Result<()> {
        self.template(options.template.as_deref()).map(|_| ())
    }

    fn template(&self, name: Option<&str>) -> Result<&ChatTemplate> {
        match self.templates.get(name.unwrap_or("default")) {
            Some(Ok(template)) => Ok(template),
            Some(Err(e)) => Err(e.duplicate()),
            None if self.templates.is_empty() => Err(Error::invalid_model(format!(
                "{} has no chat template: neither `chat_template` in tokenizer_config.json nor chat_template.jinja. It \
                 may be a base model; use its instruct version, or put the template of its family into \
                 chat_template.jinja",
                self.folder
            ))),
            None => Err(Error::invalid_config(format!(
                "{} has no chat template `{}`, but these: {}. Name one of them",
                self.folder,
                name.unwrap_or("default"),
                self.templates.keys().cloned().collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("folder", &self.folder).finish_non_exhaustive()
    }
}
