//! What the fuzzers in `fuzz/` call: the compiler of schemas.

use std::path::Path;
use std::sync::Arc;

use super::constraint::{Constraints, JsonSchema};
use crate::model::tokenizer::Tokenizer;

/// A JSON schema, compiled for the tokenizer in `folder`; then what it allows is followed for a while.
pub fn schema(folder: &Path, text: &str) {
    thread_local! {
        static MODEL: std::cell::RefCell<Option<(Tokenizer, Constraints)>> = const { std::cell::RefCell::new(None) };
    }
    let Ok(schema) = text.parse::<JsonSchema>() else { return };
    MODEL.with_borrow_mut(|model| {
        let (tokenizer, constraints) = model.get_or_insert_with(|| {
            (Tokenizer::load(folder, 450).expect("the corpus' tokenizer"), Constraints::default())
        });
        let Ok(mut constraint) = constraints.start(&Arc::new(schema), tokenizer, &[1]) else { return };
        for step in 0..32_u32 {
            let Ok(mask) = constraint.allowed() else { return };
            let ids = mask
                .iter()
                .zip(0..)
                .flat_map(|(word, at)| (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 32 + bit));
            let allowed: Vec<u32> = ids.collect();
            let Some(next) = allowed.get(step as usize * 7 % allowed.len().max(1)) else { return };
            if constraint.accept(*next).is_err() || constraint.is_complete() {
                return;
            }
        }
    });
}
