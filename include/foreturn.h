/*
 * foreturn: multiturn-aware rewards, in C.
 *
 * Made from the Rust sources by `make header`; don't edit it.
 *
 * RULES
 *
 * Results. Functions that can fail return a foreturn_status and write their outputs on success only. With a parameter
 * `error` that is not NULL, a failure also gives an error object there, for the caller to free; what stood in *error is
 * overwritten. On success *error is left alone. (In a child by fork() *error becomes NULL: nothing is made there.)
 *
 * Handles. Types such as foreturn_engine are opaque; a handle is a number in the shape of a pointer, which is never given
 * out twice. One that was freed, or that is of another type, is refused with FORETURN_ERROR_INVALID_HANDLE. NULL is
 * refused with FORETURN_ERROR_INVALID_ARGUMENT, but by functions that free.
 *
 * Ownership. Whoever gets a handle through an output frees it with its own function. Strings and arrays that a function
 * lends belong to the handle that they came from and live until it is freed. What is passed in is copied before the
 * function returns, unless it says otherwise.
 *
 * Strings. UTF-8, with a length, not NUL-terminated; data may be NULL where the size is 0.
 *
 * Structs with a field `size` first: set it to sizeof the struct, or call the struct's init function. All-zero apart from
 * `size` is the default of everything. Fields may be added at the end in later versions; older and newer hosts are both
 * understood.
 *
 * Threads. Every function may be called from any thread at any time, and one handle may be used by several threads at
 * once. To free a handle while another thread uses it is safe, but for what that handle has lent. Functions that wait for
 * an engine are refused with FORETURN_ERROR_REENTRANT in callbacks that the engine waits for.
 *
 * Callbacks may come from threads of the library. They must not unwind (exceptions, longjmp).
 *
 * Guest manners. The library sets no signal handler, writes on no stream, and leaves locale, working directory and
 * environment alone. After fork() it is of use to one of the two processes only: the one that used it first.
 */


#ifndef FORETURN_H
#define FORETURN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of the ABI that this header describes. It grows when something is changed or taken away; what is added
// leaves it as it is.
#define FORETURN_ABI_VERSION 0

// What a function returns. Numbers are stable; those that are retired are not given out again. 1xx: the call itself;
// 2xx: models and what they are asked; 3xx: the machine; 4xx: the course of a request; 9xx: defects.
enum foreturn_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  FORETURN_OK = 0,
  // An argument is NULL, has a length without data, is no UTF-8, or a struct's size is unknown.
  FORETURN_ERROR_INVALID_ARGUMENT = 100,
  // A handle was freed already, or is one of something else.
  FORETURN_ERROR_INVALID_HANDLE = 101,
  // The function waits for an engine, and was called from a callback that the engine waits for.
  FORETURN_ERROR_REENTRANT = 102,
  // The header that the host was compiled with doesn't fit this library.
  FORETURN_ERROR_ABI = 103,
  // The request makes no sense.
  FORETURN_ERROR_INVALID_REQUEST = 110,
  // The configuration is wrong.
  FORETURN_ERROR_INVALID_CONFIG = 111,
  // A model folder or checkpoint lacks something, is damaged, or contradicts itself.
  FORETURN_ERROR_INVALID_MODEL = 200,
  // Something well-formed that this version can't handle.
  FORETURN_ERROR_UNSUPPORTED = 201,
  // A prompt is longer than the model's context.
  FORETURN_ERROR_CONTEXT_LENGTH = 202,
  // A model, a metric or a callback gave something that can't be used, or failed.
  FORETURN_ERROR_MODEL_OUTPUT = 203,
  // The file system said no.
  FORETURN_ERROR_IO = 300,
  // ONNX Runtime was not found, or failed.
  FORETURN_ERROR_RUNTIME = 301,
  // The key-value cache can't hold what was asked for.
  FORETURN_ERROR_MEMORY_BUDGET = 302,
  // The caller cancelled.
  FORETURN_ERROR_CANCELLED = 400,
  // The deadline passed.
  FORETURN_ERROR_DEADLINE_EXCEEDED = 401,
  // The queue is full.
  FORETURN_ERROR_OVERLOADED = 402,
  // The engine was freed or closed.
  FORETURN_ERROR_CLOSED = 403,
  // This is a child of the process that uses the library.
  FORETURN_ERROR_FORKED = 404,
  // The result isn't there yet.
  FORETURN_ERROR_NOT_READY = 405,
  // A defect in the library.
  FORETURN_ERROR_INTERNAL = 900,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum foreturn_status foreturn_status;
#else
typedef int32_t foreturn_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Cancels requests that carry it. Any thread may use one at once.
typedef struct foreturn_cancel foreturn_cancel;

// Where a chat model's callback puts its replies. Lent until it returns; of that thread alone.
typedef struct foreturn_chat_replies foreturn_chat_replies;

// Loaded models, ready to rank and score. Any number of threads may use one at once; see foreturn_engine_free().
typedef struct foreturn_engine foreturn_engine;

// Why a function failed: a status, a message for people, and what caused it. Made by functions with a parameter `error`,
// for the caller to free with foreturn_error_free(). Any thread may use it.
typedef struct foreturn_error foreturn_error;

// A sampled reply, or the log-probabilities of a text. Any number of threads may read one at once.
typedef struct foreturn_generation foreturn_generation;

// A request under way. Any thread may use it.
typedef struct foreturn_pending foreturn_pending;

// A prefix that stays in a model's cache until it is freed. Any thread may hold it.
typedef struct foreturn_pin foreturn_pin;

// Candidates by reward, with everything that led to it. Any number of threads may read one at once.
typedef struct foreturn_ranking foreturn_ranking;

// Scores in the order asked. Any number of threads may read them at once.
typedef struct foreturn_scores foreturn_scores;

// A text that the caller frees with foreturn_string_free(). Any thread may use it.
typedef struct foreturn_string foreturn_string;

// UTF-8 with its length; not NUL-terminated. `data` may be NULL where `size` is 0.
typedef struct {
  // The first byte.
  const char *data;
  // Bytes.
  size_t size;
} foreturn_str;

// One message of a conversation.
typedef struct {
  // "system", "user" or "assistant".
  foreturn_str role;
  // What was said.
  foreturn_str content;
} foreturn_message;

// What is asked of a chat model: FORETURN_CHAT_GENERATE or FORETURN_CHAT_CHOOSE.
typedef uint32_t foreturn_chat_task;

// One answer of a choice, in its accepted spellings.
typedef struct {
  // The spellings.
  const foreturn_str *spellings;
  // How many there are.
  size_t spelling_count;
} foreturn_answer;

// One request to a chat model. Everything in it is lent until the callback returns.
typedef struct {
  // The conversation so far; the model speaks next.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // What is asked.
  foreturn_chat_task task;
  // Names the random stream of the reply.
  uint64_t seed;
  // Most tokens to sample (FORETURN_CHAT_GENERATE).
  size_t max_tokens;
  // Divides the logits; 0 is greedy (FORETURN_CHAT_GENERATE).
  float temperature;
  // Nucleus sampling, in (0, 1] (FORETURN_CHAT_GENERATE).
  float top_p;
  // Texts that end the reply and are no part of it (FORETURN_CHAT_GENERATE).
  const foreturn_str *stop;
  // How many there are.
  size_t stop_count;
  // The answers (FORETURN_CHAT_CHOOSE).
  const foreturn_answer *answers;
  // How many there are.
  size_t answer_count;
  // A JSON schema that the reply has to follow, as JSON; empty where the reply is free text (FORETURN_CHAT_GENERATE).
  foreturn_str schema_json;
  // Whether the model, trained to be the user, writes the user's next message and not the assistant's
  // (FORETURN_CHAT_GENERATE).
  bool as_user;
} foreturn_chat_request;

// Answers `count` requests: puts one reply for each into `replies`. A request without a reply has failed. Returns 0, or
// any other number if all have failed, with a text in `*why` (static, or valid until the next call on this thread).
//
// Called from one thread of the engine's, one call at a time; it may take its time, but not call functions that wait for
// the engine, for the engine waits for it.
typedef int32_t (*foreturn_chat_reply_fn)(void *user_data,
                                          const foreturn_chat_request *requests,
                                          size_t count,
                                          foreturn_chat_replies *replies,
                                          foreturn_str *why);

// Called once, when the library is done with `user_data`; on any thread.
typedef void (*foreturn_release_fn)(void *user_data);

// A chat model of the host's own; roles of the configuration may name it.
typedef struct {
  // sizeof(foreturn_chat_model).
  size_t size;
  // Its name.
  foreturn_str name;
  // Answers requests.
  foreturn_chat_reply_fn reply;
  // Whether equal requests with equal seeds get equal replies, to the last bit.
  bool reproducible;
  // Given to `reply` and `release`; may be NULL.
  void *user_data;
  // Called when the engine is gone, or was not made; may be NULL.
  foreturn_release_fn release;
} foreturn_chat_model;

// A local model.
typedef struct {
  // sizeof(foreturn_model_options).
  size_t size;
  // Its name.
  foreturn_str name;
  // An exported model's folder.
  foreturn_str path;
} foreturn_model_options;

// One conversation that a metric is to score. Everything in it is lent until the callback returns.
typedef struct {
  // The whole conversation: what was before the response, the response, what was sampled after it.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // Which of them is the response that is ranked.
  size_t response;
  // What the user is after, as the request's JSON object.
  foreturn_str goal_json;
  // Why the future ended: "stop_signal", "window", ….
  foreturn_str ended;
} foreturn_metric_input;

// Scores `count` conversations: writes a finite number for each into `values`. Returns 0, or any other number for a
// failure, with a text in `*why` (static, or valid until the next call on this thread).
//
// Called from threads of the library, several at once perhaps. It may call the library, foreturn_engine_free() excepted.
typedef int32_t (*foreturn_metric_score_fn)(void *user_data,
                                            const foreturn_metric_input *inputs,
                                            size_t count,
                                            double *values,
                                            foreturn_str *why);

// A metric of the host's own. Its values enter the reward times `weight`, beside the metrics of the configuration.
typedef struct {
  // sizeof(foreturn_metric).
  size_t size;
  // Its name in rankings.
  foreturn_str name;
  // Its factor in the reward; finite.
  double weight;
  // Scores conversations.
  foreturn_metric_score_fn score;
  // Given to `score` and `release`; may be NULL.
  void *user_data;
  // Called when the engine is gone, or was not made; may be NULL.
  foreturn_release_fn release;
} foreturn_metric;

// What an engine is made of. Everything is read before foreturn_engine_new() returns.
typedef struct {
  // sizeof(foreturn_engine_options).
  size_t size;
  // A configuration file (TOML), or empty.
  foreturn_str config_path;
  // A configuration's text, or empty. Not both.
  foreturn_str config_toml;
  // The folder that relative paths in `config_toml` start from; the working directory if empty.
  foreturn_str base_folder;
  // Models beside those of the configuration.
  const foreturn_model_options *models;
  // How many there are.
  size_t model_count;
  // Metrics of the host's, beside those of the configuration.
  const foreturn_metric *metrics;
  // How many there are.
  size_t metric_count;
  // Models of the host's, beside those of the configuration.
  const foreturn_chat_model *chat_models;
  // How many there are.
  size_t chat_model_count;
  // ONNX Runtime's library; goes before the configuration's. If both are empty it is searched for: ORT_DYLIB_PATH,
  // the folder of this library, that of the program, the system's loader; never the working directory.
  foreturn_str runtime_library;
  // Threads of the pool that all models share; 0: the configuration's, else one per processor that the calling thread
  // may run on. They inherit its affinity. At most 4 for each of those processors.
  uint32_t threads;
  // Uses the ONNX Runtime that the process has loaded already, where its symbols are global, and no other: it is an
  // error where there is none.
  bool use_loaded_runtime;
  // Doesn't look at ORT_DYLIB_PATH.
  bool ignore_environment;
} foreturn_engine_options;

// How an export stores weights: one of FORETURN_QUANTIZE_….
typedef uint32_t foreturn_quantize;

// Told how many bytes of weights are written, of how many. On the calling thread.
typedef void (*foreturn_export_progress_fn)(void *user_data, uint64_t done, uint64_t total);

// What to export, and where to.
typedef struct {
  // sizeof(foreturn_export_options).
  size_t size;
  // A Hugging Face folder or a .gguf file.
  foreturn_str from;
  // The folder to make.
  foreturn_str to;
  // How weights are stored.
  foreturn_quantize quantize;
  // Weights that share a scale: 32, 64, 128 or 256; 0: 32.
  uint32_t block;
  // Whether an earlier export at `to` may be replaced. Other folders never are.
  bool overwrite;
  // May be NULL.
  foreturn_export_progress_fn on_progress;
  // Given to it.
  void *user_data;
} foreturn_export_options;

// What a model is to continue or to score: a conversation, or tokens.
typedef struct {
  // sizeof(foreturn_prompt).
  size_t size;
  // A conversation, rendered with the model's chat template.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // Tokens, instead.
  const uint32_t *tokens;
  // How many there are.
  size_t token_count;
  // Leaves out the header of a reply behind the conversation.
  bool without_generation_prompt;
} foreturn_prompt;

// How long a request may take, who may end it, and who goes first. All-zero is no limit.
typedef struct {
  // Milliseconds from submission; 0 is no limit.
  uint64_t timeout_ms;
  // Cancels the request; may be NULL. It may be freed while the request goes on.
  const foreturn_cancel *cancel;
  // Of requests that wait for a place, those of higher priority go first, then those with the earliest deadline.
  int32_t priority;
} foreturn_limits;

// Receives a reply's text piece by piece, each lent until it returns. Called from the engine's thread; it must return
// quickly and not call functions that wait.
typedef void (*foreturn_text_fn)(void *user_data, foreturn_str text);

// What a reply should be like. NULL in its place, and all-zero: 256 tokens at temperature 1, no limit.
typedef struct {
  // sizeof(foreturn_generate_options).
  size_t size;
  // Deadline, cancellation, priority; at a deadline the reply is what was sampled until then.
  foreturn_limits limits;
  // Most tokens to sample; 0: 256.
  size_t max_tokens;
  // Names the random stream: same request and same seed, same reply.
  uint64_t seed;
  // Takes the likeliest token; then `temperature` is 0.
  bool greedy;
  // Goes on past tokens that end the turn.
  bool ignore_eos;
  // Divides the logits, above 0; 0: 1.
  float temperature;
  // Nucleus sampling, in (0, 1]; 0: off.
  float top_p;
  // Drops tokens less likely than this share of the likeliest, in [0, 1].
  float min_p;
  // Discourages tokens that are there already, above 0; 0: off.
  float repetition_penalty;
  // Keeps this many of the likeliest tokens; 0: all.
  size_t top_k;
  // Texts that end the reply and are no part of it.
  const foreturn_str *stop;
  // How many there are.
  size_t stop_count;
  // May be NULL.
  foreturn_text_fn on_text;
  // Given to it; has to live until the call returns.
  void *user_data;
  // A JSON schema that the reply has to follow, as JSON; empty: free text. Takes neither `stop` nor `ignore_eos`.
  foreturn_str schema_json;
} foreturn_generate_options;

// What a foreturn_generation holds.
typedef struct {
  // sizeof(foreturn_generation_info).
  size_t size;
  // The reply's text, without special tokens and stop text; empty for log-probabilities of a prompt.
  foreturn_str text;
  // Why it ended: "stop", "length", "context", "deadline" or "cancelled".
  foreturn_str finish;
  // The sampled tokens, with the one that ended the turn; the scored tokens, for log-probabilities of a prompt.
  const uint32_t *tokens;
  // The log-probability of each, in nats, under the model before temperature and truncation.
  const float *logprobs;
  // How many there are of either.
  size_t token_count;
  // Tokens of the prompt.
  uint64_t prompt_tokens;
  // Of these, tokens taken from the cache.
  uint64_t reused_tokens;
} foreturn_generation_info;

// How grave a message is: one of FORETURN_LOG_WARNING and FORETURN_LOG_ERROR.
typedef uint32_t foreturn_log_level;

// Receives a message, lent until it returns. Called from any thread, several at once perhaps; it must not call the
// library, but to free handles other than engines.
typedef void (*foreturn_log_fn)(void *user_data, foreturn_log_level level, foreturn_str message);

// A ranking to be made. Everything is read before the function that it is given to returns.
typedef struct {
  // sizeof(foreturn_rank_request).
  size_t size;
  // The whole request as JSON, as the command line takes it; then everything below stays zero.
  foreturn_str json;
  // The conversation so far; its last message is the user's.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // The responses to rank.
  const foreturn_str *candidates;
  // How many there are.
  size_t candidate_count;
  // Instead of responses: how many to sample from the policy.
  size_t sample_candidates;
  // What the user is after, as a JSON object; none if empty. The policy never sees it.
  foreturn_str goal_json;
  // Whether `window` is set.
  bool has_window;
  // Whether `seed` is set.
  bool has_seed;
  // Turns to sample ahead, 0 to 32; the configuration's unless `has_window`.
  uint32_t window;
  // Futures for each candidate, 1 to 1024; 0: the configuration's.
  uint32_t samples;
  // Decides all random draws; the configuration's unless `has_seed`.
  uint64_t seed;
} foreturn_rank_request;

// Told whenever a rollout has ended and is judged, with how many have, of how many. Called from the engine's thread; it
// must return quickly and not call functions that wait.
typedef void (*foreturn_progress_fn)(void *user_data, size_t finished, size_t total);

// A rollout that has ended and is scored, or will not be. Lent until the callback returns.
typedef struct {
  // Its candidate, from 0.
  size_t candidate;
  // Which of the candidate's samples it is, from 0.
  size_t sample;
  // What was said after the response.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // Why it ended, as in JSON.
  foreturn_str ended;
  // Seed of its random stream.
  uint64_t seed;
  // The weighted sum of its metrics; 0 without `has_reward`.
  double reward;
  // Whether it has a reward: one whose rollout or whose metric failed has none.
  bool has_reward;
  // All that is known of it, as the JSON object of a trace: messages, tokens, metrics with what models answered, cost.
  foreturn_str json;
} foreturn_ended_rollout;

// Told of each rollout that has ended. As foreturn_progress_fn.
typedef void (*foreturn_rollout_fn)(void *user_data, const foreturn_ended_rollout *rollout);

// Called once, when a request is done, well or not: foreturn_pending_wait() no longer waits then. Not called where the
// function that should submit the request fails. Comes from a thread of
// the library, perhaps before the function that submitted the request returns; it must return quickly and not call
// functions that wait.
typedef void (*foreturn_ready_fn)(void *user_data);

// How a ranking is run. NULL in its place, and all-zero, is no limit and no callback.
typedef struct {
  // sizeof(foreturn_rank_options).
  size_t size;
  // Deadline, cancellation, priority. At the deadline, what is finished for all candidates is ranked, and the ranking
  // says that it is incomplete; where no candidate has a reward by then, it is FORETURN_ERROR_DEADLINE_EXCEEDED.
  foreturn_limits limits;
  // May be NULL.
  foreturn_progress_fn on_progress;
  // May be NULL.
  foreturn_rollout_fn on_rollout;
  // For foreturn_rank_submit(); may be NULL.
  foreturn_ready_fn on_ready;
  // Given to the callbacks. It has to live until the request is done.
  void *user_data;
} foreturn_rank_options;

// A ranking as a whole.
typedef struct {
  // sizeof(foreturn_ranking_info).
  size_t size;
  // How many candidates there are.
  size_t candidate_count;
  // Whether every rollout ran to its own end; if not, a deadline or the caller cut the ranking short.
  bool complete;
  // Whether the same request with the same seed gives these rewards again, to the last bit.
  bool bitwise;
  // Wall time in seconds.
  double seconds;
  // Tokens of all prompts.
  uint64_t prompt_tokens;
  // Of these, tokens taken from the cache.
  uint64_t reused_tokens;
  // Tokens sampled.
  uint64_t generated_tokens;
} foreturn_ranking_info;

// A candidate and its reward. Numbers that are unknown are NaN.
typedef struct {
  // sizeof(foreturn_candidate).
  size_t size;
  // Its place in the request, from 0.
  size_t candidate;
  // Its text; empty where it was to be sampled and was not.
  foreturn_str response;
  // The multiturn-aware reward: the mean over the rollouts that count.
  double reward;
  // Its standard error; unknown at one sample.
  double std_error;
  // The lower end of its 95% interval (Student's t).
  double interval_low;
  // The upper end.
  double interval_high;
  // How many metrics there are.
  size_t metric_count;
  // How many rollouts there are.
  size_t rollout_count;
  // How many of the rollouts asked for do not count.
  size_t excluded;
} foreturn_candidate;

// One metric over the rollouts that count. Numbers that are unknown are NaN.
typedef struct {
  // sizeof(foreturn_metric_summary).
  size_t size;
  // Its name.
  foreturn_str name;
  // Its mean.
  double mean;
  // The mean's standard error.
  double std_error;
  // Its factor in the reward.
  double weight;
} foreturn_metric_summary;

// One sampled future.
typedef struct {
  // sizeof(foreturn_rollout).
  size_t size;
  // Which sample this is, from 0.
  size_t sample;
  // Weighted sum of its metrics; NaN where one is missing.
  double reward;
  // Seed of its random stream.
  uint64_t seed;
  // How many messages were said after the response.
  size_t message_count;
  // Why it ended, as in JSON.
  foreturn_str ended;
  // Why it doesn't count; empty where it does.
  foreturn_str reason;
  // Whether it counts.
  bool counted;
} foreturn_rollout;

// One thing to score: a conversation, or a text, or tokens, or a response's tokens after a prompt's. What is not meant
// stays zero.
typedef struct {
  // sizeof(foreturn_score_input).
  size_t size;
  // A conversation; its last message is what is scored.
  const foreturn_message *messages;
  // How many messages there are.
  size_t message_count;
  // A text.
  foreturn_str text;
  // Tokens; of the prompt, where there are response tokens.
  const uint32_t *tokens;
  // How many there are.
  size_t token_count;
  // Tokens of a response to that prompt.
  const uint32_t *response_tokens;
  // How many there are.
  size_t response_token_count;
} foreturn_score_input;

// What is read off a model: one of FORETURN_SCORE_….
typedef uint32_t foreturn_score_task;

// How texts are scored. NULL in its place, and all-zero: labels, no limit.
typedef struct {
  // sizeof(foreturn_score_options).
  size_t size;
  // Deadline, cancellation, priority. A score that is not there in time is missing, and with it the whole result. The
  // engine looks at the clock between steps of the model, so scores may come late by one step.
  foreturn_limits limits;
  // What is read off.
  foreturn_score_task task;
  // What stands between steps (FORETURN_SCORE_STEPS); a blank line if empty.
  foreturn_str step_separator;
  // The control token after each step (FORETURN_SCORE_STEPS); "<extra_0>" if empty.
  foreturn_str step_marker;
  // For foreturn_score_submit(); may be NULL.
  foreturn_ready_fn on_ready;
  // Given to it.
  void *user_data;
} foreturn_score_options;

// A score. Numbers stand row by row.
typedef struct {
  // sizeof(foreturn_score_info).
  size_t size;
  // Logits, one a label (FORETURN_SCORE_LABELS); probabilities in [0, 1], one a step (FORETURN_SCORE_STEPS); the
  // log-probability in nats (FORETURN_SCORE_RESPONSE); the vector (FORETURN_SCORE_EMBEDDING).
  const double *values;
  // How many there are.
  size_t value_count;
  // Rows of values: as many as tokens where the head scores each token, as many as steps; else 1.
  size_t row_count;
  // Tokens that the model read; 0 where it doesn't say.
  size_t tokens;
  // Tokens whose log-probabilities were summed, the one that ends the turn included (FORETURN_SCORE_RESPONSE); else 0.
  size_t response_tokens;
} foreturn_score_info;

// How long a stage took, in seconds; quantiles to within 1%. All are 0 before the first.
typedef struct {
  // How often it was gone through.
  uint64_t count;
  // Seconds in all.
  double sum;
  // Median.
  double p50;
  // 95th percentile.
  double p95;
  // 99th percentile.
  double p99;
} foreturn_latency;

// An engine's counters at one moment.
typedef struct {
  // sizeof(foreturn_statistics).
  size_t size;
  // Rankings that wait for a place.
  uint64_t queued_rankings;
  // Calls to single models that wait for one.
  uint64_t queued_calls;
  // Rankings under way.
  uint64_t active_rankings;
  // Texts of calls under way.
  uint64_t active_texts;
  // Requests refused because the queue was full.
  uint64_t refused;
  // From submission until a request gets its place.
  foreturn_latency queue;
  // Of rankings, from submission to the result.
  foreturn_latency rank;
  // Of scores, likewise.
  foreturn_latency score;
  // Of replies, likewise.
  foreturn_latency generate;
  // Of log-probabilities, likewise.
  foreturn_latency logprobs;
  // Of prefixes to be pinned, likewise.
  foreturn_latency warm;
} foreturn_statistics;

// A local model's counters at one moment.
typedef struct {
  // sizeof(foreturn_model_statistics).
  size_t size;
  // Runs of the model.
  uint64_t steps;
  // Token rows computed, prompts and replies together.
  uint64_t computed_tokens;
  // Tokens of the prompts that have ended.
  uint64_t prompt_tokens;
  // Of these, tokens taken from the cache.
  uint64_t reused_tokens;
  // Sequences that started over for want of memory.
  uint64_t preemptions;
  // Sequences in the batch now.
  uint64_t sequences;
  // Sequences that wait for the batch.
  uint64_t waiting;
  // Blocks of the key-value cache.
  uint64_t cache_blocks;
  // Of these, blocks with contents now.
  uint64_t cache_used_blocks;
  // Most blocks with contents at once.
  uint64_t cache_peak_blocks;
} foreturn_model_statistics;

// Write a reply: foreturn_chat_replies_text().
#define FORETURN_CHAT_GENERATE 0

// Say how likely each answer opens the reply: foreturn_chat_replies_choice().
#define FORETURN_CHAT_CHOOSE 1

// In float32.
#define FORETURN_QUANTIZE_NONE 0

// Matrices in 8 bits.
#define FORETURN_QUANTIZE_INT8 1

// Matrices in 4 bits, embedding and language-model head in 8.
#define FORETURN_QUANTIZE_INT4 2

// Something to look at.
#define FORETURN_LOG_WARNING 0

// Something failed; whoever asked for it gets an error as well.
#define FORETURN_LOG_ERROR 1

// The logits of a reward model's or classifier's head.
#define FORETURN_SCORE_LABELS 0

// A process reward for each step of the last message.
#define FORETURN_SCORE_STEPS 1

// A language model's log-probability of the last message, the assistant's, in nats.
#define FORETURN_SCORE_RESPONSE 2

// The text as a vector.
#define FORETURN_SCORE_EMBEDDING 3

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Sets a foreturn_chat_model to its defaults: nothing set. Give `size` as sizeof(foreturn_chat_model).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_chat_model_init(foreturn_chat_model *model, size_t size);

// Replies to a request with a text (copied), without the stop text. `cut` says whether it was cut off at `max_tokens`.
// The numbers of tokens enter the ranking's cost; 0 where they are not known.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT (no such request, or it wants a choice). In the callback alone.
foreturn_status foreturn_chat_replies_text(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str text,
                                           bool cut,
                                           uint64_t prompt_tokens,
                                           uint64_t generated_tokens,
                                           foreturn_error **error);

// Replies to a request with the probability of each of its answers, in their order: in [0, 1], and at most 1 in all.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT (no such request, it wants a text, or the numbers make no sense). In the
// callback alone.
foreturn_status foreturn_chat_replies_choice(foreturn_chat_replies *replies,
                                             size_t index,
                                             const double *probabilities,
                                             size_t count,
                                             foreturn_error **error);

// Says that a request has failed, and why (copied).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. In the callback alone.
foreturn_status foreturn_chat_replies_fail(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str why,
                                           foreturn_error **error);

// Sets a foreturn_engine_options to its defaults: nothing set. Give `size` as sizeof(foreturn_engine_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_engine_options_init(foreturn_engine_options *options,
                                             size_t size);

// Sets a foreturn_model_options to its defaults: nothing set. Give `size` as sizeof(foreturn_model_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_model_options_init(foreturn_model_options *options, size_t size);

// Loads the models and starts the engine's thread. Takes as long as loading does (a fraction of a second for a small
// model). ONNX Runtime is loaded by the first engine of the process and stays; a later one that names another library is
// refused.
//
// Ownership: the caller frees `*out` with foreturn_engine_free(). The `user_data` of metrics and models that have a
// `release` is the engine's from here on, on failure too; not so where `options` could not be read (a wrong size, a setting
// of a newer version), and in a child by fork().
// Errors: FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_INVALID_MODEL, FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_IO,
// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_MEMORY_BUDGET. Any thread.
foreturn_status foreturn_engine_new(const foreturn_engine_options *options,
                                    foreturn_engine **out,
                                    foreturn_error **error);

// Ends an engine: what is under way or waits ends with FORETURN_ERROR_CLOSED, also on other threads that wait for it;
// then the handle is freed. Returns when its threads have ended, and with them the host's metrics and models that they
// were calling; once it has begun, no callback of the host's is called any more but `on_ready`, which tells of the end. NULL is nothing. Results, pins and pending requests stay
// valid, and are freed by their own functions.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before, FORETURN_ERROR_REENTRANT. Any thread, but no callback.
foreturn_status foreturn_engine_free(foreturn_engine *engine);

// Makes a token that nobody has cancelled.
//
// Ownership: the caller frees `*out` with foreturn_cancel_free(). Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_cancel_new(foreturn_cancel **out,
                                    foreturn_error **error);

// Ends every request that carries the token, within about one step of the model (`step_budget_ms`). Callbacks may do it.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_cancel_cancel(const foreturn_cancel *cancel,
                                       foreturn_error **error);

// Frees a token; requests that carry it go on. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed
// before. Any thread.
foreturn_status foreturn_cancel_free(foreturn_cancel *cancel);

// The status of an error.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed. Any thread.
foreturn_status foreturn_error_status(const foreturn_error *error);

// The message: what was wrong, where, and what to do. UTF-8, of the error's own memory, until the error
// is freed; empty for a handle that is none. Any thread.
foreturn_str foreturn_error_message(const foreturn_error *error);

// How many causes stand behind the message, the nearest first. 0 for a handle that is none. Any thread.
size_t foreturn_error_cause_count(const foreturn_error *error);

// The message of a cause, counted from 0. Memory as for foreturn_error_message(); empty where there is none. Any thread.
foreturn_str foreturn_error_cause(const foreturn_error *error,
                                  size_t index);

// Frees an error and the strings it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed
// before. Any thread.
foreturn_status foreturn_error_free(foreturn_error *error);

// Sets a foreturn_export_options to its defaults: nothing set. Give `size` as sizeof(foreturn_export_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_export_options_init(foreturn_export_options *options,
                                             size_t size);

// Turns a checkpoint into a model folder. The folder appears when it is whole. `report` gets a JSON object of what was
// made, and may be NULL.
//
// Ownership: the caller frees `*report` with foreturn_string_free(). Errors: FORETURN_ERROR_INVALID_MODEL,
// FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_IO. Any thread.
foreturn_status foreturn_export(const foreturn_export_options *options,
                                foreturn_string **report,
                                foreturn_error **error);

// Sets a foreturn_prompt to its defaults: nothing set. Give `size` as sizeof(foreturn_prompt).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_prompt_init(foreturn_prompt *prompt, size_t size);

// Sets a foreturn_generate_options to its defaults. Give `size` as sizeof(foreturn_generate_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_generate_options_init(foreturn_generate_options *options, size_t size);

// Samples a reply and waits for it. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_generation_free().
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_MEMORY_BUDGET,
// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED, FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
foreturn_status foreturn_generate(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_generate_options *options,
                                  foreturn_generation **out,
                                  foreturn_error **error);

// The log-probability of each token of a prompt after the first, given the ones before it. `limits` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_generation_free(). Errors: as foreturn_generate(), and
// FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED. Any thread.
foreturn_status foreturn_logprobs(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_limits *limits,
                                  foreturn_generation **out,
                                  foreturn_error **error);

// Reads a reply into `*out`, whose `size` is set.
//
// Ownership: strings and arrays are the reply's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_generation_read(const foreturn_generation *generation,
                                         foreturn_generation_info *out,
                                         foreturn_error **error);

// A reply as a JSON object: its text, why it ended, tokens, log-probabilities, numbers of tokens.
//
// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_generation_json(const foreturn_generation *generation,
                                         foreturn_string **out,
                                         foreturn_error **error);

// Frees a reply and what it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any
// thread.
foreturn_status foreturn_generation_free(foreturn_generation *generation);

// The text that a conversation becomes for a model.
//
// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: FORETURN_ERROR_INVALID_REQUEST,
// FORETURN_ERROR_INVALID_ARGUMENT. Any thread; it doesn't wait.
foreturn_status foreturn_render(const foreturn_engine *engine,
                                foreturn_str model,
                                const foreturn_message *messages,
                                size_t message_count,
                                bool generation_prompt,
                                foreturn_string **out,
                                foreturn_error **error);

// Computes a prefix ahead of its use, waits for it, and keeps it in the cache. `limits` may be NULL; a prefix that is not
// there in time is let go.
//
// Ownership: the caller frees `*out` with foreturn_pin_free(), which lets the prefix go. A pin doesn't keep its engine.
// Errors: as foreturn_logprobs(). Any thread.
foreturn_status foreturn_warm(const foreturn_engine *engine,
                              foreturn_str model,
                              const foreturn_prompt *prefix,
                              const foreturn_limits *limits,
                              foreturn_pin **out,
                              foreturn_error **error);

// How many tokens a pinned prefix has, into `*out`.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_pin_tokens(const foreturn_pin *pin, size_t *out, foreturn_error **error);

// Lets a prefix go. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_pin_free(foreturn_pin *pin);

// Sends the messages of ONNX Runtime, and of defects in this library, to `log`; NULL, as in the beginning, sends them
// nowhere. The library itself writes on no stream. A call that is under way on another thread may still come after this
// returns.
//
// Ownership: `user_data` stays the caller's, and has to live as long as messages may come. Errors: none. Any thread.
foreturn_status foreturn_log_set(foreturn_log_fn log,
                                 void *user_data,
                                 foreturn_error **error);

// Sets a foreturn_metric to its defaults: nothing set. Give `size` as sizeof(foreturn_metric).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_metric_init(foreturn_metric *metric, size_t size);

// Waits until the request is done, well or not, for `timeout_ms` milliseconds at most: 0 looks and doesn't wait,
// UINT64_MAX waits for ever. `*ready` says whether it is.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_REENTRANT, FORETURN_ERROR_FORKED. Any thread.
foreturn_status foreturn_pending_wait(const foreturn_pending *pending,
                                      uint64_t timeout_ms,
                                      bool *ready,
                                      foreturn_error **error);

// The ranking of a request that is done. It is given out once.
//
// Ownership: the caller frees `*out` with foreturn_ranking_free(). Errors: the request's own, FORETURN_ERROR_NOT_READY,
// FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_ranking(const foreturn_pending *pending,
                                         foreturn_ranking **out,
                                         foreturn_error **error);

// The scores of a request that is done. They are given out once.
//
// Ownership: the caller frees `*out` with foreturn_scores_free(). Errors: the request's own, FORETURN_ERROR_NOT_READY,
// FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_scores(const foreturn_pending *pending,
                                        foreturn_scores **out,
                                        foreturn_error **error);

// Ends the request within about one step of the model, and every other one that carries the same foreturn_cancel.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_pending_cancel(const foreturn_pending *pending,
                                        foreturn_error **error);

// Lets go of a request, which goes on unless it is cancelled. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if
// it was freed before. Any thread.
foreturn_status foreturn_pending_free(foreturn_pending *pending);

// Sets a foreturn_rank_request to its defaults. Give `size` as sizeof(foreturn_rank_request).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_rank_request_init(foreturn_rank_request *request, size_t size);

// Sets a foreturn_rank_options to its defaults. Give `size` as sizeof(foreturn_rank_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_rank_options_init(foreturn_rank_options *options, size_t size);

// Ranks a request's candidates and waits for the result. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_ranking_free().
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_CONTEXT_LENGTH,
// FORETURN_ERROR_MODEL_OUTPUT, FORETURN_ERROR_MEMORY_BUDGET, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED,
// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; FORETURN_ERROR_DEADLINE_EXCEEDED and FORETURN_ERROR_CANCELLED where no
// candidate has a reward by then. Any thread.
foreturn_status foreturn_rank(const foreturn_engine *engine,
                              const foreturn_rank_request *request,
                              const foreturn_rank_options *options,
                              foreturn_ranking **out,
                              foreturn_error **error);

// Queues a ranking and returns at once. `options` may be NULL; its `on_ready` is called when the ranking is done.
//
// Ownership: the caller frees `*out` with foreturn_pending_free(). Errors: as foreturn_rank(), for what shows before a
// model runs; the rest shows when the result is taken. Any thread, and callbacks too.
foreturn_status foreturn_rank_submit(const foreturn_engine *engine,
                                     const foreturn_rank_request *request,
                                     const foreturn_rank_options *options,
                                     foreturn_pending **out,
                                     foreturn_error **error);

// Reads a ranking's totals into `*out`, whose `size` is set.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_read(const foreturn_ranking *ranking,
                                      foreturn_ranking_info *out,
                                      foreturn_error **error);

// Reads the candidate in a place, from 0 for the best, into `*out`, whose `size` is set. Candidates without a reward come
// last.
//
// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_candidate(const foreturn_ranking *ranking,
                                           size_t place,
                                           foreturn_candidate *out,
                                           foreturn_error **error);

// Reads a metric of the candidate in a place into `*out`, whose `size` is set. Metrics are in the order of their names.
//
// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_metric(const foreturn_ranking *ranking,
                                        size_t place,
                                        size_t index,
                                        foreturn_metric_summary *out,
                                        foreturn_error **error);

// Reads a rollout of the candidate in a place into `*out`, whose `size` is set.
//
// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_rollout(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t index,
                                         foreturn_rollout *out,
                                         foreturn_error **error);

// Reads a message of a rollout into `*out`.
//
// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_message(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t rollout,
                                         size_t index,
                                         foreturn_message *out,
                                         foreturn_error **error);

// The ranking as the JSON object that the command line prints.
//
// Ownership: the text is the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_json(const foreturn_ranking *ranking,
                                      foreturn_str *out,
                                      foreturn_error **error);

// Frees a ranking and the strings it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before.
// Any thread.
foreturn_status foreturn_ranking_free(foreturn_ranking *ranking);

// Sets a foreturn_score_input to its defaults: nothing set. Give `size` as sizeof(foreturn_score_input).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_score_input_init(foreturn_score_input *input, size_t size);

// Sets a foreturn_score_options to its defaults. Give `size` as sizeof(foreturn_score_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_score_options_init(foreturn_score_options *options, size_t size);

// Scores `count` inputs by a local model and waits for the result. They run together; conversations that share a prefix
// compute it once. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_scores_free().
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_MEMORY_BUDGET,
// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED, FORETURN_ERROR_OVERLOADED,
// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
foreturn_status foreturn_score(const foreturn_engine *engine,
                               foreturn_str model,
                               const foreturn_score_input *inputs,
                               size_t count,
                               const foreturn_score_options *options,
                               foreturn_scores **out,
                               foreturn_error **error);

// Queues inputs to be scored and returns at once. `options` may be NULL; its `on_ready` is called when all are scored.
//
// Ownership: the caller frees `*out` with foreturn_pending_free(). Errors: as foreturn_score(), for what shows before the
// model runs; the rest shows when the result is taken. Any thread, and callbacks too.
foreturn_status foreturn_score_submit(const foreturn_engine *engine,
                                      foreturn_str model,
                                      const foreturn_score_input *inputs,
                                      size_t count,
                                      const foreturn_score_options *options,
                                      foreturn_pending **out,
                                      foreturn_error **error);

// How many scores there are, into `*out`.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_count(const foreturn_scores *scores, size_t *out, foreturn_error **error);

// Reads the score of an input, from 0, into `*out`, whose `size` is set.
//
// Ownership: the numbers are the scores', until they are freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_read(const foreturn_scores *scores,
                                     size_t index,
                                     foreturn_score_info *out,
                                     foreturn_error **error);

// The scores as a JSON list, with the names of labels.
//
// Ownership: the text is the scores', until they are freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
// FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_json(const foreturn_scores *scores,
                                     foreturn_str *out,
                                     foreturn_error **error);

// Frees scores and what they lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if they were freed before. Any
// thread.
foreturn_status foreturn_scores_free(foreturn_scores *scores);

// Reads an engine's counters into `*out`, whose `size` is set. Waits for the step under way.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_CLOSED,
// FORETURN_ERROR_REENTRANT. Any thread.
foreturn_status foreturn_engine_statistics(const foreturn_engine *engine,
                                           foreturn_statistics *out,
                                           foreturn_error **error);

// Reads a local model's counters into `*out`, whose `size` is set. Waits for the step under way.
//
// Errors: as foreturn_engine_statistics(), and FORETURN_ERROR_INVALID_REQUEST for a model that isn't there. Any thread.
foreturn_status foreturn_engine_model_statistics(const foreturn_engine *engine,
                                                 foreturn_str model,
                                                 foreturn_model_statistics *out,
                                                 foreturn_error **error);

// An engine's counters, its models' included, in the OpenMetrics text format. Waits for the step under way.
//
// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: as foreturn_engine_statistics(). Any thread.
foreturn_status foreturn_engine_openmetrics(const foreturn_engine *engine,
                                            foreturn_string **out,
                                            foreturn_error **error);

// An engine's counters, its models' and their execution providers included, as a JSON object. Waits for the step under
// way.
//
// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: as foreturn_engine_statistics(). Any thread.
foreturn_status foreturn_engine_statistics_json(const foreturn_engine *engine,
                                                foreturn_string **out,
                                                foreturn_error **error);

// What a string holds: UTF-8, of the string's own memory, until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_string_read(const foreturn_string *string,
                                     foreturn_str *out,
                                     foreturn_error **error);

// Frees a string. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_string_free(foreturn_string *string);

// The library's version, such as "0.1.0". Static memory. Any thread.
foreturn_str foreturn_version(void);

// The library's version of the ABI. Any thread.
uint32_t foreturn_abi_version(void);

// Checks that the library fits the header that the host was compiled with: give it FORETURN_ABI_VERSION, before anything
// else.
//
// Errors: FORETURN_ERROR_ABI. Any thread.
foreturn_status foreturn_abi_check(uint32_t header,
                                   foreturn_error **error);

// How many handles are alive in this process: of engines, results, errors, everything. For tests of hosts that want to
// know whether they free what they get. Any thread.
size_t foreturn_handle_count(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FORETURN_H */
