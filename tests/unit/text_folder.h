/* text_folder.h - a folder with a text of random token ids, for tests that fit or measure on one.
 */
#ifndef ZB_TEXT_FOLDER_H
#define ZB_TEXT_FOLDER_H

#include "base/file.h"
#include "base/rng.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static char folder[64], text[128]; /* of the running test program */

/* 64 documents of 150 ids from 3 to 96. Not 0: failed. */
static int text_folder_open(const char *name) {
    snprintf(folder, sizeof folder, "/tmp/zb_%s.XXXXXX", name);
    if (!mkdtemp(folder)) return -1;
    snprintf(text, sizeof text, "%s/text.jsonl", folder);
    FILE *f = fopen(text, "w");
    if (!f) return -1;
    for (int d = 0; d < 64; d++) {
        fprintf(f, "{\"input_ids\": [");
        for (int i = 0; i < 150; i++) {
            uint64_t at = (uint64_t)(d * 1000 + i);
            fprintf(f, "%s%d", i ? "," : "", 3 + (int)zb_rng_below(5, ZB_RNG_TEST, at, 94));
        }
        fprintf(f, "]}\n");
    }
    return fclose(f);
}

static int text_folder_remove(void) { return zb_dir_remove(folder, NULL) == ZB_OK ? 0 : -1; }

#endif
