/*
 * The library as a plug-in of a host that loads it by hand: `plugin LIBRARY MODEL_FOLDER`, or `plugin LIBRARY MODEL_FOLDER deep`
 * for one whose own symbols go before the host's. dlclose() succeeds always; after the first engine the library stays, because
 * its threads and ONNX Runtime do.
 */
#define _GNU_SOURCE
#include <foreturn.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);         \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)

static void *library;
static int flags = RTLD_NOW | RTLD_LOCAL;

static void load(const char *path) {
  library = dlopen(path, flags);
  if (library == NULL) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
}

/* A function of the library, by its name. */
#define FIND(name)            \
  __typeof__(&name) name##_;  \
  *(void **)&name##_ = dlsym(library, #name); \
  CHECK(name##_ != NULL)

static foreturn_str str(const char *text) {
  return (foreturn_str){text, strlen(text)};
}

static foreturn_engine *make(const char *model) {
  FIND(foreturn_engine_new);
  foreturn_model_options options = {.size = sizeof options, .name = str("m"), .path = str(model)};
  foreturn_engine_options how = {.size = sizeof how, .models = &options, .model_count = 1};
  foreturn_engine *engine = NULL;
  CHECK(foreturn_engine_new_(&how, &engine, NULL) == FORETURN_OK);
  return engine;
}

static double score(const foreturn_engine *engine) {
  FIND(foreturn_score);
  FIND(foreturn_scores_read);
  FIND(foreturn_scores_free);
  foreturn_message chat[] = {{str("user"), str("Name the capital of France.")}, {str("assistant"), str("Paris.")}};
  foreturn_score_input input = {.size = sizeof input, .messages = chat, .message_count = 2};
  foreturn_score_options how = {.size = sizeof how, .task = FORETURN_SCORE_RESPONSE};
  foreturn_score_info info = {.size = sizeof info};
  foreturn_scores *scores = NULL;
  CHECK(foreturn_score_(engine, str("m"), &input, 1, &how, &scores, NULL) == FORETURN_OK);
  CHECK(foreturn_scores_read_(scores, 0, &info, NULL) == FORETURN_OK);
  double value = info.values[0];
  CHECK(foreturn_scores_free_(scores) == FORETURN_OK);
  return value;
}

static void end(foreturn_engine *engine) {
  FIND(foreturn_engine_free);
  CHECK(foreturn_engine_free_(engine) == FORETURN_OK);
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[3], "deep") == 0) flags |= RTLD_DEEPBIND;
  else if (argc != 3) return 2;
  /* Without an engine it comes and goes. */
  for (int i = 0; i < 50; i++) {
    load(argv[1]);
    FIND(foreturn_abi_check);
    CHECK(foreturn_abi_check_(FORETURN_ABI_VERSION, NULL) == FORETURN_OK);
    CHECK(dlclose(library) == 0);
  }
  load(argv[1]);
  double first = score(make(argv[2]));
  /* Closed while an engine lives. */
  CHECK(dlclose(library) == 0);
  CHECK((library = dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD)) != NULL);
  for (int i = 0; i < 4; i++) {
    foreturn_engine *engine = make(argv[2]);
    CHECK(score(engine) == first);
    end(engine);
    CHECK(dlclose(library) == 0);
    load(argv[1]);
  }
  return 0;
}
