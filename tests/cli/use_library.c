/* use_library.c - a program of somebody else: the public header, `pkg-config zebra`, a model. */
#include <stdio.h>
#include <zebra.h>

static bool print(void *user, int32_t id) {
    (void)user;
    printf("%d\n", (int)id);
    return true;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    zb_err err;
    zb_engine *e;
    zb_session *s;
    if (zb_engine_open(&e, argv[1], NULL, &err)) return puts(err.msg), 1;
    if (zb_session_new(&s, e, 16, &err)) return puts(err.msg), 1;
    const int32_t prompt[] = {1, 2, 3};
    zb_generate_request r = {
        .prompt = prompt, .n = 3, .max = 4, .ignore_end = true, .on_token = print};
    zb_generation g;
    zb_sampler *greedy;
    zb_sampling settings = {0};
    if (zb_sampler_new(&greedy, &settings, zb_engine_vocab(e), &err)) return puts(err.msg), 1;
    if (zb_generate(s, greedy, &r, &g, &err)) return puts(err.msg), 1;
    zb_sampler_free(greedy);
    zb_session_free(s);
    zb_engine_close(e);
    return 0;
}
