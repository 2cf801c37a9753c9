/* What follows a backward pass, on all weights as one tensor; see update.py and torch.optim.Adam. */
#include "common.h"
#define PART 1024

/* The norm of g, whose squares are summed in double. */
void norm(const real *g, real *out, long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += (double)g[i] * g[i];
    *out = (real)sqrt(sum);
}

/* One step of Adam for gradients by * g, which are zero afterwards where `empty`. Decay is of the weights where `decoupled`
 * (AdamW). `first` and `second` correct the averages for their start: 1 - beta^step. */
INLINE void step(real *restrict p, real *restrict g, real *restrict m, real *restrict v, double by, double lr, double beta1,
                 double beta2, double eps, double decay, long decoupled, double first, double second, long empty,
                 long count) {
    real keep = decoupled ? 1 - lr * decay : 1, added = decoupled ? 0 : decay, scale = by;
    real to_m = 1 - beta1, to_v = 1 - beta2, b2 = beta2, size = lr / first, root = sqrt(second), small = eps;
    for (long i = 0; i < count; i++) {
        real weight = p[i] * keep, slope = g[i] * scale + added * weight;
        real mean = m[i] + to_m * (slope - m[i]), square = b2 * v[i] + to_v * slope * slope;
        m[i] = mean;
        v[i] = square;
        p[i] = weight - size * mean / ((real)sqrt(square) / root + small);
    }
    if (empty) memset(g, 0, count * sizeof(real));
}

/* `average` moves by `share` of the way to p, as torch's lerp does: at 1 it is p. */
INLINE void follow(real *restrict average, const real *restrict p, double share, long count) {
    real some = share, rest = 1 - share;
    if (share < 0.5)
        for (long i = 0; i < count; i++) average[i] += some * (p[i] - average[i]);
    else
        for (long i = 0; i < count; i++) average[i] = p[i] - rest * (p[i] - average[i]);
}

/* `step`, and each of the averages follows the weights, part by part: those of a part are still at hand. */
void adam(real *p, real *g, real *m, real *v, double by, double lr, double beta1, double beta2, double eps, double decay,
          long decoupled, double first, double second, long empty, real *const *averages, const double *shares,
          long followers, long count) {
    for (long at = 0; at < count; at += PART) {
        long size = count - at < PART ? count - at : PART;
        step(p + at, g + at, m + at, v + at, by, lr, beta1, beta2, eps, decay, decoupled, first, second, empty, size);
        for (long n = 0; n < followers; n++) follow(averages[n] + at, p + at, shares[n], size);
    }
}
