/* loop.c - steps, validations and saving (contract in loop.h). */
#include "train/loop.h"

#include "base/file.h"

#include <string.h>

static zb_status save(const zb_loop *l, const zb_stage *st, const char *dir, zb_err *err) {
    ZB_TRY(zb_stage_check_model(st, l->student, err));
    json_t *p = json_pack("{s:s,s:I,s:O}", "stage", st->name, "step", (json_int_t)st->step,
                          "options", l->how);
    zb_status s = zb_model_save(l->student, dir, strcmp(l->dtype, "bf16") ? ZB_F32 : ZB_BF16,
                                l->tokenizer_from, p, err);
    json_decref(p);
    return s;
}

static zb_status validate(const zb_loop *l, zb_stage *st, zb_err *err) {
    bool best = false;
    if (!zb_stage_eval_due(st)) return ZB_OK;
    ZB_TRY(l->validate(l->user, st, &best, err));
    if (best && l->keep_best && st->step > 0)
        ZB_TRY(save(l, st, zb_path_join(&st->arena, st->dir, "best"), err));
    st->t_step = zb_seconds(); /* none of this is the next step's */
    return ZB_OK;
}

zb_status zb_loop_run(const zb_loop *l, zb_stage *st, zb_err *err) {
    while (st->step < st->steps) {
        ZB_TRY(validate(l, st, err));
        ZB_TRY(l->step(l->user, st, err));
    }
    ZB_TRY(validate(l, st, err));
    ZB_TRY(save(l, st, l->out, err));
    return zb_stage_finish(st, err);
}
