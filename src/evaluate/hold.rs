//! From tasks to conversations with each policy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::best;
use super::summary::{Evaluation, PolicyCost};
use super::table;
use crate::chat::{Message, Role};
use crate::engine::{Engine, Limits};
use crate::likeness::{self, Corpus};
use crate::rank::{Candidates, Ended, MAX_WINDOW, ModelInfo, ModelRole, RankPlan, RankRequest, Ranking, RoleCosts};
use crate::tasks::{
    self, Estimate, Held, Journal, OnProgress, Places, RunOptions, Spent, Stopped, Summary, Talk, Tasks, Tokens, Unit,
    check_prices, is_due, json_line, json_row, rows, run, seed_below, task_seed, write_atomically,
};
use crate::{Error, Result};

/// A policy to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name in the results.
    pub name: String,
    /// The name of its model in the configuration.
    pub model: String,
    /// A system message that it gets before every conversation.
    pub system: Option<String>,
    /// If set, the policy answers with the best of several candidates at each turn.
    pub best_of: Option<BestOf>,
    /// A description of its model's settings that has to stay the same when an evaluation goes on, such as
    /// [`fingerprint_of_model`](crate::tasks::fingerprint_of_model). With another one, its conversations are held anew.
    pub configuration: String,
}

/// How a policy chooses among candidates: by the reward of the configuration, over futures of its own depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BestOf {
    /// Candidates at each turn; at least 2.
    pub candidates: usize,
    /// Turns sampled ahead; 0 chooses by the response as it stands.
    pub window: usize,
    /// Futures for each candidate; at least 1.
    pub samples: usize,
}

impl BestOf {
    /// Refuses what no turn could be chosen with, before a conversation is paid for.
    fn validate(self) -> Result<()> {
        if self.candidates < 2 {
            return Err(Error::invalid_request(format!(
                "the best of {} is to be chosen, which is fewer than 2 candidates",
                self.candidates
            )));
        }
        best::choice(vec![Message::new(Role::User, "?")], self, 0).validate_size()
    }
}

/// Parses `CANDIDATES/WINDOW/SAMPLES`, such as `4/2/3`.
impl FromStr for BestOf {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Option<Vec<usize>> = text.split('/').map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[candidates, window, samples]) => Ok(BestOf { candidates, window, samples }),
            _ => Err(Error::invalid_request(format!(
                "`{text}` does not say how to choose: give the numbers of candidates, of turns sampled ahead and of futures, \
                 as in 4/2/3"
            ))),
        }
    }
}

impl Policy {
    /// The model called `model`, without instructions.
    pub fn new(model: impl Into<String>) -> Self {
        let model = model.into();
        Policy { name: model.clone(), model, system: None, best_of: None, configuration: String::new() }
    }

    /// The conversation as the policy sees it.
    pub(super) fn begin(&self, mut said: Vec<Message>) -> Vec<Message> {
        let Some(system) = &self.system else { return said };
        match said.first_mut().filter(|first| first.role == Role::System) {
            // Chat templates take one system message.
            Some(first) => first.content = format!("{system}\n\n{}", first.content),
            None => said.insert(0, Message::new(Role::System, system)),
        }
        said
    }
}

/// How policies are evaluated.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Most turns of the policy in a conversation; 1 to 33.
    pub turns: usize,
    /// Conversations about each task with each policy; at least 1.
    pub samples: usize,
    /// Decides all random draws, with the tasks' ids.
    pub seed: u64,
    /// A description of the configuration that has to stay the same when an evaluation goes on: a hash, or a version.
    pub configuration: String,
    /// A file of real conversations. How much the simulated users write like the users in it is recorded.
    pub real_users: Option<PathBuf>,
    /// How the run goes about the conversations.
    pub run: RunOptions,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        let (configuration, run) = (String::new(), RunOptions::default());
        EvaluateOptions { turns: 5, samples: 1, seed: 0, configuration, real_users: None, run }
    }
}

/// A conversation with a policy, and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EvaluatedConversation {
    /// The name of the policy.
    pub policy: String,
    /// The id of the task.
    pub id: String,
    /// Its number among the conversations about the task, from 0.
    pub sample: usize,
    /// The conversation, without the policy's system message.
    pub messages: Vec<Message>,
    /// The reason why it ended.
    pub ended: Ended,
    /// Turns of the policy.
    pub turns: usize,
    /// Each metric by name.
    pub metrics: BTreeMap<String, f64>,
    /// The weighted sum of the metrics.
    pub reward: f64,
    /// Whether the first response asks for clarification, if the configuration has the metric `clarification`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<bool>,
    /// Whether it should, if the task says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ambiguous: Option<bool>,
    /// Thousands of tokens that the user reads and writes, by the policy's tokenizer (by words if its model is elsewhere).
    pub tokens_k: f64,
    /// The seed that its seeds come from.
    pub seed: u64,
    /// The models that played the roles.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// True if the same task with the same seed gives this conversation again, to the last bit.
    pub bitwise: bool,
    /// Its tokens by role.
    pub tokens: BTreeMap<ModelRole, Tokens>,
}

/// Holds conversations about `tasks` between each of `policies` and the simulated user, or goes on with what is in
/// `folder`, and compares the policies. `engine` makes an engine in which the policy plays its role; it is called once for
/// each policy that has conversations left. `on_progress` hears of one policy after the other.
///
/// The folder then has `evaluation.json` (the result), `evaluation.csv`, `cost.json` (with the times, which are not the
/// same twice), `conversations.jsonl` with an [`EvaluatedConversation`] per line, `failed.jsonl`, and `journal.jsonl`, from
/// which a killed evaluation goes on.
///
/// ```no_run
/// use foreturn::evaluate::{EvaluateOptions, Policy, evaluate};
/// use foreturn::tasks::Tasks;
/// use foreturn::{Config, Engine};
///
/// let tasks = Tasks::read("examples/tasks/everyday.jsonl")?;
/// let policies = [Policy::new("small"), Policy::new("large")];
/// let engine = |policy: &Policy| {
///     let mut config = Config::from_file("foreturn.toml")?;
///     config.roles.policy = Some(policy.model.clone());
///     Engine::new(config)
/// };
/// let (evaluation, _) = evaluate(&policies, tasks, "run".as_ref(), &EvaluateOptions::default(), engine, &|_| ())?;
/// for policy in &evaluation.policies {
///     println!("{}: {:?}", policy.name, policy.columns["reward"].mean);
/// }
/// # Ok::<(), foreturn::Error>(())
/// ```
///
/// # Errors
/// The options or the configuration are wrong, the folder cannot be written, belongs to other settings or is in use, or the
/// models fail again and again. What is finished by then stays.
pub fn evaluate(
    policies: &[Policy],
    tasks: Tasks,
    folder: &Path,
    options: &EvaluateOptions,
    mut engine: impl FnMut(&Policy) -> Result<Engine>,
    on_progress: OnProgress<'_>,
) -> Result<(Evaluation, Summary)> {
    validate(policies, options)?;
    // A file that cannot be read is found before a conversation is paid for.
    let real = options.real_users.as_ref().map(Corpus::read).transpose()?;
    let places = Places::make(folder)?;
    let settings = settings(options);
    let journal = Journal::open(&places.journal(), &settings)?;
    let all: Vec<Unit<'_, Place<'_>>> = policies.iter().flat_map(|policy| units(policy, &tasks, options)).collect();
    tasks::take_over(&all, &options.run.merge, &journal, &settings)?;
    let options = &EvaluateOptions { run: options.run.within_run(), ..options.clone() };
    let held = hold_each(policies, &tasks, &journal, options, &mut engine, on_progress);
    // What is finished stays, whatever ended the run.
    let written = write(&places, policies, (&all, &journal), &tasks, real.as_ref());
    let stopped = held?;
    let evaluation = written?;
    let mut summary = tasks::summarise(&all, &journal, &options.run, stopped);
    summary.set_aside += tasks.set_aside.len();
    // A policy costs what it costs: what another one took says nothing about it.
    let estimates = policies.iter().filter_map(|policy| {
        tasks::summarise(&units(policy, &tasks, options), &journal, &options.run, stopped).estimate
    });
    summary.estimate = Estimate::sum(&estimates.collect::<Vec<_>>());
    Ok((evaluation, summary))
}

/// Holds the conversations of one policy after the other. Returns why the first of them ended that is not complete.
fn hold_each(
    policies: &[Policy],
    tasks: &Tasks,
    journal: &Journal,
    options: &EvaluateOptions,
    engine: &mut impl FnMut(&Policy) -> Result<Engine>,
    on_progress: OnProgress<'_>,
) -> Result<Stopped> {
    let mut stopped = Stopped::Complete;
    for policy in policies {
        let units = units(policy, tasks, options);
        if !is_due(&units, journal, &options.run) {
            continue;
        }
        let held = engine(policy).and_then(|engine| hold_all(&units, journal, &engine, options, on_progress));
        let held = held.map_err(|e| e.context(format!("policy `{}`", policy.name)))?.stopped;
        if stopped == Stopped::Complete {
            stopped = held;
        }
        if held.ends_all() {
            return Ok(held);
        }
    }
    Ok(stopped)
}

/// What a unit of an evaluation is besides its task.
struct Place<'a> {
    policy: &'a Policy,
    sample: usize,
}

fn validate(policies: &[Policy], options: &EvaluateOptions) -> Result<()> {
    if policies.is_empty() {
        return Err(Error::invalid_request("there is no policy to evaluate"));
    }
    if let Some((at, twice)) =
        policies.iter().enumerate().find(|(at, policy)| policies[..*at].iter().any(|other| other.name == policy.name))
    {
        return Err(Error::invalid_request(format!(
            "policies[{at}] is called `{}` like another one: give each a name of its own",
            twice.name
        )));
    }
    for policy in policies {
        let valid = policy.best_of.map_or(Ok(()), BestOf::validate);
        valid.map_err(|e| e.context(format!("policy `{}`", policy.name)))?;
    }
    if !(1..=MAX_WINDOW + 1).contains(&options.turns) {
        return Err(Error::invalid_request(format!(
            "turns is {}: a conversation has between 1 and {}",
            options.turns,
            MAX_WINDOW + 1
        )));
    }
    if !(1..=1024).contains(&options.samples) {
        return Err(Error::invalid_request(format!(
            "samples is {}: between 1 and 1024 conversations are held about a task",
            options.samples
        )));
    }
    options.run.validate()
}

/// What has to stay the same when an evaluation goes on. Policies and samples may come and go.
fn settings(options: &EvaluateOptions) -> Map<String, Value> {
    let settings = json!({
        "for": "evaluation", "configuration": options.configuration, "seed": options.seed, "turns": options.turns,
    });
    settings.as_object().cloned().unwrap_or_default()
}

fn units<'a>(policy: &'a Policy, tasks: &'a Tasks, options: &EvaluateOptions) -> Vec<Unit<'a, Place<'a>>> {
    let tasks = tasks.list.iter().filter(|task| options.run.takes(task));
    let samples = options.samples;
    let units = tasks.flat_map(|task| {
        (0..samples).map(move |sample| Unit { key: key(policy, sample, &task.id), task, of: Place { policy, sample } })
    });
    units.collect()
}

/// The name of a conversation in the journal.
fn key(policy: &Policy, sample: usize, id: &str) -> String {
    let Policy { name, model, system, best_of, configuration } = policy;
    json!([name, model, configuration, system, best_of, sample, id]).to_string()
}

fn hold_all(
    units: &[Unit<'_, Place<'_>>],
    journal: &Journal,
    engine: &Engine,
    options: &EvaluateOptions,
    on_progress: OnProgress<'_>,
) -> Result<Summary> {
    let plan = engine.plan()?;
    check_prices(&options.run, plan, &|name| engine.is_elsewhere(name))?;
    refuse_other_weights(units, journal, engine)?;
    let engine = engine.within(Limits { cancel: Some(options.run.cancel.clone()), ..Limits::default() });
    run(units, journal, &options.run, on_progress, |unit| {
        let (mut talk, start) = (Talk::new(&engine, &unit.task.goal), Instant::now());
        let seed = seed_below(task_seed(options.seed, &unit.task.id), &[unit.of.sample as u64]);
        // A task that lacks what a metric needs is refused before it costs anything.
        let checked = plan.check_goal(&unit.task.goal);
        let result = checked.and_then(|()| hold(&mut talk, plan, unit, options.turns, seed));
        let result = result.map_err(|e| e.context(format!("policy `{}`", unit.of.policy.name)));
        Held { result, spent: Spent::new(&talk.costs, start.elapsed().as_secs_f64(), plan) }
    })
}

/// Refuses to mix conversations with other weights under the same names.
pub(super) fn refuse_other_weights<U>(units: &[Unit<'_, U>], journal: &Journal, engine: &Engine) -> Result<()> {
    let loaded = engine.statistics()?.models;
    for unit in units {
        let Some(row) = journal.read(&unit.key, &unit.task.fingerprint())? else { continue };
        let models: BTreeMap<ModelRole, ModelInfo> =
            serde_json::from_value(row["models"].clone()).map_err(|e| Error::internal(format!("its models: {e}")))?;
        for ModelInfo { name, weights, .. } in models.into_values() {
            let (Some(weights), Some(now)) = (weights, loaded.get(&*name)) else { continue };
            if weights != now.weights {
                return Err(Error::invalid_request(format!(
                    "model `{name}` has the weights {}, and the folder has conversations with {weights}: evaluate it \
                     under another name (--policy NAME=MODEL) with a model section of its own, or into another folder",
                    now.weights
                )));
            }
        }
    }
    Ok(())
}

/// Holds a conversation.
fn hold(talk: &mut Talk<'_>, plan: &RankPlan, unit: &Unit<'_, Place<'_>>, turns: usize, seed: u64) -> Result<Value> {
    // All policies are to answer the same message.
    let said = talk.begin(&unit.task.conversation, seed_below(seed, &[OPENING]))?;
    let request = RankRequest {
        conversation: unit.of.policy.begin(said.clone()),
        window: Some(turns - 1),
        samples: Some(1),
        seed: Some(seed),
        ..RankRequest::default()
    };
    let ranking = match unit.of.policy.best_of {
        // The conversation is the one future of one sampled response.
        None => talk.rank(RankRequest { candidates: Candidates::Sample(1), ..request })?,
        Some(best_of) => best::hold(talk, request, best_of, turns)?,
    };
    let conversation = read(ranking, said, unit, seed, (&talk.costs, plan))?;
    json_row(&conversation)
}

/// Separates the seed of the first message from those of the ranking.
const OPENING: u64 = u64::MAX;

/// The conversation that a ranking held.
fn read(
    mut ranking: Ranking,
    mut said: Vec<Message>,
    unit: &Unit<'_, Place<'_>>,
    seed: u64,
    (costs, plan): (&RoleCosts, &RankPlan),
) -> Result<EvaluatedConversation> {
    let nothing = || Error::internal("a ranking of one candidate without its future");
    let mut candidate = ranking.candidates.pop().ok_or_else(nothing)?;
    let future = candidate.rollouts.pop().ok_or_else(nothing)?;
    let (Some(response), Some(reward)) = (candidate.response, future.reward) else { return Err(nothing()) };
    said.push(Message::new(Role::Assistant, response));
    let turns = 1 + future.messages.iter().filter(|message| message.role == Role::Assistant).count();
    said.extend(future.messages.into_iter().map(|message| Message::new(message.role, message.content)));
    let heard = said.iter().filter(|message| message.role != Role::System);
    let tokens: usize = heard.map(|message| (plan.count_tokens)(message.visible())).sum();
    // The metric is the probability that the response asks if, and only if, it should.
    let right = plan.metrics.iter().find(|weighted| weighted.metric.kind() == "clarification");
    let right = right.and_then(|weighted| future.metrics.get(&weighted.name).copied().flatten());
    let ambiguous = unit.task.goal.ambiguous;
    Ok(EvaluatedConversation {
        asked: right.zip(ambiguous).map(|(right, ambiguous)| (right >= 0.5) == ambiguous),
        ambiguous,
        policy: unit.of.policy.name.clone(),
        id: unit.task.id.clone(),
        sample: unit.of.sample,
        messages: said,
        ended: future.ended,
        turns,
        metrics: future.metrics.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        reward,
        tokens_k: tokens as f64 / 1000.0,
        seed,
        models: ranking.models,
        bitwise: ranking.bitwise,
        tokens: Spent::new(costs, 0.0, plan).roles,
    })
}

/// Writes what there is by now.
fn write(
    places: &Places,
    policies: &[Policy],
    (units, journal): (&[Unit<'_, Place<'_>>], &Journal),
    tasks: &Tasks,
    real: Option<&Corpus>,
) -> Result<Evaluation> {
    let (conversations, failed) = rows(units, journal);
    let conversations = conversations.collect::<Result<Vec<Value>>>()?;
    let set_aside = tasks.set_aside_with(failed);
    let read = |row: &Value| {
        serde_json::from_value(row.clone())
            .map_err(|e| Error::internal(format!("a conversation cannot be read back: {e}")))
    };
    let parsed: Vec<EvaluatedConversation> = conversations.iter().map(read).collect::<Result<_>>()?;
    let mut evaluation = Evaluation::of(policies, &parsed, set_aside.len());
    let costs = policies.iter().map(|policy| {
        let own = units.iter().filter(|unit| unit.of.policy.name == policy.name);
        let entries = own.filter_map(|unit| journal.entry(&unit.key, &unit.task.fingerprint()));
        let spent: Vec<Spent> = entries.filter(|entry| entry.failed.is_none()).map(|entry| entry.spent).collect();
        PolicyCost::of(&policy.name, &spent)
    });
    let costs: Vec<PolicyCost> = costs.collect();
    let lines = places.file("conversations.jsonl");
    write_atomically(&lines, conversations.iter().map(json_line))?;
    if let Some(real) = real.filter(|_| !conversations.is_empty()) {
        evaluation.likeness = Some(likeness::compare(&Corpus::read(&lines)?, real));
    }
    write_atomically(&places.file("failed.jsonl"), set_aside.iter().map(json_line))?;
    write_atomically(&places.file("cost.json"), [json_line(&costs)])?;
    write_atomically(&places.file("evaluation.csv"), table::csv(&evaluation).into_iter().map(Ok))?;
    write_atomically(&places.file("evaluation.json"), [json_line(&evaluation)])?;
    Ok(evaluation)
}
