//! The list of routes. The router and the OpenAPI document are both made of it, so neither has a route that the other
//! does not know.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::app::{self, App};
use crate::{calls, openai, openapi, rankings, tei, trainers, vllm};

/// Adds a type to a document's schemas, and gives what refers to it.
pub(crate) type Describe = fn(&mut SchemaGenerator) -> Schema;

fn describe<T: JsonSchema>(all: &mut SchemaGenerator) -> Schema {
    all.subschema_for::<T>()
}

/// Who may ask, and how errors look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Whoever watches over the process. No key is needed.
    Watch,
    /// Errors as OpenAI's.
    Open,
    /// Errors as text-embeddings-inference's. The address may name the model.
    Tei,
}

/// What an answer that succeeds holds.
pub(crate) enum Gives {
    /// JSON.
    Json(Describe),
    /// A text of this media type.
    Text(&'static str),
}

/// A route, and what is known about it.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) about: &'static str,
    pub(crate) group: Group,
    pub(crate) takes: Option<Describe>,
    /// A body. It names models as the documentation does.
    pub(crate) example: Option<Value>,
    pub(crate) gives: Gives,
    /// Whether the answer may come piece by piece, as server-sent events.
    pub(crate) streams: bool,
    handler: MethodRouter<App>,
}

impl Route {
    fn new<T: JsonSchema, A: 'static>(
        method: Method,
        path: &'static str,
        about: &'static str,
        handler: impl Handler<A, App>,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::POST);
        let (group, gives) = (Group::Open, Gives::Json(describe::<T>));
        Route {
            method,
            path,
            about,
            group,
            takes: None,
            example: None,
            gives,
            streams: false,
            handler: on(filter, handler),
        }
    }

    fn takes<T: JsonSchema>(self) -> Self {
        Route { takes: Some(describe::<T>), ..self }
    }

    fn example(self, body: Value) -> Self {
        Route { example: Some(body), ..self }
    }

    fn streams(self) -> Self {
        Route { streams: true, ..self }
    }

    fn of(self, group: Group) -> Self {
        Route { group, ..self }
    }
}

fn get<T: JsonSchema, A: 'static>(path: &'static str, about: &'static str, handler: impl Handler<A, App>) -> Route {
    Route::new::<T, A>(Method::GET, path, about, handler)
}

fn post<T: JsonSchema, A: 'static>(path: &'static str, about: &'static str, handler: impl Handler<A, App>) -> Route {
    Route::new::<T, A>(Method::POST, path, about, handler)
}

/// What the examples ask.
fn question() -> Value {
    json!({"role": "user", "content": "What is 2 + 3?"})
}

fn answer() -> Value {
    json!({"role": "assistant", "content": "It is 5."})
}

/// All routes.
pub(crate) fn all() -> Vec<Route> {
    let mut routes = watched();
    routes.extend(ours());
    routes.extend(spoken());
    routes
}

fn watched() -> Vec<Route> {
    vec![
        get::<app::Health, _>("/health", "Says that the process answers.", app::health).of(Group::Watch),
        get::<app::Ready, _>("/ready", "Says that requests are taken.", app::ready).of(Group::Watch),
        Route {
            gives: Gives::Text(app::METRICS),
            ..get::<String, _>("/metrics", "Counters and latencies in OpenMetrics.", app::metrics)
        },
        get::<openapi::Document, _>("/openapi.json", "This document.", openapi::answer),
    ]
}

fn ours() -> Vec<Route> {
    use foreturn::engine::ScoreRequest;

    use crate::calls::{Logprobs, Refresh, Warm};
    vec![
        post::<foreturn::Ranking, _>("/v1/rank", "Ranks responses by where they lead.", rankings::rank)
            .takes::<foreturn::RankRequest>()
            .example(json!({
                "conversation": [{"role": "user", "content": "Write a poem."}],
                "candidates": ["What should it be about?", "Roses are red."],
                "goal": {"task": "writing a poem"},
            }))
            .streams(),
        post::<foreturn::Ranking, _>("/v1/rescore", "Scores a ranking's futures again.", rankings::rescore)
            .takes::<rankings::Rescore>(),
        post::<openapi::Either<calls::Scores, vllm::List<vllm::Compared>>, _>(
            "/v1/score",
            "Scores conversations; or compares texts, as /score does.",
            vllm::score_or_compare,
        )
        .takes::<openapi::Either<ScoreRequest, vllm::Compare>>()
        .example(json!({"model": "reward", "messages": [question()], "candidates": ["It is 5.", "It is 6."]})),
        post::<calls::Read, _>("/v1/logprobs", "The log-probabilities of tokens.", calls::logprobs)
            .takes::<Logprobs>()
            .example(json!({"model": "policy", "messages": [question(), answer()]})),
        post::<calls::Warmed, _>("/v1/warm", "Keeps a prefix in the cache for a while.", calls::warm)
            .takes::<Warm>()
            .example(json!({"model": "policy", "messages": [question()], "keep": 60})),
        Route::new::<calls::Released, _>(
            Method::DELETE,
            "/v1/warm/{pin}",
            "Lets a prefix go before its time.",
            calls::release,
        ),
        post::<calls::Refreshed, _>("/v1/refresh", "Exchanges a model's weights.", calls::refresh).takes::<Refresh>(),
    ]
}

/// What other tools speak.
fn spoken() -> Vec<Route> {
    vec![
        get::<openai::Models, _>("/v1/models", "The models.", openai::models),
        post::<openai::Completion, _>("/v1/chat/completions", "Samples a reply, as OpenAI's.", openai::chat)
            .takes::<openai::Chat>()
            .example(json!({"model": "policy", "messages": [question()], "max_tokens": 64, "seed": 1}))
            .streams(),
        post::<openai::Embedded, _>("/v1/embeddings", "The embeddings of texts, as OpenAI's.", openai::embeddings)
            .takes::<openai::Embeddings>()
            .example(json!({"model": "embedder", "input": ["What is 2 + 3?"]})),
        post::<vllm::List<vllm::Compared>, _>("/score", "Compares texts, as vLLM's.", vllm::compare)
            .takes::<vllm::Compare>()
            .example(
                json!({"model": "ranker", "queries": "What is 2 + 3?", "documents": ["It is 5.", "Roses are red."]}),
            ),
        post::<vllm::List<vllm::Classified>, _>("/classify", "Classifies texts, as vLLM's.", vllm::classify)
            .takes::<vllm::Classify>()
            .example(json!({"model": "classifier", "input": ["It is 5."]})),
        post::<vllm::List<vllm::Pooled>, _>("/pooling", "The numbers of a model's head, as vLLM's.", vllm::pooling)
            .takes::<vllm::Pool>()
            .example(json!({"model": "embedder", "input": ["It is 5."], "task": "embed"})),
        post::<Vec<Vec<f32>>, _>("/embed", "Embeddings, as text-embeddings-inference's.", tei::embed)
            .takes::<tei::Embed>()
            .example(json!({"inputs": ["What is 2 + 3?"]}))
            .of(Group::Tei),
        post::<tei::Predictions, _>("/predict", "Classes, as text-embeddings-inference's.", tei::predict)
            .takes::<tei::Predict>()
            .example(json!({"inputs": [["What is 2 + 3?", "It is 5."]]}))
            .of(Group::Tei),
        post::<Vec<tei::Rank>, _>("/rerank", "Ranks texts, as text-embeddings-inference's.", tei::rerank)
            .takes::<tei::Rerank>()
            .example(json!({"query": "What is 2 + 3?", "texts": ["It is 5.", "Roses are red."]}))
            .of(Group::Tei),
        post::<trainers::Rewards, _>("/openrlhf", "The rewards of responses, as OpenRLHF asks.", trainers::openrlhf)
            .takes::<trainers::OpenRlhf>()
            .example(json!({
                "query": ["<|user|>What is 2 + 3?<|assistant|>It is 5."],
                "prompts": ["<|user|>What is 2 + 3?<|assistant|>"],
                "labels": [{"messages": [question()]}],
            })),
        post::<f64, _>("/slime", "The reward of a response, as slime asks.", trainers::slime)
            .takes::<trainers::Slime>()
            .example(json!({"response": "It is 5.", "label": {"messages": [question()]}})),
    ]
}

impl App {
    /// The routes.
    pub(crate) fn router(self) -> Router {
        let of = |group: Group| {
            let routes = all().into_iter().filter(|route| route.group == group);
            routes
                .fold(Router::new(), |router, route| router.route(route.path, route.handler))
                .method_not_allowed_fallback(app::not_so)
        };
        let admitted = |router: Router<App>| {
            let admit = middleware::from_fn_with_state(self.clone(), app::admit);
            router.layer(DefaultBodyLimit::disable()).layer(admit)
        };
        let shaped = admitted(of(Group::Tei)).layer(middleware::map_response(tei::shape));
        let open = admitted(of(Group::Open).fallback(app::nowhere));
        // Who watches over the process needs no key.
        let router = of(Group::Watch).merge(shaped).merge(open);
        router.layer(middleware::from_fn_with_state(self.clone(), app::log)).with_state(self)
    }
}
