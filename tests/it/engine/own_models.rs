//! Models and metrics of the host's own: beside the real model, and in its place where time and queues are the point.

use super::*;

static TICKETS: AtomicU64 = AtomicU64::new(0);

/// Leaves after its first message as the user, and says Yes to everything as the judge.
struct Scripted {
    waiting: Vec<(Ticket, ChatReply)>,
    asked: Arc<AtomicUsize>,
}

impl ChatModel for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn is_bitwise(&self) -> bool {
        true
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        let ticket = Ticket(TICKETS.fetch_add(1, Ordering::Relaxed));
        let output = match request.task {
            ChatTask::Choose { answers } => ChatOutput::Choice {
                probabilities: answers.iter().map(|a| if a[0] == "Yes" { 0.9 } else { 0.1 }).collect(),
            },
            ChatTask::Generate { .. } => ChatOutput::Text {
                text: if request.messages[1].content.contains("A short one.") {
                    "[[TERMINATE CHAT]]".into()
                } else {
                    "A short one.".into()
                },
                tokens: None,
                finish: Finish::Stop,
                retokenized_differs: Vec::new(),
            },
            ChatTask::Score(_) => panic!("no metric of these tests asks for scores"),
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.waiting.push((ticket, ChatReply { output, usage: Usage::default(), note: None }));
        Ok(ticket)
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        finished.extend(self.waiting.drain(..).map(|(ticket, reply)| (ticket, Ok(reply))));
        false
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|(other, _)| *other != ticket);
    }
}

#[test]
fn a_model_of_the_hosts_own_plays_beside_the_real_policy() {
    let mut config = config(SETTINGS);
    let role = |name: &str| Some(name.to_owned());
    config.roles =
        RolesConfig { policy: role(MODEL), user: role("scripted"), judge: role("scripted"), extractor: None };
    let policy = config.models.get_mut(MODEL).and_then(|model| model.as_local_mut()).expect("a local model");
    policy.version = Some("step-17".into());
    let _turn = turn();
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
    let scripted = Box::new(|| Ok(Box::new(model) as Box<dyn ChatModel>));
    let engine = Engine::builder(config).chat_model("scripted", scripted).build().expect("an engine");
    assert_eq!(engine.models(), [MODEL, "scripted"]);
    let ended: Arc<Mutex<Vec<_>>> = Arc::default();
    let telling = Arc::clone(&ended);
    let on_rollout = Box::new(move |rollout| telling.lock().expect("one thread").push(rollout));
    let options = RankOptions { on_rollout: Some(on_rollout), ..RankOptions::default() };
    let asked_for = request(&CANDIDATES[..2], json!({"window": 3, "samples": 2}));
    let ranking = engine.rank(asked_for, options).expect("a ranking");
    assert!(ranking.complete && ranking.bitwise);
    // Whoever loads weights names them, and a rollout says which ones it was sampled with.
    for rollout in &*ended.lock().expect("one thread") {
        assert_eq!(json!(rollout.weights), json!({"policy": ["step-17"]}));
    }
    for candidate in &ranking.candidates {
        assert_eq!(candidate.metrics["helpfulness"].mean, Some(0.9));
        for rollout in &candidate.rollouts {
            assert_eq!(rollout.ended, Ended::StopSignal);
            let [user, policy] = &rollout.messages[..] else { panic!("{rollout:?}") };
            assert_eq!((user.role, user.content.as_str()), (Role::User, "A short one."));
            assert!(policy.role == Role::Assistant && !policy.content.is_empty());
        }
    }
    assert!(ranking.cost.roles.policy.generated_tokens > 0);
    // Two user turns a rollout, two questions.
    assert_eq!(asked.load(Ordering::Relaxed), 4 * (2 + 2));

    let models = serde_json::to_value(&ranking.models).expect("JSON");
    assert_eq!((&models["user"]["name"], &models["user"]["weights"]), (&json!("scripted"), &Value::Null));
    assert_eq!(models["policy"]["weights"], json!("step-17"));
    let error = engine.model("scripted").expect("a model").generate(vec![1], sampled(0, 1)).expect_err("remote");
    assert!(error.to_string().contains("`scripted` is not a local model"), "{error}");
}

/// Interim rewards come with each round that is complete, and the last are those of the ranking.
#[test]
fn rewards_come_while_futures_end() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let told: Arc<Mutex<Vec<Vec<Interim>>>> = Arc::default();
    let telling = Arc::clone(&told);
    let on_interim = Box::new(move |known| telling.lock().expect("one thread").push(known));
    let options = RankOptions { on_interim: Some(on_interim), ..RankOptions::default() };
    let ranking =
        engine.rank(request(&CANDIDATES[..3], json!({"window": 1, "samples": 3})), options).expect("a ranking");
    let told = told.lock().expect("one thread");
    let rounds: Vec<usize> = told.iter().map(|known| known[0].rollouts).collect();
    assert!(rounds.is_sorted_by(|a, b| a < b) && rounds.last() == Some(&3), "{rounds:?}");
    for known in &*told {
        assert!(known.len() == 3 && known.iter().all(|of| of.rollouts == known[0].rollouts), "{known:?}");
        assert!(known.is_sorted_by(|a, b| a.reward >= b.reward));
    }
    let numbers = |of: &RankedCandidate| (of.candidate, of.reward, of.std_error, of.probability_best);
    let interim = |of: &Interim| (of.candidate, Some(of.reward), of.std_error, of.probability_best);
    let last: Vec<_> = told.last().expect("told").iter().map(interim).collect();
    assert_eq!(last, ranking.candidates.iter().map(numbers).collect::<Vec<_>>());
}

#[test]
fn another_engine_scores_the_same_futures_again() {
    let engine = || {
        let asked = Arc::new(AtomicUsize::new(0));
        let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
        let scripted = Box::new(|| Ok(Box::new(model) as Box<dyn ChatModel>));
        let config = Config::from_toml(SETTINGS, "/").expect("settings");
        (Engine::builder(config).chat_model("scripted", scripted).build().expect("an engine"), asked)
    };
    let ask = || request(&CANDIDATES[..2], json!({"window": 1, "samples": 2}));
    let (first, (second, asked)) = (engine().0, engine());
    let ranking = rank(&first, ask());
    let again = second.rescore(ask(), &ranking, RankOptions::default()).expect("a ranking");
    let uncosted = |ranking: &Ranking| without(ranking, &["cost"]);
    assert_eq!(uncosted(&again), uncosted(&ranking));
    assert_eq!(asked.load(Ordering::Relaxed), 4 * 2, "two questions on each of four futures, and nothing else");
    let error = second.rescore(request(&CANDIDATES[..1], json!({})), &ranking, RankOptions::default()).expect_err("no");
    assert!(error.to_string().contains("give the request that was ranked"), "{error}");
}

#[test]
fn futures_scored_again_get_their_scores_to_the_last_bit() {
    let expected = reference();
    let Fresh { engine, .. } = &fresh(with_threads(2));
    let again = engine.rescore(request(&CANDIDATES, json!({})), expected, RankOptions::default()).expect("a ranking");
    assert!(again.complete && again.bitwise);
    let scores = |ranking: &Ranking| -> Vec<_> {
        let scores = |ranked: &foreturn::rank::RankedCandidate| {
            (ranked.candidate, ranked.reward, ranked.std_error, ranked.metrics.clone(), ranked.excluded)
        };
        ranking.candidates.iter().map(scores).collect()
    };
    assert_eq!(scores(&again), scores(expected));
    let total = again.cost.roles;
    assert_eq!((total.policy, total.user), (Usage::default(), Usage::default()));
    assert!(total.judge.prompt_tokens > 0);
}

/// Whoever plays the user opens a conversation, be it a local model or not.
#[test]
fn a_user_of_the_hosts_own_opens_a_conversation() {
    let (engine, asked) = scripted();
    assert_eq!(engine.open_conversation(&goal(), 7).expect("a message"), user("A short one."));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let limits = Limits { timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let error = silent().within(limits).open_conversation(&goal(), 7).expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
}

/// An engine without ONNX Runtime, whose one model is scripted, and how much was asked of it.
fn scripted() -> (Engine, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
    let model = Box::new(move || Ok(Box::new(model) as Box<dyn ChatModel>));
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    (Engine::builder(config).chat_model("scripted", model).build().expect("an engine"), asked)
}

/// A metric that works until it is told to end.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

impl Metric for Stuck {
    fn kind(&self) -> &'static str {
        "stuck"
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let _ = self.0.lock().expect("one thread").recv();
        batch.iter().map(|_| Ok(1.0.into())).collect()
    }
}

#[test]
fn a_metric_at_work_does_not_outlast_the_deadline() {
    let (end, told) = std::sync::mpsc::channel();
    let metric = WeightedMetric::new(Arc::new(Stuck(Mutex::new(told))), 1.0);
    let silent = Box::new(|| Ok(Box::new(Silent) as Box<dyn ChatModel>));
    let config = Config::from_toml("[rollout]\nwindow = 0\n[[metrics]]\nkind = \"token_amount\"", "/");
    let builder = Engine::builder(config.expect("settings")).chat_model("silent", silent).metric(metric);
    let engine = builder.build().expect("an engine");
    for limits in [
        Limits { timeout: Some(Duration::from_millis(50)), ..Limits::default() },
        Limits { cancel: Some(CancelToken::new()), ..Limits::default() },
    ] {
        let pending = engine.within(limits.clone()).submit_rank(request(&["a"], json!({})), RankOptions::default());
        let pending = pending.expect("queued");
        while engine.statistics().expect("a live engine").active_rankings == 0 && pending.poll().is_none() {
            std::thread::yield_now();
        }
        limits.cancel.iter().for_each(CancelToken::cancel);
        let ranking = pending.wait().expect("what there is");
        let only = &ranking.candidates[0];
        assert!(!ranking.complete && only.reward.is_none() && only.excluded == 1, "{only:?}");
    }
    drop(end);
}

/// A model that never answers.
struct Silent;

impl ChatModel for Silent {
    fn name(&self) -> &str {
        "silent"
    }

    fn submit(&mut self, _: ChatRequest) -> Result<Ticket> {
        Ok(Ticket(TICKETS.fetch_add(1, Ordering::Relaxed)))
    }

    fn poll(&mut self, _: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        true
    }

    fn cancel(&mut self, _: Ticket) {}
}

/// An engine without ONNX Runtime, on which rankings wait for ever.
fn silent() -> Engine {
    let silent = Box::new(|| Ok(Box::new(Silent) as Box<dyn ChatModel>));
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    Engine::builder(config).chat_model("silent", silent).build().expect("an engine")
}

#[test]
fn a_model_that_never_answers_does_not_outlast_the_deadline() {
    let limits = Limits { timeout: Some(Duration::from_millis(100)), cancel: None, priority: 0 };
    let ranking = silent().within(limits).rank(request(&["a"], json!({})), RankOptions::default()).expect("nulls");
    assert!(!ranking.complete && !ranking.bitwise);
    assert_eq!(ranking.candidates[0].reward, None);
}

/// Takes its time over each request, as a model does that has a long prompt to write and tokenise.
struct Slow {
    asked: Arc<AtomicUsize>,
    taking: Duration,
}

impl ChatModel for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn submit(&mut self, _: ChatRequest) -> Result<Ticket> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.taking);
        Ok(Ticket(TICKETS.fetch_add(1, Ordering::Relaxed)))
    }

    fn poll(&mut self, _: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        false
    }

    fn cancel(&mut self, _: Ticket) {}
}

/// An engine with one of those, and how many requests it has got.
fn slow(taking: Duration) -> (Engine, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Slow { asked: Arc::clone(&asked), taking };
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    let model = Box::new(move || Ok(Box::new(model) as Box<dyn ChatModel>));
    (Engine::builder(config).chat_model("slow", model).build().expect("an engine"), asked)
}

#[test]
fn requests_are_handed_out_as_they_can_run_and_the_clock_is_looked_at_for_each() {
    let candidates = vec!["a"; 200];
    let large = || request(&candidates, json!({"samples": 300}));
    // All that may be out are, and no prompt is written for the others.
    let (engine, asked) = slow(Duration::ZERO);
    let cancel = CancelToken::new();
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let pending = engine.within(limits).submit_rank(large(), RankOptions::default()).expect("queued");
    while asked.load(Ordering::Relaxed) < 128 {
        assert!(pending.poll().is_none());
        std::thread::yield_now();
    }
    engine.statistics().expect("an engine that answers");
    cancel.cancel();
    assert!(!pending.wait().expect("nulls").complete);
    assert_eq!(asked.load(Ordering::Relaxed), 128);
    // A deadline that passes while they are handed out ends that.
    const TAKING: Duration = Duration::from_millis(50);
    let (engine, asked) = slow(TAKING);
    let limits = Limits { timeout: Some(4 * TAKING), cancel: None, priority: 0 };
    let ranking = engine.within(limits).rank(large(), RankOptions::default()).expect("nulls");
    assert!(!ranking.complete);
    assert!(asked.load(Ordering::Relaxed) <= 4, "{} took their time", asked.load(Ordering::Relaxed));
}

#[test]
fn a_ranking_of_too_many_turns_is_refused_with_the_numbers() {
    let candidates = vec!["a"; 300];
    let refused = |rest| match silent().rank(request(&candidates, rest), RankOptions::default()) {
        Err(error) => (error.kind(), error.to_string()),
        Ok(_) => panic!("not refused"),
    };
    let (kind, message) = refused(json!({"samples": 300, "window": 1}));
    assert_eq!(kind, ErrorKind::InvalidRequest);
    for part in ["candidates × samples × window is 300 × 300 × 1 = 90000", "at most 65536 turns"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(refused(json!({"samples": 10, "window": 32})).1.contains("= 96000"));
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    let engine = silent();
    let submit = |_| engine.submit_rank(request(&["a"], json!({})), RankOptions::default());
    let submitted: Vec<_> = (0..400).map(submit).collect();
    // Sixteen have a place, and 256 may wait. The caller learns it at once.
    let taken = submitted.iter().take_while(|submitted| submitted.is_ok()).count();
    assert_eq!(taken, 16 + 256);
    for refused in &submitted[taken..] {
        let error = refused.as_ref().expect_err("the queue is full");
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.to_string().contains("rankings are waiting already"), "{error}");
    }
    assert_eq!(engine.statistics().expect("a live engine").refused, 400 - 272);
}

#[test]
fn a_drained_engine_refuses_what_waits_and_ends_what_is_under_way() {
    let (engine, cancel) = (silent(), CancelToken::new());
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let submit = |_| engine.within(limits.clone()).submit_rank(request(&["a"], json!({})), RankOptions::default());
    let mut submitted: Vec<_> = (0..20).map(|number| submit(number).expect("queued")).collect();
    while engine.statistics().expect("a live engine").active_rankings < 16 {
        std::thread::yield_now();
    }
    engine.drain();
    for waited in submitted.split_off(16) {
        let error = waited.wait().expect_err("it had no place");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("waited for a place"), "{error}");
    }
    assert_eq!(submit(20).expect_err("nothing more is taken").kind(), ErrorKind::Closed);
    assert_eq!(engine.statistics().expect("it still tells").queued_rankings, 0);
    assert!(submitted.iter().all(|ranking| ranking.poll().is_none()), "what is under way goes on");
    cancel.cancel();
    assert!(submitted.into_iter().all(|ranking| !ranking.wait().expect("nulls").complete));
}

#[test]
fn the_last_handle_may_go_with_a_callback() {
    let engine = silent();
    let (held, cancel) = (engine.clone(), CancelToken::new());
    let on_progress = Box::new(move |_| assert_eq!(held.models(), ["silent"]));
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let options = RankOptions { on_progress: Some(on_progress), ..RankOptions::default() };
    let ranking = engine.within(limits).submit_rank(request(&["a"], json!({})), options).expect("queued");
    // Ends what is under way before it returns, if it is the last handle.
    drop(engine);
    assert!(ranking.poll().is_none(), "the callback keeps the engine");
    cancel.cancel();
    assert!(!ranking.wait().expect("nulls").complete);
}

#[test]
fn an_engine_whose_model_cannot_be_made_says_so() {
    let _turn = turn();
    let broken = Box::new(|| Err(foreturn::Error::new(ErrorKind::Runtime, "no such endpoint")));
    let error = Engine::builder(Config::default()).chat_model("mine", broken).build().expect_err("no engine");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Runtime, "no such endpoint"));
}
