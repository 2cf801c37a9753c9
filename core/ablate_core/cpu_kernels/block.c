/* What a modulated transformer block does between its matrix products; see block_on_cpu.py, which calls it.
 *
 * Tensors are contiguous. B samples of T tokens of W channels; a "row" is a token. Factors of adaLN are the chunks
 * (shift, scale, gate) of a tensor of which each sample has `stride` numbers; a pointer to a factor points at that of
 * the first sample. Built once for float and once for double (REAL). Loops are written so that compilers vectorise them;
 * sums may be taken in any order, NaN and infinity are kept. */
#include "common.h"

float least_power = -87, largest_power = 88;

/* normal = (h - mean) / sqrt(variance + eps) of each row, modulated = normal (1 + scale) + shift. */
INLINE void norm_row(const real *h, const real *shift, const real *scale, real *restrict normal, real *restrict rstd, real *restrict modulated,
                     long W) {
    real mean = 0, variance = 0;
    for (long w = 0; w < W; w++) mean += h[w];
    mean /= W;
    for (long w = 0; w < W; w++) variance += (h[w] - mean) * (h[w] - mean);
    real by = 1 / (real)sqrt(variance / W + (real)1e-6);
    *rstd = by;
    for (long w = 0; w < W; w++) {
        real n = (h[w] - mean) * by;
        normal[w] = n;
        modulated[w] = n * (1 + scale[w]) + shift[w];
    }
}

void begin(const real *h, const real *shift, const real *scale, long stride, real *restrict normal, real *restrict rstd, real *restrict modulated,
           long B, long T, long W) {
    for (long b = 0; b < B; b++)
        for (long row = b * T; row < (b + 1) * T; row++)
            norm_row(h + row * W, shift + b * stride, scale + b * stride, normal + row * W, rstd + row,
                     modulated + row * W, W);
}

/* sum = h + gate out. */
void add(const real *h, const real *gate, const real *out, long stride, real *restrict sum, long B, long T, long W) {
    for (long b = 0; b < B; b++)
        for (long row = b * T; row < (b + 1) * T; row++)
            for (long w = 0; w < W; w++) sum[row * W + w] = h[row * W + w] + gate[b * stride + w] * out[row * W + w];
}

/* Derivative of `begin` along dh and the factors' tangents, of K samples: those at `samples`, in their order. */
void begin_tangent(const real *dh, const real *d_shift, const real *d_scale, const real *scale, long stride,
                   const real *normal, const real *rstd, const int64_t *samples, real *restrict d_modulated, long K, long T,
                   long W) {
    for (long k = 0; k < K; k++)
        for (long t = 0; t < T; t++) {
            long to = (k * T + t) * W, at = samples[k] * T + t;
            const real *d = dh + to, *n = normal + at * W, *by = scale + samples[k] * stride;
            const real *ds = d_scale + k * stride, *dt = d_shift + k * stride;
            real mean = 0, along = 0;
            for (long w = 0; w < W; w++) mean += d[w], along += d[w] * n[w];
            mean /= W, along /= W;
            for (long w = 0; w < W; w++)
                d_modulated[to + w] = (d[w] - mean - n[w] * along) * rstd[at] * (1 + by[w]) + n[w] * ds[w] + dt[w];
        }
}

/* Derivative of h + gate out, of the samples at `samples`. */
void add_tangent(const real *dh, const real *gate, const real *d_gate, long stride, const real *out, const real *d_out,
                 const int64_t *samples, real *restrict sum, long K, long T, long W) {
    for (long k = 0; k < K; k++)
        for (long t = 0; t < T; t++) {
            const real *g = gate + samples[k] * stride, *dg = d_gate + k * stride;
            const real *o = out + (samples[k] * T + t) * W;
            long to = (k * T + t) * W;
            for (long w = 0; w < W; w++) sum[to + w] = dh[to + w] + dg[w] * o[w] + g[w] * d_out[to + w];
        }
}

/* Gradient of h + gate out from that of the sum: `of_out`, its sums over the tokens of each sample, and of_gate. */
void add_back(const real *slope, const real *gate, const real *out, long stride, real *restrict of_out,
              real *restrict sums, real *restrict of_gate, long B, long T, long W) {
    for (long b = 0; b < B; b++) {
        real *restrict total = of_gate + b * stride, *restrict sum = sums + b * W;
        const real *g = gate + b * stride;
        memset(total, 0, W * sizeof(real));
        memset(sum, 0, W * sizeof(real));
        for (long row = b * T; row < (b + 1) * T; row++)
            for (long w = 0; w < W; w++) {
                real s = slope[row * W + w], to = s * g[w];
                total[w] += s * out[row * W + w];
                sum[w] += to;
                of_out[row * W + w] = to;
            }
    }
}

/* Gradient of the input of GELU in the place of that of its output, and its sums over the tokens of each sample. */
void gelu_back(real *restrict slope, const real *derivative, real *restrict sums, long B, long T, long W) {
    for (long b = 0; b < B; b++) {
        real *restrict sum = sums + b * W;
        memset(sum, 0, W * sizeof(real));
        for (long row = b * T; row < (b + 1) * T; row++)
            for (long w = 0; w < W; w++) {
                real to = slope[row * W + w] * derivative[row * W + w];
                sum[w] += to;
                slope[row * W + w] = to;
            }
    }
}

/* Gradient of `begin` from `inner`, that of modulated, added to `slope`, that of h from elsewhere, or NULL. */
void begin_back(const real *slope, const real *inner, const real *normal, const real *rstd, const real *scale,
                long stride, real *restrict of_h, real *restrict of_shift, real *restrict of_scale, long B, long T, long W) {
    for (long b = 0; b < B; b++) {
        real *shift_sum = of_shift + b * stride, *scale_sum = of_scale + b * stride;
        const real *by = scale + b * stride;
        memset(shift_sum, 0, W * sizeof(real));
        memset(scale_sum, 0, W * sizeof(real));
        for (long row = b * T; row < (b + 1) * T; row++) {
            const real *in = inner + row * W, *n = normal + row * W, *s = slope + row * W;
            real mean = 0, along = 0;
            for (long w = 0; w < W; w++) {
                real g = in[w] * (1 + by[w]);
                shift_sum[w] += in[w];
                scale_sum[w] += in[w] * n[w];
                mean += g;
                along += g * n[w];
            }
            mean /= W, along /= W;
            for (long w = 0; w < W; w++)
                of_h[row * W + w] = (slope ? s[w] : 0) + rstd[row] * (in[w] * (1 + by[w]) - mean - n[w] * along);
        }
    }
}

/* GELU in its tanh form, x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), and its derivative, which may lie on x. */
void gelu(const real *x, real *restrict out, real *derivative, long count) {
    const real a = (real)1.5957691216057308, c = (real)0.044715;
#pragma GCC ivdep
    for (long i = 0; i < count; i++) {
        real v = x[i], square = v * v, z = a * v * (1 + c * square);
        real e = exponential(-z), gate = 1 / (1 + e);
        out[i] = v * gate;
        derivative[i] = gate + a * v * (1 + 3 * c * square) * gate * (e * gate); /* e gate is 1 - gate, exactly */
    }
}

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

/* The whole block, for few rows, where calling what is above one by one would take longer than computing it. Weights are
 * those of modulation, qkv, project, expand and contract, each a matrix (out, in) and a bias or NULL. */
product_t *product;
void use_product(product_t *given) { product = given; }

/* Samples go through a block in groups of about so many rows, so that what one product leaves is still in a cache for what
 * comes next, in both directions; the panels of the weights are copied for each group anew. A variable for the tests. */
long rows_together = 256;

INLINE long most_together(long T) { return T < rows_together ? rows_together / T : 1; }

INLINE long together(long B, long T) {
    long most = most_together(T), groups = (B + most - 1) / most;
    return (B + groups - 1) / groups;
}

/* Where things of a group of B samples lie in the memory of a forward pass, in numbers; the last is how many there are.
 * Before the groups come the factors of all samples. */
typedef struct {
    long normal_a, rstd_a, modulated_a, qkv, weights, attended, out_a, h, normal_m, rstd_m, modulated_m, hidden,
        derivative, out_m, end;
} places;

INLINE long padded(long count) { return (count + 15) / 16 * 16; }

INLINE places layout(long B, long T, long W, long H, long F) {
    long R = B * T, sizes[] = {R * W, R, R * W, 3 * R * W, B * H * T * T, R * W, R * W,
                               R * W, R * W, R, R * W, R * F, R * F, R * W};
    places p;
    long at = 0, *to = &p.normal_a;
    for (int i = 0; i < 14; i++) to[i] = at, at += padded(sizes[i]);
    p.end = at;
    return p;
}

long kept_by_forward(long B, long T, long W, long H, long F) {
    long some = together(B, T), rest = B % some;
    return padded(B * 6 * W) + B / some * layout(some, T, W, H, F).end + (rest ? layout(rest, T, W, H, F).end : 0);
}
long used_by_tangent(long K, long T, long W, long F) {
    long most = most_together(T), some = K < most ? K : most;
    return K * 6 * W + some * T * (7 * W + F);
}
long used_by_back(long B, long T, long W, long F) {
    long some = together(B, T);
    return B * 6 * W + some * (W + F) + some * T * (6 * W + F);
}

/* A group of samples h (B, T, W) with factors f -> out, and `kept` for the gradient; `next` will be read after it. */
static void forward_of_group(const real *h, const real *f, const real *const *w, real *kept, real *out, long B, long T,
                             long W, long H, long F, ahead next) {
    places p = layout(B, T, W, H, F);
    real *between = kept + p.h;
    long R = B * T, stride = 6 * W;
    begin(h, f, f + W, stride, kept + p.normal_a, kept + p.rstd_a, kept + p.modulated_a, B, T, W);
    linear(kept + p.modulated_a, w + 2, kept + p.qkv, R, W, 3 * W, NEXT(w[4], W * W));
    attention(kept + p.qkv, kept + p.weights, kept + p.attended, B, T, H, W / H);
    linear(kept + p.attended, w + 4, kept + p.out_a, R, W, W, NEXT(w[6], W * F));
    add(h, f + 2 * W, kept + p.out_a, stride, between, B, T, W);
    begin(between, f + 3 * W, f + 4 * W, stride, kept + p.normal_m, kept + p.rstd_m, kept + p.modulated_m, B, T, W);
    linear(kept + p.modulated_m, w + 6, kept + p.derivative, R, W, F, NEXT(w[8], W * F));
    gelu(kept + p.derivative, kept + p.hidden, kept + p.derivative, R * F);
    linear(kept + p.hidden, w + 8, kept + p.out_m, R, F, W, next);
    add(between, f + 5 * W, kept + p.out_m, stride, out, B, T, W);
}

/* The derivative of a group along dh (K, T, W) and df, that of the factors, of its `samples` -> d_out. */
static void tangent_of_group(const real *dh, const real *df, const int64_t *samples, const real *f,
                             const real *const *w, const real *kept, real *scratch, real *d_out, long K, long B, long T,
                             long W, long H, long F) {
    places p = layout(B, T, W, H, F);
    long S = K * T, stride = 6 * W;
    const real *no_bias[2] = {0, 0};
    real *d_mod = scratch, *d_qkv = d_mod + S * W, *d_mixed = d_qkv + 3 * S * W, *d_branch = d_mixed + S * W;
    real *d_between = d_branch + S * W, *d_hidden = d_between + S * W;
#define TANGENT(layer, from, to, in, to_size) (no_bias[0] = w[layer], linear(from, no_bias, to, S, in, to_size, NOTHING))
    begin_tangent(dh, df, df + W, f + W, stride, kept + p.normal_a, kept + p.rstd_a, samples, d_mod, K, T, W);
    TANGENT(2, d_mod, d_qkv, W, 3 * W);
    attention_tangent(kept + p.qkv, kept + p.weights, d_qkv, samples, d_mixed, K, T, H, W / H);
    TANGENT(4, d_mixed, d_branch, W, W);
    add_tangent(dh, f + 2 * W, df + 2 * W, stride, kept + p.out_a, d_branch, samples, d_between, K, T, W);
    begin_tangent(d_between, df + 3 * W, df + 4 * W, f + 4 * W, stride, kept + p.normal_m, kept + p.rstd_m, samples,
                  d_mod, K, T, W);
    TANGENT(6, d_mod, d_hidden, W, F);
    for (long k = 0; k < K; k++)
        for (long i = 0; i < T * F; i++) d_hidden[k * T * F + i] *= kept[p.derivative + samples[k] * T * F + i];
    TANGENT(8, d_hidden, d_branch, F, W);
    add_tangent(d_between, f + 5 * W, df + 5 * W, stride, kept + p.out_m, d_branch, samples, d_out, K, T, W);
#undef TANGENT
}

/* h (B, T, W), c (B, W) -> out, and `kept` for the gradient. With K > 0 tangents dh, dc of `samples` -> d_out. The next
 * network begins with the weights `following`. */
static void forward_of_one(const real *h, const real *c, const real *const *w, const real *following, real *kept,
                           real *out, const real *dh, const real *dc, const int64_t *samples, real *scratch, real *d_out,
                           long K, long B, long T, long W, long H, long F) {
    real *f = kept, *df = scratch;
    long stride = 6 * W, some = together(B, T);
    const real *no_bias[2] = {w[0], 0};
    int64_t local[K + 1];
    linear(c, w, f, B, W, stride, NEXT(w[2], 3 * W * W));
    if (K) linear(dc, no_bias, df, K, W, stride, NOTHING);
    kept += padded(B * stride);
    for (long first = 0; first < B; first += some) {
        long own = B - first < some ? B - first : some, after = first + own;
        ahead next = after < B ? NEXT(h + after * T * W, own * T * W) : NEXT(following, stride * W);
        forward_of_group(h + first * T * W, f + first * stride, w, kept, out + first * T * W, own, T, W, H, F, next);
        for (long k = 0, from; (from = k) < K; k += k == from) { /* a run of tangents, all of this group */
            for (; k < K && k - from < most_together(T) && samples[k] >= first && samples[k] < after; k++)
                local[k] = samples[k] - first;
            if (k > from)
                tangent_of_group(dh + from * T * W, df + from * stride, local + from, f + first * stride, w, kept,
                                 scratch + K * stride, d_out + from * T * W, k - from, own, T, W, H, F);
        }
        kept += layout(own, T, W, H, F).end;
    }
}

/* From the gradient of out that of h and, added to the others where `keep`, those of the weights; of_f, those of the
 * factors, are written. */
static void back_of_group(const real *slope, const real *f, const real *const *w, const real *kept, real *const *of_w,
                          const int *keep, real *scratch, real *of_h, real *of_f, long B, long T, long W, long H,
                          long F) {
    places p = layout(B, T, W, H, F);
    long R = B * T, stride = 6 * W;
    real *sums = scratch, *wide_sums = sums + B * W, *inner = wide_sums + B * F;
    real *narrow = inner + R * W, *of_between = narrow + R * W;
    real *of_qkv = of_between + R * W, *of_hidden = of_qkv + 3 * R * W;

    add_back(slope, f + 5 * W, kept + p.out_m, stride, inner, sums, of_f + 5 * W, B, T, W);
    linear_back(inner, kept + p.hidden, w + 8, of_w + 8, keep + 8, sums, B, of_hidden, R, F, W,
                NEXT(kept + p.derivative, R * F));
    gelu_back(of_hidden, kept + p.derivative, wide_sums, B, T, F);
    linear_back(of_hidden, kept + p.modulated_m, w + 6, of_w + 6, keep + 6, wide_sums, B, narrow, R, W, F,
                NEXT(kept + p.normal_m, R * W));
    begin_back(slope, narrow, kept + p.normal_m, kept + p.rstd_m, f + 4 * W, stride, of_between, of_f + 3 * W,
               of_f + 4 * W, B, T, W);

    add_back(of_between, f + 2 * W, kept + p.out_a, stride, inner, sums, of_f + 2 * W, B, T, W);
    linear_back(inner, kept + p.attended, w + 4, of_w + 4, keep + 4, sums, B, narrow, R, W, W, NEXT(kept + p.qkv, 4 * R * W));
    attention_back(kept + p.qkv, kept + p.weights, narrow, of_qkv, B, T, H, W / H);
    linear_back(of_qkv, kept + p.modulated_a, w + 2, of_w + 2, keep + 2, 0, 0, narrow, R, W, 3 * W,
                NEXT(kept + p.normal_a, R * W));
    begin_back(of_between, narrow, kept + p.normal_a, kept + p.rstd_a, f + W, stride, of_h, of_f, of_f + W, B, T, W);
}

#define WEIGHTS 10

/* From the gradient of out those of h, c and the weights; the last group first, whose memory was written last. */
static void back_of_one(const real *slope, const real *c, const real *const *w, const real *kept, real *const *of_w,
                        const int *keep, real *scratch, real *of_h, real *of_c, long B, long T, long W, long H,
                        long F) {
    const int all[WEIGHTS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const real *f = kept, *end = kept + kept_by_forward(B, T, W, H, F), *group = end;
    real *of_f = scratch;
    long stride = 6 * W, some = together(B, T);
    for (long after = B, own; after > 0; after -= own) {
        own = after == B && B % some ? B % some : some;
        long first = after - own;
        group -= layout(own, T, W, H, F).end;
        back_of_group(slope + first * T * W, f + first * stride, w, group, of_w, after == B ? keep : all,
                      scratch + B * stride, of_h + first * T * W, of_f + first * stride, own, T, W, H, F);
    }
    linear_back(of_f, c, w, of_w, keep, 0, 0, of_c, B, W, stride, NEXT(end, 6 * W));
}

/* N networks one after another, network n with weights `places[n]` strides behind those given, batches[n] samples and
 * counts[n] tangents; samples are counted over all. What one computes stays in the cache for its next product. */
void blocks_forward(const real *h, const real *c, real *const *w, const long *strides, const long *places,
                    const long *batches, const long *counts, long N, real *kept, real *out, const real *dh,
                    const real *dc, const int64_t *samples, real *scratch, real *d_out, long T, long W, long H, long F) {
    long first = 0;
    for (long n = 0; n < N; n++) {
        long B = batches[n], K = counts ? counts[n] : 0;
        const real *own[WEIGHTS];
        for (int i = 0; i < WEIGHTS; i++) own[i] = w[i] ? w[i] + places[n] * strides[i] : 0;
        int64_t local[K + 1];
        for (long k = 0; k < K; k++) local[k] = samples[k] - first;
        const real *following = n + 1 < N ? w[0] + places[n + 1] * strides[0] : w[0];
        forward_of_one(h, c, own, following, kept, out, dh, dc, local, scratch, d_out, K, B, T, W, H, F);
        h += B * T * W, c += B * W, out += B * T * W, kept += kept_by_forward(B, T, W, H, F), first += B;
        if (K) dh += K * T * W, dc += K * W, d_out += K * T * W, samples += K;
    }
}

void blocks_back(const real *slope, const real *c, real *const *w, const long *strides, const long *places,
                 const long *batches, long N, const real *kept, real *const *of_w, const long *of_strides,
                 const int *keep, real *scratch, real *of_h, real *of_c, long T, long W, long H, long F) {
    for (long n = 0; n < N; n++) {
        long B = batches[n];
        const real *own[WEIGHTS];
        real *of_own[WEIGHTS];
        for (int i = 0; i < WEIGHTS; i++) {
            own[i] = w[i] ? w[i] + places[n] * strides[i] : 0;
            of_own[i] = of_w[i] ? of_w[i] + places[n] * of_strides[i] : 0;
        }
        back_of_one(slope, c, own, kept, of_own, keep, scratch, of_h, of_c, B, T, W, H, F);
        slope += B * T * W, c += B * W, of_h += B * T * W, of_c += B * W, kept += kept_by_forward(B, T, W, H, F);
    }
}
