/* The ends of a SiT: the embedding of a time, and its last, modulated layer. N networks one after another, as in block.c. */
#include "common.h"

void begin(const real *, const real *, const real *, long, real *, real *, real *, long, long, long);
void begin_tangent(const real *, const real *, const real *, const real *, long, const real *, const real *,
                   const int64_t *, real *, long, long, long);
void begin_back(const real *, const real *, const real *, const real *, const real *, long, real *, real *, real *,
                long, long, long);

/* Sine and cosine. In float by polynomials on [-pi / 4, pi / 4] (Cephes sinf.c), exact to 1e-7 up to thousands. */
INLINE void sine_cosine(real x, real *restrict sine, real *restrict cosine) {
    if (sizeof(real) == 8) {
        *sine = sin(x), *cosine = cos(x);
        return;
    }
    float whole = floorf(x * 0.636619772f + 0.5f);
    float r = ((x - whole * 1.5703125f) - whole * 4.837512969970703125e-4f) - whole * 7.54978995489188216e-8f;
    float square = r * r;
    float s = ((-1.9515295891e-4f * square + 8.3321608736e-3f) * square - 1.6666654611e-1f) * square * r + r;
    float c = ((2.443315711809948e-5f * square - 1.388731625493765e-3f) * square + 4.166664568298827e-2f) * square * square -
              0.5f * square + 1.0f;
    int32_t quarter = (int32_t)whole;
    float a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -a : a;
    *cosine = (quarter + 1) & 2 ? -b : b;
}

/* t (B) -> out (B, W) = outer(silu(inner([cos(t f), sin(t f)]))) for f of n frequencies; weights inner, outer. `kept` for
 * the gradient: B (2 n + 2 W) numbers. Tangents dt of `samples` -> d_out, by `scratch` of K (2 n + W) numbers. */
void embed_forward(const real *t, const real *frequencies, real *const *w, const long *strides, const long *places,
                   const long *batches, const long *counts, long N, real *kept, real *out, const real *dt,
                   const int64_t *samples, real *scratch, real *d_out, long n, long W) {
    long first = 0;
    for (long network = 0; network < N; network++) {
        long B = batches[network], K = counts ? counts[network] : 0;
        const real *own[4];
        for (int i = 0; i < 4; i++) own[i] = w[i] + places[network] * strides[i];
        real *waves = kept, *inner = waves + B * 2 * n, *active = inner + B * W;
        for (long b = 0; b < B; b++)
            for (long k = 0; k < n; k++)
                sine_cosine(t[b] * frequencies[k], waves + b * 2 * n + n + k, waves + b * 2 * n + k);
        linear(waves, own, inner, B, 2 * n, W, NOTHING);
        for (long i = 0; i < B * W; i++) active[i] = inner[i] / (1 + exponential(-inner[i]));
        linear(active, own + 2, out, B, W, W, NOTHING);
        if (K) {
            real *d_waves = scratch, *d_inner = d_waves + K * 2 * n;
            const real *no_bias[2] = {own[0], 0};
            for (long k = 0; k < K; k++) {
                const real *cosine = waves + (samples[k] - first) * 2 * n, *sine = cosine + n;
                for (long f = 0; f < n; f++) {
                    real speed = dt[k] * frequencies[f];
                    d_waves[k * 2 * n + f] = -sine[f] * speed;
                    d_waves[k * 2 * n + n + f] = cosine[f] * speed;
                }
            }
            linear(d_waves, no_bias, d_inner, K, 2 * n, W, NOTHING);
            for (long k = 0; k < K; k++)
                for (long c = 0; c < W; c++) d_inner[k * W + c] *= silu_slope(inner[(samples[k] - first) * W + c]);
            no_bias[0] = own[2];
            linear(d_inner, no_bias, d_out, K, W, W, NOTHING);
            dt += K, d_out += K * W, samples += K;
        }
        t += B, out += B * W, kept += B * (2 * n + 2 * W), first += B;
    }
}

/* The gradients of the weights; `scratch` of as many numbers as the largest batch has in `out`. */
void embed_back(const real *slope, real *const *w, const long *strides, const long *places, const long *batches, long N,
                const real *kept, real *const *of_w, const long *of_strides, const int *keep, real *scratch, long n,
                long W) {
    for (long network = 0; network < N; network++) {
        long B = batches[network];
        const real *own[4], *waves = kept, *inner = waves + B * 2 * n, *active = inner + B * W;
        real *of_own[4];
        for (int i = 0; i < 4; i++) {
            own[i] = w[i] + places[network] * strides[i];
            of_own[i] = of_w[i] + places[network] * of_strides[i];
        }
        linear_back(slope, active, own + 2, of_own + 2, keep + 2, 0, 0, scratch, B, W, W, NOTHING);
        for (long i = 0; i < B * W; i++) scratch[i] *= silu_slope(inner[i]);
        linear_back(scratch, waves, own, of_own, keep, 0, 0, 0, B, 2 * n, W, NOTHING);
        slope += B * W, kept += B * (2 * n + 2 * W);
    }
}

/* h (B, T, W), c (B, W) -> out (B, T, P): norm, shift and scale from c, and a linear layer; weights modulation, output.
 * `kept`: B (2 W + T (2 W + 1)) numbers. Tangents as in block.c, by `scratch` of K (2 W + T W) numbers. */
void finish_forward(const real *h, const real *c, real *const *w, const long *strides, const long *places,
                    const long *batches, const long *counts, long N, real *kept, real *out, const real *dh,
                    const real *dc, const int64_t *samples, real *scratch, real *d_out, long T, long W, long P) {
    long first = 0;
    for (long network = 0; network < N; network++) {
        long B = batches[network], K = counts ? counts[network] : 0, R = B * T;
        const real *own[4];
        for (int i = 0; i < 4; i++) own[i] = w[i] + places[network] * strides[i];
        real *f = kept, *normal = f + B * 2 * W, *modulated = normal + R * W, *rstd = modulated + R * W;
        linear(c, own, f, B, W, 2 * W, NOTHING);
        begin(h, f, f + W, 2 * W, normal, rstd, modulated, B, T, W);
        linear(modulated, own + 2, out, R, W, P, NOTHING);
        if (K) {
            real *df = scratch, *d_modulated = df + K * 2 * W;
            const real *no_bias[2] = {own[0], 0};
            linear(dc, no_bias, df, K, W, 2 * W, NOTHING);
            for (long k = 0, count; k < K; k += count) { /* in parts: all would not always fit on the stack */
                int64_t local[256];
                count = K - k < 256 ? K - k : 256;
                for (long i = 0; i < count; i++) local[i] = samples[k + i] - first;
                begin_tangent(dh + k * T * W, df + k * 2 * W, df + k * 2 * W + W, f + W, 2 * W, normal, rstd, local,
                              d_modulated + k * T * W, count, T, W);
            }
            no_bias[0] = own[2];
            linear(d_modulated, no_bias, d_out, K * T, W, P, NOTHING);
            dh += K * T * W, dc += K * W, d_out += K * T * P, samples += K;
        }
        h += R * W, c += B * W, out += R * P, kept += B * 2 * W + R * (2 * W + 1), first += B;
    }
}

/* `scratch`: 2 W + T W numbers for each sample of the largest batch. */
void finish_back(const real *slope, const real *c, real *const *w, const long *strides, const long *places,
                 const long *batches, long N, const real *kept, real *const *of_w, const long *of_strides,
                 const int *keep, real *scratch, real *of_h, real *of_c, long T, long W, long P) {
    for (long network = 0; network < N; network++) {
        long B = batches[network], R = B * T;
        const real *own[4], *f = kept, *normal = f + B * 2 * W, *modulated = normal + R * W, *rstd = modulated + R * W;
        real *of_own[4], *of_f = scratch, *inner = of_f + B * 2 * W;
        for (int i = 0; i < 4; i++) {
            own[i] = w[i] + places[network] * strides[i];
            of_own[i] = of_w[i] + places[network] * of_strides[i];
        }
        linear_back(slope, modulated, own + 2, of_own + 2, keep + 2, 0, 0, inner, R, W, P, NOTHING);
        begin_back(0, inner, normal, rstd, f + W, 2 * W, of_h, of_f, of_f + W, B, T, W);
        linear_back(of_f, c, own, of_own, keep, 0, 0, of_c, B, W, 2 * W, NOTHING);
        slope += R * P, c += B * W, kept += B * 2 * W + R * (2 * W + 1), of_h += R * W, of_c += B * W;
    }
}
