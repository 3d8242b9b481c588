/* pipeline.c - reading a recipe, the order of its stages, and their records (contract in
 * pipeline.h). */
#include "cli/pipeline.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/pipeline_impl.h"

#include <string.h>

#define AT(type, field) offsetof(type, field)
static const zb_opt recipe_table[] = {
    {ZB_OPT_STR, "output", 0, AT(zb_recipe_opts, output), NULL, 0, 0, NULL,
     "folder for everything the recipe makes"},
    {ZB_OPT_STR, "teacher", 0, AT(zb_recipe_opts, teacher), NULL, 0, 0, NULL,
     "the base Transformer: model folder or .gguf"},
    {ZB_OPT_STR, "title", 0, AT(zb_recipe_opts, title), NULL, 0, 0, NULL, "heading of the report"},
    {ZB_OPT_INT, "seed", 0, AT(zb_recipe_opts, seed), "42", 0, 9e15, NULL,
     "of all stages that have none of their own"},
    {ZB_OPT_CHOICE, "precision", 0, AT(zb_recipe_opts, precision), "auto", 0, 0, "auto|f32|bf16",
     "matrix products of all stages"},
    {ZB_OPT_STR, "memory_limit", 0, AT(zb_recipe_opts, memory_limit), "auto", 0, 0, NULL,
     "memory for align, distill and tune, like 24G; auto: what the machine has"},
    {0},
};

static const zb_opt samples_table[] = {
    {ZB_OPT_STR, "prompts", 0, AT(zb_samples_opts, prompts), NULL, 0, 0, NULL,
     "JSONL file of {\"prompt\": text}"},
    {ZB_OPT_INT, "tokens", 0, AT(zb_samples_opts, tokens), "64", 1, 1 << 20, NULL,
     "most tokens of an answer"},
    {ZB_OPT_BOOL, "chat", 0, AT(zb_samples_opts, chat), "true", 0, 0, NULL,
     "put prompts into the chat template"},
    {ZB_OPT_F64, "temperature", 0, AT(zb_samples_opts, temperature), "0", 0, 100, NULL,
     "0: the most probable token"},
    {ZB_OPT_F64, "top_p", 0, AT(zb_samples_opts, top_p), "1", 0, 1, NULL,
     "share of probability kept"},
    {ZB_OPT_INT, "top_k", 0, AT(zb_samples_opts, top_k), "0", 0, 1 << 24, NULL,
     "tokens kept (0: all)"},
    {ZB_OPT_F64, "repeat_penalty", 0, AT(zb_samples_opts, repeat_penalty), "1", 0, 100, NULL,
     "penalty on recent tokens"},
    {ZB_OPT_INT, "seed", 0, AT(zb_samples_opts, seed), "42", 0, 9e15, NULL, "of sampling"},
    {0},
};

static const zb_opt speed_table[] = {
    {ZB_OPT_STR, "prefill", 0, AT(zb_speed_opts, prefill), "128,512", 0, 0, NULL, "prompt lengths"},
    {ZB_OPT_STR, "decode", 0, AT(zb_speed_opts, decode), "0,1024", 0, 0, NULL,
     "context lengths before decoding"},
    {ZB_OPT_INT, "tokens", 0, AT(zb_speed_opts, tokens), "32", 1, 1 << 20, NULL,
     "tokens per decoding run"},
    {ZB_OPT_INT, "runs", 0, AT(zb_speed_opts, runs), "3", 1, 1000, NULL, "runs per figure"},
    {0},
};

static const zb_opt no_table[] = {{0}};

char *zb_plan_path(const zb_plan *p, const char *name) {
    return zb_path_join(p->arena, p->r.output, name);
}

/* A section: name, where it goes, whether the recipe has it. Three groups at most. */
typedef struct section {
    const char *name;
    zb_opt_group g[4];
    bool *present;
} section;

static const char *section_names(const section *s, int n, zb_arena *a) {
    const char *list = "";
    for (int i = 0; i < n; i++) list = zb_asprintf(a, "%s%s%s", list, i ? ", " : "", s[i].name);
    return list;
}

static zb_status read_sections(zb_plan *p, const zb_yaml *root, section *s, int n, zb_err *err) {
    zb_opt_group top[] = {{"", recipe_table, &p->r}, {0}};
    zb_opts_defaults(top);
    for (int i = 0; i < n; i++) zb_opts_defaults(s[i].g);
    for (const zb_yaml *c = root->child; c; c = c->next) {
        section *found = NULL;
        for (int i = 0; i < n; i++)
            if (!strcmp(s[i].name, c->key)) found = &s[i];
        if (found) {
            ZB_TRY(zb_opts_yaml(found->g, c, p->recipe, p->arena, err));
            *found->present = true;
            continue;
        }
        char *where = zb_asprintf(p->arena, "%s:%d", p->recipe, c->line);
        if (c->kind != ZB_YAML_SCALAR)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown section \"%s\": expected one of %s",
                           where, c->key, section_names(s, n, p->arena));
        ZB_TRY(zb_opts_set(top, c->key, c->text, where, p->arena, err));
    }
    return ZB_OK;
}

/* One setting of the command line, "key=value" or "section.key=value"; a section that the recipe
 * does not have is added. */
static zb_status change(zb_plan *p, const char *setting, section *s, int n, zb_err *err) {
    const char *equals = strchr(setting, '=');
    char *where = zb_asprintf(p->arena, "setting \"%s\"", setting);
    if (!equals || equals == setting)
        return zb_fail(err, ZB_ERR_USAGE, "%s: expected KEY=VALUE or SECTION.KEY=VALUE", where);
    char *key = zb_asprintf(p->arena, "%.*s", (int)(equals - setting), setting),
         *dot = strchr(key, '.');
    zb_opt_group top[] = {{"", recipe_table, &p->r}, {0}};
    if (!dot) return zb_opts_set(top, key, equals + 1, where, p->arena, err);
    *dot = '\0';
    for (int i = 0; i < n; i++)
        if (!strcmp(s[i].name, key)) {
            *s[i].present = true;
            return zb_opts_set(s[i].g, dot + 1, equals + 1, where, p->arena, err);
        }
    return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown section \"%s\": expected one of %s", where, key,
                   section_names(s, n, p->arena));
}

/* Keys that the pipeline sets itself. */
static zb_status reserve(const zb_plan *p, const char *value, const char *key, zb_err *err) {
    return value ? zb_fail(err, ZB_ERR_CONFIG,
                           "%s: %s: set by the pipeline, remove it from the recipe", p->recipe, key)
                 : ZB_OK;
}

static zb_status check(zb_plan *p, zb_err *err) {
    if (!p->r.output || !p->r.teacher)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the keys output and teacher", p->recipe);
    ZB_TRY(reserve(p, p->compose.out, "compose.out", err));
    ZB_TRY(reserve(p, p->compose.selection, "compose.selection", err));
    ZB_TRY(reserve(p, p->align.students, "align.students", err));
    ZB_TRY(reserve(p, p->align.out, "align.out", err));
    ZB_TRY(reserve(p, p->select.out, "select.out", err));
    ZB_TRY(reserve(p, p->prune.model, "prune.model", err));
    ZB_TRY(reserve(p, p->prune.out, "prune.out", err));
    ZB_TRY(reserve(p, p->distill.out, "distill.out", err));
    ZB_TRY(reserve(p, p->distill.student, "distill.student", err));
    ZB_TRY(reserve(p, p->tune.out, "tune.out", err));
    ZB_TRY(reserve(p, p->tune.student, "tune.student", err));
    ZB_TRY(reserve(p, p->quantize.model, "quantize.model", err));
    ZB_TRY(reserve(p, p->quantize.out, "quantize.out", err));
    ZB_TRY(reserve(p, p->quantize.random, "quantize.random", err));
    ZB_TRY(reserve(p, p->quantize.dry_run ? "true" : NULL, "quantize.dry_run", err));
    ZB_TRY(reserve(p, p->eval.output, "eval.output", err));
    ZB_TRY(reserve(p, p->recall.output, "recall.output", err));
    ZB_TRY(reserve(p, p->recall.log_samples, "recall.log_samples", err));
    ZB_TRY(reserve(p, p->suite.model, "eval.model", err));
    if (!p->has_compose)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected a section compose", p->recipe);
    if (!zb_file_exists(p->r.teacher) && !zb_dir_exists(p->r.teacher))
        return zb_fail(err, ZB_ERR_IO, "%s: teacher %s: no such file or folder", p->recipe,
                       p->r.teacher);
    const struct {
        bool used;
        const char *path;
    } text[] = {
        {!strcmp(p->compose.init, "calibrated") || p->compose.fit_donors, p->compose.calibration},
        {p->has_align, p->align_stage.train},
        {p->has_align, p->align_stage.valid},
        {p->has_distill, p->distill_stage.train},
        {p->has_distill, p->distill_stage.valid},
        {p->has_tune, p->tune.train ? p->tune.train : ""},
        {p->has_tune && p->tune.valid, p->tune.valid},
        {p->has_select, p->select.text},
        {p->has_prune, p->prune.text},
        {p->has_quantize && p->quantize.calibrate, p->quantize.calibrate},
        {p->has_eval && p->suite.text, p->suite.text},
        {p->has_recall, p->recall.haystack ? p->recall.haystack : ""},
        {p->has_samples, p->samples.prompts ? p->samples.prompts : ""}};
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++)
        if (text[i].used && !zb_file_exists(text[i].path))
            return zb_fail(err, ZB_ERR_IO,
                           "%s: \"%s\": no such file; `./run demo` prepares the data", p->recipe,
                           text[i].path);
    zb_status s = p->has_align ? zb_align_check(&p->align, &p->align_stage, err) : ZB_OK;
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: align", p->recipe);
    if (p->has_tune) s = zb_tune_check(&p->tune, err);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "%s: tune", p->recipe);
}

/* Teacher, seed, precision and paths that follow from the recipe's head. */
static void fill_in(zb_plan *p) {
    const char *t = p->r.teacher;
    p->compose.teacher = t;
    p->align.teacher = p->align.teacher ? p->align.teacher : t;
    p->select.teacher = p->select.teacher ? p->select.teacher : t;
    p->distill.teacher = p->distill.teacher ? p->distill.teacher : t;
    const char **precision[] = {&p->align.precision, &p->select.precision, &p->distill.precision,
                                &p->tune.precision, &p->suite.precision};
    for (int i = 0; i < 5; i++)
        if (!strcmp(*precision[i], "auto")) *precision[i] = p->r.precision;
    const char **limit[] = {&p->align_stage.memory_limit, &p->distill_stage.memory_limit,
                            &p->tune_stage.memory_limit};
    for (int i = 0; i < 3; i++)
        if (!strcmp(*limit[i], "auto")) *limit[i] = p->r.memory_limit;
    int64_t *seed[] = {&p->compose.seed,       &p->align_stage.seed, &p->prune.seed,
                       &p->distill_stage.seed, &p->tune_stage.seed,  &p->samples.seed,
                       &p->recall.seed};
    for (int i = 0; i < 7; i++)
        if (*seed[i] == 42) *seed[i] = p->r.seed;
    p->mla = zb_plan_path(p, p->has_align ? "mla-aligned" : "mla");
    p->mamba2 = zb_plan_path(p, p->has_align ? "mamba2-aligned" : "mamba2");
    p->composed = zb_plan_path(p, p->has_prune ? "pruned" : "hybrid");
    p->distilled = p->has_distill ? zb_plan_path(p, "student") : p->composed;
    p->trained = p->has_tune ? zb_plan_path(p, "tuned") : p->distilled;
    p->student = p->has_quantize ? zb_plan_path(p, "student.gguf") : p->trained;
}

static zb_status read_recipe(zb_plan *p, zb_err *err) {
    zb_yaml *root;
    ZB_TRY(zb_yaml_read(p->recipe, p->arena, &root, err));
    if (root->kind != ZB_YAML_MAP)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected keys and sections, found %s", p->recipe,
                       zb_yaml_kind_name(root));
    section s[] = {
        {"compose", {{"", zb_compose_opt_table, &p->compose}}, &p->has_compose},
        {"align",
         {{"", zb_align_opt_table, &p->align},
          {"", zb_stage_opt_table, &p->align_stage},
          {"", zb_loop_opt_table, &p->align_stage}},
         &p->has_align},
        {"select", {{"", zb_select_opt_table, &p->select}}, &p->has_select},
        {"prune", {{"", zb_prune_opt_table, &p->prune}}, &p->has_prune},
        {"distill",
         {{"", zb_distill_opt_table, &p->distill},
          {"", zb_stage_opt_table, &p->distill_stage},
          {"", zb_loop_opt_table, &p->distill_stage}},
         &p->has_distill},
        {"tune",
         {{"", zb_tune_opt_table, &p->tune}, {"", zb_loop_opt_table, &p->tune_stage}},
         &p->has_tune},
        {"quantize", {{"", zb_quantize_opt_table, &p->quantize}}, &p->has_quantize},
        {"eval",
         {{"", zb_eval_opt_table, &p->eval}, {"", zb_suite_opt_table, &p->suite}},
         &p->has_eval},
        {"recall", {{"", zb_recall_opt_table, &p->recall}}, &p->has_recall},
        {"generate", {{"", samples_table, &p->samples}}, &p->has_samples},
        {"bench", {{"", speed_table, &p->speed}}, &p->has_speed},
        {"report", {{"", no_table, p}}, &p->has_report},
    };
    int n = (int)(sizeof s / sizeof s[0]);
    ZB_TRY(read_sections(p, root, s, n, err));
    for (int i = 0; i < p->n_settings; i++) ZB_TRY(change(p, p->settings[i], s, n, err));
    p->has_align = p->has_align && p->align_stage.tokens > 0;
    p->has_distill = p->has_distill && p->distill_stage.tokens > 0;
    p->has_tune = p->has_tune && p->tune.epochs > 0;
    ZB_TRY(check(p, err));
    fill_in(p);
    return ZB_OK;
}

/* ---- order and records ---- */

typedef struct step {
    const char *name;
    bool wanted;
    zb_status (*run)(zb_plan *p, zb_err *err);
    zb_opt_group g[4]; /* the options its result depends on */
} step;

static char *step_digest(const zb_plan *p, const step *s, const char *before) {
    json_t *o = s->g[0].table ? zb_opts_json(s->g) : json_object();
    char *text = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
    char *d = zb_digest(p->arena, zb_asprintf(p->arena, "%s|%s|%s|%s", s->name, before,
                                              p->r.teacher, text ? text : ""));
    zb_heap_resize(text, 0);
    json_decref(o);
    return d;
}

/* Seconds already spent on a stage with this digest, and whether it is done. */
static void read_record(const char *path, const char *digest, double *seconds, bool *done) {
    json_t *o = NULL;
    *seconds = 0;
    *done = false;
    if (!zb_file_exists(path) || zb_json_read(path, 1 << 20, &o, NULL) != ZB_OK) return;
    const char *d = json_string_value(json_object_get(o, "digest"));
    if (d && !strcmp(d, digest)) {
        *seconds = json_number_value(json_object_get(o, "seconds"));
        *done = json_is_true(json_object_get(o, "done"));
    }
    json_decref(o);
}

static zb_status write_record(const char *path, const char *digest, double seconds, bool done,
                              zb_err *err) {
    json_t *o = json_pack("{s:s,s:f,s:b}", "digest", digest, "seconds", seconds, "done", done);
    zb_status s = zb_json_write(path, o, err);
    json_decref(o);
    return s;
}

static zb_status run_step(zb_plan *p, const step *s, const char *digest, zb_err *err) {
    char *path = zb_asprintf(p->arena, "%s/stages/%s.json", p->r.output, s->name);
    double before;
    bool done;
    read_record(path, digest, &before, &done);
    if (done) {
        zb_info("%s: done before", s->name);
        json_object_set_new(p->seconds, s->name, json_real(before));
        return ZB_OK;
    }
    zb_info("== %s", s->name);
    double t0 = zb_seconds();
    zb_status st = s->run(p, err);
    double spent = before + zb_seconds() - t0;
    zb_status written = write_record(path, digest, spent, st == ZB_OK, st == ZB_OK ? err : NULL);
    json_object_set_new(p->seconds, s->name, json_real(spent));
    return st == ZB_OK ? written : st;
}

static zb_status run_steps(zb_plan *p, zb_err *err) {
    bool layers = !zb_select_by_budget(&p->select) && !zb_select_heads(&p->select),
         pure = p->has_align || (p->has_select && layers);
    const step steps[] = {
        {"compose", pure, zb_stage_students, {{"", zb_compose_opt_table, &p->compose}}},
        {"align",
         p->has_align,
         zb_stage_align,
         {{"", zb_align_opt_table, &p->align},
          {"", zb_stage_opt_table, &p->align_stage},
          {"", zb_loop_opt_table, &p->align_stage}}},
        {"select", p->has_select, zb_stage_select, {{"", zb_select_opt_table, &p->select}}},
        {"assemble", true, zb_stage_assemble, {{"", zb_compose_opt_table, &p->compose}}},
        {"prune", p->has_prune, zb_stage_prune, {{"", zb_prune_opt_table, &p->prune}}},
        {"distill",
         p->has_distill,
         zb_stage_distill,
         {{"", zb_distill_opt_table, &p->distill},
          {"", zb_stage_opt_table, &p->distill_stage},
          {"", zb_loop_opt_table, &p->distill_stage}}},
        {"tune",
         p->has_tune,
         zb_stage_tune,
         {{"", zb_tune_opt_table, &p->tune}, {"", zb_loop_opt_table, &p->tune_stage}}},
        {"quantize",
         p->has_quantize,
         zb_stage_quantize,
         {{"", zb_quantize_opt_table, &p->quantize}}},
        {"eval_teacher",
         p->has_eval,
         zb_stage_eval_teacher,
         {{"", zb_eval_opt_table, &p->eval}, {"", zb_suite_opt_table, &p->suite}}},
        {"eval",
         p->has_eval,
         zb_stage_eval_student,
         {{"", zb_eval_opt_table, &p->eval}, {"", zb_suite_opt_table, &p->suite}}},
        {"recall_teacher",
         p->has_recall,
         zb_stage_recall_teacher,
         {{"", zb_recall_opt_table, &p->recall}}},
        {"recall", p->has_recall, zb_stage_recall_student, {{"", zb_recall_opt_table, &p->recall}}},
        {"generate", p->has_samples, zb_stage_samples, {{"", samples_table, &p->samples}}},
        {"bench", p->has_speed, zb_stage_speed, {{"", speed_table, &p->speed}}},
    };
    const char *chain = "";
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (!steps[i].wanted) continue;
        const char *digest = step_digest(p, &steps[i], chain);
        zb_status s = run_step(p, &steps[i], digest, err);
        if (s != ZB_OK) return zb_err_wrap(err, s, "stage %s", steps[i].name);
        chain = digest;
    }
    return p->has_report ? zb_stage_report(p, err) : ZB_OK;
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
    ZB_TRY(read_recipe(&p, err));
    ZB_TRY(zb_dir_make(zb_plan_path(&p, "stages"), err));
    ZB_TRY(keep_recipe(&p, err));
    p.seconds = json_object();
    zb_status s = run_steps(&p, err);
    json_decref(p.seconds);
    *page = p.page;
    return s;
}
