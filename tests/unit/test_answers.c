/* test_answers.c - examples as given and learnt tokens: every form of a line, cuts, what is left
 * out, broken lines, and the order of batches. */
#include "../golden/golden.h"

#include "base/file.h"
#include "data/answers.h"

#include <unistd.h>

static zb_tokenizer *tokenizer; /* ChatML, with BOS and EOS where a text asks for them */

static const char config[] =
    "{\"bos_token\": \"<|im_start|>\", \"eos_token\": \"<|im_end|>\", \"chat_template\": "
    "\"{% for m in messages %}<|im_start|>{{ m['role'] }}\\n{{ m['content'] }}<|im_end|>\\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}\"}";

static int open_tokenizer(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_str text;
    zb_err err;
    zb_status s =
        zb_file_read("tests/format/tokenizer/gpt2_digits/tokenizer.json", 1 << 26, &a, &text, &err);
    if (s == ZB_OK) s = zb_tokenizer_parse(&tokenizer, text, zb_str_from(config), "test", &err);
    zb_arena_free(&a);
    return s != ZB_OK;
}

static int close_tokenizer(void **unused) {
    (void)unused;
    zb_tokenizer_close(tokenizer);
    return 0;
}

static zb_status read_text(zb_answers *out, const char *lines, const zb_tokenizer *t,
                           const zb_answers_form *f, zb_arena *a, zb_err *err) {
    char path[] = "/tmp/zb_answers_XXXXXX.jsonl";
    int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    assert_true(write(fd, lines, strlen(lines)) == (ssize_t)strlen(lines));
    close(fd);
    zb_status s = zb_answers_read(out, path, t, f, a, err);
    unlink(path);
    return s;
}

/* An item as text, what is learnt between < and >. */
static char *show(const zb_answers *s, int64_t item, zb_arena *a) {
    zb_buf out;
    zb_buf_init(&out, 1 << 16);
    bool learnt = false;
    for (int64_t i = s->start[item]; i <= s->start[item + 1]; i++) {
        bool now = i < s->start[item + 1] && s->learnt[i];
        if (now != learnt) zb_buf_addc(&out, now ? '<' : '>');
        learnt = now;
        if (i < s->start[item + 1])
            CHECK(zb_tokenizer_decode(tokenizer, &s->id[i], 1, true, &out, &err));
    }
    char *text = zb_strndup(a, out.n ? out.p : "", out.n);
    zb_buf_free(&out);
    return text;
}

#define USER "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

static void forms(void **unused) {
    (void)unused;
    static const struct {
        bool pairs;
        const char *line, *first, *second;
    } row[] = {
        {false, "{\"prompt\": \"2 + 2 =\", \"completion\": \" four\"}", "2 + 2 =< four<|im_end|>>",
         NULL},
        {false, "{\"text\": \"All of it\"}", "A<ll of it<|im_end|>>", NULL},
        {false,
         "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"},"
         "{\"role\": \"assistant\", \"content\": \"One\"},{\"role\": \"user\", \"content\": "
         "\"Go\"},"
         "{\"role\": \"assistant\", \"content\": \"Two\"},{\"role\": \"user\", \"content\": "
         "\"x\"}]}",
         USER "<One<|im_end|>\n>"
              "<|im_start|>user\nGo<|im_end|>\n<|im_start|>assistant\n<Two<|im_end|>\n>",
         NULL},
        {false,
         "{\"prompt\": [{\"role\": \"user\", \"content\": \"Hi\"}],"
         "\"completion\": [{\"role\": \"assistant\", \"content\": \"Ho\"}]}",
         USER "<Ho<|im_end|>\n>", NULL},
        {true, "{\"prompt\": \"Say\", \"chosen\": \" yes\", \"rejected\": \" no\"}",
         "Say< yes<|im_end|>>", "Say< no<|im_end|>>"},
        /* no prompt: blanks belong to the answers */
        {true, "{\"chosen\": \"Say yes\", \"rejected\": \"Say no\"}", "Say< yes<|im_end|>>",
         "Say< no<|im_end|>>"},
        /* no prompt: a character of several bytes is not cut */
        {true, "{\"chosen\": \"Say \xc3\xa9\", \"rejected\": \"Say \xc3\xa8\"}",
         "Say< \xc3\xa9<|im_end|>>", "Say< \xc3\xa8<|im_end|>>"},
        {true,
         "{\"prompt\": \"Hi\", \"chosen\": [{\"role\": \"assistant\", \"content\": \"A\"}],"
         "\"rejected\": [{\"role\": \"assistant\", \"content\": \"B\"}]}",
         USER "<A<|im_end|>\n>", USER "<B<|im_end|>\n>"},
        /* answers that repeat the prompt */
        {true,
         "{\"prompt\": \"Hi\", \"chosen\": [{\"role\": \"user\", \"content\": \"Hi\"},"
         "{\"role\": \"assistant\", \"content\": \"A\"}], \"rejected\": [{\"role\": \"user\","
         "\"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"B\"}]}",
         USER "<A<|im_end|>\n>", USER "<B<|im_end|>\n>"},
    };
    zb_arena a = {0};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        zb_answers s;
        zb_answers_form f = {.pairs = row[i].pairs, .length_max = 100, .prompt_max = 50};
        CHECK(read_text(&s, row[i].line, tokenizer, &f, &a, &err));
        assert_int_equal(s.n, 1);
        assert_int_equal(s.per, row[i].second ? 2 : 1);
        assert_string_equal(show(&s, 0, &a), row[i].first);
        if (row[i].second) assert_string_equal(show(&s, 1, &a), row[i].second);
    }
    zb_arena_free(&a);
}

static void expect_item(const zb_answers *s, int64_t item, int n, const int *ids, int given) {
    assert_int_equal(s->start[item + 1] - s->start[item], n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(s->id[s->start[item] + i], ids[i]);
        assert_int_equal(s->learnt[s->start[item] + i], i >= given);
    }
}

static void ids_are_cut(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_answers s;
    zb_answers_form f = {.pairs = true, .length_max = 5, .prompt_max = 3};
    CHECK(read_text(&s,
                    "{\"prompt\": [1,2,3,4,5], \"chosen\": [6,7,8], \"rejected\": [9]}\n\n"
                    "{\"chosen\": [1,2,3], \"rejected\": [1,2,4,5]}\n"
                    "{\"chosen\": [1,2,3], \"rejected\": [1,2,3]}\n"          /* equal */
                    "{\"prompt\": [1], \"chosen\": [2], \"rejected\": []}\n", /* nothing learnt */
                    NULL, &f, &a, &err));
    assert_int_equal(s.n, 2);
    expect_item(&s, 0, 5, (int[]){3, 4, 5, 6, 7}, 3);
    expect_item(&s, 1, 4, (int[]){3, 4, 5, 9}, 3);
    expect_item(&s, 2, 3, (int[]){1, 2, 3}, 2);
    expect_item(&s, 3, 4, (int[]){1, 2, 4, 5}, 2);
    f.n_max = 1; /* what follows is not looked at */
    CHECK(
        read_text(&s, "{\"chosen\": [0, 1], \"rejected\": [0, 2]}\nbroken\n", NULL, &f, &a, &err));
    assert_int_equal(s.n, 1);
    zb_arena_free(&a);
}

/* BOS of a template stays when its prompt is cut. */
static void cut_prompts_keep_bos(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_answers s;
    zb_answers_form f = {.length_max = 100, .prompt_max = 4};
    CHECK(read_text(&s,
                    "{\"prompt\": [{\"role\": \"user\", \"content\": \"one two three four\"}],"
                    "\"completion\": [{\"role\": \"assistant\", \"content\": \"Ho\"}]}",
                    tokenizer, &f, &a, &err));
    const char *shown = show(&s, 0, &a), *learnt = "<Ho<|im_end|>\n>";
    assert_true(!strncmp(shown, "<|im_start|>", 12));
    assert_string_equal(shown + strlen(shown) - strlen(learnt), learnt);
    assert_null(strstr(shown, "four"));
    int64_t given = 0;
    while (!s.learnt[given]) given++;
    assert_int_equal(given, 4);
    zb_arena_free(&a);
}

static void broken_lines(void **unused) {
    (void)unused;
    static const struct {
        bool pairs, ids;
        const char *lines, *said;
    } row[] = {
        {true, false, "{", ".jsonl:1"},
        {true, false, "\n[1]", ".jsonl:2: expected an object with chosen and rejected"},
        {true, false, "{\"chosen\": \"a\"}", "expected an object with chosen and rejected"},
        {true, false, "{\"chosen\": \"a\", \"rejected\": [1]}", "chosen and rejected"},
        {true, false, "{\"prompt\": 3, \"chosen\": \"a\", \"rejected\": \"b\"}", "chosen"},
        {true, false, "{\"prompt\": [1], \"chosen\": \"a\", \"rejected\": \"b\"}", "chosen"},
        {true, false, "{\"chosen\": [1], \"rejected\": [\"x\"]}", "entry 0: expected a token id"},
        {true, false, "{\"chosen\": [1], \"rejected\": [-1]}", "expected a token id"},
        {true, false, "{\"chosen\": [{\"role\": \"user\"}], \"rejected\": [{\"role\": 1}]}",
         "chosen[0]: expected an object with the texts role and content"},
        {true, false,
         "{\"chosen\": [{\"role\": \"assistant\", \"content\": \"a\"}],"
         "\"rejected\": [{\"role\": \"assistant\", \"content\": \"b\"}]}",
         "expected a prompt, or answers that begin with the same messages"},
        {true, true, "{\"chosen\": \"a\", \"rejected\": \"b\"}", "needs a model with a tokenizer"},
        {true, true,
         "{\"prompt\": \"x\", \"chosen\": [{\"role\": \"assistant\", \"content\": \"a\"}],"
         "\"rejected\": [{\"role\": \"assistant\", \"content\": \"b\"}]}",
         "need a model with a chat template"},
        {false, false, "{\"prompt\": \"x\"}", "text, messages, or prompt and completion"},
        {false, false, "{\"messages\": []}", "messages: expected messages, found none"},
        {false, false, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
         "found none to learn from"},
        {false, false, "", "found none to learn from"},
    };
    zb_arena a = {0};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        zb_answers s;
        zb_err err = {0};
        zb_answers_form f = {.pairs = row[i].pairs, .length_max = 100, .prompt_max = 50};
        zb_status st = read_text(&s, row[i].lines, row[i].ids ? NULL : tokenizer, &f, &a, &err);
        if (st == ZB_OK || !strstr(err.msg, row[i].said))
            fail_msg("%s: expected \"%s\", found \"%s\"", row[i].lines, row[i].said, err.msg);
    }
    zb_arena_free(&a);
}

enum { EXAMPLES = 7 };

/* Each epoch has every example once, in an order of its own; unshuffled it is the file's. */
static void batches(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_answers s;
    zb_answers_form f = {.pairs = true, .length_max = 9, .prompt_max = 5, .seed = 3};
    char lines[4096] = "";
    for (int i = 0; i < EXAMPLES; i++)
        snprintf(lines + strlen(lines), sizeof lines - strlen(lines),
                 "{\"prompt\": [%d, 1], \"chosen\": [%d, 2], \"rejected\": [3]}\n", 10 + i, 20 + i);
    CHECK(read_text(&s, lines, NULL, &f, &a, &err));
    int order[2][EXAMPLES], seen[EXAMPLES] = {0};
    for (int e = 0; e < 2; e++) {
        for (int i = 0; i < EXAMPLES; i++) {
            uint8_t *learnt;
            zb_batch b = zb_answers_batch(&s, e * EXAMPLES + i, 1, true, &learnt, &a);
            assert_int_equal(b.n_spans, 2);
            assert_int_equal(b.span[1].start, 4);
            assert_int_equal(b.n, 7);
            int at = order[e][i] = b.ids[0] - 10;
            seen[at]++;
            const int32_t want[] = {10 + at, 1, 20 + at, 2, 10 + at, 1, 3};
            assert_memory_equal(b.ids, want, sizeof want);
            assert_memory_equal(learnt, ((uint8_t[]){0, 0, 1, 1, 0, 0, 1}), 7);
        }
    }
    for (int i = 0; i < EXAMPLES; i++) assert_int_equal(seen[i], 2);
    assert_memory_not_equal(order[0], order[1], sizeof order[0]);
    /* a batch across the epochs' edge is the same examples; and back again */
    uint8_t *learnt;
    zb_batch edge = zb_answers_batch(&s, EXAMPLES - 1, 2, true, &learnt, &a);
    assert_int_equal(edge.ids[0] - 10, order[0][EXAMPLES - 1]);
    assert_int_equal(edge.ids[7] - 10, order[1][0]);
    assert_int_equal(zb_answers_learnt(&s, EXAMPLES - 1, 2, true), 2 * 3);
    zb_batch plain = zb_answers_batch(&s, 0, EXAMPLES, false, &learnt, &a);
    for (int i = 0; i < EXAMPLES; i++) assert_int_equal(plain.ids[7 * i], 10 + i);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms),
        cmocka_unit_test(ids_are_cut),
        cmocka_unit_test(cut_prompts_keep_bos),
        cmocka_unit_test(broken_lines),
        cmocka_unit_test(batches),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
