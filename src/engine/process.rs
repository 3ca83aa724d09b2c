//! An engine belongs to the process that made it: `fork` copies its memory, but none of its threads.

use crate::{Error, ErrorKind, Result};

/// Refuses to go on in a child of the process that something was made in.
///
/// # Errors
/// [`ErrorKind::Forked`].
pub(super) fn refuse_child(made_in: u32) -> Result<()> {
    let here = std::process::id();
    if here == made_in {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Forked,
        format!(
            "this engine was made in process {made_in} and is used in {here}, its child by fork(), which has none of the \
             engine's threads. Make an engine in the child, before the parent has made one, or talk to the parent"
        ),
    ))
}
