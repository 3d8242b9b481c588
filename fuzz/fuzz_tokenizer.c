/* fuzz_tokenizer.c - any tokenizer.json, then any text through it.
 *
 * Input: tokenizer.json, a zero byte, the text; or a GGUF file. What loads must encode every text
 * to ids in range (or say why not), and decode what it encoded; without a normaliser and with all
 * 256 bytes in the vocabulary exactly. */
#include "format/tokenizer.h"

#include <string.h>

static bool has_all_bytes(const zb_tokenizer *t) {
    bool seen[256] = {false};
    int n = 0;
    for (int32_t id = 0; id < zb_tokenizer_vocab(t); id++) {
        zb_str piece = zb_tokenizer_piece(t, id);
        unsigned char byte = piece.n == 1 ? (unsigned char)piece.p[0] : 0;
        if (piece.n == 1 && !seen[byte]) seen[byte] = true, n++;
    }
    return n == 256;
}

static void check(const zb_tokenizer *t, zb_str text, bool exact) {
    zb_arena a = {0};
    zb_err err;
    zb_ids ids;
    zb_buf back;
    zb_buf_init(&back, (size_t)1 << 28);
    if (zb_tokenizer_encode(t, text, false, true, &a, &ids, &err) == ZB_OK) {
        for (size_t i = 0; i < ids.n; i++)
            ZB_ASSERT(ids.id[i] >= 0 && ids.id[i] < zb_tokenizer_vocab(t));
        ZB_ASSERT(zb_tokenizer_decode(t, ids.id, ids.n, true, &back, &err) == ZB_OK);
        if (exact) ZB_ASSERT(zb_str_eq(zb_buf_str(&back), text));
    }
    if (zb_tokenizer_encode(t, text, true, false, &a, &ids, &err) == ZB_OK)
        ZB_ASSERT(zb_tokenizer_decode(t, ids.id, ids.n, false, &back, &err) == ZB_OK);
    zb_buf_free(&back);
    zb_arena_free(&a);
}

/* A GGUF file whose keys hold a tokenizer. */
static void check_gguf(const uint8_t *data, size_t size) {
    zb_gguf *g;
    zb_tokenizer *t;
    zb_err err;
    if (zb_gguf_parse(&g, data, size, "fuzz", &err) != ZB_OK) return;
    zb_status s = zb_tokenizer_from_gguf(&t, g, &err);
    zb_gguf_close(g);
    if (s != ZB_OK) return;
    check(t, ZB_STR("It's 12 \xc3\xa9\xcc\x81\n  ab<s>x\xff"), false);
    zb_tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        check_gguf(data, size);
        return 0;
    }
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    size_t json = cut ? (size_t)(cut - data) : size;
    zb_str text = cut ? (zb_str){(const char *)cut + 1, size - json - 1}
                      : ZB_STR("It's 12 \xc3\xa9\xcc\x81\n  x\xff");
    zb_tokenizer *t;
    zb_err err;
    if (zb_tokenizer_parse(&t, (zb_str){(const char *)data, json}, (zb_str){0}, "fuzz", &err) !=
        ZB_OK)
        return 0;
    /* Exact decoding is promised for plain chains only: a normaliser, a Removed split or white
     * space swallowed by an added token change the text by design. */
    zb_str head = {(const char *)data, json};
    bool plain = !memmem(head.p, head.n, "NF", 2) && !memmem(head.p, head.n, "Removed", 7) &&
                 !memmem(head.p, head.n, "strip", 5) && !memmem(head.p, head.n, "\\u", 2);
    check(t, text, plain && has_all_bytes(t));
    zb_tokenizer_close(t);
    return 0;
}
