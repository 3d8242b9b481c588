/* output.h - whether a result can be written, asked before the work it takes: a mistyped path must
 * cost neither hours nor what stood there.
 *
 * A path is refused where it is of the wrong kind, is or holds one of the inputs, or where nothing
 * can be created; NULL and "" stand for no output and are fine. Nothing is written. A full disk is
 * still found only later. */
#ifndef ZB_BASE_OUTPUT_H
#define ZB_BASE_OUTPUT_H

#include "base/err.h"

#include <stdbool.h>

/* What must not be overwritten: n paths, NULL among them for what is not given. */
typedef struct zb_inputs {
    const char *const *path;
    int n;
} zb_inputs;

/* zb_inputs of the paths named. */
#define ZB_INPUTS(...)                                                                             \
    ((zb_inputs){(const char *const[]){__VA_ARGS__},                                               \
                 (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *))})

/* A file that is created or replaced. Devices and pipes are fine. */
zb_status zb_output_file(const char *path, zb_inputs inputs, zb_err *err);

/* A folder that files are added to; made where it is missing. */
zb_status zb_output_folder(const char *path, zb_err *err);

/* A folder, never "", that is replaced as a whole: all names in it must be known to be of an
 * earlier result.
 */
zb_status zb_output_replaced(const char *path, bool (*known)(const char *name), zb_inputs inputs,
                             zb_err *err);

/* That no output of a command is or lies in another, which would be lost. Devices and pipes may
 * stand twice. */
zb_status zb_outputs_apart(zb_inputs outputs, zb_err *err);

#endif
