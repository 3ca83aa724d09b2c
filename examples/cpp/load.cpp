// Loads an engine as a chat server does, and measures whether it keeps its deadlines.
//
//   load MODEL_FOLDER [--NAME VALUE]...        Settings, below, has the names
//
// A request scores candidates, each time other ones, that reply to a pinned conversation. There are four phases:
//
//   alone     One request after the other: which share of their time do the model's steps take?
//   capacity  Each thread sends a request as soon as its last one is answered: how many a second is that?
//   load      An open loop: requests with a deadline arrive at random moments, at a fraction of the capacity,
//             whether or not earlier ones are answered.
//   overload  The same at a rate that fills the queue, so that the engine refuses requests.
//
// The numbers are printed as JSON, and to stderr as a table. `submit_us` is how long the call took that submits a request, and
// `submit_running_us` for how much of it the thread ran. A thread that wakes another one may be interrupted by it where all
// processors are busy: `wake_us` is how long it takes there to push a number under a lock and wake a thread that does nothing.

#include "foreturn.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include <time.h>

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;
using Random = std::mt19937_64;

struct Settings {
    std::string model, runtime, task = "response";  // for a model with a score head: labels
    std::map<std::string_view, double> numbers = {
        {"rate", 0},            // of the load, in requests per second; 0 is fraction * capacity
        {"fraction", 0.5},      //
        {"overload-rate", 200},  // requests per second
        {"deadline-ms", 500},   // of a request
        {"partial", 1},         // 0: a deadline that passes leaves no score
        {"candidates", 4},      // of a request
        {"tokens", 64},         // of a candidate
        {"history", 1000},      // tokens before the candidates
        {"conversations", 8},   // that are warm
        {"threads", 8},         // that send requests
        {"max-queued", 32},     // requests
        {"alone", 3},           // seconds of each phase; 0 skips it
        {"capacity", 5},
        {"load", 20},
        {"overload", 3},
        {"seed", 1},
    };
    double operator[](std::string_view name) const { return numbers.at(name); }
};

/// The time for which this thread has run, in microseconds. What a call takes beyond it, the thread waited.
double running() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e6 * double(now.tv_sec) + 1e-3 * double(now.tv_nsec);
}

/// Says what went wrong, and ends the program: there is nothing to measure.
template <class T> T need(const char* what, foreturn::Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "load: %s: %s\n", what, std::string(result.error().message()).c_str());
        std::exit(1);
    }
    return std::move(result).value();
}

// ---- Requests ---------------------------------------------------------------------------------------------

std::string words(std::size_t count, Random& random) {
    constexpr const char* all[] = {"time ", "day ",  "people ", "water ", "house ", "work ",  "story ", "city ",
                                   "name ", "line ", "game ",   "book ",  "night ", "point ", "hand ",  "group "};
    std::string text;
    while (count-- > 0) text += all[random() % std::size(all)];
    return text;
}

/// The number of words that make about `wanted` tokens, where `tokens` counts those of a text.
template <class F> std::size_t words_for(double wanted, Random& random, F tokens) {
    double count = wanted;
    for (int round = 0; round < 3; ++round) {
        count = std::max(1.0, std::round(count * wanted / tokens(words(std::size_t(count), random))));
    }
    return std::size_t(count);
}

/// An engine with conversations that are warm.
class Server {
  public:
    explicit Server(const Settings& settings)
        : candidates_(std::size_t(settings["candidates"])), random_(std::uint64_t(settings["seed"])) {
        foreturn::EngineOptions from;
        from.runtime_library = settings.runtime;
        from.config_toml = "[runtime]\nmax_queued = " + std::to_string(long(settings["max-queued"])) + "\n";
        from.model("model", settings.model);
        engine = need("cannot load the model", foreturn::Engine::create(std::move(from)));
        options.task = settings.task == "labels" ? FORETURN_SCORE_LABELS : FORETURN_SCORE_RESPONSE;

        const auto history = words_for(settings["history"], random_, [&](std::string text) {
            histories_ = {std::move(text)}, pins_.clear();
            return double(warm());
        });
        pins_.clear();
        for (histories_.clear(); histories_.size() < std::size_t(settings["conversations"]);) {
            histories_.push_back(words(history, random_));
            history_tokens = warm();
        }
        const auto measured = [&](const std::string& text) {
            const auto scores = need("cannot score", engine.score("model", inputs(0, {text}), options));
            candidate_tokens = need("cannot score", scores.read(0)).tokens - history_tokens;
            return double(candidate_tokens);
        };
        words_ = words_for(settings["tokens"], random_, measured);
        // Until the engine knows how much fits into a step.
        for (std::size_t at = 0; at < histories_.size(); ++at) ask(at, candidates(random_));
        measured(words(words_, random_));
    }

    /// Texts that the engine hasn't seen.
    std::vector<std::string> candidates(Random& random) const {
        std::vector<std::string> texts(candidates_);
        for (auto& text : texts) text = words(words_, random);
        return texts;
    }

    /// Candidates as replies to a conversation. They are borrowed.
    std::vector<foreturn::ScoreInput> inputs(std::size_t conversation, const std::vector<std::string>& texts) const {
        foreturn::ScoreInput input;
        input.candidates.assign(texts.begin(), texts.end());
        input.pin = &pins_[conversation % pins_.size()];
        return {input};
    }

    /// Scores candidates without a deadline.
    void ask(std::size_t conversation, const std::vector<std::string>& texts) const {
        need("cannot score", engine.score("model", inputs(conversation, texts), options));
    }

    /// What the engine's text for monitoring says of the model.
    double counter(const std::string& name) const {
        const auto text = need("cannot read the counters", engine.openmetrics());
        const auto line = "\n" + name + "{model=\"model\"} ";
        const auto at = text.find(line);
        if (at == text.npos) std::fprintf(stderr, "load: there is no counter %s\n", name.c_str()), std::exit(1);
        return std::strtod(text.c_str() + at + line.size(), nullptr);
    }

    foreturn::Engine engine;
    foreturn::ScoreOptions options;
    std::size_t history_tokens = 0, candidate_tokens = 0;

  private:
    /// Warms the last conversation, and returns its tokens.
    std::size_t warm() {
        auto pin = need("cannot warm a conversation", engine.warm("model", {{{"user", histories_.back()}}}));
        const auto tokens = need("cannot warm a conversation", pin.tokens());
        pins_.push_back(std::move(pin));
        return tokens;
    }

    std::size_t candidates_, words_ = 0;
    Random random_;
    std::vector<std::string> histories_;
    std::vector<foreturn::Pin> pins_;
};

// ---- Numbers ----------------------------------------------------------------------------------------------

/// The numbers of the phases, in the order in which they came.
class Report {
  public:
    void put(const char* phase, const std::string& name, double value) {
        add(phases_, phase), add(names_, name);
        values_[{phase, name}] = value;
    }
    /// Quantiles of a list; none of an empty one.
    void quantiles(const char* phase, const std::string& name, std::vector<double> of) {
        std::sort(of.begin(), of.end());
        const auto at = [&](double share) {
            if (of.empty()) return std::numeric_limits<double>::quiet_NaN();
            return of[std::size_t(std::ceil(share * double(of.size()))) - 1];
        };
        put(phase, name + "_p50", at(0.5)), put(phase, name + "_p99", at(0.99)), put(phase, name + "_max", at(1));
    }
    void print() const {
        const char* before = "{";
        for (const auto& phase : phases_) {
            std::printf("%s\n  \"%s\": {", before, phase.c_str()), before = ",";
            const char* within = "";
            for (const auto& name : names_) {
                const auto at = values_.find({phase, name});
                if (at == values_.end()) continue;
                const bool is = std::isfinite(at->second);
                std::printf("%s\"%s\": ", within, name.c_str()), within = ", ";
                is ? std::printf("%.6g", at->second) : std::printf("null");
            }
            std::printf("}");
        }
        std::printf("\n}\n");
        std::fprintf(stderr, "%-22s", "");
        for (const auto& phase : phases_) std::fprintf(stderr, "%10s", phase.c_str());
        for (const auto& name : names_) {
            std::fprintf(stderr, "\n%-22s", name.c_str());
            for (const auto& phase : phases_) {
                const auto at = values_.find({phase, name});
                if (at == values_.end() || !std::isfinite(at->second)) std::fprintf(stderr, "%10s", "");
                else std::fprintf(stderr, "%10.4g", at->second);
            }
        }
        std::fprintf(stderr, "\n");
    }

  private:
    static void add(std::vector<std::string>& list, const std::string& name) {
        if (std::find(list.begin(), list.end(), name) == list.end()) list.push_back(name);
    }
    std::vector<std::string> phases_, names_;
    std::map<std::pair<std::string, std::string>, double> values_;
};

// ---- Phases -----------------------------------------------------------------------------------------------

template <class F> void on_threads(std::size_t count, F run) {
    std::vector<std::thread> all;
    for (std::size_t at = 0; at < count; ++at) all.emplace_back(run, at);
    for (auto& thread : all) thread.join();
}

/// Requests one after the other, on so many threads. Returns the number per second.
double closed_loop(const Server& server, std::size_t threads, double seconds) {
    const auto start = Clock::now();
    std::atomic<long> answered{0};
    on_threads(threads, [&](std::size_t thread) {
        for (Random random(100 + thread); Clock::now() - start < std::chrono::duration<double>(seconds); ++answered) {
            server.ask(thread, server.candidates(random));
        }
    });
    return double(answered) / std::chrono::duration<double>(Clock::now() - start).count();
}

void alone(const Server& server, double seconds, Report& report) {
    const char* const steps = "foreturn_model_step_seconds_total";
    const auto computed = server.counter(steps);
    Random random(99);
    std::vector<double> took;
    for (const auto start = Clock::now(); Clock::now() - start < std::chrono::duration<double>(seconds);) {
        const auto texts = server.candidates(random);
        const auto before = Clock::now();
        server.ask(0, texts);
        took.push_back(Milliseconds(Clock::now() - before).count());
    }
    double all = 0;
    for (const auto one : took) all += one;
    report.put("alone", "requests", double(took.size()));
    report.put("alone", "outside_of_steps", 1 - 1e3 * (server.counter(steps) - computed) / all);
    report.quantiles("alone", "latency_ms", std::move(took));
}

/// A thread that sleeps until it is woken, and then again.
class Sleeper {
  public:
    Sleeper() : thread_([this] {
        std::unique_lock lock(mutex_);
        for (; !over_; pushed_.clear()) woken_.wait(lock, [this] { return over_ || !pushed_.empty(); });
    }) {}
    ~Sleeper() {
        {
            const std::lock_guard lock(mutex_);
            over_ = true;
        }
        woken_.notify_one();
        thread_.join();
    }
    /// Wakes it, and returns the microseconds that this took.
    double wake() {
        const auto start = Clock::now();
        {
            const std::lock_guard lock(mutex_);
            pushed_.push_back(1);
        }
        woken_.notify_one();
        return 1e3 * Milliseconds(Clock::now() - start).count();
    }

  private:
    std::mutex mutex_;
    std::condition_variable woken_;
    std::vector<int> pushed_;
    bool over_ = false;
    std::thread thread_;
};

/// A request of the open loop, and what became of it.
struct Request {
    Clock::time_point arrival, submitted, returned;
    double running = 0, wake = 0;  // microseconds: in the call that submits; to wake a thread
    std::atomic<Clock::rep> answered{0};
    foreturn::Result<foreturn::Pending> pending{foreturn::Error{}};
    double milliseconds() const { return Milliseconds(Clock::time_point(Clock::duration(answered)) - submitted).count(); }
};

/// Submits `requests`, each when it arrives, and waits until all are answered.
void open_loop(const Server& server, const Settings& settings, std::vector<Request>& requests) {
    std::atomic<std::size_t> next{0};
    on_threads(std::size_t(settings["threads"]), [&](std::size_t thread) {
        Random random(200 + thread);
        Sleeper sleeper;
        for (auto at = next++; at < requests.size(); at = next++) {
            const auto texts = server.candidates(random);
            const auto inputs = server.inputs(at, texts);
            auto& request = requests[at];
            auto options = server.options;
            options.limits.timeout = std::chrono::milliseconds(long(settings["deadline-ms"]));
            options.partial = settings["partial"] != 0;
            options.on_ready = [&request] { request.answered = Clock::now().time_since_epoch().count(); };
            std::this_thread::sleep_until(request.arrival);
            // Whichever is second finds some of what it needs in the processor's cache.
            if (at % 2) request.wake = sleeper.wake();
            const auto before = running();
            request.submitted = Clock::now();
            request.pending = server.engine.submit_score("model", inputs, std::move(options));
            request.returned = Clock::now();
            request.running = running() - before;
            if (at % 2 == 0) request.wake = sleeper.wake();
        }
    });
    for (auto& request : requests) {
        while (request.pending && !request.answered) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

/// The share of the scores that a request got.
double scored(const Request& request, foreturn::Status& status) {
    const auto scores = request.pending->scores();
    if (!scores) return status = scores.error().status(), 0;
    const auto count = need("cannot read scores", scores->count());
    std::size_t there = 0;
    for (std::size_t at = 0; at < count; ++at) there += scores->read(at)->status == FORETURN_OK;
    return double(there) / double(count);
}

/// Requests at `rate` for so many seconds.
void offer(const char* phase, const Server& server, const Settings& settings, double rate, Report& report) {
    std::vector<Request> requests(std::size_t(std::max(1.0, std::round(rate * settings[phase]))));
    Random random{std::uint64_t(settings["seed"])};
    std::exponential_distribution<double> pause(rate);
    const auto start = Clock::now();
    double arrival = 0.01;
    for (auto& request : requests) {
        request.arrival = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(arrival));
        arrival += pause(random);
    }
    open_loop(server, settings, requests);
    const auto seconds = std::chrono::duration<double>(Clock::now() - start).count();

    constexpr double grace = 10;  // milliseconds after the deadline that an answer still counts as punctual
    const auto deadline = settings["deadline-ms"];
    double in_time = 0, partial = 0, empty = 0, late = 0, failed = 0;
    std::vector<double> latency, submit, submit_running, wake, refusal;
    for (const auto& request : requests) {
        const auto micros = 1e3 * Milliseconds(request.returned - request.submitted).count();
        wake.push_back(request.wake);
        if (!request.pending) {
            if (request.pending.error().status() != FORETURN_ERROR_OVERLOADED) ++failed;
            refusal.push_back(micros);
            continue;
        }
        submit.push_back(micros), submit_running.push_back(request.running);
        latency.push_back(request.milliseconds());
        foreturn::Status status = FORETURN_OK;
        const auto share = scored(request, status);
        if (status != FORETURN_OK && status != FORETURN_ERROR_DEADLINE_EXCEEDED) ++failed;
        if (share == 1 && latency.back() <= deadline) ++in_time;
        if (share > 0 && share < 1) ++partial;
        if (share == 0) ++empty;
        if (latency.back() > deadline + grace) ++late;
    }
    const auto count = double(requests.size());
    report.put(phase, "requests", count);
    report.put(phase, "offered_per_second", count / arrival), report.put(phase, "in_time_per_second", in_time / seconds);
    report.put(phase, "in_time", in_time / count), report.put(phase, "late", late / count);
    report.put(phase, "partial", partial / count), report.put(phase, "without_scores", empty / count);
    report.put(phase, "refused", double(refusal.size()) / count), report.put(phase, "failed", failed / count);
    report.quantiles(phase, "latency_ms", std::move(latency));
    report.quantiles(phase, "submit_us", std::move(submit));
    report.quantiles(phase, "submit_running_us", std::move(submit_running));
    report.quantiles(phase, "wake_us", std::move(wake));
    report.quantiles(phase, "refusal_us", std::move(refusal));
}

bool read(int count, char** arguments, Settings& settings) {
    for (int at = 1; at < count; ++at) {
        const std::string_view name = arguments[at];
        if (name.substr(0, 2) != "--") {
            if (!std::exchange(settings.model, name).empty()) return false;
            continue;
        }
        if (++at == count) return false;
        char* end = arguments[at];
        const auto number = settings.numbers.find(name.substr(2));
        if (name == "--runtime") settings.runtime = arguments[at];
        else if (name == "--task") settings.task = arguments[at];
        else if (number == settings.numbers.end()) return false;
        else if (number->second = std::strtod(arguments[at], &end); *end || !(number->second >= 0)) return false;
    }
    return !settings.model.empty();
}

}  // namespace

int main(int count, char** arguments) {
    Settings settings;
    if (!read(count, arguments, settings)) {
        std::fputs("usage: load MODEL_FOLDER [--runtime PATH] [--task response|labels] [--NAME NUMBER]...\n", stderr);
        for (const auto& [name, number] : settings.numbers) {
            std::fprintf(stderr, "  --%.*s %g\n", int(name.size()), name.data(), number);
        }
        return 2;
    }
    Report report;
    const Server server(settings);
    report.put("all", "history_tokens", double(server.history_tokens));
    report.put("all", "candidate_tokens", double(server.candidate_tokens));
    if (settings["alone"] > 0) alone(server, settings["alone"], report);
    auto rate = settings["rate"];
    if (settings["capacity"] > 0) {
        const auto capacity = closed_loop(server, std::size_t(settings["threads"]), settings["capacity"]);
        report.put("capacity", "in_time_per_second", capacity);
        if (rate == 0) rate = settings["fraction"] * capacity;
    }
    if (settings["load"] > 0 && rate > 0) offer("load", server, settings, rate, report);
    if (settings["overload"] > 0) offer("overload", server, settings, settings["overload-rate"], report);
    report.print();
}
