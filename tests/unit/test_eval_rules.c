/* test_eval_rules.c - prompts, draws of examples, filters, metrics and errors against the harness.
 *
 * tests/golden/lm-eval-rules (made by make_lm_eval.py) holds what lm-eval 0.4.13 made of a few rows
 * of each kind of task with its own task files and a model that answers by a digest. Here our task
 * files get the same rows, a scorer that gives the logged answer to the logged text, and must come
 * to the same prompts, hashes, scores and errors. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "eval/compare.h"
#include "eval/eval.h"
#include "eval/python_literal.h"
#include "eval/python_random.h"
#include "eval/request.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval_folder.h"

/* ---- CPython's generator: vectors from Python 3.11 ---- */

static void check_list(const int *have, int n, const char *expected) {
    const char *text = "";
    for (int i = 0; i < n; i++) text = zb_asprintf(&arena, "%s%s%d", text, i ? " " : "", have[i]);
    assert_string_equal(text, expected);
}

static void check_sample(zb_python_random *r, int n, int k, const char *expected) {
    int out[32];
    zb_python_random_sample(r, n, k, &arena, out);
    check_list(out, k, expected);
}

static zb_python_random *seeded(uint64_t seed) {
    static zb_python_random r;
    zb_python_random_seed(&r, seed);
    return &r;
}

static void test_random(void **state) {
    (void)state;
    zb_python_random *r = seeded(1234);
    assert_true(zb_python_random_bits(r, 32) == 4150886329u);
    assert_true(zb_python_random_bits(r, 32) == 3342196574u);
    assert_true(zb_python_random_bits(r, 32) == 1892932127u);
    r = seeded(1234);
    check_near(zb_python_random_real(r), 0.9664535356921388, 0);
    check_near(zb_python_random_real(r), 0.4407325991753527, 0);
    check_near(zb_python_random_real(r), 0.007491470058587191, 0);
    r = seeded(1234);
    check_sample(r, 1119, 25,
                 "902 239 15 185 71 171 201 726 484 35 63 32 708 991 949 304 186 374 234 29 1030 "
                 "996 511 132 1108");
    check_sample(r, 1119, 5, "954 140 182 1054 94");
    check_sample(seeded(1234), 39905, 10, "28883 7657 490 5940 38156 2288 5500 6450 23241 15519");
    check_sample(seeded(1234), 40398, 5, "28883 7657 490 5940 38156");
    check_sample(seeded(1234), 7473, 5, "6374 3610 957 61 742");
    check_sample(seeded(1234), 20, 5, "14 3 0 2 1");
    r = seeded(0); /* both sides of the limit between pool and set: 21 + 64 for six */
    check_sample(r, 100, 6, "49 97 53 5 33 65");
    check_sample(r, 30, 6, "15 12 25 26 9 29");
    check_sample(r, 85, 6, "45 74 27 64 17 36");
    check_sample(r, 86, 6, "17 12 79 32 68 77");
    r = seeded((1ull << 40) + 5); /* a seed of two words */
    assert_true(zb_python_random_bits(r, 32) == 2166296868u);
    check_near(zb_python_random_real(r), 0.516921470080349, 1e-15);
    assert_true(zb_python_random_bits(r, 5) == 21);
    r = seeded(99); /* past two refills */
    uint32_t word[1300];
    for (int i = 0; i < 1300; i++) word[i] = zb_python_random_bits(r, 32);
    assert_true(word[1298] == 3937469566u && word[1299] == 3468699932u);
}

static void test_random_lists(void **state) {
    (void)state;
    zb_python_random *r = seeded(1234);
    int list[10], choice[6], choices[5];
    for (int i = 0; i < 10; i++) list[i] = i;
    zb_python_random_shuffle(r, list, 10);
    check_list(list, 10, "2 8 3 5 6 4 9 0 1 7");
    for (int i = 0; i < 6; i++) choice[i] = zb_python_random_choice(r, 7);
    check_list(choice, 6, "1 0 0 6 0 2");
    zb_python_random_choices(r, 100, 5, choices);
    check_list(choices, 5, "64 48 46 9 71");
}

/* ---- Python's literals ---- */

static void check_literal(const char *text, const char *expected) {
    json_t *v;
    zb_err err = {0};
    if (zb_python_literal_parse(zb_str_from(text), "row", &v, &err) != ZB_OK)
        fail_msg("%s: %s", text, err.msg);
    char *json = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_string_equal(json, expected);
    free(json);
    json_decref(v);
}

static void test_literal(void **state) {
    (void)state;
    check_literal("[{'a': 'it\\'s', \"b\": [1, -2], 'c': None}, ()]",
                  "[{\"a\":\"it's\",\"b\":[1,-2],\"c\":null},[]]");
    check_literal("'\\x41\\u00e9\\U0001f600\\\\\\n'", "\"A\xc3\xa9\xf0\x9f\x98\x80\\\\\\n\"");
    check_literal(" [True, False ,] ", "[true,false]");
    static const char *const bad[] = {
        "",    "[1",    "{'a' 1}", "{1: 2}",
        "'a",  "'\\q'", "[1] 2",   "'\\ud800'",
        "nan", "[1 2]", "{'a': }", "[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *v;
        zb_err err = {0};
        if (zb_python_literal_parse(zb_str_from(bad[i]), "row", &v, &err) != ZB_ERR_FORMAT)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_null(v);
        assert_non_null(strstr(err.msg, "row: Python literal, byte"));
    }
}

/* ---- the harness's logs ---- */

static void write_rows(const char *name, const json_t *rows) {
    zb_buf text;
    zb_buf_init(&text, 1 << 22);
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row) {
        char *line = json_dumps(row, 0);
        zb_buf_addf(&text, "%s\n", line);
        free(line);
    }
    assert_int_equal(zb_file_write(in_folder(name), text.n ? text.p : "", text.n, NULL), ZB_OK);
    zb_buf_free(&text);
}

/* The task file without its numbers of rows; *data and *pool receive its file names. */
static void copy_task(const char *task, const char **data, const char **pool) {
    zb_str s;
    assert_int_equal(
        zb_file_read(zb_asprintf(&arena, "tasks/%s.yaml", task), 1 << 20, &arena, &s, NULL), ZB_OK);
    zb_buf out;
    zb_buf_init(&out, 1 << 20);
    for (const char *p = s.p; *p;) {
        if (!strncmp(p, "rows: ", 6) && (p[-1] == '\n' || p[-1] == ' '))
            p += strcspn(p, ",\n") + 1;
        else
            zb_buf_addc(&out, *p++);
    }
    assert_int_equal(
        zb_file_write(in_folder(zb_asprintf(&arena, "%s.yaml", task)), out.p, out.n, NULL), ZB_OK);
    const char *at = strstr(out.p, "\ndata: ");
    assert_non_null(at);
    *data = zb_strndup(&arena, at + 7, strcspn(at + 7, "\n"));
    at = strstr(out.p, "fewshot: {data: ");
    *pool = at ? zb_strndup(&arena, at + 16, strcspn(at + 16, ",")) : NULL;
    zb_buf_free(&out);
}

/* The sample of this whole text, or prompt; *i receives the number of its request. */
static const json_t *find_sample(const json_t *golden, const char *text, bool prompt, size_t *i) {
    size_t s, k;
    json_t *sample, *a;
    json_array_foreach(json_object_get(golden, "samples"), s, sample) {
        json_array_foreach(json_object_get(sample, "arguments"), k, a) {
            *i = k;
            const char *head = json_string_value(json_array_get(a, 0));
            const char *tail = json_string_value(json_array_get(a, 1));
            const char *whole = zb_asprintf(&arena, "%s%s", head, tail && !prompt ? tail : "");
            if (!strcmp(whole, text)) return sample;
        }
    }
    return NULL;
}

static zb_status answer(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                        zb_err *err) {
    zb_buf text;
    zb_buf_init(&text, 1 << 20);
    zb_status s = ZB_OK;
    for (int i = 0; i < n && s == ZB_OK; i++) {
        size_t k;
        zb_buf_clear(&text);
        zb_tokenizer_decode(tokenizer, r[i].context, (size_t)r[i].n_context, false, &text, NULL);
        zb_tokenizer_decode(tokenizer, r[i].continuation, (size_t)r[i].n_continuation, false, &text,
                            NULL);
        const json_t *sample = find_sample(self, text.p, false, &k);
        if (!sample) {
            s = zb_fail(err, ZB_ERR_INTERNAL, "no answer for \"%.400s\"", text.p);
            break;
        }
        const json_t *v = json_array_get(json_array_get(json_object_get(sample, "resps"), k), 0);
        out[i] = json_is_array(v) ? (zb_loglik){json_number_value(json_array_get(v, 0)),
                                                json_is_true(json_array_get(v, 1))}
                                  : (zb_loglik){json_number_value(v), false};
    }
    zb_buf_free(&text);
    return s;
}

/* The logged reply, and more behind it that must be cut off. */
static zb_status reply(void *self, zb_write_request *r, int n, zb_err *err) {
    zb_buf text;
    zb_buf_init(&text, 1 << 20);
    for (int i = 0; i < n; i++) {
        size_t k;
        zb_ids ids;
        zb_buf_clear(&text);
        zb_tokenizer_decode(tokenizer, r[i].context, (size_t)r[i].n_context, false, &text, NULL);
        const json_t *sample = find_sample(self, text.p, true, &k);
        if (!sample) return zb_fail(err, ZB_ERR_INTERNAL, "no reply for \"%.400s\"", text.p);
        const char *said = json_string_value(
            json_array_get(json_array_get(json_object_get(sample, "resps"), 0), 0));
        zb_str all = zb_str_from(zb_asprintf(&arena, "%sQuestion: 5?", said));
        assert_int_equal(zb_tokenizer_encode(tokenizer, all, false, false, &arena, &ids, NULL),
                         ZB_OK);
        r[i].n_ids = 0;
        while (r[i].n_ids < r[i].max) {
            assert_true((size_t)r[i].n_ids < ids.n); /* it had to stop before */
            r[i].ids[r[i].n_ids] = ids.id[r[i].n_ids];
            if (r[i].stop(r[i].user, r[i].ids, ++r[i].n_ids)) break;
        }
    }
    zb_buf_free(&text);
    return ZB_OK;
}

static const char *text_of(const json_t *v) {
    return json_is_string(v) ? json_string_value(v) : json_dumps(v, JSON_ENCODE_ANY);
}

static void check_values(const json_t *want, const json_t *have) {
    if (json_is_array(want)) {
        assert_int_equal(json_array_size(have), json_array_size(want));
        for (size_t i = 0; i < json_array_size(want); i++)
            check_values(json_array_get(want, i), json_array_get(have, i));
        return;
    }
    double x = json_is_true(want) ? 1 : json_number_value(want);
    assert_true(json_is_number(have)); /* nothing would be 0 */
    check_near(json_number_value(have), x, 1e-12);
}

static void check_line(const json_t *want, const json_t *have) {
    static const char *const same[] = {"doc_hash", "prompt_hash", "target_hash"};
    size_t i;
    json_t *a, *m;
    json_array_foreach(json_object_get(want, "arguments"), i, a) {
        const json_t *ours = json_object_get(json_object_get(have, "arguments"),
                                             zb_asprintf(&arena, "gen_args_%zu", i));
        assert_string_equal(json_string_value(json_object_get(ours, "arg_0")),
                            json_string_value(json_array_get(a, 0)));
        if (json_is_string(json_array_get(a, 1)))
            assert_string_equal(json_string_value(json_object_get(ours, "arg_1")),
                                json_string_value(json_array_get(a, 1)));
    }
    const json_t *filtered = json_array_get(json_object_get(want, "filtered_resps"), 0);
    if (json_is_string(filtered))
        assert_string_equal(
            json_string_value(json_array_get(json_object_get(have, "filtered_resps"), 0)),
            json_string_value(filtered));
    const json_t *target = json_object_get(want, "target");
    char *number = json_is_string(target) ? NULL : json_dumps(target, JSON_ENCODE_ANY);
    assert_string_equal(json_string_value(json_object_get(have, "target")),
                        number ? number : text_of(target));
    free(number);
    for (i = 0; i < 3; i++)
        assert_string_equal(json_string_value(json_object_get(have, same[i])),
                            json_string_value(json_object_get(want, same[i])));
    json_array_foreach(json_object_get(want, "metrics"), i, m) {
        const char *name = json_string_value(m);
        check_values(json_object_get(want, name), json_object_get(have, name));
    }
}

static void check_samples(const json_t *golden, const char *path) {
    zb_lines *lines;
    zb_str line;
    bool more = true;
    size_t n = 0, s;
    json_t *want, *have;
    assert_int_equal(zb_lines_open(&lines, path, 1 << 22, NULL), ZB_OK);
    while (zb_lines_next(lines, &line, &more, NULL) == ZB_OK && more) {
        assert_int_equal(zb_json_parse(line.p, line.n, path, &have, NULL), ZB_OK);
        json_array_foreach(json_object_get(golden, "samples"), s, want) {
            if (json_integer_value(json_object_get(want, "doc_id")) !=
                    json_integer_value(json_object_get(have, "doc_id")) ||
                !json_equal(json_object_get(want, "filter"), json_object_get(have, "filter")))
                continue;
            check_line(want, have);
            n++;
        }
        json_decref(have);
    }
    zb_lines_close(lines);
    assert_int_equal(n, json_array_size(json_object_get(golden, "samples")));
}

static void check_scores(const json_t *golden, const char *task, const char *path) {
    json_t *file, *want;
    const char *key;
    assert_int_equal(zb_json_read(path, 1 << 24, &file, NULL), ZB_OK);
    const json_t *have = json_object_get(json_object_get(file, "results"), task);
    json_object_foreach(json_object_get(golden, "scores"), key, want) {
        const json_t *v = json_object_get(have, key);
        if (!v) fail_msg("%s: no %s", task, key);
        assert_int_equal(json_is_number(v), json_is_number(want));
        if (json_is_string(want))
            assert_string_equal(json_string_value(v), json_string_value(want));
        else
            check_near(json_number_value(v), json_number_value(want),
                       1e-10 * fabs(json_number_value(want)) + 1e-12);
    }
    assert_true(json_equal(json_object_get(json_object_get(file, "n-shot"), task),
                           json_object_get(golden, "num_fewshot")));
    json_decref(file);
}

/* Defaults, with tasks and data of the folder. */
static zb_eval_opts options_for(const char *tasks) {
    zb_eval_opts o = {0};
    zb_opt_group g[] = {{"eval", zb_eval_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    o.tasks = tasks;
    o.tasks_dir = o.data_dir = folder;
    return o;
}

static void check_rules(const char *task) {
    json_t *golden;
    const char *data, *pool;
    assert_int_equal(zb_json_read(zb_asprintf(&arena, "tests/golden/lm-eval-rules/%s.json", task),
                                  1 << 24, &golden, NULL),
                     ZB_OK);
    copy_task(task, &data, &pool);
    write_rows(data, json_object_get(golden, "rows"));
    if (pool) write_rows(pool, json_object_get(golden, "pool"));
    zb_eval_opts o = options_for(task);
    o.add_bos = "off";
    o.log_samples = folder;
    o.output = in_folder("results.json");
    int64_t shots = json_integer_value(json_object_get(golden, "num_fewshot"));
    if (strcmp(task, "gsm8k") != 0 && shots > 0) o.num_fewshot = shots;
    zb_scorer s = {
        .self = golden, .max_length = 100000, .prefix_token = -1, .loglik = answer, .write = reply};
    zb_eval_result result;
    zb_err err = {0};
    if (zb_eval_run(&o, tokenizer, &s, &result, &err) != ZB_OK) fail_msg("%s: %s", task, err.msg);
    check_samples(golden, in_folder(zb_asprintf(&arena, "samples_%s.jsonl", task)));
    check_scores(golden, task, o.output);
    zb_eval_result_free(&result);
    json_decref(golden);
}

static void test_choices(void **state) {
    (void)state;
    check_rules("race");
    check_rules("truthfulqa_mc2");
}

static void test_fewshot(void **state) {
    (void)state;
    check_rules("piqa");          /* draws one more and drops the document */
    check_rules("arc_challenge"); /* 25 of 150 */
    check_rules("winogrande");    /* one context per choice */
    check_rules("hellaswag");     /* rows with further fields */
}

static void test_texts(void **state) {
    (void)state;
    check_rules("wikitext");
    check_rules("lambada_openai"); /* with a bootstrapped error */
}

static void test_generation(void **state) {
    (void)state;
    check_rules("gsm8k");
}

static void write_samples(const char *dir, const char *name, const char *text) {
    assert_int_equal(zb_dir_make(dir, NULL), ZB_OK);
    assert_int_equal(zb_file_write(zb_path_join(&arena, dir, name), text, strlen(text), NULL),
                     ZB_OK);
}

/* "1", a byte that never begins a character, " 2", and the beginning of a character. */
static zb_status broken_reply(void *self, zb_write_request *r, int n, zb_err *err) {
    static const int32_t ids[] = {'1', 0xff, ' ', '2', 0xf0, 0x9f, 0x98};
    (void)self, (void)err;
    for (int i = 0; i < n; i++) {
        r[i].n_ids = (int)(sizeof ids / sizeof ids[0]);
        memcpy(r[i].ids, ids, sizeof ids);
    }
    return ZB_OK;
}

/* Bytes that are no text are replaced: the filter sees the rest, samples hold the whole. */
static void test_broken_reply(void **state) {
    (void)state;
    static const char task[] = "data: say.jsonl\noutput: generate_until\nprompt: \"{q}\"\n"
                               "target: \"2\"\nmetrics: [exact_match]\n"
                               "filters: {last: {regex: \"([0-9]+)\", select: -1}}\n";
    write_samples(folder, "say.yaml", task);
    write_samples(folder, "say.jsonl", "{\"q\": \"x\"}\n");
    zb_eval_opts o = options_for("say");
    o.log_samples = folder;
    zb_scorer s = {.max_length = 1000, .prefix_token = -1, .write = broken_reply};
    zb_eval_result r;
    zb_err err = {0};
    if (zb_eval_run(&o, tokenizer, &s, &r, &err) != ZB_OK) fail_msg("%s", err.msg);
    check_near(zb_eval_metric(&r.row[0], "exact_match")->value, 1, 0);
    zb_eval_result_free(&r);
    json_t *sample;
    assert_int_equal(zb_json_read(in_folder("samples_say.jsonl"), 1 << 20, &sample, NULL), ZB_OK);
    const json_t *said = json_array_get(json_array_get(json_object_get(sample, "resps"), 0), 0);
    assert_string_equal(json_string_value(said), "1\xef\xbf\xbd 2\xef\xbf\xbd");
    json_decref(sample);
}

/* ---- windows of long texts ---- */

static void test_windows(void **state) {
    (void)state;
    zb_request_maker m = {
        .tokenizer = tokenizer, .bos = -1, .prefix = 262, .max_length = 4, .arena = &arena};
    zb_loglik_request *r;
    int n;
    assert_int_equal(zb_request_windows(&m, ZB_STR("bcdefghijk"), "t", &r, &n, NULL), ZB_OK);
    assert_int_equal(n, 3);
    assert_true(r[0].n_context == 1 && r[0].context[0] == 262 && r[0].n_continuation == 4);
    assert_true(r[1].n_context == 1 && r[1].context[0] == 'e' && r[1].continuation[0] == 'f' &&
                r[1].n_continuation == 4);
    /* Two are left: the window is filled to four inputs from the left. */
    assert_true(r[2].n_context == 3 && r[2].context[0] == 'g' && r[2].continuation[0] == 'j' &&
                r[2].n_continuation == 2);
    assert_int_equal(zb_request_windows(&m, ZB_STR(""), "t", &r, &n, NULL), ZB_ERR_FORMAT);
}

/* ---- cache ---- */

static zb_cache_key key_of(const char *name) {
    zb_cache_key k;
    snprintf(k.hex, sizeof k.hex, "%064d", (int)strlen(name));
    memcpy(k.hex, name, strlen(name));
    return k;
}

static void check_found(const zb_cache *c, const char *name, const char *value) {
    zb_cache_key k = key_of(name);
    zb_str v;
    bool found = zb_cache_find(c, &k, &v);
    assert_int_equal(found, value != NULL);
    if (value) assert_true(zb_str_is(v, value));
}

static void add(zb_cache *c, const char *name, const char *value) {
    zb_cache_key k = key_of(name);
    assert_int_equal(zb_cache_add(c, &k, zb_str_from(value), NULL), ZB_OK);
}

static void test_cache(void **state) {
    (void)state;
    const char *dir = in_folder("cache"), *path = zb_path_join(&arena, dir, "model-task.0.cache");
    zb_cache *c, *other;
    zb_err err = {0};
    assert_int_equal(zb_cache_open(&c, dir, "model", "task", 0, &err), ZB_OK);
    add(c, "a", "one");
    add(c, "b", "");
    check_found(c, "a", "one");
    check_found(c, "c", NULL);
    assert_int_equal(zb_cache_flush(c, NULL), ZB_OK);
    /* Another process reads what this one wrote, and writes a file of its own. */
    assert_int_equal(zb_cache_open(&other, dir, "model", "task", 1, &err), ZB_OK);
    check_found(other, "a", "one");
    add(other, "c", "three");
    zb_cache_close(other);
    zb_cache_close(c);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 3), 0); /* killed while it wrote "b" */
    assert_int_equal(zb_cache_open(&c, dir, "model", "task", 0, &err), ZB_OK);
    check_found(c, "a", "one");
    check_found(c, "b", NULL);
    check_found(c, "c", "three");
    add(c, "b", "two");
    for (int i = 0; i < 2000; i++) add(c, zb_asprintf(&arena, "n%d.", i), "x");
    check_found(c, "n1999.", "x");
    zb_cache_close(c);
    assert_int_equal(zb_cache_open(&c, dir, "model", "task", 0, &err), ZB_OK);
    check_found(c, "b", "two");
    check_found(c, "n0.", "x");
    zb_cache_close(c);
    /* A byte changed on disk is found. */
    zb_str bytes;
    assert_int_equal(zb_file_read(path, 1 << 24, &arena, &bytes, NULL), ZB_OK);
    char *changed = zb_strndup(&arena, bytes.p, bytes.n);
    changed[19 + 4 + 64] ^= 1;
    assert_int_equal(zb_file_write(path, changed, bytes.n, NULL), ZB_OK);
    assert_int_equal(zb_cache_open(&c, dir, "model", "task", 0, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "model-task.0.cache: byte 19: the check sum"));
    assert_int_equal(zb_file_write(path, "something else entirely", 23, NULL), ZB_OK);
    assert_int_equal(zb_cache_open(&c, dir, "model", "task", 0, &err), ZB_ERR_FORMAT);
}

/* Two evaluations at once: neither cuts off what the other is about to write. */
static void test_cache_of_two(void **state) {
    (void)state;
    const char *dir = in_folder("shared");
    zb_cache *one, *two;
    assert_int_equal(zb_cache_open(&one, dir, "model", "task", 0, NULL), ZB_OK);
    for (int i = 0; i < 200; i++) add(one, zb_asprintf(&arena, "n%d.", i), "x"); /* half a record */
    assert_int_equal(zb_cache_open(&two, dir, "model", "task", 0, NULL), ZB_OK);
    add(two, "b", "two");
    zb_cache_close(two);
    zb_cache_close(one);
    assert_int_equal(zb_cache_open(&one, dir, "model", "task", 0, NULL), ZB_OK);
    check_found(one, "n199.", "x");
    check_found(one, "b", "two");
    zb_cache_close(one);
}

/* An evaluation whose scorer fails after some calls resumes: what was asked before is not asked
 * again, and the scores are those of an undisturbed one. */
typedef struct fragile {
    int asked, limit;
} fragile;

static zb_status answer_some(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                             zb_err *err) {
    fragile *f = self;
    if (f->asked + n > f->limit) return zb_fail(err, ZB_ERR_INTERRUPTED, "enough");
    f->asked += n;
    for (int i = 0; i < n; i++)
        out[i] = (zb_loglik){-1.0 / (1 + r[i].continuation[1] * r[i].context[0] % 7), false};
    return ZB_OK;
}

static void check_resume(const zb_eval_opts *o, fragile *f, zb_status expected, double acc) {
    zb_scorer s = {.self = f, .max_length = 100000, .prefix_token = -1, .loglik = answer_some};
    zb_eval_result r;
    assert_int_equal(zb_eval_run(o, tokenizer, &s, &r, NULL), expected);
    if (expected == ZB_OK) check_near(zb_eval_metric(&r.row[0], "acc")->value, acc, 0);
    zb_eval_result_free(&r);
}

static void test_resume(void **state) {
    (void)state;
    static const char task[] = "data: long.jsonl\nprompt: \"{q}\"\nchoices: [b, c, d]\n"
                               "gold: {value: \"1\"}\nmetrics: [acc]\n";
    const char *rows = "";
    char many[301];
    memset(many, 'x', 300);
    many[300] = 0;
    for (int i = 0; i < 40; i++)
        rows = zb_asprintf(&arena, "%s{\"q\": \"%c_%s\"}\n", rows, '0' + i, many);
    write_samples(folder, "long.yaml", task);
    write_samples(folder, "long.jsonl", rows);
    zb_eval_opts o = options_for("long");
    o.add_bos = "off";
    zb_eval_result r;
    fragile f = {0, 1000};
    zb_scorer s = {.self = &f, .max_length = 100000, .prefix_token = -1, .loglik = answer_some};
    assert_int_equal(zb_eval_run(&o, tokenizer, &s, &r, NULL), ZB_OK);
    double acc = zb_eval_metric(&r.row[0], "acc")->value;
    assert_true(acc > 0 && acc < 1 && f.asked == 120);
    zb_eval_result_free(&r);

    o.cache = in_folder("resume");
    o.model_key = "0123456789abcdef";
    f = (fragile){0, 60};
    check_resume(&o, &f, ZB_ERR_INTERRUPTED, 0);
    int before = f.asked;
    assert_true(before > 0);
    f.limit = 120;
    check_resume(&o, &f, ZB_OK, acc);
    assert_int_equal(f.asked, 120);
    check_resume(&o, &f, ZB_OK, acc); /* all from the cache */
    assert_int_equal(f.asked, 120);
    o.model_key = "fedcba9876543210"; /* another model */
    check_resume(&o, &f, ZB_ERR_INTERRUPTED, 0);
}

/* ---- scores that are no numbers ---- */

static zb_status improbable(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                            zb_err *err) {
    (void)self, (void)r, (void)err;
    for (int i = 0; i < n; i++) out[i] = (zb_loglik){-1000, false};
    return ZB_OK;
}

/* The perplexity per word of one long word is infinite, the share of choices that all are
 * impossible is 0 / 0: both stand in the files, as null. */
static void test_no_numbers(void **state) {
    (void)state;
    write_samples(folder, "word.yaml",
                  "data: word.jsonl\noutput: loglikelihood_rolling\ncontinuation: \"{text}\"\n"
                  "metrics: [word_perplexity, byte_perplexity]\n");
    write_samples(folder, "word.jsonl", "{\"text\": \"unbelievable\"}\n");
    write_samples(folder, "share.yaml",
                  "data: share.jsonl\nprompt: q\nchoices: [b, c]\ngold: {value: \"0\"}\n"
                  "labels: right\nmetrics: [mc2]\n");
    write_samples(folder, "share.jsonl", "{\"right\": [1, 0]}\n");
    zb_eval_opts o = options_for("word,share");
    o.log_samples = folder;
    o.output = in_folder("no-numbers.json");
    zb_scorer s = {.max_length = 100000, .prefix_token = -1, .loglik = improbable};
    zb_eval_result r;
    zb_err err = {0};
    if (zb_eval_run(&o, tokenizer, &s, &r, &err) != ZB_OK) fail_msg("%s", err.msg);
    zb_eval_result_free(&r);
    json_t *file, *sample;
    assert_int_equal(zb_json_read(o.output, 1 << 20, &file, NULL), ZB_OK);
    const json_t *results = json_object_get(file, "results");
    const json_t *word = json_object_get(results, "word");
    assert_true(json_is_null(json_object_get(word, "word_perplexity,none")));
    assert_true(json_is_real(json_object_get(word, "byte_perplexity,none")));
    assert_true(json_is_null(json_object_get(json_object_get(results, "share"), "acc,none")));
    json_decref(file);
    assert_int_equal(zb_json_read(in_folder("samples_share.jsonl"), 1 << 20, &sample, NULL), ZB_OK);
    assert_true(json_is_null(json_object_get(sample, "acc")));
    json_decref(sample);
}

/* ---- comparison ---- */

static const char *sample_lines(const char *values, const char *hash) {
    const char *text = "";
    for (int i = 0; values[i]; i++)
        text = zb_asprintf(&arena,
                           "%s{\"doc_id\": %d, \"filter\": \"none\", \"metrics\": [\"acc\"], "
                           "\"doc_hash\": \"%s%d\", \"acc\": %c.0}\n",
                           text, i, hash, i, values[i]);
    return text;
}

/* The table into an empty buffer; the JSON has the same figures. */
static void compare(const char *a, const char *b, zb_buf *out) {
    zb_comparison c;
    zb_err err = {0};
    if (zb_compare_run(a, b, &c, &err) != ZB_OK) fail_msg("%s", err.msg);
    zb_buf_clear(out);
    zb_comparison_text(&c, out);
    json_t *o = zb_comparison_json(&c), *mean = json_object_get(o, "mean");
    for (size_t i = 0; i < c.n; i++) {
        const zb_compared *r = &c.row[i];
        json_t *row = json_object_get(
            json_object_get(json_object_get(o, r->group ? "groups" : "tasks"), r->task), r->metric);
        check_near(json_number_value(json_object_get(row, "difference")), r->b - r->a, 1e-12);
        assert_int_equal(json_integer_value(json_object_get(row, "n")), r->n);
        assert_int_equal(json_integer_value(json_object_get(row, "better")), r->better);
        assert_true(json_is_null(json_object_get(row, "stderr")) == (r->n < 2));
    }
    check_near(json_number_value(json_object_get(mean, "difference")), c.b - c.a, 1e-12);
    assert_int_equal(json_integer_value(json_object_get(mean, "tasks")), c.counted);
    json_decref(o);
    zb_comparison_free(&c);
}

static void refuse(const char *a, const char *b, const char *says) {
    zb_comparison c;
    zb_err err = {0};
    assert_int_equal(zb_compare_run(a, b, &c, &err), ZB_ERR_FORMAT);
    if (!strstr(err.msg, says)) fail_msg("expected \"%s\" in: %s", says, err.msg);
    zb_comparison_free(&c);
}

static void test_compare(void **state) {
    (void)state;
    check_near(zb_compare_sign_test(0, 0), 1, 1e-12);
    check_near(zb_compare_sign_test(5, 0), 2.0 / 32, 1e-12);
    check_near(zb_compare_sign_test(2, 8), 2 * (1 + 10 + 45) / 1024.0, 1e-12);
    check_near(zb_compare_sign_test(4, 4), 1, 1e-12);
    const char *a = in_folder("a"), *b = in_folder("b");
    write_samples(a, "samples_piqa.jsonl", sample_lines("10100110", "h"));
    write_samples(b, "samples_piqa_2026-01-31T10-00-00.5.jsonl", sample_lines("1111011", "h"));
    write_samples(a, "samples_other.jsonl", sample_lines("1", "h"));
    zb_buf out;
    zb_buf_init(&out, 1 << 16);
    compare(a, b, &out);
    /* Seven pairs, differences 0 1 0 1 0 0 0. */
    assert_non_null(strstr(out.p, "|piqa|acc|7|0.5714|0.8571|+0.2857|0.1844|2|0|0.5|\n"));
    assert_null(strstr(out.p, "other"));
    /* Both folders now hold another task, which the results of one are not of. */
    write_samples(b, "samples_other.jsonl", sample_lines("0", "h"));
    write_samples(folder, "b.json",
                  "{\"config\": {\"log_samples\": \"b\"}, \"results\": {\"piqa\": {}}}");
    compare(a, in_folder("b.json"), &out);
    assert_null(strstr(out.p, "other"));
    compare(a, b, &out);
    assert_non_null(strstr(out.p, "|other|acc|1|"));
    write_samples(b, "samples_piqa_2026-01-31T10-00-00.5.jsonl", sample_lines("1111011", "x"));
    refuse(a, b, "saw different data");
    write_samples(in_folder("c"), "samples_alone.jsonl", sample_lines("1", "h"));
    refuse(a, in_folder("c"), "expected samples files of the same tasks");
    zb_buf_free(&out);
}

/* The tasks of a group count once, and the group has a row of its own. */
static void test_compare_groups(void **state) {
    (void)state;
    const char *values[][2] = {{"1100", "1111"}, {"00", "01"}, {"10", "10"}},
               *names[] = {"mmlu_law", "mmlu_logic", "piqa"};
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < 3; i++)
            write_samples(in_folder(side ? "gb" : "ga"),
                          zb_asprintf(&arena, "samples_%s.jsonl", names[i]),
                          sample_lines(values[i][side], "h"));
    const char *results =
        "{\"config\": {\"log_samples\": \"%s\"}, \"results\": {\"mmlu_law\": {}, "
        "\"mmlu_logic\": {}, \"piqa\": {}, \"mmlu\": {}, \"mmlu_humanities\": {}}, "
        "\"group_subtasks\": {\"mmlu_law\": [], \"mmlu_humanities\": [\"mmlu_law\"], \"mmlu\": "
        "[\"mmlu_humanities\", \"mmlu_logic\"%s]}}";
    zb_buf out;
    zb_buf_init(&out, 1 << 16);
    write_samples(folder, "ga.json", zb_asprintf(&arena, results, "ga", ""));
    write_samples(folder, "gb.json", zb_asprintf(&arena, results, "gb", ", \"mmlu\""));
    compare(in_folder("ga.json"), in_folder("gb.json"), &out);
    assert_non_null(strstr(out.p, "|mmlu|acc|6|0.3333|0.8333|+0.5000|0.2236|3|0|0.25|\n"));
    assert_non_null(strstr(out.p, "|mean of 2 tasks|||0.4167|0.6667|+0.2500|0.1118||||\n"));
    assert_null(strstr(out.p, "mmlu_humanities"));
    compare(in_folder("ga"), in_folder("gb.json"), &out);
    assert_non_null(strstr(out.p, "|mean of 2 tasks|"));
    compare(in_folder("ga"), in_folder("gb"), &out);
    assert_non_null(strstr(out.p, "|mean of 3 tasks|"));
    zb_buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),         cmocka_unit_test(test_random_lists),
        cmocka_unit_test(test_literal),        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_fewshot),        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_generation),     cmocka_unit_test(test_windows),
        cmocka_unit_test(test_cache),          cmocka_unit_test(test_cache_of_two),
        cmocka_unit_test(test_resume),         cmocka_unit_test(test_compare),
        cmocka_unit_test(test_compare_groups), cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_broken_reply),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
