//! Folders that are open in this process, so that those who open one again share what is large: the graph, the tokenizer,
//! packed weights.
//!
//! A folder is known by its files, and not by its name alone: one whose files were replaced or written to is another. The
//! registry holds no folder and no weights. They go with the last engine that uses them.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use super::ModelFolder;
use super::find;
use super::layout::OpenOptions;
use super::target::Target;
use crate::Result;

/// The system's times of files may be as coarse as this. Two writes within it may leave the same times.
const TICK: Duration = Duration::from_millis(20);

static OPEN: Mutex<Vec<(Key, Weak<ModelFolder>)>> = Mutex::new(Vec::new());

fn registry() -> MutexGuard<'static, Vec<(Key, Weak<ModelFolder>)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes two openings the same.
#[derive(PartialEq)]
struct Key {
    graph: PathBuf,
    options: OpenOptions,
    target: Target,
    files: Vec<(OsString, State)>,
}

/// The state of a file. Whoever writes to it or puts another in its place changes this.
#[derive(PartialEq)]
struct State {
    place: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn new(file: &Metadata) -> Self {
        State {
            place: (file.dev(), file.ino()),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl Key {
    /// Of the folder at `path`; `None` where it can't be read, which opening it says better.
    fn of(path: &Path, options: OpenOptions, target: Target) -> Option<Self> {
        let place = find::find(path).ok()?;
        let graph = place.graph.canonicalize().ok()?;
        let folder = place.folder.canonicalize().ok()?;
        let beside = graph.parent()?;
        let mut files = states(&folder)?;
        if beside != folder {
            files.extend(states(beside)?);
        }
        Some(Key { graph, options, target, files })
    }

    /// Waits until whatever is written from now on shows in the files' times.
    fn settle(&self) {
        let newest = self.files.iter().map(|(_, file)| file.changed).max().unwrap_or_default();
        let since = Duration::new(newest.0.max(0) as u64, newest.1.clamp(0, 999_999_999) as u32);
        // A time that is yet to come says nothing.
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|now| now.checked_sub(since));
        if let Some(rest) = age.and_then(|age| TICK.checked_sub(age)) {
            std::thread::sleep(rest);
        }
    }
}

/// The files in a folder, in the order of their names.
fn states(folder: &Path) -> Option<Vec<(OsString, State)>> {
    let entries = std::fs::read_dir(folder).ok()?.collect::<std::io::Result<Vec<_>>>().ok()?;
    let mut states = Vec::new();
    for entry in entries {
        // Of what a link points to.
        let file = std::fs::metadata(entry.path()).ok()?;
        if file.is_file() {
            states.push((entry.file_name(), State::new(&file)));
        }
    }
    states.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(states)
}

impl ModelFolder {
    /// Like [`ModelFolder::open_for`]. Gives the folder that is open already, if it is the same one.
    pub(crate) fn open_shared(path: &Path, options: OpenOptions, target: Target) -> Result<Arc<Self>> {
        let key = Key::of(path, options, target);
        if let Some(open) = key.as_ref().and_then(known) {
            return Ok(open);
        }
        let folder = Arc::new(Self::open_for(path, options, target)?);
        // Files that changed while they were read are nobody else's.
        key.iter().for_each(Key::settle);
        match key.filter(|key| Key::of(path, options, target).as_ref() == Some(key)) {
            Some(key) => Ok(enter(key, folder)),
            None => Ok(folder),
        }
    }
}

fn known(key: &Key) -> Option<Arc<ModelFolder>> {
    let open = registry().iter().find(|(other, _)| other == key)?.1.upgrade()?;
    // Weights may lie in other folders.
    open.file().check_unchanged().is_ok().then_some(open)
}

/// Enters a folder, unless another thread was first.
fn enter(key: Key, folder: Arc<ModelFolder>) -> Arc<ModelFolder> {
    let mut open = registry();
    open.retain(|(_, folder)| folder.strong_count() > 0);
    let first = open.iter().find(|(other, _)| *other == key).and_then(|(_, folder)| folder.upgrade());
    match first.filter(|first| first.file().check_unchanged().is_ok()) {
        Some(first) => first,
        None => {
            open.push((key, Arc::downgrade(&folder)));
            folder
        }
    }
}

/// Something large that is made when it is first needed, and goes with the last of those who use it.
pub(crate) struct Slot<T>(Mutex<Weak<T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Mutex::new(Weak::new()))
    }
}

impl<T> Slot<T> {
    /// What is there, or what `make` gives. Others wait for it meanwhile.
    pub(crate) fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = slot.upgrade() {
            return Ok(there);
        }
        let made = Arc::new(make()?);
        *slot = Arc::downgrade(&made);
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::testing::{decoder, folder};

    fn open(path: &Path) -> Arc<ModelFolder> {
        ModelFolder::open_shared(path, OpenOptions::default(), Target::cpu()).expect("opened")
    }

    #[test]
    fn the_same_files_are_opened_once_and_others_anew() {
        let made = folder(&decoder());
        let first = open(made.path());
        assert!(Arc::ptr_eq(&first, &open(made.path())));
        assert!(Arc::ptr_eq(&first, &open(&made.path().join("."))), "whatever it is called");
        let padded = OpenOptions { batching: crate::model::Batching::Padded, ..OpenOptions::default() };
        let other = ModelFolder::open_shared(made.path(), padded, Target::cpu()).expect("opened");
        assert!(!Arc::ptr_eq(&first, &other), "with other options it is another");

        // A file that is written to, one that is replaced by its like, and one that is new.
        let config = made.path().join("config.json");
        let text = fs::read_to_string(&config).expect("a configuration");
        fs::write(&config, format!("{text} ")).expect("written");
        let second = open(made.path());
        assert!(!Arc::ptr_eq(&first, &second));
        fs::copy(&config, made.path().join("copy")).expect("copied");
        fs::rename(made.path().join("copy"), &config).expect("replaced");
        let third = open(made.path());
        assert!(!Arc::ptr_eq(&second, &third));
        fs::write(made.path().join("chat_template.jinja"), "{{ messages }}").expect("written");
        assert!(!Arc::ptr_eq(&third, &open(made.path())));

        // Nothing is kept by the registry itself.
        let weak = Arc::downgrade(&first);
        drop(first);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn what_is_in_a_slot_goes_with_the_last_who_uses_it() {
        let slot = Slot::<u32>::default();
        let first = slot.get(|| Ok(1)).expect("made");
        assert!(Arc::ptr_eq(&first, &slot.get(|| Ok(2)).expect("there")));
        drop(first);
        assert!(slot.get(|| Err(crate::Error::internal("no"))).is_err());
        assert_eq!(*slot.get(|| Ok(3)).expect("made anew"), 3);
    }
}
