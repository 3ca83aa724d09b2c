// Tests of include/foreturn.hpp. `wrapper MODEL_FOLDER NEXT`, a language model's, and one with other weights of it;
// ORT_DYLIB_PATH says where ONNX Runtime is. Prints what failed; the exit status is 0 if nothing did.

#include "foreturn.hpp"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace {

int failures = 0;

void check(bool fine, const char* what, int line) {
    if (fine) return;
    ++failures;
    std::fprintf(stderr, "wrapper.cpp:%d: %s\n", line, what);
}
#define CHECK(condition) check((condition), #condition, __LINE__)

/// Whether it failed with that status, and a message with that text in it.
template <class T>
bool failed(const foreturn::Result<T>& result, foreturn::Status status, std::string_view text = {}) {
    if (result.ok()) return std::fprintf(stderr, "  it succeeded\n"), false;
    const auto message = result.error().message();
    if (result.error().status() == status && message.find(text) != message.npos) return true;
    std::fprintf(stderr, "  %d: %s\n", result.error().status(), std::string(message).c_str());
    return false;
}

/// The value, or a failure that ends the test.
template <class T> T need(foreturn::Result<T> result, int line) {
    if (!result) {
        const std::string message(result.error().message());
        std::fprintf(stderr, "wrapper.cpp:%d: %s\n", line, message.c_str());
        std::exit(1);
    }
    return std::move(result).value();
}
#define NEED(result) need((result), __LINE__)

/// Counts how many of it are alive, as a callable would that holds something.
struct Counted {
    static std::atomic<int> alive;
    Counted() { ++alive; }
    Counted(const Counted&) { ++alive; }
    Counted(Counted&&) noexcept { ++alive; }
    Counted& operator=(const Counted&) = default;
    Counted& operator=(Counted&&) = default;
    ~Counted() { --alive; }
};
std::atomic<int> Counted::alive{0};

std::string config(const std::string& folder, const std::string& more = "") {
    return "[rollout]\nwindow = 1\nsamples = 2\nmax_user_tokens = 8\nmax_policy_tokens = 8\n"
           "[models.m]\npath = \"" + folder + "\"\n" + more;
}

foreturn::RankRequest a_request() {
    foreturn::RankRequest request;
    request.messages = {{"user", "Write a poem."}};
    request.candidates = {"What should it be about?", "Roses are red."};
    request.goal_json = R"({"task": "write a poem", "prompt": "A poem about my late dog."})";
    request.seed = 5;
    return request;
}

/// The length of the ranked response, in bytes.
std::vector<double> length(foreturn::MetricInputs inputs) {
    std::vector<double> values;
    for (const auto input : inputs) values.push_back(double(input.messages[input.response].content.size()));
    return values;
}

foreturn::Engine engine_with(const std::string& toml, foreturn::EngineOptions options, int line) {
    options.config_toml = toml;
    return need(foreturn::Engine::create(std::move(options)), line);
}

// ---- Without a model ----

void texts_and_lists() {
    // Bytes behind the view are nobody's business: nothing here may rely on a NUL.
    const std::string text = "usernobody";
    const foreturn_str role{text.data(), 4};
    const foreturn_message raw[] = {{role, {text.data() + 4, 6}}, {role, {nullptr, 0}}};
    const foreturn::Messages messages(raw, 2);
    CHECK(messages.size() == 2 && messages[0].role == "user" && messages[0].content == "nobody");
    CHECK(messages[1].content.empty());
    const std::vector<foreturn::Message> copied(messages.begin(), messages.end());
    CHECK(copied.size() == 2 && copied[0].content == "nobody");
    CHECK(!foreturn::version().empty() && foreturn::abi_version() == FORETURN_ABI_VERSION);
    CHECK(foreturn::abi_check().ok());
    CHECK(NEED(foreturn::build_info()).find("\"version\":\"" + std::string(foreturn::version())) == 1);
}

void handles_move() {
    auto token = NEED(foreturn::CancelToken::create());
    auto* const raw = token.get();
    CHECK(token && raw != nullptr && foreturn::handle_count() == 1);
    foreturn::CancelToken other(std::move(token));
    CHECK(!token && token.get() == nullptr && other.get() == raw);
    CHECK(token.cancel() == FORETURN_ERROR_INVALID_ARGUMENT && other.cancel() == FORETURN_OK);
    token = std::move(other);
    CHECK(token.get() == raw && !other);
    auto& itself = token;
    token = std::move(itself);
    CHECK(token.get() == raw && foreturn::handle_count() == 1);
    token = NEED(foreturn::CancelToken::create());
    CHECK(foreturn::handle_count() == 1 && token.get() != raw);
    foreturn_cancel* const taken = token.release();
    CHECK(!token && foreturn_cancel_free(taken) == FORETURN_OK && token.free() == FORETURN_OK);
    CHECK(foreturn::handle_count() == 0);
}

void errors_say_why() {
    foreturn::EngineOptions options;
    options.config_toml = "[rollout]\nwindow = \"wide\"\n";
    auto refused = foreturn::Engine::create(std::move(options));
    CHECK(failed(refused, FORETURN_ERROR_INVALID_CONFIG, "window"));
    CHECK(foreturn::handle_count() == 1);
    foreturn::Error error = std::move(refused).error();
    CHECK(error && error.status() == FORETURN_ERROR_INVALID_CONFIG && !error.message().empty());
    foreturn::Error moved = std::move(error);
    CHECK(!error && error.status() == FORETURN_OK && error.message().empty() && error.cause_count() == 0);
    CHECK(moved.status() == FORETURN_ERROR_INVALID_CONFIG && moved.cause(moved.cause_count()).empty());
    foreturn::Error own(FORETURN_ERROR_IO, "of the host's own");
    CHECK(own.status() == FORETURN_ERROR_IO && own.message() == "of the host's own");
    const foreturn::Engine none;
    CHECK(failed(none.rank(a_request()), FORETURN_ERROR_INVALID_ARGUMENT, "NULL"));
    CHECK(failed(foreturn::export_model({"/nowhere/at/all", "/nowhere/else"}), FORETURN_ERROR_IO));
}

void what_is_given_to_no_engine_is_let_go_of() {
    {
        foreturn::EngineOptions never;
        never.metric("held", 1.0, [held = Counted()](foreturn::MetricInputs given) { return length(given); });
        CHECK(Counted::alive == 1);
    }
    CHECK(Counted::alive == 0);
    foreturn::EngineOptions options;
    options.config_path = "/nowhere/at/all.toml";
    // Neither has to be copyable.
    auto counted = std::make_unique<Counted>(), other = std::make_unique<Counted>();
    options.metric("held", 1.0, [held = std::move(counted)](auto given) { return length(given); });
    options.chat_model("host", [held = std::move(other)](foreturn::ChatRequests, foreturn::ChatReplies&) {});
    CHECK(Counted::alive == 2);
    CHECK(failed(foreturn::Engine::create(std::move(options)), FORETURN_ERROR_IO, "all.toml"));
    CHECK(Counted::alive == 0);
}

// ---- With a model ----

void replies(const std::string& folder) {
    const auto engine = engine_with("", std::move(foreturn::EngineOptions().model("m", folder)), __LINE__);
    const std::vector<foreturn::Message> asked = {{"user", "Count from one to ten."}};
    std::string pieces;
    foreturn::GenerateOptions options;
    options.max_tokens = 12;
    options.greedy = true;
    options.on_text = [&](std::string_view text) { pieces += text; };
    const auto generation = NEED(engine.generate("m", {asked}, options));
    const auto reply = NEED(generation.read());
    CHECK(!reply.text.empty() && pieces == reply.text);
    CHECK(reply.tokens.size() == reply.logprobs.size() && reply.tokens.size() <= 12);

    int calls = 0;
    options.on_text = [&](std::string_view) { ++calls, throw std::runtime_error("no more of this"); };
    CHECK(failed(engine.generate("m", {asked}, options), FORETURN_ERROR_MODEL_OUTPUT, "no more of this"));
    CHECK(calls == 1);
    options.on_text = nullptr;
    options.stop = {reply.text.substr(0, 3)};
    CHECK(NEED(NEED(engine.generate("m", {asked}, options)).read()).finish == "stop");

    const auto prompt = NEED(engine.render("m", asked));
    CHECK(prompt.find("Count from one to ten.") != prompt.npos);
    CHECK(NEED(engine.render("m", asked, false)).size() < prompt.size());
    const auto sees = NEED(engine.tokens("m", {asked}));
    CHECK(sees.size() == reply.prompt_tokens && NEED(engine.prompt_text("m", {{}, sees})) == prompt);
    std::string lengthy(6000, 'x');
    const auto more = NEED(engine.tokens("m", {{{"user", lengthy}}}));
    CHECK(more.size() > 1024 && NEED(engine.prompt_text("m", {{}, more})).find(lengthy) != lengthy.npos);
    CHECK(failed(engine.tokens("m", {}), FORETURN_ERROR_INVALID_ARGUMENT, "neither messages nor tokens"));
    const auto pin = NEED(engine.warm("m", {asked}));
    CHECK(NEED(pin.tokens()) == reply.prompt_tokens);
    const std::vector<std::uint32_t> tokens(reply.tokens.begin(), reply.tokens.end());
    CHECK(NEED(NEED(engine.logprobs("m", {{}, tokens})).read()).logprobs.size() == tokens.size() - 1);
    CHECK(failed(engine.warm("nobody", {asked}), FORETURN_ERROR_INVALID_REQUEST, "nobody"));

    foreturn::ScoreOptions how;
    how.task = FORETURN_SCORE_RESPONSE;
    const auto with = [&](std::string_view response) {
        foreturn::ScoreInput input{asked};
        input.messages.push_back({"assistant", response});
        return input;
    };
    const auto scores = NEED(engine.score("m", {with("One, two, three."), with("Purple.")}, how));
    CHECK(NEED(scores.count()) == 2);
    CHECK(NEED(scores.read(0)).values.size() == 1 && std::isfinite(NEED(scores.read(1)).values[0]));
    CHECK(NEED(scores.json()).front() == '[');
    CHECK(failed(scores.read(2), FORETURN_ERROR_INVALID_ARGUMENT, "2"));
    foreturn::ScoreInput both{asked};
    both.candidates = {"One, two, three.", "Purple."};
    const auto together = NEED(engine.score("m", {both}, how));
    CHECK(NEED(together.count()) == 2);
    for (std::size_t at : {0, 1}) {
        CHECK(NEED(together.read(at)).values[0] == NEED(scores.read(at)).values[0]);
        CHECK(NEED(together.read(at)).seconds > 0 && NEED(together.read(at)).reused_tokens > 0);
    }
    foreturn::ScoreInput by_pin;
    by_pin.candidates = both.candidates, by_pin.pin = &pin;
    const auto pinned = NEED(engine.score("m", {by_pin}, how));
    for (std::size_t at : {0, 1}) CHECK(NEED(pinned.read(at)).values[0] == NEED(scores.read(at)).values[0]);
    by_pin.messages = asked;
    CHECK(failed(engine.score("m", {by_pin}, how), FORETURN_ERROR_INVALID_ARGUMENT, "inputs[0]: "));
    both.text = "A text.";
    CHECK(failed(engine.score("m", {both}, how), FORETURN_ERROR_INVALID_ARGUMENT, "inputs[0]: candidates"));
    how.partial = true;  // an empty answer can't be scored, and the other one can
    const auto some = NEED(engine.score("m", {with("One."), foreturn::ScoreInput{asked}}, how));
    CHECK(NEED(some.read(0)).status == FORETURN_OK && NEED(some.read(0)).values.size() == 1);
    CHECK(NEED(some.read(1)).status == FORETURN_ERROR_INVALID_REQUEST && NEED(some.read(1)).values.empty());
    CHECK(NEED(some.json()).find("\"error\"") != std::string::npos);
    how.partial = false;
    how.limits.timeout = std::chrono::milliseconds(-5);  // over already, which is not "no limit"
    const std::string endless(4000, 'x');
    CHECK(failed(engine.score("m", {with(endless)}, how), FORETURN_ERROR_DEADLINE_EXCEEDED));
    const auto token = NEED(foreturn::CancelToken::create());
    CHECK(token.cancel() == FORETURN_OK);
    how.limits = {{}, &token, 3};
    CHECK(failed(engine.score("m", {with("One.")}, how), FORETURN_ERROR_CANCELLED));

    const auto counts = NEED(engine.statistics());
    CHECK(counts.cancelled == 1 && counts.deadlines_missed == 1 && counts.errors >= 2);
    CHECK(NEED(engine.errors(FORETURN_ERROR_CANCELLED)) == 1 && NEED(engine.errors(FORETURN_ERROR_IO)) == 0);
    CHECK(NEED(engine.statistics()).score.count >= 1 && NEED(engine.model_statistics("m")).steps > 0);
    CHECK(NEED(engine.openmetrics()).find("# EOF") != std::string::npos);
    CHECK(NEED(engine.statistics_json()).front() == '{');
}

// What can be waited for can be queued as well, with the same results.
void queued_prompts(const std::string& folder) {
    const auto engine = engine_with("", std::move(foreturn::EngineOptions().model("m", folder)), __LINE__);
    const std::vector<foreturn::Message> asked = {{"user", "Count from one to ten."}};
    std::atomic<int> ready{0};
    foreturn::PromptOptions tell;
    std::promise<void> all;
    tell.on_ready = [&] {
        if (++ready == 3) all.set_value();
    };
    foreturn::GenerateOptions options;
    options.max_tokens = 12;
    options.greedy = true;
    options.on_ready = tell.on_ready;
    const auto warm = NEED(engine.submit_warm("m", {asked}, tell));
    const auto reply = NEED(engine.submit_generate("m", {asked}, options));
    const auto scored = NEED(engine.submit_logprobs("m", {asked}, tell));
    for (const auto* pending : {&warm, &reply, &scored}) CHECK(NEED(pending->wait()));
    // wait() may return a moment before on_ready is called.
    CHECK(all.get_future().wait_for(std::chrono::seconds(60)) == std::future_status::ready);
    CHECK(ready == 3);
    CHECK(failed(reply.pin(), FORETURN_ERROR_INVALID_ARGUMENT, "a generation"));
    CHECK(NEED(NEED(warm.pin()).tokens()) > 0);
    const auto queued = NEED(reply.generation()), waited = NEED(engine.generate("m", {asked}, options));
    CHECK(NEED(queued.read()).text == NEED(waited.read()).text);
    CHECK(NEED(NEED(scored.generation()).read()).logprobs.size() > 0);
    CHECK(failed(engine.submit_warm("nobody", {asked}), FORETURN_ERROR_INVALID_REQUEST, "nobody"));
    // What is wrong with a prompt shows in the result.
    const auto empty = NEED(engine.submit_logprobs("m", {{}, {5}}));
    CHECK(NEED(empty.wait()));
    CHECK(failed(empty.generation(), FORETURN_ERROR_INVALID_REQUEST, "at least two tokens"));
}

// `next` has the same model with other weights.
void new_weights(const std::string& folder, const std::string& next) {
    const auto engine = engine_with("", std::move(foreturn::EngineOptions().model("m", folder)), __LINE__);
    const foreturn::Prompt prompt{{}, {5, 6, 7, 8, 9}};
    const auto asked = [&] {
        const auto scored = NEED(engine.logprobs("m", prompt));
        const auto logprobs = NEED(scored.read()).logprobs;
        return std::vector<float>(logprobs.begin(), logprobs.end());
    };
    const auto before = asked();
    foreturn::RefreshOptions how;
    how.version = "step 2";
    how.mode = FORETURN_REFRESH_ABORT;
    CHECK(NEED(engine.refresh("m", next, how)) == "step 2");
    CHECK(asked() != before && NEED(engine.model_statistics("m")).refreshes == 1);
    CHECK(NEED(engine.statistics_json()).find("\"step 2\"") != std::string::npos);
    std::promise<void> ready;
    how.version = "step 1";
    how.on_ready = [&, counted = Counted()] { ready.set_value(); };
    const auto pending = NEED(engine.submit_refresh("m", folder, how));
    CHECK(NEED(pending.wait()) && failed(pending.pin(), FORETURN_ERROR_INVALID_ARGUMENT, "the name of new weights"));
    CHECK(NEED(pending.version()) == "step 1" && asked() == before);
    ready.get_future().wait();
    CHECK(failed(engine.refresh("m", "/nowhere"), FORETURN_ERROR_INVALID_MODEL, "/nowhere"));
    // The tensors of the next export, in memory.
    std::ifstream file(next + "/model.safetensors", std::ios::binary), list(next + "/tensors.txt");
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    std::deque<std::string> names;
    std::vector<foreturn::Tensor> tensors;
    for (std::string name; list >> name;) {
        size_t place = 0, length = 0, rank = 0;
        list >> place >> length >> rank;
        std::vector<size_t> shape(rank);
        for (auto& size : shape) list >> size;
        names.push_back(name);
        tensors.push_back({names.back(), FORETURN_DTYPE_FLOAT32, shape, bytes.data() + place, length});
    }
    how.on_ready = {};
    how.version = "step 3";
    CHECK(NEED(engine.refresh_tensors("m", tensors, how)) == "step 3" && asked() != before);
    tensors.front().shape[0]++;
    CHECK(failed(engine.refresh_tensors("m", tensors, how), FORETURN_ERROR_INVALID_REQUEST, names.front()));
    CHECK(NEED(engine.refresh("m", folder)).size() > 0 && asked() == before);
    CHECK(failed(engine.submit_refresh("nobody", folder), FORETURN_ERROR_INVALID_REQUEST, "nobody"));
}

void runs(const std::string& folder) {
    const auto engine = engine_with(config(folder, "[[metrics]]\nkind = \"token_amount\"\n"), {}, __LINE__);
    char place[] = "/tmp/foreturn-wrapper-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    const std::string tasks = std::string(place) + "/tasks.jsonl", built = std::string(place) + "/built",
                      evaluated = std::string(place) + "/evaluated";
    std::ofstream(tasks) << R"({"id": 1, "conversation": [{"role": "user", "content": "A poem."}]})";
    foreturn::RunOptions options;
    options.tasks_path = tasks, options.folder = built, options.candidates = 2, options.turns = 1, options.seed = 7;
    std::size_t last = 0, total = 0;
    options.on_progress = [&](std::size_t finished, std::size_t, std::size_t of) { last = finished, total = of; };
    CHECK(NEED(engine.dataset_build(options)).find("\"stopped\":\"complete\"") != std::string::npos);
    CHECK(last == 1 && total == 1);
    options.folder = evaluated;
    CHECK(NEED(foreturn::evaluate({{"a", &engine}, {"b", &engine}}, options)).find("\"minus\":\"a\"") != std::string::npos);
    const std::string pairs = std::string(place) + "/pairs.jsonl", merged = std::string(place) + "/merged",
                      swept = std::string(place) + "/swept";
    const auto exported = NEED(foreturn::dataset_export(built, pairs, FORETURN_DATASET_COLLABLLM_FLAT));
    CHECK(exported.find("\"rows\":2") != std::string::npos);
    options.folder = merged, options.merge = {built}, options.parquet = true, last = 0;
    CHECK(NEED(engine.dataset_build(options)).find("\"finished\":1") != std::string::npos);
    CHECK(last == 0);
    options.folder = swept, options.merge = {}, options.turns = options.samples = 2;
    CHECK(NEED(engine.sweep({{"w=0", nullptr}, {"w=1,style=blunt", &engine}}, options)).find("style=blunt") != std::string::npos);
    CHECK(failed(engine.sweep({{"w=1,style=blunt", nullptr}}, options), FORETURN_ERROR_INVALID_ARGUMENT, "simulators[0]"));
    options.tasks_path = "/nowhere";
    CHECK(failed(engine.dataset_build(options), FORETURN_ERROR_IO, "/nowhere"));
    for (const auto* file : {"/built/dataset.jsonl", "/built/failed.jsonl", "/built/journal.jsonl", "/built",
                             "/evaluated/evaluation.json", "/evaluated/evaluation.csv", "/evaluated/cost.json",
                             "/evaluated/conversations.jsonl", "/evaluated/failed.jsonl", "/evaluated/journal.jsonl",
                             "/evaluated", "/merged/dataset.jsonl", "/merged/dataset.parquet", "/merged/failed.jsonl",
                             "/merged/journal.jsonl", "/merged", "/swept/sweep.json", "/swept/sweep.csv",
                             "/swept/responses.jsonl", "/swept/failed.jsonl", "/swept/journal.jsonl", "/swept",
                             "/pairs.jsonl", "/tasks.jsonl", ""}) {
        CHECK(std::remove((place + std::string(file)).c_str()) == 0);
    }
}

void metrics(const std::string& folder) {
    foreturn::EngineOptions options;
    options.metric("length", 1.0, length)
        .metric("half", 0.5, [held = Counted()](foreturn::MetricInputs inputs, double* values) {
            for (const auto input : inputs) *values++ = input.goal_json.empty() ? 0 : 0.5;
        });
    {
        const auto engine = engine_with(config(folder), std::move(options), __LINE__);
        CHECK(Counted::alive == 1);
        std::size_t last = 0, total = 0, rollouts = 0;
        foreturn::RankOptions watch;
        watch.on_progress = [&](std::size_t finished, std::size_t of) { last = finished, total = of; };
        watch.on_rollout = [&](const foreturn::EndedRollout& ended) {
            rollouts += ended.candidate < 2 && !ended.ended.empty() && !ended.messages[0].content.empty();
        };
        std::vector<foreturn::Interim> interim;
        watch.on_interim = [&](const foreturn::Interim* known, std::size_t count) { interim.assign(known, known + count); };
        const auto request = a_request();
        const auto ranking = NEED(engine.rank(request, watch));
        CHECK(interim.size() == 2 && interim[0].rollout_count == 2 && interim[1].rollout_count == 2);
        for (std::size_t place = 0; place < 2; ++place) {
            const auto candidate = NEED(ranking.candidate(place));
            CHECK(interim[place].candidate == candidate.candidate && interim[place].reward == candidate.reward);
        }
        CHECK(last == 4 && total == 4 && rollouts == 4);
        const auto info = NEED(ranking.read());
        CHECK(info.complete && info.candidate_count == 2);
        const auto best = NEED(ranking.candidate(0));
        CHECK(best.candidate == 0 && best.response == request.candidates[0] && best.rollout_count == 2);
        CHECK(best.reward == double(best.response.size()) + 0.25);
        const auto half = NEED(ranking.metric(0, 0));
        CHECK(half.name == "half" && half.mean == 0.5 && half.weight == 0.5);
        const auto rollout = NEED(ranking.rollout(0, 1));
        CHECK(rollout.sample == 1 && rollout.counted && rollout.reason.empty());
        CHECK(rollout.message_count > 0 && NEED(ranking.message(0, 1, 0)).role == "user");
        CHECK(NEED(ranking.json()).find("What should it be about?") != std::string_view::npos);
        CHECK(failed(ranking.candidate(2), FORETURN_ERROR_INVALID_ARGUMENT));

        foreturn::RankRequest again;
        again.json = R"({"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["Hello", "Ah"],
                         "goal": {"task": "greet", "prompt": "Be greeted."}, "window": 0, "samples": 1})";
        watch.on_rollout = [](const foreturn::EndedRollout&) { throw 7; };
        CHECK(failed(engine.rank(again, watch), FORETURN_ERROR_MODEL_OUTPUT, "not a std::exception"));
    }
    CHECK(Counted::alive == 0);
}

void metrics_fail(const std::string& folder) {
    const auto with = [&](auto metric, int line) {
        foreturn::EngineOptions options;
        options.metric("mine", 1.0, std::move(metric));
        const auto engine = engine_with(config(folder), std::move(options), line);
        auto request = a_request();
        request.window = 0;
        return engine.rank(request);
    };
    using Inputs = foreturn::MetricInputs;
    const auto throws = [](Inputs) -> std::vector<double> { throw std::runtime_error("so there"); };
    CHECK(failed(with(throws, __LINE__), FORETURN_ERROR_MODEL_OUTPUT, "so there"));
    const auto says = [](Inputs) -> foreturn::MetricValues { return foreturn::Failure{"I won't"}; };
    CHECK(failed(with(says, __LINE__), FORETURN_ERROR_MODEL_OUTPUT, "I won't"));
    const auto fills = [](Inputs, double*) { return std::optional(foreturn::Failure{"nor I"}); };
    CHECK(failed(with(fills, __LINE__), FORETURN_ERROR_MODEL_OUTPUT, "nor I"));
    const auto few = [](Inputs) { return std::vector<double>{}; };
    CHECK(failed(with(few, __LINE__), FORETURN_ERROR_MODEL_OUTPUT, "0 values for"));
    const auto endless = [](Inputs inputs) { return std::vector<double>(inputs.size(), INFINITY); };
    CHECK(failed(with(endless, __LINE__), FORETURN_ERROR_MODEL_OUTPUT, "finite"));
}

void chat_models(const std::string& folder) {
    std::atomic<int> asked{0};
    enum { answers, throws, too_much } mode = answers;
    foreturn::EngineOptions options;
    options.metric("length", 1.0, length)
        .chat_model("host", [&](foreturn::ChatRequests requests, foreturn::ChatReplies& replies) {
            for (std::size_t at = 0; at < requests.size(); ++at, ++asked) {
                if (mode == throws) throw std::runtime_error("lost for words");
                if (mode == too_much) replies.choice(at, {0.9, 0.9});
                else if (requests[at].task == FORETURN_CHAT_GENERATE) replies.text(at, "Go on.", false, 3, 2);
            }
        }, true);
    const auto engine = engine_with(
        config(folder, "[roles]\npolicy = \"m\"\nuser = \"host\"\n"), std::move(options), __LINE__);
    const auto ranking = NEED(engine.rank(a_request()));
    CHECK(asked > 0 && NEED(ranking.message(0, 0, 0)).content == "Go on.");
    const int sampled = asked;
    const auto again = NEED(engine.rescore(a_request(), NEED(ranking.json())));
    const auto pending = NEED(engine.submit_rescore(a_request(), NEED(ranking.json())));
    CHECK(NEED(pending.wait()));
    CHECK(asked == sampled);  // nothing is said again
    for (const auto& judged : {NEED(again.candidate(0)), NEED(NEED(pending.ranking()).candidate(0))})
        CHECK(judged.reward == NEED(ranking.candidate(0)).reward);
    CHECK(failed(engine.rescore(a_request(), "{}"), FORETURN_ERROR_INVALID_REQUEST, "ranking"));
    mode = throws;
    CHECK(failed(engine.rank(a_request()), FORETURN_ERROR_MODEL_OUTPUT, "lost for words"));
    mode = too_much;
    CHECK(failed(engine.rank(a_request()), FORETURN_ERROR_MODEL_OUTPUT, "probabilities"));
}

void queued(const std::string& folder) {
    foreturn::EngineOptions options;
    options.metric("length", 1.0, length);
    auto engine = engine_with(config(folder), std::move(options), __LINE__);
    std::promise<void> ready;
    {
        foreturn::RankOptions how;
        how.on_ready = [&, counted = Counted()] { ready.set_value(); };
        auto pending = NEED(engine.submit_rank(a_request(), how));
        auto other = std::move(pending);
        CHECK(!pending && failed(pending.ranking(), FORETURN_ERROR_INVALID_ARGUMENT));
        CHECK(NEED(other.wait()));
        CHECK(failed(other.scores(), FORETURN_ERROR_INVALID_ARGUMENT));
        CHECK(NEED(NEED(other.ranking()).read()).candidate_count == 2);
        CHECK(failed(other.ranking(), FORETURN_ERROR_INVALID_ARGUMENT, "taken"));
        ready.get_future().wait();

        how.on_ready = nullptr;
        how.on_progress = [](std::size_t, std::size_t) { throw std::runtime_error("not that far"); };
        const auto third = NEED(engine.submit_rank(a_request(), how));
        CHECK(NEED(third.wait()) && failed(third.ranking(), FORETURN_ERROR_MODEL_OUTPUT, "not that far"));
    }
    // Dropped at once; what the callbacks need lives on until the last one has been called.
    std::promise<std::size_t> done;
    {
        foreturn::RankOptions how;
        const auto told = std::make_shared<std::atomic<std::size_t>>(0);
        how.on_progress = [told](std::size_t finished, std::size_t) { *told = finished; };
        how.on_ready = [told, counted = Counted(), &done] { done.set_value(*told); };
        CHECK(engine.submit_rank(a_request(), std::move(how)).ok());
    }
    CHECK(done.get_future().get() == 4);

    foreturn::ScoreOptions how;
    how.task = FORETURN_SCORE_RESPONSE;
    std::promise<void> scored;
    how.on_ready = [&, counted = Counted()] { scored.set_value(); };
    CHECK(failed(engine.submit_score("nobody", {}, how), FORETURN_ERROR_INVALID_REQUEST));
    const foreturn::ScoreInput input{{{"user", "Hi"}, {"assistant", "Hello"}}};
    const auto pending = NEED(engine.submit_score("m", {input}, how));
    CHECK(NEED(pending.wait(std::chrono::minutes(1))) && NEED(NEED(pending.scores()).count()) == 1);
    scored.get_future().wait();

    // An engine that ends takes its requests along, and says so in their own way.
    auto slow = a_request();
    slow.samples = 64;
    const auto cut = NEED(engine.submit_rank(slow));
    CHECK(!NEED(cut.wait(std::chrono::milliseconds(0))) && failed(cut.ranking(), FORETURN_ERROR_NOT_READY));
    CHECK(engine.free() == FORETURN_OK && !engine);
    CHECK(NEED(cut.wait()) && failed(cut.ranking(), FORETURN_ERROR_CLOSED));
}

void log_messages() {
    CHECK(foreturn::log_set([](foreturn_log_level, std::string_view) {}).ok());
    CHECK(foreturn::log_set(nullptr).ok());
}

}  // namespace

int main(int count, char** arguments) {
    texts_and_lists();
    handles_move();
    errors_say_why();
    what_is_given_to_no_engine_is_let_go_of();
    log_messages();
    if (count != 3) return std::fprintf(stderr, "usage: wrapper MODEL_FOLDER FOLDER_WITH_OTHER_WEIGHTS\n"), 1;
    const std::string folder = arguments[1];
    replies(folder);
    queued_prompts(folder);
    new_weights(folder, arguments[2]);
    runs(folder);
    metrics(folder);
    metrics_fail(folder);
    chat_models(folder);
    queued(folder);
    // on_ready comes from threads of the library, which may take a moment more to let go of what it held.
    for (int tries = 0; Counted::alive > 0 && tries < 500; ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    CHECK(Counted::alive == 0);
    CHECK(foreturn::handle_count() == 0);
    if (failures > 0) return std::fprintf(stderr, "%d checks failed\n", failures), 1;
    return 0;
}
