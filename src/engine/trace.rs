//! Rankings that are traced while an engine makes them.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Engine, RankOptions};
use crate::rank::{EndedRollout, RankRequest, Ranking};
use crate::trace::TraceWriter;
use crate::{Error, Result};

impl TraceWriter {
    /// Ranks a request's candidates as [`Engine::rank`] does, and writes what happens.
    ///
    /// # Errors
    /// As [`Engine::rank`], and if the trace cannot be written. The rollouts until then are in it.
    pub fn rank(&self, engine: &Engine, request: RankRequest, options: RankOptions) -> Result<Ranking> {
        let trace = self.begin(&request, engine.plan()?)?;
        let (writing, mut on_rollout) = (trace.clone(), options.on_rollout);
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let failure = Arc::clone(&failed);
        let write = move |rollout: EndedRollout| {
            if let Err(error) = writing.rollout(&rollout) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            if let Some(on_rollout) = &mut on_rollout {
                on_rollout(rollout);
            }
        };
        let ranking = engine.rank(request, RankOptions { on_rollout: Some(Box::new(write)), ..options })?;
        if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        trace.finish(&ranking)?;
        Ok(ranking)
    }
}
