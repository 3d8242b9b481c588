/* matmul.c - oneDNN and tiles behind one call (contract in matmul.h).
 *
 * f32 goes to dnnl_sgemm, which is thread-parallel and needs no set-up. bf16 goes to our tiles
 * where the processor has registers for them (tiles.c), else to a matmul primitive of bf16 operands
 * and f32 result (a bf16 result is slower and loses the sums); primitives are created once per
 * shape and kept in a small table that replaces the oldest entry. Operands are converted into a
 * workspace that only grows. */
#include "tensor/matmul.h"

#include "base/arena.h"
#include "kernels/kernels.h"
#include "tensor/tiles.h"

#include <dnnl.h>
#include <string.h>

enum { CACHE_MAX = 256 };

typedef struct key {
    int64_t m, n, k, ldc;
    int flags; /* 1 a_t, 2 b_t, 4 add */
} key;

typedef struct entry {
    key k;
    dnnl_primitive_t prim;
    dnnl_memory_t a, b, c;
} entry;

struct zb_matmul {
    zb_precision precision;
    bool native, tiles; /* bf16 without emulation; by our own kernel */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry cache[CACHE_MAX];
    int used, next;
    void *work[2 + ZB_HOLDS]; /* converted A and B, then what is held */
    size_t work_bytes[2 + ZB_HOLDS];
    struct held {
        const float *x; /* NULL: nothing */
        int64_t rows, cols;
    } held[ZB_HOLDS];
};

static void entry_release(entry *e) {
    if (e->prim) dnnl_primitive_destroy(e->prim);
    if (e->a) dnnl_memory_destroy(e->a);
    if (e->b) dnnl_memory_destroy(e->b);
    if (e->c) dnnl_memory_destroy(e->c);
    *e = (entry){0};
}

/* [rows, cols] with the given row distance, or its transpose when `t` (stored [cols, rows]). */
static dnnl_status_t make_desc(dnnl_memory_desc_t *d, int64_t rows, int64_t cols, int64_t ld,
                               bool t, dnnl_data_type_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {t ? 1 : ld, t ? ld : 1};
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}

static dnnl_status_t entry_create(zb_matmul *mm, const key *k, entry *e) {
    bool a_t = k->flags & 1, b_t = k->flags & 2;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    e->k = *k;
    dnnl_status_t s = make_desc(&a, k->m, k->k, a_t ? k->m : k->k, a_t, dnnl_bf16);
    if (!s) s = make_desc(&b, k->k, k->n, b_t ? k->k : k->n, b_t, dnnl_bf16);
    if (!s) s = make_desc(&c, k->m, k->n, k->ldc, false, dnnl_f32);
    if (!s) s = dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c);
    if (!s) s = dnnl_primitive_attr_create(&attr);
    if (!s && (k->flags & 4)) {
        s = dnnl_post_ops_create(&ops);
        if (!s) s = dnnl_post_ops_append_sum(ops, 1.0f);
        if (!s) s = dnnl_primitive_attr_set_post_ops(attr, ops);
    }
    if (!s) s = dnnl_primitive_desc_create(&pd, &desc, attr, mm->engine, NULL);
    if (!s) s = dnnl_primitive_create(&e->prim, pd);
    if (!s) s = dnnl_memory_create(&e->a, &a, mm->engine, DNNL_MEMORY_NONE);
    if (!s) s = dnnl_memory_create(&e->b, &b, mm->engine, DNNL_MEMORY_NONE);
    if (!s) s = dnnl_memory_create(&e->c, &c, mm->engine, DNNL_MEMORY_NONE);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (s) entry_release(e);
    return s;
}

static bool same_key(const key *a, const key *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->ldc == b->ldc && a->flags == b->flags;
}

static entry *entry_get(zb_matmul *mm, const key *k) {
    for (int i = 0; i < mm->used; i++)
        if (same_key(&mm->cache[i].k, k)) return &mm->cache[i];
    int at = mm->used < CACHE_MAX ? mm->used : mm->next++ % CACHE_MAX;
    entry_release(&mm->cache[at]);
    if (entry_create(mm, k, &mm->cache[at]) != dnnl_success) return NULL;
    if (at == mm->used) mm->used++;
    return &mm->cache[at];
}

zb_status zb_matmul_new(zb_matmul **out, zb_precision p, zb_err *err) {
    zb_matmul *mm = zb_heap_resize(NULL, sizeof *mm);
    memset(mm, 0, sizeof *mm);
    mm->precision = p;
    *out = mm;
    if (dnnl_engine_create(&mm->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&mm->stream, mm->engine, dnnl_stream_default_flags) != dnnl_success) {
        zb_matmul_free(mm);
        *out = NULL;
        return zb_fail(err, ZB_ERR_INTERNAL, "oneDNN cannot create its CPU engine");
    }
    if (p != ZB_PREC_F32) {
        key k = {.m = 32, .n = 32, .k = 32, .ldc = 32, .flags = 2};
        mm->tiles = zb_kernels_get()->tiles;
        mm->native = mm->tiles || entry_get(mm, &k) != NULL;
    }
    return ZB_OK;
}

void zb_matmul_free(zb_matmul *mm) {
    if (!mm) return;
    for (int i = 0; i < mm->used; i++) entry_release(&mm->cache[i]);
    if (mm->stream) dnnl_stream_destroy(mm->stream);
    if (mm->engine) dnnl_engine_destroy(mm->engine);
    for (int i = 0; i < 2 + ZB_HOLDS; i++) zb_heap_resize(mm->work[i], 0);
    zb_heap_resize(mm, 0);
}

zb_precision zb_matmul_precision(const zb_matmul *mm) { return mm->precision; }
bool zb_matmul_bf16_native(const zb_matmul *mm) { return mm->native; }
bool zb_matmul_on_tiles(const zb_matmul *mm) { return mm->tiles; }
bool zb_matmul_is_coarse(const zb_matmul *mm) { return mm->tiles && mm->precision == ZB_PREC_INT8; }

enum { LINE = 64 }; /* rows of tiles that cross lines load at a sixth of the rate */

static void *work_at(const zb_matmul *mm, int slot) {
    char *p = mm->work[slot];
    return p + (-(uintptr_t)p & (LINE - 1));
}

static void *work_of(zb_matmul *mm, int slot, size_t bytes) {
    if (mm->work_bytes[slot] < bytes) {
        mm->work[slot] = zb_heap_resize(mm->work[slot], bytes + LINE - 1);
        mm->work_bytes[slot] = bytes;
    }
    return work_at(mm, slot);
}

/* rows x cols (distance ld) to a dense copy in workspace `slot`: bf16 bits when native, rounded f32
 * otherwise. */
static void *convert(zb_matmul *mm, int slot, const float *src, int64_t rows, int64_t cols,
                     int64_t ld) {
    size_t size = mm->native ? 2 : 4;
    const zb_kernels *kn = zb_kernels_get();
    char *dst = work_of(mm, slot, (size_t)(rows * cols) * size);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        char *to = dst + (size_t)(r * cols) * size;
        if (mm->native)
            kn->f32_to_bf16(cols, src + r * ld, (uint16_t *)(void *)to);
        else
            kn->round_bf16(cols, src + r * ld, (float *)(void *)to);
    }
    return dst;
}

/* Products of this context multiply as they are. */
static bool is_exact(const zb_matmul *mm) {
    return mm->precision == ZB_PREC_F32 || (mm->precision == ZB_PREC_INT8 && !mm->native);
}

void zb_matmul_hold(zb_matmul *mm, int slot, const float *x, int64_t rows, int64_t cols) {
    ZB_ASSERT(slot >= 0 && slot < ZB_HOLDS && !mm->held[slot].x);
    if (is_exact(mm) || mm->tiles) return; /* tiles are packed for one place in a product */
    convert(mm, 2 + slot, x, rows, cols, cols);
    mm->held[slot] = (struct held){x, rows, cols};
}

void zb_matmul_release(zb_matmul *mm, int slot) { mm->held[slot].x = NULL; }

/* The operand's rounded copy: the one held, or made here. */
static void *rounded(zb_matmul *mm, int slot, const float *x, int64_t rows, int64_t cols,
                     int64_t ld) {
    for (int i = 0; i < ZB_HOLDS; i++) {
        const struct held *h = &mm->held[i];
        if (h->x == x && h->rows == rows && h->cols == cols && ld == cols)
            return work_at(mm, 2 + i);
    }
    return convert(mm, slot, x, rows, cols, ld);
}

static void run_f32(const zb_mm_args *g) {
    dnnl_status_t s = dnnl_sgemm(g->a_t ? 'T' : 'N', g->b_t ? 'T' : 'N', g->m, g->n, g->k, 1.0f,
                                 g->a, g->lda, g->b, g->ldb, g->add ? 1.0f : 0.0f, g->c, g->ldc);
    ZB_ASSERT(s == dnnl_success);
}

static bool run_native(zb_matmul *mm, const zb_mm_args *g, void *a, void *b) {
    key k = {.m = g->m, .n = g->n, .k = g->k, .ldc = g->ldc};
    k.flags = (g->a_t ? 1 : 0) | (g->b_t ? 2 : 0) | (g->add ? 4 : 0);
    entry *e = entry_get(mm, &k);
    if (!e) return false;
    dnnl_memory_set_data_handle(e->a, a);
    dnnl_memory_set_data_handle(e->b, b);
    dnnl_memory_set_data_handle(e->c, g->c);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}};
    return dnnl_primitive_execute(e->prim, mm->stream, 3, args) == dnnl_success &&
           dnnl_stream_wait(mm->stream) == dnnl_success;
}

void zb_matmul_run(zb_matmul *mm, const zb_mm_args *g) {
    if (g->m == 0 || g->n == 0) return;
    if (g->k == 0) {
        for (int i = 0; i < g->m && !g->add; i++)
            memset(g->c + i * g->ldc, 0, (size_t)g->n * sizeof(float));
        return;
    }
    ZB_ASSERT(!g->b_stored || mm->tiles);
    if (is_exact(mm)) {
        run_f32(g);
        return;
    }
    if (mm->tiles) {
        zb_tiles_run(g, work_of(mm, 0, zb_tiles_room(g)));
        return;
    }
    int64_t a_rows = g->a_t ? g->k : g->m, a_cols = g->a_t ? g->m : g->k;
    int64_t b_rows = g->b_t ? g->n : g->k, b_cols = g->b_t ? g->k : g->n;
    void *a = rounded(mm, 0, g->a, a_rows, a_cols, g->lda);
    void *b = rounded(mm, 1, g->b, b_rows, b_cols, g->ldb);
    if (mm->native) {
        bool ok = run_native(mm, g, a, b);
        ZB_ASSERT(ok);
        return;
    }
    zb_mm_args r = *g;
    r.a = a;
    r.lda = a_cols;
    r.b = b;
    r.ldb = b_cols;
    run_f32(&r);
}

static const char *const names[] = {"f32", "bf16", "int8"};

const char *zb_precision_name(zb_precision p) { return names[p]; }

zb_status zb_precision_choose(const char *name, zb_precision *out, zb_err *err) {
    for (int p = ZB_PREC_F32; p <= ZB_PREC_INT8; p++) {
        *out = (zb_precision)p;
        if (!strcmp(name, names[p])) return ZB_OK;
    }
    *out = ZB_PREC_BF16;
    if (strcmp(name, "auto"))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "precision: expected auto, f32, bf16 or int8, found \"%s\"", name);
    zb_matmul *probe = NULL;
    ZB_TRY(zb_matmul_new(&probe, ZB_PREC_BF16, err));
    ZB_ASSERT(probe);
    if (!probe->native) *out = ZB_PREC_F32;
    zb_matmul_free(probe);
    return ZB_OK;
}
