/* Loaded before the C library (LD_PRELOAD): the system gives this process $THREADS threads beside its first one, no more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  static atomic_int made;
  if (atomic_fetch_add(&made, 1) >= atoi(getenv("THREADS"))) return EAGAIN;
  int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
  return create(thread, attributes, run, argument);
}
