// The loop of a server, without the network: clients put requests into a queue, and workers score the
// candidates of each under its deadline, several requests at once on one engine.
//
//   serve MODEL_FOLDER [--runtime PATH] [--requests N] [--deadline-ms N]
//
// MODEL_FOLDER is a model with a score head, or a language model; PATH is ONNX Runtime's library.

#include "foreturn.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <mutex>
#include <queue>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;
constexpr int at_once = 4;  // clients, and workers

struct Topic {
    const char* question;
    std::array<const char*, 4> candidates;
};
constexpr Topic topics[] = {
    {"My build fails since this morning. What can I do?",
     {"Reinstall everything.", "What does the first error message say?", "Builds fail.", "Wait a day."}},
    {"Can you write a poem for my mother's birthday?",
     {"Roses are red.", "No.", "What does she love, and how long may it be?", "Happy birthday!"}},
};

struct Request {
    long number;
    const Topic* topic;
    Clock::time_point deadline;
    std::promise<void> answered;  // only that: the answer itself is printed
};

/// From clients to workers. A request without a topic tells a worker to end.
struct Queue {
    void push(Request request) {
        const std::lock_guard lock(mutex);
        waiting.push(std::move(request));
        changed.notify_one();
    }
    Request pop() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !waiting.empty(); });
        Request next = std::move(waiting.front());
        waiting.pop();
        return next;
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::queue<Request> waiting;
};

foreturn::Status complain(const char* what, const foreturn::Error& error) {
    std::fprintf(stderr, "serve: %s: %s\n", what, std::string(error.message()).c_str());
    return error.status();
}

/// Scores a topic's candidates in what is left of the time.
foreturn::Result<foreturn::Scores> score(const foreturn::Engine& engine, foreturn_score_task task,
                                         const Topic& topic, Clock::time_point deadline) {
    std::vector<foreturn::ScoreInput> inputs;
    for (const auto candidate : topic.candidates) {
        inputs.push_back({{{"user", topic.question}, {"assistant", candidate}}});
    }
    foreturn::ScoreOptions options;
    options.task = task;
    options.limits.timeout = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    return engine.score("model", inputs, std::move(options));
}

/// Scores a request's candidates and prints the best one; returns how it ended.
foreturn::Status answer(const foreturn::Engine& engine, foreturn_score_task task, const Request& request) {
    // While this lives the prefix stays in the cache, whatever room other requests want. Models that don't
    // read from left to right have no such cache and do without; what else is wrong, scoring says as well.
    const auto pin = engine.warm("model", {{{"user", request.topic->question}}});
    const auto scores = score(engine, task, *request.topic, request.deadline);
    if (!scores && scores.error().status() != FORETURN_ERROR_DEADLINE_EXCEEDED) {
        return complain("cannot score", scores.error());
    }
    // The engine looks at deadlines between steps of the model, so scores may come and yet be late.
    if (!scores || Clock::now() > request.deadline) {
        std::printf("request %ld: missed its deadline\n", request.number);
        return FORETURN_ERROR_DEADLINE_EXCEEDED;
    }
    std::array<double, 4> rewards{};
    for (std::size_t at = 0; at < rewards.size(); ++at) rewards[at] = scores->read(at)->values[0];
    const auto best = std::size_t(std::max_element(rewards.begin(), rewards.end()) - rewards.begin());
    std::printf("request %ld: %8.3f  %s\n", request.number, rewards[best], request.topic->candidates[best]);
    return FORETURN_OK;
}

/// Answers `count` requests; returns whether all went well, but for deadlines.
bool serve(const foreturn::Engine& engine, long count, std::chrono::milliseconds time) {
    // A model without a score head is asked how likely it finds a response: in nats, all its tokens together.
    foreturn_score_task task = FORETURN_SCORE_LABELS;
    auto trial = score(engine, task, topics[0], Clock::time_point::max());
    if (!trial && trial.error().status() == FORETURN_ERROR_INVALID_REQUEST) {
        task = FORETURN_SCORE_RESPONSE;
        trial = score(engine, task, topics[0], Clock::time_point::max());
    }
    if (!trial) return complain("the model can't score", trial.error()), false;

    Queue queue;
    std::atomic<long> next{0}, missed{0}, failed{0};
    const auto client = [&] {
        for (long number = next++; number < count; number = next++) {
            Request request{number, &topics[number % 2], Clock::now() + time, {}};
            const auto answered = request.answered.get_future();
            queue.push(std::move(request));
            answered.wait();
        }
    };
    const auto worker = [&] {
        for (Request request = queue.pop(); request.topic; request = queue.pop()) {
            const auto status = answer(engine, task, request);
            if (status != FORETURN_OK) ++(status == FORETURN_ERROR_DEADLINE_EXCEEDED ? missed : failed);
            request.answered.set_value();
        }
    };
    std::vector<std::thread> asking, serving;
    for (int at = 0; at < at_once; ++at) asking.emplace_back(client), serving.emplace_back(worker);
    for (auto& thread : asking) thread.join();
    for (int at = 0; at < at_once; ++at) queue.push({});
    for (auto& thread : serving) thread.join();

    const auto statistics = engine.statistics();
    if (!statistics) return complain("cannot read the statistics", statistics.error()), false;
    const auto print = [](const char* stage, const foreturn::Latency& of) {
        std::printf("%-5s  p50 %7.1f ms  p95 %7.1f ms  p99 %7.1f ms  of %llu\n", stage, of.p50 * 1e3,
                    of.p95 * 1e3, of.p99 * 1e3, static_cast<unsigned long long>(of.count));
    };
    print("queue", statistics->queue), print("warm", statistics->warm), print("score", statistics->score);
    std::printf("%ld requests: %ld missed their deadline, %ld failed\n", count, missed.load(), failed.load());
    return failed == 0;
}

}  // namespace

int main(int count, char** arguments) {
    std::string model, runtime;
    long requests = 16, deadline_ms = 5000;
    bool fine = true;
    for (int at = 1; at < count && fine; ++at) {
        const std::string_view name = arguments[at];
        const char* const value = at + 1 < count ? arguments[at + 1] : "";
        if (name == "--runtime") fine = *value, runtime = value, ++at;
        else if (name == "--requests") fine = (requests = std::atol(value)) > 0, ++at;
        else if (name == "--deadline-ms") fine = (deadline_ms = std::atol(value)) > 0, ++at;
        else fine = model.empty() && name.substr(0, 1) != "-", model = name;
    }
    if (!fine || model.empty()) {
        std::fputs("usage: serve MODEL_FOLDER [--runtime PATH] [--requests N] [--deadline-ms N]\n", stderr);
        return 1;
    }
    foreturn::EngineOptions options;
    options.runtime_library = runtime;
    options.model("model", model);
    const auto engine = foreturn::Engine::create(std::move(options));
    if (!engine) return complain("cannot load the model", engine.error()), 1;
    return serve(*engine, requests, std::chrono::milliseconds(deadline_ms)) ? 0 : 1;
}
