//! `pass_rate` (PR): whether the code that the conversation ends with passes its unit tests (BigCodeBench-Chat's
//! extrinsic reward, R_ext of Eq. 3).
//!
//! Range [0, 1]: 1 if it passes all of them, else 0; with `partial = true`, the share that it passes. Needs `goal.tests`
//! (a `unittest.TestCase`, a function `check(candidate)`, or `assert` statements) and `goal.entry_point`. The code is the
//! last fenced block of Python in what was extracted, else in the assistant's last message. It runs in a sandbox
//! (docs/code-execution.md); code that fails, hangs or attacks is a 0, and what this machine can't run is an error.
//!
//! Settings: `interpreter`, a Python of version 3.10 or newer, is required; `packages`, folders put on its search path,
//! and `visible`, further paths that programs may read, both empty; `tests_run = "apart" | "together"`; `partial`;
//! `isolation = "required" | "none"`; `timeout_s` (30), `cpu_s` (30), `memory` ("2GiB"), `processes` (64), `file_size`
//! ("64MiB"), `files` ("256MiB", all together), `output` ("1MiB"): what a program and its tests may use; `user` (65534),
//! whom they run as where this program is root; `parallel` (1), how many programs run at once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;

use super::settings;
use crate::byte_size::ByteSize;
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue};
use crate::reward::unit_tests::{TestSettings, Tester, TestsRun, program_text};
use crate::rollout::Goal;
use crate::sandbox::{Isolation, Limits, NOBODY};
use crate::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    interpreter: Option<PathBuf>,
    packages: Vec<PathBuf>,
    visible: Vec<PathBuf>,
    tests_run: TestsRun,
    partial: bool,
    isolation: Isolation,
    timeout_s: u64,
    cpu_s: u64,
    memory: ByteSize,
    processes: u64,
    file_size: ByteSize,
    files: ByteSize,
    output: ByteSize,
    user: u32,
    parallel: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let Limits { wall, cpu, memory, processes, file_size, files, output } = Limits::default();
        Settings {
            interpreter: None,
            packages: Vec::new(),
            visible: Vec::new(),
            tests_run: TestsRun::default(),
            partial: false,
            isolation: Isolation::default(),
            timeout_s: wall.as_secs(),
            cpu_s: cpu.as_secs(),
            memory: ByteSize(memory),
            processes,
            file_size: ByteSize(file_size),
            files: ByteSize(files),
            output: ByteSize(output),
            user: NOBODY,
            parallel: 1,
        }
    }
}

impl Settings {
    fn validate(&self) -> Result<()> {
        /// Python's library alone takes a large part of it.
        const LEAST_MEMORY: ByteSize = ByteSize(64 << 20);
        for (key, value) in [("timeout_s", self.timeout_s), ("cpu_s", self.cpu_s)] {
            if !(1..=86_400).contains(&value) {
                return Err(Error::invalid_config(format!("{key} = {value}: give seconds from 1 to 86400")));
            }
        }
        if self.memory < LEAST_MEMORY {
            return Err(Error::invalid_config(format!(
                "memory = {}: an interpreter needs \"64MiB\" or more",
                self.memory.0
            )));
        }
        let sizes = [("file_size", self.file_size.0), ("files", self.files.0), ("output", self.output.0)];
        let counts = [("processes", self.processes), ("parallel", self.parallel as u64), ("user", self.user.into())];
        match sizes.into_iter().chain(counts).find(|(_, value)| *value == 0) {
            Some(("user", _)) => Err(Error::invalid_config("user = 0: foreign code doesn't run as root")),
            Some((key, _)) => Err(Error::invalid_config(format!("{key} = 0: at least 1 is needed"))),
            None => Ok(()),
        }
    }

    fn tester(self, base: &Path) -> Result<Tester> {
        let interpreter = self.interpreter.ok_or_else(|| {
            Error::invalid_config(
                "interpreter is missing: code runs only if a Python is named for it, as in interpreter = \
                 \"/usr/bin/python3\"",
            )
        })?;
        let absolute = |path: PathBuf| std::path::absolute(base.join(&path)).map_err(|e| Error::io("find", &path, e));
        let interpreter = absolute(interpreter)?;
        if !interpreter.is_file() {
            return Err(Error::invalid_config(format!("interpreter: there is no file {}", interpreter.display())));
        }
        let limits = Limits {
            wall: Duration::from_secs(self.timeout_s),
            cpu: Duration::from_secs(self.cpu_s),
            memory: self.memory.0,
            processes: self.processes,
            file_size: self.file_size.0,
            files: self.files.0,
            output: self.output.0,
        };
        Ok(Tester::new(TestSettings {
            interpreter,
            packages: self.packages.into_iter().map(absolute).collect::<Result<_>>()?,
            visible: self.visible.into_iter().map(absolute).collect::<Result<_>>()?,
            tests_run: self.tests_run,
            isolation: self.isolation,
            limits,
            user: self.user,
        }))
    }
}

struct PassRate {
    tester: Tester,
    tests_run: TestsRun,
    partial: bool,
    parallel: usize,
}

pub(super) fn build(table: toml::Table, base: &Path) -> Result<Arc<dyn Metric>> {
    let settings: Settings = settings(table)?;
    settings.validate()?;
    let Settings { tests_run, partial, parallel, .. } = settings;
    Ok(Arc::new(PassRate { tester: settings.tester(base)?, tests_run, partial, parallel }))
}

impl PassRate {
    fn value(&self, input: &MetricInput<'_>) -> Result<MetricValue> {
        let tests = tests(input.goal)?;
        let verdict = self.tester.verdict(program_text(input.subject()), tests, input.goal.entry_point.as_deref())?;
        let value = if self.partial { verdict.share() } else { f64::from(u8::from(verdict.all())) };
        Ok(MetricValue { note: verdict.reason, ..MetricValue::new(value) })
    }
}

fn tests(goal: &Goal) -> Result<&str> {
    let given = goal.tests.as_deref().filter(|tests| !tests.trim().is_empty());
    given.ok_or_else(|| Error::invalid_request("goal.tests is missing: pass_rate runs the unit tests that are there"))
}

impl Metric for PassRate {
    fn kind(&self) -> &str {
        "pass_rate"
    }

    fn check(&self, goal: &Goal) -> Result<()> {
        let tests = tests(goal)?;
        let needed = self.tests_run == TestsRun::Apart || tests.contains("def check(");
        if needed && goal.entry_point.as_deref().is_none_or(|name| name.trim().is_empty()) {
            return Err(Error::invalid_request(
                "goal.entry_point is missing: pass_rate needs the name of the function that the tests call",
            ));
        }
        Ok(())
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let values: Vec<OnceLock<Result<MetricValue>>> = batch.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(scored), Some(value)) = (batch.get(at), values.get(at)) else { return };
                value.get_or_init(|| self.value(&scored.input));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.parallel.min(batch.len()) {
                // If the system refuses a thread, there is one fewer, and this thread does the rest.
                drop(crate::thread::spawn_scoped(scope, "foreturn-tests", "to run programs", work));
            }
            work();
        });
        let missing = || Err(Error::internal("a program that was not run"));
        values.into_iter().map(|value| value.into_inner().unwrap_or_else(missing)).collect()
    }
}
