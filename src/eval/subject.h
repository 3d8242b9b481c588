/* subject.h - the model that is measured, opened as a measurement needs it: weights, a runner, and
 * the tokenizer of its texts. */
#ifndef ZB_EVAL_SUBJECT_H
#define ZB_EVAL_SUBJECT_H

#include "model/model.h"

typedef struct zb_subject {
    zb_model *model;
    zb_runner *runner;
    zb_tokenizer *tokenizer; /* NULL: the model has none, or it was not asked for */
} zb_subject;

/* `cache_type` is a name of cells.h (NULL: f32). zb_subject_close must be called, also after an
 * error; the subject is zeroed before. */
zb_status zb_subject_open(zb_subject *s, const char *path, zb_precision p, const char *cache_type,
                          zb_err *err);
/* The model alone, for texts that another one's tokenizer reads. */
zb_status zb_subject_open_model(zb_subject *s, const char *path, zb_precision p,
                                const char *cache_type, zb_err *err);
void zb_subject_close(zb_subject *s);

#endif
