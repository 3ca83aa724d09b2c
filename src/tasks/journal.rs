//! The journal of a run: each finished conversation is a line that is on the disk before the next step.
//!
//! ```text
//! {"kind":"settings","schema":1,"settings":{…}}                                     what the run depends on, first
//! {"kind":"done","key":"…","task":"…","spent":{…},"entry":{…}}                      a conversation
//! {"kind":"failed","key":"…","task":"…","spent":{…},"reason":"…","own":true}        why there is none, and whether the
//!                                                                                   task itself is to blame
//! ```
//!
//! A line is appended whole and synced. A kill can cut off no more than the last line, which is then cut away, and its
//! conversation is held again. `task` is the fingerprint of the task, so a task that was edited is held again too.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spend::Spent;
use crate::{Error, Result, files, json};

const SCHEMA: u32 = 1;

/// Where a run keeps its files.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    folder: PathBuf,
}

impl Places {
    /// The files of a run in `folder`, which is made if it is missing.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        Ok(Places { folder: folder.to_owned() })
    }

    /// The files of a run that was in `folder`.
    pub(crate) fn of(folder: &Path) -> Self {
        Places { folder: folder.to_owned() }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.file("journal.jsonl")
    }

    /// A file of this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The journal, open for appending. Any thread may use it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Where the next line begins.
    end: u64,
    entries: BTreeMap<String, Entry>,
    /// The sum over all lines.
    spent: Spent,
}

/// What the journal says of a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) task: String,
    pub(crate) spent: Spent,
    /// What earlier lines about the same conversation spent: those that failed, or were about the task before an edit.
    pub(crate) earlier: Spent,
    /// Why there is no conversation.
    pub(crate) failed: Option<Failure>,
    at: u64,
    length: usize,
}

/// Why there is no conversation about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// True if the task itself is to blame, so that it would fail again. Otherwise the next run holds it again.
    pub(crate) own: bool,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Settings { schema: u32, settings: &'a Map<String, Value> },
    Done { key: &'a str, task: &'a str, spent: &'a Spent, entry: &'a Value },
    Failed { key: &'a str, task: &'a str, spent: &'a Spent, reason: &'a str, own: bool },
}

/// A line without its entry, which may be large.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Known {
    Settings {
        schema: u32,
        settings: Map<String, Value>,
    },
    Done {
        key: String,
        task: String,
        spent: Spent,
    },
    Failed {
        key: String,
        task: String,
        spent: Spent,
        reason: String,
        #[serde(default)]
        own: bool,
    },
}

impl Journal {
    /// Opens the journal of a run with these settings, or begins it. A line that a kill cut off is cut away.
    ///
    /// # Errors
    /// It cannot be read or written, another process has it, a line is damaged, or it was begun with other settings.
    pub(crate) fn open(path: &Path, settings: &Map<String, Value>) -> Result<Self> {
        Self::open_or(path, settings, true)
    }

    /// Opens the journal of a run that was begun.
    pub(crate) fn open_existing(path: &Path, settings: &Map<String, Value>) -> Result<Self> {
        Self::open_or(path, settings, false)
    }

    fn open_or(path: &Path, settings: &Map<String, Value>, create: bool) -> Result<Self> {
        let failed = |action: &'static str| move |e| Error::io(action, path, e);
        let file = OpenOptions::new().read(true).append(true).create(create).open(path).map_err(failed("open"))?;
        if !file.metadata().map_err(failed("open"))?.is_file() {
            return Err(Error::invalid_request(format!("{} is not an ordinary file", path.display())));
        }
        lock(&file, path)?;
        let mut state = State { file, end: 0, entries: BTreeMap::new(), spent: Spent::default() };
        let begun = state.load(path)?;
        let journal = Journal { path: path.to_owned(), state: Mutex::new(state) };
        match begun {
            Some(begun) => refuse_other(path, &begun, settings)?,
            None => {
                journal.append(&Line::Settings { schema: SCHEMA, settings })?;
                sync_folder(path)?;
            }
        }
        Ok(journal)
    }

    /// The settings that the journal at `path` was begun with.
    pub(crate) fn settings(path: &Path) -> Result<Map<String, Value>> {
        let (file, _) = files::open(path).map_err(|e| Error::io("read", path, e))?;
        let mut first = Vec::new();
        BufReader::new(file).read_until(b'\n', &mut first).map_err(|e| Error::io("read", path, e))?;
        match json::parse::<Known>(&first) {
            Ok(Known::Settings { settings, .. }) => Ok(settings),
            _ => Err(Error::invalid_request(format!(
                "{} is not a journal: its first line has no settings",
                path.display()
            ))),
        }
    }

    /// Writes down a conversation.
    pub(crate) fn done(&self, key: &str, task: &str, spent: &Spent, entry: &Value) -> Result<()> {
        let (at, length) = self.append(&Line::Done { key, task, spent, entry })?;
        self.state().note(key.into(), task.into(), spent.clone(), None, (at, length));
        Ok(())
    }

    /// Writes down why there is no conversation.
    pub(crate) fn failed(&self, key: &str, task: &str, spent: &Spent, failure: &Failure) -> Result<()> {
        let Failure { reason, own } = failure;
        let place = self.append(&Line::Failed { key, task, spent, reason, own: *own })?;
        self.state().note(key.into(), task.into(), spent.clone(), Some(failure.clone()), place);
        Ok(())
    }

    /// What is known of a conversation about the task with this fingerprint.
    pub(crate) fn entry(&self, key: &str, task: &str) -> Option<Entry> {
        self.state().entries.get(key).filter(|entry| entry.task == task).cloned()
    }

    /// The sum over all conversations that were held, with those that failed or were held again.
    pub(crate) fn spent(&self) -> Spent {
        self.state().spent.clone()
    }

    /// The keys of everything that was written down.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().entries.keys().cloned().collect()
    }

    /// Reads a conversation back.
    pub(crate) fn read(&self, key: &str, task: &str) -> Result<Option<Value>> {
        #[derive(Deserialize)]
        struct Done {
            entry: Value,
        }
        let Some(entry) = self.entry(key, task).filter(|entry| entry.failed.is_none()) else { return Ok(None) };
        let mut line = vec![0; entry.length];
        let mut state = self.state();
        let read = state.file.seek(SeekFrom::Start(entry.at)).and_then(|_| state.file.read_exact(&mut line));
        drop(state);
        read.map_err(|e| Error::io("read", &self.path, e))?;
        let done: Done = json::parse(&line)
            .map_err(|e| Error::invalid_request(format!("{}: `{key}` cannot be read: {e}", self.path.display())))?;
        Ok(Some(done.entry))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line and waits until it is on the disk. Returns its place.
    fn append(&self, line: &Line<'_>) -> Result<(u64, usize)> {
        let text = json_line(line)?;
        let bytes = [text.as_bytes(), b"\n"].concat();
        let mut state = self.state();
        let at = state.end;
        if let Err(e) = state.file.write_all(&bytes).and_then(|()| state.file.sync_data()) {
            // The disk may be full. Half a line is taken back where that is possible; otherwise the next start does so.
            drop(state.file.set_len(at));
            return Err(Error::io("write", &self.path, e));
        }
        state.end += bytes.len() as u64;
        Ok((at, text.len()))
    }
}

impl State {
    /// Keeps what a line says, which is at `place`.
    fn note(&mut self, key: String, task: String, spent: Spent, failed: Option<Failure>, (at, length): (u64, usize)) {
        self.spent.add(&spent);
        let earlier = self.entries.remove(&key).map(|mut entry| {
            entry.earlier.add(&entry.spent);
            entry.earlier
        });
        let entry = Entry { task, spent, earlier: earlier.unwrap_or_default(), failed, at, length };
        self.entries.insert(key, entry);
    }

    /// Reads all lines. Returns the settings, if there are any yet.
    fn load(&mut self, path: &Path) -> Result<Option<Map<String, Value>>> {
        let mut reader = BufReader::new(self.file.try_clone().map_err(|e| Error::io("read", path, e))?);
        let (mut settings, mut line, mut number) = (None, Vec::new(), 0);
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, e))?;
            if length == 0 {
                break;
            }
            if line.pop() != Some(b'\n') {
                self.file.set_len(self.end).map_err(|e| Error::io("cut", path, e))?;
                break;
            }
            number += 1;
            let damaged = |why: String| {
                Error::invalid_request(format!(
                    "{}, line {number}: {why}. The file was changed by something else: remove the line, and its \
                     conversation is held again",
                    path.display()
                ))
            };
            let (at, length) = (self.end, line.len());
            match json::parse::<Known>(&line).map_err(|e| damaged(e.to_string()))? {
                Known::Settings { schema: SCHEMA, settings: begun } => settings = Some(begun),
                Known::Settings { schema, .. } => {
                    return Err(damaged(format!("it has schema {schema}; this version reads {SCHEMA}")));
                }
                Known::Done { key, task, spent } => {
                    self.note(key, task, spent, None, (at, length));
                }
                Known::Failed { key, task, spent, reason, own } => {
                    self.note(key, task, spent, Some(Failure { reason, own }), (at, length));
                }
            }
            if settings.is_none() {
                return Err(damaged("the first line of a journal has its settings".into()));
            }
            self.end += length as u64 + 1;
        }
        Ok(settings)
    }
}

/// How long a process that was killed may take to let go of its files.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps other processes out. The system lets go of the lock when this process ends, however it ends.
fn lock(file: &File, path: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::invalid_request(format!(
                    "{} is in use by another process: give each process a folder of its own (--shard), and merge them",
                    path.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
        }
    }
}

/// Refuses to go on with other settings, because rows that were made in different ways would be mixed.
fn refuse_other(path: &Path, begun: &Map<String, Value>, settings: &Map<String, Value>) -> Result<()> {
    let names: Vec<&String> = begun.keys().chain(settings.keys().filter(|name| !begun.contains_key(*name))).collect();
    let other = names.into_iter().filter(|name| begun.get(*name) != settings.get(*name)).map(|name| {
        let shown = |of: &Map<String, Value>| of.get(name).map_or_else(|| "absent".into(), Value::to_string);
        format!("{name} was {} and is {}", shown(begun), shown(settings))
    });
    let other: Vec<String> = other.collect();
    if other.is_empty() {
        return Ok(());
    }
    Err(Error::invalid_request(format!(
        "{} was begun with other settings: {}. Go on with the same ones, or choose another folder",
        path.display(),
        other.join("; ")
    )))
}

/// A value as a line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("a row cannot be written as JSON: {e}")))
}

/// A row of the journal.
pub(crate) fn json_row(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal(format!("a row cannot be written as JSON: {e}")))
}

/// Replaces a file of lines, whole.
pub(crate) fn write_atomically(path: &Path, lines: impl IntoIterator<Item = Result<String>>) -> Result<()> {
    files::replace(path, |out| {
        lines.into_iter().try_for_each(|line| writeln!(out, "{}", line?).map_err(|e| Error::io("write", path, e)))
    })
}

/// Makes the name of a new file last.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = OpenOptions::new().read(true).open(folder);
    file.and_then(|folder| folder.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(seed: u64) -> Map<String, Value> {
        Map::from_iter([("seed".into(), json!(seed)), ("turns".into(), json!(3))])
    }

    fn spent() -> Spent {
        Spent { seconds: 1.5, ..Spent::default() }
    }

    #[test]
    fn what_was_written_down_is_there_after_any_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = Places::make(folder.path()).unwrap().journal();
        let journal = Journal::open(&path, &settings(7)).unwrap();
        journal.done("a", "f1", &spent(), &json!({"x": 0.1, "text": "ü\n"})).unwrap();
        let failure = Failure { reason: "no answer".into(), own: true };
        journal.failed("b", "f2", &spent(), &failure).unwrap();
        journal.done("c", "f3", &spent(), &json!([1])).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').map(|at| at + 1).collect();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let journal = Journal::open(&path, &settings(7)).unwrap();
            let lines = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(journal.keys().len(), lines.saturating_sub(1), "cut at {cut}");
            assert_eq!(journal.read("a", "f1").unwrap().is_some(), lines >= 2);
            // What is appended after a cut stands on a line of its own.
            journal.done("d", "f4", &spent(), &json!("again")).unwrap();
            drop(journal);
            let journal = Journal::open(&path, &settings(7)).unwrap();
            assert_eq!(journal.read("d", "f4").unwrap(), Some(json!("again")), "cut at {cut}");
        }
        std::fs::write(&path, &whole).unwrap();
        let journal = Journal::open(&path, &settings(7)).unwrap();
        assert_eq!(journal.read("a", "f1").unwrap(), Some(json!({"x": 0.1, "text": "ü\n"})));
        assert_eq!(journal.entry("b", "f2").unwrap().failed, Some(failure));
        assert_eq!(journal.read("a", "edited").unwrap(), None, "an edited task is another one");
        assert_eq!(journal.spent().seconds, 4.5);
        // What was held again, or was about the task before an edit, was paid for as well.
        journal.done("b", "f2", &spent(), &json!(1)).unwrap();
        journal.done("a", "edited", &spent(), &json!(1)).unwrap();
        let paid = |journal: &Journal| (journal.spent().seconds, journal.entry("b", "f2").unwrap().earlier.seconds);
        assert_eq!(paid(&journal), (7.5, 1.5));
        drop(journal);
        assert_eq!(paid(&Journal::open(&path, &settings(7)).unwrap()), (7.5, 1.5));
    }

    #[test]
    fn other_settings_damage_and_a_second_process_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = Journal::open(&path, &settings(7)).unwrap();
        let error = Journal::open(&path, &settings(7)).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        journal.done("a", "f", &spent(), &json!(1)).unwrap();
        drop(journal);
        let error = Journal::open(&path, &settings(8)).unwrap_err().to_string();
        assert!(error.contains("seed was 7 and is 8") && !error.contains("turns"), "{error}");
        assert_eq!(Journal::settings(&path).unwrap(), settings(7));
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replace("\"done\"", "\"dune\"")).unwrap();
        let error = Journal::open(&path, &settings(7)).unwrap_err().to_string();
        assert!(error.contains("line 2: unknown variant `dune`"), "{error}");
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        write_atomically(&path, ["old".to_owned()].map(Ok)).unwrap();
        let lines = vec![Ok("new".to_owned()), Err(Error::internal("midway"))];
        assert!(write_atomically(&path, lines).unwrap_err().to_string().contains("midway"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\n");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing is left beside it");
    }
}
