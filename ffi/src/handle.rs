//! Handles: numbers in the shape of pointers. Hosts never read through them, and no number is given out twice. So a
//! handle that was freed, or that belongs to something else, is an error instead of undefined behaviour.
//!
//! Each call costs one lock and one look-up in the table. In a child by `fork` the table's lock may be held for ever,
//! so the process is compared first.

use std::any::Any;
use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failure::{Failure, status_of};
use crate::status::*;

/// An object that a handle stands for.
pub(crate) trait Object: Send + Sync + Sized + 'static {
    /// The type of the handle in the header.
    type Handle;
    /// Its name there.
    const NAME: &'static str;
}

struct Objects {
    by_number: Option<HashMap<usize, Arc<dyn Any + Send + Sync>>>,
    next: usize,
}

/// The first handle. The rest follow in steps, as addresses would.
const FIRST: usize = 0x1000;
const STEP: usize = 16;

static OBJECTS: Mutex<Objects> = Mutex::new(Objects { by_number: None, next: FIRST });

/// The process that made the first object; 0 before that.
static PROCESS: AtomicU32 = AtomicU32::new(0);

fn objects() -> MutexGuard<'static, Objects> {
    OBJECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses to go on in a child of the process that used the library first. A child has none of the threads, and its
/// locks may be held for ever, so nothing else is touched before this.
pub(crate) fn refuse_child() -> Result<(), Failure> {
    let (first, here) = (PROCESS.load(Ordering::Relaxed), std::process::id());
    if first == 0 || first == here {
        return Ok(());
    }
    Err(Failure::new(
        FORETURN_ERROR_FORKED,
        format!(
            "process {here} is a child by fork() of {first}, which uses foreturn: use it in one of the two, and fork before"
        ),
    ))
}

/// Gives an object a handle.
pub(crate) fn insert<T: Object>(object: T) -> *mut T::Handle {
    // All threads agree on the process, whichever is first.
    let _ = PROCESS.compare_exchange(0, std::process::id(), Ordering::Relaxed, Ordering::Relaxed);
    let mut objects = objects();
    let number = objects.next;
    objects.next += STEP;
    objects.by_number.get_or_insert_default().insert(number, Arc::new(object));
    ptr::without_provenance_mut(number)
}

/// The object of a handle. What the object lends lives until the handle is freed.
pub(crate) fn get<T: Object>(handle: *const T::Handle) -> Result<Arc<T>, Failure> {
    refuse_child()?;
    if handle.is_null() {
        return Err(Failure::new(FORETURN_ERROR_INVALID_ARGUMENT, format!("the {} is NULL", T::NAME)));
    }
    let object = objects().by_number.as_ref().and_then(|objects| objects.get(&handle.addr()).cloned());
    object.and_then(|object| object.downcast().ok()).ok_or_else(dead::<T>)
}

/// Takes a handle back. NULL is allowed and does nothing.
pub(crate) fn remove<T: Object>(handle: *mut T::Handle) -> Result<Option<Arc<T>>, Failure> {
    if handle.is_null() {
        return Ok(None);
    }
    let object = get::<T>(handle)?;
    // It is dropped outside of the lock, because what ends with it may take handles itself.
    let removed = objects().by_number.as_mut().and_then(|objects| objects.remove(&handle.addr()));
    if removed.is_some() { Ok(Some(object)) } else { Err(dead::<T>()) }
}

/// Does what every function does that frees a handle.
pub(crate) fn free<T: Object>(handle: *mut T::Handle) -> foreturn_status {
    status_of(|| remove::<T>(handle).map(drop))
}

fn dead<T: Object>() -> Failure {
    Failure::new(
        FORETURN_ERROR_INVALID_HANDLE,
        format!("this is not a {}: it was freed already, or is a handle of something else", T::NAME),
    )
}

/// The number of handles.
pub(crate) fn count() -> usize {
    objects().by_number.as_ref().map_or(0, HashMap::len)
}

/// Ties a handle to the type of its object. The opaque type itself is written out, so that the header's generator sees
/// it.
macro_rules! handle {
    ($name:ident, $object:ty) => {
        impl $crate::handle::Object for $object {
            type Handle = $name;
            const NAME: &'static str = stringify!($name);
        }
    };
}
pub(crate) use handle;

#[cfg(test)]
mod tests {
    use super::*;

    struct first;
    struct second;
    handle!(first, First);
    handle!(second, Second);
    #[derive(Debug)]
    struct First(u32);
    #[derive(Debug)]
    struct Second;

    #[test]
    fn a_dead_or_foreign_handle_is_found_out() {
        let handle = insert(First(7));
        assert_eq!(get::<First>(handle).expect("alive").0, 7);
        let foreign = get::<Second>(handle.cast()).expect_err("of something else");
        assert_eq!(foreign.status, FORETURN_ERROR_INVALID_HANDLE);
        assert!(remove::<Second>(handle.cast()).is_err(), "and is not freed by that");
        assert!(remove::<First>(handle).expect("alive").is_some());
        assert_eq!(remove::<First>(handle).expect_err("twice").status, FORETURN_ERROR_INVALID_HANDLE);
        assert!(remove::<First>(ptr::null_mut()).expect("nothing").is_none());
        assert_eq!(get::<First>(ptr::null()).expect_err("NULL").status, FORETURN_ERROR_INVALID_ARGUMENT);
    }
}
