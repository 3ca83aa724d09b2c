//! From messages to the tokens of a prompt, with message content kept apart from the template's structure.
//!
//! A chat template pastes content between control tokens, and the tokenizer then can't tell who wrote what. So the
//! template is rendered twice: once with the content as it stands, which gives the text, and once with every character
//! that could open a control token replaced, in content, by a *stand-in* that occurs nowhere else. The second rendering
//! differs from the first in those characters alone, so each control token found in it was written by the template.
//! These become markers of the neutral tokenizer (see [`super::vocabulary`]), the stand-ins become what they stood for,
//! and one call encodes the whole.
//!
//! # What if the template looks at the content?
//!
//! Qwen3's searches replies for `</think>` and drops what is before. With stand-ins it finds nothing, and the two
//! renderings differ. Then the same stand-ins are written into those strings of the *template's source* that occur in
//! the content, so that the search succeeds again; each string is put back as it was if the text stays right without
//! the change, for then the template only prints it. If even that doesn't give the text of the first rendering, the
//! template is left ignorant of such strings: the text differs from what transformers renders, but content still gives
//! no control token.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::disguise::{PrivateChars, StandIns};
use super::template::{ChatTemplate, View};
use super::vocabulary::Vocabulary;
use super::{DateTime, Tokenizer};
use crate::message::reasoning::opens_reasoning;
use crate::message::{Message, Role};
use crate::{Error, Result};

/// Whether message content may act as control tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Content is text, whatever it spells.
    #[default]
    Safe,
    /// The rendered prompt is encoded as it stands, as transformers does: `<|im_end|>` in a message ends its turn.
    Transformers,
}

/// How to turn a conversation into a prompt.
///
/// ```
/// use foreturn::model::tokenizer::RenderOptions;
///
/// let options = RenderOptions { add_generation_prompt: false, ..Default::default() };
/// ```
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// Ends the prompt with the opening of the model's turn.
    pub add_generation_prompt: bool,
    /// Whether content may act as control tokens.
    pub compat: Compat,
    /// Further variables for the template, such as `enable_thinking`. They are trusted.
    pub arguments: Map<String, Value>,
    /// The date that the template sees; the current one where it isn't pinned.
    pub date: Option<DateTime>,
    /// Name of the model that reads the prompt: its own sampled tokens are kept as they were sampled.
    pub model: Option<Arc<str>>,
    /// Which of several named templates; `default` where none is named.
    pub template: Option<String>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions {
            add_generation_prompt: true,
            compat: Compat::Safe,
            arguments: Map::new(),
            date: None,
            model: None,
            template: None,
        }
    }
}

/// A conversation as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedChat {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Messages whose sampled tokens are in the prompt and differ from those of their re-tokenised text.
    pub retokenized_differs: Vec<usize>,
    /// Messages whose sampled tokens could not be kept, because the template rewrote the message (dropped its
    /// reasoning, say); their rewritten text was tokenised.
    pub rewritten: Vec<usize>,
    /// Whether the template ended the prompt with the opening of the model's reasoning.
    pub opens_reasoning: bool,
}

impl Tokenizer {
    /// The text of a prompt: exactly what transformers' `apply_chat_template(…, tokenize=False)` gives.
    ///
    /// # Errors
    /// Fails where the model has no (such) chat template, and where the template refuses the conversation or doesn't
    /// end.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        Prompt::new(self, messages, options)?.render(&[])
    }

    /// Whether the chat template takes conversations, but none that begin with a system message (Gemma 2's, for one).
    pub fn refuses_system(&self, options: &RenderOptions) -> bool {
        let [system, user] = [Role::System, Role::User].map(|role| Message::new(role, "Hello"));
        self.render(std::slice::from_ref(&user), options).is_ok() && self.render(&[system, user], options).is_err()
    }

    /// Whether the chat template may print the date.
    pub fn shows_date(&self, options: &RenderOptions) -> bool {
        self.template(options.template.as_deref()).is_ok_and(|template| template.source().contains("strftime_now"))
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// As [`Tokenizer::render`].
    pub fn encode_chat(&self, messages: &[Message], options: &RenderOptions) -> Result<EncodedChat> {
        Prompt::new(self, messages, options)?.encode(options)
    }

    /// The tokens of a prompt that ends with the header of the user's turn, for a model that writes the user's messages.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`]; the template does not write a user's message as it stands.
    pub fn encode_user_turn(&self, messages: &[Message], options: &RenderOptions) -> Result<EncodedChat> {
        let placeholder = PrivateChars::unused_in("", messages).take()?;
        let next = Message::new(Role::User, placeholder.to_string());
        let messages: Vec<Message> = messages.iter().cloned().chain([next]).collect();
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let prompt = Prompt { until: Some(placeholder), ..Prompt::new(self, &messages, &options)? };
        prompt.encode(&options)
    }

    /// As [`Tokenizer::encode_chat`], with the control token `control` wherever a message has the character
    /// `placeholder`, which nothing else may contain.
    pub(super) fn encode_marked_chat(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        (placeholder, control): (char, usize),
    ) -> Result<EncodedChat> {
        Prompt { mark: Some((placeholder, control)), ..Prompt::new(self, messages, options)? }.encode(options)
    }
}

/// One conversation on its way.
struct Prompt<'a> {
    vocabulary: &'a Vocabulary,
    template: &'a ChatTemplate,
    named: &'a Map<String, Value>,
    messages: &'a [Message],
    options: &'a RenderOptions,
    /// The same in all renderings of one prompt, even at midnight.
    date: DateTime,
    /// A character of the messages, and the control token that it becomes.
    mark: Option<(char, usize)>,
    /// A character of the messages before which the prompt ends.
    until: Option<char>,
}

/// A rendering in which some messages are single characters, to be replaced by their sampled tokens.
struct Spliced {
    text: String,
    /// In the order of their appearance.
    slots: Vec<Slot>,
    rewritten: Vec<usize>,
}

#[derive(Clone)]
struct Slot {
    message: usize,
    placeholder: char,
    /// What the template would have written for the message.
    written: String,
}

/// Text with markers, or without them where content may act as control tokens.
type Encode<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>>;

impl<'a> Prompt<'a> {
    fn new(tokenizer: &'a Tokenizer, messages: &'a [Message], options: &'a RenderOptions) -> Result<Self> {
        for reserved in ["messages", "add_generation_prompt"] {
            if options.arguments.contains_key(reserved) {
                return Err(Error::invalid_config(format!(
                    "`{reserved}` cannot be a template argument: it is set by the request; remove it"
                )));
            }
        }
        Ok(Prompt {
            vocabulary: &tokenizer.vocabulary,
            template: tokenizer.template(options.template.as_deref())?,
            named: &tokenizer.named,
            messages,
            options,
            date: options.date.unwrap_or_else(DateTime::now),
            mark: None,
            until: None,
        })
    }

    /// Renders with some contents replaced.
    fn render(&self, replaced: &[(usize, String)]) -> Result<String> {
        self.render_with(None, replaced)
    }

    fn render_with(&self, source: Option<&str>, replaced: &[(usize, String)]) -> Result<String> {
        let mut messages: Vec<(&str, &str)> =
            self.messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
        for (index, content) in replaced {
            messages[*index].1 = content;
        }
        let view = View {
            messages: &messages,
            add_generation_prompt: self.options.add_generation_prompt,
            named: self.named,
            arguments: &self.options.arguments,
            date: self.date,
        };
        match source {
            None => self.template.render(view),
            Some(source) => self.template.render_as(source, view),
        }
    }

    fn encode(&self, options: &RenderOptions) -> Result<EncodedChat> {
        let raw = self.render(&[])?;
        if self.vocabulary.has_marker(&raw) {
            return Err(Error::invalid_request(
                "a message contains this process's private marker; it cannot be encoded",
            ));
        }
        let opens_reasoning = options.add_generation_prompt && opens_reasoning(&raw);
        let mut private = PrivateChars::unused_in(&raw, self.messages);
        let spliced = self.splice(raw, &mut private)?;
        let pieces = match options.compat {
            Compat::Safe => self.mark(&spliced, &mut private)?,
            Compat::Transformers => spliced.text.clone(),
        };
        let pieces = match self.mark.map(|(placeholder, index)| (placeholder, &self.vocabulary.controls()[index])) {
            None => pieces,
            Some((placeholder, control)) => pieces.replace(
                placeholder,
                match options.compat {
                    Compat::Safe => &control.marker,
                    Compat::Transformers => &control.text,
                },
            ),
        };
        let pieces = match self.until.map(|until| pieces.split_once(until)) {
            None => pieces,
            Some(Some((before, _))) => before.to_owned(),
            Some(None) => {
                return Err(Error::invalid_request(
                    "the chat template does not write a user's message as it stands, so it can't be told where one begins",
                ));
            }
        };
        let encode: Encode<'_> = match options.compat {
            Compat::Safe => &|text| self.vocabulary.encode_prompt(text),
            Compat::Transformers => &|text| self.vocabulary.encode_real(text),
        };
        Ok(EncodedChat { opens_reasoning, ..self.fill(&pieces, spliced, encode)? })
    }

    /// Finds the messages whose sampled tokens can be put in: where the template writes their content once, as it
    /// stands or without the white space around it.
    fn splice(&self, raw: String, private: &mut PrivateChars) -> Result<Spliced> {
        let mut slots = Vec::new();
        if self.vocabulary.slot().is_some() {
            let sampled = |message: &Message| {
                let tokens = message.tokens.as_ref()?;
                (Some(&tokens.model) == self.options.model.as_ref() && !tokens.ids.is_empty()).then_some(())
            };
            for (message, _) in self.messages.iter().enumerate().filter(|(_, message)| sampled(message).is_some()) {
                slots.push(Slot { message, placeholder: private.take()?, written: String::new() });
            }
        }
        let mut rewritten = Vec::new();
        while !slots.is_empty() {
            let replaced: Vec<(usize, String)> =
                slots.iter().map(|slot| (slot.message, slot.placeholder.to_string())).collect();
            let text = self.render(&replaced)?;
            match align(&raw, &text, &slots, self.messages) {
                Ok(slots) => return Ok(Spliced { text, slots, rewritten }),
                Err(blamed) => rewritten.push(slots.remove(blamed).message),
            }
        }
        rewritten.sort_unstable();
        Ok(Spliced { text: raw, slots, rewritten })
    }

    /// The text of the prompt with the template's control tokens as markers.
    fn mark(&self, spliced: &Spliced, private: &mut PrivateChars) -> Result<String> {
        let stand_ins = StandIns::new(self.vocabulary, self.messages, private)?;
        let mut replaced: Vec<(usize, String)> = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            match spliced.slots.iter().find(|slot| slot.message == index) {
                Some(slot) => replaced.push((index, slot.placeholder.to_string())),
                None => {
                    replaced.extend(stand_ins.disguise(self.vocabulary, &message.content).map(|text| (index, text)))
                }
            }
        }
        let nothing_disguised = replaced.len() == spliced.slots.len();
        let disguised = if nothing_disguised {
            spliced.text.clone()
        } else {
            self.render_disguised(&stand_ins, spliced, &replaced)?
        };
        Ok(self.write_markers(&disguised, &stand_ins))
    }

    /// Renders disguised contents so that the text is what the contents themselves give, if it can be done.
    fn render_disguised(
        &self,
        stand_ins: &StandIns,
        spliced: &Spliced,
        replaced: &[(usize, String)],
    ) -> Result<String> {
        let right = |text: &str| stand_ins.reveal(text) == spliced.text;
        // A template that raises only when it doesn't find a string it looks for is one of those handled below.
        let plain = self.render(replaced);
        if plain.as_ref().is_ok_and(|text| right(text)) {
            return plain;
        }
        let source = self.template.source();
        let mut searched = stand_ins.searched_strings(source, self.messages);
        // A changed source may be no template any more; then it is just not the answer.
        let attempt = |searched: &[usize]| {
            let text = self.render_with(Some(&stand_ins.disguise_at(source, searched)), replaced).ok()?;
            right(&text).then_some(text)
        };
        let Some(mut best) = attempt(&searched) else { return plain };
        for index in (0..searched.len()).rev() {
            let mut fewer = searched.clone();
            fewer.remove(index);
            if let Some(text) = attempt(&fewer) {
                (best, searched) = (text, fewer);
            }
        }
        Ok(best)
    }

    /// Control tokens become markers, stand-ins what they stood for.
    fn write_markers(&self, disguised: &str, stand_ins: &StandIns) -> String {
        let mut out = String::with_capacity(disguised.len() * 2);
        let mut at = 0;
        for (Range { start, end }, control) in self.vocabulary.find_controls(disguised) {
            out.push_str(&stand_ins.reveal(&disguised[at..start]));
            out.push_str(&self.vocabulary.controls()[control].marker);
            at = end;
        }
        out.push_str(&stand_ins.reveal(&disguised[at..]));
        out
    }

    /// Encodes, puts sampled tokens into their slots and compares them with the message's text in the same place.
    fn fill(&self, pieces: &str, spliced: Spliced, encode: Encode<'_>) -> Result<EncodedChat> {
        let Spliced { slots, rewritten, .. } = spliced;
        let Some((slot_text, slot_id)) = self.vocabulary.slot().filter(|_| !slots.is_empty()) else {
            return Ok(EncodedChat { tokens: encode(pieces)?, rewritten, ..Default::default() });
        };
        let (mut with_slots, mut as_text) = (pieces.to_owned(), pieces.to_owned());
        for slot in &slots {
            with_slots = with_slots.replace(slot.placeholder, slot_text);
            as_text = as_text.replace(slot.placeholder, &slot.written);
        }
        let skeleton = encode(&with_slots)?;
        if skeleton.iter().filter(|id| **id == slot_id).count() != slots.len() {
            return Err(Error::internal("the tokenizer lost a slot for sampled tokens"));
        }
        let mut chat = EncodedChat { rewritten, ..Default::default() };
        let mut ids = slots.iter().map(|slot| self.sampled(slot.message));
        for &id in &skeleton {
            if id == slot_id { chat.tokens.extend(ids.next().into_iter().flatten()) } else { chat.tokens.push(id) }
        }
        let as_text = encode(&as_text)?;
        if as_text != chat.tokens {
            chat.retokenized_differs = self.differing(&skeleton, slot_id, &slots, &as_text);
        }
        Ok(chat)
    }

    fn sampled(&self, message: usize) -> &[u32] {
        self.messages[message].tokens.as_ref().map_or(&[], |tokens| &tokens.ids)
    }

    /// Which messages were sampled as other tokens than those of their text, by the stretch of tokens between two
    /// control tokens that each stands in.
    fn differing(&self, skeleton: &[u32], slot_id: u32, slots: &[Slot], as_text: &[u32]) -> Vec<usize> {
        let split = |tokens: &[u32]| -> Vec<Vec<u32>> {
            tokens.split(|id| self.vocabulary.is_control(*id)).map(<[u32]>::to_vec).collect()
        };
        let (stretches, texts) = (split(skeleton), split(as_text));
        // Content that acts as control tokens (`Compat::Transformers`) leaves nothing to compare stretch by stretch.
        let comparable = stretches.len() == texts.len();
        let mut differs = Vec::new();
        let mut slots = slots.iter();
        for (index, stretch) in stretches.iter().enumerate() {
            let mut filled = Vec::new();
            let mut here = Vec::new();
            for &id in stretch {
                match slots.as_slice().first() {
                    Some(slot) if id == slot_id => {
                        filled.extend_from_slice(self.sampled(slot.message));
                        here.push(slot.message);
                        slots.next();
                    }
                    _ => filled.push(id),
                }
            }
            if !comparable || filled != texts[index] {
                differs.extend(here);
            }
        }
        differs.sort_unstable();
        differs
    }
}

/// Compares the rendering with placeholders to the one without. Gives the slots in the order of their appearance, with
/// what the template wrote for each; or the index of one that must be given up.
fn align(raw: &str, text: &str, slots: &[Slot], messages: &[Message]) -> Result<Vec<Slot>, usize> {
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        let mut places = text.match_indices(slot.placeholder);
        match (places.next(), places.next()) {
            (Some((at, _)), None) => order.push((at, index)),
            _ => return Err(index),
        }
    }
    order.sort_unstable();
    let mut aligned = Vec::new();
    let Some(&(first, _)) = order.first() else { return Ok(aligned) };
    let Some(mut rest) = raw.strip_prefix(&text[..first]) else { return Err(order[0].1) };
    for (position, &(at, index)) in order.iter().enumerate() {
        let slot = &slots[index];
        let next = order.get(position + 1).map(|(at, _)| *at);
        let between = &text[at + slot.placeholder.len_utf8()..next.unwrap_or(text.len())];
        let content = messages[slot.message].content.as_str();
        let written = [content, content.trim(), content.trim_end(), content.trim_start()].into_iter().find(|written| {
            rest.strip_prefix(written)
                .is_some_and(|after| if next.is_some() { after.starts_with(between) } else { after == between })
        });
        let Some(written) = written else { return Err(index) };
        rest = &rest[written.len() + between.len()..];
        aligned.push(Slot { written: written.to_owned(), ..slot.clone() });
    }
    Ok(aligned)
}
