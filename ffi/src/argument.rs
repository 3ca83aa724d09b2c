//! Checks of what hosts pass: strings, arrays, sized structs, places for results.

use std::fmt::Display;

use crate::failure::{Failure, status_of};
use crate::status::{FORETURN_ERROR_UNSUPPORTED, foreturn_status};

/// A UTF-8 string with its length. It is not NUL-terminated.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_str {
    /// The first byte; may be NULL if `size` is 0.
    pub data: *const std::ffi::c_char,
    /// Length in bytes.
    pub size: usize,
}

impl foreturn_str {
    pub(crate) const EMPTY: foreturn_str = foreturn_str { data: std::ptr::null(), size: 0 };

    /// Lends a text. The caller makes sure that the text outlives the result.
    pub(crate) fn of(text: &str) -> Self {
        foreturn_str { data: text.as_ptr().cast(), size: text.len() }
    }

    /// The text, if it is valid.
    ///
    /// # Safety
    /// `data` is NULL or valid for `size` bytes, for as long as the result is used.
    pub(crate) unsafe fn text<'a>(self, name: impl Display) -> Result<&'a str, Failure> {
        // SAFETY: passed on.
        let bytes = unsafe { slice(self.data.cast::<u8>(), self.size, &name)? };
        std::str::from_utf8(bytes)
            .map_err(|e| Failure::argument(format!("{name} is not UTF-8 from byte {} on", e.valid_up_to())))
    }
}

/// An array. The pointer may be NULL if the length is 0.
///
/// # Safety
/// `data` is NULL or valid for `count` items, for as long as the result is used.
pub(crate) unsafe fn slice<'a, T>(data: *const T, count: usize, name: impl Display) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::argument(format!("{name} is NULL, and its length is {count}")));
    }
    if !data.is_aligned() {
        return Err(Failure::argument(format!("{name} is not aligned for its type")));
    }
    check_length(count, size_of::<T>(), name)?;
    // SAFETY: not NULL, aligned, of a possible size, and valid by contract.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// Refuses lengths that don't fit in memory.
fn check_length(count: usize, size: usize, name: impl Display) -> Result<(), Failure> {
    match count.checked_mul(size).map(isize::try_from) {
        Some(Ok(_)) => Ok(()),
        _ => Err(Failure::argument(format!("{name} has a length of {count}, which doesn't fit in memory"))),
    }
}

/// A place for a result, written on success only.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or valid for writing a T.
    pub(crate) unsafe fn new(place: *mut T, name: &str) -> Result<Self, Failure> {
        if place.is_null() || !place.is_aligned() {
            return Err(Failure::argument(format!(
                "{name} is NULL or not aligned: pass the address of a variable for the result"
            )));
        }
        Ok(Out(place))
    }

    pub(crate) fn write(self, value: T) {
        // SAFETY: not NULL, and valid by the contract of `new`.
        unsafe { self.0.write(value) }
    }
}

/// A struct that begins with its size as the host knows it. Fields may be added at the end of ours and of theirs.
///
/// # Safety
/// `repr(C)`; the first field is `size: usize`; all-zero is a valid value.
pub(crate) unsafe trait Sized_: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// Its size in the first version that had it.
    const FIRST: usize;
}

/// Declares a sized struct; and where its first version ended, if fields were added since: `sized!(NAME until FIELD)`.
macro_rules! sized {
    ($name:ident) => {
        $crate::argument::sized!(@ $name, size_of::<$name>());
    };
    ($name:ident until $field:ident) => {
        $crate::argument::sized!(@ $name, std::mem::offset_of!($name, $field));
    };
    (@ $name:ident, $first:expr) => {
        // SAFETY: repr(C), `size` comes first, and all fields are numbers, flags and pointers.
        unsafe impl $crate::argument::Sized_ for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST: usize = $first;
        }
    };
}
pub(crate) use sized;

/// A struct of zeros.
fn zeroed<T: Sized_>() -> T {
    // SAFETY: all-zero is a valid value of a sized struct.
    unsafe { std::mem::zeroed() }
}

/// The struct that the host passed. All fields are zero if it passed NULL, and so are fields that it doesn't know.
///
/// # Safety
/// `given` is NULL, or valid for reading as many bytes as its first field says.
pub(crate) unsafe fn read<T: Sized_>(given: *const T) -> Result<T, Failure> {
    let mut value = zeroed::<T>();
    if given.is_null() {
        return Ok(value);
    }
    if !given.is_aligned() {
        return Err(Failure::argument(format!("the {} is not aligned", T::NAME)));
    }
    // SAFETY: the size comes first, and the host guarantees that many bytes.
    unsafe {
        let size = check_size::<T>(given.cast::<usize>().read())?;
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        let beyond = std::slice::from_raw_parts(given.cast::<u8>().add(known), size - known);
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(Failure::new(
                FORETURN_ERROR_UNSUPPORTED,
                format!("the {} has settings that this version of the library doesn't know; use a newer one", T::NAME),
            ));
        }
    }
    Ok(value)
}

/// An array of sized structs. The first one's size is the distance between them.
///
/// # Safety
/// `data` is NULL or valid for `count` structs of the size that the first one has.
pub(crate) unsafe fn read_all<T: Sized_>(data: *const T, count: usize, name: &str) -> Result<Vec<T>, Failure> {
    // SAFETY: passed on. Only the first one's size is read.
    let Some(_) = unsafe { slice(data, count.min(1), name)? }.first() else { return Ok(Vec::new()) };
    // SAFETY: each struct begins with its size, and is valid by contract.
    unsafe {
        let stride = check_size::<T>(data.cast::<usize>().read())?;
        check_length(count, stride, name)?;
        (0..count).map(|at| read(data.cast::<u8>().add(at * stride).cast::<T>())).collect()
    }
}

/// The largest struct that a host may pass. A larger size is garbage.
const MOST: usize = 1 << 16;

fn check_size<T: Sized_>(size: usize) -> Result<usize, Failure> {
    if (T::FIRST..=MOST).contains(&size) {
        return Ok(size);
    }
    Err(Failure::argument(format!("{}.size is {size}: set it to sizeof({})", T::NAME, T::NAME)))
}

/// Sets a struct to its defaults.
///
/// # Safety
/// `place` is NULL or valid for writing `size` bytes.
pub(crate) unsafe fn init<T: Sized_>(place: *mut T, size: usize) -> foreturn_status {
    let init = || {
        if place.is_null() || !place.is_aligned() {
            return Err(Failure::argument(format!("the {} is NULL or not aligned", T::NAME)));
        }
        let size = check_size::<T>(size)?;
        // SAFETY: valid for `size` bytes, which begin with a usize.
        unsafe {
            place.cast::<u8>().write_bytes(0, size);
            place.cast::<usize>().write(size);
        }
        Ok(())
    };
    status_of(init)
}

/// Fills in as much as the host's struct has room for.
///
/// # Safety
/// `place` is NULL, or valid for writing as many bytes as its first field says.
pub(crate) unsafe fn fill<T: Sized_>(place: *mut T, mut value: T) -> Result<(), Failure> {
    if place.is_null() || !place.is_aligned() {
        return Err(Failure::argument(format!(
            "the {} is NULL or not aligned: pass the address of a struct for the result",
            T::NAME
        )));
    }
    // SAFETY: the size comes first on both sides, and the host guarantees that many bytes.
    unsafe {
        let size = check_size::<T>(place.cast::<usize>().read())?;
        (&raw mut value).cast::<usize>().write(size);
        let known = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), place.cast::<u8>(), known);
        // A host newer than this library must not take leftovers of its stack or of an earlier call for a result.
        place.cast::<u8>().add(known).write_bytes(0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::FORETURN_ERROR_INVALID_ARGUMENT;

    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Old {
        size: usize,
        a: u32,
        b: u32,
    }
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct New {
        size: usize,
        a: u32,
        b: u32,
        c: u64,
    }
    // SAFETY: as `sized!` has it; New came after Old.
    unsafe impl Sized_ for Old {
        const NAME: &'static str = "old";
        const FIRST: usize = size_of::<Old>();
    }
    // SAFETY: likewise.
    unsafe impl Sized_ for New {
        const NAME: &'static str = "new";
        const FIRST: usize = size_of::<Old>();
    }

    #[test]
    fn an_older_host_and_a_newer_one_are_understood() {
        let old = Old { size: size_of::<Old>(), a: 1, b: 2 };
        // SAFETY: each struct's size is its own.
        unsafe {
            let new = read::<New>((&raw const old).cast()).expect("zeros for what it doesn't know");
            assert_eq!((new.a, new.b, new.c), (1, 2, 0));
            let mut new = New { size: size_of::<New>(), a: 3, b: 4, c: 0 };
            assert_eq!(read::<Old>((&raw const new).cast()).expect("nothing beyond").b, 4);
            new.c = 5;
            let refused = read::<Old>((&raw const new).cast()).expect_err("a setting that isn't known");
            assert_eq!(refused.status, FORETURN_ERROR_UNSUPPORTED);
            let mut place = Old { size: size_of::<Old>(), a: 0, b: 0 };
            fill::<New>((&raw mut place).cast(), new).expect("as much as fits");
            assert_eq!(place, Old { size: size_of::<Old>(), a: 3, b: 4 });
            let mut newer = New { size: size_of::<New>(), a: 9, b: 9, c: 9 };
            fill::<Old>((&raw mut newer).cast(), Old { size: 0, a: 1, b: 2 }).expect("and what is beyond is cleared");
            assert_eq!(newer, New { size: size_of::<New>(), a: 1, b: 2, c: 0 });
            place.size = 3;
            assert_eq!(read(&raw const place).expect_err("no size").status, FORETURN_ERROR_INVALID_ARGUMENT);
        }
    }

    #[test]
    fn lengths_without_data_and_bytes_without_sense_are_refused() {
        // SAFETY: NULL, or valid for their length.
        unsafe {
            assert_eq!(foreturn_str::EMPTY.text("x").expect("nothing"), "");
            let dangling = foreturn_str { data: std::ptr::null(), size: 3 };
            assert!(dangling.text("x").expect_err("no data").message.contains("x is NULL"));
            let bytes = b"ab\xff";
            let garbage = foreturn_str { data: bytes.as_ptr().cast(), size: 3 };
            assert!(garbage.text("x").expect_err("not UTF-8").message.contains("from byte 2"));
            let endless = foreturn_str { data: bytes.as_ptr().cast(), size: usize::MAX };
            assert!(endless.text("x").is_err());
        }
    }
}
