/*
 * What the header promises, kept: `suite SCENARIO[,SCENARIO...] FOLDER`, where FOLDER holds the tiny models. A scenario writes
 * nothing and returns 0, or says what is wrong and returns 1.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static atomic_int ready_calls;

static void on_ready(void *user_data) {
  CALLED_BACK();
  (void)user_data;
  atomic_fetch_add(&ready_calls, 1);
}

static bool has(foreturn_str text, const char *part) {
  return memmem(text.data, text.size, part, strlen(part)) != NULL;
}

/* ---- arguments and handles ---- */

static void arguments(const char *folder) {
  CHECK(foreturn_abi_version() == FORETURN_ABI_VERSION);
  OK(foreturn_abi_check(FORETURN_ABI_VERSION, &error));
  FAILS(FORETURN_ERROR_ABI, foreturn_abi_check(FORETURN_ABI_VERSION + 1, &error));
  CHECK(foreturn_version().size > 0);
  foreturn_string *build = NULL;
  foreturn_str view = {0};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_build_info(NULL, &error));
  OK(foreturn_build_info(&build, &error));
  OK(foreturn_string_read(build, &view, &error));
  CHECK(has(view, "\"version\":\"") && has(view, "\"abi_version\":0") && has(view, "\"commit\":"));
  CHECK(has(view, "\"load-dynamic\"") && has(view, "\"kernels\":{\"float32\":\"") && has(view, "\"runtime\":null"));
  CHECK(foreturn_string_free(build) == FORETURN_OK);

  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  OK(foreturn_build_info(&build, &error));
  OK(foreturn_string_read(build, &view, &error));
  CHECK(has(view, "\"runtime\":{\"library\":\"/") && has(view, "libonnxruntime.so"));
  CHECK(foreturn_string_free(build) == FORETURN_OK);

  foreturn_rank_request request = poem(0, 1);
  foreturn_ranking *ranking = (foreturn_ranking *)(uintptr_t)42;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(NULL, &request, NULL, &ranking, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, NULL, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_rank(engine, NULL, NULL, &ranking, &error));
  CHECK(foreturn_rank(NULL, &request, NULL, &ranking, NULL) == FORETURN_ERROR_INVALID_ARGUMENT);

  /* A length without data, bytes that are no UTF-8, a length beyond memory. */
  request.goal_json = (foreturn_str){NULL, 3};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));
  request.goal_json = (foreturn_str){"\xff\xfe", 2};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));
  request = poem(0, 1);
  request.messages = NULL;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));
  request = poem(0, 1);
  request.candidate_count = SIZE_MAX / 2;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));

  /* Sizes: garbage is refused; a newer host's setting too, unless it is zero. */
  request = poem(0, 1);
  request.size = 3;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));
  struct {
    foreturn_rank_request known;
    uint64_t later;
  } newer = {poem(0, 1), 1};
  newer.known.size = sizeof newer;
  FAILS(FORETURN_ERROR_UNSUPPORTED, foreturn_rank(engine, &newer.known, NULL, &ranking, &error));
  CHECK(ranking == (foreturn_ranking *)(uintptr_t)42); /* outputs are written on success only */
  newer.later = 0;
  OK(foreturn_rank(engine, &newer.known, NULL, &ranking, &error));

  foreturn_candidate candidate = {0};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_ranking_candidate(ranking, 0, &candidate, &error));
  candidate.size = sizeof candidate;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_ranking_candidate(ranking, 2, &candidate, &error));
  OK(foreturn_ranking_candidate(ranking, 1, &candidate, &error));

  /* Freed, foreign and made-up handles. */
  FAILS(FORETURN_ERROR_INVALID_HANDLE,
        foreturn_ranking_candidate((foreturn_ranking *)engine, 0, &candidate, &error));
  CHECK(foreturn_engine_free((foreturn_engine *)ranking) == FORETURN_ERROR_INVALID_HANDLE);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_ERROR_INVALID_HANDLE);
  CHECK(foreturn_ranking_free(NULL) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_ranking_candidate(ranking, 0, &candidate, &error));
  FAILS(FORETURN_ERROR_INVALID_HANDLE,
        foreturn_ranking_candidate((foreturn_ranking *)(uintptr_t)0xdead0, 0, &candidate, &error));

  /* Errors carry their causes. */
  foreturn_engine_options options = {.size = sizeof options, .config_path = str("/nowhere/x.toml")};
  foreturn_engine *none = NULL;
  foreturn_error *error = NULL;
  CHECK(foreturn_engine_new(&options, &none, &error) == FORETURN_ERROR_IO);
  CHECK(foreturn_error_cause_count(error) == 1 && foreturn_error_cause(error, 0).size > 0);
  CHECK(foreturn_error_cause(error, 1).size == 0);
  CHECK(foreturn_error_free(error) == FORETURN_OK);
  CHECK(foreturn_error_free(error) == FORETURN_ERROR_INVALID_HANDLE);
  options.config_toml = str("[models.m]\npath = \"/nowhere\"\n");
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_engine_new(&options, &none, &error));
  options.config_path = (foreturn_str){0};
  FAILS(FORETURN_ERROR_INVALID_MODEL, foreturn_engine_new(&options, &none, &error));
  options.config_toml = str("nonsense = 1\n");
  FAILS(FORETURN_ERROR_INVALID_CONFIG, foreturn_engine_new(&options, &none, &error));

  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_ERROR_INVALID_HANDLE);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- every function that asks a model ---- */

static void on_text(void *user_data, foreturn_str text) {
  CALLED_BACK();
  *(size_t *)user_data += text.size;
}

static void calls(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  const foreturn_message chat[] = {{str("user"), str("How are you?")}};
  foreturn_prompt prompt = {.size = sizeof prompt, .messages = chat, .message_count = 1};

  foreturn_string *text = NULL;
  foreturn_str view = {0};
  OK(foreturn_render(engine, str("m"), chat, 1, true, &text, &error));
  OK(foreturn_string_read(text, &view, &error));
  CHECK(view.size > strlen("How are you?"));
  CHECK(foreturn_string_free(text) == FORETURN_OK);

  /* The tokens of a prompt: how many, some, all; and their text, which is the prompt's. */
  size_t count = 0, again = 0;
  uint32_t tokens[256] = {0}, few[3] = {0, 0, 77};
  OK(foreturn_tokens(engine, str("m"), &prompt, NULL, 0, &count, &error));
  CHECK(count > 3 && count < 256);
  OK(foreturn_tokens(engine, str("m"), &prompt, few, 2, &again, &error));
  OK(foreturn_tokens(engine, str("m"), &prompt, tokens, 256, &again, &error));
  CHECK(again == count && memcmp(few, tokens, 2 * sizeof *few) == 0 && few[2] == 77 && tokens[count] == 0);
  foreturn_string *whole = NULL;
  foreturn_str rendered = {0};
  const foreturn_prompt made = {.size = sizeof made, .tokens = tokens, .token_count = count};
  OK(foreturn_prompt_text(engine, str("m"), &prompt, &whole, &error));
  OK(foreturn_prompt_text(engine, str("m"), &made, &text, &error));
  OK(foreturn_string_read(whole, &rendered, &error));
  OK(foreturn_string_read(text, &view, &error));
  CHECK(view.size == rendered.size && memcmp(view.data, rendered.data, view.size) == 0 && has(view, "How are you?"));
  CHECK(foreturn_string_free(text) == FORETURN_OK && foreturn_string_free(whole) == FORETURN_OK);
  const foreturn_prompt empty = {.size = sizeof empty};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_tokens(engine, str("m"), &prompt, NULL, 1, &count, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_tokens(engine, str("m"), &prompt, tokens, 256, NULL, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_tokens(engine, str("m"), &empty, tokens, 256, &count, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_tokens(engine, str("none"), &prompt, tokens, 256, &count, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_prompt_text(engine, str("m"), &prompt, NULL, &error));

  foreturn_pin *pin = NULL;
  size_t pinned = 0;
  foreturn_limits late = {.timeout_ms = 60000};
  OK(foreturn_warm(engine, str("m"), &prompt, &late, &pin, &error));
  OK(foreturn_pin_tokens(pin, &pinned, &error));
  CHECK(pinned == count);

  size_t streamed = 0;
  foreturn_generate_options how = {.size = sizeof how, .max_tokens = 12, .greedy = true, .ignore_eos = true,
                                   .on_text = on_text, .user_data = &streamed};
  foreturn_generation *reply = NULL;
  foreturn_generation_info info = {.size = sizeof info};
  OK(foreturn_generate(engine, str("m"), &prompt, &how, &reply, &error));
  OK(foreturn_generation_read(reply, &info, &error));
  CHECK(info.token_count == 12 && info.finish.size == 6 && memcmp(info.finish.data, "length", 6) == 0);
  CHECK(info.text.size == streamed);
  CHECK(info.reused_tokens / 16 == pinned / 16);
  for (size_t i = 0; i < info.token_count; i++) CHECK(info.logprobs[i] <= 0);
  OK(foreturn_generation_json(reply, &text, &error));
  OK(foreturn_string_read(text, &view, &error));
  CHECK(memmem(view.data, view.size, "\"finish\":\"length\"", 17) != NULL);
  CHECK(foreturn_string_free(text) == FORETURN_OK);
  CHECK(foreturn_generation_free(reply) == FORETURN_OK);
  CHECK(foreturn_pin_free(pin) == FORETURN_OK);

  OK(foreturn_logprobs(engine, str("m"), &prompt, NULL, &reply, &error));
  info = (foreturn_generation_info){.size = sizeof info};
  OK(foreturn_generation_read(reply, &info, &error));
  CHECK(info.token_count + 1 == info.prompt_tokens && info.prompt_tokens == pinned);
  CHECK(foreturn_generation_free(reply) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_logprobs(engine, str("none"), &prompt, NULL, &reply, &error));

  foreturn_statistics statistics = {.size = sizeof statistics};
  OK(foreturn_engine_statistics(engine, &statistics, &error));
  CHECK(statistics.generate.count == 1 && statistics.warm.count == 1 && statistics.logprobs.count == 1);
  CHECK(statistics.generate.p99 >= statistics.generate.p50 && statistics.generate.p50 > 0);
  foreturn_model_statistics model = {.size = sizeof model};
  OK(foreturn_engine_model_statistics(engine, str("m"), &model, &error));
  CHECK(model.steps > 0 && model.reused_tokens > 0 && model.cache_used_blocks > 0);
  CHECK(model.cache_bytes > 0 && model.cache_bytes <= 1 << 30 && model.cache_bytes % model.cache_blocks == 0);
  const uint64_t block = model.cache_bytes / model.cache_blocks;
  CHECK(model.cache_used_bytes == model.cache_used_blocks * block);
  CHECK(model.cache_peak_bytes == model.cache_peak_blocks * block);

  /* How requests end is counted: one was cancelled, one has a deadline that nothing can meet, one is too long. */
  CHECK(statistics.cancelled == 0 && statistics.deadlines_missed == 0 && statistics.errors == 0);
  foreturn_cancel *cancel = NULL;
  OK(foreturn_cancel_new(&cancel, &error));
  OK(foreturn_cancel_cancel(cancel, &error));
  const foreturn_limits over = {.cancel = cancel}, soon = {.timeout_ms = 1};
  FAILS(FORETURN_ERROR_CANCELLED, foreturn_logprobs(engine, str("m"), &prompt, &over, &reply, &error));
  CHECK(foreturn_cancel_free(cancel) == FORETURN_OK);
  enum { LONG = 8000 };
  uint32_t *many = malloc((LONG + 1000) * sizeof *many);
  for (uint32_t i = 0; i < LONG + 1000; i++) many[i] = 5 + i % 50;
  foreturn_prompt lengthy = {.size = sizeof lengthy, .tokens = many, .token_count = LONG};
  FAILS(FORETURN_ERROR_DEADLINE_EXCEEDED, foreturn_logprobs(engine, str("m"), &lengthy, &soon, &reply, &error));
  lengthy.token_count += 1000;
  FAILS(FORETURN_ERROR_CONTEXT_LENGTH, foreturn_logprobs(engine, str("m"), &lengthy, NULL, &reply, &error));
  free(many);
  OK(foreturn_engine_statistics(engine, &statistics, &error));
  CHECK(statistics.cancelled == 1 && statistics.deadlines_missed == 1 && statistics.errors == 3);
  const foreturn_status ends[] = {FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED,
                                  FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_IO};
  for (size_t i = 0; i < 4; i++) {
    uint64_t ended = 77;
    OK(foreturn_engine_errors(engine, ends[i], &ended, &error));
    CHECK(ended == (i < 3 ? 1 : 0));
  }
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_engine_errors(engine, FORETURN_ERROR_IO, NULL, &error));
  OK(foreturn_engine_openmetrics(engine, &text, &error));
  OK(foreturn_string_read(text, &view, &error));
  CHECK(view.size > 6 && memcmp(view.data + view.size - 6, "# EOF\n", 6) == 0);
  CHECK(has(view, "\nforeturn_errors_total{kind=\"context_length\"} 1\n"));
  CHECK(has(view, "\nforeturn_latency_seconds_bucket{stage=\"generate\",le=\"+Inf\"} 1\n"));
  CHECK(foreturn_string_free(text) == FORETURN_OK);
  OK(foreturn_engine_statistics_json(engine, &text, &error));
  OK(foreturn_string_read(text, &view, &error));
  CHECK(has(view, "\"deadlines_missed\":1,\"errors\":{\"context_length\":1,\"cancelled\":1,"));
  CHECK(foreturn_string_free(text) == FORETURN_OK);

  foreturn_export_options export = {.size = sizeof export, .from = str("/nowhere"), .to = str("/nowhere/else")};
  FAILS(FORETURN_ERROR_IO, foreturn_export(&export, NULL, &error));
  export.quantize = 9;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_export(&export, NULL, &error));
  export.quantize = FORETURN_QUANTIZE_INT8, export.dtype = 7;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_export(&export, NULL, &error));
  export.dtype = FORETURN_DTYPE_BFLOAT16;
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_export(&export, NULL, &error));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- one conversation, several candidates ---- */

/* The scores of the candidates are those of calls of their own. */
static void same_as_apart(foreturn_engine *engine, foreturn_str model, foreturn_score_task task) {
  const foreturn_message history[] = {{str("user"), str("Name a colour that is not red, please, and say why.")},
                                      {str("assistant"), str("Is it about paint, or about light?")},
                                      {str("user"), str("Paint, of course. It is for a kitchen with small windows.")}};
  const foreturn_str replies[] = {str("Blue."), str("I like purple, because it is rare."), str("Red?")};
  const foreturn_score_options how = {.size = sizeof how, .task = task};
  const foreturn_score_input inputs[] = {
      {.size = sizeof *inputs, .messages = history, .message_count = 3, .candidates = replies, .candidate_count = 3},
      {.size = sizeof *inputs, .messages = history, .message_count = 1, .candidates = replies + 2, .candidate_count = 1}};
  foreturn_scores *together = NULL, *apart = NULL;
  size_t count = 0;
  OK(foreturn_score(engine, model, inputs, 2, &how, &together, &error));
  OK(foreturn_scores_count(together, &count, &error));
  CHECK(count == 4);
  uint64_t reused = 0;
  for (size_t i = 0; i < count; i++) {
    const size_t said = i < 3 ? 3 : 1;
    foreturn_message chat[4];
    memcpy(chat, history, sizeof history);
    chat[said] = (foreturn_message){str("assistant"), replies[i < 3 ? i : 2]};
    const foreturn_score_input input = {.size = sizeof input, .messages = chat, .message_count = said + 1};
    foreturn_score_info one = {.size = sizeof one}, other = {.size = sizeof other};
    OK(foreturn_score(engine, model, &input, 1, &how, &apart, &error));
    OK(foreturn_scores_read(together, i, &one, &error));
    OK(foreturn_scores_read(apart, 0, &other, &error));
    CHECK(one.value_count == 1 && other.value_count == 1);
    CHECK(memcmp(one.values, other.values, sizeof *one.values) == 0 && one.tokens == other.tokens);
    CHECK(one.seconds > 0 && one.reused_tokens < one.tokens && other.seconds > 0);
    CHECK(other.reused_tokens >= 16); /* the first call left it in the cache */
    reused += one.reused_tokens;
    CHECK(foreturn_scores_free(apart) == FORETURN_OK);
  }
  CHECK(reused >= 32); /* the history of the second and of the third candidate */
  CHECK(foreturn_scores_free(together) == FORETURN_OK);
}

/* The scores of `input` and of `other`, of which there are `count`, are the same. */
static void same_scores(foreturn_engine *engine, foreturn_str model, const foreturn_score_options *how,
                        const foreturn_score_input *input, const foreturn_score_input *other, size_t count) {
  foreturn_scores *scores[2] = {NULL, NULL};
  size_t counted[2] = {0, 0};
  for (size_t i = 0; i < 2; i++) {
    OK(foreturn_score(engine, model, i == 0 ? input : other, 1, how, &scores[i], &error));
    OK(foreturn_scores_count(scores[i], &counted[i], &error));
    CHECK(counted[i] == count);
  }
  for (size_t i = 0; i < count; i++) {
    foreturn_score_info one = {.size = sizeof one}, same = {.size = sizeof same};
    OK(foreturn_scores_read(scores[0], i, &one, &error));
    OK(foreturn_scores_read(scores[1], i, &same, &error));
    CHECK(one.value_count == 1 && same.value_count == 1 && one.tokens == same.tokens);
    CHECK(memcmp(one.values, same.values, sizeof *one.values) == 0 && one.reused_tokens > 16);
    CHECK((one.response_tokens > 0) == (how->task == FORETURN_SCORE_RESPONSE) && one.response_tokens == same.response_tokens);
    CHECK(memcmp(one.token_ids, same.token_ids, one.response_tokens * sizeof *one.token_ids) == 0);
    CHECK(memcmp(one.token_logprobs, same.token_logprobs, one.response_tokens * sizeof *one.token_logprobs) == 0);
    double sum = 0;
    for (size_t at = 0; at < one.response_tokens; at++) sum += one.token_logprobs[at];
    CHECK(one.response_tokens == 0 || sum == one.values[0]);
  }
  for (size_t i = 0; i < 2; i++) CHECK(foreturn_scores_free(scores[i]) == FORETURN_OK);
}

/* The log-probabilities of a pin's response are the last ones of those of all `tokens`. */
static void same_logprobs(foreturn_engine *engine, foreturn_str model, const uint32_t *tokens, size_t count,
                          const foreturn_score_input *input) {
  const foreturn_prompt all = {.size = sizeof all, .tokens = tokens, .token_count = count};
  const foreturn_score_options how = {.size = sizeof how, .task = FORETURN_SCORE_RESPONSE};
  foreturn_generation *whole = NULL;
  foreturn_scores *scores = NULL;
  foreturn_generation_info wanted = {.size = sizeof wanted};
  foreturn_score_info got = {.size = sizeof got};
  OK(foreturn_logprobs(engine, model, &all, NULL, &whole, &error));
  OK(foreturn_score(engine, model, input, 1, &how, &scores, &error));
  OK(foreturn_generation_read(whole, &wanted, &error));
  OK(foreturn_scores_read(scores, 0, &got, &error));
  const size_t last = got.response_tokens;
  CHECK(last == input->response_token_count && wanted.token_count == count - 1);
  CHECK(memcmp(got.token_ids, tokens + count - last, last * sizeof *tokens) == 0);
  CHECK(memcmp(got.token_logprobs, wanted.logprobs + wanted.token_count - last, last * sizeof *got.token_logprobs) == 0);
  CHECK(foreturn_generation_free(whole) == FORETURN_OK && foreturn_scores_free(scores) == FORETURN_OK);
}

static const foreturn_message LONG_HISTORY[] = {
    {{"user", 4}, {"Name a colour that is not red, please, and say why it is one that you like.", 74}},
    {{"assistant", 9}, {"Is it about paint, or about light?", 34}},
    {{"user", 4}, {"Paint, of course. It is for a kitchen with small windows.", 57}}};

/* A pin stands for the conversation or the tokens in it. */
static void replies_to_pins(foreturn_engine *engine, foreturn_str model, foreturn_score_task task) {
  const foreturn_str replies[] = {str("Blue."), str(" I like purple, <|im_end|> because it is rare.\n"), str("")};
  const foreturn_score_options how = {.size = sizeof how, .task = task};
  foreturn_score_input given = {.size = sizeof given, .messages = LONG_HISTORY, .message_count = 3,
                                .candidates = replies, .candidate_count = 3};
  foreturn_prompt prefix = {.size = sizeof prefix, .messages = LONG_HISTORY, .message_count = 3};
  foreturn_pin *pin = NULL;
  for (int as_is = 0; as_is < 2; as_is++) {
    prefix.without_generation_prompt = as_is == 1;
    OK(foreturn_warm(engine, model, &prefix, NULL, &pin, &error));
    const foreturn_score_input by_pin = {.size = sizeof by_pin, .pin = pin, .candidates = replies, .candidate_count = 3};
    same_scores(engine, model, &how, &by_pin, &given, 3);
    CHECK(foreturn_pin_free(pin) == FORETURN_OK);
    foreturn_scores *scores = NULL;
    FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_score(engine, model, &by_pin, 1, &how, &scores, &error));
  }
  uint32_t tokens[40];
  for (uint32_t i = 0; i < 40; i++) tokens[i] = 5 + i;
  prefix = (foreturn_prompt){.size = sizeof prefix, .tokens = tokens, .token_count = 32};
  OK(foreturn_warm(engine, model, &prefix, NULL, &pin, &error));
  given = (foreturn_score_input){.size = sizeof given, .tokens = tokens, .token_count = 32,
                                 .response_tokens = tokens + 32, .response_token_count = 8};
  const foreturn_score_input by_pin = {.size = sizeof by_pin, .pin = pin, .response_tokens = tokens + 32,
                                       .response_token_count = 8};
  same_scores(engine, model, &how, &by_pin, &given, 1);
  if (task == FORETURN_SCORE_RESPONSE) same_logprobs(engine, model, tokens, 40, &by_pin);
  CHECK(foreturn_pin_free(pin) == FORETURN_OK);
}

/* A pin is good for the model and the engine that keep the prefix, and for nothing beside what goes on from it. */
static void wrong_pins(const char *folder, foreturn_engine *engine) {
  foreturn_engine *other = engine_with(folder, SETTINGS, NULL, NULL);
  const uint32_t tokens[] = {5, 6};
  const foreturn_str text = str("Blue.");
  const foreturn_prompt prefix = {.size = sizeof prefix, .messages = LONG_HISTORY, .message_count = 3};
  const foreturn_prompt numbers = {.size = sizeof numbers, .tokens = tokens, .token_count = 2};
  const foreturn_score_options how = {.size = sizeof how, .task = FORETURN_SCORE_RESPONSE};
  foreturn_pin *pins[4] = {NULL};
  OK(foreturn_warm(engine, str("m"), &prefix, NULL, &pins[0], &error));
  OK(foreturn_warm(engine, str("r"), &prefix, NULL, &pins[1], &error));
  OK(foreturn_warm(other, str("m"), &prefix, NULL, &pins[2], &error));
  OK(foreturn_warm(engine, str("m"), &numbers, NULL, &pins[3], &error));
  const struct {
    foreturn_pin *pin;
    const char *part;
  } wrong[] = {{pins[1], "belongs to model `r`"}, {pins[2], "belongs to another engine"}, {pins[3], "holds tokens"}};
  foreturn_scores *scores = NULL;
  foreturn_ranking *ranking = NULL;
  foreturn_rank_request request = poem(0, 1);
  request.messages = NULL, request.message_count = 0;
  for (size_t i = 0; i < 3; i++) {
    foreturn_error *error = NULL;
    const foreturn_score_input input = {.size = sizeof input, .pin = wrong[i].pin, .candidates = &text, .candidate_count = 1};
    CHECK(foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error) == FORETURN_ERROR_INVALID_REQUEST);
    CHECK(has(foreturn_error_message(error), wrong[i].part) && has(foreturn_error_message(error), "inputs[0].pin"));
    CHECK(foreturn_error_free(error) == FORETURN_OK);
    request.pin = wrong[i].pin, error = NULL;
    CHECK(foreturn_rank(engine, &request, NULL, &ranking, &error) == FORETURN_ERROR_INVALID_REQUEST);
    CHECK(has(foreturn_error_message(error), wrong[i].part) && has(foreturn_error_message(error), "request.pin"));
    CHECK(foreturn_error_free(error) == FORETURN_OK);
  }
  foreturn_score_input input = {.size = sizeof input, .pin = pins[0]};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  input.candidates = &text, input.candidate_count = 1, input.messages = LONG_HISTORY, input.message_count = 3;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  input.messages = NULL, input.message_count = 0, input.response_tokens = tokens, input.response_token_count = 2;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  request = poem(0, 1), request.pin = pins[0];
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &request, NULL, &ranking, &error));
  foreturn_rank_request json = {.size = sizeof json, .json = str("{}"), .pin = pins[0]};
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_rank(engine, &json, NULL, &ranking, &error)); /* without candidates */
  json.json = str("{\"conversation\": [], \"candidates\": 2}");
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &json, NULL, &ranking, &error));
  json.json = str("[]");
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_rank(engine, &json, NULL, &ranking, &error));
  for (size_t i = 0; i < 4; i++) CHECK(foreturn_pin_free(pins[i]) == FORETURN_OK);
  request = poem(0, 1), request.messages = NULL, request.message_count = 0, request.pin = pins[0];
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_rank(engine, &request, NULL, &ranking, &error));
  CHECK(foreturn_engine_free(other) == FORETURN_OK);
}

/* A ranking of candidates that reply to a pin is the ranking of those that reply to its conversation. */
static void ranked_by_pin(foreturn_engine *engine) {
  foreturn_rank_request request = poem(1, 2);
  const foreturn_prompt prefix = {.size = sizeof prefix, .messages = request.messages, .message_count = 1};
  foreturn_pin *pin = NULL;
  foreturn_ranking *rankings[2] = {NULL, NULL};
  OK(foreturn_warm(engine, str("m"), &prefix, NULL, &pin, &error));
  OK(foreturn_rank(engine, &request, NULL, &rankings[0], &error));
  request.messages = NULL, request.message_count = 0, request.pin = pin;
  OK(foreturn_rank(engine, &request, NULL, &rankings[1], &error));
  for (size_t place = 0; place < 2; place++) {
    foreturn_candidate one = {.size = sizeof one}, same = {.size = sizeof same};
    OK(foreturn_ranking_candidate(rankings[0], place, &one, &error));
    OK(foreturn_ranking_candidate(rankings[1], place, &same, &error));
    CHECK(one.candidate == same.candidate && one.reward == same.reward && one.rollout_count == 2);
  }
  for (size_t i = 0; i < 2; i++) CHECK(foreturn_ranking_free(rankings[i]) == FORETURN_OK);
  CHECK(foreturn_pin_free(pin) == FORETURN_OK);
}

static void candidates(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  replies_to_pins(engine, str("r"), FORETURN_SCORE_LABELS);
  replies_to_pins(engine, str("m"), FORETURN_SCORE_RESPONSE);
  ranked_by_pin(engine);
  wrong_pins(folder, engine);
  same_as_apart(engine, str("r"), FORETURN_SCORE_LABELS);
  same_as_apart(engine, str("m"), FORETURN_SCORE_RESPONSE);

  /* What they exclude. */
  const foreturn_message history[] = {{str("user"), str("Hello?")}};
  const foreturn_str replies[] = {str("Hi."), {"\xff", 1}};
  const uint32_t tokens[] = {5, 6};
  const foreturn_score_input fine = {.size = sizeof fine, .messages = history, .message_count = 1,
                                     .candidates = replies, .candidate_count = 1};
  foreturn_score_input wrong[6];
  for (size_t i = 0; i < 6; i++) wrong[i] = fine;
  wrong[0].message_count = 0;
  wrong[1].text = str("A text.");
  wrong[2].tokens = tokens, wrong[2].token_count = 2;
  wrong[3].response_tokens = tokens, wrong[3].response_token_count = 2;
  wrong[4].candidates = NULL;
  wrong[5].candidate_count = 2;
  foreturn_scores *scores = NULL;
  for (size_t i = 0; i < 6; i++)
    FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("r"), &wrong[i], 1, NULL, &scores, &error));
  /* Queued, and in part. */
  foreturn_pending *pending = NULL;
  bool ready = false;
  size_t count = 0;
  foreturn_score_options how = {.size = sizeof how, .partial = true};
  OK(foreturn_score_submit(engine, str("r"), &fine, 1, &how, &pending, &error));
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  OK(foreturn_pending_scores(pending, &scores, &error));
  OK(foreturn_scores_count(scores, &count, &error));
  CHECK(count == 1);
  CHECK(foreturn_scores_free(scores) == FORETURN_OK && foreturn_pending_free(pending) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- new weights ---- */

enum { PROBED = 24 };

struct asker {
  foreturn_engine *engine;
  float first[PROBED], second[PROBED]; /* what the model says with its first and with its second weights */
  atomic_bool over;
  atomic_int saw_first, saw_second, asked;
};

/* The log-probabilities of a few tokens. */
static void probe(foreturn_engine *engine, float *into) {
  uint32_t tokens[PROBED + 1];
  for (uint32_t i = 0; i <= PROBED; i++) tokens[i] = 5 + i;
  foreturn_prompt prompt = {.size = sizeof prompt, .tokens = tokens, .token_count = PROBED + 1};
  foreturn_generation *scored = NULL;
  foreturn_generation_info info = {.size = sizeof info};
  OK(foreturn_logprobs(engine, str("m"), &prompt, NULL, &scored, &error));
  OK(foreturn_generation_read(scored, &info, &error));
  CHECK(info.token_count == PROBED);
  memcpy(into, info.logprobs, PROBED * sizeof *into);
  CHECK(foreturn_generation_free(scored) == FORETURN_OK);
}

static void *keep_asking(void *data) {
  struct asker *asker = data;
  float got[PROBED];
  while (!atomic_load(&asker->over)) {
    probe(asker->engine, got);
    bool first = memcmp(got, asker->first, sizeof got) == 0;
    CHECK(first || memcmp(got, asker->second, sizeof got) == 0); /* never a mixture */
    atomic_fetch_add(first ? &asker->saw_first : &asker->saw_second, 1);
    atomic_fetch_add(&asker->asked, 1);
  }
  return NULL;
}

static void wait_for_answers(struct asker *asker) {
  for (int before = atomic_load(&asker->asked); atomic_load(&asker->asked) < before + 3;) usleep(1000);
}

/* Compares a string that the caller owns, and frees it. */
static bool is(foreturn_string *string, const char *expected) {
  foreturn_str view = {0};
  OK(foreturn_string_read(string, &view, &error));
  bool same = view.size == strlen(expected) && memcmp(view.data, expected, view.size) == 0;
  CHECK(foreturn_string_free(string) == FORETURN_OK);
  return same;
}

/* Another thread asks all the time; it gets what one of the two sets of weights gives. */
static void refresh_under_load(const char *first, const char *second) {
  foreturn_engine *engine = NULL;
  foreturn_model_options model = {.size = sizeof model, .name = str("m"), .path = str(second)};
  foreturn_engine_options options = {.size = sizeof options, .models = &model, .model_count = 1};
  struct asker asker = {0};
  OK(foreturn_engine_new(&options, &engine, &error));
  probe(engine, asker.second);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  model.path = str(first);
  OK(foreturn_engine_new(&options, &engine, &error));
  probe(engine, asker.first);
  CHECK(memcmp(asker.first, asker.second, sizeof asker.first) != 0);

  asker.engine = engine;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, keep_asking, &asker) == 0);
  foreturn_refresh_options how;
  CHECK(foreturn_refresh_options_init(&how, sizeof how) == FORETURN_OK);
  foreturn_string *version = NULL;
  const foreturn_refresh_mode modes[] = {FORETURN_REFRESH_WAIT, FORETURN_REFRESH_RESTART};
  for (size_t i = 0; i < 4; i++) {
    wait_for_answers(&asker);
    how.version = str(i % 2 ? "first" : "second");
    how.mode = modes[i / 2];
    OK(foreturn_refresh(engine, str("m"), str(i % 2 ? first : second), &how, &version, &error));
    CHECK(is(version, i % 2 ? "first" : "second"));
  }
  wait_for_answers(&asker);
  atomic_store(&asker.over, true);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(asker.saw_first > 0 && asker.saw_second > 0);

  /* Queued, and without a name of the host's. */
  foreturn_pending *pending = NULL;
  bool ready = false;
  atomic_store(&ready_calls, 0);
  how = (foreturn_refresh_options){.size = sizeof how, .on_ready = on_ready};
  OK(foreturn_refresh_submit(engine, str("m"), str(second), &how, &pending, &error));
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  foreturn_pin *pin = NULL;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_pending_pin(pending, &pin, &error));
  OK(foreturn_pending_version(pending, &version, &error));
  foreturn_str name = {0};
  OK(foreturn_string_read(version, &name, &error));
  CHECK(name.size > 2 && memcmp(name.data + name.size - 2, "-5", 2) == 0);
  foreturn_string *json = NULL;
  foreturn_str view = {0};
  OK(foreturn_engine_statistics_json(engine, &json, &error));
  OK(foreturn_string_read(json, &view, &error));
  CHECK(memmem(view.data, view.size, name.data, name.size) != NULL);
  CHECK(foreturn_string_free(json) == FORETURN_OK && foreturn_string_free(version) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_pending_version(pending, &version, &error));
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  while (atomic_load(&ready_calls) == 0) usleep(1000);
  float got[PROBED];
  probe(engine, got);
  CHECK(memcmp(got, asker.second, sizeof got) == 0);
  foreturn_model_statistics statistics = {.size = sizeof statistics};
  OK(foreturn_engine_model_statistics(engine, str("m"), &statistics, &error));
  CHECK(statistics.refreshes == 5);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* What can't be exchanged is refused, and the model goes on with the weights that it has. */
static void refresh_refused(const char *folder, const char *first, const char *second) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  float before[PROBED], after[PROBED];
  probe(engine, before);
  foreturn_string *version = (foreturn_string *)(uintptr_t)42;
  foreturn_pending *pending = NULL;
  foreturn_refresh_options how = {.size = sizeof how};
  const foreturn_str m = str("m"), next = str(second);
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(NULL, m, next, &how, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(engine, m, next, &how, NULL, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(engine, m, (foreturn_str){0}, &how, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh_submit(engine, m, next, &how, NULL, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh(engine, str("none"), next, NULL, &version, &error));
  how.mode = 3;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(engine, m, next, &how, &version, &error));
  how = (foreturn_refresh_options){.size = 3};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(engine, m, next, &how, &version, &error));
  how = (foreturn_refresh_options){.size = sizeof how};
  how.version = (foreturn_str){NULL, 3};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_refresh(engine, m, next, &how, &version, &error));
  how.version = (foreturn_str){0};
  /* It plays several roles; and what is in the folder is another model, or none. */
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh(engine, m, next, &how, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh_submit(engine, m, next, NULL, &pending, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh(engine, str("r"), next, &how, &version, &error));
  how.shared = true;
  FAILS(FORETURN_ERROR_INVALID_MODEL, foreturn_refresh(engine, m, str("/nowhere"), &how, &version, &error));
  CHECK(version == (foreturn_string *)(uintptr_t)42 && pending == NULL);
  probe(engine, after);
  CHECK(memcmp(before, after, sizeof before) == 0);

  /* What is asked of the old weights is ended; or the refresh waits for it, and ends with the engine. */
  foreturn_rank_request request = poem(32, 64);
  foreturn_pending *ranking = NULL;
  foreturn_ranking *none = NULL;
  bool ready = false;
  OK(foreturn_rank_submit(engine, &request, NULL, &ranking, &error));
  for (foreturn_statistics now = {.size = sizeof now}; now.active_rankings == 0; usleep(1000))
    OK(foreturn_engine_statistics(engine, &now, &error));
  how.mode = FORETURN_REFRESH_ABORT;
  OK(foreturn_refresh(engine, m, next, &how, &version, &error));
  CHECK(foreturn_string_free(version) == FORETURN_OK);
  OK(foreturn_pending_wait(ranking, UINT64_MAX, &ready, &error));
  FAILS(FORETURN_ERROR_CANCELLED, foreturn_pending_ranking(ranking, &none, &error));
  CHECK(foreturn_pending_free(ranking) == FORETURN_OK);
  probe(engine, after);
  CHECK(memcmp(before, after, sizeof before) != 0);

  OK(foreturn_rank_submit(engine, &request, NULL, &ranking, &error));
  how.mode = FORETURN_REFRESH_WAIT;
  OK(foreturn_refresh_submit(engine, m, str(first), &how, &pending, &error));
  FAILS(FORETURN_ERROR_NOT_READY, foreturn_pending_version(pending, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh(engine, m, next, &how, &version, &error));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  FAILS(FORETURN_ERROR_CLOSED, foreturn_pending_version(pending, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_refresh(engine, m, next, NULL, &version, &error));
  CHECK(foreturn_pending_free(pending) == FORETURN_OK && foreturn_pending_free(ranking) == FORETURN_OK);
}

enum { MOST_TENSORS = 64 };

/* The tensors of a folder's checkpoint, as a trainer has them in memory. */
struct state_dict {
  foreturn_tensor tensors[MOST_TENSORS];
  char names[MOST_TENSORS][128];
  size_t shapes[MOST_TENSORS][2], count;
  char *bytes;
};

static void read_state_dict(const char *folder, struct state_dict *state) {
  char path[4096];
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  long length = ftell(file);
  state->bytes = malloc((size_t)length);
  rewind(file);
  CHECK(fread(state->bytes, 1, (size_t)length, file) == (size_t)length && fclose(file) == 0);
  snprintf(path, sizeof path, "%s/tensors.txt", folder);
  file = fopen(path, "r");
  CHECK(file != NULL);
  for (state->count = 0;; state->count++) {
    size_t i = state->count, place = 0, bytes = 0, rank = 0;
    if (fscanf(file, "%127s %zu %zu %zu", state->names[i], &place, &bytes, &rank) != 4) break;
    CHECK(i + 1 < MOST_TENSORS && rank <= 2);
    for (size_t at = 0; at < rank; at++) CHECK(fscanf(file, "%zu", &state->shapes[i][at]) == 1);
    state->tensors[i] = (foreturn_tensor){.size = sizeof(foreturn_tensor), .name = str(state->names[i]),
                                          .dtype = FORETURN_DTYPE_FLOAT32, .rank = rank, .shape = state->shapes[i],
                                          .data = state->bytes + place, .byte_count = bytes};
  }
  CHECK(fclose(file) == 0 && state->count > 10);
}

/* A message names what was wrong. */
static bool says(const foreturn_error *error, const char *part) {
  foreturn_str message = foreturn_error_message(error);
  bool found = memmem(message.data, message.size, part, strlen(part)) != NULL;
  if (!found) fprintf(stderr, "no %s in: %.*s\n", part, (int)message.size, message.data);
  return found;
}

#define REFUSED(expected, part) \
  do { \
    foreturn_error *why = NULL; \
    CHECK(foreturn_refresh_tensors(engine, str("m"), state.tensors, state.count, &how, &version, &why) == (expected)); \
    CHECK(says(why, part)); \
    CHECK(foreturn_error_free(why) == FORETURN_OK); \
  } while (0)

/* The tensors of a live model give the bits of an export of them; one that is wrong changes nothing. */
static void refresh_from_memory(const char *first, const char *second) {
  static struct state_dict state;
  read_state_dict(second, &state);
  foreturn_engine *engine = NULL;
  foreturn_model_options model = {.size = sizeof model, .name = str("m"), .path = str(second)};
  foreturn_engine_options options = {.size = sizeof options, .models = &model, .model_count = 1};
  float expected[PROBED], before[PROBED], got[PROBED];
  OK(foreturn_engine_new(&options, &engine, &error));
  probe(engine, expected);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  model.path = str(first);
  OK(foreturn_engine_new(&options, &engine, &error));
  probe(engine, before);

  foreturn_string *version = NULL;
  foreturn_refresh_options how = {.size = sizeof how, .version = str("step 1")};
  foreturn_tensor *wrong = &state.tensors[3];
  const foreturn_tensor right = *wrong;
  wrong->name = str("model.layers.0.self_attn.renamed");
  REFUSED(FORETURN_ERROR_INVALID_REQUEST, state.names[3]);
  *wrong = right;
  const size_t other[2] = {state.shapes[3][0] + 1, state.shapes[3][1]};
  wrong->shape = other;
  REFUSED(FORETURN_ERROR_INVALID_REQUEST, state.names[3]);
  const size_t turned[1] = {right.byte_count / sizeof(float)};
  wrong->shape = turned, wrong->rank = 1;
  REFUSED(FORETURN_ERROR_INVALID_REQUEST, state.names[3]);
  *wrong = right, wrong->shape = NULL, wrong->rank = 2;
  REFUSED(FORETURN_ERROR_INVALID_ARGUMENT, state.names[3]);
  *wrong = right, wrong->data = NULL;
  REFUSED(FORETURN_ERROR_INVALID_ARGUMENT, state.names[3]);
  *wrong = right, wrong->dtype = 9;
  REFUSED(FORETURN_ERROR_INVALID_ARGUMENT, state.names[3]);
  *wrong = right, wrong->size = 1;
  REFUSED(FORETURN_ERROR_INVALID_ARGUMENT, "sizeof(foreturn_tensor)");
  *wrong = right;
  float kept, nan = NAN;
  char *number = state.bytes + ((const char *)right.data - state.bytes) + 4;
  memcpy(&kept, number, sizeof kept), memcpy(number, &nan, sizeof nan);
  REFUSED(FORETURN_ERROR_INVALID_MODEL, state.names[3]);
  memcpy(number, &kept, sizeof kept);
  state.count--;
  REFUSED(FORETURN_ERROR_INVALID_REQUEST, state.names[state.count]);
  state.count++;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT,
        foreturn_refresh_tensors(engine, str("m"), NULL, 2, &how, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_refresh_tensors(engine, str("m"), NULL, 0, &how, &version, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST,
        foreturn_refresh_tensors(engine, str("none"), state.tensors, state.count, &how, &version, &error));
  how.adapter = str(second);
  REFUSED(FORETURN_ERROR_INVALID_MODEL, "adapter_config.json");
  how.adapter_config = str("{}");
  REFUSED(FORETURN_ERROR_INVALID_ARGUMENT, "adapter_config");
  how.adapter = (foreturn_str){0};
  REFUSED(FORETURN_ERROR_UNSUPPORTED, "peft_type");
  how.adapter_config = str("{\"peft_type\": \"LORA\", \"lora_alpha\": 8}");
  REFUSED(FORETURN_ERROR_INVALID_REQUEST, "no weights of an adapter");
  how.adapter_config = (foreturn_str){0};
  CHECK(version == NULL);
  probe(engine, got);
  CHECK(memcmp(got, before, sizeof got) == 0);

  OK(foreturn_refresh_tensors(engine, str("m"), state.tensors, state.count, &how, &version, &error));
  CHECK(is(version, "step 1"));
  /* They were borrowed for the call only. */
  free(state.bytes);
  probe(engine, got);
  CHECK(memcmp(got, expected, sizeof got) == 0);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

static void refreshed(const char *folder) {
  char first[4096], second[4096];
  snprintf(first, sizeof first, "%s/smollm2", folder);
  snprintf(second, sizeof second, "%s/smollm2-next", folder);
  refresh_under_load(first, second);
  refresh_from_memory(first, second);
  refresh_refused(folder, first, second);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- ranking: `suite rank FOLDER CONFIG REQUEST` writes the JSON, for the command line's to be compared with ---- */

/* The same judge gives the same futures the same rewards. */
static void rescored(foreturn_engine *engine, const foreturn_rank_request *request, foreturn_ranking *ranking,
                     foreturn_str json) {
  foreturn_ranking *again = NULL;
  foreturn_pending *pending = NULL;
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_rescore(engine, request, str("{}"), NULL, &again, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_rescore_submit(engine, request, str(""), NULL, &pending, &error));
  for (int queued = 0; queued < 2; queued++) {
    if (queued) {
      bool ready = false;
      OK(foreturn_rescore_submit(engine, request, json, NULL, &pending, &error));
      OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
      OK(foreturn_pending_ranking(pending, &again, &error));
      CHECK(ready && foreturn_pending_free(pending) == FORETURN_OK);
    } else {
      OK(foreturn_rescore(engine, request, json, NULL, &again, &error));
    }
    foreturn_ranking_info info = {.size = sizeof info};
    OK(foreturn_ranking_read(again, &info, &error));
    CHECK(info.candidate_count == 2 && info.complete);
    for (size_t place = 0; place < info.candidate_count; place++) {
      foreturn_candidate was = {.size = sizeof was}, is = {.size = sizeof is};
      OK(foreturn_ranking_candidate(ranking, place, &was, &error));
      OK(foreturn_ranking_candidate(again, place, &is, &error));
      CHECK(is.candidate == was.candidate && is.reward == was.reward && is.std_error == was.std_error);
    }
    CHECK(foreturn_ranking_free(again) == FORETURN_OK);
  }
}

static void print_ranking(const char *config, const char *request_json) {
  foreturn_engine_options options = {.size = sizeof options, .config_path = str(config)};
  foreturn_rank_request request = {.size = sizeof request, .json = str(request_json)};
  foreturn_engine *engine = NULL;
  foreturn_ranking *ranking = NULL;
  foreturn_str json = {0};
  OK(foreturn_engine_new(&options, &engine, &error));
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  OK(foreturn_ranking_json(ranking, &json, &error));
  printf("%.*s\n", (int)json.size, json.data);

  /* What the accessors say is what the JSON says; the driver compares the latter. */
  foreturn_ranking_info info = {.size = sizeof info};
  OK(foreturn_ranking_read(ranking, &info, &error));
  CHECK(info.candidate_count == 2 && info.complete && info.bitwise && info.prompt_tokens > info.reused_tokens);
  for (size_t place = 0; place < info.candidate_count; place++) {
    foreturn_candidate candidate = {.size = sizeof candidate};
    OK(foreturn_ranking_candidate(ranking, place, &candidate, &error));
    double sum = 0, weighed = 0;
    for (size_t i = 0; i < candidate.rollout_count; i++) {
      foreturn_rollout rollout = {.size = sizeof rollout};
      foreturn_message message = {0};
      OK(foreturn_ranking_rollout(ranking, place, i, &rollout, &error));
      CHECK(rollout.counted && rollout.reason.size == 0 && rollout.ended.size > 0 && rollout.sample == i);
      for (size_t at = 0; at < rollout.message_count; at++)
        OK(foreturn_ranking_message(ranking, place, i, at, &message, &error));
      FAILS(FORETURN_ERROR_INVALID_ARGUMENT,
            foreturn_ranking_message(ranking, place, i, rollout.message_count, &message, &error));
      sum += rollout.reward;
    }
    CHECK(fabs(sum / (double)candidate.rollout_count - candidate.reward) < 1e-12);
    CHECK(candidate.interval_low <= candidate.reward && candidate.reward <= candidate.interval_high);
    for (size_t i = 0; i < candidate.metric_count; i++) {
      foreturn_metric_summary metric = {.size = sizeof metric};
      OK(foreturn_ranking_metric(ranking, place, i, &metric, &error));
      weighed += metric.weight * metric.mean;
    }
    CHECK(fabs(weighed - candidate.reward) < 1e-12);
  }
  rescored(engine, &request, ranking, json);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- eight threads, one engine, two hundred requests ---- */

enum { THREADS = 8, EACH = 25, CANDIDATES = 4 };

static foreturn_engine *shared;
static double serial[THREADS * EACH][CANDIDATES], threaded[THREADS * EACH][CANDIDATES];

static void score_one(size_t number, double *into) {
  char texts[CANDIDATES + 1][64];
  snprintf(texts[0], sizeof texts[0], "Question number %zu of this very long list?", number % 20);
  foreturn_message chats[CANDIDATES][2];
  foreturn_score_input inputs[CANDIDATES];
  for (size_t i = 0; i < CANDIDATES; i++) {
    snprintf(texts[i + 1], sizeof texts[i + 1], "Answer %zu to %zu", i, number);
    chats[i][0] = (foreturn_message){str("user"), str(texts[0])};
    chats[i][1] = (foreturn_message){str("assistant"), str(texts[i + 1])};
    inputs[i] = (foreturn_score_input){.size = sizeof inputs[i], .messages = chats[i], .message_count = 2};
  }
  foreturn_scores *scores = NULL;
  size_t count = 0;
  OK(foreturn_score(shared, str("r"), inputs, CANDIDATES, NULL, &scores, &error));
  OK(foreturn_scores_count(scores, &count, &error));
  CHECK(count == CANDIDATES);
  for (size_t i = 0; i < CANDIDATES; i++) {
    foreturn_score_info info = {.size = sizeof info};
    OK(foreturn_scores_read(scores, i, &info, &error));
    CHECK(info.value_count == 1 && info.row_count == 1 && info.tokens > 0);
    into[i] = info.values[0];
  }
  CHECK(foreturn_scores_free(scores) == FORETURN_OK);
}

static void *score_some(void *first) {
  for (size_t i = 0; i < EACH; i++) score_one((size_t)first + i, threaded[(size_t)first + i]);
  return NULL;
}

static void threads(const char *folder) {
  shared = engine_with(folder, SETTINGS, NULL, NULL);
  for (size_t i = 0; i < THREADS * EACH; i++) score_one(i, serial[i]);
  CHECK(foreturn_engine_free(shared) == FORETURN_OK);
  shared = engine_with(folder, SETTINGS, NULL, NULL);
  pthread_t all[THREADS];
  for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&all[i], NULL, score_some, (void *)(i * EACH)) == 0);
  for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(all[i], NULL) == 0);
  CHECK(memcmp(serial, threaded, sizeof serial) == 0);
  CHECK(foreturn_engine_free(shared) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- the course of a request ---- */

/* Submits a long ranking, cancels it by its token, and returns the seconds until it was over. */
static double cancel_one(foreturn_engine *engine, const foreturn_rank_request *request) {
  foreturn_cancel *cancel = NULL;
  OK(foreturn_cancel_new(&cancel, &error));
  foreturn_rank_options options = {.size = sizeof options, .limits = {.cancel = cancel}};
  foreturn_pending *pending = NULL;
  foreturn_ranking *ranking = NULL;
  bool ready = true;
  OK(foreturn_rank_submit(engine, request, &options, &pending, &error));
  OK(foreturn_pending_wait(pending, 50, &ready, &error));
  CHECK(!ready);
  FAILS(FORETURN_ERROR_NOT_READY, foreturn_pending_ranking(pending, &ranking, &error));
  double start = now();
  OK(foreturn_cancel_cancel(cancel, &error));
  CHECK(foreturn_cancel_free(cancel) == FORETURN_OK);
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  double took = now() - start;
  CHECK(ready);
  foreturn_scores *scores = NULL;
  foreturn_status other = foreturn_pending_scores(pending, &scores, NULL);
  CHECK(other == FORETURN_ERROR_INVALID_ARGUMENT || other == FORETURN_ERROR_CANCELLED);
  /* What there is: perhaps nothing that could be ranked. */
  foreturn_error *error = NULL;
  if (foreturn_pending_ranking(pending, &ranking, &error) == FORETURN_OK) {
    foreturn_ranking_info info = {.size = sizeof info};
    CHECK(foreturn_ranking_read(ranking, &info, NULL) == FORETURN_OK && !info.complete);
    CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
    FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_pending_ranking(pending, &ranking, &error));
  } else {
    CHECK(foreturn_error_free(error) == FORETURN_OK);
  }
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  return took;
}

static void cancelled(const char *folder) {
  /* step_budget_ms is 100. A machine with other things to do may be late, but not each time. */
  const double BUDGET = 0.1;
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(32, 64);
  double took = 1;
  for (int tries = 0; tries < 20 && took > BUDGET; tries++) took = cancel_one(engine, &request);
  CHECK(took <= BUDGET);

  /* One that is cancelled already, and a deadline. */
  const foreturn_message chat[] = {{str("user"), str("Hello?")}};
  foreturn_prompt prompt = {.size = sizeof prompt, .messages = chat, .message_count = 1};
  foreturn_generation *reply = NULL;
  foreturn_cancel *cancel = NULL;
  OK(foreturn_cancel_new(&cancel, &error));
  OK(foreturn_cancel_cancel(cancel, &error));
  foreturn_limits limits = {.cancel = cancel};
  FAILS(FORETURN_ERROR_CANCELLED, foreturn_logprobs(engine, str("m"), &prompt, &limits, &reply, &error));
  CHECK(foreturn_cancel_free(cancel) == FORETURN_OK);
  foreturn_rank_options options = {.size = sizeof options, .limits = {.timeout_ms = 50}};
  foreturn_ranking *ranking = NULL;
  took = 1;
  for (int tries = 0; tries < 20 && took > 0.05 + BUDGET; tries++) {
    double start = now();
    foreturn_status status = foreturn_rank(engine, &request, &options, &ranking, NULL);
    took = now() - start;
    if (status == FORETURN_OK) CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  }
  CHECK(took <= 0.05 + BUDGET);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

static void *wait_closed(void *pending) {
  bool ready = false;
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  CHECK(ready);
  return NULL;
}

static void destroyed(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(32, 64);
  foreturn_pending *pending[24] = {0};
  pthread_t waiting[24];
  for (size_t i = 0; i < 24; i++) {
    OK(foreturn_rank_submit(engine, &request, NULL, &pending[i], &error));
    CHECK(pthread_create(&waiting[i], NULL, wait_closed, pending[i]) == 0);
  }
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  for (size_t i = 0; i < 24; i++) {
    foreturn_ranking *ranking = NULL;
    CHECK(pthread_join(waiting[i], NULL) == 0);
    FAILS(FORETURN_ERROR_CLOSED, foreturn_pending_ranking(pending[i], &ranking, &error));
    CHECK(foreturn_pending_free(pending[i]) == FORETURN_OK);
  }
  CHECK(foreturn_handle_count() == 0);
}

static void overloaded(const char *folder) {
  foreturn_engine *engine = engine_with(folder, "[runtime]\nmax_queued = 2\n" SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(32, 32);
  foreturn_rank_options options = {.size = sizeof options, .on_ready = on_ready};
  atomic_store(&ready_calls, 0);
  enum { MANY = 40 };
  foreturn_pending *pending[MANY] = {0};
  /* Sixteen may be at work and two may wait. The others are refused when they are submitted. */
  enum { TAKEN = 18 };
  for (size_t i = 0; i < TAKEN; i++) OK(foreturn_rank_submit(engine, &request, &options, &pending[i], &error));
  for (size_t i = TAKEN; i < MANY; i++) {
    FAILS(FORETURN_ERROR_OVERLOADED, foreturn_rank_submit(engine, &request, &options, &pending[i], &error));
    CHECK(pending[i] == NULL);
  }
  bool ready = false;
  foreturn_statistics statistics = {.size = sizeof statistics};
  OK(foreturn_engine_statistics(engine, &statistics, &error));
  CHECK(statistics.refused == MANY - TAKEN && statistics.queued_rankings <= TAKEN && statistics.errors == 0);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  for (size_t i = 0; i < TAKEN; i++) {
    OK(foreturn_pending_wait(pending[i], UINT64_MAX, &ready, &error));
    CHECK(foreturn_pending_free(pending[i]) == FORETURN_OK);
  }
  CHECK(atomic_load(&ready_calls) == TAKEN);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- callbacks ---- */

struct host {
  foreturn_engine *engine;
  atomic_int metric_calls, model_calls, progress_calls, rollouts, released, reentrant;
  atomic_int slept;
  size_t counted;
  bool fail, slow;
};

static void release(void *user_data) {
  CALLED_BACK();
  atomic_fetch_add(&((struct host *)user_data)->released, 1);
}

static int32_t count_messages(void *user_data, const foreturn_metric_input *inputs, size_t count, double *values,
                              foreturn_str *why) {
  CALLED_BACK();
  struct host *host = user_data;
  atomic_fetch_add(&host->metric_calls, 1);
  if (host->slow) {
    CHECK(foreturn_engine_free(host->engine) == FORETURN_ERROR_REENTRANT);
    usleep(300000);
    atomic_fetch_add(&host->slept, 1);
  }
  if (host->fail) {
    *why = str("out of paper");
    return 7;
  }
  for (size_t i = 0; i < count; i++) {
    CHECK(inputs[i].response < inputs[i].message_count);
    CHECK(inputs[i].messages[inputs[i].response].role.size == 9); /* assistant */
    CHECK(inputs[i].goal_json.size > 2 && inputs[i].ended.size > 0);
    values[i] = (double)inputs[i].message_count;
  }
  return 0;
}

/* Calls that wait, from where the engine waits for us. */
static void call_back(struct host *host) {
  foreturn_rank_request request = poem(0, 1);
  foreturn_ranking *ranking = NULL;
  foreturn_statistics statistics = {.size = sizeof statistics};
  foreturn_string *version = NULL;
  FAILS(FORETURN_ERROR_REENTRANT, foreturn_rank(host->engine, &request, NULL, &ranking, &error));
  FAILS(FORETURN_ERROR_REENTRANT, foreturn_refresh(host->engine, str("m"), str("x"), NULL, &version, &error));
  FAILS(FORETURN_ERROR_REENTRANT, foreturn_refresh_tensors(host->engine, str("m"), NULL, 0, NULL, &version, &error));
  OK(foreturn_engine_statistics(host->engine, &statistics, &error));
  CHECK(foreturn_engine_free(host->engine) == FORETURN_ERROR_REENTRANT);
  atomic_fetch_add(&host->reentrant, 1);
}

static void on_progress(void *user_data, size_t finished, size_t total) {
  CALLED_BACK();
  struct host *host = user_data;
  CHECK(finished <= total && total == 4);
  atomic_fetch_add(&host->progress_calls, 1);
  call_back(host);
}

static void on_rollout(void *user_data, const foreturn_ended_rollout *rollout) {
  CALLED_BACK();
  struct host *host = user_data;
  CHECK(rollout->candidate < 2 && rollout->sample < 2 && rollout->message_count == 2);
  atomic_fetch_add(&host->rollouts, 1);
}

static void on_interim(void *user_data, const foreturn_interim *known, size_t count) {
  CALLED_BACK();
  struct host *host = user_data;
  CHECK(count == 2 && known[0].reward >= known[1].reward && known[0].rollout_count == known[1].rollout_count);
  CHECK(isnan(known[0].std_error) == (known[0].rollout_count == 1));
  host->counted = known[0].rollout_count;
}

static int32_t reply(void *user_data, const foreturn_chat_request *requests, size_t count,
                     foreturn_chat_replies *replies, foreturn_str *why) {
  CALLED_BACK();
  struct host *host = user_data;
  (void)why;
  atomic_fetch_add(&host->model_calls, 1);
  call_back(host);
  for (size_t i = 0; i < count; i++) {
    CHECK(requests[i].task == FORETURN_CHAT_GENERATE && requests[i].message_count >= 3 && requests[i].max_tokens > 0);
    const double half = 0.5;
    FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_chat_replies_choice(replies, i, &half, 1, &error));
    OK(foreturn_chat_replies_text(replies, i, str("Gladly."), false, 10, 2, &error));
  }
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT,
        foreturn_chat_replies_text(replies, count, str("?"), false, 0, 0, &error));
  return 0;
}

static void callbacks(const char *folder) {
  struct host host = {0};
  foreturn_metric metric = {.size = sizeof metric, .name = str("length"), .weight = 0.5, .score = count_messages,
                            .user_data = &host, .release = release};
  foreturn_chat_model model = {.size = sizeof model, .name = str("host"), .reply = reply, .reproducible = true,
                               .user_data = &host, .release = release};
  host.engine = engine_with(folder, SETTINGS, &metric, &model);
  foreturn_rank_request request = poem(1, 2);
  foreturn_rank_options options = {.size = sizeof options, .on_progress = on_progress, .on_rollout = on_rollout,
                                   .user_data = &host, .on_interim = on_interim};
  foreturn_ranking *ranking = NULL;
  OK(foreturn_rank(host.engine, &request, &options, &ranking, &error));
  CHECK(host.metric_calls > 0 && host.model_calls > 0 && host.progress_calls > 0 && host.rollouts == 4 && host.counted == 2);
  foreturn_metric_summary summary = {.size = sizeof summary};
  OK(foreturn_ranking_metric(ranking, 0, 0, &summary, &error)); /* by name: length, token_amount */
  CHECK(summary.name.size == 6 && summary.mean == 4 && summary.weight == 0.5);
  foreturn_rollout rollout = {.size = sizeof rollout};
  foreturn_message message = {0};
  OK(foreturn_ranking_rollout(ranking, 0, 0, &rollout, &error));
  OK(foreturn_ranking_message(ranking, 0, 0, 1, &message, &error));
  CHECK(message.content.size == 7 && memcmp(message.content.data, "Gladly.", 7) == 0);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);

  /* A metric that fails leaves nothing to rank; the reason is told. */
  host.fail = true;
  foreturn_error *error = NULL;
  CHECK(foreturn_rank(host.engine, &request, NULL, &ranking, &error) == FORETURN_ERROR_MODEL_OUTPUT);
  foreturn_str why = foreturn_error_message(error);
  CHECK(memmem(why.data, why.size, "out of paper", 12) != NULL);
  CHECK(foreturn_error_free(error) == FORETURN_OK);
  CHECK(host.released == 0);

  /* The engine's end waits for a metric that is at work. */
  host.fail = false;
  host.slow = true;
  int before = host.metric_calls;
  foreturn_pending *pending = NULL;
  request = poem(0, 1);
  OK(foreturn_rank_submit(host.engine, &request, NULL, &pending, &error));
  while (host.metric_calls == before) usleep(1000);
  CHECK(foreturn_engine_free(host.engine) == FORETURN_OK);
  CHECK(host.slept > 0 && host.released == 2);
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);

  /* What was handed over is let go of also where no engine comes of it. */
  foreturn_engine_options broken = {.size = sizeof broken, .config_toml = str("nonsense = 1\n"), .metrics = &metric,
                                    .metric_count = 1};
  foreturn_engine *none = NULL;
  FAILS(FORETURN_ERROR_INVALID_CONFIG, foreturn_engine_new(&broken, &none, &error));
  CHECK(host.released == 3);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- whole conversations ---- */

static atomic_int told;

static void on_run(void *user_data, size_t finished, size_t failed, size_t total) {
  CALLED_BACK();
  CHECK(user_data == &told && finished + failed <= total && failed == 0);
  atomic_fetch_add(&told, 1);
}

static bool result_has(foreturn_string *text, const char *part) {
  foreturn_str read = {0};
  OK(foreturn_string_read(text, &read, &error));
  return has(read, part);
}

static void runs(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  char place[512], tasks[544], built[544], evaluated[544];
  snprintf(place, sizeof place, "%s/runs-%d", folder, (int)getpid());
  CHECK(mkdir(place, 0700) == 0);
  snprintf(tasks, sizeof tasks, "%s/tasks.jsonl", place);
  snprintf(built, sizeof built, "%s/built", place);
  snprintf(evaluated, sizeof evaluated, "%s/evaluated", place);
  FILE *file = fopen(tasks, "w");
  CHECK(file != NULL);
  for (int i = 0; i < 3; i++)
    fprintf(file, "{\"id\": %d, \"conversation\": [{\"role\": \"user\", \"content\": \"A poem, number %d.\"}]}\n", i, i);
  fprintf(file, "{\"id\": 9}\n");
  CHECK(fclose(file) == 0);

  foreturn_run_options options;
  OK(foreturn_run_options_init(&options, sizeof options));
  foreturn_string *result = NULL;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_dataset_build(engine, &options, &result, &error));
  options.tasks_path = str("/nowhere/tasks.jsonl");
  options.folder = str(built);
  FAILS(FORETURN_ERROR_IO, foreturn_dataset_build(engine, &options, &result, &error));
  options.tasks_path = str(tasks);
  options.candidates = 2;
  options.turns = 1;
  options.has_seed = true;
  options.seed = 7;
  options.on_progress = on_run;
  options.user_data = &told;

  /* A run that is cancelled from the start holds nothing, and the next one goes on. */
  foreturn_cancel *cancel = NULL;
  OK(foreturn_cancel_new(&cancel, &error));
  OK(foreturn_cancel_cancel(cancel, &error));
  options.cancel = cancel;
  OK(foreturn_dataset_build(engine, &options, &result, &error));
  CHECK(result_has(result, "\"stopped\":\"cancelled\"") && result_has(result, "\"left\":3") && told == 0);
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  CHECK(foreturn_cancel_free(cancel) == FORETURN_OK);
  options.cancel = NULL;
  OK(foreturn_dataset_build(engine, &options, &result, &error));
  CHECK(result_has(result, "\"finished\":3,\"set_aside\":1,\"retried\":0,\"left\":0,\"stopped\":\"complete\"") && told == 3);
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  options.seed = 8;
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_dataset_build(engine, &options, &result, &error));

  const foreturn_engine *engines[] = {engine, engine};
  const foreturn_str names[] = {str("a"), str("b")};
  options.folder = str(evaluated);
  OK(foreturn_evaluate(engines, names, 2, &options, &result, &error));
  CHECK(result_has(result, "\"policy\":\"b\",\"minus\":\"a\"") && result_has(result, "\"conversations\":3") && told == 9);
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_evaluate(engines, names, 0, &options, &result, &error));
  options.shard = 3;
  options.shard_count = 2;
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_evaluate(engines, names, 2, &options, &result, &error));
  options.shard_count = 0;

  /* What was built becomes pairs; a build elsewhere takes over what is there, and holds nothing. */
  snprintf(place, sizeof place, "%s/pairs.jsonl", folder);
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_dataset_export(str(built), str(place), 9, 0, 0, &result, &error));
  FAILS(FORETURN_ERROR_INVALID_REQUEST,
        foreturn_dataset_export(str(built), str(place), FORETURN_DATASET_DPO, 0, 0.2, &result, &error));
  OK(foreturn_dataset_export(str(built), str(place), FORETURN_DATASET_SFT, 0, 0, &result, &error));
  CHECK(result_has(result, "\"conversations\":3,\"rows\":3"));
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  CHECK(remove(place) == 0);
  const foreturn_str parts[] = {str(built)};
  snprintf(place, sizeof place, "%s/merged-%d", folder, (int)getpid());
  options.folder = str(place);
  options.merge = parts;
  options.merge_count = 1;
  options.seed = 7;
  options.parquet = true;
  told = 0;
  OK(foreturn_dataset_build(engine, &options, &result, &error));
  CHECK(result_has(result, "\"finished\":3") && told == 0);
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  char parquet[544];
  snprintf(parquet, sizeof parquet, "%s/dataset.parquet", place);
  CHECK(access(parquet, R_OK) == 0);

  /* Kinds of reward, the last of which has a simulator of its own. */
  snprintf(place, sizeof place, "%s/swept-%d", folder, (int)getpid());
  options.folder = str(place);
  options.merge_count = 0;
  options.turns = options.samples = 2;
  const foreturn_str kinds[] = {str("w=0"), str("w=1"), str("w=1,style=short")};
  const foreturn_engine *simulators[] = {NULL, NULL, engine};
  OK(foreturn_sweep(engine, kinds, simulators, 3, &options, &result, &error));
  CHECK(result_has(result, "\"name\":\"w=1,style=short\"") && result_has(result, "\"policy\":\"policy\""));
  CHECK(foreturn_string_free(result) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_sweep(engine, kinds, NULL, 3, &options, &result, &error));
  simulators[0] = engine;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_sweep(engine, kinds, simulators, 3, &options, &result, &error));
  const foreturn_str unknown[] = {str("v=1")};
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_sweep(engine, unknown, NULL, 1, &options, &result, &error));

  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- manners of a guest ---- */

static void use(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(1, 2);
  foreturn_ranking *ranking = NULL;
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

static void signals(const char *folder) {
  struct sigaction before[NSIG], after;
  sigset_t mask, then;
  stack_t stack, later;
  for (int s = 1; s < NSIG; s++) sigaction(s, NULL, &before[s]);
  CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0 && sigaltstack(NULL, &stack) == 0);
  use(folder);
  for (int s = 1; s < NSIG; s++)
    if (sigaction(s, NULL, &after) == 0) CHECK(after.sa_handler == before[s].sa_handler);
  CHECK(pthread_sigmask(SIG_BLOCK, NULL, &then) == 0 && sigaltstack(NULL, &later) == 0);
  for (int s = 1; s < NSIG; s++) CHECK(sigismember(&then, s) == sigismember(&mask, s));
  CHECK(later.ss_sp == stack.ss_sp && later.ss_flags == stack.ss_flags);
}

/* That nothing is written the driver sees for itself, in every scenario; this one has something go wrong as well. */
static void streams(const char *folder) {
  use(folder);
  foreturn_engine_options options = {.size = sizeof options, .config_toml = str("[models.x]\npath = \"/dev/null\"\n")};
  foreturn_engine *none = NULL;
  CHECK(foreturn_engine_new(&options, &none, NULL) != FORETURN_OK);
}

static void surroundings(const char *folder) {
  char before[4096], after[4096];
  CHECK(setlocale(LC_ALL, "C.UTF-8") != NULL);
  char *locale = strdup(setlocale(LC_ALL, NULL));
  CHECK(getcwd(before, sizeof before) != NULL);
  size_t count = 0;
  while (environ[count]) count++;
  char **variables = malloc(count * sizeof *variables);
  for (size_t i = 0; i < count; i++) variables[i] = strdup(environ[i]);
  use(folder);
  CHECK(strcmp(locale, setlocale(LC_ALL, NULL)) == 0);
  CHECK(getcwd(after, sizeof after) != NULL && strcmp(before, after) == 0);
  for (size_t i = 0; i < count; i++) {
    CHECK(environ[i] != NULL && strcmp(environ[i], variables[i]) == 0);
    free(variables[i]);
  }
  CHECK(environ[count] == NULL);
  free(variables);
  free(locale);
}

/* Numbers are read and written as in the C locale where the host's has a decimal comma. */
static void commas(const char *folder) {
  CHECK(setlocale(LC_ALL, getenv("COMMA_LOCALE")) != NULL && localeconv()->decimal_point[0] == ',');
  foreturn_engine *engine = engine_with(folder, "[runtime]\nkv_cache = \"64.5MiB\"\n" SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(0, 1);
  foreturn_ranking *ranking = NULL;
  foreturn_string *text = NULL;
  foreturn_str json = {0}, view = {0};
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  OK(foreturn_ranking_json(ranking, &json, &error));
  CHECK(has(json, "0."));
  OK(foreturn_engine_openmetrics(engine, &text, &error));
  OK(foreturn_string_read(text, &view, &error));
  for (size_t i = 1; i < view.size; i++) CHECK(view.data[i] != ',' || view.data[i - 1] == '"' || view.data[i + 1] == ' ');
  CHECK(foreturn_string_free(text) == FORETURN_OK && foreturn_ranking_free(ranking) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(localeconv()->decimal_point[0] == ',');
}

static void forked(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(32, 64);
  foreturn_pending *pending = NULL;
  OK(foreturn_rank_submit(engine, &request, NULL, &pending, &error));
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20); /* a hang ends by this signal */
    foreturn_ranking *ranking = NULL;
    foreturn_error *error = (foreturn_error *)(uintptr_t)1;
    foreturn_cancel *cancel = NULL;
    bool ready = false;
    bool fine = foreturn_rank(engine, &request, NULL, &ranking, &error) == FORETURN_ERROR_FORKED && error == NULL &&
                foreturn_pending_wait(pending, UINT64_MAX, &ready, NULL) == FORETURN_ERROR_FORKED &&
                foreturn_pending_free(pending) == FORETURN_ERROR_FORKED &&
                foreturn_cancel_new(&cancel, NULL) == FORETURN_ERROR_FORKED &&
                foreturn_engine_new(NULL, &engine, NULL) == FORETURN_ERROR_FORKED &&
                foreturn_engine_free(engine) == FORETURN_ERROR_FORKED;
    _exit(fine ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  /* The parent has lost nothing. */
  foreturn_rank_request small = poem(0, 1);
  foreturn_ranking *ranking = NULL;
  OK(foreturn_rank(engine, &small, NULL, &ranking, &error));
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* A child that ends by exit() runs the exit handlers of every library in the process; none of them may wait for threads
 * that the child does not have. */
static void child_exits(void) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20); /* a hang ends by this signal */
    exit(3);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static void exits(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  child_exits();
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  child_exits();
}

/* Stays until somebody ends it, who looks at it from outside. */
static void stays(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(1, 2);
  foreturn_ranking *ranking = NULL;
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  for (;;) pause();
}

static void environment(const char *folder) {
  use(folder);
  use(folder);
  foreturn_engine_options options = {.size = sizeof options, .config_toml = str("[models.m]\npath = \"smollm2\"\n"),
                                     .base_folder = str(folder), .runtime_library = str("/usr/lib/libother.so")};
  foreturn_engine *none = NULL;
  FAILS(FORETURN_ERROR_RUNTIME, foreturn_engine_new(&options, &none, &error));
  use(folder);
}

/* The host's own ONNX Runtime, named by HOST_RUNTIME, and no other place. */
static void loaded(const char *folder) {
  CHECK(dlopen(getenv("HOST_RUNTIME"), RTLD_NOW | RTLD_GLOBAL) != NULL);
  foreturn_engine_options options = {.size = sizeof options, .config_toml = str("[models.m]\npath = \"smollm2\"\n"),
                                     .base_folder = str(folder), .ignore_environment = true,
                                     .use_loaded_runtime = true};
  foreturn_engine *engine = NULL;
  OK(foreturn_engine_new(&options, &engine, &error));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* The working directory holds a libonnxruntime.so that leaves a mark when it is opened; the driver looks for it. */
static void planted(const char *folder) {
  foreturn_engine_options options = {.size = sizeof options, .config_toml = str("[models.m]\npath = \"smollm2\"\n"),
                                     .base_folder = str(folder), .ignore_environment = true};
  foreturn_engine *none = NULL;
  FAILS(FORETURN_ERROR_RUNTIME, foreturn_engine_new(&options, &none, &error));
}

static void idle(const char *folder) {
  /* Threads inherit the affinity of the thread that makes the engine. */
  cpu_set_t one, found;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(1, 2);
  foreturn_ranking *ranking = NULL;
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  for (pid_t task = getpid(); task < getpid() + 64; task++)
    if (sched_getaffinity(task, sizeof found, &found) == 0 && getpgid(task) == getpgid(0))
      CHECK(CPU_EQUAL(&one, &found));

  /* An engine with nothing to do takes no time. */
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  usleep(500000);
  getrusage(RUSAGE_SELF, &after);
  double used = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) +
                1e-6 * (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec);
  CHECK(used < 0.05);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

static void on_log(void *user_data, foreturn_log_level level, foreturn_str message) {
  CALLED_BACK();
  CHECK(level <= FORETURN_LOG_ERROR && message.size > 0);
  *(int *)user_data += 1;
}

static void logged(const char *folder) {
  int messages = 0;
  OK(foreturn_log_set(on_log, &messages, &error));
  use(folder);
  OK(foreturn_log_set(NULL, NULL, &error));
}

static const struct {
  const char *name;
  void (*run)(const char *folder);
} SCENARIOS[] = {
    {"arguments", arguments}, {"calls", calls},         {"threads", threads},
    {"cancelled", cancelled}, {"destroyed", destroyed}, {"overloaded", overloaded},
    {"callbacks", callbacks}, {"signals", signals},     {"streams", streams},
    {"surroundings", surroundings}, {"forked", forked}, {"environment", environment},
    {"loaded", loaded},       {"planted", planted},     {"idle", idle},
    {"logged", logged},       {"exits", exits},         {"stays", stays},
    {"refreshed", refreshed}, {"candidates", candidates}, {"commas", commas},
    {"runs", runs},
};

static void run(const char *name, const char *folder) {
  for (size_t i = 0; i < sizeof SCENARIOS / sizeof *SCENARIOS; i++)
    if (strcmp(name, SCENARIOS[i].name) == 0) {
      SCENARIOS[i].run(folder);
      return;
    }
  fprintf(stderr, "there is no scenario %s\n", name);
  exit(2);
}

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[1], "rank") == 0) {
    print_ranking(argv[3], argv[4]);
    return 0;
  }
  if (argc == 3) {
    char *names = argv[1];
    for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) run(name, argv[2]);
    return 0;
  }
  fprintf(stderr, "usage: suite SCENARIO[,SCENARIO...] FOLDER, or suite rank FOLDER CONFIG REQUEST-JSON\n");
  return 2;
}
