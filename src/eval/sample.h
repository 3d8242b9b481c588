/* sample.h - what the model answered to each document: one JSON line each, as the LM Evaluation
 * Harness logs it. */
#ifndef ZB_EVAL_SAMPLE_H
#define ZB_EVAL_SAMPLE_H

#include "eval/document.h"

/* Writes dir/samples_<leaf>.jsonl for each selected leaf (atomically, folder made if needed). */
zb_status zb_samples_write(const char *dir, const zb_task *t, const zb_document_set *docs,
                           zb_err *err);

#endif
