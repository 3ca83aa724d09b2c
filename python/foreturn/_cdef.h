#define FORETURN_ABI_VERSION 0
enum foreturn_status
 {
  FORETURN_OK = 0,
  FORETURN_ERROR_INVALID_ARGUMENT = 100,
  FORETURN_ERROR_INVALID_HANDLE = 101,
  FORETURN_ERROR_REENTRANT = 102,
  FORETURN_ERROR_ABI = 103,
  FORETURN_ERROR_INVALID_REQUEST = 110,
  FORETURN_ERROR_INVALID_CONFIG = 111,
  FORETURN_ERROR_INVALID_MODEL = 200,
  FORETURN_ERROR_UNSUPPORTED = 201,
  FORETURN_ERROR_CONTEXT_LENGTH = 202,
  FORETURN_ERROR_MODEL_OUTPUT = 203,
  FORETURN_ERROR_IO = 300,
  FORETURN_ERROR_RUNTIME = 301,
  FORETURN_ERROR_MEMORY_BUDGET = 302,
  FORETURN_ERROR_CANCELLED = 400,
  FORETURN_ERROR_DEADLINE_EXCEEDED = 401,
  FORETURN_ERROR_OVERLOADED = 402,
  FORETURN_ERROR_CLOSED = 403,
  FORETURN_ERROR_FORKED = 404,
  FORETURN_ERROR_NOT_READY = 405,
  FORETURN_ERROR_INTERNAL = 900,
};
typedef int32_t foreturn_status;
typedef struct foreturn_cancel foreturn_cancel;
typedef struct foreturn_chat_replies foreturn_chat_replies;
typedef struct foreturn_engine foreturn_engine;
typedef struct foreturn_error foreturn_error;
typedef struct foreturn_generation foreturn_generation;
typedef struct foreturn_pending foreturn_pending;
typedef struct foreturn_pin foreturn_pin;
typedef struct foreturn_ranking foreturn_ranking;
typedef struct foreturn_scores foreturn_scores;
typedef struct foreturn_string foreturn_string;
typedef struct {
  const char *data;
  size_t size;
} foreturn_str;
typedef struct {
  foreturn_str role;
  foreturn_str content;
} foreturn_message;
typedef uint32_t foreturn_chat_task;
typedef struct {
  const foreturn_str *spellings;
  size_t spelling_count;
} foreturn_answer;
typedef struct {
  const foreturn_message *messages;
  size_t message_count;
  foreturn_chat_task task;
  uint64_t seed;
  size_t max_tokens;
  float temperature;
  float top_p;
  const foreturn_str *stop;
  size_t stop_count;
  const foreturn_answer *answers;
  size_t answer_count;
  foreturn_str schema_json;
  bool as_user;
} foreturn_chat_request;
typedef int32_t (*foreturn_chat_reply_fn)(void *user_data,
                                          const foreturn_chat_request *requests,
                                          size_t count,
                                          foreturn_chat_replies *replies,
                                          foreturn_str *why);
typedef void (*foreturn_release_fn)(void *user_data);
typedef struct {
  size_t size;
  foreturn_str name;
  foreturn_chat_reply_fn reply;
  bool reproducible;
  void *user_data;
  foreturn_release_fn release;
} foreturn_chat_model;
typedef struct {
  size_t size;
  foreturn_str name;
  foreturn_str path;
} foreturn_model_options;
typedef struct {
  const foreturn_message *messages;
  size_t message_count;
  size_t response;
  foreturn_str goal_json;
  foreturn_str ended;
} foreturn_metric_input;
typedef int32_t (*foreturn_metric_score_fn)(void *user_data,
                                            const foreturn_metric_input *inputs,
                                            size_t count,
                                            double *values,
                                            foreturn_str *why);
typedef struct {
  size_t size;
  foreturn_str name;
  double weight;
  foreturn_metric_score_fn score;
  void *user_data;
  foreturn_release_fn release;
} foreturn_metric;
typedef struct {
  size_t size;
  foreturn_str config_path;
  foreturn_str config_toml;
  foreturn_str base_folder;
  const foreturn_model_options *models;
  size_t model_count;
  const foreturn_metric *metrics;
  size_t metric_count;
  const foreturn_chat_model *chat_models;
  size_t chat_model_count;
  foreturn_str runtime_library;
  uint32_t threads;
  bool use_loaded_runtime;
  bool ignore_environment;
  foreturn_str cores;
} foreturn_engine_options;
typedef uint32_t foreturn_quantize;
typedef void (*foreturn_export_progress_fn)(void *user_data, uint64_t done, uint64_t total);
typedef uint32_t foreturn_dtype;
typedef struct {
  size_t size;
  foreturn_str from;
  foreturn_str to;
  foreturn_quantize quantize;
  uint32_t block;
  bool overwrite;
  foreturn_export_progress_fn on_progress;
  void *user_data;
  foreturn_str adapter;
  bool hard_link;
  foreturn_dtype dtype;
} foreturn_export_options;
typedef struct {
  size_t size;
  const foreturn_message *messages;
  size_t message_count;
  const uint32_t *tokens;
  size_t token_count;
  bool without_generation_prompt;
} foreturn_prompt;
typedef struct {
  uint64_t timeout_ms;
  const foreturn_cancel *cancel;
  int32_t priority;
} foreturn_limits;
typedef void (*foreturn_text_fn)(void *user_data, foreturn_str text);
typedef void (*foreturn_ready_fn)(void *user_data);
typedef struct {
  size_t size;
  foreturn_limits limits;
  size_t max_tokens;
  uint64_t seed;
  bool greedy;
  bool ignore_eos;
  float temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  size_t top_k;
  const foreturn_str *stop;
  size_t stop_count;
  foreturn_text_fn on_text;
  void *user_data;
  foreturn_str schema_json;
  foreturn_ready_fn on_ready;
} foreturn_generate_options;
typedef struct {
  size_t size;
  foreturn_str text;
  foreturn_str finish;
  const uint32_t *tokens;
  const float *logprobs;
  size_t token_count;
  uint64_t prompt_tokens;
  uint64_t reused_tokens;
} foreturn_generation_info;
typedef uint32_t foreturn_log_level;
typedef void (*foreturn_log_fn)(void *user_data, foreturn_log_level level, foreturn_str message);
typedef struct {
  size_t size;
  foreturn_str json;
  const foreturn_message *messages;
  size_t message_count;
  const foreturn_str *candidates;
  size_t candidate_count;
  size_t sample_candidates;
  foreturn_str goal_json;
  bool has_window;
  bool has_seed;
  uint32_t window;
  uint32_t samples;
  uint64_t seed;
  const foreturn_pin *pin;
} foreturn_rank_request;
typedef void (*foreturn_progress_fn)(void *user_data, size_t finished, size_t total);
typedef struct {
  size_t candidate;
  size_t sample;
  const foreturn_message *messages;
  size_t message_count;
  foreturn_str ended;
  uint64_t seed;
  double reward;
  bool has_reward;
  foreturn_str json;
} foreturn_ended_rollout;
typedef void (*foreturn_rollout_fn)(void *user_data, const foreturn_ended_rollout *rollout);
typedef struct {
  size_t candidate;
  double reward;
  double std_error;
  double probability_best;
  size_t rollout_count;
} foreturn_interim;
typedef void (*foreturn_interim_fn)(void *user_data, const foreturn_interim *known, size_t count);
typedef struct {
  size_t size;
  foreturn_limits limits;
  foreturn_progress_fn on_progress;
  foreturn_rollout_fn on_rollout;
  foreturn_ready_fn on_ready;
  void *user_data;
  foreturn_interim_fn on_interim;
} foreturn_rank_options;
typedef struct {
  size_t size;
  size_t candidate_count;
  bool complete;
  bool bitwise;
  double seconds;
  uint64_t prompt_tokens;
  uint64_t reused_tokens;
  uint64_t generated_tokens;
} foreturn_ranking_info;
typedef struct {
  size_t size;
  size_t candidate;
  foreturn_str response;
  double reward;
  double std_error;
  double interval_low;
  double interval_high;
  size_t metric_count;
  size_t rollout_count;
  size_t excluded;
} foreturn_candidate;
typedef struct {
  size_t size;
  foreturn_str name;
  double mean;
  double std_error;
  double weight;
} foreturn_metric_summary;
typedef struct {
  size_t size;
  size_t sample;
  double reward;
  uint64_t seed;
  size_t message_count;
  foreturn_str ended;
  foreturn_str reason;
  bool counted;
} foreturn_rollout;
typedef uint32_t foreturn_refresh_mode;
typedef struct {
  size_t size;
  foreturn_limits limits;
  foreturn_str version;
  foreturn_refresh_mode mode;
  bool shared;
  foreturn_ready_fn on_ready;
  void *user_data;
  foreturn_str adapter;
  foreturn_str adapter_config;
} foreturn_refresh_options;
typedef struct {
  size_t size;
  foreturn_str name;
  foreturn_dtype dtype;
  size_t rank;
  const size_t *shape;
  const void *data;
  size_t byte_count;
} foreturn_tensor;
typedef void (*foreturn_run_progress_fn)(void *user_data, size_t finished, size_t failed, size_t total);
typedef struct {
  size_t size;
  foreturn_str tasks_path;
  foreturn_str folder;
  foreturn_str configuration;
  size_t candidates;
  size_t turns;
  size_t samples;
  size_t concurrency;
  uint64_t max_tokens;
  size_t shard;
  size_t shard_count;
  uint64_t seed;
  bool has_seed;
  bool retry_failed;
  const foreturn_cancel *cancel;
  foreturn_run_progress_fn on_progress;
  void *user_data;
  const foreturn_str *merge;
  size_t merge_count;
  bool parquet;
} foreturn_run_options;
typedef uint32_t foreturn_dataset_format;
typedef struct {
  size_t size;
  const foreturn_message *messages;
  size_t message_count;
  foreturn_str text;
  const uint32_t *tokens;
  size_t token_count;
  const uint32_t *response_tokens;
  size_t response_token_count;
  const foreturn_str *candidates;
  size_t candidate_count;
  const foreturn_pin *pin;
} foreturn_score_input;
typedef uint32_t foreturn_score_task;
typedef struct {
  size_t size;
  foreturn_limits limits;
  foreturn_score_task task;
  foreturn_str step_separator;
  foreturn_str step_marker;
  foreturn_ready_fn on_ready;
  void *user_data;
  bool partial;
} foreturn_score_options;
typedef struct {
  size_t size;
  const double *values;
  size_t value_count;
  size_t row_count;
  size_t tokens;
  size_t response_tokens;
  foreturn_status status;
  uint64_t reused_tokens;
  double seconds;
  const uint32_t *token_ids;
  const float *token_logprobs;
} foreturn_score_info;
typedef struct {
  uint64_t count;
  double sum;
  double p50;
  double p95;
  double p99;
} foreturn_latency;
typedef struct {
  size_t size;
  uint64_t queued_rankings;
  uint64_t queued_calls;
  uint64_t active_rankings;
  uint64_t active_texts;
  uint64_t refused;
  foreturn_latency queue;
  foreturn_latency rank;
  foreturn_latency score;
  foreturn_latency generate;
  foreturn_latency logprobs;
  foreturn_latency warm;
  uint64_t cancelled;
  uint64_t deadlines_missed;
  uint64_t errors;
} foreturn_statistics;
typedef struct {
  size_t size;
  uint64_t steps;
  uint64_t computed_tokens;
  uint64_t prompt_tokens;
  uint64_t reused_tokens;
  uint64_t preemptions;
  uint64_t sequences;
  uint64_t waiting;
  uint64_t cache_blocks;
  uint64_t cache_used_blocks;
  uint64_t cache_peak_blocks;
  uint64_t refreshes;
  uint64_t cache_bytes;
  uint64_t cache_used_bytes;
  uint64_t cache_peak_bytes;
} foreturn_model_statistics;
#define FORETURN_CHAT_GENERATE 0
#define FORETURN_CHAT_CHOOSE 1
#define FORETURN_QUANTIZE_NONE 0
#define FORETURN_QUANTIZE_INT8 1
#define FORETURN_QUANTIZE_INT4 2
#define FORETURN_LOG_WARNING 0
#define FORETURN_LOG_ERROR 1
#define FORETURN_REFRESH_WAIT 0
#define FORETURN_REFRESH_RESTART 1
#define FORETURN_REFRESH_ABORT 2
#define FORETURN_DTYPE_FLOAT32 0
#define FORETURN_DTYPE_BFLOAT16 1
#define FORETURN_DTYPE_FLOAT16 2
#define FORETURN_DATASET_SFT 0
#define FORETURN_DATASET_DPO 1
#define FORETURN_DATASET_REWARD 2
#define FORETURN_DATASET_COLLABLLM_NESTED 3
#define FORETURN_DATASET_COLLABLLM_FLAT 4
#define FORETURN_SCORE_LABELS 0
#define FORETURN_SCORE_STEPS 1
#define FORETURN_SCORE_RESPONSE 2
#define FORETURN_SCORE_EMBEDDING 3
foreturn_status foreturn_chat_model_init(foreturn_chat_model *model, size_t size);
foreturn_status foreturn_chat_replies_text(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str text,
                                           bool cut,
                                           uint64_t prompt_tokens,
                                           uint64_t generated_tokens,
                                           foreturn_error **error);
foreturn_status foreturn_chat_replies_choice(foreturn_chat_replies *replies,
                                             size_t index,
                                             const double *probabilities,
                                             size_t count,
                                             foreturn_error **error);
foreturn_status foreturn_chat_replies_fail(foreturn_chat_replies *replies,
                                           size_t index,
                                           foreturn_str why,
                                           foreturn_error **error);
foreturn_status foreturn_engine_options_init(foreturn_engine_options *options, size_t size);
foreturn_status foreturn_model_options_init(foreturn_model_options *options, size_t size);
foreturn_status foreturn_engine_new(const foreturn_engine_options *options,
                                    foreturn_engine **out,
                                    foreturn_error **error);
foreturn_status foreturn_engine_free(foreturn_engine *engine);
foreturn_status foreturn_cancel_new(foreturn_cancel **out, foreturn_error **error);
foreturn_status foreturn_cancel_cancel(const foreturn_cancel *cancel,
                                       foreturn_error **error);
foreturn_status foreturn_cancel_free(foreturn_cancel *cancel);
foreturn_status foreturn_error_status(const foreturn_error *error);
foreturn_str foreturn_error_message(const foreturn_error *error);
size_t foreturn_error_cause_count(const foreturn_error *error);
foreturn_str foreturn_error_cause(const foreturn_error *error,
                                  size_t index);
foreturn_status foreturn_error_free(foreturn_error *error);
foreturn_status foreturn_export_options_init(foreturn_export_options *options, size_t size);
foreturn_status foreturn_export(const foreturn_export_options *options,
                                foreturn_string **report,
                                foreturn_error **error);
foreturn_status foreturn_prompt_init(foreturn_prompt *prompt, size_t size);
foreturn_status foreturn_generate_options_init(foreturn_generate_options *options, size_t size);
foreturn_status foreturn_generate(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_generate_options *options,
                                  foreturn_generation **out,
                                  foreturn_error **error);
foreturn_status foreturn_logprobs(const foreturn_engine *engine,
                                  foreturn_str model,
                                  const foreturn_prompt *prompt,
                                  const foreturn_limits *limits,
                                  foreturn_generation **out,
                                  foreturn_error **error);
foreturn_status foreturn_generation_read(const foreturn_generation *generation,
                                         foreturn_generation_info *out,
                                         foreturn_error **error);
foreturn_status foreturn_generation_json(const foreturn_generation *generation,
                                         foreturn_string **out,
                                         foreturn_error **error);
foreturn_status foreturn_generation_free(foreturn_generation *generation);
foreturn_status foreturn_render(const foreturn_engine *engine,
                                foreturn_str model,
                                const foreturn_message *messages,
                                size_t message_count,
                                bool generation_prompt,
                                foreturn_string **out,
                                foreturn_error **error);
foreturn_status foreturn_warm(const foreturn_engine *engine,
                              foreturn_str model,
                              const foreturn_prompt *prefix,
                              const foreturn_limits *limits,
                              foreturn_pin **out,
                              foreturn_error **error);
foreturn_status foreturn_pin_tokens(const foreturn_pin *pin, size_t *out, foreturn_error **error);
foreturn_status foreturn_pin_free(foreturn_pin *pin);
foreturn_status foreturn_log_set(foreturn_log_fn log,
                                 void *user_data,
                                 foreturn_error **error);
foreturn_status foreturn_metric_init(foreturn_metric *metric, size_t size);
foreturn_status foreturn_pending_wait(const foreturn_pending *pending,
                                      uint64_t timeout_ms,
                                      bool *ready,
                                      foreturn_error **error);
foreturn_status foreturn_pending_ranking(const foreturn_pending *pending,
                                         foreturn_ranking **out,
                                         foreturn_error **error);
foreturn_status foreturn_pending_scores(const foreturn_pending *pending,
                                        foreturn_scores **out,
                                        foreturn_error **error);
foreturn_status foreturn_pending_generation(const foreturn_pending *pending,
                                            foreturn_generation **out,
                                            foreturn_error **error);
foreturn_status foreturn_pending_pin(const foreturn_pending *pending,
                                     foreturn_pin **out,
                                     foreturn_error **error);
foreturn_status foreturn_pending_version(const foreturn_pending *pending,
                                         foreturn_string **out,
                                         foreturn_error **error);
foreturn_status foreturn_pending_cancel(const foreturn_pending *pending,
                                        foreturn_error **error);
foreturn_status foreturn_pending_free(foreturn_pending *pending);
foreturn_status foreturn_rank_request_init(foreturn_rank_request *request, size_t size);
foreturn_status foreturn_rank_options_init(foreturn_rank_options *options, size_t size);
foreturn_status foreturn_rank(const foreturn_engine *engine,
                              const foreturn_rank_request *request,
                              const foreturn_rank_options *options,
                              foreturn_ranking **out,
                              foreturn_error **error);
foreturn_status foreturn_rank_submit(const foreturn_engine *engine,
                                     const foreturn_rank_request *request,
                                     const foreturn_rank_options *options,
                                     foreturn_pending **out,
                                     foreturn_error **error);
foreturn_status foreturn_rescore(const foreturn_engine *engine,
                                 const foreturn_rank_request *request,
                                 foreturn_str ranking,
                                 const foreturn_rank_options *options,
                                 foreturn_ranking **out,
                                 foreturn_error **error);
foreturn_status foreturn_rescore_submit(const foreturn_engine *engine,
                                        const foreturn_rank_request *request,
                                        foreturn_str ranking,
                                        const foreturn_rank_options *options,
                                        foreturn_pending **out,
                                        foreturn_error **error);
foreturn_status foreturn_ranking_read(const foreturn_ranking *ranking,
                                      foreturn_ranking_info *out,
                                      foreturn_error **error);
foreturn_status foreturn_ranking_candidate(const foreturn_ranking *ranking,
                                           size_t place,
                                           foreturn_candidate *out,
                                           foreturn_error **error);
foreturn_status foreturn_ranking_metric(const foreturn_ranking *ranking,
                                        size_t place,
                                        size_t index,
                                        foreturn_metric_summary *out,
                                        foreturn_error **error);
foreturn_status foreturn_ranking_rollout(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t index,
                                         foreturn_rollout *out,
                                         foreturn_error **error);
foreturn_status foreturn_ranking_message(const foreturn_ranking *ranking,
                                         size_t place,
                                         size_t rollout,
                                         size_t index,
                                         foreturn_message *out,
                                         foreturn_error **error);
foreturn_status foreturn_ranking_json(const foreturn_ranking *ranking,
                                      foreturn_str *out,
                                      foreturn_error **error);
foreturn_status foreturn_ranking_free(foreturn_ranking *ranking);
foreturn_status foreturn_refresh_options_init(foreturn_refresh_options *options, size_t size);
foreturn_status foreturn_refresh(const foreturn_engine *engine,
                                 foreturn_str model,
                                 foreturn_str path,
                                 const foreturn_refresh_options *options,
                                 foreturn_string **out,
                                 foreturn_error **error);
foreturn_status foreturn_refresh_submit(const foreturn_engine *engine,
                                        foreturn_str model,
                                        foreturn_str path,
                                        const foreturn_refresh_options *options,
                                        foreturn_pending **out,
                                        foreturn_error **error);
foreturn_status foreturn_refresh_tensors(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_tensor *tensors,
                                         size_t count,
                                         const foreturn_refresh_options *options,
                                         foreturn_string **out,
                                         foreturn_error **error);
foreturn_status foreturn_run_options_init(foreturn_run_options *options, size_t size);
foreturn_status foreturn_dataset_build(const foreturn_engine *engine,
                                       const foreturn_run_options *options,
                                       foreturn_string **out,
                                       foreturn_error **error);
foreturn_status foreturn_evaluate(const foreturn_engine *const *engines,
                                  const foreturn_str *names,
                                  size_t count,
                                  const foreturn_run_options *options,
                                  foreturn_string **out,
                                  foreturn_error **error);
foreturn_status foreturn_sweep(const foreturn_engine *engine,
                               const foreturn_str *kinds,
                               const foreturn_engine *const *simulators,
                               size_t count,
                               const foreturn_run_options *options,
                               foreturn_string **out,
                               foreturn_error **error);
foreturn_status foreturn_dataset_export(foreturn_str from,
                                        foreturn_str to,
                                        foreturn_dataset_format format,
                                        double minimum_gap,
                                        double minimum_probability,
                                        foreturn_string **out,
                                        foreturn_error **error);
foreturn_status foreturn_score_input_init(foreturn_score_input *input, size_t size);
foreturn_status foreturn_score_options_init(foreturn_score_options *options, size_t size);
foreturn_status foreturn_score(const foreturn_engine *engine,
                               foreturn_str model,
                               const foreturn_score_input *inputs,
                               size_t count,
                               const foreturn_score_options *options,
                               foreturn_scores **out,
                               foreturn_error **error);
foreturn_status foreturn_score_submit(const foreturn_engine *engine,
                                      foreturn_str model,
                                      const foreturn_score_input *inputs,
                                      size_t count,
                                      const foreturn_score_options *options,
                                      foreturn_pending **out,
                                      foreturn_error **error);
foreturn_status foreturn_scores_count(const foreturn_scores *scores, size_t *out, foreturn_error **error);
foreturn_status foreturn_scores_read(const foreturn_scores *scores,
                                     size_t index,
                                     foreturn_score_info *out,
                                     foreturn_error **error);
foreturn_status foreturn_scores_json(const foreturn_scores *scores,
                                     foreturn_str *out,
                                     foreturn_error **error);
foreturn_status foreturn_scores_free(foreturn_scores *scores);
foreturn_status foreturn_engine_statistics(const foreturn_engine *engine,
                                           foreturn_statistics *out,
                                           foreturn_error **error);
foreturn_status foreturn_engine_errors(const foreturn_engine *engine,
                                       int32_t status,
                                       uint64_t *out,
                                       foreturn_error **error);
foreturn_status foreturn_engine_model_statistics(const foreturn_engine *engine,
                                                 foreturn_str model,
                                                 foreturn_model_statistics *out,
                                                 foreturn_error **error);
foreturn_status foreturn_engine_openmetrics(const foreturn_engine *engine,
                                            foreturn_string **out,
                                            foreturn_error **error);
foreturn_status foreturn_engine_statistics_json(const foreturn_engine *engine,
                                                foreturn_string **out,
                                                foreturn_error **error);
foreturn_status foreturn_string_read(const foreturn_string *string,
                                     foreturn_str *out,
                                     foreturn_error **error);
foreturn_status foreturn_string_free(foreturn_string *string);
foreturn_status foreturn_generate_submit(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_prompt *prompt,
                                         const foreturn_generate_options *options,
                                         foreturn_pending **out,
                                         foreturn_error **error);
foreturn_status foreturn_logprobs_submit(const foreturn_engine *engine,
                                         foreturn_str model,
                                         const foreturn_prompt *prompt,
                                         const foreturn_limits *limits,
                                         foreturn_ready_fn on_ready,
                                         void *user_data,
                                         foreturn_pending **out,
                                         foreturn_error **error);
foreturn_status foreturn_warm_submit(const foreturn_engine *engine,
                                     foreturn_str model,
                                     const foreturn_prompt *prefix,
                                     const foreturn_limits *limits,
                                     foreturn_ready_fn on_ready,
                                     void *user_data,
                                     foreturn_pending **out,
                                     foreturn_error **error);
foreturn_status foreturn_tokens(const foreturn_engine *engine,
                                foreturn_str model,
                                const foreturn_prompt *prompt,
                                uint32_t *tokens,
                                size_t capacity,
                                size_t *count,
                                foreturn_error **error);
foreturn_status foreturn_prompt_text(const foreturn_engine *engine,
                                     foreturn_str model,
                                     const foreturn_prompt *prompt,
                                     foreturn_string **out,
                                     foreturn_error **error);
foreturn_str foreturn_version(void);
uint32_t foreturn_abi_version(void);
foreturn_status foreturn_build_info(foreturn_string **out,
                                    foreturn_error **error);
foreturn_status foreturn_abi_check(uint32_t header,
                                   foreturn_error **error);
size_t foreturn_handle_count(void);
