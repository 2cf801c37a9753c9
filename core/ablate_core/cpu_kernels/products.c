/* Products of the small matrices of a block: what the library does with them, without its copies of both.
 *
 * C is made in tiles of TALL rows and WIDE columns that stay in registers. Only a panel of B, WIDE columns of at most DEEP
 * rows, is copied: a tile then reads it from one place in the nearest cache, and the numbers of A one by one. At most HIGH
 * rows of A meet all panels before the next ones do, and stay in the second cache. The networks of a pack are more than
 * caches hold, so each product fetches from memory what the next one reads. */
#include "common.h"

/* What common.h speaks of. */
float least_power = -87, largest_power = 88;
product_t *product;
void use_product(product_t *given) { product = given; }

#ifdef __AVX512F__
#define BYTES 64
#define TALL 12
#else
#define BYTES 32
#define TALL 6
#endif
#define LANES ((long)(BYTES / sizeof(real)))
#define WIDE (2 * LANES)
#define DEEP 256
#define HIGH 384
typedef real vector __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

/* The cache lines of WIDE numbers, fetched: of what a tile reads and writes last, so that it does not wait then. */
INLINE void fetch(const real *row) {
    for (long byte = 0; byte < 2 * BYTES; byte += 64) __builtin_prefetch((const char *)row + byte, 1);
}

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

/* C (M, WIDE) = A (M, k) panel (k, WIDE) + start, with rows and columns as far apart as said; no `start` is zero. It is
 * added last: sums of what is small do not lose digits to it. In each of the k rounds `by` bytes are fetched from `soon`. */
INLINE void tile(const int M, const real *a, long a_row, long a_column, const real *panel, const real *start,
                 long start_step, real *c, long c_step, long k, const char *soon, long by) {
#define BEGIN(i)                                            \
    vector s##i = {0}, t##i = {0};                          \
    if (i < M) fetch(c + i * c_step);                       \
    if (i < M && start) fetch(start + i * start_step);
#define ADD(i)                               \
    if (i < M) {                             \
        real x = at[i * a_row];              \
        s##i += x * left, t##i += x * right; \
    }
#define END(i)                                                         \
    if (i < M && start) {                                              \
        s##i += *(const vector *)(start + i * start_step);             \
        t##i += *(const vector *)(start + i * start_step + LANES);     \
    }                                                                  \
    if (i < M) *(vector *)(c + i * c_step) = s##i, *(vector *)(c + i * c_step + LANES) = t##i;
    EACH(BEGIN)
    for (long j = 0; j < k; j++) {
        const real *at = a + j * a_column;
        vector left = *(const vector *)(panel + j * WIDE), right = *(const vector *)(panel + j * WIDE + LANES);
        EACH(ADD)
        __builtin_prefetch(soon + j * by);
    }
    EACH(END)
}

/* The same for m rows. */
INLINE void strip(const real *a, long a_row, long a_column, const real *panel, const real *start, long start_step,
                  real *c, long c_step, long m, long k, const char *soon, long by) {
#define ROWS(M)                                                                     \
    tile(M, a, a_row, a_column, panel, start, start_step, c, c_step, k, soon, by); \
    a += M * a_row, c += M * c_step, start = start ? start + M * start_step : 0, soon += k * by;
    for (; m >= TALL; m -= TALL) {
        ROWS(TALL)
    }
    if (TALL > 8 && m & 8) {
        ROWS(8)
    }
    if (m & 4) {
        ROWS(4)
    }
    if (m & 2) {
        ROWS(2)
    }
    if (m & 1) {
        ROWS(1)
    }
}

/* Every second number of two vectors in turn, of their lower halves or of their upper ones. */
#ifdef __has_builtin /* GCC has the question from 10 on, the function from 12 on */
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif
#ifdef SHUFFLES
#define BY_KIND(wide, narrow) (sizeof(real) == 4 ? (vector)__builtin_shufflevector wide : (vector)__builtin_shufflevector narrow)
typedef float singles __attribute__((vector_size(BYTES)));
typedef double doubles __attribute__((vector_size(BYTES)));
#define S (singles) a, (singles)b
#define D (doubles) a, (doubles)b
INLINE vector lower(vector a, vector b) {
#if BYTES == 64
    return BY_KIND((S, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), (D, 0, 8, 1, 9, 2, 10, 3, 11));
#else
    return BY_KIND((S, 0, 8, 1, 9, 2, 10, 3, 11), (D, 0, 4, 1, 5));
#endif
}
INLINE vector upper(vector a, vector b) {
#if BYTES == 64
    return BY_KIND((S, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), (D, 4, 12, 5, 13, 6, 14, 7, 15));
#else
    return BY_KIND((S, 4, 12, 5, 13, 6, 14, 7, 15), (D, 2, 6, 3, 7));
#endif
}

/* (LANES, LANES), rows `from_step` apart, transposed to rows `to_step` apart: each round moves one bit of a number's row
 * and column to the other end. */
INLINE void square(const real *from, long from_step, real *to, long to_step) {
    vector x[LANES], y[LANES];
    for (long i = 0; i < LANES; i++) x[i] = *(const vector *)(from + i * from_step);
    for (long round = 1; round < LANES; round *= 2) {
        for (long i = 0; i < LANES / 2; i++)
            y[2 * i] = lower(x[i], x[i + LANES / 2]), y[2 * i + 1] = upper(x[i], x[i + LANES / 2]);
        for (long i = 0; i < LANES; i++) x[i] = y[i];
    }
    for (long i = 0; i < LANES; i++) *(vector *)(to + i * to_step) = x[i];
}
#else
INLINE void square(const real *from, long from_step, real *to, long to_step) {
    for (long i = 0; i < LANES; i++)
        for (long j = 0; j < LANES; j++) to[j * to_step + i] = from[i * from_step + j];
}
#endif

/* panel (k, WIDE) from b (WIDE, k). */
INLINE void transposed(const real *b, long step, real *panel, long k) {
    long j = 0;
    for (; j + LANES <= k; j += LANES)
        for (long half = 0; half < WIDE; half += LANES) square(b + half * step + j, step, panel + j * WIDE + half, WIDE);
    for (; j < k; j++)
        for (long i = 0; i < WIDE; i++) panel[j * WIDE + i] = b[i * step + j];
}

/* Whether `own_products` has such an n. */
int has_product(long n) { return n % WIDE == 0; }

INLINE long rounds(long rows) { return (rows + TALL - 1) / TALL; }

/* What a panel contributes to rows `top` and the next HIGH at most of a product, from column `at` of C and column `from` of A;
 * returns where the fetching stands. */
static const char *rows_of_panel(factors_of g, const real *panel, long top, long at, long from, long deep,
                                 const char *soon, long by) {
    long left = g.m - top, high = left < HIGH ? left : HIGH;
    if (high <= 0) return soon;
    real *to = g.c + top * g.c_step + at;
    const real *first = from ? to : g.start ? g.start + top * g.start_step + at : 0;
    long first_step = from ? g.c_step : g.start_step;
    if (g.a.turned)
        strip(g.a.at + from * g.a.step + top, 1, g.a.step, panel, first, first_step, to, g.c_step, high, deep, soon, by);
    else
        strip(g.a.at + top * g.a.step + from, g.a.step, 1, panel, first, first_step, to, g.c_step, high, deep, soon, by);
    return soon + rounds(high) * deep * by;
}

void own_products(const factors_of *given, long count, matrix b, long n, long k, ahead next) {
    real panel[DEEP * WIDE] __attribute__((aligned(64)));
    long most = 0, all = 0, bytes = next.count * sizeof(real);
    for (long i = 0; i < count; i++) most = given[i].m > most ? given[i].m : most, all += rounds(given[i].m) * (n / WIDE) * k;
    long by = bytes < all * 64 ? (bytes + all - 1) / all : 64; /* at most a cache line at a time */
    const char *soon = (const char *)(bytes ? next.at : given->c);
    for (long from = 0; from < k || !from; from += DEEP) /* once where k is 0, too: C is then what it starts from */
        for (long top = 0; top < most; top += HIGH)
            for (long at = 0; at < n; at += WIDE) {
                long deep = k - from < DEEP ? k - from : DEEP;
                if (b.turned)
                    transposed(b.at + at * b.step + from, b.step, panel, deep);
                else
                    for (long j = 0; j < deep; j++)
                        memcpy(panel + j * WIDE, b.at + (from + j) * b.step + at, WIDE * sizeof(real));
                for (long i = 0; i < count; i++) soon = rows_of_panel(given[i], panel, top, at, from, deep, soon, by);
            }
}
