//! Runs a program's unit tests and reports which of them it passes. The metric `pass_rate` uses this.
//!
//! ```text
//!           apart                                          together
//! host ◀─3─ tests' process ──4──▶ solution's process     host ◀─3─ one process with both
//!                          ◀──5──
//! ```
//!
//! Apart, the solution's process answers calls of its entry point and has no part in the verdict. Only values of plain
//! types are sent. Together, both share an interpreter, so the verdict is only as good as the measures of `together.py`
//! against forgery. In both cases the host counts: a test passes if the tests' text has it and the channel says so. The
//! program's output and exit status mean nothing. The Python side is in the files beside this one.
//!
//! Broken tests are found by reading them and by running them alone (`Tester::check`). Everything that happens after a
//! solution's code was started is a verdict and never an error. Otherwise a wrong program could choose to have no
//! value.

mod interpreter;
mod program;
mod verdict;

use std::collections::HashMap;
use std::io::{PipeReader, PipeWriter, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use serde::Deserialize;
use serde_json::json;

use self::interpreter::Interpreter;
pub use self::program::program_text;
pub use self::verdict::Verdict;
use crate::sandbox::{End, Isolation, Limits, Outcome, Program, Sandbox};
use crate::{Error, ErrorKind, Result};

const VALUES: &str = include_str!("values.py");
const START: &str = include_str!("start.py");
const SUBSTITUTES: &str = include_str!("substitutes.py");
const SOLUTION: &str = include_str!("solution.py");
const SUITE: &str = include_str!("suite.py");
const SOUND: &str = include_str!("sound.py");
const TESTER: &str = include_str!("tester.py");
const TOGETHER: &str = include_str!("together.py");
const LIST: &str = include_str!("list.py");

/// Number of tests that are remembered as checked.
const MOST_CHECKED: usize = 1000;

/// The place where the tests run, relative to the solution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestsRun {
    /// In a process of their own, which the solution can't reach.
    #[default]
    Apart,
    /// In the solution's interpreter. Weaker, for tests that replace parts of the solution or get objects from it.
    Together,
}

/// Settings for testing programs.
#[derive(Debug, Clone)]
pub struct TestSettings {
    /// The Python interpreter, 3.10 or newer; absolute.
    pub interpreter: PathBuf,
    /// Folders to put in front of the interpreter's search path, absolute. Programs see them, read-only.
    pub packages: Vec<PathBuf>,
    /// Further paths that programs see, read-only.
    pub visible: Vec<PathBuf>,
    /// The place where the tests run.
    pub tests_run: TestsRun,
    /// Whether programs run isolated.
    pub isolation: Isolation,
    /// The resources that a program and its tests may use together.
    pub limits: Limits,
    /// See [`Sandbox::user`].
    pub user: u32,
}

/// Tests programs.
pub struct Tester {
    settings: TestSettings,
    interpreter: OnceLock<Result<Interpreter>>,
    /// The results of [`Tester::check`], by the tests' text and the entry point.
    checked: Mutex<HashMap<Tests, Result<Arc<[String]>>>>,
}

/// The tests' text, and the name of the function that they call.
type Tests = (String, Option<String>);

impl Tester {
    /// A tester; nothing is run yet.
    pub fn new(settings: TestSettings) -> Self {
        Tester { settings, interpreter: OnceLock::new(), checked: Mutex::new(HashMap::new()) }
    }

    /// Runs the `tests` of `code`. `entry_point` is the function that they call.
    ///
    /// # Errors
    /// Failures that are not the program's fault: the isolation or the interpreter isn't available
    /// ([`Unsupported`](ErrorKind::Unsupported)), or there are no tests, or they can't be run in this way
    /// ([`InvalidRequest`](ErrorKind::InvalidRequest)). The latter is decided without the program.
    pub fn verdict(&self, code: &str, tests: &str, entry_point: Option<&str>) -> Result<Verdict> {
        match self.settings.tests_run {
            TestsRun::Apart => self.apart(code, tests, entry_point),
            TestsRun::Together => self.together(code, tests, entry_point),
        }
    }

    fn apart(&self, code: &str, tests: &str, entry_point: Option<&str>) -> Result<Verdict> {
        let entry_point = entry_point.ok_or_else(|| {
            Error::invalid_request(
                "goal.entry_point is missing: the tests need the name of the function that they call",
            )
        })?;
        if let Some(Err(known)) = self.known(tests, Some(entry_point)) {
            return Err(known);
        }
        let nonce = nonce()?;
        let outcomes = self.outcomes(|| {
            let (from_tester, to_solution) = pipe()?;
            let (from_solution, to_tester) = pipe()?;
            let mut tester = self.tests(tests, entry_point, &nonce, false)?;
            tester.links = vec![to_solution.into(), from_solution.into()];
            let job = json!({"code": code, "entry_point": entry_point});
            let mut solution = self.program(&[VALUES, START, SUBSTITUTES, SOLUTION], job)?;
            solution.links = vec![from_tester.into(), to_tester.into()];
            Ok(vec![tester, solution])
        })?;
        let [tester, solution] = outcomes.as_slice() else { return Err(Error::internal("not two outcomes")) };
        let records = verdict::read(&tester.report, &nonce).unwrap_or_default();
        let names = match &records.tests {
            Some(names) if records.done && records.broken.is_none() => names.as_slice().into(),
            // The solution has run, so it may have influenced the report. It must not decide whether the tests are
            // broken.
            _ => self.check(tests, Some(entry_point))?,
        };
        // The tests' process can be trusted, but it may have been stopped. Then the solution's end has the reason.
        let end = if matches!(solution.end, End::Signalled(_)) { solution.end } else { tester.end };
        Ok(Verdict::of(records, &names, end))
    }

    fn together(&self, code: &str, tests: &str, entry_point: Option<&str>) -> Result<Verdict> {
        let names = self.check(tests, entry_point)?;
        let nonce = nonce()?;
        let outcomes = self.outcomes(|| {
            let job = json!({"code": code, "tests": tests, "entry_point": entry_point, "nonce": nonce});
            let mut both = self.program(&[VALUES, START, SUBSTITUTES, SUITE, TOGETHER], job)?;
            both.report = true;
            Ok(vec![both])
        })?;
        let [both] = outcomes.as_slice() else { return Err(Error::internal("not one outcome")) };
        match verdict::read(&both.report, &nonce) {
            Ok(records) => Ok(Verdict::of(records, &names, both.end)),
            Err(_) => Ok(Verdict::none(names.len(), "it wrote into the verdict's channel")),
        }
    }

    /// The tests in the text, if they can be run at all. The answer comes from a process that has nothing to do with
    /// any solution, so that no solution can turn its 0 into an error.
    fn check(&self, tests: &str, entry_point: Option<&str>) -> Result<Arc<[String]>> {
        if let Some(known) = self.known(tests, entry_point) {
            return known;
        }
        let nonce = nonce()?;
        let outcomes = self.outcomes(|| {
            let program = match (self.settings.tests_run, entry_point) {
                (TestsRun::Apart, Some(entry_point)) => self.tests(tests, entry_point, &nonce, true)?,
                _ => {
                    let job = json!({"tests": tests, "nonce": nonce});
                    let mut list = self.program(&[VALUES, START, SUITE, LIST], job)?;
                    list.report = true;
                    list
                }
            };
            Ok(vec![program])
        })?;
        let [alone] = outcomes.as_slice() else { return Err(Error::internal("not one outcome")) };
        let records = verdict::read(&alone.report, &nonce)?;
        let checked = match records {
            verdict::Records { broken: Some(why), .. } => Err(Error::invalid_request(why)),
            verdict::Records { tests: Some(names), loaded, done, .. } if loaded || done => Ok(names.into()),
            // Not remembered, because it may depend on other work of the machine.
            _ => return Err(says_nothing(alone)),
        };
        let mut remembered = self.remembered();
        if remembered.len() >= MOST_CHECKED {
            remembered.clear();
        }
        let copy = checked.as_ref().map(Arc::clone).map_err(Error::duplicate);
        remembered.insert((tests.to_owned(), entry_point.map(str::to_owned)), checked);
        copy
    }

    /// The result of an earlier [`check`](Tester::check).
    fn known(&self, tests: &str, entry_point: Option<&str>) -> Option<Result<Arc<[String]>>> {
        let remembered = self.remembered();
        let checked = remembered.get(&(tests.to_owned(), entry_point.map(str::to_owned)))?;
        Some(checked.as_ref().map(Arc::clone).map_err(Error::duplicate))
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<Tests, Result<Arc<[String]>>>> {
        self.checked.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs programs. If something outside ended the sandbox, it runs them once more. If this was not an accident, for
    /// example if a program takes memory that the machine doesn't have, it happens again.
    fn outcomes(&self, programs: impl Fn() -> Result<Vec<Program>>) -> Result<Vec<Outcome>> {
        let sandbox = self.sandbox()?;
        let outcomes = sandbox.run(programs()?)?;
        match outcomes.first() {
            Some(Outcome { end: End::Lost, .. }) => sandbox.run(programs()?),
            _ => Ok(outcomes),
        }
    }

    /// The process of the tests, beside a solution or `alone`.
    fn tests(&self, tests: &str, entry_point: &str, nonce: &str, alone: bool) -> Result<Program> {
        let job = json!({"tests": tests, "entry_point": entry_point, "nonce": nonce, "alone": alone});
        let mut tester = self.program(&[VALUES, START, SUBSTITUTES, SUITE, SOUND, TESTER], job)?;
        tester.report = true;
        Ok(tester)
    }

    fn interpreter(&self) -> Result<&Interpreter> {
        let found = self.interpreter.get_or_init(|| Interpreter::find(&self.settings.interpreter));
        found.as_ref().map_err(Error::duplicate)
    }

    fn sandbox(&self) -> Result<Sandbox> {
        let TestSettings { packages, visible, isolation, limits, user, .. } = &self.settings;
        let visible = self.interpreter()?.paths.iter().chain(packages).chain(visible).cloned().collect();
        Ok(Sandbox { isolation: *isolation, limits: limits.clone(), visible, user: *user })
    }

    /// The interpreter with a program of several texts, and a job on its standard input.
    fn program(&self, texts: &[&str], mut job: serde_json::Value) -> Result<Program> {
        job["packages"] = json!(self.settings.packages);
        let mut program = Program::new(&self.interpreter()?.executable);
        // Isolated from the environment and the user's site folder, without writing byte code, with UTF-8 everywhere.
        program.args = ["-I", "-B", "-X", "utf8", "-c"].map(Into::into).to_vec();
        program.args.push(texts.concat().into());
        program.input = job.to_string().into_bytes();
        Ok(program)
    }
}

/// The error for a tests' process that ended, without any solution, before it could list the tests.
fn says_nothing(outcome: &Outcome) -> Error {
    Error::runtime(format!(
        "the tests can't be run, even without a solution: {}; the last words: {}",
        outcome.end,
        String::from_utf8_lossy(&outcome.stderr).lines().last().unwrap_or("none")
    ))
}

/// Sixteen random bytes, in hexadecimal digits.
#[allow(clippy::disallowed_methods, reason = "a device of the system's own, of which sixteen bytes are read")]
fn nonce() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let path = std::path::Path::new("/dev/urandom");
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn pipe() -> Result<(PipeReader, PipeWriter)> {
    std::io::pipe().map_err(|e| Error::new(ErrorKind::Io, format!("cannot make a pipe: {e}")).with_source(e))
}
