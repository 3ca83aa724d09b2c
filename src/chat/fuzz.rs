//! What the fuzzers in `fuzz/` call: the reader of what endpoints reply.

use super::remote;

/// A body as an endpoint sends it: coded or not, as a completion for a text and for answers, as a decision,
/// and as a complaint.
pub fn reply(data: &[u8]) {
    remote::fuzz::reply(data);
}
