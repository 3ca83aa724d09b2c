// foreturn: multiturn-aware rewards, in C++17. A thin layer over foreturn.h that needs no other library.
//
// Names are those of the C header without their prefix, and its documentation holds here too. In addition:
//
// - Results. A function that can fail returns a Result<T>: a T or an Error. If FORETURN_EXCEPTIONS is
//   defined, value() of an error throws an Exception. Otherwise nothing here throws, and value() of an error
//   ends the program.
// - Handles (Engine, Ranking, ...) are move-only and free themselves. Every function refuses an empty or
//   moved-from handle with FORETURN_ERROR_INVALID_ARGUMENT.
// - Texts. Requests and options borrow their texts until the call returns; only EngineOptions owns them.
//   Returned texts and lists belong to the handle that they came from. Those passed to a callback are valid
//   until it returns.
// - Callbacks never unwind into C. An exception from a metric or a chat model becomes its failure. If
//   on_progress, on_rollout or on_text throws, the request fails (FORETURN_ERROR_MODEL_OUTPUT) and calls none
//   of them again. An exception from on_ready or the log ends the program, because nobody can receive it.
// - Threads. As in C. Several threads may call a metric at once. The callbacks of one request come one after
//   another, from any thread.

#ifndef FORETURN_HPP
#define FORETURN_HPP

#include "foreturn.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(FORETURN_EXCEPTIONS) && !defined(__cpp_exceptions)
#error "FORETURN_EXCEPTIONS is defined, but the compiler has exceptions switched off"
#endif

namespace foreturn {
// Files of one program may be compiled with different settings. Each setting has its own types, because the
// linker would otherwise mix up their code.
#if defined(FORETURN_EXCEPTIONS)
inline namespace throwing {
#elif defined(__cpp_exceptions)
inline namespace catching {
#else
inline namespace plain {
#endif

// ---- Texts and lists --------------------------------------------------------------------------------------

/// FORETURN_OK or one of FORETURN_ERROR_....
using Status = foreturn_status;

namespace detail {

inline foreturn_str lend(std::string_view text) noexcept { return {text.data(), text.size()}; }
inline std::string_view view(foreturn_str raw) noexcept { return {raw.data, raw.size}; }

// Arguments on their way to C and back. Texts have other types there; everything else stays the same.
inline foreturn_str down(std::string_view text) noexcept { return lend(text); }
template <class T> T down(T given) noexcept { return given; }
inline std::string_view up(foreturn_str raw) noexcept { return view(raw); }
template <class T> T up(T raw) noexcept { return raw; }

// Makes a T of what the C API gives.
template <class T, class Raw> T make(Raw raw) {
    if constexpr (std::is_same_v<Raw, foreturn_string*>) {
        foreturn_str text{};
        foreturn_string_read(raw, &text, nullptr);
        T copy(view(text));
        foreturn_string_free(raw);
        return copy;
    } else if constexpr (std::is_same_v<Raw, foreturn_str>) {
        return T{view(raw)};
    } else {
        return T{raw};
    }
}

}  // namespace detail

/// A list that something else owns, much like std::span of C++20. Its items are made on access.
template <class Item, class Raw = Item> class View {
  public:
    /// Iterates over the items.
    class iterator {
      public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Item;
        using difference_type = std::ptrdiff_t;
        using pointer = void;
        using reference = Item;
        explicit iterator(const Raw* at) noexcept : at_(at) {}
        Item operator*() const noexcept { return detail::make<Item>(*at_); }
        iterator& operator++() noexcept { return ++at_, *this; }
        iterator operator++(int) noexcept { return iterator(at_++); }
        friend bool operator==(iterator a, iterator b) noexcept { return a.at_ == b.at_; }
        friend bool operator!=(iterator a, iterator b) noexcept { return a.at_ != b.at_; }

      private:
        const Raw* at_;
    };

    View(const Raw* data, size_t size) noexcept : data_(data), size_(size) {}
    size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    /// The index isn't checked, as in a std::vector.
    Item operator[](size_t at) const noexcept { return detail::make<Item>(data_[at]); }
    iterator begin() const noexcept { return iterator(data_); }
    iterator end() const noexcept { return iterator(data_ + size_); }
    /// The items as C structs.
    const Raw* data() const noexcept { return data_; }

  private:
    const Raw* data_;
    size_t size_;
};

/// One message of a conversation. The role is "system", "user" or "assistant".
struct Message {
    Message(std::string_view who, std::string_view what) noexcept : role(who), content(what) {}
    explicit Message(foreturn_message raw) noexcept
        : role(detail::view(raw.role)), content(detail::view(raw.content)) {}
    std::string_view role, content;
};

/// Borrowed messages and borrowed texts.
using Messages = View<Message, foreturn_message>;
using Texts = View<std::string_view, foreturn_str>;

// ---- Handles, errors, results -----------------------------------------------------------------------------

template <class T> class Result;

namespace detail {

template <class T, class... Taken, class... Given> Result<T> ask(Status (*f)(Taken...), Given... given);

template <class Raw, Status (*Free)(Raw*)> class Handle {
  public:
    Handle() noexcept = default;
    /// Takes ownership of a handle of the C API.
    explicit Handle(Raw* raw) noexcept : raw_(raw) {}
    Handle(Handle&& other) noexcept : raw_(other.release()) {}
    Handle& operator=(Handle&& other) noexcept {
        Raw* const taken = other.release();  // before freeing: `other` may be this one
        free();
        raw_ = taken;
        return *this;
    }
    ~Handle() { free(); }
    /// Whether it holds a handle.
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    /// The handle of the C API. This object still owns it.
    Raw* get() const noexcept { return raw_; }
    /// The handle of the C API. The caller now owns it.
    Raw* release() noexcept { return std::exchange(raw_, nullptr); }
    /// Frees it now. If that is refused, as for an engine in a callback, it stays.
    Status free() noexcept {
        const Status status = raw_ ? Free(raw_) : FORETURN_OK;
        if (status == FORETURN_OK) raw_ = nullptr;
        return status;
    }

  protected:
    template <class T, class F, class... Given> Result<T> ask(F f, Given... given) const {
        return detail::ask<T>(f, get(), given...);
    }

  private:
    Raw* raw_ = nullptr;
};

// The program can't go on, and no caller can be told, so the message goes to stderr.
[[noreturn]] inline void die(const char* what, std::string_view why) noexcept {
    std::fprintf(stderr, "foreturn: %s: %.*s\n", what, static_cast<int>(why.size()), why.data());
    std::abort();
}

}  // namespace detail

/// The reason for a failure.
class Error : public detail::Handle<foreturn_error, foreturn_error_free> {
  public:
    /// No error: FORETURN_OK.
    Error() noexcept = default;
    /// The error that a function of the C API gave. In a child made by fork() it gives no object.
    Error(Status status, foreturn_error* raw) : Handle(raw) {
        if (!raw) *this = Error(status, std::string("a child, made by fork(), of the process that uses foreturn"));
    }
    /// An error of the host's own.
    Error(Status status, std::string why) : own_(std::make_unique<Own>(status, std::move(why))) {}

    Status status() const noexcept {
        if (own_) return own_->first;
        return get() ? foreturn_error_status(get()) : FORETURN_OK;
    }
    /// What was wrong, where, and what to do.
    std::string_view message() const noexcept {
        return own_ ? std::string_view(own_->second) : detail::view(foreturn_error_message(get()));
    }
    /// The number of causes, the nearest first.
    size_t cause_count() const noexcept { return foreturn_error_cause_count(get()); }
    std::string_view cause(size_t at) const noexcept { return detail::view(foreturn_error_cause(get(), at)); }

  private:
    using Own = std::pair<Status, std::string>;
    std::unique_ptr<Own> own_;
};

#ifdef FORETURN_EXCEPTIONS
/// The exception that value() of an error throws.
class Exception : public std::runtime_error {
  public:
    explicit Exception(const Error& error)
        : runtime_error(std::string(error.message())), status_(error.status()) {}
    Status status() const noexcept { return status_; }

  private:
    Status status_;
};
#endif

/// A T or an Error. Result<void> only says whether the call succeeded.
template <class T> class [[nodiscard]] Result {
  public:
    using value_type = std::conditional_t<std::is_void_v<T>, std::monostate, T>;
    Result(value_type value) : held_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : held_(std::in_place_index<1>, std::move(error)) {}

    bool ok() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }

    /// Returns the value. Without one, it throws an Exception if FORETURN_EXCEPTIONS is defined and otherwise
    /// calls std::abort().
    value_type& value() & { return check(), *std::get_if<0>(&held_); }
    const value_type& value() const& { return check(), *std::get_if<0>(&held_); }
    value_type value() && { return check(), std::move(*std::get_if<0>(&held_)); }
    value_type& operator*() & { return value(); }
    const value_type& operator*() const& { return value(); }
    value_type operator*() && { return std::move(*this).value(); }
    value_type* operator->() { return &value(); }
    const value_type* operator->() const { return &value(); }
#ifdef FORETURN_EXCEPTIONS
    /// value(), with a name that says that it may throw.
    value_type& or_throw() & { return value(); }
    value_type or_throw() && { return std::move(*this).value(); }
#endif

    /// Returns the error. Without one, it calls std::abort().
    Error& error() & { return check_error(), *std::get_if<1>(&held_); }
    const Error& error() const& { return check_error(), *std::get_if<1>(&held_); }
    Error error() && { return check_error(), std::move(*std::get_if<1>(&held_)); }

  private:
    void check() const {
        if (ok()) return;
#ifdef FORETURN_EXCEPTIONS
        throw Exception(error());
#else
        detail::die("value() of a result that is an error", error().message());
#endif
    }
    void check_error() const noexcept {
        if (ok()) detail::die("error() of a result", "it succeeded");
    }

    std::variant<value_type, Error> held_;
};

/// The reason why a metric or a chat model of the host has no answer.
struct Failure {
    std::string why;
};

namespace detail {

// Sets the size of structs that begin with it; does nothing for others.
template <class Raw> auto set_size(Raw& raw, int) noexcept -> decltype(void(raw.size = sizeof(Raw))) {
    raw.size = sizeof(Raw);
}
template <class Raw> void set_size(Raw&, long) noexcept {}
template <class Raw> Raw sized() noexcept {
    Raw raw{};
    set_size(raw, 0);
    return raw;
}

// f(given..., &error).
template <class... Taken, class... Given> Result<void> tell(Status (*f)(Taken...), Given... given) {
    foreturn_error* error = nullptr;
    const Status status = f(down(given)..., &error);
    if (status != FORETURN_OK) return Error(status, error);
    return std::monostate();
}

// f(given..., &out, &error); makes a T of the output.
template <class T, class... Taken, class... Given> Result<T> ask(Status (*f)(Taken...), Given... given) {
    auto out = sized<std::remove_pointer_t<std::tuple_element_t<sizeof...(Given), std::tuple<Taken...>>>>();
    auto done = tell(f, given..., &out);
    if (!done) return std::move(done).error();
    return make<T>(out);
}

// f(), with exceptions turned into failures, because the caller is C.
template <class F> std::optional<Failure> guarded(F f) noexcept {
#ifdef __cpp_exceptions
    try {
        return f();
    } catch (const std::exception& thrown) {
        return Failure{thrown.what()};
    } catch (...) {
        return Failure{"it threw something that is not a std::exception"};
    }
#else
    return f();
#endif
}

// f(given...), which returns nothing or a std::optional<Failure>.
template <class F, class... Given> std::optional<Failure> outcome(F& f, Given&&... given) {
    if constexpr (std::is_void_v<std::invoke_result_t<F&, Given...>>) {
        f(std::forward<Given>(given)...);
        return std::nullopt;
    } else {
        return f(std::forward<Given>(given)...);
    }
}

// The options of a request, including its callbacks, at an address that C can call back to.
template <class Options> struct Watch {
    Options options;
    std::optional<Failure> failure = {};
    // Keeps a queued request's Watch alive until on_ready, its last callback, even if the Pending is gone.
    std::shared_ptr<Watch> self = {};

    // Sets the C callback for one of the options, if that option is set.
    template <auto Member, class... Raw> void hook(void (*&slot)(void*, Raw...)) const noexcept {
        if (options.*Member) slot = &call<Member, Raw...>;
    }
    template <auto Member, class... Raw> static void call(void* data, Raw... raw) noexcept {
        auto& watch = *static_cast<Watch*>(data);
        if (watch.failure) return;
        watch.failure = guarded([&] { return outcome(watch.options.*Member, up(raw)...); });
    }
    static void ready(void* data) noexcept {
        const std::shared_ptr<Watch> last = std::move(static_cast<Watch*>(data)->self);
        if (last->options.on_ready) last->options.on_ready();
    }
};

// The result, unless a callback failed on the way.
template <class T> Result<T> unless_failed(Result<T> result, const std::optional<Failure>& failure) {
    if (!result || !failure) return result;
    return Error(FORETURN_ERROR_MODEL_OUTPUT, "a callback of the request failed: " + failure->why);
}

}  // namespace detail

// ---- Requests ---------------------------------------------------------------------------------------------

/// A token that cancels the requests that carry it.
class CancelToken : public detail::Handle<foreturn_cancel, foreturn_cancel_free> {
  public:
    using Handle::Handle;
    static Result<CancelToken> create() { return detail::ask<CancelToken>(foreturn_cancel_new); }
    /// Cancels every request that carries it. Callbacks may call it. It succeeds unless this is empty.
    Status cancel() const noexcept { return foreturn_cancel_cancel(get(), nullptr); }
};

/// The deadline, cancellation and priority of a request.
struct Limits {
    /// Time from submission; without it there is no limit. The time that is left of a deadline may be passed
    /// unchanged: zero or less counts as one millisecond here, whereas in C 0 means no limit.
    std::optional<std::chrono::milliseconds> timeout = {};
    const CancelToken* cancel = nullptr;
    int32_t priority = 0;
};

class Pin;

/// A request for a ranking. Set `json`, in the format of the command line, or the other fields.
struct RankRequest {
    std::string_view json = {};
    /// The conversation so far. Its last message is the user's.
    std::vector<Message> messages = {};
    /// The responses to rank, or the number of responses to sample from the policy.
    std::vector<std::string_view> candidates = {};
    size_t sample_candidates = 0;
    /// The user's goal, as a JSON object.
    std::string_view goal_json = {};
    /// Turns to sample ahead, futures per candidate, and the seed of all random draws. The configuration's if
    /// not set (for `samples`: if 0).
    std::optional<uint32_t> window = {};
    uint32_t samples = 0;
    std::optional<uint64_t> seed = {};
    /// The conversation so far, in the place of `messages`: one that warm() pinned for the policy.
    const Pin* pin = nullptr;
};

/// A rollout that has ended. Other fields as in C.
struct EndedRollout : foreturn_ended_rollout {
    EndedRollout(const foreturn_ended_rollout* raw) noexcept : foreturn_ended_rollout(*raw) {}
    Messages messages{foreturn_ended_rollout::messages, message_count};
    std::string_view ended = detail::view(foreturn_ended_rollout::ended);
};

/// A candidate's reward while its futures are still being sampled. Unknown numbers are NaN.
using Interim = foreturn_interim;

/// Limits and callbacks of a ranking. The callbacks run on the engine's threads and must not wait for the
/// engine.
struct RankOptions {
    Limits limits = {};
    std::function<void(size_t finished, size_t total)> on_progress = {};
    std::function<void(const EndedRollout& rollout)> on_rollout = {};
    /// Gets the candidates that have a reward by now, the best first.
    std::function<void(const Interim* known, size_t count)> on_interim = {};
    /// For submit_rank(): the last callback of the request. No callback may be the last owner of an Engine.
    std::function<void()> on_ready = {};
};

/// An input to score: `messages` (the last one is scored), `messages` and `candidates` that reply to them (each is scored),
/// `text`, `tokens`, or `tokens` and `response_tokens`. A `pin` takes the place of `messages` before `candidates`, and of
/// `tokens` before `response_tokens`.
struct ScoreInput {
    std::vector<Message> messages = {};
    std::string_view text = {};
    std::vector<uint32_t> tokens = {}, response_tokens = {};
    std::vector<std::string_view> candidates = {};
    const Pin* pin = nullptr;
};

/// The settings of a score.
struct ScoreOptions {
    Limits limits = {};
    /// The kind of score: one of FORETURN_SCORE_....
    foreturn_score_task task = FORETURN_SCORE_LABELS;
    std::string_view step_separator = {}, step_marker = {};
    /// For submit_score(). See RankOptions::on_ready.
    std::function<void()> on_ready = {};
    /// Give the scores that are there where others failed or are not ready in time. ScoreInfo::status tells which.
    bool partial = false;
};

/// The input that a model continues or scores: a conversation or tokens.
struct Prompt {
    std::vector<Message> messages = {};
    std::vector<uint32_t> tokens = {};
    bool without_generation_prompt = false;
};

/// The settings of a reply. 0 stands for the defaults of C.
struct GenerateOptions {
    Limits limits = {};
    size_t max_tokens = 0;
    uint64_t seed = 0;
    bool greedy = false, ignore_eos = false;
    float temperature = 0, top_p = 0, min_p = 0, repetition_penalty = 0;
    size_t top_k = 0;
    std::vector<std::string_view> stop = {};
    /// JSON schema that the reply has to follow; free text if empty.
    std::string_view schema_json = {};
    /// Receives the reply piece by piece, on the engine's thread. It must not wait for the engine.
    std::function<void(std::string_view text)> on_text = {};
    /// For submit_generate(). See RankOptions::on_ready.
    std::function<void()> on_ready = {};
};

/// The settings of submit_logprobs() and submit_warm().
struct PromptOptions {
    Limits limits = {};
    /// See RankOptions::on_ready.
    std::function<void()> on_ready = {};
};

/// The settings of a refresh.
struct RefreshOptions {
    Limits limits = {};
    /// The name of the new weights. Empty: a fingerprint of the files and the number of the refresh.
    std::string_view version = {};
    /// The treatment of requests under way: one of FORETURN_REFRESH_....
    foreturn_refresh_mode mode = FORETURN_REFRESH_WAIT;
    /// Also change a model that plays several roles, in all of them.
    bool shared = false;
    /// Folder of a LoRA adapter that is merged into the weights, or the text of its adapter_config.json, where its tensors are
    /// among those of refresh_tensors().
    std::string_view adapter = {}, adapter_config = {};
    /// For submit_refresh(). See RankOptions::on_ready.
    std::function<void()> on_ready = {};
};

/// A tensor of refresh_tensors(). What it names has to live until the call returns.
struct Tensor {
    /// Name in the model's state dict.
    std::string_view name = {};
    /// One of FORETURN_DTYPE_....
    foreturn_dtype dtype = FORETURN_DTYPE_FLOAT32;
    /// The dimensions, the outermost first.
    std::vector<size_t> shape = {};
    /// The numbers, rows one after the other, and their length in bytes.
    const void* data = nullptr;
    size_t byte_count = 0;
};

/// The settings of Engine::dataset_build(), Engine::sweep() and evaluate(). 0 stands for the default, as in C.
struct RunOptions {
    /// Paths of the tasks and of the folder to write to.
    std::string_view tasks_path = {}, folder = {};
    /// A hash or version of the configuration. A folder that was begun with another one is refused.
    std::string_view configuration = {};
    /// Candidates at each turn (data sets) or of each task (sweeps), turns, conversations about each task (evaluations) or
    /// from each response (sweeps), and conversations at the same time.
    size_t candidates = 0, turns = 0, samples = 0, concurrency = 0;
    uint64_t max_tokens = 0;
    /// The part of the tasks to take, from 1, and the number of parts.
    size_t shard = 0, shard_count = 0;
    std::optional<uint64_t> seed = {};
    bool retry_failed = false;
    /// Folders of other runs with the same settings, such as shards, whose conversations are taken over first.
    std::vector<std::string_view> merge = {};
    /// For data sets: write dataset.parquet as well.
    bool parquet = false;
    /// Ends the run, which then succeeds with what is finished.
    const CancelToken* cancel = nullptr;
    /// Called with the numbers of finished, failed and all conversations.
    std::function<void(size_t, size_t, size_t)> on_progress = {};
};

// ---- Results: the structs of C, with texts and lists instead of pointers ----------------------------------

struct Candidate : foreturn_candidate {
    std::string_view response = detail::view(foreturn_candidate::response);
};
struct MetricSummary : foreturn_metric_summary {
    std::string_view name = detail::view(foreturn_metric_summary::name);
};
struct Rollout : foreturn_rollout {
    std::string_view ended = detail::view(foreturn_rollout::ended);
    std::string_view reason = detail::view(foreturn_rollout::reason);
};
struct ScoreInfo : foreturn_score_info {
    View<double> values{foreturn_score_info::values, value_count};
    View<uint32_t> token_ids{foreturn_score_info::token_ids, response_tokens};
    View<float> token_logprobs{foreturn_score_info::token_logprobs, response_tokens};
};
struct GenerationInfo : foreturn_generation_info {
    std::string_view text = detail::view(foreturn_generation_info::text);
    std::string_view finish = detail::view(foreturn_generation_info::finish);
    View<uint32_t> tokens{foreturn_generation_info::tokens, token_count};
    View<float> logprobs{foreturn_generation_info::logprobs, token_count};
};
using RankingInfo = foreturn_ranking_info;
using Latency = foreturn_latency;
using Statistics = foreturn_statistics;
using ModelStatistics = foreturn_model_statistics;

/// Candidates ordered by reward. Place 0 is the best.
class Ranking : public detail::Handle<foreturn_ranking, foreturn_ranking_free> {
  public:
    using Handle::Handle;
    Result<RankingInfo> read() const { return ask<RankingInfo>(foreturn_ranking_read); }
    Result<Candidate> candidate(size_t place) const {
        return ask<Candidate>(foreturn_ranking_candidate, place);
    }
    Result<MetricSummary> metric(size_t place, size_t at) const {
        return ask<MetricSummary>(foreturn_ranking_metric, place, at);
    }
    Result<Rollout> rollout(size_t place, size_t at) const {
        return ask<Rollout>(foreturn_ranking_rollout, place, at);
    }
    Result<Message> message(size_t place, size_t rollout, size_t at) const {
        return ask<Message>(foreturn_ranking_message, place, rollout, at);
    }
    /// The JSON that the command line prints.
    Result<std::string_view> json() const { return ask<std::string_view>(foreturn_ranking_json); }
};

/// Scores, in the order of the inputs.
class Scores : public detail::Handle<foreturn_scores, foreturn_scores_free> {
  public:
    using Handle::Handle;
    Result<size_t> count() const { return ask<size_t>(foreturn_scores_count); }
    Result<ScoreInfo> read(size_t at) const { return ask<ScoreInfo>(foreturn_scores_read, at); }
    /// The scores as JSON, with the names of labels.
    Result<std::string_view> json() const { return ask<std::string_view>(foreturn_scores_json); }
};

/// A sampled reply, or the log-probabilities of a prompt.
class Generation : public detail::Handle<foreturn_generation, foreturn_generation_free> {
  public:
    using Handle::Handle;
    Result<GenerationInfo> read() const { return ask<GenerationInfo>(foreturn_generation_read); }
    Result<std::string> json() const { return ask<std::string>(foreturn_generation_json); }
};

/// A pinned prefix. It stays in a model's cache while this lives.
class Pin : public detail::Handle<foreturn_pin, foreturn_pin_free> {
  public:
    using Handle::Handle;
    Result<size_t> tokens() const { return ask<size_t>(foreturn_pin_tokens); }
};

/// A queued request. The request and its callbacks go on when this is destroyed.
class Pending : public detail::Handle<foreturn_pending, foreturn_pending_free> {
  public:
    using Failed = std::shared_ptr<const std::optional<Failure>>;  // where callbacks store theirs
    Pending() noexcept = default;
    explicit Pending(foreturn_pending* raw, Failed failure = {}) noexcept
        : Handle(raw), failure_(std::move(failure)) {}

    /// Waits until the request is done, successfully or not, for at most `timeout`. Returns whether it is
    /// done.
    Result<bool> wait(std::optional<std::chrono::milliseconds> timeout = {}) const {
        const auto most = timeout ? std::max<int64_t>(0, timeout->count()) : -1;  // UINT64_MAX: for ever
        return ask<bool>(foreturn_pending_wait, static_cast<uint64_t>(most));
    }
    /// Takes the result of submit_rank(), once. FORETURN_ERROR_NOT_READY if it isn't done.
    Result<Ranking> ranking() const { return checked(ask<Ranking>(foreturn_pending_ranking)); }
    /// Takes the result of submit_score(), likewise.
    Result<Scores> scores() const { return checked(ask<Scores>(foreturn_pending_scores)); }
    /// Takes the result of submit_generate() or submit_logprobs(), likewise.
    Result<Generation> generation() const { return checked(ask<Generation>(foreturn_pending_generation)); }
    /// Takes the result of submit_warm(), likewise.
    Result<Pin> pin() const { return checked(ask<Pin>(foreturn_pending_pin)); }
    /// Takes the result of submit_refresh(), likewise: the name of the new weights.
    Result<std::string> version() const { return checked(ask<std::string>(foreturn_pending_version)); }
    /// Cancels the request. It succeeds unless this is empty.
    Status cancel() const noexcept { return foreturn_pending_cancel(get(), nullptr); }

  private:
    // The failure is read only once the result is there, because callbacks may write it until then.
    template <class T> Result<T> checked(Result<T> result) const {
        if (!result || !failure_) return result;
        return detail::unless_failed(std::move(result), *failure_);
    }
    Failed failure_;
};

// ---- The host's metrics and chat models -------------------------------------------------------------------

/// A conversation for a metric to score. Other fields as in C.
struct MetricInput : foreturn_metric_input {
    Messages messages{foreturn_metric_input::messages, message_count};
    std::string_view goal_json = detail::view(foreturn_metric_input::goal_json);
    std::string_view ended = detail::view(foreturn_metric_input::ended);
};
using MetricInputs = View<MetricInput, foreturn_metric_input>;
/// A finite number for each input, or a failure.
using MetricValues = std::variant<std::vector<double>, Failure>;

/// One answer of a choice, with its accepted spellings.
struct Answer : Texts {
    explicit Answer(const foreturn_answer& raw) noexcept : Texts(raw.spellings, raw.spelling_count) {}
};
/// A request to a chat model: FORETURN_CHAT_GENERATE or FORETURN_CHAT_CHOOSE. Other fields as in C.
struct ChatRequest : foreturn_chat_request {
    Messages messages{foreturn_chat_request::messages, message_count};
    Texts stop{foreturn_chat_request::stop, stop_count};
    View<Answer, foreturn_answer> answers{foreturn_chat_request::answers, answer_count};
    std::string_view schema_json = detail::view(foreturn_chat_request::schema_json);
};
using ChatRequests = View<ChatRequest, foreturn_chat_request>;

/// The place for a chat model's replies. If the library refuses a reply, its request fails with the reason.
class ChatReplies {
  public:
    explicit ChatReplies(foreturn_chat_replies* raw) noexcept : raw_(raw) {}
    void text(size_t at, std::string_view text, bool cut = false, uint64_t prompt_tokens = 0,
              uint64_t generated_tokens = 0) const {
        const auto put = foreturn_chat_replies_text;
        check(at, detail::tell(put, raw_, at, text, cut, prompt_tokens, generated_tokens));
    }
    void choice(size_t at, const std::vector<double>& probabilities) const {
        const auto* first = probabilities.data();
        check(at, detail::tell(foreturn_chat_replies_choice, raw_, at, first, probabilities.size()));
    }
    void fail(size_t at, std::string_view why) const {
        foreturn_chat_replies_fail(raw_, at, detail::lend(why), nullptr);
    }

  private:
    void check(size_t at, const Result<void>& put) const {
        if (!put) fail(at, put.error().message());
    }
    foreturn_chat_replies* raw_;
};

namespace detail {

template <class F> std::optional<Failure> score(F& metric, MetricInputs inputs, double* values) {
    if constexpr (std::is_invocable_v<F&, MetricInputs, double*>) {
        return outcome(metric, inputs, values);
    } else {
        MetricValues made = metric(inputs);
        if (auto* failure = std::get_if<Failure>(&made)) return std::move(*failure);
        const auto& given = *std::get_if<std::vector<double>>(&made);
        if (given.size() != inputs.size()) {
            const auto of = std::to_string(given.size()) + " values for " + std::to_string(inputs.size());
            return Failure{of + " inputs"};
        }
        std::copy(given.begin(), given.end(), values);
        return std::nullopt;
    }
}

// Reports a failure to C. Its text has to live until the next call on this thread.
inline int32_t report(std::optional<Failure> failure, foreturn_str* why) noexcept {
    if (!failure) return 0;
    static thread_local std::string kept;
    kept = std::move(failure->why);
    *why = lend(kept);
    return 1;
}
template <class F>
int32_t score_in_c(void* data, const foreturn_metric_input* inputs, size_t count, double* values,
                        foreturn_str* why) noexcept {
    return report(guarded([&] { return score(*static_cast<F*>(data), {inputs, count}, values); }), why);
}
template <class F>
int32_t reply_in_c(void* data, const foreturn_chat_request* requests, size_t count,
                        foreturn_chat_replies* raw, foreturn_str* why) noexcept {
    const ChatRequests asked(requests, count);
    ChatReplies replies(raw);
    return report(guarded([&] { return outcome(*static_cast<F*>(data), asked, replies); }), why);
}

}  // namespace detail

// ---- The engine -------------------------------------------------------------------------------------------

/// The settings of a new engine. The engine takes over the callables and may release them after it is freed:
/// with its last Pin, or when a ranking that was being scored at that time is done. They must not own an
/// Engine.
class EngineOptions {
  public:
    /// A configuration file; or a configuration's text and the folder that its paths are relative to.
    std::string config_path = {}, config_toml = {}, base_folder = {};
    /// Path of ONNX Runtime's library; searched for if empty.
    std::string runtime_library = {};
    uint32_t threads = 0;
    /// The processors that the engine's threads stay on, such as "0-3,8"; the configuration's if empty.
    std::string cores = {};
    bool use_loaded_runtime = false, ignore_environment = false;

    /// Adds an exported model's folder.
    EngineOptions& model(std::string name, std::string path) {
        models_.push_back({sizeof(foreturn_model_options), keep(std::move(name)), keep(std::move(path))});
        return *this;
    }

    /// Adds a metric: either a callable of (MetricInputs) that returns a std::vector<double> or MetricValues,
    /// or a callable of (MetricInputs, double* values) that returns nothing or a std::optional<Failure>.
    template <class F> EngineOptions& metric(std::string name, double weight, F callable) {
        static_assert(std::is_invocable_v<F&, MetricInputs> || std::is_invocable_v<F&, MetricInputs, double*>,
                      "a metric takes (foreturn::MetricInputs), or (foreturn::MetricInputs, double*)");
        void* const data = own(std::move(callable));
        metrics_.push_back({sizeof(foreturn_metric), keep(std::move(name)), weight, detail::score_in_c<F>,
                            data, callables_.back().get_deleter()});
        return *this;
    }

    /// Adds a chat model: a callable of (ChatRequests, ChatReplies&) that returns nothing or a std::optional
    /// with a Failure if all requests have failed. `reproducible` says that equal requests with equal seeds
    /// get equal replies.
    template <class F> EngineOptions& chat_model(std::string name, F callable, bool reproducible = false) {
        static_assert(std::is_invocable_v<F&, const ChatRequests&, ChatReplies&>,
                      "a chat model takes (foreturn::ChatRequests, foreturn::ChatReplies&)");
        void* const data = own(std::move(callable));
        chat_models_.push_back({sizeof(foreturn_chat_model), keep(std::move(name)), detail::reply_in_c<F>,
                                reproducible, data, callables_.back().get_deleter()});
        return *this;
    }

  private:
    friend class Engine;
    foreturn_str keep(std::string text) { return detail::lend(texts_.emplace_back(std::move(text))); }
    template <class F> void* own(F callable) {
        callables_.emplace_back(new F(std::move(callable)), [](void* data) { delete static_cast<F*>(data); });
        return callables_.back().get();
    }

    std::vector<foreturn_model_options> models_;
    std::vector<foreturn_metric> metrics_;
    std::vector<foreturn_chat_model> chat_models_;
    std::deque<std::string> texts_;  // for all the above: a deque doesn't move its texts
    std::vector<std::unique_ptr<void, foreturn_release_fn>> callables_;
};

namespace detail {

inline std::vector<foreturn_str> lend(const std::vector<std::string_view>& texts) {
    std::vector<foreturn_str> raw;
    for (const auto text : texts) raw.push_back(lend(text));
    return raw;
}
inline std::vector<foreturn_message> lend(const std::vector<Message>& messages) {
    std::vector<foreturn_message> raw;
    for (const auto& message : messages) raw.push_back({lend(message.role), lend(message.content)});
    return raw;
}
inline foreturn_limits lend(const Limits& limits) noexcept {
    const auto most = limits.timeout ? std::max<int64_t>(1, limits.timeout->count()) : 0;
    const auto* cancel = limits.cancel ? limits.cancel->get() : nullptr;
    return {static_cast<uint64_t>(most), cancel, limits.priority};
}

// Requests in the form that C takes, with the lists that they point into.

struct RawPrompt {
    explicit RawPrompt(const Prompt& given) : messages(lend(given.messages)) {
        prompt.messages = messages.data(), prompt.message_count = messages.size();
        prompt.tokens = given.tokens.data(), prompt.token_count = given.tokens.size();
        prompt.without_generation_prompt = given.without_generation_prompt;
    }
    std::vector<foreturn_message> messages;
    foreturn_prompt prompt = sized<foreturn_prompt>();
};

struct RawRank {
    RawRank(const RankRequest& given, Watch<RankOptions>& watch)
        : messages(lend(given.messages)), candidates(lend(given.candidates)) {
        request.json = lend(given.json), request.goal_json = lend(given.goal_json);
        request.messages = messages.data(), request.message_count = messages.size();
        request.candidates = candidates.data(), request.candidate_count = candidates.size();
        request.sample_candidates = given.sample_candidates, request.samples = given.samples;
        request.has_window = given.window.has_value(), request.window = given.window.value_or(0);
        request.has_seed = given.seed.has_value(), request.seed = given.seed.value_or(0);
        if (given.pin != nullptr) request.pin = given.pin->get();
        options.limits = lend(watch.options.limits), options.user_data = &watch;
        watch.hook<&RankOptions::on_progress>(options.on_progress);
        watch.hook<&RankOptions::on_rollout>(options.on_rollout);
        watch.hook<&RankOptions::on_interim>(options.on_interim);
    }
    std::vector<foreturn_message> messages;
    std::vector<foreturn_str> candidates;
    foreturn_rank_request request = sized<foreturn_rank_request>();
    foreturn_rank_options options = sized<foreturn_rank_options>();
};

struct RawScore {
    RawScore(const std::vector<ScoreInput>& given, Watch<ScoreOptions>& watch) {
        for (const auto& input : given) {
            const auto& said = messages.emplace_back(lend(input.messages));
            auto& raw = inputs.emplace_back(sized<foreturn_score_input>());
            raw.messages = said.data(), raw.message_count = said.size();  // doesn't move when `messages` grows
            raw.text = lend(input.text);
            raw.tokens = input.tokens.data(), raw.token_count = input.tokens.size();
            raw.response_tokens = input.response_tokens.data();
            raw.response_token_count = input.response_tokens.size();
            const auto& replies = candidates.emplace_back(lend(input.candidates));
            raw.candidates = replies.data(), raw.candidate_count = replies.size();
            if (input.pin != nullptr) raw.pin = input.pin->get();
        }
        const auto& from = watch.options;
        options.limits = lend(from.limits), options.task = from.task;
        options.step_separator = lend(from.step_separator), options.step_marker = lend(from.step_marker);
        options.user_data = &watch, options.partial = from.partial;
    }
    std::vector<std::vector<foreturn_message>> messages;
    std::vector<std::vector<foreturn_str>> candidates;
    std::vector<foreturn_score_input> inputs;
    foreturn_score_options options = sized<foreturn_score_options>();
};

struct RawGenerate {
    RawGenerate(const Prompt& given, Watch<GenerateOptions>& watch)
        : prompt(given), stop(lend(watch.options.stop)) {
        const auto& from = watch.options;
        options.limits = lend(from.limits), options.max_tokens = from.max_tokens, options.seed = from.seed;
        options.greedy = from.greedy, options.ignore_eos = from.ignore_eos;
        options.temperature = from.temperature, options.top_p = from.top_p, options.min_p = from.min_p;
        options.repetition_penalty = from.repetition_penalty, options.top_k = from.top_k;
        options.stop = stop.data(), options.stop_count = stop.size(), options.user_data = &watch;
        options.schema_json = lend(from.schema_json);
        watch.hook<&GenerateOptions::on_text>(options.on_text);
    }
    RawPrompt prompt;
    std::vector<foreturn_str> stop;
    foreturn_generate_options options = sized<foreturn_generate_options>();
};

struct RawAsk {
    RawAsk(const Prompt& given, Watch<PromptOptions>& watch)
        : prompt(given), options{lend(watch.options.limits), nullptr, &watch} {}
    struct Options {
        foreturn_limits limits;
        foreturn_ready_fn on_ready;
        void* user_data;
    };
    RawPrompt prompt;
    Options options;
};

struct RawRefresh {
    RawRefresh(std::string_view given, Watch<RefreshOptions>& watch) : path(given) {
        const auto& from = watch.options;
        options.limits = lend(from.limits), options.version = lend(from.version), options.mode = from.mode;
        options.shared = from.shared, options.user_data = &watch;
        options.adapter = lend(from.adapter), options.adapter_config = lend(from.adapter_config);
    }
    std::string_view path;
    foreturn_refresh_options options = sized<foreturn_refresh_options>();
};

struct RawRun {
    explicit RawRun(Watch<RunOptions>& watch) {
        const auto& from = watch.options;
        options.tasks_path = lend(from.tasks_path), options.folder = lend(from.folder);
        options.configuration = lend(from.configuration), options.candidates = from.candidates;
        options.turns = from.turns, options.samples = from.samples, options.concurrency = from.concurrency;
        options.max_tokens = from.max_tokens, options.shard = from.shard, options.shard_count = from.shard_count;
        options.seed = from.seed.value_or(0), options.has_seed = from.seed.has_value();
        options.retry_failed = from.retry_failed, options.cancel = from.cancel ? from.cancel->get() : nullptr;
        for (const auto folder : from.merge) merge.push_back(lend(folder));
        options.merge = merge.data(), options.merge_count = merge.size(), options.parquet = from.parquet;
        options.user_data = &watch;
        watch.hook<&RunOptions::on_progress>(options.on_progress);
    }
    std::vector<foreturn_str> merge;
    foreturn_run_options options = sized<foreturn_run_options>();
};

// Queues a request with f(raw), which returns its C handle. From then on its callbacks come from other
// threads.
template <class Raw, class Request, class Options, class F>
Result<Pending> submit(const Request& request, Options options, F f) {
    auto watch = std::make_shared<Watch<Options>>(Watch<Options>{std::move(options)});
    Raw raw(request, *watch);
    raw.options.on_ready = &Watch<Options>::ready;
    watch->self = watch;
    auto queued = f(raw);
    if (!queued) {
        watch->self.reset();  // there is no request, so on_ready won't be called
        return std::move(queued).error();
    }
    return Pending(*queued, {watch, &watch->failure});
}

}  // namespace detail

/// Checks that the library that the program runs with matches this header. Engine::create() does it too.
inline Result<void> abi_check() { return detail::tell(foreturn_abi_check, uint32_t{FORETURN_ABI_VERSION}); }

/// Loaded models, ready to rank and score. Any number of threads may use one at once.
class Engine : public detail::Handle<foreturn_engine, foreturn_engine_free> {
  public:
    using Handle::Handle;

    /// Loads the models. Move the options here: the engine takes over their callables.
    static Result<Engine> create(EngineOptions options) {
        if (auto fits = abi_check(); !fits) return std::move(fits).error();
        const auto lend = [](const std::string& text) { return detail::lend(text); };
        auto raw = detail::sized<foreturn_engine_options>();
        raw.config_path = lend(options.config_path), raw.config_toml = lend(options.config_toml);
        raw.base_folder = lend(options.base_folder), raw.runtime_library = lend(options.runtime_library);
        raw.threads = options.threads, raw.use_loaded_runtime = options.use_loaded_runtime;
        raw.ignore_environment = options.ignore_environment, raw.cores = lend(options.cores);
        raw.models = options.models_.data(), raw.model_count = options.models_.size();
        raw.metrics = options.metrics_.data(), raw.metric_count = options.metrics_.size();
        raw.chat_models = options.chat_models_.data(), raw.chat_model_count = options.chat_models_.size();
        for (auto& callable : options.callables_) callable.release();  // C releases them, whatever happens
        return detail::ask<Engine>(foreturn_engine_new, &raw);
    }

    /// Ranks candidates and waits for the result.
    Result<Ranking> rank(const RankRequest& request, RankOptions options = {}) const {
        detail::Watch<RankOptions> watch{std::move(options)};
        const detail::RawRank raw(request, watch);
        auto made = ask<Ranking>(foreturn_rank, &raw.request, &raw.options);
        return detail::unless_failed(std::move(made), watch.failure);
    }
    /// Queues a ranking. If that fails, on_ready is not called.
    Result<Pending> submit_rank(const RankRequest& request, RankOptions options = {}) const {
        return detail::submit<detail::RawRank>(request, std::move(options), [&](const auto& raw) {
            return ask<foreturn_pending*>(foreturn_rank_submit, &raw.request, &raw.options);
        });
    }
    /// Scores the futures of an earlier ranking of `request` again, with this engine's judges and metrics, and waits for
    /// the result. `earlier` is that ranking's JSON.
    Result<Ranking> rescore(const RankRequest& request, std::string_view earlier, RankOptions options = {}) const {
        detail::Watch<RankOptions> watch{std::move(options)};
        const detail::RawRank raw(request, watch);
        auto made = ask<Ranking>(foreturn_rescore, &raw.request, detail::lend(earlier), &raw.options);
        return detail::unless_failed(std::move(made), watch.failure);
    }
    /// Queues what rescore() does. If that fails, on_ready is not called.
    Result<Pending> submit_rescore(const RankRequest& request, std::string_view earlier,
                                   RankOptions options = {}) const {
        return detail::submit<detail::RawRank>(request, std::move(options), [&](const auto& raw) {
            return ask<foreturn_pending*>(foreturn_rescore_submit, &raw.request, detail::lend(earlier), &raw.options);
        });
    }

    /// Scores inputs with a local model and waits for the result.
    Result<Scores> score(std::string_view model, const std::vector<ScoreInput>& inputs,
                         ScoreOptions options = {}) const {
        detail::Watch<ScoreOptions> watch{std::move(options)};
        const detail::RawScore raw(inputs, watch);
        return ask<Scores>(foreturn_score, model, raw.inputs.data(), raw.inputs.size(), &raw.options);
    }
    /// Queues inputs to be scored. If that fails, on_ready is not called.
    Result<Pending> submit_score(std::string_view model, const std::vector<ScoreInput>& inputs,
                                 ScoreOptions options = {}) const {
        return detail::submit<detail::RawScore>(inputs, std::move(options), [&](const auto& raw) {
            const auto* inputs_at = raw.inputs.data();
            const auto count = raw.inputs.size();
            return ask<foreturn_pending*>(foreturn_score_submit, model, inputs_at, count, &raw.options);
        });
    }

    /// Samples a reply and waits for it.
    Result<Generation> generate(std::string_view model, const Prompt& prompt,
                                GenerateOptions options = {}) const {
        detail::Watch<GenerateOptions> watch{std::move(options)};
        const detail::RawGenerate raw(prompt, watch);
        auto made = ask<Generation>(foreturn_generate, model, &raw.prompt.prompt, &raw.options);
        return detail::unless_failed(std::move(made), watch.failure);
    }
    /// Queues a reply. If that fails, on_ready is not called.
    Result<Pending> submit_generate(std::string_view model, const Prompt& prompt,
                                    GenerateOptions options = {}) const {
        return detail::submit<detail::RawGenerate>(prompt, std::move(options), [&](const auto& raw) {
            return ask<foreturn_pending*>(foreturn_generate_submit, model, &raw.prompt.prompt, &raw.options);
        });
    }
    /// Computes the log-probability of each token of a prompt after the first.
    Result<Generation> logprobs(std::string_view model, const Prompt& prompt,
                                const Limits& limits = {}) const {
        const detail::RawPrompt raw(prompt);
        const auto lent = detail::lend(limits);
        return ask<Generation>(foreturn_logprobs, model, &raw.prompt, &lent);
    }
    /// Queues log-probabilities. If that fails, on_ready is not called.
    Result<Pending> submit_logprobs(std::string_view model, const Prompt& prompt,
                                    PromptOptions options = {}) const {
        return submit_prompt(foreturn_logprobs_submit, model, prompt, std::move(options));
    }
    /// Renders a conversation with a model's chat template.
    Result<std::string> render(std::string_view model, const std::vector<Message>& messages,
                               bool generation_prompt = true) const {
        const auto raw = detail::lend(messages);
        return ask<std::string>(foreturn_render, model, raw.data(), raw.size(), generation_prompt);
    }
    /// The tokens that a model sees of a prompt, and their text. They wait for nothing.
    Result<std::vector<uint32_t>> tokens(std::string_view model, const Prompt& prompt) const {
        const detail::RawPrompt raw(prompt);
        std::vector<uint32_t> tokens(1024);
        for (;;) {
            const auto room = tokens.size();
            auto count = ask<size_t>(foreturn_tokens, model, &raw.prompt, tokens.data(), room);
            if (!count) return std::move(count).error();
            tokens.resize(*count);
            if (*count <= room) return tokens;
        }
    }
    Result<std::string> prompt_text(std::string_view model, const Prompt& prompt) const {
        const detail::RawPrompt raw(prompt);
        return ask<std::string>(foreturn_prompt_text, model, &raw.prompt);
    }
    /// Computes a prefix before it is needed, waits for it, and keeps it in the cache while the Pin lives.
    Result<Pin> warm(std::string_view model, const Prompt& prefix, const Limits& limits = {}) const {
        const detail::RawPrompt raw(prefix);
        const auto lent = detail::lend(limits);
        return ask<Pin>(foreturn_warm, model, &raw.prompt, &lent);
    }
    /// Queues the computation of a prefix. If that fails, on_ready is not called.
    Result<Pending> submit_warm(std::string_view model, const Prompt& prefix,
                                PromptOptions options = {}) const {
        return submit_prompt(foreturn_warm_submit, model, prefix, std::move(options));
    }

    /// Builds conversations turn by turn about tasks, or goes on with what is in the folder. Returns a summary as JSON.
    Result<std::string> dataset_build(RunOptions options) const {
        detail::Watch<RunOptions> watch{std::move(options)};
        const detail::RawRun raw(watch);
        return detail::unless_failed(ask<std::string>(foreturn_dataset_build, &raw.options), watch.failure);
    }

    /// Compares kinds of reward, such as "w=2", on the same conversations about tasks, and returns the content of sweep.json.
    /// A kind with a simulator of its own comes with the engine in which that plays the user, any other with nullptr.
    Result<std::string> sweep(const std::vector<std::pair<std::string_view, const Engine*>>& kinds,
                              RunOptions options) const {
        detail::Watch<RunOptions> watch{std::move(options)};
        const detail::RawRun raw(watch);
        std::vector<foreturn_str> names;
        std::vector<const foreturn_engine*> simulators;
        for (const auto& kind : kinds) {
            names.push_back(detail::lend(kind.first));
            simulators.push_back(kind.second ? kind.second->get() : nullptr);
        }
        auto result = ask<std::string>(foreturn_sweep, names.data(), simulators.data(), names.size(), &raw.options);
        return detail::unless_failed(std::move(result), watch.failure);
    }

    /// Exchanges a model's weights for those in the folder `path`, an export of the same model, while the engine goes on
    /// serving. Returns the name of the new weights.
    Result<std::string> refresh(std::string_view model, std::string_view path, RefreshOptions options = {}) const {
        detail::Watch<RefreshOptions> watch{std::move(options)};
        const detail::RawRefresh raw(path, watch);
        return ask<std::string>(foreturn_refresh, model, path, &raw.options);
    }
    /// Exchanges a model's weights for those of a live model's state dict, and waits. `options.on_ready` is not called.
    Result<std::string> refresh_tensors(std::string_view model, const std::vector<Tensor>& tensors,
                                        RefreshOptions options = {}) const {
        detail::Watch<RefreshOptions> watch{std::move(options)};
        const detail::RawRefresh raw({}, watch);
        std::vector<foreturn_tensor> lent(tensors.size(), detail::sized<foreturn_tensor>());
        for (size_t at = 0; at < lent.size(); at++) {
            const auto& from = tensors[at];
            auto& to = lent[at];
            to.name = detail::lend(from.name), to.dtype = from.dtype, to.rank = from.shape.size();
            to.shape = from.shape.data(), to.data = from.data, to.byte_count = from.byte_count;
        }
        return ask<std::string>(foreturn_refresh_tensors, model, lent.data(), lent.size(), &raw.options);
    }
    /// Begins to exchange a model's weights. If that fails, on_ready is not called.
    Result<Pending> submit_refresh(std::string_view model, std::string_view path, RefreshOptions options = {}) const {
        return detail::submit<detail::RawRefresh>(path, std::move(options), [&](const auto& raw) {
            return ask<foreturn_pending*>(foreturn_refresh_submit, model, raw.path, &raw.options);
        });
    }

    /// Counters of the engine, of a model, and all of them as OpenMetrics or JSON. They wait for nothing.
    Result<Statistics> statistics() const { return ask<Statistics>(foreturn_engine_statistics); }
    Result<ModelStatistics> model_statistics(std::string_view model) const {
        return ask<ModelStatistics>(foreturn_engine_model_statistics, model);
    }
    /// The number of requests that ended with a status.
    Result<uint64_t> errors(Status status) const { return ask<uint64_t>(foreturn_engine_errors, static_cast<int32_t>(status)); }
    Result<std::string> openmetrics() const { return ask<std::string>(foreturn_engine_openmetrics); }
    Result<std::string> statistics_json() const { return ask<std::string>(foreturn_engine_statistics_json); }

  private:
    template <class F>
    Result<Pending> submit_prompt(F f, std::string_view model, const Prompt& prompt,
                                  PromptOptions options) const {
        return detail::submit<detail::RawAsk>(prompt, std::move(options), [&](const auto& raw) {
            const auto& [limits, on_ready, user_data] = raw.options;
            return ask<foreturn_pending*>(f, model, &raw.prompt.prompt, &limits, on_ready, user_data);
        });
    }
};

// ---- Functions without an engine --------------------------------------------------------------------------

/// The source of an export (a Hugging Face folder or a .gguf file), its target folder, and its settings.
struct ExportOptions {
    std::string_view from = {}, to = {};
    foreturn_quantize quantize = FORETURN_QUANTIZE_NONE;
    uint32_t block = 0;
    bool overwrite = false;
    /// Called on the calling thread.
    std::function<void(uint64_t done, uint64_t total)> on_progress = {};
    /// Folder of a LoRA adapter that is merged into the weights. Empty: none.
    std::string_view adapter = {};
    /// Give float32 .safetensors a second name instead of copying them.
    bool hard_link = false;
    /// Type of the matrices that are not quantised.
    foreturn_dtype dtype = FORETURN_DTYPE_FLOAT32;
};

/// Holds conversations about tasks between policies and the simulated user, and compares the policies: pairs of a name and
/// the engine that has the policy. Returns the content of evaluation.json.
inline Result<std::string> evaluate(const std::vector<std::pair<std::string_view, const Engine*>>& policies,
                                    RunOptions options) {
    detail::Watch<RunOptions> watch{std::move(options)};
    const detail::RawRun raw(watch);
    std::vector<const foreturn_engine*> engines;
    std::vector<foreturn_str> names;
    for (const auto& policy : policies) {
        names.push_back(detail::lend(policy.first));
        engines.push_back(policy.second->get());
    }
    auto result = detail::ask<std::string>(foreturn_evaluate, engines.data(), names.data(), names.size(), &raw.options);
    return detail::unless_failed(std::move(result), watch.failure);
}

/// Writes a data set that was built, or its dataset.jsonl, in a format that trainers read: Parquet if the name of `to` ends
/// with .parquet, otherwise JSON Lines. Returns what was written as JSON.
inline Result<std::string> dataset_export(std::string_view from, std::string_view to, foreturn_dataset_format format,
                                          double minimum_gap = 0, double minimum_probability = 0) {
    return detail::ask<std::string>(foreturn_dataset_export, detail::lend(from), detail::lend(to), format, minimum_gap,
                                    minimum_probability);
}

/// Converts a checkpoint into a model folder. Returns a JSON object that describes it. (`export` is a keyword
/// of C++.)
inline Result<std::string> export_model(ExportOptions options) {
    detail::Watch<ExportOptions> watch{std::move(options)};
    const auto& from = watch.options;
    auto how = detail::sized<foreturn_export_options>();
    how.from = detail::lend(from.from), how.to = detail::lend(from.to), how.block = from.block;
    how.quantize = from.quantize, how.overwrite = from.overwrite, how.user_data = &watch;
    how.adapter = detail::lend(from.adapter), how.hard_link = from.hard_link, how.dtype = from.dtype;
    watch.hook<&ExportOptions::on_progress>(how.on_progress);
    return detail::unless_failed(detail::ask<std::string>(foreturn_export, &how), watch.failure);
}

/// The level is FORETURN_LOG_WARNING or FORETURN_LOG_ERROR.
using Log = std::function<void(foreturn_log_level level, std::string_view message)>;

namespace detail {

// Every log that was set, each pointing to the one before. They are kept, because a message may be on its way
// to any of them.
struct KeptLog {
    Log log;
    KeptLog* before;
};
inline std::atomic<KeptLog*> last_log{nullptr};
inline void log_in_c(void* data, foreturn_log_level level, foreturn_str message) noexcept {
    static_cast<const KeptLog*>(data)->log(level, view(message));
}

}  // namespace detail

/// Sends the messages of ONNX Runtime and of defects to `log`, from any thread. An empty `log` discards them.
/// Every log that was set is kept until the program ends.
inline Result<void> log_set(Log log) {
    if (!log) return detail::tell(foreturn_log_set, nullptr, nullptr);
    auto* const kept = new detail::KeptLog{std::move(log), nullptr};
    kept->before = detail::last_log.exchange(kept);
    return detail::tell(foreturn_log_set, &detail::log_in_c, kept);
}

/// The library's version, its ABI version, and the number of live handles in this process.
inline std::string_view version() noexcept { return detail::view(foreturn_version()); }
/// What this library is, as JSON: version, commit, features, kernels, ONNX Runtime.
inline Result<std::string> build_info() { return detail::ask<std::string>(foreturn_build_info); }
inline uint32_t abi_version() noexcept { return foreturn_abi_version(); }
inline size_t handle_count() noexcept { return foreturn_handle_count(); }

}  // namespace throwing, catching or plain
}  // namespace foreturn

#endif  // FORETURN_HPP
