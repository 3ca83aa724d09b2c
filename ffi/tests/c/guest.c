/*
 * What a host may rely on about the engine's beginning and end: `guest SCENARIO FOLDER`, where FOLDER holds the tiny models. As
 * suite.c, it writes nothing and returns 0, or says what is wrong and returns 1.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int released, called, called_late;
static atomic_bool ending;

static void release(void *user_data) {
  CALLED_BACK();
  (void)user_data;
  atomic_fetch_add(&released, 1);
}

static void count(void) {
  atomic_fetch_add(&called, 1);
  if (atomic_load(&ending)) atomic_fetch_add(&called_late, 1);
}

static int32_t score(void *user_data, const foreturn_metric_input *inputs, size_t n, double *values, foreturn_str *why) {
  CALLED_BACK();
  (void)user_data, (void)inputs, (void)why;
  count();
  for (size_t i = 0; i < n; i++) values[i] = 1;
  return 0;
}

static foreturn_metric metric(const char *name, double weight) {
  foreturn_metric m;
  CHECK(foreturn_metric_init(&m, sizeof m) == FORETURN_OK);
  m.name = str(name), m.weight = weight, m.score = score, m.release = release;
  return m;
}

/* An error of foreturn_engine_new() that says `part`; all that was given has been let go of. */
static void refused(const foreturn_engine_options *options, foreturn_status expected, const char *part, int given) {
  foreturn_engine *engine = NULL;
  foreturn_error *error = NULL;
  atomic_store(&released, 0);
  foreturn_status status = foreturn_engine_new(options, &engine, &error);
  foreturn_str why = foreturn_error_message(error);
  if (status != expected || memmem(why.data, why.size, part, strlen(part)) == NULL) {
    fprintf(stderr, "%s: %d %.*s\n", part, (int)status, (int)why.size, why.data);
    exit(1);
  }
  CHECK(foreturn_error_free(error) == FORETURN_OK);
  CHECK(engine == NULL && atomic_load(&released) == given);
}

static foreturn_engine_options options(const char *folder, const char *toml) {
  foreturn_engine_options o;
  CHECK(foreturn_engine_options_init(&o, sizeof o) == FORETURN_OK);
  o.config_toml = str(toml), o.base_folder = str(folder);
  return o;
}

#define MODEL "[models.m]\npath = \"smollm2\"\n"

/* Metrics of the host's are checked when the engine is made, as those of the configuration are. */
static void checked(const char *folder) {
  foreturn_metric bad[][2] = {{metric("mine", NAN)}, {metric("mine", INFINITY)}, {metric("", 1)}, {metric(" ", 1)},
                              {metric("mine", 1), metric("mine", 1)}, {metric("token_amount", 1)}};
  const char *parts[] = {"weight = NaN", "weight = inf", "name is empty", "name is empty", "two metrics named `mine`",
                         "two metrics named `token_amount`"};
  foreturn_engine_options o = options(folder, MODEL "[[metrics]]\nkind = \"token_amount\"\n");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    o.metrics = bad[i], o.metric_count = i == 4 ? 2 : 1;
    refused(&o, FORETURN_ERROR_INVALID_CONFIG, parts[i], (int)o.metric_count);
  }
  /* Those that are in order stay until the engine goes, even where its configuration can't rank. */
  foreturn_metric fine = metric("mine", 1);
  o = options(folder, MODEL "[models.n]\npath = \"smollm2\"\n"), o.metrics = &fine, o.metric_count = 1;
  foreturn_engine *engine = NULL;
  atomic_store(&released, 0);
  OK(foreturn_engine_new(&o, &engine, &error));
  CHECK(atomic_load(&released) == 0);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(atomic_load(&released) == 1);
}

/* What is wrong with a configuration is said when the engine is made, by its name. */
static void misconfigured(const char *folder) {
  static const struct {
    const char *toml, *part;
  } wrong[] = {{"[[metrics]]\nkind = \"nonsense\"\n", "nonsense"},
               {"[roles]\njudge = \"nobody\"\n", "nobody"},
               {"[rollout]\nwindow = 9999\n", "window"},
               {"[rollout]\nsamples = 0\n", "samples"},
               {"[runtime]\nthreads = 0\n", "threads"},
               {"[runtime]\nmax_queued = 0\n", "max_queued"},
               {"[runtime]\nnonsense = 1\n", "nonsense"},
               {"[[metrics]]\nkind = \"token_amount\"\nlambda = \"x\"\n", "token_amount"}};
  char toml[1024];
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    snprintf(toml, sizeof toml, "%s%s", MODEL, wrong[i].toml);
    foreturn_engine_options o = options(folder, toml);
    refused(&o, FORETURN_ERROR_INVALID_CONFIG, wrong[i].part, 0);
  }
  foreturn_engine_options o = options(folder, MODEL "[runtime]\nkv_cache = \"1KiB\"\n");
  refused(&o, FORETURN_ERROR_MEMORY_BUDGET, "kv_cache", 0);
  o = options(folder, MODEL);
  const foreturn_model_options again = {.size = sizeof again, .name = str("m"), .path = str("smollm2")};
  o.models = &again, o.model_count = 1;
  refused(&o, FORETURN_ERROR_INVALID_ARGUMENT, "two models named `m`", 0);
}

static void bounded(const char *folder) {
  foreturn_engine_options o = options(folder, MODEL);
  uint32_t many[] = {3000, 100000, UINT32_MAX};
  for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
    o.threads = many[i];
    refused(&o, FORETURN_ERROR_INVALID_CONFIG, "at most", 0);
  }
}

enum { MOST_TASKS = 256 };

/* The threads of this process. */
static size_t tasks(long *ids) {
  DIR *folder = opendir("/proc/self/task");
  size_t count = 0;
  CHECK(folder != NULL);
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
    if (entry->d_name[0] != '.') {
      CHECK(count < MOST_TASKS);
      ids[count++] = atol(entry->d_name);
    }
  closedir(folder);
  return count;
}

/* The processors of a thread, as the system lists them, and its name; false if it has ended. */
static bool thread_of(long id, char found[200], char name[32]) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/self/task/%ld/status", id);
  FILE *file = fopen(path, "r");
  if (file == NULL) return false;
  found[0] = name[0] = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    sscanf(line, "Name: %31s", name);
    sscanf(line, "Cpus_allowed_list: %199s", found);
  }
  CHECK(fclose(file) == 0);
  return found[0] != 0;
}

/*
 * How many of the engine's threads are not among the `before`. Each has to stay on `cores`; "" for any. The watchdog, and the pool that
 * engines without cores share, which has the name of the thread that made it, are the process's and stay where that is.
 */
static size_t stay_on(const char *cores, const long *before, size_t known) {
  long now[MOST_TASKS];
  size_t count = tasks(now), others = 0;
  for (size_t i = 0; i < count; i++) {
    bool is_known = false;
    for (size_t at = 0; at < known; at++) is_known |= before[at] == now[i];
    if (is_known) continue;
    char found[200], name[32], own[200], host[32];
    if (!thread_of(now[i], found, name)) continue;
    CHECK(thread_of(getpid(), own, host));
    if (strcmp(name, host) == 0 || strcmp(name, "foreturn-watchd") == 0) {
      if (strcmp(found, own) != 0) fprintf(stderr, "thread %s is on %s, not %s\n", name, found, own);
      CHECK(strcmp(found, own) == 0);
      continue;
    }
    if (cores[0] != 0 && strcmp(found, cores) != 0) fprintf(stderr, "thread %ld is on %s, not %s\n", now[i], found, cores);
    CHECK(cores[0] == 0 || strcmp(found, cores) == 0);
    others++;
  }
  return others;
}

static void use_all(foreturn_engine *engine) {
  foreturn_rank_request request = poem(1, 1);
  foreturn_ranking *ranking = NULL;
  foreturn_string *version = NULL;
  const foreturn_refresh_options how = {.size = sizeof how, .shared = true, .version = str("again")};
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
  OK(foreturn_refresh(engine, str("m"), str(getenv("NEXT")), &how, &version, &error));
  CHECK(foreturn_string_free(version) == FORETURN_OK);
  OK(foreturn_rank(engine, &request, NULL, &ranking, &error));
  CHECK(foreturn_ranking_free(ranking) == FORETURN_OK);
}

/* An engine's threads and those of its sessions stay on the cores that it is given, also those that come later. */
static void cored(const char *folder) {
  cpu_set_t allowed, after;
  CHECK(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  int last = -1;
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &allowed)) last = core;
  char cores[16], toml[1024], next[4096];
  snprintf(cores, sizeof cores, "%d", last);
  snprintf(next, sizeof next, "%s/smollm2-next", folder);
  CHECK(setenv("NEXT", next, 1) == 0);
  long none[MOST_TASKS], one[MOST_TASKS];
  size_t before = tasks(none);
  foreturn_engine_options o = options(folder, MODEL SETTINGS "[runtime]\nthreads = 3\n");
  o.cores = str(cores);
  foreturn_engine *engine = NULL, *free_one = NULL, *listed = NULL;
  OK(foreturn_engine_new(&o, &engine, &error));
  use_all(engine);
  CHECK(stay_on(cores, none, before) >= 2 + 2); /* two of ours, and two of ONNX Runtime's beside them */
  CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&allowed, &after));

  /* The next engine has its own, or none. */
  before = tasks(one);
  o = options(folder, MODEL SETTINGS);
  OK(foreturn_engine_new(&o, &free_one, &error));
  use_all(free_one);
  CHECK(stay_on("", one, before) >= 2);
  CHECK(foreturn_engine_free(free_one) == FORETURN_OK);
  before = tasks(one);
  snprintf(toml, sizeof toml, "%s%s[runtime]\ncores = [%d]\n", MODEL, SETTINGS, last);
  o = options(folder, toml);
  OK(foreturn_engine_new(&o, &listed, &error));
  use_all(listed);
  CHECK(stay_on(cores, one, before) >= 2);
  CHECK(foreturn_engine_free(listed) == FORETURN_OK && foreturn_engine_free(engine) == FORETURN_OK);

  const char *wrong[] = {"1000", "0-2000", "a", "3-1"}, *parts[] = {"may not run on 1000, only on ", "0-2000", "`a`", "`3-1`"};
  for (size_t i = 0; i < 4; i++) {
    o = options(folder, MODEL), o.cores = str(wrong[i]);
    refused(&o, FORETURN_ERROR_INVALID_CONFIG, parts[i], 0);
  }
  o = options(folder, MODEL), o.cores = str(cores), o.threads = 5;
  refused(&o, FORETURN_ERROR_INVALID_CONFIG, "at most 4", 0);
}

/* There is no ONNX Runtime in this process, and no other is wanted. */
static void unloaded(const char *folder) {
  foreturn_engine_options o = options(folder, MODEL);
  o.use_loaded_runtime = true;
  refused(&o, FORETURN_ERROR_RUNTIME, "none with global symbols", 0);
  o.use_loaded_runtime = false;
  foreturn_engine *engine = NULL;
  OK(foreturn_engine_new(&o, &engine, &error));
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* One that the process has loaded for itself alone, without global symbols, is not taken for the host's. */
static void loaded_locally(const char *folder) {
  CHECK(dlopen(getenv("ORT_DYLIB_PATH"), RTLD_NOW | RTLD_LOCAL) != NULL);
  foreturn_engine_options o = options(folder, MODEL);
  o.use_loaded_runtime = true;
  refused(&o, FORETURN_ERROR_RUNTIME, "none with global symbols", 0);
}

/* A process that forks before it uses the library may use it on both sides, and children may become other programs. */
static void forked_first(const char *folder) {
  int status = 0;
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(60); /* a hang ends by this signal */
    CHECK(foreturn_engine_free(engine_with(folder, SETTINGS, NULL, NULL)) == FORETURN_OK);
    exit(5);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    execl("/bin/true", "true", (char *)NULL);
    _exit(9);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(system("exit 4") != -1);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* What the system's loader says of a library reaches the host. */
static void unloadable(const char *folder) {
  foreturn_engine_options o = options(folder, MODEL);
  char path[4096];
  snprintf(path, sizeof path, "%s/smollm2/model.onnx", folder);
  o.runtime_library = str(path);
  refused(&o, FORETURN_ERROR_RUNTIME, "invalid ELF header", 0);
}

static int32_t reply(void *user_data, const foreturn_chat_request *requests, size_t n, foreturn_chat_replies *replies,
                     foreturn_str *why) {
  CALLED_BACK();
  (void)user_data, (void)requests, (void)why;
  count();
  usleep(300000);
  for (size_t i = 0; i < n; i++) foreturn_chat_replies_text(replies, i, str("Tea?"), false, 1, 1, NULL);
  return 0;
}

static void on_progress(void *user_data, size_t finished, size_t total) {
  CALLED_BACK();
  (void)user_data, (void)finished, (void)total;
  count();
}

static void *rank(void *engine) {
  foreturn_rank_request request = poem(2, 2);
  foreturn_rank_options how;
  CHECK(foreturn_rank_options_init(&how, sizeof how) == FORETURN_OK);
  how.on_progress = on_progress;
  foreturn_ranking *ranking = NULL;
  FAILS(FORETURN_ERROR_CLOSED, foreturn_rank(engine, &request, &how, &ranking, &error));
  return NULL;
}

/* Once its end has begun, an engine calls nothing of the host's: not even for what waits behind a call under way. */
static void ending_engine(const char *folder) {
  foreturn_chat_model chat;
  CHECK(foreturn_chat_model_init(&chat, sizeof chat) == FORETURN_OK);
  chat.name = str("host"), chat.reply = reply, chat.release = release;
  foreturn_metric mine = metric("mine", 1);
  foreturn_engine *engine = engine_with(folder, SETTINGS, &mine, &chat);
  pthread_t first, second;
  CHECK(pthread_create(&first, NULL, rank, engine) == 0);
  while (atomic_load(&called) == 0) usleep(1000);
  CHECK(pthread_create(&second, NULL, rank, engine) == 0);
  foreturn_statistics now = {.size = sizeof now};
  do {
    OK(foreturn_engine_statistics(engine, &now, &error));
  } while (now.active_rankings < 2);
  atomic_store(&ending, true);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
  CHECK(atomic_load(&called_late) == 0 && atomic_load(&released) == 2);
  CHECK(pthread_join(first, NULL) == 0 && pthread_join(second, NULL) == 0);
}

/* A ranking that has no reward to choose by is no ranking. */
static void late(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  foreturn_rank_request request = poem(32, 32);
  foreturn_rank_options how;
  CHECK(foreturn_rank_options_init(&how, sizeof how) == FORETURN_OK);
  how.limits.timeout_ms = 1;
  foreturn_ranking *ranking = NULL;
  FAILS(FORETURN_ERROR_DEADLINE_EXCEEDED, foreturn_rank(engine, &request, &how, &ranking, &error));
  foreturn_pending *pending = NULL;
  bool ready = false;
  OK(foreturn_rank_submit(engine, &request, &how, &pending, &error));
  OK(foreturn_pending_wait(pending, UINT64_MAX, &ready, &error));
  FAILS(FORETURN_ERROR_DEADLINE_EXCEEDED, foreturn_pending_ranking(pending, &ranking, &error));
  CHECK(foreturn_pending_free(pending) == FORETURN_OK);
  how.limits.timeout_ms = 0;
  OK(foreturn_cancel_new((foreturn_cancel **)&how.limits.cancel, &error));
  OK(foreturn_cancel_cancel(how.limits.cancel, &error));
  FAILS(FORETURN_ERROR_CANCELLED, foreturn_rank(engine, &request, &how, &ranking, &error));
  CHECK(ranking == NULL);
  CHECK(foreturn_cancel_free((foreturn_cancel *)how.limits.cancel) == FORETURN_OK);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

/* A host that is newer than the library finds zeros where the library has nothing to say. */
static void cleared(const char *folder) {
  foreturn_engine *engine = engine_with(folder, SETTINGS, NULL, NULL);
  struct {
    foreturn_statistics known;
    unsigned char later[64];
  } newer;
  memset(&newer, 0xff, sizeof newer);
  newer.known.size = sizeof newer;
  OK(foreturn_engine_statistics(engine, &newer.known, &error));
  CHECK(newer.known.size == sizeof newer);
  for (size_t i = 0; i < sizeof newer.later; i++) CHECK(newer.later[i] == 0);
  CHECK(foreturn_engine_free(engine) == FORETURN_OK);
}

static const struct {
  const char *name;
  void (*run)(const char *folder);
} SCENARIOS[] = {{"checked", checked},       {"misconfigured", misconfigured}, {"bounded", bounded},
                 {"cored", cored},           {"unloaded", unloaded},     {"loaded_locally", loaded_locally}, {"forked_first", forked_first},
                 {"unloadable", unloadable}, {"ending", ending_engine},        {"late", late},
                 {"cleared", cleared}};

int main(int argc, char **argv) {
  for (size_t i = 0; argc == 3 && i < sizeof SCENARIOS / sizeof *SCENARIOS; i++)
    if (strcmp(argv[1], SCENARIOS[i].name) == 0) {
      SCENARIOS[i].run(argv[2]);
      return 0;
    }
  fprintf(stderr, "usage: guest SCENARIO FOLDER\n");
  return 2;
}
