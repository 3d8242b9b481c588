/* pipeline.c - the order of a recipe's stages, and their records (contract in pipeline.h). */
#include "cli/pipeline.h"

#include "base/contents.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/pipeline_impl.h"
#include "cli/pipeline_record.h"

char *zb_plan_path(const zb_plan *p, const char *name) {
    return zb_path_join(p->arena, p->r.output, name);
}

typedef struct step {
    const char *name;
    bool wanted;
    zb_status (*run)(zb_plan *p, zb_err *err);
    bool makes_model, of_teacher; /* of_teacher: whatever the student is */
    const char *result[2];        /* paths it leaves; NULL: none */
    zb_record record;             /* with the options its result depends on */
} step;

static bool has_result(const step *s) {
    for (int i = 0; i < 2; i++)
        if (s->result[i] && !zb_file_exists(s->result[i]) && !zb_dir_exists(s->result[i]))
            return false;
    return true;
}

/* What is left to do. A result that is gone is made again where something still needs it: the
 * report needs the figures and the student, a model only what the step behind it starts from. */
static void find_work(zb_plan *p, step *list, int n) {
    const char *from = "", *contents = zb_contents_of(p->r.teacher, p->arena);
    for (int i = 0; i < n; i++) {
        step *s = &list[i];
        if (!s->wanted) continue;
        s->record.contents = contents;
        s->record.name = s->name;
        s->record.path = zb_asprintf(p->arena, "%s/stages/%s.json", p->r.output, s->name);
        s->record.teacher = p->r.teacher;
        s->record.from = s->of_teacher ? NULL : from;
        zb_record_read(&s->record, p->arena);
        if (s->makes_model) from = s->record.id;
    }
    bool needed = true;
    for (int i = n - 1; i >= 0; i--) {
        step *s = &list[i];
        if (!s->wanted) continue;
        if (!s->record.why && needed && !has_result(s)) s->record.why = "its result is gone";
        if (s->makes_model) needed = s->record.why != NULL;
    }
}

static zb_status run_step(zb_plan *p, const step *s, zb_err *err) {
    const zb_record *r = &s->record;
    if (!r->why) {
        zb_info("%s: done before", s->name);
        json_object_set_new(p->seconds, s->name, json_real(r->seconds));
        return ZB_OK;
    }
    zb_info("== %s", s->name);
    double t0 = zb_seconds();
    zb_status st = s->run(p, err);
    double spent = r->seconds + zb_seconds() - t0;
    zb_status written = zb_record_write(r, spent, st == ZB_OK, st == ZB_OK ? err : NULL);
    json_object_set_new(p->seconds, s->name, json_real(spent));
    return st == ZB_OK ? written : st;
}

/* The options of composing that the selection depends on, by names of their own. Records of earlier
 * versions do not have them: there they count as they are now. */
static const zb_opt *composing_for_select(zb_plan *p) {
    json_t *now = zb_opts_json((zb_opt_group[]){{"", zb_compose_opt_table, &p->compose}, {0}});
    zb_opt *table = zb_alloc_array(p->arena, json_object_size(now) + 1, sizeof *table), *at = table;
    for (const zb_opt *o = zb_compose_opt_table; o->type; o++) {
        const json_t *value = json_object_get(now, o->name);
        if (!zb_select_depends(&p->select, o->name)) continue;
        *at = *o;
        at->name = zb_asprintf(p->arena, "compose.%s", o->name);
        at->def = json_is_null(value)     ? NULL
                  : json_is_string(value) ? zb_strdup(p->arena, json_string_value(value))
                                          : zb_json_text(value, p->arena);
        at++;
    }
    json_decref(now);
    return table;
}

/* The head's precision, for stages that have no option of that name. Records of earlier versions do
 * not have it: there it counts as it is now. */
static const zb_opt *precision_of_head(zb_plan *p) {
    zb_opt *table = ZB_NEW_ARRAY(p->arena, zb_opt, 2);
    table[0] = (zb_opt){.type = ZB_OPT_STR,
                        .name = "precision",
                        .offset = offsetof(zb_recipe_opts, precision),
                        .def = p->r.precision};
    return table;
}

/* The steps that make the student. */
static int model_steps(zb_plan *p, step *s) {
    bool layers = !zb_select_by_budget(&p->select) && !zb_select_heads(&p->select);
    int n = 0;
    s[n++] = (step){.name = "compose",
                    .wanted = p->has_align || (p->has_select && layers),
                    .run = zb_stage_students,
                    .record.options = {{"", zb_compose_opt_table, &p->compose}},
                    .result = {zb_plan_path(p, "mla"), zb_plan_path(p, "mamba2")}};
    s[n++] = (step){.name = "align",
                    .wanted = p->has_align,
                    .run = zb_stage_align,
                    .record.options = {{"", zb_align_opt_table, &p->align},
                                       {"", zb_stage_opt_table, &p->align_stage},
                                       {"", zb_loop_opt_table, &p->align_stage}},
                    .result = {p->mla, p->mamba2}};
    s[n++] = (step){.name = "select",
                    .wanted = p->has_select,
                    .run = zb_stage_select,
                    .record.options = {{"", zb_select_opt_table, &p->select},
                                       {"", composing_for_select(p), &p->compose}},
                    .result = {zb_plan_path(p, "select.json")}};
    s[n++] = (step){.name = "assemble",
                    .wanted = true,
                    .run = zb_stage_assemble,
                    .record.options = {{"", zb_compose_opt_table, &p->compose}},
                    .result = {zb_plan_path(p, "hybrid")}};
    s[n++] = (step){.name = "prune",
                    .wanted = p->has_prune,
                    .run = zb_stage_prune,
                    .record.options = {{"", zb_prune_opt_table, &p->prune}},
                    .result = {p->composed}};
    s[n++] = (step){.name = "distill",
                    .wanted = p->has_distill,
                    .run = zb_stage_distill,
                    .record.options = {{"", zb_distill_opt_table, &p->distill},
                                       {"", zb_stage_opt_table, &p->distill_stage},
                                       {"", zb_loop_opt_table, &p->distill_stage}},
                    .result = {p->distilled}};
    s[n++] = (step){.name = "tune",
                    .wanted = p->has_tune,
                    .run = zb_stage_tune,
                    .record.options = {{"", zb_tune_opt_table, &p->tune},
                                       {"", zb_loop_opt_table, &p->tune_stage}},
                    .result = {p->trained}};
    s[n++] = (step){.name = "quantize",
                    .wanted = p->has_quantize,
                    .run = zb_stage_quantize,
                    .record.options = {{"", zb_quantize_opt_table, &p->quantize}},
                    .result = {p->student}};
    for (int i = 0; i < n; i++) s[i].makes_model = true;
    return n;
}

/* The steps that measure it and the teacher. */
static int measuring_steps(zb_plan *p, step *s) {
    bool scored = p->eval.tasks && p->eval.tasks[0];
    const zb_opt *precision = precision_of_head(p);
    int n = 0;
    for (int student = 0; student < 2; student++)
        s[n++] = (step){
            .name = student ? "eval" : "eval_teacher",
            .wanted = p->has_eval,
            .of_teacher = !student,
            .run = student ? zb_stage_eval_student : zb_stage_eval_teacher,
            .record.options = {{"", zb_eval_opt_table, &p->eval},
                               {"", zb_suite_opt_table, &p->suite}},
            .result = {scored ? zb_plan_path(p, student ? "eval/student.json" : "eval/teacher.json")
                              : NULL}};
    for (int student = 0; student < 2; student++)
        s[n++] = (step){
            .name = student ? "recall" : "recall_teacher",
            .wanted = p->has_recall,
            .of_teacher = !student,
            .run = student ? zb_stage_recall_student : zb_stage_recall_teacher,
            .record.options = {{"", zb_recall_opt_table, &p->recall}, {"", precision, &p->r}},
            .result = {zb_plan_path(p, student ? "recall/student.json" : "recall/teacher.json")}};
    s[n++] =
        (step){.name = "generate",
               .wanted = p->has_samples,
               .run = zb_stage_samples,
               .record.options = {{"", zb_samples_opt_table, &p->samples}, {"", precision, &p->r}},
               .result = {zb_plan_path(p, "samples.json")}};
    s[n++] = (step){.name = "bench",
                    .wanted = p->has_speed,
                    .run = zb_stage_speed,
                    .record.options = {{"", zb_speed_opt_table, &p->speed}, {"", precision, &p->r}},
                    .result = {zb_plan_path(p, "bench/student.json")}};
    return n;
}

/* The stages in their order, and what is left to do. */
static void tell_steps(zb_plan *p, const step *list, int n) {
    for (int i = 0; i < n; i++) {
        const char *why = list[i].record.why;
        if (!list[i].wanted) continue;
        zb_buf_addf(p->table, "%-14s  %s%s\n", list[i].name, why ? "to do: " : "done",
                    why ? why : "");
    }
    if (p->has_report) zb_buf_addf(p->table, "%-14s  to do: written by every run\n", "report");
}

static zb_status run_wanted(zb_plan *p, const step *list, int n, zb_err *err) {
    for (int i = 0; i < n; i++) {
        const zb_record *r = &list[i].record;
        if (list[i].wanted && r->finished && r->why)
            zb_info("%s: to be made again: %s", r->name, r->why);
    }
    for (int i = 0; i < n; i++) {
        if (!list[i].wanted) continue;
        zb_status s = run_step(p, &list[i], err);
        if (s != ZB_OK) return zb_err_wrap(err, s, "stage %s", list[i].name);
    }
    return p->has_report ? zb_stage_report(p, err) : ZB_OK;
}

static zb_status run_steps(zb_plan *p, bool dry_run, zb_err *err) {
    step steps[16] = {0};
    zb_status s = ZB_OK;
    int n = model_steps(p, steps);
    n += measuring_steps(p, steps + n);
    find_work(p, steps, n);
    if (dry_run)
        tell_steps(p, steps, n);
    else
        s = run_wanted(p, steps, n, err);
    for (int i = 0; i < n; i++) zb_record_free(&steps[i].record);
    return s;
}

/* The recipe beside its results, with the settings as comments at its end. */
static zb_status keep_recipe(const zb_plan *p, zb_err *err) {
    zb_buf text;
    zb_buf_init(&text, 1 << 20);
    zb_str own;
    zb_status s = zb_file_read(p->recipe, 1 << 20, p->arena, &own, err);
    if (s == ZB_OK) zb_buf_add(&text, own.p, own.n);
    for (int i = 0; i < p->n_settings && s == ZB_OK; i++)
        zb_buf_addf(&text, "%s# set: %s\n", i ? "" : "\n", p->settings[i]);
    if (s == ZB_OK) s = zb_file_write(zb_plan_path(p, "recipe.yaml"), text.p, text.n, err);
    zb_buf_free(&text);
    return s;
}

zb_status zb_pipeline_run(const zb_pipeline_job *job, zb_buf *table, const char **page, zb_arena *a,
                          zb_err *err) {
    zb_plan p = {.arena = a,
                 .recipe = job->recipe,
                 .settings = job->settings,
                 .n_settings = job->n_settings,
                 .table = table};
    *page = NULL;
    ZB_TRY(zb_plan_read(&p, err));
    if (job->dry_run) return run_steps(&p, true, err);
    ZB_TRY(zb_dir_make(zb_plan_path(&p, "stages"), err));
    ZB_TRY(keep_recipe(&p, err));
    p.seconds = json_object();
    zb_status s = run_steps(&p, false, err);
    json_decref(p.seconds);
    *page = p.page;
    return s;
}
