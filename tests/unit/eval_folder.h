/* eval_folder.h - what the evaluation tests share: an arena, the test tokenizer, a folder of their
 * own that goes with them. Included behind cmocka.h. */
#ifndef ZB_TESTS_UNIT_EVAL_FOLDER_H
#define ZB_TESTS_UNIT_EVAL_FOLDER_H

#include "base/file.h"
#include "base/log.h"
#include "format/tokenizer.h"

#include <math.h>
#include <stdlib.h>

static zb_arena arena;
static zb_tokenizer *tokenizer;
static char folder[64];

static int set_up(void **state) {
    (void)state;
    zb_log_set(ZB_LOG_QUIET);
    snprintf(folder, sizeof folder, "/tmp/zebra-test-eval-XXXXXX");
    return mkdtemp(folder) &&
                   zb_tokenizer_open(&tokenizer, "tests/unit/eval/tokenizer", NULL) == ZB_OK
               ? 0
               : -1;
}

static int tear_down(void **state) {
    (void)state;
    zb_tokenizer_close(tokenizer);
    zb_arena_free(&arena);
    return zb_dir_remove(folder, NULL) == ZB_OK ? 0 : -1;
}

static const char *in_folder(const char *name) { return zb_path_join(&arena, folder, name); }

static void check_near(double have, double expected, double tolerance) {
    if (!(fabs(have - expected) <= tolerance))
        fail_msg("expected %.17g, found %.17g", expected, have);
}

#endif
