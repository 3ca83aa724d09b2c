//! The processors that an engine's threads stay on.
//!
//! A thread passes its affinity on to the threads that it starts, those of ONNX Runtime's pools among them. So the engine's
//! thread is confined before it loads a model, and so is the thread that loads new weights later. ONNX Runtime is told as well,
//! for each thread of a session's own pool. The pool that all sessions may share is not confined, because other engines use it.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Error, Result};

/// Numbers of processors are below this, as in the system's sets of them.
const MOST: usize = 1024;

/// Numbers of processors, as the system counts them, in ascending order and at least one. As text they are a list of numbers and
/// ranges, such as `0-3,8`.
///
/// ```
/// use foreturn::runtime::Cores;
///
/// let cores: Cores = "4, 0-2".parse()?;
/// assert_eq!((cores.to_string(), cores.count()), ("0-2,4".into(), 4));
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// These processors.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): there are none, or a number is 1024 or more.
    pub fn new(numbers: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut numbers: Vec<usize> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        match numbers.last() {
            None => Err(Error::invalid_config("cores is empty: name at least one processor, or leave it out")),
            Some(&last) if last >= MOST => {
                Err(Error::invalid_config(format!("cores has {last}: numbers of processors are below {MOST}")))
            }
            Some(_) => Ok(Cores(numbers)),
        }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Refuses processors that no thread of this process may run on, because of `taskset` or a control group.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), with those that are allowed.
    pub fn check(&self) -> Result<()> {
        let allowed = system::allowed()?;
        let refused: Vec<usize> = self.0.iter().copied().filter(|core| !allowed.contains(core)).collect();
        if refused.is_empty() {
            return Ok(());
        }
        Err(Error::invalid_config(format!(
            "cores = \"{self}\": this process may not run on {}, only on {}. Name some of these",
            Cores(refused),
            Cores(allowed)
        )))
    }

    /// Confines the calling thread, and the threads that it starts from now on.
    ///
    /// # Errors
    /// The system refuses it.
    pub(crate) fn confine(&self) -> Result<()> {
        system::confine(&self.0).map_err(|e| {
            Error::invalid_config(format!("cores = \"{self}\": the system refuses them: {e}")).with_source(e)
        })
    }

    /// What ONNX Runtime reads: the processors of each thread of a pool, counted from 1. The thread that runs the session is
    /// one of the pool's, and is not its to confine.
    pub(super) fn affinities(&self, threads: usize) -> String {
        let each = self.0.iter().map(|core| (core + 1).to_string()).collect::<Vec<_>>().join(",");
        vec![each; threads.saturating_sub(1)].join(";")
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let follows = |pair: &usize, next: &usize| pair + 1 == *next;
        let runs = self.0.chunk_by(follows).map(|run| match run {
            [only] => only.to_string(),
            run => format!("{}-{}", run[0], run[run.len() - 1]),
        });
        f.write_str(&runs.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Cores {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str| {
            Error::invalid_config(format!(
                "cores = {text:?}: `{part}` is neither the number of a processor (below {MOST}) nor a range of them. Give a list such \
                 as \"0-3,8\""
            ))
        };
        let mut numbers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let number = |digits: &str| digits.trim().parse::<usize>().ok().filter(|number| *number < MOST);
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => numbers.extend(first..=last),
                _ => return Err(wrong(part)),
            }
        }
        Cores::new(numbers)
    }
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Given;
        impl<'de> Visitor<'de> for Given {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers of processors: a list such as [0, 2], or a text such as \"0-3,8\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Cores, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Cores, A::Error> {
                let mut numbers = Vec::new();
                while let Some(number) = list.next_element()? {
                    numbers.push(number);
                }
                Cores::new(numbers).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Given)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use super::MOST;
    use crate::{Error, Result};

    /// The processors that one of this process's threads may run on. A host may have confined the thread that asks.
    pub(super) fn allowed() -> Result<Vec<usize>> {
        let tasks = std::path::Path::new("/proc/self/task");
        let threads = std::fs::read_dir(tasks).map_err(|e| Error::io("list the threads in", tasks, e))?;
        let mut found = affinity(0).unwrap_or_default();
        for thread in threads.flatten() {
            let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
            // A thread that has ended meanwhile has none.
            found.extend(id.and_then(|id| affinity(id).ok()).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn affinity(thread: libc::pid_t) -> io::Result<Vec<usize>> {
        // SAFETY: a set of zeros is empty, and the call writes at most its size into it.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(thread, size_of_val(&set), &mut set) != 0 {
                return Err(io::Error::last_os_error());
            }
            set
        };
        // SAFETY: numbers below its size are in the set.
        Ok((0..MOST).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
    }

    pub(super) fn confine(cores: &[usize]) -> io::Result<()> {
        // SAFETY: a set of zeros is empty, and the numbers are below its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            cores.iter().for_each(|&core| libc::CPU_SET(core, &mut set));
            match libc::sched_setaffinity(0, size_of_val(&set), &set) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    use crate::{Error, Result};

    pub(super) fn allowed() -> Result<Vec<usize>> {
        Err(Error::unsupported("cores: threads can be kept on processors on Linux only. Leave it out"))
    }

    pub(super) fn confine(_: &[usize]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read_and_written() {
        for (text, written, count) in
            [("0", "0", 1), ("3,1,2", "1-3", 3), ("0-3,8", "0-3,8", 5), (" 5 - 6 , 5", "5-6", 2), ("1023", "1023", 1)]
        {
            let cores: Cores = text.parse().expect(text);
            assert_eq!((cores.to_string().as_str(), cores.count()), (written, count));
        }
        for text in ["", "a", "1-", "-1", "3-1", "0,,1", "1024", "0-4294967295", "0-1-2", "0x1"] {
            let error = text.parse::<Cores>().expect_err(text).to_string();
            assert!(error.contains(&format!("cores = {text:?}")) && error.contains("0-3,8"), "{error}");
        }
        assert!(Cores::new([]).expect_err("none").to_string().contains("empty"));
    }

    #[test]
    fn a_configuration_has_a_text_or_a_list() {
        #[derive(Debug, Deserialize)]
        struct Settings {
            cores: Cores,
        }
        let read = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.cores.to_string());
        assert_eq!(read("cores = [2, 0]").expect("a list"), "0,2");
        assert_eq!(read("cores = \"0-1\"").expect("a text"), "0-1");
        for (wrong, part) in [("2.5", "a list such as [0, 2]"), ("[]", "empty"), ("[-1]", "-1"), ("\"x\"", "`x`")] {
            let error = read(&format!("cores = {wrong}")).expect_err(wrong).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn each_thread_of_a_pool_but_the_first_has_all_processors_counted_from_one() {
        let cores: Cores = "0,2".parse().expect("cores");
        assert_eq!(cores.affinities(3), "1,3;1,3");
        assert_eq!(cores.affinities(1), "");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_and_those_that_it_starts_are_confined() {
        let first = Cores::new([system::allowed().expect("known")[0]]).expect("one");
        first.check().expect("allowed");
        let wanted = first.to_string();
        #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
        let seen = std::thread::spawn(move || {
            first.confine().expect("confined");
            std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status").expect("a status")).join()
        });
        let status = seen.join().expect("no panic").expect("no panic");
        assert!(status.contains(&format!("Cpus_allowed_list:\t{wanted}\n")), "{status}");
        let error = Cores::new([1023]).expect("a number").check().expect_err("not here").to_string();
        assert!(error.contains("may not run on 1023, only on "), "{error}");
    }
}
