/* linear_fixture.h - random matrices of several types, tokens, and the error that rounding these to
 * 8 bits may make. The includer gives K, TOKENS, TYPES, types[] and rows[]; behind cmocka.h. */
#ifndef ZB_TESTS_UNIT_LINEAR_FIXTURE_H
#define ZB_TESTS_UNIT_LINEAR_FIXTURE_H

typedef struct fixture {
    zb_arena arena;
    zb_run run;
    zb_param w[TYPES], bias;
    float *x; /* [TOKENS, K] */
} fixture;

static double draw(uint64_t *at) { return 2 * zb_rng_uniform(5, ZB_RNG_TEST, (*at)++) - 1; }

/* Random bytes; floats, and the scales and minima of blocks, become numbers of sane size. */
static void *random_weights(zb_arena *a, const zb_param *p, uint64_t *at) {
    const zb_dtype_info *t = zb_dtype_get(p->dtype);
    size_t bytes = 0;
    assert_true(zb_dtype_size(p->dtype, (int64_t)p->rows * p->cols, &bytes));
    uint8_t *w = zb_alloc(a, bytes);
    for (size_t i = 0; i < bytes; i++) w[i] = (uint8_t)zb_rng_below(5, ZB_RNG_TEST, (*at)++, 256);
    bool min = p->dtype == ZB_Q4_1 || p->dtype == ZB_Q5_1 || p->dtype == ZB_Q4_K ||
               p->dtype == ZB_Q5_K || p->dtype == ZB_Q2_K;
    for (uint8_t *b = w; b < w + bytes; b += t->bytes) {
        uint8_t *d = p->dtype == ZB_Q6_K ? b + 208 : p->dtype == ZB_Q2_K ? b + 80 : b;
        if (p->dtype == ZB_F32) {
            float f = (float)draw(at);
            memcpy(b, &f, sizeof f);
        } else if (p->dtype == ZB_BF16) {
            b[1] = (uint8_t)((b[1] & 0x80) | 0x3e);
        } else {
            d[1] = (uint8_t)((d[1] & 0x83) | 0x20);
            if (min) d[3] = (uint8_t)((d[3] & 0x83) | 0x20);
        }
    }
    return w;
}

/* Every seventh token is a hundred times larger. */
static void open_fixture(fixture *f, zb_precision p) {
    enum { BIAS = 256 };
    *f = (fixture){0};
    uint64_t at = 0;
    zb_err err;
    assert_int_equal(zb_matmul_new(&f->run.mm, p, &err), ZB_OK);
    f->run.arena = &f->arena;
    f->run.threads = 2;
    for (int t = 0; t < TYPES; t++) {
        f->w[t] = (zb_param){.dtype = types[t], .n_dims = 2, .rows = rows[t], .cols = K};
        f->w[t].data = random_weights(&f->arena, &f->w[t], &at);
        assert_true(rows[t] <= BIAS);
    }
    float *b = ZB_NEW_ARRAY(&f->arena, float, BIAS);
    for (int i = 0; i < BIAS; i++) b[i] = (float)draw(&at);
    f->bias = (zb_param){.dtype = ZB_F32, .n_dims = 1, .rows = 1, .cols = BIAS, .data = b};
    f->x = ZB_NEW_ARRAY(&f->arena, float, TOKENS *K);
    for (int i = 0; i < TOKENS * K; i++) f->x[i] = (float)draw(&at) * (i / K % 7 ? 1.0f : 100.0f);
}

static void close_fixture(fixture *f) {
    zb_matmul_free(f->run.mm);
    zb_arena_free(&f->arena);
}

/* All matrices as one set of maps, every other with a bias; y receives room for n tokens. */
static void all_maps(fixture *f, int n, zb_linear_map maps[TYPES], float *y[TYPES]) {
    for (int t = 0; t < TYPES; t++) {
        y[t] = ZB_NEW_ARRAY(&f->arena, float, n *rows[t]);
        maps[t] = (zb_linear_map){&f->w[t], t % 2 ? &f->bias : NULL, y[t]};
    }
}

/* Row j times the token x in double: its value, the sum of magnitudes of its terms, and what
 * rounding the token to blocks of 32 may change, Σ |w| max|x|/127/2. */
typedef struct exact {
    double value, size, rounding;
} exact;

static exact exact_product(const zb_param *w, int j, const float *x) {
    float row[K];
    exact e = {0};
    zb_param_to_f32(w, j, 1, row);
    for (int b = 0; b < K; b += 32) {
        double most = 0, weights = 0;
        for (int i = b; i < b + 32; i++) {
            double term = (double)row[i] * (double)x[i];
            e.value += term;
            e.size += fabs(term);
            most = fmax(most, fabs((double)x[i]));
            weights += fabs((double)row[i]);
        }
        e.rounding += weights * most / 127 / 2;
    }
    return e;
}

/* Codes and constants of blocks cancel in the weight itself: ten times its rounding. */
static double noise(double size) { return 10 * 4 * sqrt(K) * 0x1p-24 * size; }

#endif
