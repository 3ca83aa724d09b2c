/*
 * Scores a reply to a history that is warm, as often as it is told: `warm_score CONFIG.toml MODEL HISTORY REPLY`.
 *
 * For each line on standard input it scores once, and writes the nanoseconds that this took and the log-probability. The other
 * side of benches/server.py.
 */
#define _POSIX_C_SOURCE 200809L
#include <foreturn.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static foreturn_str str(const char *text) {
  return (foreturn_str){text, strlen(text)};
}

static void check(foreturn_status status, const foreturn_error *error) {
  if (status == FORETURN_OK) return;
  foreturn_str message = foreturn_error_message(error);
  fprintf(stderr, "warm_score: %.*s\n", (int)message.size, message.data);
  exit(1);
}

static long long nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **given) {
  if (count != 5) return fprintf(stderr, "warm_score CONFIG.toml MODEL HISTORY REPLY\n"), 2;
  foreturn_error *error = NULL;
  foreturn_engine_options options;
  check(foreturn_engine_options_init(&options, sizeof options), NULL);
  options.config_path = str(given[1]);
  foreturn_engine *engine = NULL;
  check(foreturn_engine_new(&options, &engine, &error), error);

  const foreturn_message history = {str("user"), str(given[3])};
  const foreturn_str reply = str(given[4]);
  foreturn_score_input input;
  check(foreturn_score_input_init(&input, sizeof input), NULL);
  input.messages = &history, input.message_count = 1;
  input.candidates = &reply, input.candidate_count = 1;
  foreturn_score_options how;
  check(foreturn_score_options_init(&how, sizeof how), NULL);
  how.task = FORETURN_SCORE_RESPONSE;

  char line[16];
  while (fgets(line, sizeof line, stdin)) {
    long long start = nanoseconds();
    foreturn_scores *scores = NULL;
    check(foreturn_score(engine, str(given[2]), &input, 1, &how, &scores, &error), error);
    foreturn_score_info score = {.size = sizeof score};
    check(foreturn_scores_read(scores, 0, &score, &error), error);
    long long took = nanoseconds() - start;
    printf("%lld %.17g\n", took, score.values[0]);
    fflush(stdout);
    foreturn_scores_free(scores);
  }
  return foreturn_engine_free(engine) != FORETURN_OK;
}
