//! `/v1/rank` and `/v1/rescore`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use foreturn::{ErrorKind, RankOptions, RankRequest, Ranking};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::app::App;
use crate::asked::{self, Caller};
use crate::failure::{Answer, Failure, done};
use crate::stream;

/// Ranks. The body is what `foreturn rank --request` reads, the answer what `--json` prints.
///
/// A caller that accepts `text/event-stream` gets each rollout as it ends (`rollout`), then `ranking` or `error`.
pub(crate) async fn rank(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let request: RankRequest = text(&body)?.parse()?;
    let caller = Caller::new(&headers)?;
    let engine = app.engine.within(caller.limits());
    if !wants_events(&headers) {
        let ranking = caller.wait(engine.submit_rank(request, RankOptions::default())).await?;
        return Ok(done(&usable(ranking)?));
    }
    let caller = Arc::new(caller);
    let (events, response) = stream::open(Arc::clone(&caller));
    let rollouts = events.clone();
    let options = RankOptions {
        on_rollout: Some(Box::new(move |rollout| rollouts.send("rollout", &rollout))),
        ..RankOptions::default()
    };
    engine.submit_rank(request, options)?.on_ready(move |result| {
        match result.map_err(Failure::of_result).and_then(usable) {
            Ok(ranking) => events.send("ranking", &ranking),
            Err(failure) => events.fail("error", &failure),
        }
        events.end();
    });
    Ok(response)
}

/// Refuses a ranking that its deadline ended before any candidate had a reward, because nobody can choose by it.
fn usable(ranking: Ranking) -> Answer<Ranking> {
    if !ranking.came_to_nothing() {
        return Ok(ranking);
    }
    let rollouts = ranking.allocation.rollouts;
    let message = format!(
        "the deadline passed before any candidate had a reward, with {rollouts} rollouts under way; give it more time \
         (X-Timeout), or fewer samples"
    );
    Err(foreturn::Error::new(ErrorKind::DeadlineExceeded, message).into())
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream"))
}

fn text(body: &Bytes) -> Answer<&str> {
    std::str::from_utf8(body).map_err(|error| Failure::refused(format!("the body is not UTF-8: {error}")))
}

/// A ranking, and the request that it answers.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rescore {
    request: RankRequest,
    ranking: Ranking,
}

/// Scores a ranking's futures again. The body is `{"request": …, "ranking": …}`.
pub(crate) async fn rescore(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let Rescore { request, ranking } = asked::body(&body)?;
    request.validate()?;
    let caller = Caller::new(&headers)?;
    let engine = app.engine.within(caller.limits());
    let rescored = caller.wait(engine.submit_rescore(request, &ranking, RankOptions::default())).await?;
    Ok(done(&usable(rescored)?))
}
