//! Appends rankings to a trace.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::record::{Line, TracedRequest};
use crate::rank::{EndedRollout, RankPlan, RankRequest, Ranking};
use crate::{Error, Result};

/// Writes traces of rankings to a file. Cheap to share: clone it.
///
/// ```no_run
/// use foreturn::trace::TraceWriter;
/// use foreturn::{Config, Engine, RankOptions, RankRequest};
///
/// # fn main() -> foreturn::Result<()> {
/// # let (engine, request) = (Engine::new(Config::default())?, RankRequest::default());
/// let trace = TraceWriter::append("rollouts.jsonl")?;
/// let ranking = trace.rank(&engine, request, RankOptions::default())?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct TraceWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    output: Mutex<Output>,
    /// Tells the rankings of one writer apart.
    next: AtomicU64,
}

#[derive(Debug)]
struct Output {
    file: File,
    /// True if the file ends within a line, as a crash or a full disk leaves it.
    midway: bool,
}

impl Output {
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let text = if self.midway { format!("\n{line}\n") } else { format!("{line}\n") };
        let written = self.file.write_all(text.as_bytes());
        self.midway = written.is_err();
        written
    }
}

/// Tells whether a file ends within a line. A file that cannot be read back, such as a pipe, is taken to be whole.
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
    /// Opens the file at `path`, or makes it. Its content stays.
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

    /// Begins a ranking of `request` under `plan`, and writes its first line. This is for a host that drives a
    /// `RankJob`. With an engine, use [`TraceWriter::rank`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if the line cannot be written.
    pub fn begin(&self, request: &RankRequest, plan: &RankPlan) -> Result<RankingTrace> {
        let ranking = RankingTrace { writer: self.clone(), name: self.name_ranking() };
        // Other processes may write to the file as well, and break off.
        self.output().midway |= ends_midway(&self.shared.path);
        self.write(&Line::Request { ranking: &ranking.name, request: &TracedRequest::new(request, plan) })?;
        Ok(ranking)
    }

    /// A name that no other ranking in the file has.
    fn name_ranking(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        format!("{now:x}-{:x}-{number}", std::process::id())
    }

    fn write(&self, line: &Line<'_>) -> Result<()> {
        let line = serde_json::to_string(line)
            .map_err(|e| Error::internal(format!("a line of a trace cannot be written as JSON: {e}")))?;
        self.output().write(&line).map_err(|e| Error::io("write", &self.shared.path, e))
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.shared.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ranking that is being traced.
#[derive(Debug, Clone)]
pub struct RankingTrace {
    writer: TraceWriter,
    name: String,
}

impl RankingTrace {
    /// The name of the ranking in the trace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a rollout that has ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn rollout(&self, rollout: &EndedRollout) -> Result<()> {
        self.writer.write(&Line::Rollout { ranking: &self.name, rollout })
    }

    /// Writes the finished ranking.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn finish(self, result: &Ranking) -> Result<()> {
        self.writer.write(&Line::Ranking { ranking: &self.name, result })
    }
}
