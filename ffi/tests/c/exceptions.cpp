// A C++ host that wants exceptions: `exceptions MODEL_FOLDER`. Both ways to take a value throw what a callback of its own threw,
// or what is wrong with a call, and nothing is thrown through the library. Prints what failed; the exit status is 0 if nothing did.

#define FORETURN_EXCEPTIONS
#include "foreturn.hpp"

#include <cstdio>
#include <stdexcept>

namespace {

int failures = 0;

/// Whether `call` throws an exception of that status, whose text has `part` in it.
template <class Call> void throws(foreturn_status status, const char* part, int line, const Call& call) {
    try {
        call();
        std::fprintf(stderr, "exceptions.cpp:%d: nothing was thrown\n", line);
    } catch (const foreturn::Exception& thrown) {
        if (thrown.status() == status && std::string(thrown.what()).find(part) != std::string::npos) return;
        std::fprintf(stderr, "exceptions.cpp:%d: %d: %s\n", line, int(thrown.status()), thrown.what());
    }
    ++failures;
}
#define THROWS(status, part, call) throws(status, part, __LINE__, [&] { call; })

void fails(bool fine, const char* what) {
    if (!fine) ++failures, std::fprintf(stderr, "exceptions.cpp: %s\n", what);
}

foreturn::RankRequest a_request() {
    foreturn::RankRequest request;
    request.messages = {{"user", "What shall I cook?"}};
    request.candidates = {"For how many?", "Soup."};
    return request;
}

void in_callbacks(const std::string& folder) {
    int calls = 0;
    foreturn::EngineOptions options;
    options.model("m", folder);
    options.config_toml = "[rollout]\nwindow = 1\nsamples = 1\nmax_user_tokens = 8\nmax_policy_tokens = 8\n";
    options.metric("mine", 1.0, [&calls](foreturn::MetricInputs inputs) {
        if (calls++ == 0) throw std::runtime_error("out of ink");
        return std::vector<double>(inputs.size(), 1.0);
    });
    auto engine = foreturn::Engine::create(std::move(options)).or_throw();
    THROWS(FORETURN_ERROR_MODEL_OUTPUT, "out of ink", engine.rank(a_request()).value());
    fails(engine.rank(a_request()).value().candidate(0)->reward == 1.0, "the engine goes on");

    foreturn::RankOptions watch;
    watch.on_progress = [](std::size_t, std::size_t) { throw 42; };
    THROWS(FORETURN_ERROR_MODEL_OUTPUT, "not a std::exception", engine.rank(a_request(), watch).or_throw());
    int pieces = 0;
    foreturn::GenerateOptions reply;
    reply.max_tokens = 8, reply.greedy = true, reply.ignore_eos = true;
    reply.on_text = [&](std::string_view) {
        if (++pieces == 2) throw std::runtime_error("the client is gone");
    };
    const foreturn::Prompt prompt{{{"user", "Tell me a story."}}};
    THROWS(FORETURN_ERROR_MODEL_OUTPUT, "the client is gone", engine.generate("m", prompt, reply).value());
    fails(pieces == 2, "nothing follows what a callback has thrown");

    // A handle that was moved from is empty, and says so.
    const auto moved = std::move(engine);
    THROWS(FORETURN_ERROR_INVALID_ARGUMENT, "NULL", engine.statistics().value());
    fails(moved.statistics().ok(), "the other one has it");
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return std::fprintf(stderr, "usage: exceptions MODEL_FOLDER\n"), 1;
    THROWS(FORETURN_ERROR_IO, "nowhere", foreturn::export_model({"/nowhere/at/all", "/nowhere/else"}).value());
    in_callbacks(arguments[1]);
    fails(foreturn::handle_count() == 0, "a handle is left");
    return failures > 0;
}
