/*
 * A metric of the host's own beside one of the library's: `custom_metric MODEL-FOLDER`.
 *
 *   cc custom_metric.c $(pkg-config --cflags --libs foreturn) -o custom_metric
 *   ./custom_metric target/models/smollm2-135m-instruct
 *
 * The metric rewards a response for every question that the assistant asks before it writes much.
 */
#include <foreturn.h>

#include <stdio.h>
#include <string.h>

static foreturn_str str(const char *text) {
  foreturn_str s = {text, strlen(text)};
  return s;
}

/* How the metric is set up; the library hands it back with every call. */
struct settings {
  double per_question;
  double per_thousand_bytes;
};

/*
 * Scores a batch of conversations. Called from a thread of the library; what it is given is lent until it returns. A status
 * other than 0 would leave these rollouts out of the ranking, with the reason in *why.
 */
static int32_t ask_first(void *user_data, const foreturn_metric_input *inputs, size_t count, double *values,
                         foreturn_str *why) {
  const struct settings *settings = user_data;
  (void)why;
  for (size_t i = 0; i < count; i++) {
    size_t questions = 0, bytes = 0;
    for (size_t m = inputs[i].response; m < inputs[i].message_count; m++) {
      const foreturn_message *message = &inputs[i].messages[m];
      if (message->role.size != strlen("assistant")) continue;
      bytes += message->content.size;
      for (size_t at = 0; at < message->content.size; at++) questions += message->content.data[at] == '?';
    }
    values[i] = settings->per_question * (double)questions + settings->per_thousand_bytes * (double)bytes / 1000;
  }
  return 0;
}

static int failed(const char *what, foreturn_error *error) {
  foreturn_str message = foreturn_error_message(error);
  fprintf(stderr, "%s: %.*s\n", what, (int)message.size, message.data);
  foreturn_error_free(error);
  return 1;
}

static int print(const foreturn_ranking *ranking) {
  foreturn_error *error = NULL;
  foreturn_ranking_info info = {.size = sizeof info};
  if (foreturn_ranking_read(ranking, &info, &error) != FORETURN_OK) return failed("the ranking", error);
  for (size_t place = 0; place < info.candidate_count; place++) {
    foreturn_candidate candidate = {.size = sizeof candidate};
    if (foreturn_ranking_candidate(ranking, place, &candidate, &error) != FORETURN_OK)
      return failed("a candidate", error);
    printf("candidate %zu: %.3f\n", candidate.candidate, candidate.reward);
    for (size_t i = 0; i < candidate.metric_count; i++) {
      foreturn_metric_summary metric = {.size = sizeof metric};
      if (foreturn_ranking_metric(ranking, place, i, &metric, &error) != FORETURN_OK)
        return failed("a metric", error);
      printf("  %.*s: %.3f ± %.3f, times %g\n", (int)metric.name.size, metric.name.data, metric.mean,
             metric.std_error, metric.weight);
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: custom_metric MODEL-FOLDER\n");
    return 2;
  }
  struct settings settings = {.per_question = 0.5, .per_thousand_bytes = -0.25};
  foreturn_metric metric = {.size = sizeof metric, .name = str("ask_first"), .weight = 1, .score = ask_first,
                            .user_data = &settings};
  foreturn_model_options model = {.size = sizeof model, .name = str("policy"), .path = str(argv[1])};
  foreturn_engine_options options = {
      .size = sizeof options,
      .config_toml = str("seed = 7\n"
                         "[rollout]\nwindow = 1\nsamples = 3\nmax_user_tokens = 16\nmax_policy_tokens = 32\n"
                         "[[metrics]]\nkind = \"token_amount\"\n"),
      .models = &model,
      .model_count = 1,
      .metrics = &metric,
      .metric_count = 1,
  };
  foreturn_error *error = NULL;
  foreturn_engine *engine = NULL;
  if (foreturn_engine_new(&options, &engine, &error) != FORETURN_OK) return failed("the engine", error);

  const foreturn_message conversation[] = {{str("user"), str("Can you plan my weekend?")}};
  const foreturn_str candidates[] = {str("Of course! Do you like to be outdoors, and is anybody coming along?"),
                                     str("Sleep late, cook something, see a film, and rest on Sunday.")};
  foreturn_rank_request request = {
      .size = sizeof request,
      .messages = conversation,
      .message_count = 1,
      .candidates = candidates,
      .candidate_count = 2,
      .goal_json = str("{\"task\": \"planning\", \"prompt\": \"A hike with two children, and no more than 50 euros.\"}"),
  };
  foreturn_ranking *ranking = NULL;
  int status = foreturn_rank(engine, &request, NULL, &ranking, &error) == FORETURN_OK
                   ? print(ranking)
                   : failed("the ranking", error);
  foreturn_ranking_free(ranking);
  foreturn_engine_free(engine);
  return status;
}
