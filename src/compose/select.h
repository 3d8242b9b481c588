/* select.h - what stands in each layer: plans under a byte budget (budget.h), which kv heads have
 * to see all where the others get a window (retrieval.h), or which layers stay MLA by SMART
 * (Zebra-Llama section 3.3, method.md 5).
 *
 * With an all-Mamba2 and an all-MLA student, s_l = KL(teacher‖all Mamba2) - KL(teacher‖all Mamba2
 * with MLA in layer l) on held-out text. The hidden states of the all-Mamba2 student before each
 * layer are computed once, so variant l costs only the layers from l on. */
#ifndef ZB_COMPOSE_SELECT_H
#define ZB_COMPOSE_SELECT_H

#include "base/opts.h"
#include "compose/compose.h"
#include "model/model.h"

typedef struct zb_select_opts {
    const char *teacher, *mamba2,
        *mla;               /* models; the students are needed where sensitivities are measured */
    const char *text, *out; /* held-out text; result (JSON) */
    const char *method; /* auto | plan | kl | recall | error | smart | uniform | given | heads */
    const char *layers; /* of method given */
    int64_t count, tokens, sequence_length, batch;
    bool measure; /* also where the method does not need it */
    const char *precision;

    int64_t window, sinks; /* of method heads: what the other heads see */

    /* plans under a budget */
    const char *candidates;          /* as candidate.h; NULL: the table's, or a few of all kinds */
    const char *budget;              /* "60M": bytes of a sequence's memory at `context` */
    double cache_percent;            /* the same as a share of the teacher's; 0: not given */
    int64_t context, verify;         /* tokens; plans that are measured as a whole */
    const char *compare, *contexts;  /* all methods at these shares and contexts */
    const char *measures, *students; /* table and folder of candidates; NULL: beside `out` */
    int64_t recall_rows;
    double recall_weight;           /* of the recall lost, beside the divergence */
    const char *init, *calibration; /* of candidates that are composed */
    int64_t calibration_tokens, seed;
    const zb_compose_opts *compose; /* not an option: how candidates are composed where a recipe
                                       says so; NULL: defaults and the options above */
    bool renew; /* not an option: what was measured and composed otherwise is made anew, where
                   `measures` and `students` name nothing that others may use; else an error */
} zb_select_opts;

extern const zb_opt zb_select_opt_table[];

/* Whether the options ask for a plan under a budget, or for retrieval heads. */
bool zb_select_by_budget(const zb_select_opts *o);
bool zb_select_heads(const zb_select_opts *o);

/* Whether what is selected depends on this option of o->compose: which layers have windows, and how
 * wide, or how candidates are composed. */
bool zb_select_depends(const zb_select_opts *o, const char *compose_option);

zb_status zb_select_run(const zb_select_opts *o, zb_err *err);

#endif
