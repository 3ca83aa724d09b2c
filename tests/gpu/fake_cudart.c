/* CUDA's runtime as far as cuda.py calls it, over host memory. The tests run the probe's CUDA code against it.
   It hands out one stream and refuses every call that names another. */
#include <stdlib.h>
#include <string.h>

#define STREAM ((void *)0x1234)
#define ON(stream) ((stream) == STREAM ? 0 : 400)

const char *cudaGetErrorString(int status) { return status ? "refused by the fake runtime" : "no error"; }
int cudaSetDevice(int device) { return device == 0 ? 0 : 101; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = STREAM; return flags == 1 ? 0 : 1; }
int cudaStreamSynchronize(void *stream) { return ON(stream); }
int cudaMalloc(void **pointer, size_t size) { *pointer = malloc(size); return *pointer ? 0 : 2; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { (void)flags; return cudaMalloc(pointer, size); }
int cudaMemsetAsync(void *pointer, int value, size_t size, void *stream) { memset(pointer, value, size); return ON(stream); }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int kind, void *stream) {
    if (kind < 1 || kind > 3) return 21;
    memcpy(target, source, size);
    return ON(stream);
}
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return device; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = 1; return 0; }
