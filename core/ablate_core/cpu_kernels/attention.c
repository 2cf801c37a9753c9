/* Attention of the heads of a block, its derivative and its gradient; see block.c for what the letters mean. */
#include "common.h"

/* out[m] = sum over k of a[m, k] b[k], vectors of N numbers; M rows, a multiple of 4, so that sums do not wait for each
 * other. `out` may lie on nothing that is read. */
#define TIMES(N)                                                                                                    \
    INLINE void times_##N(const real *a, long a_row, long a_column, const real *b, long b_step, real *out,          \
                          long out_step, long M, long K) {                                                          \
        typedef real row __attribute__((vector_size(N * sizeof(real)), aligned(sizeof(real)), may_alias));          \
        for (long m = 0; m < M; m += 4) {                                                                           \
            row s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};                                                             \
            const real *at = a + m * a_row;                                                                         \
            for (long k = 0; k < K; k++) {                                                                          \
                row with = *(const row *)(b + k * b_step);                                                          \
                s0 += at[k * a_column] * with, s1 += at[a_row + k * a_column] * with;                               \
                s2 += at[2 * a_row + k * a_column] * with, s3 += at[3 * a_row + k * a_column] * with;               \
            }                                                                                                       \
            *(row *)(out + m * out_step) = s0, *(row *)(out + (m + 1) * out_step) = s1;                             \
            *(row *)(out + (m + 2) * out_step) = s2, *(row *)(out + (m + 3) * out_step) = s3;                       \
        }                                                                                                           \
    }
TIMES(4)
TIMES(8)
TIMES(16)
TIMES(32)
TIMES(64)

/* The same for any sizes; those that have a function are constants wherever they are given to it. */
INLINE void times(const real *a, long a_row, long a_column, const real *b, long b_step, real *restrict out,
                  long out_step, long M, long N, long K) {
    if (__builtin_constant_p(N) && M % 4 == 0) {
        if (N == 4) return times_4(a, a_row, a_column, b, b_step, out, out_step, M, K);
        if (N == 8) return times_8(a, a_row, a_column, b, b_step, out, out_step, M, K);
        if (N == 16) return times_16(a, a_row, a_column, b, b_step, out, out_step, M, K);
        if (N == 32) return times_32(a, a_row, a_column, b, b_step, out, out_step, M, K);
        if (N == 64) return times_64(a, a_row, a_column, b, b_step, out, out_step, M, K);
    }
    for (long m = 0; m < M; m++) {
        for (long n = 0; n < N; n++) out[m * out_step + n] = 0;
        for (long k = 0; k < K; k++)
            for (long n = 0; n < N; n++) out[m * out_step + n] += a[m * a_row + k * a_column] * b[k * b_step + n];
    }
}

INLINE void transpose(const real *x, long step, real *restrict out, long T, long d, real factor) {
    for (long c = 0; c < d; c++)
        for (long j = 0; j < T; j++) out[c * T + j] = x[j * step + c] * factor;
}

/* The derivative of a softmax at weights p along the scores, in the place of these. */
INLINE void softmax_row(real *restrict row, const real *p, long T, real factor) {
    real mean = 0;
    for (long j = 0; j < T; j++) mean += p[j] * row[j];
    for (long j = 0; j < T; j++) row[j] = p[j] * (row[j] - mean) * factor;
}

/* The softmax of each row of (T, T) times `factor`, in place. */
INLINE void softmax_rows(real *restrict weights, long T, real factor) {
    for (long i = 0; i < T; i++) {
        real *row = weights + i * T, top = row[0];
        for (long j = 1; j < T; j++) top = row[j] > top ? row[j] : top;
        for (long j = 0; j < T; j++) row[j] = (row[j] - top) * factor;
    }
    for (long i = 0; i < T * T; i++) weights[i] = exponential(weights[i]);
    for (long i = 0; i < T; i++) {
        real *row = weights + i * T, sum = 0;
        for (long j = 0; j < T; j++) sum += row[j];
        real by = 1 / sum;
        for (long j = 0; j < T; j++) row[j] *= by;
    }
}

/* Attention of one head and sample. Rows of q, k, v are `step` apart; weights (T, T); out's rows `out_step` apart. */
INLINE void mix(const real *q, const real *k, const real *v, long step, real *restrict weights, real *restrict out,
                long out_step, long T, long d, real factor) {
    real keys[MOST_CHANNELS * MOST_TOKENS];
    transpose(k, step, keys, T, d, factor);
    times(q, step, 1, keys, T, weights, T, T, T, d);
    softmax_rows(weights, T, 1);
    times(weights, T, 1, v, step, out, out_step, T, d, T);
}

/* Its derivative along (dq, dk, dv), which lie like q, k and v. */
INLINE void mix_tangent(const real *q, const real *k, const real *v, const real *dq, const real *dk, const real *dv,
                        long step, const real *weights, real *restrict d_out, long out_step, long T, long d,
                        real factor) {
    real keys[MOST_CHANNELS * MOST_TOKENS], scores[MOST_TOKENS * MOST_TOKENS], more[MOST_TOKENS * MOST_TOKENS];
    real other[MOST_TOKENS * MOST_CHANNELS];
    transpose(k, step, keys, T, d, factor);
    times(dq, step, 1, keys, T, scores, T, T, T, d);
    transpose(dk, step, keys, T, d, factor);
    times(q, step, 1, keys, T, more, T, T, T, d);
    for (long i = 0; i < T * T; i++) scores[i] += more[i];
    for (long i = 0; i < T; i++) softmax_row(scores + i * T, weights + i * T, T, 1);
    times(scores, T, 1, v, step, d_out, out_step, T, d, T);
    times(weights, T, 1, dv, step, other, d, T, d, T);
    for (long i = 0; i < T; i++)
        for (long c = 0; c < d; c++) d_out[i * out_step + c] += other[i * d + c];
}

/* Its gradient: that of (q, k, v), which lie like them, from that of the output. */
INLINE void mix_back(const real *q, const real *k, const real *v, long step, const real *weights, const real *slope,
                     long slope_step, real *restrict of_q, real *restrict of_k, real *restrict of_v, long T, long d,
                     real factor) {
    real values[MOST_CHANNELS * MOST_TOKENS], scores[MOST_TOKENS * MOST_TOKENS];
    transpose(v, step, values, T, d, 1);
    times(slope, slope_step, 1, values, T, scores, T, T, T, d);
    for (long i = 0; i < T; i++) softmax_row(scores + i * T, weights + i * T, T, factor);
    times(scores, T, 1, k, step, of_q, step, T, d, T);
    times(scores, 1, T, q, step, of_k, step, T, d, T);
    times(weights, 1, T, slope, slope_step, of_v, step, T, d, T);
}

/* The same for more tokens, by products of whole matrices: those of one head at a time, which stay in the cache, from where
 * they are to where they are wanted. */
static void long_mix(const real *q, const real *k, const real *v, long step, real *restrict weights, real *restrict out,
                     long out_step, long T, long d, real factor) {
    multiply(ROWS_OF(q, step), TURNED(k, step), 0, 0, weights, T, T, T, d, NOTHING);
    softmax_rows(weights, T, factor);
    multiply(ROWS_OF(weights, T), ROWS_OF(v, step), 0, 0, out, out_step, T, d, T, NOTHING);
}

static void long_mix_tangent(const real *q, const real *k, const real *v, const real *dq, const real *dk,
                             const real *dv, long step, const real *weights, real *restrict d_out, long out_step,
                             long T, long d, real factor) {
    real scores[LONG_TOKENS * LONG_TOKENS];
    multiply(ROWS_OF(dq, step), TURNED(k, step), 0, 0, scores, T, T, T, d, NOTHING);
    multiply(ROWS_OF(q, step), TURNED(dk, step), scores, T, scores, T, T, T, d, NOTHING);
    for (long i = 0; i < T; i++) softmax_row(scores + i * T, weights + i * T, T, factor);
    multiply(ROWS_OF(scores, T), ROWS_OF(v, step), 0, 0, d_out, out_step, T, d, T, NOTHING);
    multiply(ROWS_OF(weights, T), ROWS_OF(dv, step), d_out, out_step, d_out, out_step, T, d, T, NOTHING);
}

static void long_mix_back(const real *q, const real *k, const real *v, long step, const real *weights,
                          const real *slope, long slope_step, real *restrict of_q, real *restrict of_k,
                          real *restrict of_v, long T, long d, real factor) {
    real scores[LONG_TOKENS * LONG_TOKENS];
    multiply(ROWS_OF(slope, slope_step), TURNED(v, step), 0, 0, scores, T, T, T, d, NOTHING);
    for (long i = 0; i < T; i++) softmax_row(scores + i * T, weights + i * T, T, factor);
    multiply(ROWS_OF(scores, T), ROWS_OF(k, step), 0, 0, of_q, step, T, d, T, NOTHING);
    multiply(TURNED(scores, T), ROWS_OF(q, step), 0, 0, of_k, step, T, d, T, NOTHING);
    multiply(TURNED(weights, T), ROWS_OF(slope, slope_step), 0, 0, of_v, step, T, d, T, NOTHING);
}

/* Sizes that are known to the compiler become straight vector code. */
#define BY_SIZE(CALL)                                   \
    if (T == 4 && d == 16) CALL(4, 16);                 \
    else if (T == 4 && d == 32) CALL(4, 32);            \
    else if (T == 16 && d == 16) CALL(16, 16);          \
    else if (T == 16 && d == 32) CALL(16, 32);          \
    else if (T == 16 && d == 64) CALL(16, 64);          \
    else if (T <= MOST_TOKENS && d <= MOST_CHANNELS) CALL(T, d); \
    else LONG(T, d);

/* qkv (B, T, 3, H, d) -> weights (B, H, T, T), out (B, T, H, d). */
void attention(const real *qkv, real *restrict weights, real *restrict out, long B, long T, long H, long d) {
    long width = H * d, step = 3 * width;
    real factor = 1 / (real)sqrt((real)d);
    for (long b = 0; b < B; b++)
        for (long h = 0; h < H; h++) {
            const real *q = qkv + b * T * step + h * d;
#define ARGUMENTS(T, d) (q, q + width, q + 2 * width, step, weights + (b * H + h) * T * T, out + b * T * width + h * d, width, T, d, factor)
#define CALL(T, d) mix ARGUMENTS(T, d)
#define LONG(T, d) long_mix ARGUMENTS(T, d)
            BY_SIZE(CALL)
#undef ARGUMENTS
#undef CALL
#undef LONG
        }
}

/* qkv and d_qkv, of which K samples have a row at `samples`, -> d_out (K, T, H, d). */
void attention_tangent(const real *qkv, const real *weights, const real *d_qkv, const int64_t *samples, real *restrict d_out,
                       long K, long T, long H, long d) {
    long width = H * d, step = 3 * width;
    real factor = 1 / (real)sqrt((real)d);
    for (long n = 0; n < K; n++)
        for (long h = 0; h < H; h++) {
            long b = samples[n];
            const real *q = qkv + b * T * step + h * d, *dq = d_qkv + n * T * step + h * d;
#define ARGUMENTS(T, d) (q, q + width, q + 2 * width, dq, dq + width, dq + 2 * width, step, weights + (b * H + h) * T * T, d_out + n * T * width + h * d, width, T, d, factor)
#define CALL(T, d) mix_tangent ARGUMENTS(T, d)
#define LONG(T, d) long_mix_tangent ARGUMENTS(T, d)
            BY_SIZE(CALL)
#undef ARGUMENTS
#undef CALL
#undef LONG
        }
}

/* The gradient of qkv from that of out. */
void attention_back(const real *qkv, const real *weights, const real *slope, real *restrict of_qkv, long B, long T, long H,
                    long d) {
    long width = H * d, step = 3 * width;
    real factor = 1 / (real)sqrt((real)d);
    for (long b = 0; b < B; b++)
        for (long h = 0; h < H; h++) {
            const real *q = qkv + b * T * step + h * d;
            real *to = of_qkv + b * T * step + h * d;
#define ARGUMENTS(T, d) (q, q + width, q + 2 * width, step, weights + (b * H + h) * T * T, slope + b * T * width + h * d, width, to, to + width, to + 2 * width, T, d, factor)
#define CALL(T, d) mix_back ARGUMENTS(T, d)
#define LONG(T, d) long_mix_back ARGUMENTS(T, d)
            BY_SIZE(CALL)
#undef ARGUMENTS
#undef CALL
#undef LONG
        }
}
