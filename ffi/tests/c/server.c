/*
 * What a server relies on under load: `server SCENARIO FOLDER`, where FOLDER holds the tiny models. As suite.c, it writes
 * nothing and returns 0, or says what is wrong and returns 1.
 */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 8000 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
  qsort(values, count, sizeof *values, compare);
  return values[count / 2];
}

/* A conversation to score: a question of so many words that no other one has, and an answer. */
struct chat {
  char question[TEXT];
  foreturn_message messages[2];
  foreturn_score_input input;
};

static void fill(struct chat *chat, size_t words, size_t number) {
  size_t size = 0;
  for (size_t i = 0; i < words; i++) {
    int wrote = snprintf(chat->question + size, TEXT - size, "w%zu ", (i * 7 + number * 13) % 100);
    size += (size_t)wrote;
    CHECK(size < TEXT);
  }
  chat->messages[0] = (foreturn_message){str("user"), {chat->question, size}};
  chat->messages[1] = (foreturn_message){str("assistant"), str("Paris.")};
  chat->input = (foreturn_score_input){.size = sizeof chat->input, .messages = chat->messages, .message_count = 2};
}

static foreturn_score_options scoring(int32_t priority, uint64_t timeout_ms) {
  foreturn_score_options how;
  CHECK(foreturn_score_options_init(&how, sizeof how) == FORETURN_OK);
  how.task = FORETURN_SCORE_RESPONSE;
  how.limits.priority = priority, how.limits.timeout_ms = timeout_ms;
  return how;
}

static void wait_for(foreturn_pending *pending) {
  bool ready = false;
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  CHECK(ready);
}

/* ---- priority: also among requests that have a place ---- */

static atomic_int ended;

static void on_ready(void *place) {
  CALLED_BACK();
  *(int *)place = atomic_fetch_add(&ended, 1) + 1;
}

static void priority(const char *folder) {
  enum { LONG = 32 };
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  static struct chat chats[LONG + 1];
  static int place[LONG + 1];
  foreturn_pending *pending[LONG + 1];
  for (size_t i = 0; i <= LONG; i++) {
    fill(&chats[i], i < LONG ? 1500 : 5, i);
    foreturn_score_options how = scoring(i < LONG ? -5 : 100, 0);
    how.on_ready = on_ready, how.user_data = &place[i];
    OK(foreturn_score_submit(engine, str("m"), &chats[i].input, 1, &how, &pending[i], &error));
  }
  for (size_t i = 0; i <= LONG; i++) wait_for(pending[i]);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK); /* on_ready has returned for all */
  CHECK(atomic_load(&ended) == LONG + 1);
  CHECK(place[LONG] <= LONG / 2);
  for (size_t i = 0; i <= LONG; i++) CHECK(foreturn_pending_free(pending[i]) == FORETURN_OK);
}

/* ---- a full queue is known when a request is submitted, and not when its result is taken ---- */

static void shed(const char *folder) {
  enum { MANY = 200 };
  foreturn_engine *engine = engine_with(folder, "[runtime]\nmax_queued = 1\n" SETTINGS, NULL, NULL);
  static struct chat chats[MANY];
  foreturn_pending *pending[MANY];
  foreturn_score_options how = scoring(0, 0);
  uint64_t refused = 0;
  for (size_t i = 0; i < MANY; i++) fill(&chats[i], 400, i);
  for (size_t i = 0; i < MANY; i++) {
    pending[i] = NULL;
    foreturn_status status = foreturn_score_submit(engine, str("m"), &chats[i].input, 1, &how, &pending[i], NULL);
    CHECK(status == FORETURN_OK || status == FORETURN_ERROR_OVERLOADED);
    CHECK((status == FORETURN_OK) == (pending[i] != NULL));
    refused += status != FORETURN_OK;
  }
  CHECK(refused > 0);
  for (size_t i = 0; i < MANY; i++) {
    if (!pending[i]) continue;
    foreturn_scores *scores = NULL;
    wait_for(pending[i]);
    OK(foreturn_pending_scores(pending[i], &scores, &error));
    CHECK(foreturn_scores_free(scores) == FORETURN_OK && foreturn_pending_free(pending[i]) == FORETURN_OK);
  }
  foreturn_statistics statistics = {.size = sizeof statistics};
  OK(foreturn_engine_statistics(engine, &statistics, &error));
  CHECK(statistics.refused == refused);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- to submit is to queue: texts are tokenised elsewhere ---- */

static void submitted(const char *folder) {
  enum { ROUNDS = 21 };
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  static struct chat chat;
  foreturn_score_options how = scoring(0, 0);
  double submit[ROUNDS], whole[ROUNDS];
  for (size_t i = 0; i < ROUNDS; i++) {
    foreturn_pending *pending = NULL;
    fill(&chat, 1500, i);
    double start = now();
    OK(foreturn_score_submit(engine, str("m"), &chat.input, 1, &how, &pending, &error));
    submit[i] = now() - start;
    wait_for(pending);
    whole[i] = now() - start;
    CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  }
  CHECK(median(submit, ROUNDS) < median(whole, ROUNDS) / 20);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* ---- a deadline holds, whatever was asked before ---- */

static void punctual(const char *folder) {
  enum { LONG = 16, ROUNDS = 9 };
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  static struct chat chats[LONG + 1];
  double late[ROUNDS];
  for (size_t round = 0; round < ROUNDS; round++) {
    foreturn_pending *pending[LONG];
    for (size_t i = 0; i < LONG; i++) {
      fill(&chats[i], 1500, round * LONG + i);
      foreturn_score_options how = scoring(0, 0);
      OK(foreturn_score_submit(engine, str("m"), &chats[i].input, 1, &how, &pending[i], &error));
    }
    fill(&chats[LONG], 1500, 1000 + round);
    foreturn_score_options how = scoring(0, 50);
    foreturn_scores *scores = NULL;
    double start = now();
    foreturn_status status = foreturn_score(engine, str("m"), &chats[LONG].input, 1, &how, &scores, NULL);
    late[round] = now() - start - 0.05;
    CHECK(status == FORETURN_OK || status == FORETURN_ERROR_DEADLINE_EXCEEDED);
    CHECK(foreturn_scores_free(scores) == FORETURN_OK);
    for (size_t i = 0; i < LONG; i++) {
      OK(foreturn_pending_cancel(pending[i], &error));
      wait_for(pending[i]);
      CHECK(foreturn_pending_free(pending[i]) == FORETURN_OK);
    }
  }
  /* A machine with other things to do may be late, but not most of the time. */
  CHECK(median(late, ROUNDS) < 0.03);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* ---- engines come and go: nothing is left behind ---- */

static long resident(void) {
  long pages = 0, of_them = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &pages, &of_them) == 2);
  fclose(file);
  return of_them * sysconf(_SC_PAGESIZE);
}

static void score_one(foreturn_engine *engine) {
  static struct chat chat;
  foreturn_score_options how = scoring(0, 0);
  foreturn_scores *scores = NULL;
  fill(&chat, 20, 1);
  OK(foreturn_score(engine, str("m"), &chat.input, 1, &how, &scores, &error));
  CHECK(foreturn_scores_free(scores) == FORETURN_OK);
}

static void many(const char *folder) {
  long before = 0;
  for (int i = 0; i < 40; i++) {
    foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
    score_one(engine);
    CHECK(foreturn_engine_free(engine) == FORETURN_OK);
    CHECK(foreturn_handle_count() == 0);
    if (i == 9) before = resident();
  }
  CHECK(resident() - before < 16 << 20);
}

/* ---- engines of one model have one copy of its weights: FOLDER has the real one ---- */

/* What the process alone has, and its part of what it maps, in bytes. A page that it maps twice counts once. */
static long proportional(void) {
  char line[256];
  long kilobytes = -1;
  FILE *file = fopen("/proc/self/smaps_rollup", "r");
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL) sscanf(line, "Pss: %ld kB", &kilobytes);
  CHECK(fclose(file) == 0 && kilobytes > 0);
  return kilobytes * 1024;
}

static void sharing(const char *folder) {
  foreturn_engine_options options;
  CHECK(foreturn_engine_options_init(&options, sizeof options) == FORETURN_OK);
  foreturn_model_options model = {.size = sizeof model, .name = str("m"), .path = str(folder)};
  options.models = &model, options.model_count = 1;
  foreturn_engine *engines[2] = {NULL, NULL};
  long more[2] = {0, 0};
  for (size_t i = 0; i < 2; i++) {
    long before = proportional();
    OK(foreturn_engine_new(&options, &engines[i], &error));
    score_one(engines[i]);
    more[i] = proportional() - before;
  }
  /* What it takes beside weights: a cache, a graph in ONNX Runtime, threads. */
  if (more[0] < 100 << 20 || more[1] > more[0] / 8) fprintf(stderr, "%ld and %ld bytes more\n", more[0], more[1]);
  CHECK(more[0] > 100 << 20 && more[1] < more[0] / 8);
  CHECK(foreturn_engine_free(engines[0]) == FORETURN_OK);
  score_one(engines[1]);
  CHECK(foreturn_engine_free(engines[1]) == FORETURN_OK);
}

/* ---- many conversations: the memory of an engine has a bound ---- */

static void churned(const char *folder) {
  enum { BUDGET = 4 << 20, WARM_UP = 64, CONVERSATIONS = 512 };
  foreturn_engine *engine = engine_with(folder, "[runtime]\nkv_cache = \"4MiB\"\n" SETTINGS, NULL, NULL);
  static struct chat chat;
  const foreturn_score_options how = scoring(0, 0);
  long before = 0;
  for (size_t i = 0; i < CONVERSATIONS; i++) {
    foreturn_scores *scores = NULL;
    fill(&chat, 100, i);
    OK(foreturn_score(engine, str("m"), &chat.input, 1, &how, &scores, &error));
    CHECK(foreturn_scores_free(scores) == FORETURN_OK);
    if (i == WARM_UP) before = resident();
  }
  foreturn_model_statistics statistics = {.size = sizeof statistics};
  OK(foreturn_engine_model_statistics(engine, str("m"), &statistics, &error));
  CHECK(statistics.cache_bytes <= BUDGET && statistics.cache_used_bytes <= BUDGET);
  /* They did not fit all at once: most of them had to go. */
  CHECK(statistics.computed_tokens > 4 * statistics.cache_bytes / statistics.cache_blocks);
  CHECK(resident() - before < BUDGET + (8 << 20));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* ---- pins that fill the cache: the next one is refused, and what is asked goes on ---- */

static void pinned(const char *folder) {
  enum { MOST = 256 };
  foreturn_engine *engine = engine_with(folder, "[runtime]\nkv_cache = \"2MiB\"\n" SETTINGS, NULL, NULL);
  static struct chat chat;
  foreturn_pin *pins[MOST] = {0};
  size_t count = 0;
  foreturn_status status = FORETURN_OK;
  for (; count < MOST; count++) {
    fill(&chat, 100, count);
    const foreturn_prompt prefix = {.size = sizeof prefix, .messages = chat.messages, .message_count = 1};
    foreturn_limits soon = {.timeout_ms = 60000};
    status = foreturn_warm(engine, str("m"), &prefix, &soon, &pins[count], NULL);
    if (status != FORETURN_OK) break;
  }
  CHECK(count > 1 && status == FORETURN_ERROR_MEMORY_BUDGET && pins[count] == NULL);
  score_one(engine);
  /* One that goes makes room for another. */
  CHECK(foreturn_pin_free(pins[0]) == FORETURN_OK);
  const foreturn_prompt prefix = {.size = sizeof prefix, .messages = chat.messages, .message_count = 1};
  OK(foreturn_warm(engine, str("m"), &prefix, NULL, &pins[0], &error));
  for (size_t i = 0; i < count; i++) CHECK(foreturn_pin_free(pins[i]) == FORETURN_OK);
  score_one(engine);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_handle_count() == 0);
}

/* ---- a host that takes signals all the time ---- */

static void on_signal(int number) {
  (void)number;
}

static void *send_signals(void *done) {
  while (!atomic_load((atomic_bool *)done)) {
    kill(getpid(), SIGUSR1);
    usleep(200);
  }
  return NULL;
}

static void interrupted(const char *folder) {
  struct sigaction action = {.sa_handler = on_signal}; /* without SA_RESTART */
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  atomic_bool done = false;
  pthread_t sender;
  CHECK(pthread_create(&sender, NULL, send_signals, &done) == 0);
  for (int i = 0; i < 5; i++) {
    foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
    for (int at = 0; at < 20; at++) score_one(engine);
    CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  }
  atomic_store(&done, true);
  CHECK(pthread_join(sender, NULL) == 0);
}

/* ---- a host with a race, for the thread sanitizer to find: it sees callbacks on the library's threads ---- */

static size_t progress;

static void on_progress(void *user_data, size_t finished, size_t total) {
  CALLED_BACK();
  (void)user_data, (void)total;
  progress += finished;
}

static void racy(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(1, 2);
  foreturn_rank_options how = {.size = sizeof how, .on_progress = on_progress};
  foreturn_pending *pending = NULL;
  OK(foreturn_rank_submit(engine, &request, &how, &pending, &error));
  sleep(1);
  progress = 0; /* without a call that waits */
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
}

static const struct {
  const char *name;
  void (*run)(const char *folder);
} SCENARIOS[] = {{"priority", priority}, {"shed", shed}, {"submitted", submitted}, {"punctual", punctual},
                 {"many", many}, {"sharing", sharing}, {"churned", churned}, {"pinned", pinned}, {"interrupted", interrupted}, {"racy", racy}};

int main(int argc, char **argv) {
  for (size_t i = 0; argc == 3 && i < sizeof SCENARIOS / sizeof *SCENARIOS; i++)
    if (strcmp(argv[1], SCENARIOS[i].name) == 0) {
      SCENARIOS[i].run(argv[2]);
      return 0;
    }
  fprintf(stderr, "usage: server SCENARIO FOLDER\n");
  return 2;
}
