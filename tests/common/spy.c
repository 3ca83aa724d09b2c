/* Loaded before the C library (LD_PRELOAD): writes each name that the process looks up into $SPY, and finds none. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  (void)service;
  (void)hints;
  (void)found;
  FILE *seen = fopen(getenv("SPY"), "a");
  if (seen == NULL) abort();
  fprintf(seen, "%s\n", node ? node : "");
  fclose(seen);
  return EAI_FAIL;
}
