//! The same requests, ranked by several models.

use std::path::{Path, PathBuf};

use foreturn::config::{Config, LocalConfig, ModelSource};
use foreturn::engine::Pending;
use foreturn::{Engine, Error, ErrorKind, RankOptions, RankRequest, Ranking, Result};

use super::super::models::places;
use super::super::output;
use super::requests::{self, Request};

/// Requests under way together: they share steps of the model, of which each takes at most 64 sequences.
const TOGETHER: usize = 8;

/// The requests to rank, and their configuration.
pub(super) struct Task {
    config: Config,
    requests: Vec<Request>,
}

/// A ranking for each request; `None` if nothing of it could be scored.
pub(super) type Rankings = Vec<Option<Ranking>>;

impl Task {
    /// Reads the configuration and the requests.
    pub(super) fn read(config: &Path, paths: &[PathBuf]) -> Result<Self> {
        Ok(Task { config: Config::from_file(config)?, requests: requests::read(paths)? })
    }

    /// An engine on which `model` plays every role of the configuration.
    pub(super) fn engine(&self, model: &Path) -> Result<Engine> {
        let model = std::path::absolute(model).map_err(|error| Error::io("resolve", model, error))?;
        let mut config = self.config.clone();
        for settings in config.models.values_mut() {
            match &mut settings.source {
                ModelSource::Local(local) => local.path.clone_from(&model),
                remote => *remote = ModelSource::Local(LocalConfig::new(&model)),
            }
        }
        Engine::builder(config).places(places()).build()
    }

    /// Ranks each request, with futures of the engine's own.
    pub(super) fn rank(&self, engine: &Engine) -> Result<Rankings> {
        self.each("ranking", |_, request| engine.submit_rank(request, RankOptions::default()).map(Some))
    }

    /// The same with another seed, so with other futures.
    pub(super) fn rank_by_chance(&self, engine: &Engine) -> Result<Rankings> {
        let seed = self.config.seed.unwrap_or(0);
        self.each("ranking, another seed", |_, mut request| {
            request.seed = Some(request.seed.unwrap_or(seed).wrapping_add(1));
            engine.submit_rank(request, RankOptions::default()).map(Some)
        })
    }

    /// Scores the futures of `rankings` again.
    pub(super) fn rescore(&self, engine: &Engine, rankings: &[Option<Ranking>]) -> Result<Rankings> {
        self.each("scoring again", |at, request| {
            let ranking = rankings.get(at).and_then(Option::as_ref);
            ranking.map(|ranking| engine.submit_rescore(request, ranking, RankOptions::default())).transpose()
        })
    }

    /// Submits what `submit` makes of each request, some at a time.
    fn each(
        &self,
        what: &str,
        submit: impl Fn(usize, RankRequest) -> Result<Option<Pending<Ranking>>>,
    ) -> Result<Rankings> {
        let bar =
            output::progress(self.requests.len() as u64, &format!("{what} {{bar:30}} {{pos}}/{{len}} [{{elapsed}}]"));
        let mut rankings = Vec::new();
        for requests in self.requests.chunks(TOGETHER) {
            let start = rankings.len();
            let pending = requests.iter().zip(start..).map(|(request, at)| {
                submit(at, request.request.clone()).map_err(|error| error.context(&request.origin))
            });
            let pending = pending.collect::<Result<Vec<_>>>()?;
            for (pending, request) in pending.into_iter().zip(requests) {
                rankings
                    .push(pending.map(|pending| forgive(pending.wait(), what, &request.origin)).transpose()?.flatten());
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(rankings)
    }
}

/// Leaves out a request of which nothing can be scored. With small models and few futures, there are some.
fn forgive(ranking: Result<Ranking>, what: &str, origin: &str) -> Result<Option<Ranking>> {
    match ranking {
        Err(error) if error.kind() == ErrorKind::ModelOutput => {
            output::warning(&format!("{origin} is left out ({what}): {error}"));
            Ok(None)
        }
        ranking => ranking.map(Some).map_err(|error| error.context(origin)),
    }
}
