/* What the C tests share. A failed check says where, and ends the program with 1. */
#ifndef CHECK_H
#define CHECK_H

#include <foreturn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The thread sanitizer sees what these programs do, and nothing that the library does. What the header promises is said
 * here: what a thread did before a call is seen in callbacks, and what a callback did is seen after the call that waits for
 * it. So callbacks that run at once or too late, and results that are handed out too early, are races. */
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
static char boundary;
#define HAND_OVER() __tsan_release(&boundary)
#define TAKE_OVER() __tsan_acquire(&boundary)
#else
#define HAND_OVER() ((void)0)
#define TAKE_OVER() ((void)0)
#endif

static inline void leave_callback(const char *unused) {
  (void)unused;
  HAND_OVER();
}

/* The first line of every callback. */
#define CALLED_BACK()                                                                        \
  TAKE_OVER();                                                                               \
  __attribute__((cleanup(leave_callback), unused)) const char called_back = 0

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    HAND_OVER();                                                                             \
    const int holds = (condition) ? 1 : 0;                                                   \
    TAKE_OVER();                                                                             \
    if (!holds) {                                                                            \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

/* The call succeeds; its last argument is `&error`. */
#define OK(call)                                                                             \
  do {                                                                                       \
    foreturn_error *error = NULL;                                                            \
    HAND_OVER();                                                                             \
    foreturn_status status = (call);                                                         \
    TAKE_OVER();                                                                             \
    if (status != FORETURN_OK) {                                                             \
      foreturn_str why = foreturn_error_message(error);                                      \
      fprintf(stderr, "%s:%d: %s gave %d: %.*s\n", __FILE__, __LINE__, #call, (int)status,   \
              (int)why.size, why.data);                                                      \
      exit(1);                                                                               \
    }                                                                                        \
    CHECK(error == NULL);                                                                    \
  } while (0)

/* The call fails with a status, and with a message that says something. */
#define FAILS(expected, call)                                                                \
  do {                                                                                       \
    foreturn_error *error = NULL;                                                            \
    HAND_OVER();                                                                             \
    foreturn_status status = (call);                                                         \
    TAKE_OVER();                                                                             \
    if (status != (expected)) {                                                              \
      foreturn_str why = foreturn_error_message(error);                                      \
      fprintf(stderr, "%s:%d: %s gave %d, not %d: %.*s\n", __FILE__, __LINE__, #call,        \
              (int)status, (int)(expected), (int)why.size, why.data);                        \
      exit(1);                                                                               \
    }                                                                                        \
    CHECK(foreturn_error_status(error) == (expected));                                       \
    CHECK(foreturn_error_message(error).size > 0);                                           \
    CHECK(foreturn_error_free(error) == FORETURN_OK);                                        \
  } while (0)

static inline foreturn_str str(const char *text) {
  foreturn_str s = {text, text ? strlen(text) : 0};
  return s;
}

/* An engine on the tiny models in `folder`: `m` speaks, `r` scores. `settings` is TOML behind the models. */
static inline foreturn_engine *engine_with(const char *folder, const char *settings,
                                           const foreturn_metric *metric, const foreturn_chat_model *chat) {
  char toml[4096];
  snprintf(toml, sizeof toml,
           "[models.m]\npath = \"smollm2\"\n[models.r]\npath = \"llama-reward\"\n"
           "[roles]\npolicy = \"%s\"\nuser = \"m\"\njudge = \"m\"\n%s",
           chat ? "host" : "m", settings);
  foreturn_engine_options options;
  CHECK(foreturn_engine_options_init(&options, sizeof options) == FORETURN_OK);
  options.config_toml = str(toml);
  options.base_folder = str(folder);
  options.metrics = metric;
  options.metric_count = metric ? 1 : 0;
  options.chat_models = chat;
  options.chat_model_count = chat ? 1 : 0;
  foreturn_engine *engine = NULL;
  OK(foreturn_engine_new(&options, &engine, &error));
  return engine;
}

#define SETTINGS                                                                             \
  "[rollout]\nwindow = 1\nsamples = 2\nmax_user_tokens = 8\nmax_policy_tokens = 8\n"         \
  "[[metrics]]\nkind = \"token_amount\"\n"

/* A request for a poem, ranked over `window` turns. */
static inline foreturn_rank_request poem(unsigned window, unsigned samples) {
  static const foreturn_message MESSAGES[] = {{{"user", 4}, {"Write a poem.", 13}}};
  static const foreturn_str CANDIDATES[] = {{"Roses are red.", 14}, {"What about?", 11}};
  foreturn_rank_request request;
  CHECK(foreturn_rank_request_init(&request, sizeof request) == FORETURN_OK);
  request.messages = MESSAGES;
  request.message_count = 1;
  request.candidates = CANDIDATES;
  request.candidate_count = 2;
  request.goal_json = str("{\"task\": \"writing\", \"prompt\": \"A poem about a dog.\"}");
  request.has_window = true;
  request.window = window;
  request.samples = samples;
  request.has_seed = true;
  request.seed = 7;
  return request;
}

#endif
