/*
 * Callbacks and calls that break the rules: `misuse SCENARIO FOLDER`, where FOLDER holds the tiny models. Each mistake gets an
 * error that says what was wrong, and the engine goes on. As suite.c, it writes nothing and returns 0, or says what is wrong and
 * returns 1.
 */
#define _GNU_SOURCE
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

/* What a callback does; set before a request and read in its callbacks. */
static atomic_int mode;
/* The engine that the callbacks use. */
static foreturn_engine *own;
static atomic_int called;

static foreturn_engine *engine_of(const char *folder, const foreturn_metric *metric, const foreturn_chat_model *chat) {
  own = engine_with(folder, SETTINGS, metric, chat);
  return own;
}

/* Ranks a poem with a window of no turns, or of one. */
static foreturn_status ranked(unsigned window, foreturn_ranking **ranking, foreturn_error **error) {
  foreturn_rank_request request = poem(window, 1);
  HAND_OVER();
  foreturn_status status = foreturn_rank(own, &request, NULL, ranking, error);
  TAKE_OVER();
  return status;
}

/* The ranking fails, and its error or one of its causes says `part`. */
static void fails_with(unsigned window, const char *part) {
  foreturn_ranking *ranking = NULL;
  foreturn_error *error = NULL;
  foreturn_status status = ranked(window, &ranking, &error);
  foreturn_str why = foreturn_error_message(error);
  bool said = memmem(why.data, why.size, part, strlen(part)) != NULL;
  for (size_t i = 0; !said && i < foreturn_error_cause_count(error); i++) {
    foreturn_str cause = foreturn_error_cause(error, i);
    said = memmem(cause.data, cause.size, part, strlen(part)) != NULL;
  }
  if (status != FORETURN_ERROR_MODEL_OUTPUT || !said || ranking != NULL) {
    fprintf(stderr, "mode %d: %d without %s: %.*s\n", atomic_load(&mode), (int)status, part, (int)why.size, why.data);
    exit(1);
  }
  CHECK(foreturn_error_free(error) == FORETURN_OK);
}

/* What is left after all mistakes is an engine that works. */
static void works(unsigned window) {
  foreturn_ranking *ranking = NULL;
  atomic_store(&mode, 0);
  CHECK(ranked(window, &ranking, NULL) == FORETURN_OK);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
}

/* ---- metrics of the host's ---- */

enum { FINE, NOT_FINITE, UNWRITTEN, NO_UTF8, NO_DATA, ENDLESS, ASKS };

static const foreturn_message HELLO[] = {{{"user", 4}, {"Hello?", 6}}, {{"assistant", 9}, {"Hello there.", 12}}};

static foreturn_score_input hello(void) {
  foreturn_score_input input;
  CHECK(foreturn_score_input_init(&input, sizeof input) == FORETURN_OK);
  input.messages = HELLO, input.message_count = 2;
  return input;
}

static foreturn_score_options responses(void) {
  foreturn_score_options how;
  CHECK(foreturn_score_options_init(&how, sizeof how) == FORETURN_OK);
  how.task = FORETURN_SCORE_RESPONSE;
  return how;
}

/* A metric may ask the engine, also with functions that wait. */
static void ask(void) {
  foreturn_score_input input = hello();
  foreturn_score_options how = responses();
  foreturn_scores *scores = NULL;
  foreturn_string *text = NULL;
  OK(foreturn_score(own, str("m"), &input, 1, &how, &scores, &error));
  CHECK(foreturn_scores_free(scores) == FORETURN_OK);
  OK(foreturn_engine_openmetrics(own, &text, &error));
  CHECK(foreturn_string_free(text) == FORETURN_OK);
  CHECK(foreturn_engine_free(own) == FORETURN_ERROR_REENTRANT);
}

static int32_t score(void *user_data, const foreturn_metric_input *inputs, size_t n, double *values, foreturn_str *why) {
  CALLED_BACK();
  (void)user_data;
  switch (atomic_load(&mode)) {
    case UNWRITTEN: return 0;
    case NO_UTF8: *why = (foreturn_str){"bad \xff\xfe text", 11}; return 7;
    case NO_DATA: *why = (foreturn_str){NULL, 5}; return 7;
    case ENDLESS: *why = (foreturn_str){"x", SIZE_MAX}; return 7;
    case ASKS: ask(); break;
  }
  for (size_t i = 0; i < n; i++) values[i] = atomic_load(&mode) == NOT_FINITE ? NAN : 1.0 + (double)inputs[i].message_count;
  return 0;
}

static void metrics(const char *folder) {
  foreturn_metric metric;
  CHECK(foreturn_metric_init(&metric, sizeof metric) == FORETURN_OK);
  metric.name = str("mine"), metric.weight = 1, metric.score = score;
  engine_of(folder, &metric, NULL);
  const char *says[] = {[NOT_FINITE] = "not a finite number", [UNWRITTEN] = "not a finite number", [NO_UTF8] = "7", [NO_DATA] = "7", [ENDLESS] = "7"};
  for (int wrong = NOT_FINITE; wrong <= ENDLESS; wrong++) {
    atomic_store(&mode, wrong);
    fails_with(0, says[wrong]);
  }
  foreturn_ranking *ranking = NULL;
  atomic_store(&mode, ASKS);
  CHECK(ranked(0, &ranking, NULL) == FORETURN_OK);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  works(0);
  CHECK(foreturn_engine_free(own) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- chat models of the host's ---- */

enum { REPLIES, FAILS_WHOLE, SAYS_NOTHING, FAILS_EACH, SAYS_GARBAGE, WAITS };

/* Functions that wait for the engine are refused where the engine waits for the callback; those that submit are not. */
static void wait_inside(const foreturn_chat_replies *replies) {
  (void)replies;
  foreturn_score_input input = hello();
  foreturn_score_options how = responses();
  foreturn_scores *scores = NULL;
  foreturn_pending *pending = NULL;
  foreturn_string *text = NULL;
  bool ready = true;
  CHECK(foreturn_engine_free(own) == FORETURN_ERROR_REENTRANT);
  FAILS(FORETURN_ERROR_REENTRANT, foreturn_score(own, str("m"), &input, 1, &how, &scores, &error));
  OK(foreturn_score_submit(own, str("m"), &input, 1, &how, &pending, &error));
  OK(foreturn_pending_wait(pending, 0, &ready, &error));
  FAILS(FORETURN_ERROR_REENTRANT, foreturn_pending_wait(pending, 100, &ready, &error));
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  OK(foreturn_render(own, str("m"), HELLO, 2, true, &text, &error));
  CHECK(foreturn_string_free(text) == FORETURN_OK);
  OK(foreturn_engine_openmetrics(own, &text, &error));
  CHECK(foreturn_string_free(text) == FORETURN_OK);
}

static int32_t reply(void *user_data, const foreturn_chat_request *requests, size_t n, foreturn_chat_replies *replies,
                     foreturn_str *why) {
  CALLED_BACK();
  (void)user_data, (void)requests;
  atomic_fetch_add(&called, 1);
  const foreturn_str garbage = {"\xff", 1};
  switch (atomic_load(&mode)) {
    case FAILS_WHOLE: *why = str("the model is down"); return 3;
    case SAYS_NOTHING: return 0;
    case FAILS_EACH:
      for (size_t i = 0; i < n; i++) OK(foreturn_chat_replies_fail(replies, i, str("no time"), &error));
      return 0;
    case SAYS_GARBAGE:
      for (size_t i = 0; i < n; i++)
        FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_chat_replies_text(replies, i, garbage, false, 0, 0, &error));
      return 0;
    case WAITS: wait_inside(replies); break;
  }
  for (size_t i = 0; i < n; i++) OK(foreturn_chat_replies_text(replies, i, str("Tea?"), false, 3, 2, &error));
  return 0;
}

static void models(const char *folder) {
  foreturn_chat_model chat;
  CHECK(foreturn_chat_model_init(&chat, sizeof chat) == FORETURN_OK);
  chat.name = str("host"), chat.reply = reply;
  engine_of(folder, NULL, &chat);
  const char *says[] = {[FAILS_WHOLE] = "the model is down", [SAYS_NOTHING] = "no reply", [FAILS_EACH] = "no time",
                        [SAYS_GARBAGE] = "no reply"};
  for (int wrong = FAILS_WHOLE; wrong <= SAYS_GARBAGE; wrong++) {
    atomic_store(&mode, wrong);
    fails_with(1, says[wrong]);
  }
  foreturn_ranking *ranking = NULL;
  atomic_store(&mode, WAITS);
  CHECK(ranked(1, &ranking, NULL) == FORETURN_OK);
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  works(1);
  CHECK(atomic_load(&called) > 0 && foreturn_engine_free(own) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- requests ---- */

static void tasks(foreturn_engine *engine) {
  const foreturn_score_input input = hello();
  foreturn_score_options how = responses();
  foreturn_scores *scores = NULL;
  /* A language model gives no labels, steps or vectors; a reward model gives no probabilities. */
  const foreturn_score_task others[] = {FORETURN_SCORE_LABELS, FORETURN_SCORE_STEPS, FORETURN_SCORE_EMBEDDING};
  for (size_t i = 0; i < 3; i++) {
    how.task = others[i];
    FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  }
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, str("m"), &input, 1, NULL, &scores, &error));
  how.task = FORETURN_SCORE_RESPONSE;
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, str("r"), &input, 1, &how, &scores, &error));
  how.task = 77;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  how = responses(), how.step_marker = str("<step>");
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  /* No texts, texts that are nowhere, models that are not there. */
  how = responses();
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), NULL, 1, &how, &scores, &error));
  const foreturn_str wrong[] = {{"nobody", 6}, {"", 0}, {NULL, 0}};
  for (size_t i = 0; i < 3; i++)
    FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, wrong[i], &input, 1, &how, &scores, &error));
  CHECK(scores == NULL);
}

static void texts(foreturn_engine *engine) {
  foreturn_message chat[2] = {HELLO[0], HELLO[1]};
  foreturn_score_input input = hello();
  input.messages = chat;
  const foreturn_score_options how = responses();
  foreturn_scores *scores = NULL;
  const char *roles[] = {"tool", "Assistant", ""};
  for (size_t i = 0; i < 3; i++) {
    chat[1].role = str(roles[i]);
    FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  }
  chat[1].role = str("user"); /* whose probability is not the model's to say */
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  chat[1] = HELLO[1];
  input.message_count = (size_t)1 << 60;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  input.message_count = 2;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT,
        foreturn_score(engine, str("m"), &input, (size_t)1 << 60, &how, &scores, &error));
  /* A text that can't fit is refused before it is tokenised. */
  enum { LONG = 1 << 21 };
  char *lengthy = malloc(LONG);
  memset(lengthy, 'a', LONG);
  chat[1].content = (foreturn_str){lengthy, LONG};
  FAILS(FORETURN_ERROR_CONTEXT_LENGTH, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  free(lengthy);
  /* Tokens that the model doesn't have. */
  uint32_t tokens[] = {1, 4000000000u, 5};
  foreturn_score_input given = {.size = sizeof given, .tokens = tokens, .token_count = 2, .response_tokens = tokens + 2,
                                .response_token_count = 1};
  FAILS(FORETURN_ERROR_INVALID_REQUEST, foreturn_score(engine, str("m"), &given, 1, &how, &scores, &error));
  CHECK(scores == NULL);
  /* A text with a zero byte is a text, and so are the longest and the most pressing limits. */
  chat[1].content = (foreturn_str){"a\0b", 3};
  foreturn_score_options odd = how;
  odd.limits = (foreturn_limits){.timeout_ms = UINT64_MAX, .priority = INT32_MIN};
  OK(foreturn_score(engine, str("m"), &input, 1, &odd, &scores, &error));
  CHECK(foreturn_scores_free(scores) == FORETURN_OK);
}

static void cancels(foreturn_engine *engine) {
  const foreturn_score_input input = hello();
  foreturn_score_options how = responses();
  foreturn_scores *scores = NULL;
  foreturn_cancel *cancel = NULL;
  OK(foreturn_cancel_new(&cancel, &error));
  OK(foreturn_cancel_cancel(cancel, &error));
  how.limits.cancel = cancel;
  FAILS(FORETURN_ERROR_CANCELLED, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  CHECK(foreturn_cancel_free(cancel) == FORETURN_OK);
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  how.limits.cancel = (const foreturn_cancel *)engine;
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_score(engine, str("m"), &input, 1, &how, &scores, &error));
  CHECK(scores == NULL);
}

static void requests(const char *folder) {
  foreturn_engine *engine = engine_of(folder, NULL, NULL);
  tasks(engine);
  texts(engine);
  cancels(engine);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- results, and what is left of them after their engine ---- */

static void results(const char *folder) {
  foreturn_engine *engine = engine_of(folder, NULL, NULL);
  const foreturn_score_input input = hello();
  const foreturn_score_options how = responses();
  foreturn_pending *pending = NULL, *last = NULL;
  foreturn_scores *scores = NULL, *again = NULL;
  foreturn_ranking *ranking = NULL;
  bool ready = false;
  OK(foreturn_score_submit(engine, str("m"), &input, 1, &how, &pending, &error));
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_pending_ranking(pending, &ranking, &error));
  OK(foreturn_pending_scores(pending, &scores, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_pending_scores(pending, &again, &error));
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  foreturn_score_info info = {.size = sizeof info};
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_scores_read(scores, 5, &info, &error));
  foreturn_str json = {0};
  OK(foreturn_scores_json(scores, &json, &error));
  CHECK(json.data[0] == '[' && memmem(json.data, json.size, "\"logprob\"", 9) != NULL);

  foreturn_prompt prompt = {.size = sizeof prompt, .messages = HELLO, .message_count = 1};
  foreturn_pin *pin = NULL, *none = NULL;
  OK(foreturn_warm(engine, str("m"), &prompt, NULL, &pin, &error));
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_warm(engine, str("m"), NULL, NULL, &none, &error));
  OK(foreturn_score_submit(engine, str("m"), &input, 1, &how, &last, &error));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_ERROR_INVALID_HANDLE);

  /* Results, pins and requests outlive the engine; nothing can be asked of it. */
  size_t tokens = 0;
  OK(foreturn_scores_read(scores, 0, &info, &error));
  CHECK(info.value_count == 1 && isfinite(info.values[0]));
  OK(foreturn_pin_tokens(pin, &tokens, &error));
  OK(foreturn_pending_wait(last, UINT64_MAX, &ready, &error));
  foreturn_status status = foreturn_pending_scores(last, &again, NULL);
  CHECK(status == FORETURN_OK || status == FORETURN_ERROR_CLOSED);
  FAILS(FORETURN_ERROR_INVALID_HANDLE, foreturn_score(engine, str("m"), &input, 1, &how, &again, &error));
  CHECK(foreturn_pin_free(pin) == FORETURN_OK && foreturn_pin_free(pin) == FORETURN_ERROR_INVALID_HANDLE);
  CHECK(foreturn_scores_free(again) == FORETURN_OK && foreturn_scores_free(scores) == FORETURN_OK);
  CHECK(foreturn_pending_free(last) == FORETURN_OK);
  foreturn_string *text = NULL;
  FAILS(FORETURN_ERROR_INVALID_ARGUMENT, foreturn_engine_statistics_json(NULL, &text, &error));
  CHECK(foreturn_handle_count() == 0);
}

static const struct {
  const char *name;
  void (*run)(const char *folder);
} SCENARIOS[] = {{"metrics", metrics}, {"models", models}, {"requests", requests}, {"results", results}};

int main(int argc, char **argv) {
  for (size_t i = 0; argc == 3 && i < sizeof SCENARIOS / sizeof *SCENARIOS; i++)
    if (strcmp(argv[1], SCENARIOS[i].name) == 0) {
      SCENARIOS[i].run(argv[2]);
      return 0;
    }
  fprintf(stderr, "usage: misuse SCENARIO FOLDER\n");
  return 2;
}
