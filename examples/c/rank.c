/*
 * Ranks a request's candidates: `rank CONFIG.toml REQUEST.json`.
 *
 *   cc rank.c $(pkg-config --cflags --libs foreturn) -o rank
 *   ./rank examples/foreturn.toml examples/requests/poem.json
 */
#include <foreturn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static foreturn_str str(const char *text) {
  foreturn_str s = {text, strlen(text)};
  return s;
}

/* Says what went wrong, and with which causes behind it; returns the program's status. */
static int failed(const char *what, foreturn_error *error) {
  foreturn_str message = foreturn_error_message(error);
  fprintf(stderr, "%s: %.*s\n", what, (int)message.size, message.data);
  for (size_t i = 0; i < foreturn_error_cause_count(error); i++) {
    foreturn_str cause = foreturn_error_cause(error, i);
    fprintf(stderr, "  caused by: %.*s\n", (int)cause.size, cause.data);
  }
  foreturn_error_free(error);
  return 1;
}

/* A whole file; NULL, with a message, where it can't be read. The caller frees it. */
static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *text = NULL;
  long end = -1;
  if (file && fseek(file, 0, SEEK_END) == 0 && (end = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0 &&
      (text = malloc((size_t)end + 1)) != NULL) {
    *size = fread(text, 1, (size_t)end, file);
    if (ferror(file)) {
      free(text);
      text = NULL;
    }
  }
  if (!text) perror(path);
  if (file) fclose(file);
  return text;
}

static void on_progress(void *user_data, size_t finished, size_t total) {
  (void)user_data;
  fprintf(stderr, "\r%zu of %zu rollouts", finished, total);
}

static int print(const foreturn_ranking *ranking) {
  foreturn_error *error = NULL;
  foreturn_ranking_info info = {.size = sizeof info};
  if (foreturn_ranking_read(ranking, &info, &error) != FORETURN_OK) return failed("the ranking", error);
  fprintf(stderr, "\n");
  for (size_t place = 0; place < info.candidate_count; place++) {
    foreturn_candidate candidate = {.size = sizeof candidate};
    if (foreturn_ranking_candidate(ranking, place, &candidate, &error) != FORETURN_OK)
      return failed("a candidate", error);
    /* Numbers that are unknown are NaN, and print so. */
    printf("%zu. candidate %zu: %.3f ± %.3f  %.*s\n", place + 1, candidate.candidate, candidate.reward,
           candidate.std_error, (int)(candidate.response.size < 60 ? candidate.response.size : 60),
           candidate.response.data);
  }
  printf("%.1f s, %llu tokens generated, %llu of %llu prompt tokens reused%s\n", info.seconds,
         (unsigned long long)info.generated_tokens, (unsigned long long)info.reused_tokens,
         (unsigned long long)info.prompt_tokens, info.complete ? "" : "; incomplete");
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: rank CONFIG.toml REQUEST.json\n");
    return 2;
  }
  foreturn_error *error = NULL;
  if (foreturn_abi_check(FORETURN_ABI_VERSION, &error) != FORETURN_OK) return failed("foreturn", error);

  size_t size = 0;
  char *json = read_file(argv[2], &size);
  if (!json) return 1;
  foreturn_engine_options options = {.size = sizeof options, .config_path = str(argv[1])};
  foreturn_engine *engine = NULL;
  if (foreturn_engine_new(&options, &engine, &error) != FORETURN_OK) {
    free(json);
    return failed("the engine", error);
  }
  foreturn_rank_request request = {.size = sizeof request, .json = {json, size}};
  foreturn_rank_options how = {.size = sizeof how, .on_progress = on_progress};
  foreturn_ranking *ranking = NULL;
  int status = foreturn_rank(engine, &request, &how, &ranking, &error) == FORETURN_OK
                   ? print(ranking)
                   : failed("the ranking", error);
  foreturn_ranking_free(ranking);
  foreturn_engine_free(engine);
  free(json);
  return status;
}
