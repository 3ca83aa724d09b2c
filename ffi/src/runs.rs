//! Data sets and evaluations: whole conversations over a file of tasks.

use std::ffi::c_void;
use std::path::Path;

use foreturn::Engine;
use foreturn::dataset::{self, BuildOptions};
use foreturn::engine::CancelToken;
use foreturn::evaluate::{self, EvaluateOptions, Policy};
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

/// The settings of a data set or an evaluation. A number that is 0 stands for its default.
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
    /// For data sets: number of candidates at each turn; 4 by default.
    pub candidates: usize,
    /// Maximum number of turns of the assistant in a conversation; 4 by default in data sets, 5 in evaluations.
    pub turns: usize,
    /// For evaluations: number of conversations about each task with each policy; 1 by default.
    pub samples: usize,
    /// Number of conversations at the same time; 8 by default.
    pub concurrency: usize,
    /// Begin no conversation that would probably take the run beyond this many tokens; no limit by default.
    pub max_tokens: u64,
    /// Number of the part of the tasks to take, from 1, if `shard_count` is set.
    pub shard: usize,
    /// Number of parts; all tasks are taken by default.
    pub shard_count: usize,
    /// Seed of all random draws. Without `has_seed`, the configuration's in data sets, and 0 in evaluations.
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
}
sized!(foreturn_run_options);

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_run_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_run_options_init(options: *mut foreturn_run_options, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// What both kinds of runs take from the options.
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
/// a killed build goes on. `*out` is a summary as JSON, with `finished`, `set_aside`, `left`, `stopped` and `spent`.
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
                parquet: false,
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
