/* What the sources have in common: numbers, e^x, and products of matrices. REAL is float or double. Loops are written so
 * that compilers vectorise them; sums may be taken in any order, NaN and infinity are kept. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
#define INLINE static inline __attribute__((always_inline))
#define MOST_TOKENS 32
#define MOST_CHANNELS 256
#define LONG_TOKENS 128

/* e^x. In float a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes expf.c), exact to 1e-7; x is cut to where it is finite. */
INLINE real exponential(real x) {
    if (sizeof(real) == 8) return exp(x > 700 ? 700 : x);
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float whole = floorf(x * 1.44269504088896341f + 0.5f);
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    union { int32_t bits; float power; } two = {((int32_t)whole + 127) << 23};
    return sum * two.power;
}

/* Products are those of the library that torch uses, in Fortran's calling convention. */
typedef void product_t(const char *, const char *, const int *, const int *, const int *, const real *, const real *,
                       const int *, const real *, const int *, const real *, real *, const int *);
extern product_t *product;

/* C (m, n) = by op(A) op(B) + keep C, with rows as far apart as the numbers after them say. */
INLINE void spread(char a_op, const real *a, long a_step, char b_op, const real *b, long b_step, real *c, long c_step,
                   long m, long n, long k, real by, real keep) {
    int M = m, N = n, K = k, lda = a_step, ldb = b_step, ldc = c_step;
    product(&b_op, &a_op, &N, &M, &K, &by, b, &ldb, a, &lda, &keep, c, &ldc);
}

/* Numbers that will be read soon; none where `count` is 0. */
typedef struct {
    const real *at;
    long count;
} ahead;
#define NEXT(at, count) ((ahead){at, count})
#define NOTHING NEXT(0, 0)

/* C = op(A) op(B) + start for rows one after another, of which those of `start` are `start_step` apart: 0 for a bias, n for
 * what may be C itself; NULL is zero. A is (k, m) where it is transposed, B (n, k). By loops of ours where products.c has
 * such an n: they take a tenth to a fifth less time than the library, and fetch `next` meanwhile. */
void own_product(char a_op, const real *a, char b_op, const real *b, const real *start, long start_step, real *c, long m,
                 long n, long k, ahead next);
int has_product(long n);

INLINE void multiply(char a_op, const real *a, char b_op, const real *b, const real *start, long start_step, real *c,
                     long m, long n, long k, ahead next) {
    if (has_product(n)) {
        own_product(a_op, a, b_op, b, start, start_step, c, m, n, k, next);
        return;
    }
    for (long r = 0; start && start != c && r < m; r++) memcpy(c + r * n, start + r * start_step, n * sizeof(real));
    spread(a_op, a, a_op == 'T' ? m : k, b_op, b, b_op == 'T' ? k : n, c, n, m, n, k, 1, start ? 1 : 0);
}

INLINE void linear(const real *x, const real *const *layer, real *restrict y, long rows, long in, long out,
                   ahead next) {
    multiply('N', x, 'T', layer[0], layer[1], 0, y, rows, out, in, next);
}

/* Gradients of weight and bias, added to what is there where `keep`; `sums` are those of slope over `parts` equal parts
 * of its rows, or NULL; the gradient of x is not computed where `of_x` is NULL. */
INLINE void linear_back(const real *slope, const real *x, const real *const *layer, real *const *of_layer,
                        const int *keep, const real *sums, long parts, real *of_x, long rows, long in, long out,
                        ahead next) {
    multiply('T', slope, 'N', x, keep[0] ? of_layer[0] : 0, in, of_layer[0], out, in, rows,
             of_x ? NEXT(layer[0], in * out) : next);
    real *restrict total = of_layer[1];
    if (total && !sums) sums = slope, parts = rows;
    if (total && !keep[1]) memset(total, 0, out * sizeof(real));
    if (total)
        for (long r = 0; r < parts; r++)
            for (long o = 0; o < out; o++) total[o] += sums[r * out + o];
    if (of_x) multiply('N', slope, 'N', layer[0], 0, 0, of_x, rows, in, out, next);
}

/* The derivative of SiLU. */
INLINE real silu_slope(real x) {
    real gate = 1 / (1 + exponential(-x));
    return gate * (1 + x * (1 - gate));
}
