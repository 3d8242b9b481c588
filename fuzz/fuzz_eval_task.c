/* fuzz_eval_task.c - any bytes as an evaluation task and its data: the part before the first NUL is
 * the task file, the rest the rows. What is accepted must keep its promises. */
#include "base/file.h"
#include "eval/document.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of this process alone: others may run beside it. */
static char folder[] = "/tmp/zebra-fuzz-eval-XXXXXX", yaml[64], rows[64];

static void remove_folder(void) { zb_dir_remove(folder, NULL); }

static void make_folder(void) {
    ZB_ASSERT(mkdtemp(folder) != NULL);
    snprintf(yaml, sizeof yaml, "%s/t.yaml", folder);
    snprintf(rows, sizeof rows, "%s/t.jsonl", folder);
    atexit(remove_folder);
}

static void check(const zb_task *t, const zb_document_set *s) {
    for (size_t i = 0; i < s->n; i++) {
        const zb_document *d = &s->doc[i];
        ZB_ASSERT(d->n_choices >= 1 && d->n_choices <= ZB_CHOICES_MAX);
        ZB_ASSERT(d->gold >= 0 && d->gold < d->n_choices && d->target);
        for (int c = 0; c < d->n_choices; c++)
            ZB_ASSERT(d->choice[c].length >= 0 &&
                      (t->output != ZB_TASK_CHOICE || d->choice[c].continuation.n >= 1));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    zb_arena a = {0};
    zb_task t;
    zb_err err = {0};
    if (!*yaml) make_folder();
    ZB_ASSERT(zb_file_write(yaml, data, n, NULL) == ZB_OK);
    ZB_ASSERT(zb_file_write(rows, nul ? nul + 1 : data, nul ? size - n - 1 : 0, NULL) == ZB_OK);
    if (zb_task_read(yaml, "t", "lm-eval", &a, &t, &err) == ZB_OK) {
        t.data = "t.jsonl";
        t.rows = t.fewshot.rows = 0;
        if (t.fewshot.data) t.fewshot.data = "t.jsonl";
        for (int i = 0; i < t.n_leaves; i++) t.leaf[i].selected = true;
        zb_document_set s;
        zb_document_opts o = {.data_dir = folder, .shots = -1};
        if (zb_document_set_read(&t, &o, &a, &s, &err) == ZB_OK) check(&t, &s);
        zb_document_set_free(&s);
    } else {
        ZB_ASSERT(err.code != ZB_OK && err.msg[0]);
    }
    zb_arena_free(&a);
    return 0;
}
