/* fuzz_answers.c - any bytes as a file of examples, read as pairs and as answers, with a tokenizer
 * that has a chat template and without; then every example as a batch. */
#include "data/answers.h"

#include "base/file.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char config[] =
    "{\"bos_token\": \"<|im_start|>\", \"eos_token\": \"<|im_end|>\", \"chat_template\": "
    "\"{% for m in messages %}<|im_start|>{{ m['role'] }}\\n{{ m['content'] }}<|im_end|>\\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}\"}";

static zb_tokenizer *open_tokenizer(void) {
    zb_arena a = {0};
    zb_str text;
    zb_err err;
    zb_tokenizer *t = NULL;
    zb_status s =
        zb_file_read("tests/format/tokenizer/gpt2_digits/tokenizer.json", 1 << 26, &a, &text, &err);
    if (s == ZB_OK) s = zb_tokenizer_parse(&t, text, zb_str_from(config), "fuzz", &err);
    ZB_ASSERT(s == ZB_OK);
    zb_arena_free(&a);
    return t;
}

static void read_as(const char *path, const zb_tokenizer *t, bool pairs) {
    zb_arena a = {0};
    zb_err err = {0};
    zb_answers s;
    zb_answers_form f = {.pairs = pairs, .length_max = 12, .prompt_max = 5};
    zb_status st = zb_answers_read(&s, path, t, &f, &a, &err);
    ZB_ASSERT(st == ZB_OK || err.msg[0]);
    for (int64_t i = 0; st == ZB_OK && i < s.n; i++) {
        uint8_t *learnt;
        int count[2] = {0};
        zb_batch b = zb_answers_batch(&s, i, 1, i % 2, &learnt, &a);
        ZB_ASSERT(b.n_spans == (pairs ? 2 : 1));
        for (int k = 0; k < b.n_spans; k++) {
            ZB_ASSERT(b.span[k].n >= 2 && b.span[k].n <= 12 && !learnt[b.span[k].start]);
            for (int j = 0; j < b.span[k].n; j++) count[k] += learnt[b.span[k].start + j];
            ZB_ASSERT(count[k] > 0);
        }
    }
    zb_arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static zb_tokenizer *t;
    char path[] = "/tmp/zb_fuzz_answers_XXXXXX";
    int fd = mkstemp(path);
    if (!t) t = open_tokenizer();
    zb_log_set(ZB_LOG_QUIET);
    if (fd < 0) return 0;
    FILE *f = fdopen(fd, "wb");
    fwrite(data, 1, size, f);
    fclose(f);
    for (int k = 0; k < 4; k++) read_as(path, k / 2 ? t : NULL, k % 2);
    unlink(path);
    return 0;
}
