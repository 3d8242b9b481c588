/* bench.c - the stages' own steps, timed (contract in bench.h).
 *
 * The best step counts: on a shared machine the others say how busy it was. Options that are not
 * named here have the stages' defaults. */
#include "train/bench.h"

#include "base/memory.h"
#include "train/align.h"
#include "train/distill.h"

#include <string.h>

#define AT(field) offsetof(zb_train_bench, field)
const zb_opt zb_train_bench_table[] = {
    {ZB_OPT_CHOICE, "train", 0, AT(train), "none", 0, 0, "none|distill|align",
     "measure steps of training instead"},
    {ZB_OPT_STR, "teacher", 0, AT(teacher), NULL, 0, 0, NULL, "teacher of the steps"},
    {ZB_OPT_STR, "student", 0, AT(student), NULL, 0, 0, NULL,
     "student folder; for align several, comma-separated"},
    {ZB_OPT_CHOICE, "trainable", 0, AT(trainable), "layer", 0, 0, "mixer|layer",
     "align: what is trained of each layer"},
    {ZB_OPT_INT, "rows", 0, AT(rows), "4", 1, 1 << 16, NULL, "rows per step"},
    {ZB_OPT_INT, "micro_rows", 0, AT(micro_rows), "0", 0, 1 << 16, NULL,
     "rows per pass (0: all at once)"},
    {ZB_OPT_INT, "length", 0, AT(length), "512", 2, 1 << 20, NULL, "tokens per row"},
    {ZB_OPT_INT, "steps", 0, AT(steps), "3", 1, 1000, NULL, "steps, after one that is not counted"},
    {ZB_OPT_BOOL, "recompute", 0, AT(recompute), "false", 0, 0, NULL,
     "distill: keep only layer inputs"},
    {ZB_OPT_CHOICE, "teacher_precision", 0, AT(teacher_precision), "same", 0, 0,
     "same|f32|bf16|int8", "distill: the teacher's products"},
    {ZB_OPT_STR, "memory_limit", 0, AT(memory_limit), "auto", 0, 0, NULL,
     "memory to stay within, like 24G; auto: what the machine has"},
    {0},
};

static zb_status run_stage(const zb_train_bench *b, const char *precision, zb_step_measure *m,
                           zb_err *err) {
    zb_distill_opts d = {0};
    zb_align_opts a = {0};
    zb_stage_opts s = {0};
    zb_opts_defaults((zb_opt_group[]){{"", zb_distill_opt_table, &d},
                                      {"", zb_align_opt_table, &a},
                                      {"", zb_stage_opt_table, &s},
                                      {"", zb_loop_opt_table, &s},
                                      {0}});
    s.train = s.valid = NULL; /* random tokens */
    s.batch = b->rows;
    s.micro_batch = b->micro_rows;
    s.sequence_length = b->length;
    s.memory_limit = b->memory_limit;
    d.teacher = a.teacher = b->teacher;
    d.student = a.students = b->student;
    d.precision = a.precision = precision;
    d.recompute = b->recompute;
    d.teacher_precision = b->teacher_precision;
    a.trainable = b->trainable;
    return strcmp(b->train, "align") ? zb_distill_measure(&d, &s, m, err)
                                     : zb_align_measure(&a, &s, m, err);
}

zb_status zb_train_bench_run(const zb_train_bench *b, const char *precision, double peak,
                             json_t **out, zb_err *err) {
    zb_arena a = {0};
    zb_step_measure m = {.steps = (int)b->steps};
    m.seconds = ZB_NEW_ARRAY(&a, double, m.steps);
    zb_status s = run_stage(b, precision, &m, err);
    if (s == ZB_OK) {
        double best = m.seconds[0], tokens = (double)(b->rows * b->length), n = (double)m.steps;
        json_t *all = json_array();
        for (int i = 0; i < m.steps; i++) {
            if (m.seconds[i] < best) best = m.seconds[i];
            json_array_append_new(all, json_real(m.seconds[i]));
        }
        const zb_step_times *t = &m.times;
        json_t *times =
            json_pack("{s:f,s:f,s:f,s:f,s:f}", "teacher", t->teacher / n, "forward", t->forward / n,
                      "loss", t->loss / n, "backward", t->backward / n, "update", t->update / n);
        *out = json_pack("{s:s,s:f,s:f,s:o,s:o,s:I,s:I,s:s,s:f,s:f,s:I,s:I,s:I,s:f}", "train",
                         b->train, "tokens_per_second", tokens / best, "seconds", best,
                         "all_seconds", all, "mean_times", times, "rows", (json_int_t)b->rows,
                         "length", (json_int_t)b->length, "precision", precision, "flop", m.flop,
                         "share_of_peak", peak > 0 ? m.flop / best / peak : 0, "planned_bytes",
                         (json_int_t)m.planned, "teacher_peak_bytes", (json_int_t)m.teacher_peak,
                         "student_peak_bytes", (json_int_t)m.student_peak, "peak_rss_mib",
                         (double)zb_memory_peak() / (1 << 20));
    }
    zb_arena_free(&a);
    return s;
}
