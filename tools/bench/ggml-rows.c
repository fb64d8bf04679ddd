/* GB of BF16 input per CPU-second of one of ggml's row functions, for the bench of quantizing. Compiled together with
   ggml-quants.c of a checkout; what that file asks of the rest of ggml stands at the end.
   usage: rows SCHEME SECONDS; prints nothing for a scheme that is not listed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-quants.h"
#include "ggml.h"

enum { COLUMNS = 4096, ROWS = 32 };
/* As measure.ts has it: the best slice of a sitting counts. */
static const double SLICE_S = 0.01;

typedef size_t (*quantize_rows)(const float *, void *, int64_t, int64_t, const float *);

static const struct {
  const char *id;
  quantize_rows run;
} SCHEMES[] = {
    {"q8_0", quantize_q8_0},     {"q4_0", quantize_q4_0},     {"q4_1", quantize_q4_1},   {"q5_0", quantize_q5_0},
    {"q5_1", quantize_q5_1},     {"q2_k", quantize_q2_K},     {"q3_k", quantize_q3_K},   {"q4_k", quantize_q4_K},
    {"q5_k", quantize_q5_K},     {"q6_k", quantize_q6_K},     {"iq4_nl", quantize_iq4_nl}, {"iq4_xs", quantize_iq4_xs},
    {"mxfp4", quantize_mxfp4},   {"nvfp4", quantize_nvfp4},   {"q1_0", quantize_q1_0},   {"tq1_0", quantize_tq1_0},
    {"tq2_0", quantize_tq2_0},
};

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double uniform(void) { return (rand() + 1.0) / (RAND_MAX + 2.0); }

int main(int count, char **arguments) {
  static uint16_t stored[ROWS][COLUMNS];
  static float row[COLUMNS];
  static char blocks[4 * COLUMNS];
  if (count != 3) return 2;
  for (int i = 0; i < ROWS * COLUMNS; i++) {
    const float value = (float)(0.02 * sqrt(-2 * log(uniform())) * cos(6.2831853 * uniform()));
    uint32_t bits;
    memcpy(&bits, &value, 4);
    stored[i / COLUMNS][i % COLUMNS] = (uint16_t)(bits >> 16);
  }
  for (size_t s = 0; s < sizeof SCHEMES / sizeof SCHEMES[0]; s++) {
    if (strcmp(SCHEMES[s].id, arguments[1]) != 0) continue;
    double best = 0, total = 0;
    while (total < atof(arguments[2])) {
      const double start = cpu_seconds();
      double spent = 0, bytes = 0;
      for (; spent < SLICE_S; spent = cpu_seconds() - start) {
        for (int r = 0; r < ROWS; r++) {
          for (int i = 0; i < COLUMNS; i++) {
            const uint32_t bits = (uint32_t)stored[r][i] << 16;
            memcpy(&row[i], &bits, 4);
          }
          SCHEMES[s].run(row, blocks, 1, COLUMNS, NULL);
        }
        bytes += 2.0 * ROWS * COLUMNS;
      }
      if (bytes / spent > best) best = bytes / spent;
      total += spent;
    }
    printf("%f\n", best / 1e9);
  }
  return 0;
}

/* Only what is returned for many rows depends on it. */
size_t ggml_row_size(enum ggml_type type, int64_t elements) { return (void)type, (void)elements, 0; }
size_t ggml_type_size(enum ggml_type type) { return (void)type, 1; }
const char *ggml_type_name(enum ggml_type type) { return (void)type, ""; }
void ggml_abort(const char *file, int line, const char *format, ...) {
  (void)file, (void)line, (void)format;
  abort();
}
