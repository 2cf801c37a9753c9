/* What a modulated transformer block does between its matrix products; see block_on_cpu.py, which calls it.
 *
 * Tensors are contiguous. B samples of T tokens of W channels; a "row" is a token. Factors of adaLN are the chunks
 * (shift, scale, gate) of a tensor of which each sample has `stride` numbers; a pointer to a factor points at that of
 * the first sample. Built once for float and once for double (REAL). Loops are written so that compilers vectorise them;
 * sums may be taken in any order, NaN and infinity are kept. */
#include "common.h"

void attention(const real *, real *, real *, long, long, long, long);
void attention_tangent(const real *, const real *, const real *, const int64_t *, real *, long, long, long, long);
void attention_back(const real *, const real *, const real *, real *, long, long, long, long);

/* normal = (h - mean) / sqrt(variance + eps) of each row, modulated = normal (1 + scale) + shift. */
INLINE void norm_row(const real *h, const real *shift, const real *scale, real *restrict normal, real *restrict rstd, real *restrict modulated,
                     long W) {
    real mean = 0, variance = 0;
    for (long w = 0; w < W; w++) mean += h[w];
    mean /= W;
    for (long w = 0; w < W; w++) variance += (h[w] - mean) * (h[w] - mean);
    /* Where the squares overflow, 1 / sqrt(inf) would make a row of zeros of one that has diverged; 0 * inf is NaN. */
    real by = 1 / (real)sqrt(variance / W + (real)1e-6) + 0 * variance;
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
        real slope = gate + a * v * (1 + 3 * c * square) * gate * (e * gate); /* e gate is 1 - gate, exactly */
        /* In float e^-z is cut at 1e-38, with which the cube of a huge v makes any number; of infinity 0 v is NaN. */
        derivative[i] = sizeof(real) == 8 || square < (real)1e8 ? slope : gate + 0 * v;
    }
}

/* The whole block of a narrow network, where what is above, called one by one, would wait for memory. Weights are those of
 * modulation, qkv, project, expand and contract, each a matrix (out, in) and a bias or NULL.
 *
 * Samples go through a block in groups of about so many rows, so that what one product leaves is still in a cache for what
 * comes next, in both directions; the panels of the weights are copied for each group anew. A variable for the tests. */
long rows_together = 256;

INLINE long most_together(long T) { return T < rows_together ? rows_together / T : 1; }

INLINE long together(long B, long T) {
    long most = most_together(T), groups = (B + most - 1) / most;
    return B ? (B + groups - 1) / groups : 1;
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

/* Numbers that a forward pass writes: of all groups where they are kept for the gradient, else of one after the other. */
long used_by_forward(long B, long T, long W, long H, long F, long keep) {
    long some = together(B, T), rest = B % some, one = layout(some, T, W, H, F).end;
    return padded(B * 6 * W) + (keep ? B / some * one + (rest ? layout(rest, T, W, H, F).end : 0) : one);
}
long used_by_tangent(long K, long T, long W, long F) {
    long most = most_together(T), some = K < most ? K : most;
    return K * 6 * W + some * T * (7 * W + F);
}
long used_by_back(long B, long T, long W, long F) {
    long some = together(B, T);
    return B * 6 * W + some * (W + F) + some * T * (6 * W + F);
}

/* Tangents of K samples of a group: dh (K, T, W) and df, that of the factors -> d_out. */
typedef struct {
    const real *dh, *df;
    const int64_t *samples;
    real *scratch, *d_out;
    long K;
} directions;

/* A group of samples h (B, T, W) with factors f -> out, and `kept` for the gradient, unless that was done `before`; and its
 * tangents, whose products share the copies of the weights. `next` will be read after it. */
static void forward_of_group(const real *h, const real *f, const real *const *w, real *kept, real *out, directions d,
                             int before, long B, long T, long W, long H, long F, ahead next) {
    places p = layout(B, T, W, H, F);
    real *between = kept + p.h, *normal_a = kept + p.normal_a, *rstd_a = kept + p.rstd_a, *qkv = kept + p.qkv;
    real *out_a = kept + p.out_a, *normal_m = kept + p.normal_m, *rstd_m = kept + p.rstd_m, *out_m = kept + p.out_m;
    real *derivative = kept + p.derivative;
    long N = before ? 0 : B, R = N * T, K = d.K, S = K * T, stride = 6 * W;
    real *d_mod = d.scratch, *d_qkv = d_mod + S * W, *d_mixed = d_qkv + 3 * S * W, *d_branch = d_mixed + S * W;
    real *d_between = d_branch + S * W, *d_hidden = d_between + S * W;
    const real *df = d.df;

    begin(h, f, f + W, stride, normal_a, rstd_a, kept + p.modulated_a, N, T, W);
    begin_tangent(d.dh, df, df + W, f + W, stride, normal_a, rstd_a, d.samples, d_mod, K, T, W);
    linear_beside(kept + p.modulated_a, qkv, R, d_mod, d_qkv, S, w + 2, W, 3 * W, NEXT(w[4], W * W));
    attention(qkv, kept + p.weights, kept + p.attended, N, T, H, W / H);
    attention_tangent(qkv, kept + p.weights, d_qkv, d.samples, d_mixed, K, T, H, W / H);
    linear_beside(kept + p.attended, out_a, R, d_mixed, d_branch, S, w + 4, W, W, NEXT(w[6], W * F));
    add(h, f + 2 * W, out_a, stride, between, N, T, W);
    add_tangent(d.dh, f + 2 * W, df + 2 * W, stride, out_a, d_branch, d.samples, d_between, K, T, W);

    begin(between, f + 3 * W, f + 4 * W, stride, normal_m, rstd_m, kept + p.modulated_m, N, T, W);
    begin_tangent(d_between, df + 3 * W, df + 4 * W, f + 4 * W, stride, normal_m, rstd_m, d.samples, d_mod, K, T, W);
    linear_beside(kept + p.modulated_m, derivative, R, d_mod, d_hidden, S, w + 6, W, F, NEXT(w[8], W * F));
    gelu(derivative, kept + p.hidden, derivative, R * F);
    for (long k = 0; k < K; k++)
        for (long i = 0; i < T * F; i++) d_hidden[k * T * F + i] *= derivative[d.samples[k] * T * F + i];
    linear_beside(kept + p.hidden, out_m, R, d_hidden, d_branch, S, w + 8, F, W, next);
    add(between, f + 5 * W, out_m, stride, out, N, T, W);
    add_tangent(d_between, f + 5 * W, df + 5 * W, stride, out_m, d_branch, d.samples, d.d_out, K, T, W);
}

/* The next tangents, from number k on, that are of the samples first ... after, at most `most`, as samples of their group. */
INLINE long run_of(const int64_t *samples, long k, long K, long most, long first, long after, int64_t *local) {
    long end = k;
    for (; end < K && end - k < most && samples[end] >= first && samples[end] < after; end++)
        local[end - k] = samples[end] - first;
    return end - k;
}

/* h (B, T, W), c (B, W) -> out, and `kept` for the gradient where `keep`. With K > 0 tangents dh, dc of `samples` -> d_out;
 * of these h begins with number `start`. The next network begins with the weights `following`. */
static void forward_of_one(const real *h, const real *c, const real *const *w, const real *following, real *kept,
                           real *out, const real *dh, const real *dc, const int64_t *samples, long start, real *scratch,
                           real *d_out, long K, long B, long T, long W, long H, long F, long keep) {
    real *f = kept, *df = scratch;
    long stride = 6 * W, some = together(B, T), most = most_together(T);
    int64_t local[most]; /* of one group: those of all would not always fit on the stack */
    linear_beside(c, f, B, dc, df, K, w, W, stride, NEXT(w[2], 3 * W * W));
    kept += padded(B * stride);
    for (long first = 0; first < B; first += some) {
        long own = B - first < some ? B - first : some, after = first + own;
        ahead next = after < B ? NEXT(h + after * T * W, own * T * W) : NEXT(following, stride * W);
        for (long k = 0, before = 0, count = 0; !before || count; k += count, before = 1) {
            for (count = 0; k < K && !(count = run_of(samples, k, K, most, start + first, start + after, local)); k++);
            directions d = {dh + k * T * W, df + k * stride, local, scratch + K * stride, d_out + k * T * W, count};
            if (!before || count)
                forward_of_group(h + first * T * W, f + first * stride, w, kept, out + first * T * W, d, before, own, T, W,
                                 H, F, next);
        }
        if (keep) kept += layout(own, T, W, H, F).end;
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
    const real *f = kept, *end = kept + used_by_forward(B, T, W, H, F, 1), *group = end;
    real *of_f = scratch;
    long stride = 6 * W, some = together(B, T), first = B;
    do { /* also where there is no sample: gradients are then zero */
        long own = first == B && (B % some || !B) ? B % some : some;
        const int *added = first == B ? keep : all;
        first -= own, group -= layout(own, T, W, H, F).end;
        back_of_group(slope + first * T * W, f + first * stride, w, group, of_w, added, scratch + B * stride,
                      of_h + first * T * W, of_f + first * stride, own, T, W, H, F);
    } while (first);
    linear_back(of_f, c, w, of_w, keep, 0, 0, of_c, B, W, stride, NEXT(end, 6 * W));
}

/* N networks one after another, network n with weights `places[n]` strides behind those given, batches[n] samples and
 * counts[n] tangents; samples are counted over all. What one computes stays in the cache for its next product. */
void blocks_forward(const real *h, const real *c, real *const *w, const long *strides, const long *places,
                    const long *batches, const long *counts, long N, real *kept, real *out, const real *dh,
                    const real *dc, const int64_t *samples, real *scratch, real *d_out, long T, long W, long H, long F,
                    long keep) {
    long first = 0;
    for (long n = 0; n < N; n++) {
        long B = batches[n], K = counts ? counts[n] : 0;
        const real *own[WEIGHTS];
        for (int i = 0; i < WEIGHTS; i++) own[i] = w[i] ? w[i] + places[n] * strides[i] : 0;
        const real *following = n + 1 < N ? w[0] + places[n + 1] * strides[0] : w[0];
        forward_of_one(h, c, own, following, kept, out, dh, dc, samples, first, scratch, d_out, K, B, T, W, H, F,
                       keep);
        h += B * T * W, c += B * W, out += B * T * W, first += B;
        if (keep) kept += used_by_forward(B, T, W, H, F, 1);
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
        slope += B * T * W, c += B * W, of_h += B * T * W, of_c += B * W, kept += used_by_forward(B, T, W, H, F, 1);
    }
}
