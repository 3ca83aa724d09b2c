//! Traces: every rollout of a ranking as a line of JSON, written as it ends.
//!
//! ```text
//! {"kind":"request","schema":1,"ranking":"…",…}     the request, and what is scored
//! {"kind":"rollout","ranking":"…",…}                an EndedRollout, with raw answers of models, in the order of their ends
//! {"kind":"ranking","ranking":"…","result":{…}}     the Ranking
//! ```
//!
//! Lines of rankings that are made at the same time interleave; `ranking` tells them apart. A file is only ever appended
//! to, a whole line at once, so what a crash leaves can be read but for its last line. A ranking begins on a line of its own,
//! so half a line that was left there takes nothing with it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Engine, RankOptions};
use crate::model::tokenizer::DateTime;
use crate::rank::{EndedRollout, RankRequest, Ranking};
use crate::{Error, Result};

/// Writes traces of rankings to a file. Cheap to share: clone it.
///
/// ```no_run
/// use foreturn::engine::TraceWriter;
/// use foreturn::{Config, Engine, RankOptions, RankRequest};
///
/// # fn main() -> foreturn::Result<()> {
/// # let (engine, request) = (Engine::new(Config::default())?, RankRequest::default());
/// let trace = TraceWriter::append("rollouts.jsonl")?;
/// let ranking = trace.rank(&engine, request, RankOptions::default())?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TraceWriter {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    output: Mutex<Output>,
    /// Tells the rankings of one writer apart.
    next: AtomicU64,
}

struct Output {
    file: File,
    /// Whether it ends within a line, as a crash or a full disk leaves it.
    midway: bool,
}

impl Output {
    fn write(&mut self, line: &Value) -> std::io::Result<()> {
        let text = if self.midway { format!("\n{line}\n") } else { format!("{line}\n") };
        let written = self.file.write_all(text.as_bytes());
        self.midway = written.is_err();
        written
    }
}

/// Whether a file ends within a line. What can't be read back, as a pipe, is taken to be whole.
fn ends_midway(path: &Path) -> bool {
    let last = || -> std::io::Result<u8> {
        let mut last = [0];
        let (mut file, _) = crate::files::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    // Opening a pipe to read would wait for somebody to write.
    path.metadata().is_ok_and(|about| about.is_file()) && last().is_ok_and(|last| last != b'\n')
}

impl TraceWriter {
    /// Opens the file at `path`, or makes it; what is there stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn append(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().create(true).append(true).open(path);
        let output = Output { file: file.map_err(|e| Error::io("open", path, e))?, midway: false };
        let shared = Shared { path: path.to_owned(), output: Mutex::new(output), next: AtomicU64::new(0) };
        Ok(TraceWriter { shared: Arc::new(shared) })
    }

    /// Ranks a request's candidates as [`Engine::rank`] does, and writes what happens.
    ///
    /// # Errors
    /// As [`Engine::rank`], and where the trace can't be written; the rollouts until then are in it.
    pub fn rank(&self, engine: &Engine, request: RankRequest, options: RankOptions) -> Result<Ranking> {
        let id = self.name_ranking();
        let header = header(&id, engine, &request)?;
        // Other processes may write to the file as well, and break off.
        self.output().midway |= ends_midway(&self.shared.path);
        self.write(&header)?;
        let (writer, name, mut on_rollout) = (self.clone(), id.clone(), options.on_rollout);
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let failure = Arc::clone(&failed);
        let write = move |rollout: EndedRollout| {
            let line = Line { kind: "rollout", ranking: &name, rollout: &rollout };
            if let Err(error) = to_value(&line).and_then(|line| writer.write(&line)) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            if let Some(on_rollout) = &mut on_rollout {
                on_rollout(rollout);
            }
        };
        let ranking = engine.rank(request, RankOptions { on_rollout: Some(Box::new(write)), ..options })?;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        self.write(&json!({"kind": "ranking", "ranking": id, "result": to_value(&ranking)?}))?;
        Ok(ranking)
    }

    /// A name that no other ranking in the file has.
    fn name_ranking(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        format!("{now:x}-{:x}-{number}", std::process::id())
    }

    fn write(&self, line: &Value) -> Result<()> {
        self.output().write(line).map_err(|e| Error::io("write", &self.shared.path, e))
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.shared.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    ranking: &'a str,
    #[serde(flatten)]
    rollout: &'a EndedRollout,
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal(format!("a trace's line is no JSON: {e}")))
}

/// The first line of a ranking: the request with the settings in force.
fn header(id: &str, engine: &Engine, request: &RankRequest) -> Result<Value> {
    let plan = engine.plan()?;
    let metrics = plan
        .metrics
        .iter()
        .map(|weighted| json!({"name": weighted.name, "kind": weighted.metric.kind(), "weight": weighted.weight}));
    Ok(json!({
        "kind": "request",
        "schema": 1,
        "ranking": id,
        "time": format!("{}Z", DateTime::now()),
        "conversation": to_value(&request.conversation)?,
        "candidates": to_value(&request.candidates)?,
        "goal": to_value(&request.goal)?,
        "window": plan.window(request),
        "samples": plan.samples(request),
        "seed": request.seed.unwrap_or(plan.seed),
        "metrics": metrics.collect::<Vec<Value>>(),
    }))
}
