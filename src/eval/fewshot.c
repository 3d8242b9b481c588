/* fewshot.c - samplers of examples (contract in fewshot.h; source: ContextSampler of
 * lm_eval/api/samplers.py).
 *
 * drop_self: one row more than asked for is drawn and rows equal to the document are left out; if
 * the pool holds the document several times and too few remain, all are drawn again from the pool
 * without it. The harness does so where the pool's split and the test split have the same name,
 * also where neither task file names them. */
#include "eval/fewshot.h"

#include <string.h>

enum { SEED = 1234 };

zb_status zb_fewshot_init(zb_fewshot *f, const zb_task *t, const zb_rows *pool, int shots,
                          zb_arena *a, zb_err *err) {
    *f = (zb_fewshot){.task = t, .pool = pool, .shots = shots, .arena = a};
    f->random = ZB_NEW_ARRAY(a, zb_python_random, t->n_leaves);
    f->member = ZB_NEW_ARRAY(a, int *, t->n_leaves);
    f->n_members = ZB_NEW_ARRAY(a, int, t->n_leaves);
    if (shots == 0) return ZB_OK;
    for (int l = 0; l < t->n_leaves; l++) {
        zb_python_random_seed(&f->random[l], SEED);
        f->member[l] = ZB_NEW_ARRAY(a, int, pool->n);
        for (size_t i = 0; i < pool->n; i++)
            if (pool->leaf[i] == l) f->member[l][f->n_members[l]++] = (int)i;
        int needed = shots + (t->fewshot.drop_self && !t->fewshot.first_n);
        if (t->leaf[l].selected && f->n_members[l] < needed)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: expected at least %d rows of %s for %d examples, found %d",
                           pool->path, needed, t->leaf[l].name, shots, f->n_members[l]);
    }
    return ZB_OK;
}

/* Draws `count` members of those listed and keeps the first `shots` that differ from the row. */
static int draw(zb_fewshot *f, int leaf, const int *member, int n, int count, const json_t *row,
                int *out) {
    int *drawn = ZB_NEW_ARRAY(f->arena, int, count), kept = 0;
    zb_python_random_sample(&f->random[leaf], n, count, f->arena, drawn);
    for (int i = 0; i < count && kept < f->shots; i++) {
        int at = member[drawn[i]];
        if (row && json_equal((json_t *)zb_rows_fields(f->pool, (size_t)at), (json_t *)row))
            continue;
        out[kept++] = at;
    }
    return kept;
}

zb_status zb_fewshot_next(zb_fewshot *f, int leaf, const json_t *row, int *out, zb_err *err) {
    const int *member = f->member[leaf];
    int n = f->n_members[leaf], kept = 0;
    if (f->task->fewshot.first_n) {
        for (int i = 0; i < f->shots; i++) out[i] = member[i];
        return ZB_OK;
    }
    zb_mark mark = zb_arena_mark(f->arena);
    if (!f->task->fewshot.drop_self) row = NULL;
    kept = draw(f, leaf, member, n, f->shots + (row ? 1 : 0), row, out);
    if (kept < f->shots) {
        int *others = ZB_NEW_ARRAY(f->arena, int, n), count = 0;
        for (int i = 0; i < n; i++)
            if (!json_equal((json_t *)zb_rows_fields(f->pool, (size_t)member[i]), (json_t *)row))
                others[count++] = member[i];
        if (count >= f->shots) kept = draw(f, leaf, others, count, f->shots, NULL, out);
    }
    zb_arena_pop(f->arena, mark);
    if (kept == f->shots) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: expected %d rows besides the document itself",
                   f->pool->path, f->shots);
}
