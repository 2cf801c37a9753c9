/* What follows a backward pass, on all weights as one tensor; see update.py and torch.optim.Adam. */
#include "common.h"

/* The norm of g, whose squares are summed in double. */
void norm(const real *g, real *out, long count) {
    double sum = 0;
    for (long i = 0; i < count; i++) sum += (double)g[i] * g[i];
    *out = (real)sqrt(sum);
}

/* One step of Adam for gradients by * g, which are zero afterwards. Decay is of the weights where `decoupled` (AdamW).
 * `first` and `second` correct the averages for their start: 1 - beta^step. */
void adam(real *restrict p, real *restrict g, real *restrict m, real *restrict v, double by, double lr, double beta1,
          double beta2, double eps, double decay, long decoupled, double first, double second, long count) {
    real keep = decoupled ? 1 - lr * decay : 1, added = decoupled ? 0 : decay, scale = by;
    real to_m = 1 - beta1, to_v = 1 - beta2, b2 = beta2, size = lr / first, root = sqrt(second), small = eps;
    for (long i = 0; i < count; i++) {
        real weight = p[i] * keep, slope = g[i] * scale + added * weight;
        real mean = m[i] + to_m * (slope - m[i]), square = b2 * v[i] + to_v * slope * slope;
        m[i] = mean;
        v[i] = square;
        g[i] = 0;
        p[i] = weight - size * mean / ((real)sqrt(square) / root + small);
    }
}
