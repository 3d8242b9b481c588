/* recall_model.c - recall tests of a model that is opened for them (contract in recall.h). */
#include "eval/cache.h"
#include "eval/model_scorer.h"
#include "eval/recall.h"
#include "eval/subject.h"

static zb_status run(zb_recall_opts *o, const zb_subject *x, zb_recall_result *r, zb_err *err) {
    zb_model_scorer *m;
    if (!x->tokenizer)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: recall tests need a model with a tokenizer.json",
                       o->model);
    ZB_TRY(zb_model_scorer_new(&m, x->runner, 0, err));
    zb_scorer scorer = zb_model_scorer_get(m);
    o->vocab = zb_model_config(x->model)->V;
    zb_status s = zb_recall_run(o, x->tokenizer, &scorer, r, err);
    zb_model_scorer_free(m);
    return s;
}

zb_status zb_recall_model(const zb_recall_opts *o, const char *model, const char *precision,
                          const char *cache_type, zb_buf *table, zb_err *err) {
    zb_subject x = {0};
    zb_recall_result r = {0};
    zb_recall_opts named = *o;
    zb_precision p;
    char key[65];
    named.model = model;
    ZB_TRY(zb_recall_check(&named, err)); /* before the model is read */
    ZB_TRY(zb_precision_choose(precision, &p, err));
    named.precision = zb_precision_name(p);
    named.cache_type = cache_type ? cache_type : "f32";
    zb_status s = zb_subject_open(&x, model, p, cache_type, err);
    if (s == ZB_OK && o->cache && *o->cache) {
        s = zb_cache_model_digest(model, named.precision, cache_type, key, err);
        named.model_key = key;
    }
    if (s == ZB_OK) s = run(&named, &x, &r, err);
    if ((s == ZB_OK || r.seconds > 0) && named.shard.rank == 0) zb_recall_table(&r, table);
    zb_recall_result_free(&r);
    zb_subject_close(&x);
    return s;
}
