//! Constraints by `llguidance`.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;

use crate::decode::constraint::JsonSchema;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Compiled schemas that are kept; the one unused for longest goes first.
const KEPT: usize = 16;

/// Longest schema, in bytes of JSON. With the limits below and the stack it keeps hostile ones from doing harm.
const MAX_SCHEMA: usize = 64 << 10;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;

/// Compiling recurses, also along chains of `$ref`; this is enough for the longest that [`MAX_SCHEMA`] has room for.
const STACK: usize = 64 << 20;

/// Longest token that takes part; the prefix tree takes up to 1,024 bytes, and only runs of one character are as long.
const MAX_TOKEN: usize = 256;

/// The grammars of one model. They are built on first use, because that takes a tenth of a second.
#[derive(Default)]
pub(crate) struct Constraints {
    factory: Option<ParserFactory>,
    /// By the schema's text, oldest use first.
    compiled: VecDeque<(String, Matcher)>,
}

/// The state of one reply in its schema.
pub(crate) struct Constraint {
    matcher: Matcher,
    mask: SimpleVob,
    schema: Arc<JsonSchema>,
}

impl Constraints {
    /// The constraint of a new reply, which `stop_tokens` may end where the schema is satisfied.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a schema that can't be followed, with its name and the reason;
    /// [`ErrorKind::Unsupported`] for a tokenizer whose tokens can't be spelled.
    pub(crate) fn start(
        &mut self,
        schema: &Arc<JsonSchema>,
        tokenizer: &Tokenizer,
        stop_tokens: &[u32],
    ) -> Result<Constraint> {
        let key = text_of(schema)?;
        let compiled = match self.compiled.iter().position(|(text, _)| *text == key) {
            Some(at) => self.compiled.remove(at),
            None => None,
        };
        let matcher = match compiled {
            Some((_, matcher)) => matcher,
            None => self.compile(schema, tokenizer, stop_tokens)?,
        };
        // With a lexer of its own: one that is shared grows with every reply, and says no once it is too large.
        let own = matcher.deep_clone();
        if self.compiled.len() == KEPT {
            self.compiled.pop_front();
        }
        self.compiled.push_back((key, matcher));
        Ok(Constraint { matcher: own, mask: SimpleVob::new(), schema: Arc::clone(schema) })
    }

    fn compile(&mut self, schema: &JsonSchema, tokenizer: &Tokenizer, stop_tokens: &[u32]) -> Result<Matcher> {
        let factory = match &mut self.factory {
            Some(factory) => factory,
            none => none.insert(factory(tokenizer, stop_tokens)?),
        };
        let mut document = schema.schema.clone();
        options().apply_to(&mut document);
        let parse = || Matcher::new(factory.create_parser(TopLevelGrammar::from_json_schema(document)));
        let matcher = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("foreturn-schema".into()).stack_size(STACK);
            let thread = builder.spawn_scoped(scope, parse);
            let thread = thread.map_err(|e| crate::thread::refused("to compile a JSON schema", e))?;
            thread.join().map_err(|_| refusal(schema, "compiling it panicked"))
        })?;
        match matcher.get_error() {
            Some(reason) => Err(refusal(schema, reason.lines().next().unwrap_or_default())),
            None => Ok(matcher),
        }
    }
}

impl Constraint {
    /// The tokens that may come next: one bit for each, 32 to a word, none for ids beyond.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the schema takes too much work.
    pub(crate) fn allowed(&mut self) -> Result<&[u32]> {
        self.mask = self.matcher.compute_mask_or_eos().map_err(|e| self.lost(&e.to_string()))?;
        Ok(self.mask.as_slice())
    }

    /// Takes the token that came, which is not a stop token.
    ///
    /// # Errors
    /// As [`Constraint::allowed`].
    pub(crate) fn accept(&mut self, token: u32) -> Result<()> {
        self.matcher.consume_token(token).map_err(|e| self.lost(&e.to_string()))
    }

    /// The error of a reply that can't go on.
    fn lost(&self, reason: &str) -> Error {
        let reason = match reason.lines().next().unwrap_or_default() {
            "NoExtensionBias" => "no token of the model spells what may come next",
            other => other,
        };
        let name = &self.schema.name;
        Error::unsupported(format!(
            "a reply can't be held to the JSON schema `{name}` any longer: {reason}. Use a simpler schema, or a model whose \
             tokens spell all of JSON"
        ))
    }

    /// True if the document is whole and nothing can follow it.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// The layout of the documents: one line, with a space after colons and commas where the model wants one. Small models
/// would otherwise write white space without end.
fn options() -> JsonCompileOptions {
    JsonCompileOptions {
        item_separator: ", ?".into(),
        key_separator: ": ?".into(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    }
}

/// The prefix tree of a vocabulary and what is known of it beforehand.
fn factory(tokenizer: &Tokenizer, stop_tokens: &[u32]) -> Result<ParserFactory> {
    let mut words = tokenizer.spellings()?;
    // An end of turn is not text, whatever it spells. Some have ids beyond the tokenizer's.
    let largest = stop_tokens.iter().max().map_or(0, |&id| id as usize + 1);
    words.resize(words.len().max(largest), Vec::new());
    for &id in stop_tokens {
        words[id as usize].clear();
    }
    words.iter_mut().filter(|word| word.len() > MAX_TOKEN).for_each(Vec::clear);
    let info = TokRxInfo::new(words.len() as u32, stop_tokens.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if !stop_tokens.is_empty() {
        trie = trie.with_eos_tokens(stop_tokens);
    }
    // No token is forced: the model chooses among all that spell what has to come.
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&env)
        .map_err(|e| Error::internal(format!("the vocabulary's prefix tree can't be prepared: {e}")))?;
    factory.quiet();
    let limits = factory.limits_mut();
    // A state of the lexer takes 1 to 2 kB.
    *limits = ParserLimits { max_lexer_states: 50_000, verbose_errors: false, ..ParserLimits::default() };
    Ok(factory)
}

/// The schema as text, by which it is known again; refuses what is too large.
fn text_of(schema: &JsonSchema) -> Result<String> {
    if !schema.schema.is_object() {
        return Err(refusal(schema, "it has to be a JSON object, such as {\"type\": \"object\", …}"));
    }
    if !is_within(&schema.schema, MAX_DEPTH) {
        return Err(refusal(schema, &format!("it is nested more than {MAX_DEPTH} levels deep")));
    }
    let text = schema.schema.to_string();
    if text.len() > MAX_SCHEMA {
        return Err(refusal(schema, &format!("it has {} bytes; at most {MAX_SCHEMA} are allowed", text.len())));
    }
    Ok(text)
}

fn is_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_within(item, depth - 1)),
        Value::Object(members) => depth > 0 && members.values().all(|member| is_within(member, depth - 1)),
        _ => true,
    }
}

fn refusal(schema: &JsonSchema, reason: &str) -> Error {
    Error::invalid_request(format!("the JSON schema `{}` can't be followed: {reason}", schema.name))
}
