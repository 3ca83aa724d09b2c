/*
 * foreturn: multiturn-aware rewards, in C.
 *
 * Made from the Rust sources by `make header`; don't edit it.
 *
 * RULES
 *
 * Results. A function that can fail returns a foreturn_status and writes its outputs on success only. If its parameter
 * `error` is not NULL, a failure also stores an error object in *error, which the caller frees; the previous value of
 * *error is overwritten. Success leaves *error alone. (In a child process made by fork(), *error is set to NULL,
 * because no objects are made there.)
 *
 * Handles. Types such as foreturn_engine are opaque. A handle is a number in the shape of a pointer, and no number is
 * used twice. A handle that was freed or that has the wrong type is refused with FORETURN_ERROR_INVALID_HANDLE. NULL is
 * refused with FORETURN_ERROR_INVALID_ARGUMENT, except by functions that free a handle: they ignore it.
 *
 * Ownership. The caller frees each handle that it gets through an output, with the function for its type. Strings and
 * arrays that a function lends belong to the handle that they came from, and are valid until it is freed. Arguments are
 * copied before the function returns, unless its comment says otherwise.
 *
 * Strings are UTF-8 with a length; they are not NUL-terminated. `data` may be NULL if `size` is 0.
 *
 * Structs that begin with a field `size`: set it to sizeof the struct, or call the struct's init function. If all other
 * fields are zero, every setting has its default. Later versions may add fields at the end; the library understands
 * both older and newer hosts.
 *
 * Threads. Every function may be called from any thread at any time, and several threads may use one handle at once. It
 * is safe to free a handle while another thread uses it, but the strings and arrays that it lent are freed with it. A
 * function that waits for an engine fails with FORETURN_ERROR_REENTRANT in a callback that the engine waits for.
 *
 * Callbacks may be called from threads of the library. They must not unwind (exceptions, longjmp).
 *
 * The host's process. The library sets no signal handlers, writes to no streams, and leaves the locale, the working
 * directory and the environment alone. After fork(), only one of the two processes can use it: the one that used it
 * first.
 */


#ifndef FORETURN_H
#define FORETURN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of the ABI that this header describes. It grows when something is changed or removed. Additions don't
// change it.
#define FORETURN_ABI_VERSION 0

// The result of a call. Numbers are stable, and retired ones are not used again. 1xx: the call itself; 2xx: models and
// their input and output; 3xx: the machine; 4xx: the course of a request; 9xx: defects.
enum foreturn_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Success.
  FORETURN_OK = 0,
  // An argument is NULL, has a length but no data, or is not UTF-8; or the size of a struct is unknown.
  FORETURN_ERROR_INVALID_ARGUMENT = 100,
  // A handle was freed already or has the wrong type.
  FORETURN_ERROR_INVALID_HANDLE = 101,
  // The function waits for an engine and was called from a callback that the engine waits for.
  FORETURN_ERROR_REENTRANT = 102,
  // The header that the host was compiled with doesn't match this library.
  FORETURN_ERROR_ABI = 103,
  // The request is invalid.
  FORETURN_ERROR_INVALID_REQUEST = 110,
  // The configuration is invalid.
  FORETURN_ERROR_INVALID_CONFIG = 111,
  // A model folder or checkpoint is incomplete, damaged or inconsistent.
  FORETURN_ERROR_INVALID_MODEL = 200,
  // The input is well-formed, but this version can't handle it.
  FORETURN_ERROR_UNSUPPORTED = 201,
  // A prompt is longer than the model's context.
  FORETURN_ERROR_CONTEXT_LENGTH = 202,
  // A model, a metric or a callback failed or gave an unusable result.
  FORETURN_ERROR_MODEL_OUTPUT = 203,
  // A file could not be read or written.
  FORETURN_ERROR_IO = 300,
  // ONNX Runtime was not found or failed.
  FORETURN_ERROR_RUNTIME = 301,
  // The key-value cache can't hold the request.
  FORETURN_ERROR_MEMORY_BUDGET = 302,
  // The caller cancelled the request.
  FORETURN_ERROR_CANCELLED = 400,
  // The deadline passed.
  FORETURN_ERROR_DEADLINE_EXCEEDED = 401,
  // The queue is full.
  FORETURN_ERROR_OVERLOADED = 402,
  // The engine was freed or closed.
  FORETURN_ERROR_CLOSED = 403,
  // This process is a child, made by fork(), of the process that uses the library.
  FORETURN_ERROR_FORKED = 404,
  // The result isn't ready yet.
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

// A token that cancels the requests that carry it. Any number of threads may use one at once.
typedef struct foreturn_cancel foreturn_cancel;

// The place for the replies of a chat model's callback. It is valid until the callback returns. Only the callback's
// thread may use it.
typedef struct foreturn_chat_replies foreturn_chat_replies;

// Loaded models, ready to rank and score. Any number of threads may use one at once. See foreturn_engine_free().
typedef struct foreturn_engine foreturn_engine;

// The failure of a function: a status, a message for people, and the causes. Functions with a parameter `error` make
// one, and the caller frees it with foreturn_error_free(). Any thread may use it.
typedef struct foreturn_error foreturn_error;

// A sampled reply, or the log-probabilities of a prompt. Any number of threads may read one at once.
typedef struct foreturn_generation foreturn_generation;

// A queued request. Any thread may use it.
typedef struct foreturn_pending foreturn_pending;

// A pinned prefix. It stays in a model's cache until the pin is freed. Any thread may use one.
typedef struct foreturn_pin foreturn_pin;

// Candidates ordered by reward, with the rollouts and metrics behind it. Any number of threads may read one at once.
typedef struct foreturn_ranking foreturn_ranking;

// Scores, in the order of the inputs: one for each, or one for each of its candidates. Any number of threads may read
// them at once.
typedef struct foreturn_scores foreturn_scores;

// A text. The caller frees it with foreturn_string_free(). Any thread may use it.
typedef struct foreturn_string foreturn_string;

// A UTF-8 string with its length. It is not NUL-terminated.
typedef struct {
  // The first byte; may be NULL if `size` is 0.
  const char *data;
  // Length in bytes.
  size_t size;
} foreturn_str;

// One message of a conversation.
typedef struct {
  // "system", "user" or "assistant".
  foreturn_str role;
  // The text of the message.
  foreturn_str content;
} foreturn_message;

// The task of a chat request: FORETURN_CHAT_GENERATE or FORETURN_CHAT_CHOOSE.
typedef uint32_t foreturn_chat_task;

// One answer of a choice, with its accepted spellings.
typedef struct {
  // The spellings.
  const foreturn_str *spellings;
  // Number of spellings.
  size_t spelling_count;
} foreturn_answer;

// A request to a chat model. Everything in it is valid until the callback returns.
typedef struct {
  // The conversation so far. The model speaks next.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // The task.
  foreturn_chat_task task;
  // Seed of the reply's random stream.
  uint64_t seed;
  // Maximum number of tokens to sample (FORETURN_CHAT_GENERATE).
  size_t max_tokens;
  // Sampling temperature; 0: greedy (FORETURN_CHAT_GENERATE).
  float temperature;
  // Probability mass of nucleus sampling, in (0, 1] (FORETURN_CHAT_GENERATE).
  float top_p;
  // Texts that end the reply and are not part of it (FORETURN_CHAT_GENERATE).
  const foreturn_str *stop;
  // Number of stop texts.
  size_t stop_count;
  // The answers to choose from (FORETURN_CHAT_CHOOSE).
  const foreturn_answer *answers;
  // Number of answers.
  size_t answer_count;
  // JSON schema that the reply has to follow; empty if the reply is free text (FORETURN_CHAT_GENERATE).
  foreturn_str schema_json;
  // If true, the model was trained to be the user and writes the user's next message, not the assistant's
  // (FORETURN_CHAT_GENERATE).
  bool as_user;
} foreturn_chat_request;

// Answers `count` requests by putting one reply for each into `replies`. A request without a reply has failed. Returns
// 0, or any other number if all requests have failed; then it may set `*why` to a text (static, or valid until the
// next call on this thread).
//
// Called from one of the engine's threads, one call at a time. It may be slow, but it must not call functions that
// wait for the engine, because the engine waits for it.
typedef int32_t (*foreturn_chat_reply_fn)(void *user_data,
                                          const foreturn_chat_request *requests,
                                          size_t count,
                                          foreturn_chat_replies *replies,
                                          foreturn_str *why);

// Called once, on any thread, when the library no longer needs `user_data`.
typedef void (*foreturn_release_fn)(void *user_data);

// A chat model that the host implements. Roles of the configuration may name it.
typedef struct {
  // sizeof(foreturn_chat_model).
  size_t size;
  // The name that roles use.
  foreturn_str name;
  // The callback that answers requests.
  foreturn_chat_reply_fn reply;
  // Whether equal requests with equal seeds get identical replies.
  bool reproducible;
  // Passed to `reply` and `release`; may be NULL.
  void *user_data;
  // Called when the engine is gone or was not made; may be NULL.
  foreturn_release_fn release;
} foreturn_chat_model;

// A local model to load.
typedef struct {
  // sizeof(foreturn_model_options).
  size_t size;
  // The name that roles and calls use.
  foreturn_str name;
  // The folder of an exported model.
  foreturn_str path;
} foreturn_model_options;

// A conversation for a metric to score. Everything in it is valid until the callback returns.
typedef struct {
  // The whole conversation: the history, the response, and the sampled future.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // Index of the response that is ranked.
  size_t response;
  // The user's goal: the JSON object of the request.
  foreturn_str goal_json;
  // The reason for the future's end: "stop_signal", "window", ….
  foreturn_str ended;
} foreturn_metric_input;

// Scores `count` conversations by writing a finite number for each into `values`. Returns 0, or any other number on
// failure; then it may set `*why` to a text (static, or valid until the next call on this thread).
//
// Called from threads of the library, perhaps from several at once. It may call any function of the library except
// foreturn_engine_free().
typedef int32_t (*foreturn_metric_score_fn)(void *user_data,
                                            const foreturn_metric_input *inputs,
                                            size_t count,
                                            double *values,
                                            foreturn_str *why);

// A metric that the host implements. Its values times `weight` are added to the reward, like those of the
// configuration's metrics.
typedef struct {
  // sizeof(foreturn_metric).
  size_t size;
  // The metric's name in rankings.
  foreturn_str name;
  // The metric's weight in the reward; finite.
  double weight;
  // The callback that scores conversations.
  foreturn_metric_score_fn score;
  // Passed to `score` and `release`; may be NULL.
  void *user_data;
  // Called when the engine is gone or was not made; may be NULL.
  foreturn_release_fn release;
} foreturn_metric;

// The settings of a new engine. All of them are read before foreturn_engine_new() returns.
typedef struct {
  // sizeof(foreturn_engine_options).
  size_t size;
  // Path of a configuration file (TOML); may be empty.
  foreturn_str config_path;
  // Text of a configuration (TOML); may be empty. Set this or `config_path`, not both.
  foreturn_str config_toml;
  // The folder that relative paths in `config_toml` start from. Empty: the working directory.
  foreturn_str base_folder;
  // Local models in addition to those of the configuration.
  const foreturn_model_options *models;
  // Number of models.
  size_t model_count;
  // The host's metrics, in addition to those of the configuration.
  const foreturn_metric *metrics;
  // Number of metrics.
  size_t metric_count;
  // The host's chat models, in addition to the models of the configuration.
  const foreturn_chat_model *chat_models;
  // Number of chat models.
  size_t chat_model_count;
  // Path of ONNX Runtime's library; overrides the configuration's. If neither is set, the library is searched for in
  // this order: ORT_DYLIB_PATH, the folder of this library, the folder of the program, the system's loader. The
  // working directory is never searched.
  foreturn_str runtime_library;
  // Number of threads in the pool that all models share. 0: the configuration's number or, if it has none, one per
  // processor that the calling thread may run on. The threads inherit the calling thread's affinity. The maximum is
  // 4 per such processor.
  uint32_t threads;
  // Use only the ONNX Runtime that the process has already loaded with global symbols. It is an error if there is
  // none.
  bool use_loaded_runtime;
  // Ignore ORT_DYLIB_PATH.
  bool ignore_environment;
  // The processors that the engine's threads and ONNX Runtime's stay on, such as "0-3,8"; overrides the configuration's.
  // Empty: the configuration's or, if it has none, those of the calling thread. Each model then has a pool of its own,
  // whose default size is the number of processors.
  foreturn_str cores;
} foreturn_engine_options;

// The format in which an export stores weights: one of FORETURN_QUANTIZE_….
typedef uint32_t foreturn_quantize;

// Reports progress: `done` of `total` bytes of weights are written. Called on the thread that called
// foreturn_export().
typedef void (*foreturn_export_progress_fn)(void *user_data, uint64_t done, uint64_t total);

// The type of a tensor's numbers: one of FORETURN_DTYPE_….
typedef uint32_t foreturn_dtype;

// The source, target and settings of an export.
typedef struct {
  // sizeof(foreturn_export_options).
  size_t size;
  // Path of a Hugging Face folder or a .gguf file.
  foreturn_str from;
  // Path of the folder to make.
  foreturn_str to;
  // Format of the weights.
  foreturn_quantize quantize;
  // Number of weights that share a scale: 32, 64, 128 or 256; 0: 32.
  uint32_t block;
  // Allow an earlier export at `to` to be replaced. Other folders are never replaced.
  bool overwrite;
  // Called with the progress; may be NULL.
  foreturn_export_progress_fn on_progress;
  // Passed to `on_progress`; may be NULL.
  void *user_data;
  // Path of the folder of a LoRA adapter that is merged into the weights, as PEFT saves it. Empty: none.
  foreturn_str adapter;
  // Give float32 .safetensors a second name in the folder instead of copying them. Changing the checkpoint in place then
  // changes the export, too.
  bool hard_link;
  // Type of the matrices that are not quantised. In half precision they take half the space. Decoders on the CPU compute
  // products with those of bfloat16 in bfloat16.
  foreturn_dtype dtype;
} foreturn_export_options;

// The input that a model continues or scores: a conversation or tokens, not both.
typedef struct {
  // sizeof(foreturn_prompt).
  size_t size;
  // A conversation, rendered with the model's chat template.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // Tokens, if there are no messages.
  const uint32_t *tokens;
  // Number of tokens.
  size_t token_count;
  // Leave out the header of the reply after the conversation.
  bool without_generation_prompt;
} foreturn_prompt;

// The deadline, cancellation and priority of a request. All-zero means no limit.
typedef struct {
  // Deadline in milliseconds from submission; 0: none.
  uint64_t timeout_ms;
  // A token that cancels the request; may be NULL. It may be freed while the request goes on.
  const foreturn_cancel *cancel;
  // Requests with a higher priority go first: to a place, in each step and in memory. Among equals, those with an earlier
  // deadline go first.
  int32_t priority;
} foreturn_limits;

// Receives a reply's text piece by piece. `text` is valid until the callback returns. Called from the engine's thread.
// It must return quickly and must not call functions that wait.
typedef void (*foreturn_text_fn)(void *user_data, foreturn_str text);

// Called once, when a request is done, successfully or not. foreturn_pending_wait() then returns at once. It is not
// called if the function that submits the request fails. Called from a thread of the library, perhaps before the
// submitting function returns. It must return quickly and must not call functions that wait.
typedef void (*foreturn_ready_fn)(void *user_data);

// The settings of a reply. NULL in its place, like all-zero, means 256 tokens at temperature 1 without limits.
typedef struct {
  // sizeof(foreturn_generate_options).
  size_t size;
  // Deadline, cancellation, priority. At the deadline, the reply is what was sampled so far.
  foreturn_limits limits;
  // Maximum number of tokens to sample; 0: 256.
  size_t max_tokens;
  // Seed of the random stream. The same request with the same seed gives the same reply.
  uint64_t seed;
  // Take the likeliest token at each step. `temperature` must then be 0.
  bool greedy;
  // Go on past tokens that end the turn.
  bool ignore_eos;
  // Sampling temperature, above 0; 0: 1.
  float temperature;
  // Probability mass of nucleus sampling, in (0, 1]; 0: off.
  float top_p;
  // Drop tokens whose probability is below this share of the likeliest token's, in [0, 1].
  float min_p;
  // Penalty on tokens that already occur, above 0; 0: off.
  float repetition_penalty;
  // Keep only this many of the likeliest tokens; 0: all.
  size_t top_k;
  // Texts that end the reply and are not part of it.
  const foreturn_str *stop;
  // Number of stop texts.
  size_t stop_count;
  // Called with each piece of the text; may be NULL.
  foreturn_text_fn on_text;
  // Passed to `on_text`; may be NULL. It has to live until the call returns.
  void *user_data;
  // JSON schema that the reply has to follow; empty: free text. It can't be combined with `stop` or `ignore_eos`.
  foreturn_str schema_json;
  // Called when a request of foreturn_generate_submit() is done; may be NULL. `user_data` then has to live until it is.
  foreturn_ready_fn on_ready;
} foreturn_generate_options;

// The contents of a foreturn_generation.
typedef struct {
  // sizeof(foreturn_generation_info).
  size_t size;
  // The reply's text, without special tokens and stop text. Empty for the log-probabilities of a prompt.
  foreturn_str text;
  // The reason for the reply's end: "stop", "length", "context", "deadline" or "cancelled".
  foreturn_str finish;
  // The sampled tokens, including the one that ended the turn; or the scored tokens of a prompt.
  const uint32_t *tokens;
  // The log-probability of each token, in nats, before temperature and truncation.
  const float *logprobs;
  // Number of tokens, and of log-probabilities.
  size_t token_count;
  // Number of tokens in the prompt.
  uint64_t prompt_tokens;
  // Number of those tokens that were taken from the cache.
  uint64_t reused_tokens;
} foreturn_generation_info;

// The severity of a message: FORETURN_LOG_WARNING or FORETURN_LOG_ERROR.
typedef uint32_t foreturn_log_level;

// Receives a message, which is valid until the callback returns. Called from any thread, perhaps from several at once.
// It must not call the library, except to free handles other than engines.
typedef void (*foreturn_log_fn)(void *user_data, foreturn_log_level level, foreturn_str message);

// A request for a ranking. All of it is read before the function that takes it returns.
typedef struct {
  // sizeof(foreturn_rank_request).
  size_t size;
  // The whole request as JSON, in the format of the command line. If set, all fields below must be zero, except `pin`, which
  // gives the conversation that the JSON leaves out then.
  foreturn_str json;
  // The conversation so far. Its last message is the user's.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // The responses to rank.
  const foreturn_str *candidates;
  // Number of candidates.
  size_t candidate_count;
  // Number of responses to sample from the policy, instead of `candidates`.
  size_t sample_candidates;
  // The user's goal as a JSON object; empty: none. The policy never sees it.
  foreturn_str goal_json;
  // Whether `window` is set.
  bool has_window;
  // Whether `seed` is set.
  bool has_seed;
  // Number of turns to sample ahead, 0 to 32. Without `has_window`, the configuration's.
  uint32_t window;
  // Number of futures per candidate, 1 to 1024; 0: the configuration's.
  uint32_t samples;
  // Seed of all random draws. Without `has_seed`, the configuration's.
  uint64_t seed;
  // The conversation so far, in the place of `messages` or of the JSON's: one that foreturn_warm() pinned for the policy of this engine.
  const foreturn_pin *pin;
} foreturn_rank_request;

// Reports progress: `finished` of `total` rollouts have ended and are judged. Called from the engine's thread. It must
// return quickly and must not call functions that wait.
typedef void (*foreturn_progress_fn)(void *user_data, size_t finished, size_t total);

// A rollout that has ended and has been scored, unless it or a metric failed. Valid until the callback returns.
typedef struct {
  // Index of its candidate in the request, from 0.
  size_t candidate;
  // Index among the candidate's samples, from 0.
  size_t sample;
  // The messages after the response.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // The reason for its end, in the JSON's words.
  foreturn_str ended;
  // Seed of its random stream.
  uint64_t seed;
  // Weighted sum of its metrics; 0 without `has_reward`.
  double reward;
  // Whether it has a reward. It has none if the rollout or a metric failed.
  bool has_reward;
  // The rollout as the JSON object of a trace: messages, tokens, metrics with the models' answers, cost.
  foreturn_str json;
} foreturn_ended_rollout;

// Receives each rollout that has ended. The rules of foreturn_progress_fn apply.
typedef void (*foreturn_rollout_fn)(void *user_data, const foreturn_ended_rollout *rollout);

// A candidate's reward while its futures are still being sampled. Unknown numbers are NaN.
typedef struct {
  // Index in the request, from 0.
  size_t candidate;
  // The mean over the rollouts that count so far, at least one.
  double reward;
  // Its standard error. Unknown with one rollout.
  double std_error;
  // The probability that the candidate is the best.
  double probability_best;
  // Number of rollouts that count so far.
  size_t rollout_count;
} foreturn_interim;

// Receives the `count` candidates that have a reward by now, the best first, whenever another sample has ended for all
// candidates. Valid until the callback returns. The rules of foreturn_progress_fn apply.
typedef void (*foreturn_interim_fn)(void *user_data, const foreturn_interim *known, size_t count);

// Limits and callbacks of a ranking. NULL in its place, like all-zero, means no limits and no callbacks.
typedef struct {
  // sizeof(foreturn_rank_options).
  size_t size;
  // Deadline, cancellation, priority. At the deadline, the ranking uses what is finished for all candidates and is
  // marked as incomplete. If no candidate has a reward by then, the ranking fails with
  // FORETURN_ERROR_DEADLINE_EXCEEDED.
  foreturn_limits limits;
  // Called with the progress; may be NULL.
  foreturn_progress_fn on_progress;
  // Called with each rollout that has ended; may be NULL.
  foreturn_rollout_fn on_rollout;
  // Called when a request of foreturn_rank_submit() is done; may be NULL.
  foreturn_ready_fn on_ready;
  // Passed to the callbacks; may be NULL. It has to live until the request is done.
  void *user_data;
  // Called with interim rewards; may be NULL.
  foreturn_interim_fn on_interim;
} foreturn_rank_options;

// The totals of a ranking.
typedef struct {
  // sizeof(foreturn_ranking_info).
  size_t size;
  // Number of candidates.
  size_t candidate_count;
  // Whether every rollout ran to its end. If not, a deadline or the caller cut the ranking short.
  bool complete;
  // Whether the same request with the same seed gives bitwise the same rewards.
  bool bitwise;
  // Wall time in seconds.
  double seconds;
  // Number of tokens in all prompts.
  uint64_t prompt_tokens;
  // Number of those tokens that were taken from the cache.
  uint64_t reused_tokens;
  // Number of sampled tokens.
  uint64_t generated_tokens;
} foreturn_ranking_info;

// A candidate and its reward. Unknown numbers are NaN.
typedef struct {
  // sizeof(foreturn_candidate).
  size_t size;
  // Index in the request, from 0.
  size_t candidate;
  // The text. Empty if it should have been sampled but was not.
  foreturn_str response;
  // The multiturn-aware reward: the mean over the rollouts that count.
  double reward;
  // The reward's standard error. Unknown with one sample.
  double std_error;
  // Lower end of the reward's 95% interval (Student's t).
  double interval_low;
  // Upper end of that interval.
  double interval_high;
  // Number of metrics.
  size_t metric_count;
  // Number of rollouts.
  size_t rollout_count;
  // Number of requested rollouts that do not count.
  size_t excluded;
} foreturn_candidate;

// One metric over the rollouts that count. Unknown numbers are NaN.
typedef struct {
  // sizeof(foreturn_metric_summary).
  size_t size;
  // The metric's name.
  foreturn_str name;
  // The metric's mean.
  double mean;
  // The mean's standard error.
  double std_error;
  // The metric's weight in the reward.
  double weight;
} foreturn_metric_summary;

// One sampled future.
typedef struct {
  // sizeof(foreturn_rollout).
  size_t size;
  // Index among the candidate's samples, from 0.
  size_t sample;
  // Weighted sum of the metrics; NaN if one is missing.
  double reward;
  // Seed of the rollout's random stream.
  uint64_t seed;
  // Number of messages after the response.
  size_t message_count;
  // The reason for the rollout's end, in the JSON's words.
  foreturn_str ended;
  // The reason why the rollout doesn't count; empty if it does.
  foreturn_str reason;
  // Whether the rollout counts.
  bool counted;
} foreturn_rollout;

// The treatment of requests under way that use the model: one of FORETURN_REFRESH_….
typedef uint32_t foreturn_refresh_mode;

// The settings of a refresh. NULL in its place, like all-zero, means: requests under way end first, and a model that
// plays several roles is refused.
typedef struct {
  // sizeof(foreturn_refresh_options).
  size_t size;
  // Deadline and cancellation. If the weights are not exchanged in time, the old ones stay. The priority has no effect.
  foreturn_limits limits;
  // The name of the new weights in rankings, traces and statistics, such as a training step. Empty: a fingerprint of the
  // files and the number of the refresh.
  foreturn_str version;
  // The treatment of requests under way that use the model.
  foreturn_refresh_mode mode;
  // Also change a model that plays several roles, in all of them. Otherwise it is refused, because new weights for the
  // policy would change its judge, too.
  bool shared;
  // Called when a request of foreturn_refresh_submit() is done; may be NULL.
  foreturn_ready_fn on_ready;
  // Passed to `on_ready`; may be NULL. It has to live until the request is done.
  void *user_data;
  // Path of the folder of a LoRA adapter that is merged into the weights, as PEFT saves it. Empty: none.
  foreturn_str adapter;
  // Text of an adapter_config.json instead, where the adapter's tensors are among those of foreturn_refresh_tensors().
  foreturn_str adapter_config;
} foreturn_refresh_options;

// A tensor in the host's memory, such as one of a trainer's state dict. It has to live until the call returns.
typedef struct {
  // sizeof(foreturn_tensor).
  size_t size;
  // Name in the model's state dict. What DistributedDataParallel, FSDP and torch.compile put before it may be there.
  foreturn_str name;
  // Type of its numbers.
  foreturn_dtype dtype;
  // Number of dimensions.
  size_t rank;
  // The dimensions, the outermost first; may be NULL if `rank` is 0.
  const size_t *shape;
  // The numbers, little-endian, rows one after the other without gaps. They need no alignment.
  const void *data;
  // Length of `data` in bytes. It has to fit shape and type.
  size_t byte_count;
} foreturn_tensor;

// Reports progress: `finished` and `failed` of `total` conversations have ended. Called from threads of the library, one
// call at a time. It must return quickly and must not call functions that wait.
typedef void (*foreturn_run_progress_fn)(void *user_data, size_t finished, size_t failed, size_t total);

// The settings of a data set, an evaluation or a sweep. A number that is 0 stands for its default.
typedef struct {
  // sizeof(foreturn_run_options).
  size_t size;
  // Path of the tasks: JSON Lines of {"id", "prompt", "reference", "metadata"}.
  foreturn_str tasks_path;
  // Path of the folder to write to. It is made if it is missing. What is there goes on.
  foreturn_str folder;
  // A hash or version of the configuration; may be empty. A folder that was begun with another one is refused.
  foreturn_str configuration;
  // For data sets: number of candidates at each turn. For sweeps: number of responses to each task. 4 by default.
  size_t candidates;
  // Maximum number of turns of the assistant in a conversation; 4 by default in data sets and sweeps, 5 in evaluations.
  size_t turns;
  // For evaluations: number of conversations about each task with each policy; 1 by default. For sweeps: number of
  // conversations from each response; 4 by default.
  size_t samples;
  // Number of conversations at the same time; 8 by default.
  size_t concurrency;
  // Begin no conversation that would probably take the run beyond this many tokens; no limit by default.
  uint64_t max_tokens;
  // Number of the part of the tasks to take, from 1, if `shard_count` is set.
  size_t shard;
  // Number of parts; all tasks are taken by default.
  size_t shard_count;
  // Seed of all random draws. Without `has_seed`, the configuration's in data sets, and 0 in evaluations and sweeps.
  uint64_t seed;
  // Whether `seed` is set.
  bool has_seed;
  // Hold conversations again that failed.
  bool retry_failed;
  // A token that ends the run; may be NULL. The call then succeeds with what is finished.
  const foreturn_cancel *cancel;
  // Called with the progress; may be NULL.
  foreturn_run_progress_fn on_progress;
  // Passed to `on_progress`; may be NULL.
  void *user_data;
  // Paths of folders of other runs with the same settings, such as shards. Their conversations are taken over first.
  const foreturn_str *merge;
  // Number of these folders.
  size_t merge_count;
  // For data sets: write dataset.parquet as well.
  bool parquet;
} foreturn_run_options;

// What foreturn_dataset_export() writes.
typedef uint32_t foreturn_dataset_format;

// An input to score. Set exactly one of these: `messages`; `messages` with `candidates`; `text`; `tokens`; `tokens` of a
// prompt with `response_tokens`; `pin` with `candidates`; or `pin` with `response_tokens`. The other fields stay zero.
typedef struct {
  // sizeof(foreturn_score_input).
  size_t size;
  // A conversation. Its last message is scored, or each of the candidates that follow it.
  const foreturn_message *messages;
  // Number of messages.
  size_t message_count;
  // A text.
  foreturn_str text;
  // Tokens. If there are response tokens, these are the prompt's.
  const uint32_t *tokens;
  // Number of tokens.
  size_t token_count;
  // Tokens of a response to the prompt.
  const uint32_t *response_tokens;
  // Number of response tokens.
  size_t response_token_count;
  // Replies of the assistant to the conversation in `messages` or in `pin`. Each of them is scored as if it were the last message of
  // an input of its own, and the input has as many scores, in the order of its candidates. What they have in common is
  // computed once.
  const foreturn_str *candidates;
  // Number of candidates.
  size_t candidate_count;
  // A prefix that foreturn_warm() pinned for this model. `candidates` reply to its conversation, and `response_tokens` follow
  // its tokens. The scores are those of the same input with the conversation or the tokens in the place of the pin. It may
  // be freed while the request goes on.
  const foreturn_pin *pin;
} foreturn_score_input;

// The kind of score: one of FORETURN_SCORE_….
typedef uint32_t foreturn_score_task;

// The settings of a score. NULL in its place, like all-zero, means labels without limits.
typedef struct {
  // sizeof(foreturn_score_options).
  size_t size;
  // Deadline, cancellation, priority. If any score is not ready in time, the whole call fails. The engine checks the
  // clock between steps of the model, so scores may come late by one step.
  foreturn_limits limits;
  // The kind of score.
  foreturn_score_task task;
  // The separator between steps (FORETURN_SCORE_STEPS); empty: a blank line.
  foreturn_str step_separator;
  // The control token after each step (FORETURN_SCORE_STEPS); empty: "<extra_0>".
  foreturn_str step_marker;
  // Called when a request of foreturn_score_submit() is done; may be NULL.
  foreturn_ready_fn on_ready;
  // Passed to `on_ready`; may be NULL. It has to live until the request is done.
  void *user_data;
  // Give the scores that are there where others failed or are not ready in time; foreturn_score_info.status tells which.
  // Otherwise one of them fails the whole call.
  bool partial;
} foreturn_score_options;

// The score of one input.
typedef struct {
  // sizeof(foreturn_score_info).
  size_t size;
  // The numbers, row by row: one logit per label (FORETURN_SCORE_LABELS); one probability in [0, 1] per step
  // (FORETURN_SCORE_STEPS); the log-probability in nats (FORETURN_SCORE_RESPONSE); the vector
  // (FORETURN_SCORE_EMBEDDING).
  const double *values;
  // Number of values.
  size_t value_count;
  // Number of rows: one per token if the head scores each token, one per step for steps, otherwise 1.
  size_t row_count;
  // Number of tokens that the model read; 0 if unknown.
  size_t tokens;
  // Number of tokens whose log-probabilities were summed, including the one that ends the turn
  // (FORETURN_SCORE_RESPONSE); otherwise 0.
  size_t response_tokens;
  // FORETURN_OK; or, with foreturn_score_options.partial, the reason why this score is missing: there are no values then.
  foreturn_status status;
  // Number of tokens that were taken from the model's cache, because they were warm or shared with another input.
  uint64_t reused_tokens;
  // Seconds from when the model got the input until the score was there. Inputs run together, so these overlap.
  double seconds;
  // The tokens whose log-probabilities were summed, as the model read them: `response_tokens` of them.
  const uint32_t *token_ids;
  // The log-probability of each of `token_ids` given everything before it, in nats: `response_tokens` of them.
  const float *token_logprobs;
} foreturn_score_info;

// Durations of a stage, in seconds. Quantiles are exact to within 1%. All fields are 0 before the first measurement.
typedef struct {
  // Number of measurements.
  uint64_t count;
  // Total seconds.
  double sum;
  // Median.
  double p50;
  // 95th percentile.
  double p95;
  // 99th percentile.
  double p99;
} foreturn_latency;

// A snapshot of an engine's counters.
typedef struct {
  // sizeof(foreturn_statistics).
  size_t size;
  // Number of rankings that wait for a place.
  uint64_t queued_rankings;
  // Number of calls to single models that wait for a place.
  uint64_t queued_calls;
  // Number of rankings that are running.
  uint64_t active_rankings;
  // Number of texts in calls that are running.
  uint64_t active_texts;
  // Number of requests refused because the queue was full.
  uint64_t refused;
  // Time from submission until a request gets its place.
  foreturn_latency queue;
  // Time of rankings, from submission to the result.
  foreturn_latency rank;
  // The same for scores.
  foreturn_latency score;
  // The same for replies.
  foreturn_latency generate;
  // The same for log-probabilities.
  foreturn_latency logprobs;
  // The same for pinned prefixes.
  foreturn_latency warm;
  // Number of requests cancelled before their result was whole.
  uint64_t cancelled;
  // Number of requests whose result was not whole at their deadline. It may have come later, or in part.
  uint64_t deadlines_missed;
  // Number of requests that ended with an error. foreturn_engine_errors() counts them by status. Those that were refused
  // when they were submitted are not among them.
  uint64_t errors;
} foreturn_statistics;

// A snapshot of a local model's counters.
typedef struct {
  // sizeof(foreturn_model_statistics).
  size_t size;
  // Number of runs of the model.
  uint64_t steps;
  // Number of token rows computed, for prompts and replies together.
  uint64_t computed_tokens;
  // Number of tokens in prompts that have ended.
  uint64_t prompt_tokens;
  // Number of those tokens that were taken from the cache.
  uint64_t reused_tokens;
  // Number of sequences that started over because memory ran out.
  uint64_t preemptions;
  // Number of sequences in the batch now.
  uint64_t sequences;
  // Number of sequences that wait for the batch.
  uint64_t waiting;
  // Number of blocks in the key-value cache.
  uint64_t cache_blocks;
  // Number of those blocks with contents now.
  uint64_t cache_used_blocks;
  // Highest number of blocks with contents at once.
  uint64_t cache_peak_blocks;
  // Number of times that its weights were exchanged. foreturn_engine_statistics_json() names them.
  uint64_t refreshes;
  // Number of bytes in the key-value cache.
  uint64_t cache_bytes;
  // Number of bytes in blocks with contents now.
  uint64_t cache_used_bytes;
  // Highest number of bytes in blocks with contents at once.
  uint64_t cache_peak_bytes;
} foreturn_model_statistics;

// Write a reply. Answer with foreturn_chat_replies_text().
#define FORETURN_CHAT_GENERATE 0

// Give the probability that each answer opens the reply. Answer with foreturn_chat_replies_choice().
#define FORETURN_CHAT_CHOOSE 1

// float32.
#define FORETURN_QUANTIZE_NONE 0

// Matrices in 8 bits.
#define FORETURN_QUANTIZE_INT8 1

// Matrices in 4 bits; embedding and language-model head in 8.
#define FORETURN_QUANTIZE_INT4 2

// Something deserves attention.
#define FORETURN_LOG_WARNING 0

// Something failed. The call that it belongs to gets an error as well.
#define FORETURN_LOG_ERROR 1

// They end with the old weights first.
#define FORETURN_REFRESH_WAIT 0

// They begin again, with the new weights. Callbacks hear of their rollouts again. Replies that are streamed end with
// FORETURN_ERROR_CANCELLED instead.
#define FORETURN_REFRESH_RESTART 1

// They end with FORETURN_ERROR_CANCELLED.
#define FORETURN_REFRESH_ABORT 2

// float32.
#define FORETURN_DTYPE_FLOAT32 0

// bfloat16.
#define FORETURN_DTYPE_BFLOAT16 1

// float16.
#define FORETURN_DTYPE_FLOAT16 2

// The last turn of each conversation with its best response, as `messages`: for supervised fine-tuning with TRL.
#define FORETURN_DATASET_SFT 0

// The best response of each turn against the worst, as `prompt`, `chosen` and `rejected`: for TRL's preference trainers.
#define FORETURN_DATASET_DPO 1

// The same with the difference of the rewards as `margin`: for TRL's reward trainer.
#define FORETURN_DATASET_REWARD 2

// The nested form of collabllm's MultiturnDataset: a conversation per row.
#define FORETURN_DATASET_COLLABLLM_NESTED 3

// Its flat form: a response per row.
#define FORETURN_DATASET_COLLABLLM_FLAT 4

// The logits of a reward model's or classifier's head.
#define FORETURN_SCORE_LABELS 0

// A process reward for each step of the last message.
#define FORETURN_SCORE_STEPS 1

// A language model's log-probability of the last message, the assistant's, in nats.
#define FORETURN_SCORE_RESPONSE 2

// The embedding of the text.
#define FORETURN_SCORE_EMBEDDING 3

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Sets `*model` to the defaults: nothing set. `size` is sizeof(foreturn_chat_model).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_chat_model_init(foreturn_chat_model *model, size_t size);

// Replies to a request with a text. `index` is the request's place in the callback's `requests`. The text is copied
// and must not contain the stop text. `cut` says whether it was cut off at `max_tokens`. The numbers of tokens are
// added to the ranking's cost; pass 0 if they are unknown.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT (there is no such request, or it wants a choice). Only inside the callback,
// on its thread.
foreturn_status foreturn_chat_replies_text(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str text,
                                           bool cut,
                                           uint64_t prompt_tokens,
                                           uint64_t generated_tokens,
                                           foreturn_error **error);

// Replies to a request with the probability of each of its answers, in their order. Each is in [0, 1], and their sum
// is at most 1.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT (there is no such request, it wants a text, or the probabilities are
// invalid). Only inside the callback, on its thread.
foreturn_status foreturn_chat_replies_choice(foreturn_chat_replies *replies,
                                             size_t index,
                                             const double *probabilities,
                                             size_t count,
                                             foreturn_error **error);

// Reports that a request has failed. `why` is copied.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Only inside the callback, on its thread.
foreturn_status foreturn_chat_replies_fail(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str why,
                                           foreturn_error **error);

// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_engine_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_engine_options_init(foreturn_engine_options *options, size_t size);

// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_model_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_model_options_init(foreturn_model_options *options, size_t size);

// Loads the models and starts the engine's thread. The call takes as long as loading the models (a fraction of a
// second for a small one). The first engine of the process loads ONNX Runtime, which stays loaded; a later engine that
// names another library is refused.
//
// Ownership: the caller frees `*out` with foreturn_engine_free(). If a metric or chat model has a `release`, the
// engine takes over its `user_data`, even if this function fails. The exceptions are `options` that could not be read
// (wrong size, a setting of a newer version) and a child made by fork().
//
// Errors: FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_INVALID_MODEL, FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_IO,
// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_MEMORY_BUDGET. Any thread.
foreturn_status foreturn_engine_new(const foreturn_engine_options *options,
                                    foreturn_engine **out,
                                    foreturn_error **error);

// Closes an engine and frees the handle. NULL is ignored. Requests that run or wait end with FORETURN_ERROR_CLOSED,
// also on other threads that wait for them. The function returns when the engine's threads have ended, and with them
// the calls to the host's metrics and chat models. Once it has begun, it starts no callback except `on_ready`, which
// reports the end of a request. Results, pins and pending requests stay valid; the caller frees them with their own
// functions.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before, FORETURN_ERROR_REENTRANT. Any thread, but not from a
// callback.
foreturn_status foreturn_engine_free(foreturn_engine *engine);

// Makes a token that is not cancelled.
//
// Ownership: the caller frees `*out` with foreturn_cancel_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_cancel_new(foreturn_cancel **out, foreturn_error **error);

// Cancels every request that carries the token. They end within about one step of the model (`step_budget_ms`).
// Callbacks may call it.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_cancel_cancel(const foreturn_cancel *cancel,
                                       foreturn_error **error);

// Frees a token. Requests that carry it go on. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_cancel_free(foreturn_cancel *cancel);

// Returns the status of an error.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed. Any thread.
foreturn_status foreturn_error_status(const foreturn_error *error);

// Returns the message of an error: what was wrong, where, and what to do. The string belongs to the error and is valid
// until the error is freed. It is empty if the handle is invalid. Any thread.
foreturn_str foreturn_error_message(const foreturn_error *error);

// Returns the number of causes of an error, or 0 if the handle is invalid. Any thread.
size_t foreturn_error_cause_count(const foreturn_error *error);

// Returns the message of a cause. `index` counts from 0, the nearest cause first. The string belongs to the error and
// is valid until the error is freed. It is empty if the handle is invalid or there is no such cause. Any thread.
foreturn_str foreturn_error_cause(const foreturn_error *error,
                                  size_t index);

// Frees an error and the strings that it lent. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_error_free(foreturn_error *error);

// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_export_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_export_options_init(foreturn_export_options *options, size_t size);

// Converts a checkpoint into a model folder. The folder appears only when it is complete. `*report` is set to a JSON
// object that describes it; `report` may be NULL.
//
// Ownership: the caller frees `*report` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_MODEL, FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_IO.
// Any thread.
foreturn_status foreturn_export(const foreturn_export_options *options,
                                foreturn_string **report,
                                foreturn_error **error);

// Sets `*prompt` to the defaults: nothing set. `size` is sizeof(foreturn_prompt).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_prompt_init(foreturn_prompt *prompt, size_t size);

// Sets `*options` to the defaults. `size` is sizeof(foreturn_generate_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_generate_options_init(foreturn_generate_options *options, size_t size);

// Samples a reply of the local model named `model` and waits for it. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_generation_free().
//
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_MEMORY_BUDGET,
// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED, FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
foreturn_status foreturn_generate(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_generate_options *options,
                                  foreturn_generation **out,
                                  foreturn_error **error);

// Computes the log-probability of each token of a prompt, given the tokens before it, and waits for the result. The
// first token has none. `limits` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_generation_free().
//
// Errors: as foreturn_generate(), and FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED. Any thread.
foreturn_status foreturn_logprobs(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_limits *limits,
                                  foreturn_generation **out,
                                  foreturn_error **error);

// Reads a reply into `*out`. The caller sets `out->size` first.
//
// Ownership: strings and arrays belong to the reply and are valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_generation_read(const foreturn_generation *generation,
                                         foreturn_generation_info *out,
                                         foreturn_error **error);

// Writes a reply as a JSON object: its text, why it ended, its tokens, their log-probabilities and the token counts.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_generation_json(const foreturn_generation *generation,
                                         foreturn_string **out,
                                         foreturn_error **error);

// Frees a reply and what it lent. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_generation_free(foreturn_generation *generation);

// Renders a conversation with the chat template of the local model named `model`. `generation_prompt` appends the
// header of the assistant's reply.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_ARGUMENT. Any thread; the function doesn't wait for
// the engine.
foreturn_status foreturn_render(const foreturn_engine *engine,
                                foreturn_str model,
                                const foreturn_message *messages,
                                size_t message_count,
                                bool generation_prompt,
                                foreturn_string **out,
                                foreturn_error **error);

// Computes a prefix before it is needed, waits for it, and keeps it in the cache. `limits` may be NULL. A prefix that
// isn't ready in time is dropped.
//
// Ownership: the caller frees `*out` with foreturn_pin_free(), which releases the prefix. A pin doesn't keep its
// engine alive.
//
// Errors: as foreturn_logprobs(). Any thread.
foreturn_status foreturn_warm(const foreturn_engine *engine,
                              foreturn_str model,
                              const foreturn_prompt *prefix,
                              const foreturn_limits *limits,
                              foreturn_pin **out,
                              foreturn_error **error);

// Reads the number of tokens of a pinned prefix into `*out`.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_pin_tokens(const foreturn_pin *pin, size_t *out, foreturn_error **error);

// Releases a pinned prefix. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_pin_free(foreturn_pin *pin);

// Sets the function that receives the messages of ONNX Runtime and of defects in this library. NULL, the default,
// discards them. The library itself writes to no stream. A call to the previous function may still be running on
// another thread when this returns.
//
// Ownership: `user_data` stays the caller's and has to live as long as messages may come.
//
// Errors: none. Any thread.
foreturn_status foreturn_log_set(foreturn_log_fn log,
                                 void *user_data,
                                 foreturn_error **error);

// Sets `*metric` to the defaults: nothing set. `size` is sizeof(foreturn_metric).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_metric_init(foreturn_metric *metric, size_t size);

// Waits until the request is done, successfully or not, for at most `timeout_ms` milliseconds. 0 only checks;
// UINT64_MAX waits for ever. Sets `*ready` to whether the request is done.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_REENTRANT, FORETURN_ERROR_FORKED. Any thread.
foreturn_status foreturn_pending_wait(const foreturn_pending *pending,
                                      uint64_t timeout_ms,
                                      bool *ready,
                                      foreturn_error **error);

// Takes the ranking of a request that is done. It can be taken once.
//
// Ownership: the caller frees `*out` with foreturn_ranking_free().
//
// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_ranking(const foreturn_pending *pending,
                                         foreturn_ranking **out,
                                         foreturn_error **error);

// Takes the scores of a request that is done. They can be taken once.
//
// Ownership: the caller frees `*out` with foreturn_scores_free().
//
// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_scores(const foreturn_pending *pending,
                                        foreturn_scores **out,
                                        foreturn_error **error);

// Takes the reply of a finished request, or its log-probabilities. They are given out once.
//
// Ownership: the caller frees `*out` with foreturn_generation_free().
//
// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_generation(const foreturn_pending *pending,
                                            foreturn_generation **out,
                                            foreturn_error **error);

// Takes the pin of a finished request. It is given out once.
//
// Ownership: the caller frees `*out` with foreturn_pin_free(), which releases the prefix.
//
// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_pin(const foreturn_pending *pending,
                                     foreturn_pin **out,
                                     foreturn_error **error);

// Takes the name of the new weights that a finished refresh put in place. It is given out once.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_pending_version(const foreturn_pending *pending,
                                         foreturn_string **out,
                                         foreturn_error **error);

// Cancels the request and every other one that carries the same foreturn_cancel. They end within about one step of the
// model.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_pending_cancel(const foreturn_pending *pending,
                                        foreturn_error **error);

// Frees the handle of a request. The request goes on unless it is cancelled. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_pending_free(foreturn_pending *pending);

// Sets `*request` to the defaults. `size` is sizeof(foreturn_rank_request).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_rank_request_init(foreturn_rank_request *request, size_t size);

// Sets `*options` to the defaults. `size` is sizeof(foreturn_rank_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_rank_options_init(foreturn_rank_options *options, size_t size);

// Ranks a request's candidates and waits for the result. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_ranking_free().
//
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_CONTEXT_LENGTH,
// FORETURN_ERROR_MODEL_OUTPUT, FORETURN_ERROR_MEMORY_BUDGET, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED,
// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; FORETURN_ERROR_DEADLINE_EXCEEDED and FORETURN_ERROR_CANCELLED if no
// candidate has a reward by then. Any thread.
foreturn_status foreturn_rank(const foreturn_engine *engine,
                              const foreturn_rank_request *request,
                              const foreturn_rank_options *options,
                              foreturn_ranking **out,
                              foreturn_error **error);

// Queues a ranking and returns at once. `options` may be NULL. Its `on_ready` is called when the ranking is done.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: those of foreturn_rank() that are found before a model runs; the others are reported when the result is
// taken. Any thread, also from callbacks.
foreturn_status foreturn_rank_submit(const foreturn_engine *engine,
                                     const foreturn_rank_request *request,
                                     const foreturn_rank_options *options,
                                     foreturn_pending **out,
                                     foreturn_error **error);

// Scores the futures of an earlier ranking again, with this engine's judges and metrics, and waits for the result. Nothing
// is sampled: where two engines' rewards differ, their judges do. `ranking` is the earlier one's JSON, from
// foreturn_ranking_json() or `foreturn rank --json`; `request` is the one that it was made of. Rollouts that didn't count
// are left out. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_ranking_free().
//
// Errors: those of foreturn_rank(); FORETURN_ERROR_INVALID_REQUEST also if `ranking` is not a ranking, was not made of
// `request`, or has no rollout that counts. Any thread.
foreturn_status foreturn_rescore(const foreturn_engine *engine,
                                 const foreturn_rank_request *request,
                                 foreturn_str ranking,
                                 const foreturn_rank_options *options,
                                 foreturn_ranking **out,
                                 foreturn_error **error);

// Queues what foreturn_rescore() does and returns at once. `options` may be NULL. Its `on_ready` is called when the ranking
// is done.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: those of foreturn_rescore() that are found before a model runs; the others are reported when the result is
// taken. Any thread, also from callbacks.
foreturn_status foreturn_rescore_submit(const foreturn_engine *engine,
                                        const foreturn_rank_request *request,
                                        foreturn_str ranking,
                                        const foreturn_rank_options *options,
                                        foreturn_pending **out,
                                        foreturn_error **error);

// Reads a ranking's totals into `*out`. The caller sets `out->size` first.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_read(const foreturn_ranking *ranking,
                                      foreturn_ranking_info *out,
                                      foreturn_error **error);

// Reads a candidate into `*out`. `place` is its place in the ranking; 0 is the best, and candidates without a reward
// come last. The caller sets `out->size` first.
//
// Ownership: strings belong to the ranking and are valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_candidate(const foreturn_ranking *ranking,
                                           size_t place,
                                           foreturn_candidate *out,
                                           foreturn_error **error);

// Reads a metric of the candidate at `place` into `*out`. `index` is below the candidate's `metric_count`; metrics are
// ordered by name. The caller sets `out->size` first.
//
// Ownership: strings belong to the ranking and are valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_metric(const foreturn_ranking *ranking,
                                        size_t place,
                                        size_t index,
                                        foreturn_metric_summary *out,
                                        foreturn_error **error);

// Reads a rollout of the candidate at `place` into `*out`. `index` is below the candidate's `rollout_count`. The
// caller sets `out->size` first.
//
// Ownership: strings belong to the ranking and are valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_rollout(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t index,
                                         foreturn_rollout *out,
                                         foreturn_error **error);

// Reads a message of a rollout of the candidate at `place` into `*out`. `rollout` is below the candidate's
// `rollout_count`, and `index` is below the rollout's `message_count`.
//
// Ownership: strings belong to the ranking and are valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_message(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t rollout,
                                         size_t index,
                                         foreturn_message *out,
                                         foreturn_error **error);

// Writes the ranking as the JSON object that the command line prints into `*out`.
//
// Ownership: the text belongs to the ranking and is valid until it is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_ranking_json(const foreturn_ranking *ranking,
                                      foreturn_str *out,
                                      foreturn_error **error);

// Frees a ranking and the strings that it lent. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_ranking_free(foreturn_ranking *ranking);

// Sets `*options` to the defaults. `size` is sizeof(foreturn_refresh_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_refresh_options_init(foreturn_refresh_options *options, size_t size);

// Exchanges the weights of the local model named `model` for those in the folder `path`, an export of the same model,
// and waits for it. The engine goes on serving: no ranking and no call sees both. Cached prefixes of the old weights are
// dropped, and pins are computed again. Both sets of weights are in memory for a moment. `options` may be NULL. `*out` is
// the name of the new weights. A failure changes nothing.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_REQUEST (there is no such local model, it plays several roles, the folder has another
// model, or another refresh of the model is under way), FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_MODEL,
// FORETURN_ERROR_IO, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED,
// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
foreturn_status foreturn_refresh(const foreturn_engine *engine,
                                 foreturn_str model,
                                 foreturn_str path,
                                 const foreturn_refresh_options *options,
                                 foreturn_string **out,
                                 foreturn_error **error);

// Begins to exchange the weights of a local model and returns at once. `options` may be NULL. Its `on_ready` is called
// when they are exchanged. foreturn_pending_version() gives the name of the new weights.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: those of foreturn_refresh() that are found before the folder is read; the others are reported when the result
// is taken. Any thread, callbacks included.
foreturn_status foreturn_refresh_submit(const foreturn_engine *engine,
                                        foreturn_str model,
                                        foreturn_str path,
                                        const foreturn_refresh_options *options,
                                        foreturn_pending **out,
                                        foreturn_error **error);

// Exchanges the weights of the local model named `model` for `tensors`, those of a live model's state dict, and waits for
// it. No file is written. The bits are those of an export of the same tensors: float32 is used as it is, half precision is
// widened, and a model that was exported in few bits is quantised by the same rules. Apart from that it does what
// foreturn_refresh() does. The calling thread packs the weights, the engine's threads go on meanwhile. `on_ready` of
// `options` is not called. `options` may be NULL.
//
// The tensors are all of the state dict, which is read in the call and not afterwards. A head that is tied to the embedding
// may be there or not. With an adapter in `options`, they are those of its base, which may hold the adapter's tensors; or there
// are none, and the base is the folder that the model runs from.
//
// Ownership: the tensors stay the caller's. The caller frees `*out` with foreturn_string_free().
//
// Errors: as foreturn_refresh(), and: FORETURN_ERROR_UNSUPPORTED (the model is not an export of this library for the paged
// path, or a tensor belongs to an adapter), FORETURN_ERROR_INVALID_REQUEST (a tensor is missing, has another shape, or has no
// place in the model), FORETURN_ERROR_INVALID_MODEL (one is not finite). The message names the tensor. Any thread.
foreturn_status foreturn_refresh_tensors(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_tensor *tensors,
                                         size_t count,
                                         const foreturn_refresh_options *options,
                                         foreturn_string **out,
                                         foreturn_error **error);

// Sets `*options` to the defaults. `size` is sizeof(foreturn_run_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_run_options_init(foreturn_run_options *options, size_t size);

// Builds conversations turn by turn about tasks, or goes on with what is in the folder, and waits until they are
// finished. The folder then has dataset.jsonl, failed.jsonl with the tasks that were set aside, and journal.jsonl, from which
// a killed build goes on. foreturn_dataset_export() makes of it what trainers read. `*out` is a summary as JSON, with
// `finished`, `set_aside`, `left`, `stopped` and `spent`.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG,
// FORETURN_ERROR_IO, FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; those of foreturn_rank() if ten conversations in a
// row failed with them. What is finished by then stays. Any thread.
foreturn_status foreturn_dataset_build(const foreturn_engine *engine,
                                       const foreturn_run_options *options,
                                       foreturn_string **out,
                                       foreturn_error **error);

// Holds conversations about tasks between policies and the simulated user, or goes on with what is in the folder, and
// compares the policies. `engines[i]` has the policy that is called `names[i]` in the results; an engine may be given
// several times. The folder then has evaluation.json, evaluation.csv, cost.json, conversations.jsonl, failed.jsonl and
// journal.jsonl. `*out` is the content of evaluation.json.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: those of foreturn_dataset_build(). Any thread.
foreturn_status foreturn_evaluate(const foreturn_engine *const *engines,
                                  const foreturn_str *names,
                                  size_t count,
                                  const foreturn_run_options *options,
                                  foreturn_string **out,
                                  foreturn_error **error);

// Compares `count` kinds of reward on the same conversations about tasks, or goes on with what is in the folder, and waits.
// The policy that `engine` has writes the responses. `kinds[i]` is, for example, "w=2", "returns=0.9", "preference=judge" or
// "w=2,metrics=accuracy,samples=1", as docs/evaluation.md describes. With `count` 0, windows up to 3, returns and preferences
// are compared. A kind with `user` or `style` has a simulator of its own: `simulators[i]` is the engine in which that
// simulator plays the user. For other kinds it is NULL, and `simulators` may be NULL if there are none. The folder then has
// sweep.json, sweep.csv, responses.jsonl, failed.jsonl and journal.jsonl. `*out` is the content of sweep.json.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: those of foreturn_dataset_build(). Any thread.
foreturn_status foreturn_sweep(const foreturn_engine *engine,
                               const foreturn_str *kinds,
                               const foreturn_engine *const *simulators,
                               size_t count,
                               const foreturn_run_options *options,
                               foreturn_string **out,
                               foreturn_error **error);

// Writes a data set that was built, in a format that trainers read. `from` is the folder of foreturn_dataset_build() or its
// dataset.jsonl. `to` is a file: Parquet if its name ends with .parquet, otherwise JSON Lines. Pairs whose rewards differ by
// less than `minimum_gap` are left out, and so are those whose better response is better with a probability below
// `minimum_probability`, in [0.5, 1]; 0 takes all. `*out` is what was written as JSON, with `conversations`, `rows` and
// `left_out`.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_IO. Any thread.
foreturn_status foreturn_dataset_export(foreturn_str from,
                                        foreturn_str to,
                                        foreturn_dataset_format format,
                                        double minimum_gap,
                                        double minimum_probability,
                                        foreturn_string **out,
                                        foreturn_error **error);

// Sets `*input` to the defaults: nothing set. `size` is sizeof(foreturn_score_input).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_score_input_init(foreturn_score_input *input, size_t size);

// Sets `*options` to the defaults. `size` is sizeof(foreturn_score_options).
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
foreturn_status foreturn_score_options_init(foreturn_score_options *options, size_t size);

// Scores `count` inputs with the local model named `model` and waits for the result. The inputs and their candidates run
// together, and a prefix that conversations share is computed once. `options` may be NULL.
//
// Ownership: the caller frees `*out` with foreturn_scores_free().
//
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

// Queues inputs to be scored and returns at once. `options` may be NULL. Its `on_ready` is called when all are scored.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: those of foreturn_score() that are found before the model runs; the others are reported when the result is
// taken. Any thread, also from callbacks.
foreturn_status foreturn_score_submit(const foreturn_engine *engine,
                                      foreturn_str model,
                                      const foreturn_score_input *inputs,
                                      size_t count,
                                      const foreturn_score_options *options,
                                      foreturn_pending **out,
                                      foreturn_error **error);

// Reads the number of scores into `*out`.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_count(const foreturn_scores *scores, size_t *out, foreturn_error **error);

// Reads the score of an input into `*out`. `index` is the input's index, from 0. The caller sets `out->size` first.
//
// Ownership: the numbers belong to the scores and are valid until the scores are freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_read(const foreturn_scores *scores,
                                     size_t index,
                                     foreturn_score_info *out,
                                     foreturn_error **error);

// Writes the scores as a JSON list, with the names of labels, into `*out`.
//
// Ownership: the text belongs to the scores and is valid until the scores are freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_scores_json(const foreturn_scores *scores,
                                     foreturn_str *out,
                                     foreturn_error **error);

// Frees scores and what they lent. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if they were freed before. Any thread.
foreturn_status foreturn_scores_free(foreturn_scores *scores);

// Reads an engine's counters into `*out`. The caller sets `out->size` first. It waits for nothing.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_CLOSED. Any thread, callbacks
// included.
foreturn_status foreturn_engine_statistics(const foreturn_engine *engine,
                                           foreturn_statistics *out,
                                           foreturn_error **error);

// Reads the number of requests that ended with `status` into `*out`. It waits for nothing.
//
// Errors: as foreturn_engine_statistics(). Any thread, callbacks included.
foreturn_status foreturn_engine_errors(const foreturn_engine *engine,
                                       int32_t status,
                                       uint64_t *out,
                                       foreturn_error **error);

// Reads a local model's counters into `*out`. The caller sets `out->size` first. It waits for nothing.
//
// Errors: as foreturn_engine_statistics(), and FORETURN_ERROR_INVALID_REQUEST if there is no such model. Any thread.
foreturn_status foreturn_engine_model_statistics(const foreturn_engine *engine,
                                                 foreturn_str model,
                                                 foreturn_model_statistics *out,
                                                 foreturn_error **error);

// Writes the counters of an engine and its models in the OpenMetrics text format. It waits for nothing.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: as foreturn_engine_statistics(). Any thread.
foreturn_status foreturn_engine_openmetrics(const foreturn_engine *engine,
                                            foreturn_string **out,
                                            foreturn_error **error);

// Writes the counters of an engine and its models, and the models' execution providers, as a JSON object. It
// waits for nothing.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: as foreturn_engine_statistics(). Any thread.
foreturn_status foreturn_engine_statistics_json(const foreturn_engine *engine,
                                                foreturn_string **out,
                                                foreturn_error **error);

// Reads the text of a string into `*out`.
//
// Ownership: the text belongs to the string and is valid until the string is freed.
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
foreturn_status foreturn_string_read(const foreturn_string *string,
                                     foreturn_str *out,
                                     foreturn_error **error);

// Frees a string. NULL is ignored.
//
// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
foreturn_status foreturn_string_free(foreturn_string *string);

// Queues the sampling of a reply and returns at once. `options` may be NULL. When the reply is done, its `on_ready` is
// called; `user_data` has to live until then.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_OVERLOADED,
// FORETURN_ERROR_CLOSED. What is wrong with the prompt shows in the result. Any thread, callbacks included.
foreturn_status foreturn_generate_submit(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_prompt *prompt,
                                         const foreturn_generate_options *options,
                                         foreturn_pending **out,
                                         foreturn_error **error);

// Queues the log-probabilities of a prompt and returns at once. `limits` and `on_ready` may be NULL. `on_ready` is called
// with `user_data` when they are done.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: as foreturn_generate_submit(). Any thread, callbacks included.
foreturn_status foreturn_logprobs_submit(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_prompt *prompt,
                                         const foreturn_limits *limits,
                                         foreturn_ready_fn on_ready,
                                         void *user_data,
                                         foreturn_pending **out,
                                         foreturn_error **error);

// Queues the computation of a prefix and returns at once. `limits` and `on_ready` may be NULL. `on_ready` is called with
// `user_data` when the prefix is in the cache.
//
// Ownership: the caller frees `*out` with foreturn_pending_free().
//
// Errors: as foreturn_generate_submit(). Any thread, callbacks included.
foreturn_status foreturn_warm_submit(const foreturn_engine *engine,
                                     foreturn_str model,
                                     const foreturn_prompt *prefix,
                                     const foreturn_limits *limits,
                                     foreturn_ready_fn on_ready,
                                     void *user_data,
                                     foreturn_pending **out,
                                     foreturn_error **error);

// Makes the tokens that the local model named `model` sees of a prompt. Writes the first `capacity` of them to `tokens`,
// and the number of all of them to `*count`. `tokens` may be NULL if `capacity` is 0, to only count. It doesn't wait for
// the engine.
//
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH (the prompt is longer than the model's context),
// FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
foreturn_status foreturn_tokens(const foreturn_engine *engine,
                                foreturn_str model,
                                const foreturn_prompt *prompt,
                                uint32_t *tokens,
                                size_t capacity,
                                size_t *count,
                                foreturn_error **error);

// Writes the text that the local model named `model` sees of a prompt: a rendered conversation, or the text of tokens,
// special tokens included. It doesn't wait for the engine.
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
foreturn_status foreturn_prompt_text(const foreturn_engine *engine,
                                     foreturn_str model,
                                     const foreturn_prompt *prompt,
                                     foreturn_string **out,
                                     foreturn_error **error);

// Returns the library's version, such as "0.1.0", in static memory. Any thread.
foreturn_str foreturn_version(void);

// Returns the ABI version of the library. Any thread.
uint32_t foreturn_abi_version(void);

// Writes what this library is as a JSON object: `version`, `abi_version`, `commit` (of git; null if the build didn't know
// it), `features`, `kernels` (the instruction sets that run on this processor), and `runtime` (ONNX Runtime's library,
// version, execution providers, threads and telemetry; null until the first engine is made).
//
// Ownership: the caller frees `*out` with foreturn_string_free().
//
// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
foreturn_status foreturn_build_info(foreturn_string **out,
                                    foreturn_error **error);

// Checks that the library matches the header that the host was compiled with. Call it first, with `header` set to
// FORETURN_ABI_VERSION.
//
// Errors: FORETURN_ERROR_ABI. Any thread.
foreturn_status foreturn_abi_check(uint32_t header,
                                   foreturn_error **error);

// Returns the number of live handles of all types in this process. A host's tests can use it to find handles that are
// never freed. Any thread.
size_t foreturn_handle_count(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FORETURN_H */
