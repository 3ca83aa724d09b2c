//! The models that an engine owns, by name.

use std::sync::Arc;
use std::time::Instant;

use super::ModelStatus;
use super::job::Request;
use crate::chat::local::{Answer, LocalChat};
use crate::chat::{ChatModel, Finish, Ticket};
use crate::decode::DecoderStats;
use crate::decode::urgency::Urgency;
use crate::rank::{ModelInfo, ModelsInfo, RankPlan};
use crate::{Error, Result};

/// A model, on the engine's thread.
pub(super) enum Model {
    /// In this process: it takes tasks as well, and one step at a time.
    Local(Box<LocalChat>),
    /// An endpoint's, or the host's.
    Other(Box<dyn ChatModel>),
}

impl Model {
    /// Queues a request. A local model serves the more urgent ones first.
    pub(super) fn submit(&mut self, request: Request, urgency: Urgency) -> Result<Ticket> {
        match (self, request) {
            (Model::Local(model), Request::Chat(request)) => model.submit(request, urgency),
            (Model::Local(model), Request::Task(task)) => model.submit_task(task, urgency),
            (Model::Other(model), Request::Chat(request)) => model.submit(request),
            (Model::Other(model), Request::Task(_)) => {
                Err(Error::invalid_request(format!("model `{}` is not a local model", model.name())))
            }
        }
    }

    /// Lets it advance by one step at most, and appends what has finished. Returns whether it has work of its own to go on
    /// with; what others compute comes without our doing.
    pub(super) fn advance(&mut self, finished: &mut Vec<(Ticket, Result<Answer>)>) -> bool {
        match self {
            Model::Local(model) => {
                let busy = model.step();
                model.collect(finished);
                busy
            }
            Model::Other(model) => {
                let mut replies = Vec::new();
                model.poll(&mut replies);
                // It is polled every millisecond, and has mostly nothing to give.
                if !replies.is_empty() {
                    let weights: Option<Arc<str>> = model.weights().map(Into::into);
                    let answer = |reply| Answer::Chat(reply, weights.clone());
                    finished.extend(replies.into_iter().map(|(ticket, reply)| (ticket, reply.map(answer))));
                }
                false
            }
        }
    }

    /// Ends a request early. That of a local model is answered at once, by [`Model::collect`].
    pub(super) fn end(&mut self, ticket: Ticket, finish: Finish) {
        match self {
            Model::Local(model) => model.end(ticket, finish),
            Model::Other(model) => model.cancel(ticket),
        }
    }

    /// Appends what has finished without a step.
    pub(super) fn collect(&mut self, finished: &mut Vec<(Ticket, Result<Answer>)>) {
        if let Model::Local(model) = self {
            model.collect(finished);
        }
    }

    /// Says when nobody will wait for it any more, unless told otherwise by then.
    pub(super) fn end_by(&mut self, end: Option<Instant>) {
        if let Model::Local(model) = self {
            model.end_by(end);
        }
    }

    /// Its counters, if it is a local one.
    pub(super) fn stats(&self) -> Option<DecoderStats> {
        if let Model::Local(model) = self { Some(model.stats()) } else { None }
    }

    /// How it runs, if it is a local one.
    pub(super) fn status(&self) -> Option<ModelStatus> {
        if let Model::Local(model) = self { Some(model.status()) } else { None }
    }

    fn weights(&self) -> Option<String> {
        match self {
            Model::Local(model) => Some(model.weights().to_string()),
            Model::Other(model) => model.weights(),
        }
    }

    fn prompt_date(&self) -> Option<String> {
        match self {
            Model::Local(model) => model.prompt_date(),
            Model::Other(model) => model.prompt_date(),
        }
    }

    fn is_bitwise(&self) -> bool {
        match self {
            Model::Local(model) => model.is_bitwise(),
            Model::Other(model) => model.is_bitwise(),
        }
    }
}

/// All of them, in the order of the configuration.
pub(super) struct Models(pub(super) Vec<(String, Model)>);

impl Models {
    /// # Errors
    /// There is no model of that name.
    pub(super) fn index(&self, name: &str) -> Result<usize> {
        self.0
            .iter()
            .position(|(other, _)| other == name)
            .ok_or_else(|| unknown(name, self.0.iter().map(|(name, _)| &**name)))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Model> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, model)| model)
    }

    /// What a ranking says of the models that it asked.
    pub(super) fn info(&self, plan: &RankPlan) -> ModelsInfo {
        let info = |name: &str| {
            let model = self.get(name);
            let (weights, date) = (model.and_then(Model::weights), model.and_then(Model::prompt_date));
            ModelInfo { name: name.to_owned(), weights, date }
        };
        let (roles, named) = (&plan.roles.models, plan.metric_models());
        let mut all = roles.values().map(String::as_str).chain(named.iter().map(|name| &**name));
        let bitwise = all.all(|name| self.get(name).is_some_and(Model::is_bitwise));
        let models = roles.iter().map(|(role, name)| (*role, info(name))).collect();
        ModelsInfo { models, reward_models: named.iter().map(|name| info(name)).collect(), bitwise }
    }
}

/// The error of a name that no model has.
pub(super) fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let names: Vec<&str> = names.collect();
    Error::invalid_request(format!("there is no model `{name}`; this engine has {}", names.join(", ")))
}
