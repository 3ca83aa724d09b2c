//! The host's chat models. Each has a thread that calls the host's callback with batches of requests.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::c_void;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use foreturn::chat::{ChatModel, ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Role, Ticket, Usage};
use foreturn::engine::ChatModelFactory;
use foreturn::runtime::thread_refused;
use foreturn::{Error, ErrorKind, Result};

use crate::argument::{self, foreturn_str, sized, slice};
use crate::callback::{self, Gate, Inside};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle::{self, handle};
use crate::metric::{Owned, foreturn_message, foreturn_release_fn};
use crate::status::foreturn_status;

/// The task of a chat request: FORETURN_CHAT_GENERATE or FORETURN_CHAT_CHOOSE.
pub type foreturn_chat_task = u32;
/// Write a reply. Answer with foreturn_chat_replies_text().
pub const FORETURN_CHAT_GENERATE: foreturn_chat_task = 0;
/// Give the probability that each answer opens the reply. Answer with foreturn_chat_replies_choice().
pub const FORETURN_CHAT_CHOOSE: foreturn_chat_task = 1;

/// One answer of a choice, with its accepted spellings.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_answer {
    /// The spellings.
    pub spellings: *const foreturn_str,
    /// Number of spellings.
    pub spelling_count: usize,
}

/// A request to a chat model. Everything in it is valid until the callback returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_chat_request {
    /// The conversation so far. The model speaks next.
    pub messages: *const foreturn_message,
    /// Number of messages.
    pub message_count: usize,
    /// The task.
    pub task: foreturn_chat_task,
    /// Seed of the reply's random stream.
    pub seed: u64,
    /// Maximum number of tokens to sample (FORETURN_CHAT_GENERATE).
    pub max_tokens: usize,
    /// Sampling temperature; 0: greedy (FORETURN_CHAT_GENERATE).
    pub temperature: f32,
    /// Probability mass of nucleus sampling, in (0, 1] (FORETURN_CHAT_GENERATE).
    pub top_p: f32,
    /// Texts that end the reply and are not part of it (FORETURN_CHAT_GENERATE).
    pub stop: *const foreturn_str,
    /// Number of stop texts.
    pub stop_count: usize,
    /// The answers to choose from (FORETURN_CHAT_CHOOSE).
    pub answers: *const foreturn_answer,
    /// Number of answers.
    pub answer_count: usize,
    /// JSON schema that the reply has to follow; empty if the reply is free text (FORETURN_CHAT_GENERATE).
    pub schema_json: foreturn_str,
    /// If true, the model was trained to be the user and writes the user's next message, not the assistant's
    /// (FORETURN_CHAT_GENERATE).
    pub as_user: bool,
}

/// The place for the replies of a chat model's callback. It is valid until the callback returns. Only the callback's
/// thread may use it.
pub struct foreturn_chat_replies {
    _private: [u8; 0],
}

/// Answers `count` requests by putting one reply for each into `replies`. A request without a reply has failed. Returns
/// 0, or any other number if all requests have failed; then it may set `*why` to a text (static, or valid until the
/// next call on this thread).
///
/// Called from one of the engine's threads, one call at a time. It may be slow, but it must not call functions that
/// wait for the engine, because the engine waits for it.
pub type foreturn_chat_reply_fn = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        requests: *const foreturn_chat_request,
        count: usize,
        replies: *mut foreturn_chat_replies,
        why: *mut foreturn_str,
    ) -> i32,
>;

/// A chat model that the host implements. Roles of the configuration may name it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_chat_model {
    /// sizeof(foreturn_chat_model).
    pub size: usize,
    /// The name that roles use.
    pub name: foreturn_str,
    /// The callback that answers requests.
    pub reply: foreturn_chat_reply_fn,
    /// Whether equal requests with equal seeds get identical replies.
    pub reproducible: bool,
    /// Passed to `reply` and `release`; may be NULL.
    pub user_data: *mut c_void,
    /// Called when the engine is gone or was not made; may be NULL.
    pub release: foreturn_release_fn,
}
sized!(foreturn_chat_model);

/// Sets `*model` to the defaults: nothing set. `size` is sizeof(foreturn_chat_model).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_chat_model_init(model: *mut foreturn_chat_model, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(model, size) }
}

type ReplyFn = unsafe extern "C" fn(
    *mut c_void,
    *const foreturn_chat_request,
    usize,
    *mut foreturn_chat_replies,
    *mut foreturn_str,
) -> i32;

/// The model that the host described, for an engine to make. Its `release` is called from here on.
///
/// # Safety
/// `given` is valid, as are the strings in it.
pub(crate) unsafe fn host_model(
    given: &foreturn_chat_model,
    gate: &Gate,
) -> std::result::Result<(String, ChatModelFactory), Failure> {
    let owned = Owned::new(given.user_data, gate, given.release);
    // SAFETY: passed on.
    let name = unsafe { given.name.text("foreturn_chat_model.name")? }.to_owned();
    let Some(reply) = given.reply else {
        return Err(Failure::argument(format!("foreturn_chat_model.reply of `{name}` is NULL")));
    };
    let (shown, reproducible) = (name.clone(), given.reproducible);
    let make =
        move || HostChat::start(shown, reply, reproducible, owned).map(|chat| Box::new(chat) as Box<dyn ChatModel>);
    Ok((name, Box::new(make)))
}

type Finished = Vec<(Ticket, Result<ChatReply>)>;

/// The engine's side of a host's model.
struct HostChat {
    name: String,
    reproducible: bool,
    /// `None` once the thread has to end.
    requests: Option<Sender<(Ticket, ChatRequest)>>,
    finished: Receiver<Finished>,
    thread: Option<JoinHandle<()>>,
    under_way: BTreeSet<Ticket>,
    cancelled: VecDeque<Ticket>,
    next: u64,
}

impl HostChat {
    fn start(name: String, reply: ReplyFn, reproducible: bool, owned: Owned) -> Result<Self> {
        let (requests, incoming) = channel();
        let (outgoing, finished) = channel();
        let what = format!("the host's model `{name}`");
        let run = move || answer(&what, reply, &owned, &incoming, &outgoing);
        let thread = std::thread::Builder::new().name("foreturn-host".into()).spawn(run);
        let thread = thread.map_err(|e| thread_refused(&format!("for model `{name}`"), e))?;
        let (requests, thread) = (Some(requests), Some(thread));
        let (under_way, cancelled) = (BTreeSet::new(), VecDeque::new());
        Ok(HostChat { name, reproducible, requests, finished, thread, under_way, cancelled, next: 0 })
    }
}

impl Drop for HostChat {
    fn drop(&mut self) {
        self.requests = None;
        // The host's data may be released once its callback can't be called any more.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl ChatModel for HostChat {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_bitwise(&self) -> bool {
        self.reproducible
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        if matches!(request.task, ChatTask::Score(_)) {
            let message = format!("model `{}` belongs to the host and gives texts and choices, not scores", self.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let sent = self.requests.as_ref().is_some_and(|requests| requests.send((ticket, request)).is_ok());
        if !sent {
            return Err(Error::new(ErrorKind::Internal, format!("the thread of model `{}` has ended", self.name)));
        }
        self.under_way.insert(ticket);
        Ok(ticket)
    }

    fn poll(&mut self, finished: &mut Finished) -> bool {
        let cancelled = || Error::new(ErrorKind::Cancelled, "cancelled while the host's model had the request");
        finished.extend(self.cancelled.drain(..).map(|ticket| (ticket, Err(cancelled()))));
        for (ticket, reply) in self.finished.try_iter().flatten() {
            if self.under_way.remove(&ticket) {
                finished.push((ticket, reply));
            }
        }
        !self.under_way.is_empty()
    }

    fn cancel(&mut self, ticket: Ticket) {
        if self.under_way.remove(&ticket) {
            self.cancelled.push_back(ticket);
        }
    }
}

/// The body of the thread: answers all requests that have come in, in one call.
fn answer(
    what: &str,
    reply: ReplyFn,
    owned: &Owned,
    incoming: &Receiver<(Ticket, ChatRequest)>,
    outgoing: &Sender<Finished>,
) {
    let _inside = Inside::enter();
    while let Ok(first) = incoming.recv() {
        // The end of the engine tells those who wait for a reply.
        if owned.gate.is_shut() {
            return;
        }
        let batch: Vec<(Ticket, ChatRequest)> = std::iter::once(first).chain(incoming.try_iter()).collect();
        let replies = call(what, reply, owned, &batch);
        if outgoing.send(std::iter::zip(batch, replies).map(|((ticket, _), reply)| (ticket, reply)).collect()).is_err()
        {
            return;
        }
    }
}

/// The memory behind a request as the callback sees it.
struct View {
    messages: Vec<foreturn_message>,
    stop: Vec<foreturn_str>,
    /// `answers` points into them.
    _spellings: Vec<Vec<foreturn_str>>,
    answers: Vec<foreturn_answer>,
    schema: String,
}

impl View {
    fn of(request: &ChatRequest) -> Self {
        let strs = |texts: &[String]| texts.iter().map(|text| foreturn_str::of(text)).collect::<Vec<_>>();
        let (stop, spellings) = match &request.task {
            ChatTask::Generate { stop, .. } => (strs(stop), Vec::new()),
            ChatTask::Choose { answers } => (Vec::new(), answers.iter().map(|answer| strs(answer)).collect()),
            ChatTask::Score(_) => (Vec::new(), Vec::new()),
        };
        let answer = |spellings: &Vec<foreturn_str>| foreturn_answer {
            spellings: spellings.as_ptr(),
            spelling_count: spellings.len(),
        };
        let answers = spellings.iter().map(answer).collect();
        let schema = match &request.task {
            ChatTask::Generate { schema: Some(schema), .. } => schema.schema.to_string(),
            _ => String::new(),
        };
        View {
            messages: request.messages.iter().map(foreturn_message::lend).collect(),
            stop,
            _spellings: spellings,
            answers,
            schema,
        }
    }

    fn request(&self, request: &ChatRequest) -> foreturn_chat_request {
        let (task, max_tokens, temperature, top_p) = match &request.task {
            ChatTask::Generate { max_tokens, sampling, .. } => {
                (FORETURN_CHAT_GENERATE, *max_tokens, sampling.temperature, sampling.top_p)
            }
            _ => (FORETURN_CHAT_CHOOSE, 0, 0.0, 1.0),
        };
        foreturn_chat_request {
            messages: self.messages.as_ptr(),
            message_count: self.messages.len(),
            task,
            seed: request.seed,
            max_tokens,
            temperature,
            top_p,
            stop: self.stop.as_ptr(),
            stop_count: self.stop.len(),
            answers: self.answers.as_ptr(),
            answer_count: self.answers.len(),
            schema_json: foreturn_str::of(&self.schema),
            as_user: matches!(request.task, ChatTask::Generate { speaker: Role::User, .. }),
        }
    }
}

/// The kind of reply that each request wants, and its outcome.
struct Replies(Mutex<Vec<(Wanted, Option<Result<ChatReply>>)>>);

handle!(foreturn_chat_replies, Replies);

#[derive(Clone, Copy)]
enum Wanted {
    Text,
    /// A choice between this many answers.
    Choice(usize),
}

fn call(what: &str, reply: ReplyFn, owned: &Owned, batch: &[(Ticket, ChatRequest)]) -> Vec<Result<ChatReply>> {
    let views: Vec<View> = batch.iter().map(|(_, request)| View::of(request)).collect();
    let requests: Vec<foreturn_chat_request> =
        std::iter::zip(&views, batch).map(|(view, (_, request))| view.request(request)).collect();
    let wanted = |(_, request): &(Ticket, ChatRequest)| match &request.task {
        ChatTask::Choose { answers } => (Wanted::Choice(answers.len()), None),
        _ => (Wanted::Text, None),
    };
    let replies = handle::insert(Replies(Mutex::new(batch.iter().map(wanted).collect())));
    let mut why = foreturn_str::EMPTY;
    // SAFETY: everything lent lives until the call returns.
    let status = unsafe { reply(owned.data.0, requests.as_ptr(), requests.len(), replies, &raw mut why) };
    let given = handle::remove::<Replies>(replies).ok().flatten();
    if status != 0 {
        // SAFETY: the message is the host's, valid for now by its contract.
        return batch.iter().map(|_| Err(unsafe { callback::failed(what, status, why) })).collect();
    }
    let missing = || Error::new(ErrorKind::ModelOutput, format!("{what} gave no reply to a request"));
    let taken = given.map(|given| std::mem::take(&mut *given.0.lock().unwrap_or_else(PoisonError::into_inner)));
    let taken = taken.unwrap_or_default().into_iter().map(|(_, reply)| reply.unwrap_or_else(|| Err(missing())));
    taken.collect()
}

fn put(
    replies: *mut foreturn_chat_replies,
    index: usize,
    make: impl FnOnce(Wanted) -> std::result::Result<Result<ChatReply>, Failure>,
) -> std::result::Result<(), Failure> {
    let replies: Arc<Replies> = handle::get(replies)?;
    let mut replies = replies.0.lock().unwrap_or_else(PoisonError::into_inner);
    let count = replies.len();
    let Some((wanted, place)) = replies.get_mut(index) else {
        return Err(Failure::beyond("index", index, count, "requests"));
    };
    *place = Some(make(*wanted)?);
    Ok(())
}

/// Replies to a request with a text. `index` is the request's place in the callback's `requests`. The text is copied
/// and must not contain the stop text. `cut` says whether it was cut off at `max_tokens`. The numbers of tokens are
/// added to the ranking's cost; pass 0 if they are unknown.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT (there is no such request, or it wants a choice). Only inside the callback,
/// on its thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_chat_replies_text(
    replies: *mut foreturn_chat_replies,
    index: usize,
    text: foreturn_str,
    cut: bool,
    prompt_tokens: u64,
    generated_tokens: u64,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let text = text.text("text")?.to_owned();
            put(replies, index, |wanted| match wanted {
                Wanted::Choice(_) => {
                    Err(Failure::argument(format!("request {index} wants a choice, and a text was given")))
                }
                Wanted::Text => {
                    let finish = if cut { Finish::Length } else { Finish::Stop };
                    let output = ChatOutput::Text { text, tokens: None, finish, retokenized_differs: Vec::new() };
                    Ok(Ok(ChatReply { output, usage: Usage::new(prompt_tokens, generated_tokens), note: None }))
                }
            })
        })
    }
}

/// Replies to a request with the probability of each of its answers, in their order. Each is in [0, 1], and their sum
/// is at most 1.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT (there is no such request, it wants a text, or the probabilities are
/// invalid). Only inside the callback, on its thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_chat_replies_choice(
    replies: *mut foreturn_chat_replies,
    index: usize,
    probabilities: *const f64,
    count: usize,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let probabilities = slice(probabilities, count, "probabilities")?.to_vec();
            let fits = probabilities.iter().all(|p| (0.0..=1.0).contains(p))
                && probabilities.iter().sum::<f64>() <= 1.0 + 1e-9;
            if !fits {
                return Err(Failure::argument("probabilities are not in [0, 1], or their sum is above 1"));
            }
            put(replies, index, |wanted| match wanted {
                Wanted::Choice(answers) if answers == count => Ok(Ok(ChatReply {
                    output: ChatOutput::Choice { probabilities },
                    usage: Usage::default(),
                    note: None,
                })),
                Wanted::Choice(answers) => Err(Failure::argument(format!(
                    "request {index} has {answers} answers, and {count} probabilities were given"
                ))),
                Wanted::Text => Err(Failure::argument(format!("request {index} wants a text, and a choice was given"))),
            })
        })
    }
}

/// Reports that a request has failed. `why` is copied.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Only inside the callback, on its thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_chat_replies_fail(
    replies: *mut foreturn_chat_replies,
    index: usize,
    why: foreturn_str,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let why = format!("the host's model failed: {}", why.text("why")?);
            put(replies, index, |_| Ok(Err(Error::new(ErrorKind::ModelOutput, why))))
        })
    }
}
