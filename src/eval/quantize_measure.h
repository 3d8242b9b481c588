/* quantize_measure.h - what packing costs in quality, by class of tensors.
 *
 * The wide model is the teacher; the same model with the tensors of one class packed (and all
 * others as they are) is compared with it on a text, then with all classes packed. The packed
 * weights are held in memory, the wide ones stay mapped. */
#ifndef ZB_EVAL_QUANTIZE_MEASURE_H
#define ZB_EVAL_QUANTIZE_MEASURE_H

#include "compose/quantize.h"

typedef struct zb_quantize_measure_opts {
    const char *measure; /* text: JSONL or .txt; NULL: no measurement */
    int64_t tokens, sequence_length;
} zb_quantize_measure_opts;

extern const zb_opt zb_quantize_measure_opt_table[];

/* *out: {"text", "tokens", "perplexity" (of the wide model), "classes": [{"class", "tensors",
 * "weights", "bytes", "bits_per_weight", "kl", "perplexity", "perplexity_ratio", "agreement"}]},
 * the last class being "all"; new reference. */
zb_status zb_quantize_measure(const zb_quantize_opts *q, const zb_quantize_measure_opts *o,
                              json_t **out, zb_err *err);

#endif
