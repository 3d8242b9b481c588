/* memory.c - choosing how a stage uses its memory (contract in memory.h).
 *
 * Order of retreat: keep everything; recompute layers (the same bits, a third more time); then
 * pieces of fewer rows (sums in another order). Every candidate is a divisor of the batch. */
#include "train/memory.h"

#include "base/file.h"
#include "base/memory.h"
#include "model/loss.h"

#include <omp.h>
#include <string.h>

/* The program itself, its libraries and their buffers for packing operands: measured at 70 MB. */
static const size_t program = (size_t)96 << 20;

void zb_memory_add(zb_memory_plan *p, const char *what, size_t bytes) {
    ZB_ASSERT(p->n < ZB_MEMORY_PARTS);
    if (bytes == 0) return;
    p->part[p->n++] = (zb_memory_part){what, bytes};
    p->total += bytes;
}

static void fill(const zb_memory_ask *ask, zb_memory_plan *p, int rows, bool recompute) {
    p->n = 0;
    p->total = 0;
    p->rows = rows;
    p->recompute = recompute;
    ask->parts(ask->arg, p);
    zb_memory_add(p, "text", zb_memory_text(ask->o));
    zb_memory_add(p, "program", program);
}

static bool fits(const zb_memory_plan *p) { return p->limit == 0 || p->total <= p->limit; }

static void tell(const zb_memory_ask *ask, const zb_memory_plan *p) {
    zb_info("%s: memory plan, %d of %lld rows per pass%s", ask->stage, p->rows,
            (long long)ask->o->batch, p->recompute ? ", layers recomputed" : "");
    for (int i = 0; i < p->n; i++)
        zb_info("  %-36s %10.1f MiB", p->part[i].what, (double)p->part[i].bytes / 0x1p20);
    zb_info("  %-36s %10.1f MiB of %.1f", "together", (double)p->total / 0x1p20,
            (double)p->limit / 0x1p20);
}

static zb_status refuse(const zb_memory_ask *ask, const zb_memory_plan *p, zb_err *err) {
    const zb_memory_part *a = &p->part[0], *b = &p->part[0];
    for (int i = 0; i < p->n; i++)
        if (p->part[i].bytes > a->bytes) a = &p->part[i];
    for (int i = 0; i < p->n; i++)
        if (&p->part[i] != a && (b == a || p->part[i].bytes > b->bytes)) b = &p->part[i];
    return zb_fail(
        err, ZB_ERR_MEMORY,
        "%s: needs %.2f GiB even with one row per pass%s, the limit is %.2f GiB; most go "
        "to %s (%.2f GiB) and %s (%.2f GiB): %s, or raise memory_limit",
        ask->stage, (double)p->total / 0x1p30, p->recompute ? " and layers recomputed" : "",
        (double)p->limit / 0x1p30, a->what, (double)a->bytes / 0x1p30, b->what,
        (double)b->bytes / 0x1p30, ask->less);
}

static zb_status read_limit(const zb_stage_opts *o, size_t *limit, zb_err *err) {
    uint64_t bytes = 0;
    if (!strcmp(o->memory_limit, "auto")) {
        *limit = zb_memory_total();
        return ZB_OK;
    }
    if (!zb_parse_bytes(o->memory_limit, &bytes) || bytes == 0)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "memory_limit: expected auto or bytes such as 24G, found \"%s\"",
                       o->memory_limit);
    *limit = (size_t)bytes;
    return ZB_OK;
}

zb_status zb_memory_choose(const zb_memory_ask *ask, zb_memory_plan *p, zb_err *err) {
    const zb_stage_opts *o = ask->o;
    *p = (zb_memory_plan){0};
    ZB_TRY(read_limit(o, &p->limit, err));
    if (o->micro_batch > 0 && o->batch % o->micro_batch)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "micro_batch: expected a divisor of batch %lld, found %lld",
                       (long long)o->batch, (long long)o->micro_batch);
    int rows = (int)(o->micro_batch > 0 ? o->micro_batch : o->batch);
    if (rows > INT32_MAX / o->sequence_length) /* tokens of a pass are counted in an int */
        return zb_fail(err, ZB_ERR_CONFIG,
                       "batch, micro_batch: expected at most %lld rows of %lld tokens per pass, "
                       "found %d",
                       INT32_MAX / (long long)o->sequence_length, (long long)o->sequence_length,
                       rows);
    fill(ask, p, rows, ask->recompute);
    if (!fits(p) && ask->may_recompute) fill(ask, p, rows, true);
    bool recompute = p->recompute;
    while (!fits(p) && rows > 1) {
        do rows--;
        while (o->batch % rows);
        fill(ask, p, rows, recompute);
    }
    if (!fits(p)) return refuse(ask, p, err);
    tell(ask, p);
    return ZB_OK;
}

zb_memory_weights zb_memory_count(const zb_config *c, bool untie, zb_param_test trained,
                                  const void *arg) {
    zb_arena a = {0};
    zb_param_table t;
    zb_config own = *c;
    if (untie) own.tied = false;
    zb_params_declare(&t, &own, &a);
    zb_memory_weights w = {0};
    for (int i = 0; i < t.n; i++) {
        int64_t n = zb_param_count(&t.item[i]);
        bool is_trained = trained(arg, &t.item[i]);
        w.all += n;
        if (zb_param_is_wide(&t.item[i], is_trained)) w.wide += n;
        if (is_trained) w.trained += n;
    }
    zb_arena_free(&a);
    return w;
}

size_t zb_memory_frozen(const zb_config *c, size_t stored, const zb_memory_weights *w) {
    double share = (double)(w->all - w->wide) / (double)w->all;
    return (size_t)(share * (double)zb_memory_stored(c, stored));
}

/* Bytes of a rounded value: 2 where the CPU multiplies bf16, else rounded f32 are multiplied. */
static size_t rounded_size(void) {
    zb_matmul *probe;
    if (zb_matmul_new(&probe, ZB_PREC_BF16, NULL) != ZB_OK) return sizeof(float);
    size_t size = zb_matmul_bf16_native(probe) ? sizeof(uint16_t) : sizeof(float);
    zb_matmul_free(probe);
    return size;
}

size_t zb_memory_operands(const zb_config *c, int n, zb_memory_use use, zb_precision p) {
    if (p != ZB_PREC_BF16) return 0;
    zb_arena a = {0};
    zb_param_table t;
    zb_params_declare(&t, c, &a);
    size_t weight = 0, width = 0; /* the largest matrix, the longest row of a product */
    for (int i = 0; i < t.n; i++) {
        const zb_param *x = &t.item[i];
        size_t count = (size_t)zb_param_count(x);
        if (x->n_dims != 2) continue;
        if (count > weight) weight = count;
        if (x->layer >= 0 && (size_t)x->rows > width) width = (size_t)x->rows;
        if (x->layer >= 0 && (size_t)x->cols > width) width = (size_t)x->cols;
    }
    zb_arena_free(&a);
    size_t operand = (size_t)n * width, logits = zb_vocab_loss_tile(c->V, n) * (size_t)c->V,
           values =
               operand + (use == ZB_USE_PACKED ? zb_unpack_room(c, 0) / sizeof(float) : weight);
    if (use == ZB_USE_WIDE) values += operand;
    if (use == ZB_USE_LOSS) values += weight + (logits > operand ? logits : operand);
    return rounded_size() * values;
}

zb_memory_use zb_memory_teacher_use(const zb_config *c, size_t stored) {
    return stored == 0 || stored < 2 * zb_memory_stored(c, 0) * 9 / 10 ? ZB_USE_PACKED
                                                                       : ZB_USE_WIDE;
}

size_t zb_memory_stored(const zb_config *c, size_t stored) {
    if (stored > 0) return stored;
    zb_arena a = {0};
    zb_param_table t;
    zb_params_declare(&t, c, &a);
    stored = 2 * (size_t)zb_params_total(&t);
    zb_arena_free(&a);
    return stored;
}

zb_load zb_memory_load(const zb_stage_opts *o, int rows) {
    int length = (int)o->sequence_length;
    return (zb_load){.n = rows * length,
                     .longest = length,
                     .spans = rows,
                     .threads = omp_get_max_threads(),
                     .bf16 = true};
}

size_t zb_memory_text(const zb_stage_opts *o) {
    const char *path[] = {o->train, o->valid};
    size_t total = 0;
    for (int i = 0; i < 2; i++) /* about four bytes a token, and four a token's number */
        if (path[i]) total += zb_lines_size(path[i]);
    return total;
}
