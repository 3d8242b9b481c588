/* driver.c - replays a corpus through a fuzz target without libFuzzer, so that every build runs it.
 *
 * usage: fuzz_NAME FOLDER...   Each file is handed over in memory of exactly its size. A folder
 * without files is an error: a target without a corpus tests nothing. */
#include "base/file.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static zb_status replay(const char *dir, zb_err *err) {
    zb_arena a = {0};
    char **names;
    size_t n;
    zb_status s = zb_dir_list(dir, "", &a, &names, &n, err);
    if (s == ZB_OK && n == 0) s = zb_fail(err, ZB_ERR_IO, "%s: expected files, found none", dir);
    for (size_t i = 0; i < n && s == ZB_OK; i++) {
        zb_map m;
        s = zb_map_open(&m, zb_path_join(&a, dir, names[i]), err);
        if (s != ZB_OK) break;
        uint8_t *exact = zb_heap_resize(NULL, m.size ? m.size : 1);
        if (m.size) memcpy(exact, m.data, m.size);
        LLVMFuzzerTestOneInput(exact, m.size);
        zb_heap_resize(exact, 0);
        zb_map_close(&m);
    }
    if (s == ZB_OK) printf("%s: %zu inputs\n", dir, n);
    zb_arena_free(&a);
    return s;
}

int main(int argc, char **argv) {
    zb_err err = {0};
    if (argc < 2) zb_fail(&err, ZB_ERR_USAGE, "usage: %s FOLDER...", argv[0]);
    for (int i = 1; i < argc && err.code == ZB_OK; i++) replay(argv[i], &err);
    if (err.code != ZB_OK) fprintf(stderr, "%s\n", err.msg);
    return zb_status_exit(err.code);
}
