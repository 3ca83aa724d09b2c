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
use super::options::OpenOptions;
use super::target::Target;
use crate::Result;
use crate::runtime::ProviderReport;

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
    /// The provider, which decides the target, and why not those before it.
    report: ProviderReport,
    /// By their paths in the folder.
    files: Vec<(PathBuf, State)>,
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
    fn of(path: &Path, options: OpenOptions, report: &ProviderReport) -> Option<Self> {
        let place = find::find(path).ok()?;
        let graph = place.graph.canonicalize().ok()?;
        let folder = place.folder.canonicalize().ok()?;
        let beside = graph.parent()?;
        let mut files = states(&folder)?;
        if beside != folder {
            files.extend(states(beside)?);
        }
        Some(Key { graph, options, report: report.clone(), files })
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

/// The files in a folder and in those inside it, where chat templates and the settings of pooling may be, in the order of their
/// names.
fn states(folder: &Path) -> Option<Vec<(PathBuf, State)>> {
    let mut states = Vec::new();
    for (name, file) in entries(folder)? {
        if file.is_dir() {
            let inside = entries(&folder.join(&name))?.into_iter().filter(|(_, file)| file.is_file());
            states.extend(inside.map(|(inner, file)| (Path::new(&name).join(inner), State::new(&file))));
        } else if file.is_file() {
            states.push((name.into(), State::new(&file)));
        }
    }
    states.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(states)
}

/// What is in a folder. Links are what they point to.
fn entries(folder: &Path) -> Option<Vec<(OsString, Metadata)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        entries.push((entry.file_name(), std::fs::metadata(entry.path()).ok()?));
    }
    Some(entries)
}

impl ModelFolder {
    /// Like [`ModelFolder::open_for`], for the provider of `report`. Gives the folder that is open already, if it is the same
    /// one.
    pub(crate) fn open_shared(path: &Path, options: OpenOptions, report: &ProviderReport) -> Result<Arc<Self>> {
        let key = Key::of(path, options, report);
        if let Some(open) = key.as_ref().and_then(known) {
            return Ok(open);
        }
        let folder = Self::open_for(path, options, Target::of(report.used))?;
        let folder = Arc::new(ModelFolder { provider: report.clone(), ..folder });
        // Files that changed while they were read are nobody else's.
        key.iter().for_each(Key::settle);
        match key.filter(|key| Key::of(path, options, report).as_ref() == Some(key)) {
            Some(key) => Ok(enter(key, folder)),
            None => Ok(folder),
        }
    }
}

fn known(key: &Key) -> Option<Arc<ModelFolder>> {
    // Files are looked at after the registry is let go of, because their disk may be slow.
    let open: Vec<_> =
        registry().iter().filter(|(other, _)| other == key).filter_map(|(_, open)| open.upgrade()).collect();
    open.into_iter().find(|open| is_current(open))
}

/// Whether a folder's weights, which may lie in other folders, are what they were.
fn is_current(folder: &ModelFolder) -> bool {
    folder.file().check_unchanged().is_ok()
}

/// Enters a folder, unless another thread was first. Those with the same key whose weights are others by now are removed.
fn enter(key: Key, folder: Arc<ModelFolder>) -> Arc<ModelFolder> {
    let mut stale: Vec<Arc<ModelFolder>> = Vec::new();
    loop {
        let mut open = registry();
        open.retain(|(_, entry)| {
            entry.strong_count() > 0 && !stale.iter().any(|stale| Arc::as_ptr(stale) == entry.as_ptr())
        });
        let Some(first) = open.iter().filter(|(other, _)| *other == key).find_map(|(_, first)| first.upgrade()) else {
            open.push((key, Arc::downgrade(&folder)));
            return folder;
        };
        drop(open);
        if is_current(&first) {
            return first;
        }
        stale.push(first);
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
    use crate::runtime::Provider;

    fn open_with(path: &Path, options: OpenOptions, report: &ProviderReport) -> Arc<ModelFolder> {
        ModelFolder::open_shared(path, options, report).expect("opened")
    }

    fn open(path: &Path) -> Arc<ModelFolder> {
        open_with(path, OpenOptions::default(), &ProviderReport::only(Provider::Cpu))
    }

    #[test]
    fn files_in_folders_inside_are_the_folders_too() {
        let made = folder(&decoder());
        for inner in ["additional_chat_templates/tools.jinja", "1_Pooling/config.json"] {
            let file = made.path().join(inner);
            fs::create_dir(file.parent().expect("a folder")).expect("made");
            let before = open(made.path());
            fs::write(&file, "{}").expect("written");
            let with = open(made.path());
            assert!(!Arc::ptr_eq(&before, &with), "{inner} is new");
            assert!(Arc::ptr_eq(&with, &open(made.path())), "{inner}");
            fs::write(&file, "{ }").expect("written");
            assert!(!Arc::ptr_eq(&with, &open(made.path())), "{inner} is another");
        }
    }

    #[test]
    fn those_for_whom_other_providers_failed_share_with_their_like() {
        let made = folder(&decoder());
        let only = ProviderReport::only(Provider::Cpu);
        let report = ProviderReport { unavailable: vec![(Provider::Cuda, "no device".into())], ..only.clone() };
        let first = open_with(made.path(), OpenOptions::default(), &report);
        assert_eq!(*first.provider(), report);
        assert!(Arc::ptr_eq(&first, &open_with(made.path(), OpenOptions::default(), &report)));
        let plain = open(made.path());
        assert!(!Arc::ptr_eq(&first, &plain) && *plain.provider() == only);
    }

    #[test]
    fn the_same_files_are_opened_once_and_others_anew() {
        let made = folder(&decoder());
        let first = open(made.path());
        assert!(Arc::ptr_eq(&first, &open(made.path())));
        assert!(Arc::ptr_eq(&first, &open(&made.path().join("."))), "whatever it is called");
        let padded = OpenOptions { batching: crate::model::Batching::Padded, ..OpenOptions::default() };
        let other = open_with(made.path(), padded, &ProviderReport::only(Provider::Cpu));
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
