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

/* Where e^x is finite in float. Variables, though nothing changes them: of constants compilers make three cases of all that
 * follows in a loop, which takes twice as long. */
extern float least_power, largest_power;

/* e^x. In float a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes expf.c), exact to 1e-7; x is cut to where it is finite. */
INLINE real exponential(real x) {
    if (sizeof(real) == 8) return exp(x > 700 ? 700 : x);
    x = x < least_power ? least_power : x;
    x = x > largest_power ? largest_power : x;
    float whole = floorf(x * 1.44269504088896341f + 0.5f);
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    union { uint32_t bits; float power; } two = {(uint32_t)((int32_t)whole + 127) << 23}; /* of NaN negative, if anything */
    return sum * two.power;
}

/* Products are those of the library that torch uses, in Fortran's calling convention. */
typedef void product_t(const char *, const char *, const int *, const int *, const int *, const real *, const real *,
                       const int *, const real *, const int *, const real *, real *, const int *);
extern product_t *product;

/* A matrix whose rows are `step` numbers apart; `turned`: the transposed of it. */
typedef struct {
    const real *at;
    long step;
    int turned;
} matrix;
#define ROWS_OF(at, step) ((matrix){at, step, 0})
#define TURNED(at, step) ((matrix){at, step, 1})

/* C (m, n) = A B + keep C by the library, with rows of C as far apart as said. */
INLINE void spread(matrix a, matrix b, real *c, long c_step, long m, long n, long k, real keep) {
    int M = m, N = n, K = k, lda = a.step, ldb = b.step, ldc = c_step;
    real by = 1;
    product(b.turned ? "T" : "N", a.turned ? "T" : "N", &N, &M, &K, &by, b.at, &ldb, a.at, &lda, &keep, c, &ldc);
}

/* Numbers that will be read soon; none where `count` is 0. */
typedef struct {
    const real *at;
    long count;
} ahead;
#define NEXT(at, count) ((ahead){at, count})
#define NOTHING NEXT(0, 0)

/* C (m, n) = A (m, k) B (k, n) + start, of which rows are `start_step` apart: 0 for a bias; it may be C itself, NULL is
 * zero. */
typedef struct {
    matrix a;
    const real *start;
    long start_step;
    real *c;
    long c_step, m;
} factors_of;

/* Products with one B. By loops of ours where products.c has such an n: they take a tenth to a fifth less time than the
 * library, and fetch `next` meanwhile. */
void own_products(const factors_of *given, long count, matrix b, long n, long k, ahead next);
int has_product(long n);

INLINE void multiply_all(const factors_of *given, long count, matrix b, long n, long k, ahead next) {
    if (has_product(n)) {
        own_products(given, count, b, n, k, next);
        return;
    }
    for (const factors_of *g = given; g < given + count; g++) {
        for (long r = 0; g->start && g->start != g->c && r < g->m; r++)
            memcpy(g->c + r * g->c_step, g->start + r * g->start_step, n * sizeof(real));
        if (g->m) spread(g->a, b, g->c, g->c_step, g->m, n, k, g->start ? 1 : 0);
    }
}

INLINE void multiply(matrix a, matrix b, const real *start, long start_step, real *c, long c_step, long m, long n, long k,
                     ahead next) {
    const factors_of given = {a, start, start_step, c, c_step, m};
    multiply_all(&given, 1, b, n, k, next);
}

/* y = x W' + b, and dy = dx W' of `directions` rows. */
INLINE void linear_beside(const real *x, real *y, long rows, const real *dx, real *dy, long directions,
                          const real *const *layer, long in, long out, ahead next) {
    const factors_of both[2] = {{ROWS_OF(x, in), layer[1], 0, y, out, rows}, {ROWS_OF(dx, in), 0, 0, dy, out, directions}};
    multiply_all(both, directions ? 2 : 1, TURNED(layer[0], in), out, in, next);
}

INLINE void linear(const real *x, const real *const *layer, real *restrict y, long rows, long in, long out,
                   ahead next) {
    linear_beside(x, y, rows, 0, 0, 0, layer, in, out, next);
}

/* Gradients of weight and bias, added to what is there where `keep`; `sums` are those of slope over `parts` equal parts
 * of its rows, or NULL; the gradient of x is not computed where `of_x` is NULL. */
INLINE void linear_back(const real *slope, const real *x, const real *const *layer, real *const *of_layer,
                        const int *keep, const real *sums, long parts, real *of_x, long rows, long in, long out,
                        ahead next) {
    multiply(TURNED(slope, out), ROWS_OF(x, in), keep[0] ? of_layer[0] : 0, in, of_layer[0], in, out, in, rows,
             of_x ? NEXT(layer[0], in * out) : next);
    real *restrict total = of_layer[1];
    if (total && !sums) sums = slope, parts = rows;
    if (total && !keep[1]) memset(total, 0, out * sizeof(real));
    if (total)
        for (long r = 0; r < parts; r++)
            for (long o = 0; o < out; o++) total[o] += sums[r * out + o];
    if (of_x) multiply(ROWS_OF(slope, out), ROWS_OF(layer[0], in), 0, 0, of_x, in, rows, in, out, next);
}

/* The derivative of SiLU. */
INLINE real silu_slope(real x) {
    real gate = 1 / (1 + exponential(-x));
    return gate * (1 + x * (1 - gate));
}
