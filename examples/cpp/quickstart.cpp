// Chooses an answer before a deadline: warm the conversation, score the candidates, fall back to the first.
//
//   quickstart MODEL_FOLDER [DEADLINE_MS]

#include <foreturn.hpp>

#include <cstdlib>
#include <iostream>

int main(int count, char** arguments) {
    if (count < 2) {
        std::cerr << "usage: quickstart MODEL_FOLDER [DEADLINE_MS]\n";
        return 2;
    }
    const std::chrono::milliseconds deadline(count > 2 ? std::atol(arguments[2]) : 500);

    // A process makes one engine. All its threads may use it at once.
    foreturn::EngineOptions options;
    options.model("judge", arguments[1]);
    const auto engine = foreturn::Engine::create(std::move(options));
    if (!engine) {
        std::cerr << "cannot load the model: " << engine.error().message() << "\n";
        return 1;
    }

    // The conversation is computed while candidates are still being written. It stays warm while the pin lives.
    const std::vector<foreturn::Message> conversation = {{"user", "My build fails since today. What can I do?"}};
    const auto pin = engine->warm("judge", {conversation});
    if (!pin) std::cerr << "not warm: " << pin.error().message() << "\n";

    // Each candidate is scored as the next message. A model with a score head would take FORETURN_SCORE_LABELS.
    const std::vector<std::string_view> candidates = {"Wait a day.", "What does the first error message say?"};
    std::vector<foreturn::ScoreInput> inputs;
    for (const auto candidate : candidates) {
        inputs.push_back({conversation});
        inputs.back().messages.emplace_back("assistant", candidate);
    }
    foreturn::ScoreOptions how;
    how.task = FORETURN_SCORE_RESPONSE;
    how.limits.timeout = deadline;
    const auto scores = engine->score("judge", inputs, how);

    // Without scores there is still an answer. The reason may be the deadline, or an engine with too much to do.
    std::size_t best = 0;
    double highest = 0;
    if (!scores) std::cerr << "no scores: " << scores.error().message() << "\n";
    for (std::size_t at = 0; scores && at < candidates.size(); ++at) {
        const auto score = scores->read(at);
        // The log-probability of a token: candidates differ in length.
        const double value = score->values[0] / double(score->response_tokens);
        if (at == 0 || value > highest) best = at, highest = value;
    }
    std::cout << candidates[best] << "\n";
}
