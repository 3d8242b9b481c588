/* llama_cpp_start.c - from the start of a process to the first token, in llama.cpp.
 *
 * The least a native program does with its public interface: load a GGUF file, tokenise a prompt,
 * compute it, take the likeliest token, print its text. Arguments: model, threads, prompt. Built
 * and timed by bench/run against `zebra generate -n 1`. */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void silent(enum ggml_log_level level, const char *text, void *ctx) {
    (void)level;
    (void)text;
    (void)ctx;
}

int main(int argc, char **argv) {
    enum { TOKENS_MAX = 512 };
    if (argc != 4) return fprintf(stderr, "usage: llama_cpp_start MODEL THREADS PROMPT\n"), 2;
    llama_log_set(silent, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return fprintf(stderr, "cannot load %s\n", argv[1]), 1;
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    struct llama_context_params p = llama_context_default_params();
    p.n_ctx = TOKENS_MAX;
    p.n_threads = p.n_threads_batch = atoi(argv[2]);
    struct llama_context *c = llama_init_from_model(model, p);
    llama_token ids[TOKENS_MAX];
    int n = llama_tokenize(vocab, argv[3], (int)strlen(argv[3]), ids, TOKENS_MAX, true, true);
    if (!c || n < 1 || llama_decode(c, llama_batch_get_one(ids, n)) != 0)
        return fprintf(stderr, "cannot compute the prompt\n"), 1;
    const float *logits = llama_get_logits_ith(c, -1);
    int best = 0, size = llama_vocab_n_tokens(vocab);
    for (int i = 1; i < size; i++)
        if (logits[i] > logits[best]) best = i;
    char text[256];
    int length = llama_token_to_piece(vocab, best, text, sizeof text, 0, true);
    printf("%.*s\n", length > 0 ? length : 0, text);
    llama_free(c);
    llama_model_free(model);
    return 0;
}
