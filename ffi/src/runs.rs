//! Data sets, evaluations and sweeps: whole conversations over a file of tasks.

use std::ffi::c_void;
use std::path::{Path, PathBuf};

use foreturn::Engine;
use foreturn::dataset::{self, BuildOptions, ExportOptions, Format};
use foreturn::engine::CancelToken;
use foreturn::evaluate::{self, EvaluateOptions, Kind, Policy, Simulated, SweepOptions};
use foreturn::tasks::{Progress, RunOptions, Tasks};

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Inside, UserData, refuse_inside};
use crate::engine::{Hosted, foreturn_cancel, foreturn_engine, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::status::*;
use crate::string::{Text, foreturn_string};

/// Reports progress: `finished` and `failed` of `total` conversations have ended. Called from threads of the library, one
/// call at a time. It must return quickly and must not call functions that wait.
pub type foreturn_run_progress_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, finished: usize, failed: usize, total: usize)>;

/// The settings of a data set, an evaluation or a sweep. A number that is 0 stands for its default.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_run_options {
    /// sizeof(foreturn_run_options).
    pub size: usize,
    /// Path of the tasks: JSON Lines of {"id", "prompt", "reference", "metadata"}.
    pub tasks_path: foreturn_str,
    /// Path of the folder to write to. It is made if it is missing. What is there goes on.
    pub folder: foreturn_str,
    /// A hash or version of the configuration; may be empty. A folder that was begun with another one is refused.
    pub configuration: foreturn_str,
    /// For data sets: number of candidates at each turn. For sweeps: number of responses to each task. 4 by default.
    pub candidates: usize,
    /// Maximum number of turns of the assistant in a conversation; 4 by default in data sets and sweeps, 5 in evaluations.
    pub turns: usize,
    /// For evaluations: number of conversations about each task with each policy; 1 by default. For sweeps: number of
    /// conversations from each response; 4 by default.
    pub samples: usize,
    /// Number of conversations at the same time; 8 by default.
    pub concurrency: usize,
    /// Begin no conversation that would probably take the run beyond this many tokens; no limit by default.
    pub max_tokens: u64,
    /// Number of the part of the tasks to take, from 1, if `shard_count` is set.
    pub shard: usize,
    /// Number of parts; all tasks are taken by default.
    pub shard_count: usize,
    /// Seed of all random draws. Without `has_seed`, the configuration's in data sets, and 0 in evaluations and sweeps.
    pub seed: u64,
    /// Whether `seed` is set.
    pub has_seed: bool,
    /// Hold conversations again that failed.
    pub retry_failed: bool,
    /// A token that ends the run; may be NULL. The call then succeeds with what is finished.
    pub cancel: *const foreturn_cancel,
    /// Called with the progress; may be NULL.
    pub on_progress: foreturn_run_progress_fn,
    /// Passed to `on_progress`; may be NULL.
    pub user_data: *mut c_void,
    /// Paths of folders of other runs with the same settings, such as shards. Their conversations are taken over first.
    pub merge: *const foreturn_str,
    /// Number of these folders.
    pub merge_count: usize,
    /// For data sets: write dataset.parquet as well.
    pub parquet: bool,
}
sized!(foreturn_run_options until merge);

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_run_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_run_options_init(options: *mut foreturn_run_options, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// What all kinds of runs take from the options.
struct Run<'a> {
    given: foreturn_run_options,
    tasks: Tasks,
    folder: &'a Path,
    configuration: String,
    options: RunOptions,
}

impl Run<'_> {
    /// # Safety
    /// The options and what they point to are valid for as long as the result is used.
    unsafe fn read(options: *const foreturn_run_options) -> Result<Self, Failure> {
        // SAFETY: valid by contract.
        let (given, tasks, folder, configuration) = unsafe {
            let given = argument::read(options)?;
            let path = given.tasks_path.text("options.tasks_path")?;
            let folder = given.folder.text("options.folder")?;
            (given, path, folder, given.configuration.text("options.configuration")?)
        };
        for (name, text) in [("tasks_path", tasks), ("folder", folder)] {
            if text.is_empty() {
                return Err(Failure::argument(format!("options.{name} is empty: give a path")));
            }
        }
        let default = RunOptions::default();
        let shard = match given.shard_count {
            0 => None,
            of => Some(format!("{}/{of}", given.shard).parse()?),
        };
        // SAFETY: the array and its texts are the host's, valid by contract.
        let merge = unsafe {
            let folders = slice(given.merge, given.merge_count, "options.merge")?.iter().enumerate();
            let path = |(at, folder): (usize, &foreturn_str)| {
                folder.text(format_args!("options.merge[{at}]")).map(PathBuf::from)
            };
            folders.map(path).collect::<Result<Vec<PathBuf>, Failure>>()?
        };
        let cancel = match given.cancel.is_null() {
            true => default.cancel.clone(),
            false => (*handle::get::<CancelToken>(given.cancel)?).clone(),
        };
        let options = RunOptions {
            concurrency: or(given.concurrency, default.concurrency),
            shard,
            max_tokens: (given.max_tokens > 0).then_some(given.max_tokens),
            retry_failed: given.retry_failed,
            cancel,
            merge,
            ..default
        };
        let (folder, configuration) = (Path::new(folder), configuration.to_owned());
        Ok(Run { given, tasks: Tasks::read(tasks)?, folder, configuration, options })
    }

    /// Tells the host of the progress.
    fn told(&self) -> impl Fn(&Progress) + Sync + use<> {
        let (call, user_data) = (self.given.on_progress, UserData(self.given.user_data));
        move |progress| {
            let user_data = &user_data;
            if let Some(call) = call {
                let _inside = Inside::enter();
                // SAFETY: the host's function, with the host's pointer.
                unsafe { call(user_data.0, progress.finished, progress.failed, progress.total) }
            }
        }
    }
}

fn or(given: usize, default: usize) -> usize {
    if given == 0 { default } else { given }
}

fn text(json: serde_json::Result<String>) -> Result<Text, Failure> {
    let failed = |e| Failure::new(FORETURN_ERROR_INTERNAL, format!("the result can't be written as JSON: {e}"));
    json.map(Text).map_err(failed)
}

/// Builds conversations turn by turn about tasks, or goes on with what is in the folder, and waits until they are
/// finished. The folder then has dataset.jsonl, failed.jsonl with the tasks that were set aside, and journal.jsonl, from which
/// a killed build goes on. foreturn_dataset_export() makes of it what trainers read. `*out` is a summary as JSON, with
/// `finished`, `set_aside`, `left`, `stopped` and `spent`.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG,
/// FORETURN_ERROR_IO, FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; those of foreturn_rank() if ten conversations in a
/// row failed with them. What is finished by then stays. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_dataset_build(
    engine: *const foreturn_engine,
    options: *const foreturn_run_options,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_dataset_build", engine, out, error, |engine| {
            let run = Run::read(options)?;
            let (told, default) = (run.told(), BuildOptions::default());
            let Run { given, tasks, folder, configuration, options } = run;
            let options = BuildOptions {
                candidates: or(given.candidates, default.candidates),
                turns: or(given.turns, default.turns),
                seed: given.has_seed.then_some(given.seed),
                configuration,
                parquet: given.parquet,
                run: options,
            };
            text(serde_json::to_string(&dataset::build(engine, tasks, folder, &options, &told)?))
        })
    }
}

/// Holds conversations about tasks between policies and the simulated user, or goes on with what is in the folder, and
/// compares the policies. `engines[i]` has the policy that is called `names[i]` in the results; an engine may be given
/// several times. The folder then has evaluation.json, evaluation.csv, cost.json, conversations.jsonl, failed.jsonl and
/// journal.jsonl. `*out` is the content of evaluation.json.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: those of foreturn_dataset_build(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_evaluate(
    engines: *const *const foreturn_engine,
    names: *const foreturn_str,
    count: usize,
    options: *const foreturn_run_options,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: the arrays, the struct and the place for the result are the host's, valid for the call.
    unsafe {
        guard(error, || {
            let out = Out::new(out, "out")?;
            refuse_inside("foreturn_evaluate")?;
            let mut policies: Vec<(Policy, Engine)> = Vec::new();
            for (at, name) in slice(names, count, "names")?.iter().enumerate() {
                let engine = handle::get::<Hosted>(slice(engines, count, "engines")?[at])?;
                policies.push((Policy::new(name.text(format_args!("names[{at}]"))?), Engine::clone(&engine)));
            }
            let run = Run::read(options)?;
            let (told, default) = (run.told(), EvaluateOptions::default());
            let Run { given, tasks, folder, configuration, options } = run;
            let options = EvaluateOptions {
                turns: or(given.turns, default.turns),
                samples: or(given.samples, default.samples),
                seed: if given.has_seed { given.seed } else { 0 },
                configuration,
                real_users: policies.iter().find_map(|(_, engine)| engine.real_users()),
                run: options,
            };
            let named: Vec<Policy> = policies.iter().map(|(policy, _)| policy.clone()).collect();
            let engine = |policy: &Policy| {
                let own = policies.iter().find(|(other, _)| other == policy).map(|(_, engine)| engine.clone());
                own.ok_or_else(|| foreturn::Error::new(foreturn::ErrorKind::Internal, "a policy without an engine"))
            };
            let (evaluation, _) = evaluate::evaluate(&named, tasks, folder, &options, engine, &told)?;
            out.write(handle::insert(text(serde_json::to_string(&evaluation))?));
            Ok(())
        })
    }
}

/// Compares `count` kinds of reward on the same conversations about tasks, or goes on with what is in the folder, and waits.
/// The policy that `engine` has writes the responses. `kinds[i]` is, for example, "w=2", "returns=0.9", "preference=judge" or
/// "w=2,metrics=accuracy,samples=1", as docs/evaluation.md describes. With `count` 0, windows up to 3, returns and preferences
/// are compared. A kind with `user` or `style` has a simulator of its own: `simulators[i]` is the engine in which that
/// simulator plays the user. For other kinds it is NULL, and `simulators` may be NULL if there are none. The folder then has
/// sweep.json, sweep.csv, responses.jsonl, failed.jsonl and journal.jsonl. `*out` is the content of sweep.json.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: those of foreturn_dataset_build(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_sweep(
    engine: *const foreturn_engine,
    kinds: *const foreturn_str,
    simulators: *const *const foreturn_engine,
    count: usize,
    options: *const foreturn_run_options,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: the arrays, the struct and the place for the result are the host's, valid for the call.
    unsafe {
        waiting("foreturn_sweep", engine, out, error, |engine| {
            let run = Run::read(options)?;
            let (told, default) = (run.told(), SweepOptions::default());
            let Run { given, tasks, folder, configuration, options } = run;
            let options = SweepOptions {
                candidates: or(given.candidates, default.candidates),
                samples: or(given.samples, default.samples),
                turns: or(given.turns, default.turns),
                seed: if given.has_seed { given.seed } else { 0 },
                configuration,
                run: options,
            };
            let mut compared = self::kinds(kinds, simulators, count)?;
            if compared.is_empty() {
                compared = Kind::defaults(options.turns).into_iter().map(|kind| (kind, None)).collect();
            }
            let simulator = |_: &Policy, simulated: &Simulated| {
                let own = compared.iter().find(|(kind, _)| kind.simulated == *simulated);
                Ok(own.and_then(|(_, own)| own.clone()).unwrap_or_else(|| Engine::clone(engine)))
            };
            let kinds: Vec<Kind> = compared.iter().map(|(kind, _)| kind.clone()).collect();
            let policy = Policy::new("policy");
            let (sweep, _) = evaluate::sweep(&policy, &kinds, tasks, folder, &options, simulator, &told)?;
            text(serde_json::to_string(&sweep))
        })
    }
}

/// The kinds of reward of a sweep, those that have a simulator of their own with its engine.
unsafe fn kinds(
    kinds: *const foreturn_str,
    simulators: *const *const foreturn_engine,
    count: usize,
) -> Result<Vec<(Kind, Option<Engine>)>, Failure> {
    // SAFETY: the arrays are the host's, valid by contract.
    let (names, simulators) = unsafe {
        let simulators = if simulators.is_null() { &[] } else { slice(simulators, count, "simulators")? };
        (slice(kinds, count, "kinds")?, simulators)
    };
    let kind = |(at, name): (usize, &foreturn_str)| {
        // SAFETY: as above.
        let kind: Kind = unsafe { name.text(format_args!("kinds[{at}]"))? }.parse()?;
        let given = simulators.get(at).filter(|engine| !engine.is_null());
        match (kind.simulated == Simulated::default(), given) {
            (true, None) => Ok((kind, None)),
            (false, Some(&engine)) => Ok((kind, Some(Engine::clone(&*handle::get::<Hosted>(engine)?)))),
            (false, None) => Err(Failure::argument(format!(
                "kind `{}` has a simulator of its own, and simulators[{at}] is NULL: give the engine in which it plays the user",
                kind.name
            ))),
            (true, Some(_)) => Err(Failure::argument(format!(
                "kind `{}` has the simulator of `engine`, and simulators[{at}] is another engine: say in the kind what it is \
                 (user=MODEL or style=...), or pass NULL",
                kind.name
            ))),
        }
    };
    names.iter().enumerate().map(kind).collect()
}

/// What foreturn_dataset_export() writes.
pub type foreturn_dataset_format = u32;

/// The last turn of each conversation with its best response, as `messages`: for supervised fine-tuning with TRL.
pub const FORETURN_DATASET_SFT: foreturn_dataset_format = 0;
/// The best response of each turn against the worst, as `prompt`, `chosen` and `rejected`: for TRL's preference trainers.
pub const FORETURN_DATASET_DPO: foreturn_dataset_format = 1;
/// The same with the difference of the rewards as `margin`: for TRL's reward trainer.
pub const FORETURN_DATASET_REWARD: foreturn_dataset_format = 2;
/// The nested form of collabllm's MultiturnDataset: a conversation per row.
pub const FORETURN_DATASET_COLLABLLM_NESTED: foreturn_dataset_format = 3;
/// Its flat form: a response per row.
pub const FORETURN_DATASET_COLLABLLM_FLAT: foreturn_dataset_format = 4;

/// Writes a data set that was built, in a format that trainers read. `from` is the folder of foreturn_dataset_build() or its
/// dataset.jsonl. `to` is a file: Parquet if its name ends with .parquet, otherwise JSON Lines. Pairs whose rewards differ by
/// less than `minimum_gap` are left out, and so are those whose better response is better with a probability below
/// `minimum_probability`, in [0.5, 1]; 0 takes all. `*out` is what was written as JSON, with `conversations`, `rows` and
/// `left_out`.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_IO. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_dataset_export(
    from: foreturn_str,
    to: foreturn_str,
    format: foreturn_dataset_format,
    minimum_gap: f64,
    minimum_probability: f64,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: the texts and the place for the result are the host's, valid for the call.
    unsafe {
        guard(error, || {
            handle::refuse_child()?;
            let out = Out::new(out, "out")?;
            let (from, to) = (Path::new(from.text("from")?), Path::new(to.text("to")?));
            let format = match format {
                FORETURN_DATASET_SFT => Format::Sft,
                FORETURN_DATASET_DPO => Format::Dpo,
                FORETURN_DATASET_REWARD => Format::Reward,
                FORETURN_DATASET_COLLABLLM_NESTED => Format::CollabllmNested,
                FORETURN_DATASET_COLLABLLM_FLAT => Format::CollabllmFlat,
                other => return Err(Failure::argument(format!("format is {other}: it is one of FORETURN_DATASET_…"))),
            };
            let minimum_probability = (minimum_probability != 0.0).then_some(minimum_probability);
            let exported = dataset::export(from, format, &ExportOptions { minimum_gap, minimum_probability }, to)?;
            out.write(handle::insert(text(serde_json::to_string(&exported))?));
            Ok(())
        })
    }
}
