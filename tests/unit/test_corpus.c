/* test_corpus.c - rows of packed text: every token once per epoch, spans end where documents end,
 * and are cut where they are to be short. */
#include "../golden/golden.h"

#include "data/corpus.h"

#include <unistd.h>

enum { DOCS = 9, LENGTH = 20 };

static int length_of(int doc) { return 3 + doc * 7 % 30; }

/* Documents of tokens 100·doc, 100·doc + 1, ... */
static zb_corpus *read_corpus(zb_arena *a) {
    char path[] = "/tmp/zb_corpus_XXXXXX.jsonl";
    int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    for (int d = 0; d < DOCS; d++) {
        fputs("{\"input_ids\":[", f);
        for (int i = 0; i < length_of(d); i++) fprintf(f, "%s%d", i ? "," : "", 100 * d + i);
        fputs("]}\n", f);
    }
    assert_int_equal(fclose(f), 0);
    zb_corpus *c = ZB_NEW(a, zb_corpus);
    CHECK(zb_corpus_read(c, path, NULL, 0, 0, a, &err));
    unlink(path);
    return c;
}

/* A row's spans follow one another to its end; each holds neighbours of one document. */
static void check_row(const zb_batch *b, int longest) {
    int at = 0;
    for (int s = 0; s < b->n_spans; s++) {
        const zb_span *sp = &b->span[s];
        assert_int_equal(sp->start, at);
        assert_in_range(sp->n, 1, longest);
        for (int i = 1; i < sp->n; i++) assert_int_equal(b->ids[at + i], b->ids[at] + i);
        at += sp->n;
    }
    assert_int_equal(at, LENGTH);
}

static void rows_hold_the_same_however_they_are_cut(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_corpus *c = read_corpus(&a);
    zb_packer p;
    CHECK(zb_packer_init(&p, c, LENGTH, true, 5, &a, &err));
    assert_int_equal(p.rows, c->n_tokens / LENGTH);
    int seen[100 * DOCS] = {0}, cuts = 0;
    for (int64_t r = 0; r < p.rows; r++) {
        p.longest = 0;
        zb_batch whole = zb_packer_batch(&p, r, 1, &a);
        check_row(&whole, LENGTH);
        p.longest = 6;
        zb_batch cut = zb_packer_batch(&p, r, 1, &a);
        check_row(&cut, 6);
        assert_memory_equal(cut.ids, whole.ids, LENGTH * sizeof *cut.ids);
        cuts += cut.n_spans - whole.n_spans;
        int k = 0; /* where a document ends, both end a span */
        for (int s = 0; s < whole.n_spans; s++) {
            int end = whole.span[s].start + whole.span[s].n;
            while (k < cut.n_spans && cut.span[k].start < end) k++;
            assert_true(k == cut.n_spans ? end == LENGTH : cut.span[k].start == end);
        }
        for (int i = 0; i < LENGTH; i++) assert_int_equal(seen[whole.ids[i]]++, 0);
    }
    assert_true(cuts > p.rows);
    zb_arena_free(&a);
}

/* Long documents alone, each as it was; where there are none, the error says what there is. */
static void short_documents_are_left_out(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_corpus *c = read_corpus(&a);
    enum { SHORTEST = 17 };
    int want = 0, longest = 0;
    CHECK(zb_corpus_keep_long(c, "text", 0, &err));
    assert_int_equal(c->n_docs, DOCS);
    CHECK(zb_corpus_keep_long(c, "text", SHORTEST, &err));
    for (int d = 0; d < DOCS; d++) {
        if (length_of(d) > longest) longest = length_of(d);
        if (length_of(d) < SHORTEST) continue;
        assert_int_equal(c->doc[want + 1] - c->doc[want], length_of(d));
        for (int i = 0; i < length_of(d); i++)
            assert_int_equal(c->token[c->doc[want] + i], 100 * d + i);
        want++;
    }
    assert_in_range(want, 1, DOCS - 1);
    assert_int_equal(c->n_docs, want);
    assert_int_equal(c->n_tokens, c->doc[want]);
    zb_err why = {0};
    assert_int_equal(zb_corpus_keep_long(c, "text", longest + 1, &why), ZB_ERR_CONFIG);
    char says[96];
    snprintf(says, sizeof says, "text: expected documents of at least %d tokens, found none",
             longest + 1);
    assert_non_null(strstr(why.msg, says));
    zb_arena_free(&a);
}

/* BOS before text, where the tokenizer puts it before every prompt; ids stay as they are. */
static void text_begins_as_prompts_do(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_tokenizer *t;
    zb_corpus c;
    zb_ids prompt;
    const int64_t ids_alone = 3;
    CHECK(zb_tokenizer_open(&t, "tests/format/tokenizer/llama3", &err));
    CHECK(zb_tokenizer_encode(t, ZB_STR("one two"), true, false, &a, &prompt, &err));
    assert_true(prompt.n > 1 && prompt.id[0] == zb_tokenizer_bos(t));
    char path[] = "/tmp/zb_corpus_XXXXXX.jsonl";
    int fd = mkstemps(path, 6);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("{\"text\":\"one two\"}\n{\"text\":\"\"}\n{\"input_ids\":[5,6,7]}\n", f);
    assert_int_equal(fclose(f), 0);
    CHECK(zb_corpus_read(&c, path, t, 0, 0, &a, &err));
    unlink(path);
    assert_int_equal(c.n_docs, 2);
    assert_int_equal(c.doc[1], (int64_t)prompt.n + 1);
    assert_memory_equal(c.token, prompt.id, prompt.n * sizeof *prompt.id);
    assert_int_equal(c.token[prompt.n], zb_corpus_separator(t));
    assert_int_equal(c.doc[2] - c.doc[1], ids_alone + 1);
    assert_int_equal(c.token[c.doc[1]], 5);
    zb_tokenizer_close(t);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_hold_the_same_however_they_are_cut),
                                       cmocka_unit_test(short_documents_are_left_out),
                                       cmocka_unit_test(text_begins_as_prompts_do)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
