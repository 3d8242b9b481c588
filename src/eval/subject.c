/* subject.c - see subject.h. */
#include "eval/subject.h"

#include "model/cells.h"

zb_status zb_subject_open_model(zb_subject *s, const char *path, zb_precision p,
                                const char *cache_type, zb_err *err) {
    zb_dtype cache;
    ZB_TRY(zb_cells_type(cache_type ? cache_type : "f32", &cache, err));
    ZB_TRY(zb_model_open(&s->model, path, ZB_MODEL_RUN, err));
    zb_model_set_cache(s->model, cache);
    return zb_runner_new(&s->runner, s->model, p, err);
}

zb_status zb_subject_open(zb_subject *s, const char *path, zb_precision p, const char *cache_type,
                          zb_err *err) {
    ZB_TRY(zb_subject_open_model(s, path, p, cache_type, err));
    return zb_model_tokenizer(&s->tokenizer, path, err);
}

void zb_subject_close(zb_subject *s) {
    zb_runner_free(s->runner);
    zb_model_free(s->model);
    zb_tokenizer_close(s->tokenizer);
}
