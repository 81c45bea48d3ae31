/* The CUDA libraries as ONNX Runtime's CUDA provider needs them, on a machine without a GPU.

   Device memory is the CPU's, copies copy, kernels and GEMMs do nothing. So the provider itself says
   which nodes it takes, which kernels it launches and what it calls while it captures a graph. What
   CUDA forbids meanwhile is refused here too. Numbers are those of CUDA 13's headers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { INVALIDATED = 901, UNSUPPORTED = 900, GLOBAL_MODE = 0 };
typedef struct { unsigned x, y, z; } Dim;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *trace;
static void *captured; /* the stream that is being captured */
static int mode, broken, broken_captures, major = 8, minor = 0;
static long capturing_thread;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("CUDA_LIBRARY_TRACE"), *sm = getenv("CUDA_LIBRARY_SM"),
             *fail = getenv("CUDA_LIBRARY_BROKEN_CAPTURES");
  trace = path ? fopen(path, "a") : NULL;
  if (trace) setvbuf(trace, NULL, _IOLBF, 0);
  if (sm) major = atoi(sm) / 10, minor = atoi(sm) % 10;
  if (fail) broken_captures = atoi(fail);
}

static long thread(void) { return syscall(SYS_gettid); }

static void say(const char *call, const char *detail) {
  pthread_mutex_lock(&lock);
  if (trace) fprintf(trace, "%ld\t%d\t%s\t%s\n", thread(), captured != NULL, call, detail);
  pthread_mutex_unlock(&lock);
}

/* For what the capture of a stream forbids: to its own thread, and in global mode to all. */
static int unsafe(const char *call) {
  say(call, "");
  if (captured && (mode == GLOBAL_MODE || thread() == capturing_thread)) {
    broken = 1;
    say("forbidden", call);
    return UNSUPPORTED;
  }
  return 0;
}

static void *block(size_t size) { return aligned_alloc(512, (size / 512 + 1) * 512); }

/* Memory */
int cudaMalloc(void **p, size_t n) { int e = unsafe("cudaMalloc"); if (!e) *p = block(n), memset(*p, 0, n); return e; }
int cudaFree(void *p) { int e = unsafe("cudaFree"); if (!e) free(p); return e; }
int cudaFreeAsync(void *p, void *s) { return cudaFree(p); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *s) { return cudaMalloc(p, n); }
int cudaMallocHost(void **p, size_t n) { int e = unsafe("cudaMallocHost"); if (!e) *p = block(n); return e; }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return cudaMallocHost(p, n); }
int cudaFreeHost(void *p) { int e = unsafe("cudaFreeHost"); if (!e) free(p); return e; }
int cudaMemGetInfo(size_t *free_, size_t *all) { *free_ = 70ull << 30; *all = 80ull << 30; return 0; }
int cudaMemcpy(void *d, const void *s, size_t n, int k) { int e = unsafe("cudaMemcpy"); if (!e) memcpy(d, s, n); return e; }
int cudaMemcpyAsync(void *d, const void *s, size_t n, int kind, void *stream) {
  static const char *kinds[] = {"host to host", "host to device", "device to host", "device to device", "default"};
  say("cudaMemcpyAsync", kinds[kind]);
  memmove(d, s, n);
  return 0;
}
int cudaMemset(void *p, int v, size_t n) { int e = unsafe("cudaMemset"); if (!e) memset(p, v, n); return e; }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { memset(p, v, n); return 0; }
int cudaPointerGetAttributes(char *a, const void *p) { memset(a, 0, 88); *(int *)a = 2; *(const void **)(a + 8) = p; return 0; }
int cudaMemPoolGetAttribute(void *pool, int a, uint64_t *v) { *v = 0; return 0; }

/* The device */
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaGetDeviceProperties(char *p, int device) {
  static const struct { int at, value; } fields[] = {
      {296, 49152}, {304, 65536}, {308, 32}, {320, 1024}, {324, 1024}, {328, 1024}, {332, 64},
      {336, 2147483647}, {340, 65535}, {344, 65535}, {352, 65536}, {384, 108}, {596, 40 << 20},
      {604, 2048}, {624, 167936}, {632, 65536}, {672, 166912}, {688, 32}};
  memset(p, 0, 1008);
  strcpy(p, "none");
  *(uint64_t *)(p + 288) = 80ull << 30;
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) *(int *)(p + fields[i].at) = fields[i].value;
  *(int *)(p + 360) = major, *(int *)(p + 364) = minor;
  return 0;
}
int cudaDeviceGetAttribute(int *v, int which, int device) {
  *v = which == 16 ? 108 : which == 75 ? major : which == 76 ? minor : which == 97 ? 166912 : which == 1 ? 1024 : which == 10 ? 32 : 1;
  return 0;
}
int cudaDeviceSynchronize(void) { return unsafe("cudaDeviceSynchronize"); }
int cudaFuncGetAttributes(int *a, const void *f) { memset(a, 0, 144); a[6] = 1024; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned x) { *n = 2; return 0; }
const char *cudaGetErrorName(int e) { return e ? "cudaErrorStreamCapture" : "cudaSuccess"; }
const char *cudaGetErrorString(int e) { return e ? "operation not permitted while a stream is captured" : "no error"; }

/* Streams, events, graphs */
int cudaStreamCreate(void **s) { *s = malloc(8); return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned f) { *s = malloc(8); say("cudaStreamCreateWithFlags", f == 1 ? "non-blocking" : ""); return 0; }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cudaStreamSynchronize(void *s) { return captured ? unsafe("cudaStreamSynchronize") : (say("cudaStreamSynchronize", ""), 0); }
int cudaStreamIsCapturing(void *s, int *status) { *status = captured && s == captured; return 0; }
int cudaStreamBeginCapture(void *s, int m) {
  mode = m, capturing_thread = thread(), broken = broken_captures-- > 0, captured = s;
  say("cudaStreamBeginCapture", m == GLOBAL_MODE ? "global" : "");
  usleep(20000); /* so that other threads come in between */
  return 0;
}
int cudaStreamEndCapture(void *s, void **graph) {
  captured = NULL;
  *graph = broken ? NULL : malloc(8);
  say("cudaStreamEndCapture", broken ? "invalidated" : "");
  return broken ? INVALIDATED : 0;
}
int cudaGraphDestroy(void *g) { free(g); return 0; }
int cudaGraphExecDestroy(void *g) { free(g); return 0; }
int cudaGraphInstantiate(void **e, void *g, unsigned long long f) { *e = malloc(8); return 0; }
int cudaGraphLaunch(void *e, void *s) { say("cudaGraphLaunch", ""); return 0; }
int cudaEventCreate(void **e) { *e = malloc(8); return 0; }
int cudaEventCreateWithFlags(void **e, unsigned f) { *e = malloc(8); return 0; }
int cudaEventDestroy(void *e) { free(e); return 0; }
int cudaEventSynchronize(void *e) { return unsafe("cudaEventSynchronize"); }
int cudaEventElapsedTime(float *t, void *a, void *b) { *t = 1; return 0; }

/* Kernels, by the names that the provider registers them under */
static struct Kernel { const void *function; const char *name; } *kernels;
static size_t known, room;
static __thread struct { Dim grid, threads; size_t shared; void *stream; } call;
void **__cudaRegisterFatBinary(void *f) { static void *handle[8]; return handle; }
void __cudaRegisterFunction(void **h, const void *function, char *d, const char *name, int a, void *b, void *c, void *e, void *f, int *g) {
  if (known == room) kernels = realloc(kernels, (room = room ? 2 * room : 1 << 16) * sizeof *kernels);
  kernels[known++] = (struct Kernel){function, name};
}
int cudaLaunchKernel(const void *f, Dim grid, Dim threads, void **a, size_t shared, void *stream) {
  for (size_t i = 0; i < known; i++)
    if (kernels[i].function == f) { say("kernel", kernels[i].name); break; }
  return 0;
}
int __cudaLaunchKernel(const void *f, Dim g, Dim t, void **a, size_t n, void *s) { return cudaLaunchKernel(f, g, t, a, n, s); }
int __cudaGetKernel(const void **kernel, const void *function) { *kernel = function; return 0; }
unsigned __cudaPushCallConfiguration(Dim g, Dim t, size_t n, void *s) { call.grid = g, call.threads = t, call.shared = n, call.stream = s; return 0; }
int __cudaPopCallConfiguration(Dim *g, Dim *t, size_t *n, void **s) { *g = call.grid, *t = call.threads, *n = call.shared, *s = call.stream; return 0; }
int cudaLaunchHostFunc(void *s, void (*f)(void *), void *data) { say("cudaLaunchHostFunc", ""); f(data); return 0; }

/* The driver */
int cuDeviceGetName(char *name, int n, int d) { strncpy(name, "none", n); return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { return cudaDeviceGetAttribute(v, which, d); }
int cuModuleLoadData(void **m, const void *d) { *m = malloc(8); return 0; }
int cuModuleGetFunction(const char **f, void *m, const char *name) { *f = name; return 0; }
int cuLaunchKernel(const char *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned n, void *s, void **p, void **x) { say("kernel", f); return 0; }

/* cuBLAS and cuDNN: handles, and GEMMs that are found and do nothing */
#define HANDLE(name) int name(void **h) { *h = calloc(1, 256); return 0; }
HANDLE(cublasCreate_v2) HANDLE(cublasLtCreate) HANDLE(cublasLtMatmulDescCreate) HANDLE(cudnnCreate)
HANDLE(cublasLtMatrixLayoutCreate) HANDLE(cublasLtMatmulPreferenceCreate) HANDLE(cudnnCreateTensorDescriptor)
HANDLE(cudnnCreateReduceTensorDescriptor) HANDLE(cudnnCreateFilterDescriptor)
int cublasGetMathMode(void *h, int *m) { *m = 0; return 0; }
int cublasGemmEx(void) { say("cublasGemmEx", ""); return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *e, void *p, int n, void *r, int *got) { *got = 1; return 0; }
size_t cudnnGetVersion(void) { return 91400; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int e) { return "none"; }
