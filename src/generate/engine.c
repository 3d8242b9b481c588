/* engine.c - a loaded model ready to run (contract in zebra.h and engine.h).
 *
 * Opens the model for running (weights stay packed), chooses its precision (weights that were
 * rounded to a few bits meet activations of 8; others are multiplied in bf16 where the processor
 * does that), and reads the tokenizer beside the weights if there is one that can be read. */
#include "generate/engine.h"

#include "base/file.h"

#include <omp.h>
#include <string.h>

enum { CONTEXT_MAX = 1 << 22 };

struct zb_engine {
    zb_arena arena; /* this struct */
    zb_model *model;
    zb_runner *runner;
    zb_tokenizer *tokenizer;
    zb_err tokenizer_err; /* of one that could not be read */
    int context;
    zb_precision precision;
};

const char *zb_version(void) { return ZB_VERSION; }

static zb_status open_all(zb_engine *e, const char *path, const zb_engine_opts *o, zb_err *err) {
    if (o->context < 0 || o->context > CONTEXT_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "context: expected 0 to %d tokens, found %d",
                       CONTEXT_MAX, o->context);
    if (!zb_str_ends(zb_str_from(path), ZB_STR(".gguf")) && !zb_dir_exists(path))
        return zb_fail(err, ZB_ERR_IO, "%s: expected a model folder or a .gguf file, found neither",
                       path);
    zb_dtype cache;
    ZB_TRY(zb_cells_type(o->cache ? o->cache : "f16", &cache, err));
    ZB_TRY(zb_model_open(&e->model, path, ZB_MODEL_RUN, err));
    zb_model_set_cache(e->model, cache);
    bool chosen = o->precision && strcmp(o->precision, "auto");
    ZB_TRY(zb_precision_choose(chosen ? o->precision : "auto", &e->precision, err));
    if (!chosen && zb_model_is_quantised(e->model)) e->precision = ZB_PREC_INT8;
    ZB_TRY(zb_runner_new(&e->runner, e->model, e->precision, err));
    zb_runner_run(e->runner)->deterministic = o->deterministic;
    int made_for = zb_model_config(e->model)->context_max;
    e->context = o->context                               ? o->context
                 : made_for > 0 && made_for < CONTEXT_MAX ? made_for
                                                          : CONTEXT_MAX;
    /* ids need none: what is wrong with it matters when text comes */
    (void)zb_model_tokenizer(&e->tokenizer, path, &e->tokenizer_err);
    return ZB_OK;
}

zb_status zb_engine_open(zb_engine **out, const char *path, const zb_engine_opts *o, zb_err *err) {
    *out = NULL;
    if (o && o->threads < 0)
        return zb_fail(err, ZB_ERR_CONFIG, "threads: expected 0 or more, found %d", o->threads);
    if (o && o->threads > 0) omp_set_num_threads(o->threads);
    zb_arena first = {0};
    zb_engine *e = ZB_NEW(&first, zb_engine);
    e->arena = first;
    zb_status s = open_all(e, path, o ? o : &(zb_engine_opts){0}, err);
    if (s == ZB_OK)
        *out = e;
    else
        zb_engine_close(e);
    return s;
}

void zb_engine_close(zb_engine *e) {
    if (!e) return;
    if (e->tokenizer) zb_tokenizer_close(e->tokenizer);
    zb_runner_free(e->runner);
    zb_model_free(e->model);
    zb_arena a = e->arena;
    zb_arena_free(&a);
}

zb_model *zb_engine_model(const zb_engine *e) { return e->model; }
zb_runner *zb_engine_runner(const zb_engine *e) { return e->runner; }
const zb_tokenizer *zb_engine_tokenizer(const zb_engine *e) { return e->tokenizer; }
zb_precision zb_engine_precision(const zb_engine *e) { return e->precision; }
int zb_engine_threads(const zb_engine *e) { return zb_runner_run(e->runner)->threads; }
int zb_engine_vocab(const zb_engine *e) { return zb_model_config(e->model)->V; }
int zb_engine_context(const zb_engine *e) { return e->context; }
bool zb_engine_has_tokenizer(const zb_engine *e) { return e->tokenizer != NULL; }

bool zb_engine_is_end(const zb_engine *e, int32_t id) {
    const zb_config *c = zb_model_config(e->model);
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id) return true;
    return id >= 0 && e->tokenizer && zb_tokenizer_eos(e->tokenizer) == id;
}

zb_status zb_engine_need_tokenizer(const zb_engine *e, zb_err *err) {
    if (e->tokenizer) return ZB_OK;
    if (e->tokenizer_err.code)
        return zb_fail(err, e->tokenizer_err.code, "%s", e->tokenizer_err.msg);
    return zb_fail(
        err, ZB_ERR_CONFIG,
        "%s: expected a tokenizer (tokenizer.json, or the keys of a GGUF file), found none",
        zb_model_path(e->model));
}

zb_status zb_engine_encode(const zb_engine *e, const char *text, int flags, int32_t *ids,
                           size_t cap, size_t *n, zb_err *err) {
    *n = 0;
    ZB_TRY(zb_engine_need_tokenizer(e, err));
    zb_arena a = {0};
    zb_ids all = {0};
    zb_status s = zb_tokenizer_encode(e->tokenizer, zb_str_from(text), flags & ZB_ENCODE_ADD,
                                      flags & ZB_ENCODE_PARSE, &a, &all, err);
    if (s == ZB_OK) {
        *n = all.n;
        size_t kept = all.n < cap ? all.n : cap;
        if (kept) memcpy(ids, all.id, kept * sizeof *ids);
    }
    zb_arena_free(&a);
    return s;
}

zb_status zb_engine_decode(const zb_engine *e, const int32_t *ids, size_t n, char *bytes,
                           size_t cap, size_t *n_bytes, zb_err *err) {
    *n_bytes = 0;
    ZB_TRY(zb_engine_need_tokenizer(e, err));
    zb_buf b;
    zb_buf_init(&b, SIZE_MAX / 4);
    zb_status s = zb_tokenizer_decode(e->tokenizer, ids, n, false, &b, err);
    if (s == ZB_OK) {
        *n_bytes = b.n;
        size_t kept = b.n < cap ? b.n : cap;
        if (kept) memcpy(bytes, b.p, kept);
    }
    zb_buf_free(&b);
    return s;
}
