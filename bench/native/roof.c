/*
 * What this machine's cores and memory can do at most, in plain loops that the compiler turns into vector code:
 * multiply-adds on registers, and copies between arrays far larger than caches.
 *
 *   roof THREADS
 *
 * Prints the best rates as one JSON object. Then a line in, a line out: `multiply FLOPS COUNT` and `copy BYTES COUNT`
 * do so much work COUNT times and print the milliseconds that each took.
 *
 * Compiled with -DLANES=…, the f32 of a vector register. A multiply-add counts as 2; bytes are those read and written.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LANES
#define LANES 8
#endif

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

enum { chains = 12, rounds = 40, mostThreads = 256, mostTimes = 1000 };
static const size_t arrays = (size_t)128 << 20;

/* What all threads do next. */
static struct {
  int copies;
  /* Of all threads together, each time: flops, or bytes. */
  double amount;
  int count;
} task;
static double times[mostTimes];

static int threads;
/* The threads and the one that asks them: before and after each task. */
static pthread_barrier_t gate;
/*
 * Meetings of a task, counted by thread. They spin, for to be woken would take as long as a small task; where there are
 * more threads than cores they let the others go first.
 */
static atomic_int arrived;

static void meet(int meeting) {
  atomic_fetch_add(&arrived, 1);
  for (int spins = 0; atomic_load(&arrived) < meeting * threads; spins++)
    if (spins > 10000) sched_yield();
}

static double milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

/* Independent chains: as many as hide the latency of two units. */
static float multiply(size_t steps) {
  vector sums[chains], factor, term;
  for (int lane = 0; lane < LANES; lane++) {
    factor[lane] = 0.999f + 1e-6f * (float)lane;
    term[lane] = 1e-3f;
    for (int i = 0; i < chains; i++) sums[i][lane] = (float)(i + lane);
  }
  for (size_t step = 0; step < steps; step++) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; i++) sums[i] = sums[i] * factor + term;
  }
  float total = 0;
  for (int i = 0; i < chains; i++)
    for (int lane = 0; lane < LANES; lane++) total += sums[i][lane];
  return total;
}

/* Goes on where it ended the last time, so that nothing of it is still in a cache. */
static void copy(char *to, const char *from, size_t length, size_t *position, size_t amount) {
  while (amount > 0) {
    const size_t part = amount < length - *position ? amount : length - *position;
    memcpy(to + *position, from + *position, part);
    *position = (*position + part) % length;
    amount -= part;
  }
}

/* A processor for each thread, where there is one: what is measured is the machine, not how its threads are spread. */
static void pin(int self) {
  cpu_set_t allowed, own;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < threads) return;
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != self) continue;
    CPU_ZERO(&own);
    CPU_SET(cpu, &own);
    sched_setaffinity(0, sizeof own, &own);
  }
}

static void *work(void *argument) {
  const int self = (int)(long)argument;
  pin(self);
  const size_t length = arrays / (size_t)threads / 64 * 64;
  char *from = aligned_alloc(64, length), *to = aligned_alloc(64, length);
  if (from == NULL || to == NULL) abort();
  memset(from, 1, length);
  memset(to, 2, length);
  volatile float sink = 0;
  size_t position = 0;
  for (;;) {
    pthread_barrier_wait(&gate);
    const double share = task.amount / threads;
    for (int i = 0; i < task.count; i++) {
      meet(2 * i + 1);
      const double start = milliseconds();
      if (task.copies) copy(to, from, length, &position, (size_t)(share / 2));
      else sink = sink + multiply((size_t)(share / (2 * LANES * chains)));
      meet(2 * i + 2);
      if (self == 0) times[i] = milliseconds() - start;
    }
    pthread_barrier_wait(&gate);
  }
  return NULL;
}

static void perform(int copies, double amount, int count) {
  task.copies = copies;
  task.amount = amount;
  task.count = count;
  atomic_store(&arrived, 0);
  pthread_barrier_wait(&gate);
  pthread_barrier_wait(&gate);
}

/* Amounts a nanosecond, at best. */
static double rate(int copies, double amount) {
  perform(copies, amount, rounds);
  double least = times[0];
  for (int i = 1; i < rounds; i++) least = times[i] < least ? times[i] : least;
  return amount / least * 1e-6;
}

int main(int count, char **words) {
  threads = count > 1 ? atoi(words[1]) : 1;
  if (threads < 1 || threads > mostThreads) return 2;
  pthread_barrier_init(&gate, NULL, (unsigned)threads + 1);
  for (long i = 0; i < threads; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, (void *)i) != 0) return 3;
  }
  const double gflops = rate(0, 1e8 * threads);
  printf("{\"gflops\": %.2f, \"copyGBs\": %.2f, \"threads\": %d, \"lanes\": %d}\n", gflops, rate(1, 2.0 * (double)arrays),
         threads, LANES);
  fflush(stdout);
  char line[128], kind[16];
  double amount;
  int repeat;
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "%15s %lf %d", kind, &amount, &repeat) != 3 || repeat < 1 || repeat > mostTimes) return 2;
    perform(strcmp(kind, "copy") == 0, amount, repeat);
    for (int i = 0; i < repeat; i++) printf("%s%.6f", i > 0 ? " " : "", times[i]);
    printf("\n");
    fflush(stdout);
  }
  return 0;
}
