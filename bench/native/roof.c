/*
 * What this machine's cores and memory can do at most, in plain loops that the compiler turns into vector code:
 * multiply-adds on registers, and copies of arrays far larger than caches. Prints one JSON object.
 *
 *   roof THREADS
 *
 * Compiled with -DLANES=…, the f32 of a vector register. GFLOP/s count 2 a multiply-add; GB/s count bytes read and written.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LANES
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

enum { chains = 12, steps = 1 << 18, rounds = 40, most = 256 };
static const size_t bytes = (size_t)128 << 20;

static pthread_barrier_t barrier;
static int threads;
static double rates[2][rounds];

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Independent chains: as many as hide the latency of two units. */
static float multiply(void) {
  vector sums[chains], factor, term;
  for (int lane = 0; lane < LANES; lane++) {
    factor[lane] = 0.999f + 1e-6f * (float)lane;
    term[lane] = 1e-3f;
    for (int i = 0; i < chains; i++) sums[i][lane] = (float)(i + lane);
  }
  for (int step = 0; step < steps; step++) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; i++) sums[i] = sums[i] * factor + term;
  }
  float total = 0;
  for (int i = 0; i < chains; i++)
    for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
  return total;
}

static void *work(void *argument) {
  const long self = (long)argument;
  const size_t own = bytes / (size_t)threads / 64 * 64;
  char *from = aligned_alloc(64, own), *to = aligned_alloc(64, own);
  if (from == NULL || to == NULL) abort();
  memset(from, 1, own);
  memset(to, 2, own);
  volatile float sink = 0;
  for (int kind = 0; kind < 2; kind++) {
    for (int round = 0; round < rounds; round++) {
      pthread_barrier_wait(&barrier);
      const double start = seconds();
      if (kind == 0) sink = sink + multiply();
      else memcpy(to, from, own);
      pthread_barrier_wait(&barrier);
      const double time = seconds() - start;
      const double amount = kind == 0 ? 2.0 * LANES * chains * steps : 2.0 * (double)own;
      if (self == 0) rates[kind][round] = amount * threads / time * 1e-9;
    }
  }
  sink = sink + to[own - 1];
  free(from);
  free(to);
  return NULL;
}

static double best(const double *values) {
  double result = 0;
  for (int i = 0; i < rounds; i++) result = values[i] > result ? values[i] : result;
  return result;
}

int main(int count, char **words) {
  threads = count > 1 ? atoi(words[1]) : 1;
  if (threads < 1 || threads > most) return 2;
  pthread_t handles[most];
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (long i = 0; i < threads; i++) pthread_create(&handles[i], NULL, work, (void *)i);
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  printf("{\"gflops\": %.2f, \"copyGBs\": %.2f, \"threads\": %d, \"lanes\": %d}\n", best(rates[0]), best(rates[1]),
         threads, LANES);
  return 0;
}
