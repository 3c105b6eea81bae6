/*
 * OpenBLAS's matrix product, timed by the harness line by line: reads `M N K TRANSPOSED COUNT`, runs COUNT products of
 * normal data and answers with the milliseconds of each in one line. Ends with its input.
 */
#define _GNU_SOURCE
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern void openblas_set_num_threads(int);
extern char *openblas_get_config(void);

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static float *normal(size_t count) {
  float *values = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
  if (values == NULL) abort();
  for (size_t i = 0; i < count; i++) {
    const double u = 1 - drand48(), v = drand48();
    values[i] = (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
  }
  return values;
}

int main(int arguments, char **words) {
  if (arguments > 1) openblas_set_num_threads(atoi(words[1]));
  printf("%s\n", openblas_get_config());
  fflush(stdout);
  int held[4] = {0, 0, 0, 0};
  float *a = NULL, *b = NULL, *c = NULL;
  int m, n, k, transposed, count;
  while (scanf("%d %d %d %d %d", &m, &n, &k, &transposed, &count) == 5) {
    if (m != held[0] || n != held[1] || k != held[2]) {
      free(a), free(b), free(c);
      a = normal((size_t)m * k);
      b = normal((size_t)n * k);
      c = normal((size_t)m * n);
      held[0] = m, held[1] = n, held[2] = k;
    }
    for (int i = 0; i < count; i++) {
      const double start = seconds();
      cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, m, n, k, 1, a, k, b,
                  transposed ? k : n, 0, c, n);
      printf("%.6f ", 1e3 * (seconds() - start));
    }
    printf("\n");
    fflush(stdout);
  }
  return 0;
}
