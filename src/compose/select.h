/* select.h - which layers stay MLA: measured sensitivities and the choice (SMART, Zebra-Llama
 * section 3.3, method.md 5).
 *
 * With an all-Mamba2 and an all-MLA student, s_l = KL(teacher‖all Mamba2) - KL(teacher‖all Mamba2
 * with MLA in layer l) on held-out text. The hidden states of the all-Mamba2 student before each
 * layer are computed once, so variant l costs only the layers from l on. */
#ifndef ZB_COMPOSE_SELECT_H
#define ZB_COMPOSE_SELECT_H

#include "base/opts.h"
#include "model/model.h"

typedef struct zb_select_opts {
    const char *teacher, *mamba2,
        *mla;               /* models; the students are needed where sensitivities are measured */
    const char *text, *out; /* held-out text; result (JSON) */
    const char *method;     /* smart | uniform | given */
    const char *layers;     /* of method given */
    int64_t count, tokens, sequence_length, batch;
    bool measure; /* also where the method does not need it */
    const char *precision;
} zb_select_opts;

extern const zb_opt zb_select_opt_table[];

zb_status zb_select_run(const zb_select_opts *o, zb_err *err);

#endif
