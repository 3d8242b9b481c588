/* pipeline_recipe.c - a recipe and the settings of the command line, read and checked before any
 * work (zb_plan_read in pipeline_impl.h). */
#include "base/file.h"
#include "base/output.h"
#include "cli/pipeline_impl.h"
#include "compose/init.h"

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

const zb_opt zb_samples_opt_table[] = {
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

const zb_opt zb_speed_opt_table[] = {
    {ZB_OPT_STR, "prefill", 0, AT(zb_speed_opts, prefill), "128,512", 0, 0, NULL, "prompt lengths"},
    {ZB_OPT_STR, "decode", 0, AT(zb_speed_opts, decode), "0,1024", 0, 0, NULL,
     "context lengths before decoding"},
    {ZB_OPT_INT, "tokens", 0, AT(zb_speed_opts, tokens), "32", 1, 1 << 20, NULL,
     "tokens per decoding run"},
    {ZB_OPT_INT, "runs", 0, AT(zb_speed_opts, runs), "3", 1, 1000, NULL, "runs per figure"},
    {0},
};

static const zb_opt no_table[] = {{0}};

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

static section *find_section(section *s, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(s[i].name, name)) return &s[i];
    return NULL;
}

/* A setting of the command line: "key=value" or "section.key=value". */
typedef struct setting {
    const char *where, *section, *key, *value; /* section NULL: of the head */
} setting;

/* Bytes of `text` that records and the comments of the kept recipe can hold. */
static size_t line_of_utf8(const char *text) {
    size_t n = strlen(text), at = 0, more;
    uint32_t c;
    while ((more = zb_utf8_decode(text + at, n - at, &c)) > 0 && c != '\n' && c != '\r') at += more;
    return at;
}

static zb_status read_setting(const zb_plan *p, const char *text, setting *out, zb_err *err) {
    const char *equals = strchr(text, '=');
    out->where = zb_asprintf(p->arena, "setting \"%s\"", text);
    size_t good = line_of_utf8(text);
    if (text[good])
        return zb_fail(err, ZB_ERR_USAGE, "setting \"%.*s\", byte %zu: expected one line of UTF-8",
                       (int)good, text, good + 1);
    if (!equals || equals == text)
        return zb_fail(err, ZB_ERR_USAGE, "%s: expected KEY=VALUE or SECTION.KEY=VALUE",
                       out->where);
    char *key = zb_strndup(p->arena, text, (size_t)(equals - text)), *dot = strchr(key, '.');
    if (dot) *dot = '\0';
    out->section = dot ? key : NULL;
    out->key = dot ? dot + 1 : key;
    out->value = equals + 1;
    return ZB_OK;
}

/* The head, which says what sections begin with, so it is read before them. */
static zb_status read_head(zb_plan *p, const zb_yaml *root, section *s, int n, zb_err *err) {
    zb_opt_group top[] = {{"", recipe_table, &p->r}, {0}};
    zb_opts_defaults(top);
    for (const zb_yaml *c = root->child; c; c = c->next) {
        if (find_section(s, n, c->key)) continue;
        if (c->kind != ZB_YAML_SCALAR)
            return zb_fail(err, ZB_ERR_CONFIG, "%s:%d: unknown section \"%s\": expected one of %s",
                           p->recipe, c->line, c->key, section_names(s, n, p->arena));
        ZB_TRY(zb_opts_node(top, c, p->recipe, p->arena, err));
    }
    for (int i = 0; i < p->n_settings; i++) {
        setting x;
        ZB_TRY(read_setting(p, p->settings[i], &x, err));
        if (!x.section) ZB_TRY(zb_opts_set(top, x.key, x.value, x.where, p->arena, err));
    }
    return ZB_OK;
}

/* Seed, precision and memory limit of the head, where a section has none of its own. */
static void begin_sections(zb_plan *p, section *s, int n) {
    for (int i = 0; i < n; i++) zb_opts_defaults(s[i].g);
    const char **precision[] = {&p->align.precision, &p->select.precision, &p->distill.precision,
                                &p->tune.precision, &p->suite.precision};
    for (int i = 0; i < 5; i++) *precision[i] = p->r.precision;
    const char **limit[] = {&p->align_stage.memory_limit, &p->distill_stage.memory_limit,
                            &p->tune_stage.memory_limit};
    for (int i = 0; i < 3; i++) *limit[i] = p->r.memory_limit;
    int64_t *seed[] = {&p->compose.seed,       &p->align_stage.seed, &p->select.seed,
                       &p->prune.seed,         &p->samples.seed,     &p->recall.seed,
                       &p->distill_stage.seed, &p->tune_stage.seed};
    for (int i = 0; i < 8; i++) *seed[i] = p->r.seed;
}

/* The recipe's sections, then the settings; a section that only a setting names is added. */
static zb_status read_sections(zb_plan *p, const zb_yaml *root, section *s, int n, zb_err *err) {
    begin_sections(p, s, n);
    for (const zb_yaml *c = root->child; c; c = c->next) {
        section *found = find_section(s, n, c->key);
        if (!found) continue;
        ZB_TRY(zb_opts_yaml(found->g, c, p->recipe, p->arena, err));
        *found->present = true;
    }
    for (int i = 0; i < p->n_settings; i++) {
        setting x;
        ZB_TRY(read_setting(p, p->settings[i], &x, err));
        if (!x.section) continue;
        section *found = find_section(s, n, x.section);
        if (!found)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown section \"%s\": expected one of %s",
                           x.where, x.section, section_names(s, n, p->arena));
        ZB_TRY(zb_opts_set(found->g, x.key, x.value, x.where, p->arena, err));
        *found->present = true;
    }
    return ZB_OK;
}

/* Keys that the pipeline sets itself: what a recipe says there would be read past. */
static zb_status check_reserved(const zb_plan *p, zb_err *err) {
    bool by_layers = p->has_select && !zb_select_heads(&p->select) &&
                     (p->has_align || !zb_select_by_budget(&p->select));
    bool pure =
        p->has_align || by_layers; /* students of one kind, which give the hybrid's layers */
    const struct {
        const char *value, *key;
    } own[] = {{p->compose.teacher, "compose.teacher"},
               {pure ? p->compose.mla_from : NULL, "compose.mla_from"},
               {pure ? p->compose.mamba2_from : NULL, "compose.mamba2_from"},
               {by_layers ? p->select.mla : NULL, "select.mla"},
               {by_layers ? p->select.mamba2 : NULL, "select.mamba2"},
               {p->suite.teacher, "eval.teacher"},
               {p->suite.perplexity_out, "eval.perplexity_out"},
               {p->compose.out, "compose.out"},
               {p->compose.selection, "compose.selection"},
               {p->align.students, "align.students"},
               {p->align.out, "align.out"},
               {p->select.out, "select.out"},
               {p->prune.model, "prune.model"},
               {p->prune.out, "prune.out"},
               {p->distill.out, "distill.out"},
               {p->distill.student, "distill.student"},
               {p->tune.out, "tune.out"},
               {p->tune.student, "tune.student"},
               {p->quantize.model, "quantize.model"},
               {p->quantize.out, "quantize.out"},
               {p->quantize.random, "quantize.random"},
               {p->quantize.dry_run ? "true" : NULL, "quantize.dry_run"},
               {p->align_stage.dry_run ? "true" : NULL, "align.dry_run"},
               {p->distill_stage.dry_run ? "true" : NULL, "distill.dry_run"},
               {p->tune_stage.dry_run ? "true" : NULL, "tune.dry_run"},
               {p->eval.output, "eval.output"},
               {p->eval.log_samples, "eval.log_samples"},
               {p->recall.output, "recall.output"},
               {p->recall.log_samples, "recall.log_samples"},
               {p->suite.model, "eval.model"}};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (own[i].value)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: %s: set by the pipeline, remove it from the recipe", p->recipe,
                           own[i].key);
    return ZB_OK;
}

static zb_status check_files(const zb_plan *p, zb_err *err) {
    if (!zb_file_exists(p->r.teacher) && !zb_dir_exists(p->r.teacher))
        return zb_fail(err, ZB_ERR_IO, "%s: teacher %s: no such file or folder", p->recipe,
                       p->r.teacher);
    const struct {
        bool used;
        const char *key, *path;
    } text[] = {
        {!strcmp(p->compose.init, "calibrated") || p->compose.fit_donors, "compose.calibration",
         p->compose.calibration},
        {p->has_align, "align.train", p->align_stage.train},
        {p->has_align, "align.valid", p->align_stage.valid},
        {p->has_distill, "distill.train", p->distill_stage.train},
        {p->has_distill, "distill.valid", p->distill_stage.valid},
        {p->has_tune, "tune.train", p->tune.train},
        {p->has_tune && p->tune.valid, "tune.valid", p->tune.valid},
        {p->has_select, "select.text", p->select.text},
        {p->has_prune, "prune.text", p->prune.text},
        {p->has_quantize && p->quantize.calibrate, "quantize.calibrate", p->quantize.calibrate},
        {p->has_eval && p->suite.text, "eval.text", p->suite.text},
        {p->has_recall, "recall.haystack", p->recall.haystack},
        {p->has_samples, "generate.prompts", p->samples.prompts}};
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
        const char *path = text[i].path;
        if (!text[i].used || (path && zb_file_exists(path))) continue;
        if (!path || !*path)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected a file, found none", p->recipe,
                           text[i].key);
        return zb_fail(err, ZB_ERR_IO, "%s: %s: \"%s\": no such file%s", p->recipe, text[i].key,
                       path,
                       strncmp(path, "data/", 5) ? "" : "; `./run prepare` makes those of data/");
    }
    return ZB_OK;
}

/* What the stages themselves would refuse, hours later. */
static zb_status check_stages(const zb_plan *p, zb_err *err) {
    zb_init_without steps;
    zb_status s = zb_init_without_read(p->compose.calibration_without, &steps, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: compose", p->recipe);
    if (p->has_align) s = zb_align_check(&p->align, &p->align_stage, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: align", p->recipe);
    if (p->has_distill) s = zb_distill_check(&p->distill, &p->distill_stage, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: distill", p->recipe);
    if (p->has_tune) s = zb_tune_check(&p->tune, &p->tune_stage, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: tune", p->recipe);
    if (p->has_eval && p->eval.tasks && p->eval.tasks[0]) s = zb_eval_check(&p->eval, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: eval", p->recipe);
    if (p->has_recall) s = zb_recall_check(&p->recall, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: recall", p->recipe);
    if (p->has_samples) s = zb_samples_check(p, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: generate", p->recipe);
    if (p->has_speed) s = zb_speed_check(p, err);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "%s", p->recipe);
}

static zb_status check(const zb_plan *p, zb_err *err) {
    const char *needed[] = {p->r.output, p->r.teacher};
    for (int i = 0; i < 2; i++)
        if (!needed[i] || !*needed[i])
            return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected a path, found none", p->recipe,
                           i ? "teacher" : "output");
    if (!p->has_compose)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected a section compose", p->recipe);
    ZB_TRY(check_reserved(p, err));
    ZB_TRY(check_files(p, err));
    ZB_TRY(check_stages(p, err));
    return zb_output_folder(p->r.output, err);
}

/* Teacher and paths that follow from the recipe's head. */
static void fill_in(zb_plan *p) {
    const char *t = p->r.teacher;
    p->compose.teacher = t;
    p->align.teacher = p->align.teacher ? p->align.teacher : t;
    p->select.teacher = p->select.teacher ? p->select.teacher : t;
    p->distill.teacher = p->distill.teacher ? p->distill.teacher : t;
    p->mla = zb_plan_path(p, p->has_align ? "mla-aligned" : "mla");
    p->mamba2 = zb_plan_path(p, p->has_align ? "mamba2-aligned" : "mamba2");
    p->composed = zb_plan_path(p, p->has_prune ? "pruned" : "hybrid");
    p->distilled = p->has_distill ? zb_plan_path(p, "student") : p->composed;
    p->trained = p->has_tune ? zb_plan_path(p, "tuned") : p->distilled;
    p->student = p->has_quantize ? zb_plan_path(p, "student.gguf") : p->trained;
}

zb_status zb_plan_read(zb_plan *p, zb_err *err) {
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
        {"generate", {{"", zb_samples_opt_table, &p->samples}}, &p->has_samples},
        {"bench", {{"", zb_speed_opt_table, &p->speed}}, &p->has_speed},
        {"report", {{"", no_table, p}}, &p->has_report},
    };
    int n = (int)(sizeof s / sizeof s[0]);
    ZB_TRY(read_head(p, root, s, n, err));
    ZB_TRY(read_sections(p, root, s, n, err));
    p->has_align = p->has_align && p->align_stage.tokens > 0;
    p->has_distill = p->has_distill && p->distill_stage.tokens > 0;
    p->has_tune = p->has_tune && p->tune.epochs > 0;
    ZB_TRY(check(p, err));
    fill_in(p);
    return ZB_OK;
}
