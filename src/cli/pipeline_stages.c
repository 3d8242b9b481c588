/* pipeline_stages.c - what each stage of the pipeline does: the same library calls as the commands,
 * with paths of the output folder. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/pipeline_impl.h"
#include "eval/compare.h"
#include "generate/bench.h"
#include "generate/engine.h"
#include "generate/prompt.h"
#include "model/describe.h"
#include "report/report.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* All-MLA and all-Mamba2 students with the recipe's sizes. */
zb_status zb_stage_students(zb_plan *p, zb_err *err) {
    zb_compose_opts o = p->compose;
    zb_candidate mla = {.kind = ZB_MLA, .size = (int)o.kv_rank, .more = (int)o.rope_dim},
                 mamba2 = {.kind = ZB_MAMBA2};
    o.calibration_passes = 0; /* alignment goes on from the closed form */
    zb_compose_all_of(&o, &mla);
    o.out = zb_plan_path(p, "mla");
    ZB_TRY(zb_compose_run(&o, err));
    zb_compose_all_of(&o, &mamba2);
    o.out = zb_plan_path(p, "mamba2");
    return zb_compose_run(&o, err);
}

zb_status zb_stage_align(zb_plan *p, zb_err *err) {
    zb_align_opts o = p->align;
    o.students = zb_asprintf(p->arena, "%s,%s", zb_plan_path(p, "mla"), zb_plan_path(p, "mamba2"));
    o.out = zb_asprintf(p->arena, "%s,%s", p->mla, p->mamba2);
    return zb_align_run(&o, &p->align_stage, zb_plan_path(p, "align"), err);
}

zb_status zb_stage_select(zb_plan *p, zb_err *err) {
    zb_select_opts o = p->select;
    if (zb_select_heads(&o)) {
        o.window = p->compose.window;
        o.sinks = p->compose.sinks;
    } else if (p->has_align || !zb_select_by_budget(&o)) {
        o.mla = p->mla;
        o.mamba2 = p->mamba2;
    }
    o.compose = &p->compose;
    o.renew = true;
    o.out = zb_plan_path(p, "select.json");
    return zb_select_run(&o, err);
}

/* The hybrid: the plan of the selection, or the recipe's own lists; layers from the pure students
 * where those were trained, or where composing anew would give the same. A calibrated start without
 * alignment is better made anew, each layer on what the plan's earlier layers give. */
zb_status zb_stage_assemble(zb_plan *p, zb_err *err) {
    zb_compose_opts o = p->compose;
    o.out = zb_plan_path(p, "hybrid");
    if (p->has_select) {
        o.selection = zb_plan_path(p, "select.json");
        if (!zb_select_heads(&p->select)) o.mla_layers = NULL;
    }
    bool fresh = !p->has_align && strcmp(o.init, "calibrated") == 0;
    /* a plan under a budget says itself what comes from where */
    if (p->has_select && zb_select_by_budget(&p->select)) fresh = true;
    bool layers = p->has_select && !zb_select_heads(&p->select);
    if ((p->has_align || layers) && !fresh) {
        o.mla_from = p->mla;
        o.mamba2_from = p->mamba2;
    }
    return zb_compose_run(&o, err);
}

/* What was kept stands beside the model. */
zb_status zb_stage_prune(zb_plan *p, zb_err *err) {
    zb_prune_opts o = p->prune;
    json_t *report = NULL;
    o.model = zb_plan_path(p, "hybrid");
    o.out = p->composed;
    ZB_TRY(zb_prune_run(&o, &report, err));
    zb_status s = zb_json_write(zb_plan_path(p, "pruned.json"), report, err);
    json_decref(report);
    return s;
}

zb_status zb_stage_distill(zb_plan *p, zb_err *err) {
    zb_distill_opts o = p->distill;
    o.student = p->composed;
    o.out = p->distilled;
    return zb_distill_run(&o, &p->distill_stage, zb_plan_path(p, "distill"), err);
}

zb_status zb_stage_tune(zb_plan *p, zb_err *err) {
    zb_tune_opts o = p->tune;
    o.student = p->distilled;
    o.out = p->trained;
    return zb_tune_run(&o, &p->tune_stage, zb_plan_path(p, "tune"), err);
}

/* Packs the student; its tensors and their types stand beside it. */
zb_status zb_stage_quantize(zb_plan *p, zb_err *err) {
    zb_quantize_opts o = p->quantize;
    json_t *report = NULL;
    o.model = p->trained;
    o.out = p->student;
    ZB_TRY(zb_quantize_run(&o, &report, err));
    zb_status s = zb_json_write(zb_plan_path(p, "student.json"), report, err);
    json_decref(report);
    return s;
}

static zb_status evaluate(zb_plan *p, const char *name, const char *model, const char *teacher,
                          zb_err *err) {
    ZB_TRY(zb_dir_make(zb_plan_path(p, "eval"), err));
    zb_suite_opts s = p->suite;
    zb_eval_opts e = p->eval;
    s.model = model;
    s.teacher = teacher;
    s.perplexity_out = zb_asprintf(p->arena, "%s/eval/%s-perplexity.json", p->r.output, name);
    e.output = zb_asprintf(p->arena, "%s/eval/%s.json", p->r.output, name);
    e.log_samples = zb_asprintf(p->arena, "%s/eval/%s", p->r.output, name);
    zb_buf text;
    zb_buf_init(&text, 1 << 22);
    zb_status st = zb_suite_run(&s, &e, &text, err);
    if (st == ZB_OK)
        st = zb_file_write(zb_asprintf(p->arena, "%s/eval/%s.txt", p->r.output, name),
                           text.p ? text.p : "", text.n, err);
    zb_buf_free(&text);
    return st;
}

zb_status zb_stage_eval_teacher(zb_plan *p, zb_err *err) {
    return evaluate(p, "teacher", p->r.teacher, NULL, err);
}
zb_status zb_stage_eval_student(zb_plan *p, zb_err *err) {
    return evaluate(p, "student", p->student, p->distill.teacher, err);
}

/* Prompts and answers stand beside the results. */
static zb_status recall(zb_plan *p, const char *name, const char *model, zb_err *err) {
    zb_recall_opts o = p->recall;
    o.output = zb_asprintf(p->arena, "%s/recall/%s.json", p->r.output, name);
    o.log_samples = zb_asprintf(p->arena, "%s/recall/%s", p->r.output, name);
    if (!o.cache) o.cache = zb_plan_path(p, "recall/cache"); /* an interrupted stage resumes */
    ZB_TRY(zb_dir_make(zb_plan_path(p, "recall"), err));
    zb_buf text;
    zb_buf_init(&text, 1 << 22);
    zb_status st = zb_recall_model(&o, model, p->r.precision, NULL, &text, err);
    if (st == ZB_OK)
        st = zb_file_write(zb_asprintf(p->arena, "%s/recall/%s.txt", p->r.output, name),
                           text.p ? text.p : "", text.n, err);
    zb_buf_free(&text);
    return st;
}

zb_status zb_stage_recall_teacher(zb_plan *p, zb_err *err) {
    return recall(p, "teacher", p->r.teacher, err);
}
zb_status zb_stage_recall_student(zb_plan *p, zb_err *err) {
    return recall(p, "student", p->student, err);
}

/* ---- sample generations ---- */

typedef struct collector {
    zb_ids ids;
    size_t cap;
    zb_arena *a;
} collector;

static bool collect(void *user, int32_t id) {
    collector *c = user;
    c->ids.id = zb_grow(c->a, c->ids.id, &c->cap, c->ids.n + 1, sizeof *c->ids.id);
    c->ids.id[c->ids.n++] = id;
    return !zb_interrupted();
}

/* A model without a chat template continues the text as it stands. */
static zb_status prompt_ids(const zb_plan *p, const zb_engine *e, const char *prompt, zb_ids *ids,
                            zb_arena *a, zb_err *err) {
    const zb_tokenizer *t = zb_engine_tokenizer(e);
    zb_str text = zb_str_from(prompt);
    if (p->samples.chat && zb_tokenizer_chat_template(t))
        return zb_prompt_message(e, NULL, text, a, ids, err);
    return zb_tokenizer_encode(t, text, true, p->samples.chat, a, ids, err);
}

static zb_status answer(const zb_plan *p, zb_engine *e, const char *prompt, json_t **text,
                        zb_err *err) {
    zb_arena a = {0};
    const zb_tokenizer *t = zb_engine_tokenizer(e);
    const zb_samples_opts *o = &p->samples;
    zb_session *session = NULL;
    zb_sampler *sampler = NULL;
    zb_buf out;
    zb_buf_init(&out, 1 << 24);
    zb_ids ids = {0};
    collector c = {.a = &a};
    zb_sampling how = {.temperature = o->temperature,
                       .top_k = (int)o->top_k,
                       .top_p = o->top_p,
                       .repeat_penalty = o->repeat_penalty,
                       .seed = (uint64_t)o->seed};
    zb_status s = prompt_ids(p, e, prompt, &ids, &a, err);
    if (s == ZB_OK) s = zb_session_new(&session, e, (int)ids.n + (int)o->tokens + 1, err);
    if (s == ZB_OK) s = zb_sampler_new(&sampler, &how, zb_engine_vocab(e), err);
    zb_generation g;
    zb_generate_request r = {
        .prompt = ids.id, .n = (int)ids.n, .max = (int)o->tokens, .on_token = collect, .user = &c};
    if (s == ZB_OK) s = zb_generate(session, sampler, &r, &g, err);
    if (s == ZB_OK) s = zb_tokenizer_decode(t, c.ids.id, c.ids.n, false, &out, err);
    if (s == ZB_OK) {
        out.n = zb_utf8_complete(out.p ? out.p : "", out.n);
        *text = json_stringn(out.p ? out.p : "", out.n);
        if (!*text) *text = json_string("(not valid UTF-8)");
    }
    if (s == ZB_OK && zb_interrupted())
        s = zb_fail(err, ZB_ERR_INTERRUPTED, "generate: interrupted");
    zb_sampler_free(sampler);
    zb_session_free(session);
    zb_buf_free(&out);
    zb_arena_free(&a);
    return s;
}

static zb_status add_prompt(void *list, json_t *o, const char *where, bool *enough, zb_err *err) {
    const char *text;
    (void)enough;
    ZB_TRY(zb_json_str(o, where, "prompt", true, &text, err));
    if (!*text)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"prompt\": expected a text, found none",
                       where);
    json_array_append_new(list, json_pack("{s:s}", "prompt", text));
    return ZB_OK;
}

static zb_status read_prompts(const zb_plan *p, json_t *list, zb_err *err) {
    return zb_json_lines(p->samples.prompts, 1 << 20, add_prompt, list, err);
}

zb_status zb_samples_check(const zb_plan *p, zb_err *err) {
    json_t *list = json_array();
    zb_status s = read_prompts(p, list, err);
    json_decref(list);
    return s;
}

zb_status zb_stage_samples(zb_plan *p, zb_err *err) {
    const char *names[] = {"teacher", "student"}, *paths[] = {p->r.teacher, p->student};
    json_t *list = json_array();
    zb_status s = read_prompts(p, list, err);
    for (int m = 0; m < 2 && s == ZB_OK; m++) {
        zb_engine *e;
        s = zb_engine_open(
            &e, paths[m],
            &(zb_engine_opts){.threads = omp_get_max_threads(), .precision = p->r.precision}, err);
        if (s != ZB_OK) break;
        s = zb_engine_need_tokenizer(e, err);
        for (size_t i = 0; i < json_array_size(list) && s == ZB_OK; i++) {
            json_t *row = json_array_get(list, i), *text = NULL;
            s = answer(p, e, json_string_value(json_object_get(row, "prompt")), &text, err);
            if (s == ZB_OK) json_object_set_new(row, names[m], text);
        }
        zb_engine_close(e);
    }
    if (s == ZB_OK) s = zb_json_write(zb_plan_path(p, "samples.json"), list, err);
    json_decref(list);
    return s;
}

/* ---- speed and size ---- */

enum { LENGTHS_MAX = 64, LENGTH_MAX = 1 << 21 };

/* Prompts to be timed, or contexts to be decoded behind. */
static zb_status lengths_of(const zb_plan *p, bool decode, int length[LENGTHS_MAX], int *n,
                            zb_err *err) {
    return decode ? zb_list_ints(p->speed.decode, "bench.decode", 0, LENGTH_MAX, length,
                                 LENGTHS_MAX, n, err)
                  : zb_list_ints(p->speed.prefill, "bench.prefill", 1, LENGTH_MAX, length,
                                 LENGTHS_MAX, n, err);
}

zb_status zb_speed_check(const zb_plan *p, zb_err *err) {
    int length[LENGTHS_MAX], n;
    ZB_TRY(lengths_of(p, false, length, &n, err));
    return lengths_of(p, true, length, &n, err);
}

/* Tokens of the longest case: as `zebra recall`, a recipe may ask for more than the model was made
 * for. 0: no case. */
static int longest_case(const zb_plan *p) {
    int length[LENGTHS_MAX], n, most = 0;
    for (int decode = 0; decode < 2; decode++)
        for (int i = lengths_of(p, decode, length, &n, NULL) == ZB_OK ? n - 1 : -1; i >= 0; i--) {
            int tokens = length[i] + (decode ? (int)p->speed.tokens : 0);
            if (tokens > most) most = tokens;
        }
    return most;
}

static zb_status time_cases(const zb_plan *p, zb_bench *b, json_t *out, zb_err *err) {
    int length[LENGTHS_MAX], n;
    for (int decode = 0; decode < 2; decode++) {
        ZB_TRY(lengths_of(p, decode, length, &n, err));
        for (int i = 0; i < n; i++) {
            zb_bench_case c = {.prompt = decode ? 0 : length[i],
                               .tokens = decode ? (int)p->speed.tokens : 0,
                               .depth = decode ? length[i] : 0};
            int count = c.prompt + c.tokens;
            ZB_TRY(zb_bench_run(b, &c, err));
            char *test = zb_asprintf(p->arena, "%s%d", decode ? "tg" : "pp", count);
            json_array_append_new(out, json_pack("{s:s,s:i,s:i,s:f,s:f,s:f}", "test", test, "depth",
                                                 c.depth, "n", count, "tokens_per_second", c.mean,
                                                 "sd", c.sd, "share", c.share));
            if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "bench: interrupted");
        }
    }
    return ZB_OK;
}

static zb_status measure_model(const zb_plan *p, const zb_bench_machine *m, const char *name,
                               const char *path, zb_err *err) {
    zb_engine *e;
    zb_engine_opts how = {
        .threads = omp_get_max_threads(), .precision = p->r.precision, .context = longest_case(p)};
    ZB_TRY(zb_engine_open(&e, path, &how, err));
    json_t *cases = json_array();
    zb_bench *b = NULL;
    zb_status s = zb_bench_new(&b, e, m, &(zb_bench_opts){.runs = (int)p->speed.runs}, err);
    if (s == ZB_OK) s = time_cases(p, b, cases, err);
    zb_bench_free(b);
    json_t *o = json_pack("{s:O,s:{s:i,s:s,s:f,s:f,s:f}}", "results", cases, "machine", "threads",
                          m->threads, "kernels", m->kernels, "read_bytes_per_second", m->read_rate,
                          "f32_flops", m->f32_rate, "bf16_flops", m->bf16_rate);
    if (s == ZB_OK)
        s = zb_json_write(zb_asprintf(p->arena, "%s/bench/%s.json", p->r.output, name), o, err);
    json_decref(o);
    json_decref(cases);
    zb_engine_close(e);
    return s;
}

zb_status zb_stage_speed(zb_plan *p, zb_err *err) {
    zb_bench_machine m;
    ZB_TRY(zb_dir_make(zb_plan_path(p, "bench"), err));
    ZB_TRY(zb_bench_machine_measure(&m, err));
    ZB_TRY(measure_model(p, &m, "teacher", p->r.teacher, err));
    return measure_model(p, &m, "student", p->student, err);
}

/* ---- report ---- */

/* Where both models left their answers. */
static bool has_pairs(const zb_plan *p) {
    return p->has_eval && zb_dir_exists(zb_plan_path(p, "eval/teacher")) &&
           zb_dir_exists(zb_plan_path(p, "eval/student"));
}

/* What the student answered otherwise than the teacher. */
static zb_status pair_up(const zb_plan *p, zb_err *err) {
    zb_comparison c;
    zb_status s = zb_compare_run(zb_plan_path(p, "eval/teacher.json"),
                                 zb_plan_path(p, "eval/student.json"), &c, err);
    if (s == ZB_OK) {
        json_t *o = zb_comparison_json(&c);
        s = zb_json_write(zb_plan_path(p, "eval/paired.json"), o, err);
        json_decref(o);
    }
    zb_comparison_free(&c);
    return s;
}

static json_t *report_model(const zb_plan *p, const char *name, const char *title) {
    json_t *o = json_pack("{s:s,s:s}", "name", name, "title", title);
    if (p->has_eval) {
        json_object_set_new(o, "eval", json_string(zb_asprintf(p->arena, "eval/%s.json", name)));
        json_object_set_new(o, "perplexity",
                            json_string(zb_asprintf(p->arena, "eval/%s-perplexity.json", name)));
    }
    if (p->has_recall)
        json_object_set_new(o, "recall",
                            json_string(zb_asprintf(p->arena, "recall/%s.json", name)));
    if (p->has_speed)
        json_object_set_new(o, "bench", json_string(zb_asprintf(p->arena, "bench/%s.json", name)));
    json_object_set_new(o, "inspect", json_string(zb_asprintf(p->arena, "%s-model.json", name)));
    return o;
}

/* Layers, cache and state, which the report needs of every model. The share of the cache is that of
 * `before` bytes per token (0: of the model with attention everywhere), since a pruned model has
 * fewer layers or heads than its teacher. *bytes: of this one. */
static zb_status describe(const zb_plan *p, const char *name, const char *path, int64_t before,
                          int64_t *bytes, zb_err *err) {
    zb_model *m;
    ZB_TRY(zb_model_open(&m, path, ZB_MODEL_RUN, err));
    json_t *about = zb_model_describe(m);
    *bytes = json_integer_value(json_object_get(about, "kv_bytes_per_token"));
    if (before > 0)
        json_object_set_new(about, "kv_percent", json_real(100 * (double)*bytes / (double)before));
    zb_status s =
        zb_json_write(zb_asprintf(p->arena, "%s/%s-model.json", p->r.output, name), about, err);
    json_decref(about);
    zb_model_free(m);
    return s;
}

static void add_log(json_t *logs, const char *stage) {
    zb_arena a = {0};
    json_array_append_new(logs, json_pack("{s:s,s:s}", "stage", stage, "path",
                                          zb_asprintf(&a, "%s/log.jsonl", stage)));
    zb_arena_free(&a);
}

static json_t *report_input(const zb_plan *p) {
    int64_t tokens = 0;
    const char *name = zb_path_base(zb_path_plain(p->arena, p->r.teacher));
    json_t *logs = json_array(), *teacher = report_model(p, "teacher", name),
           *student = report_model(p, "student", "hybrid student");
    if (p->has_align) add_log(logs, "align");
    if (p->has_distill) add_log(logs, "distill");
    if (p->has_tune) add_log(logs, "tune");
    if (p->has_align) tokens += p->align_stage.tokens;
    if (p->has_distill) tokens += p->distill_stage.tokens;
    if (has_pairs(p)) json_object_set_new(student, "paired", json_string("eval/paired.json"));
    json_object_set_new(student, "train_tokens", json_integer(tokens));
    json_object_set(student, "seconds", p->seconds);
    json_t *o = json_pack("{s:[o,o],s:o,s:s}", "models", teacher, student, "logs", logs, "recipe",
                          "recipe.yaml");
    if (p->r.title) json_object_set_new(o, "title", json_string(p->r.title));
    if (p->has_select) json_object_set_new(o, "select", json_string("select.json"));
    if (p->has_samples) json_object_set_new(o, "samples", json_string("samples.json"));
    json_object_set_new(o, "facts",
                        json_pack("{s:s,s:s}", "zebra", ZB_VERSION, "threads",
                                  zb_asprintf(p->arena, "%d", omp_get_max_threads())));
    return o;
}

zb_status zb_stage_report(zb_plan *p, zb_err *err) {
    int64_t teacher, student;
    if (has_pairs(p)) ZB_TRY(pair_up(p, err));
    ZB_TRY(describe(p, "teacher", p->r.teacher, 0, &teacher, err));
    ZB_TRY(describe(p, "student", p->student, teacher, &student, err));
    const char *path = zb_plan_path(p, "report_input.json");
    json_t *o = report_input(p);
    zb_status s = zb_json_write(path, o, err);
    json_decref(o);
    zb_report_input in;
    if (s == ZB_OK) s = zb_report_input_read(&in, path, p->arena, err);
    if (s == ZB_OK) s = zb_report_write(&in, p->table, err);
    if (s == ZB_OK) p->page = zb_plan_path(p, "report.html");
    return s;
}
