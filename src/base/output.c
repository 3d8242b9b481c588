/* output.c - checks of output paths (contract in output.h). */
#include "base/output.h"

#include "base/file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The nearest folder above `path` that exists must take new entries. */
static zb_status check_above(const char *path, zb_err *err) {
    zb_arena a = {0};
    char *above = zb_strdup(&a, path);
    struct stat st;
    do {
        for (size_t n = strlen(above); n > 1 && above[n - 1] == '/'; n--) above[n - 1] = 0;
        char *slash = strrchr(above, '/');
        if (!slash)
            above = ".";
        else
            slash[slash == above] = 0;
    } while (stat(above, &st) != 0 && errno == ENOENT && strcmp(above, ".") && strcmp(above, "/"));
    zb_status s = ZB_OK;
    if (stat(above, &st) == 0 && !S_ISDIR(st.st_mode))
        s = zb_fail(err, ZB_ERR_IO, "%s: cannot create: %s is no folder", path, above);
    else if (access(above, W_OK | X_OK) != 0)
        s = zb_fail(err, ZB_ERR_IO, "%s: cannot create in %s: %s", path, above, strerror(errno));
    zb_arena_free(&a);
    return s;
}

static zb_status check_inputs(const char *path, zb_inputs in, zb_err *err) {
    for (int i = 0; i < in.n; i++)
        if (in.path[i] && access(in.path[i], F_OK) == 0 && zb_path_holds(path, in.path[i]))
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: expected another output: writing it would delete the input %s",
                           path, in.path[i]);
    return ZB_OK;
}

zb_status zb_output_file(const char *path, zb_inputs inputs, zb_err *err) {
    struct stat st;
    if (!path || !*path) return ZB_OK;
    if (stat(path, &st) != 0) return check_above(path, err);
    if (S_ISDIR(st.st_mode))
        return zb_fail(err, ZB_ERR_IO, "%s: expected a file, found a folder", path);
    if (S_ISREG(st.st_mode)) {
        ZB_TRY(check_inputs(path, inputs, err));
        return check_above(path, err);
    }
    return access(path, W_OK) == 0
               ? ZB_OK
               : zb_fail(err, ZB_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

zb_status zb_output_folder(const char *path, zb_err *err) {
    struct stat st;
    if (!path || !*path) return ZB_OK;
    if (stat(path, &st) != 0) return check_above(path, err);
    if (!S_ISDIR(st.st_mode))
        return zb_fail(err, ZB_ERR_IO, "%s: expected a folder, found a file", path);
    return access(path, W_OK | X_OK) == 0
               ? ZB_OK
               : zb_fail(err, ZB_ERR_IO, "%s: cannot write into it: %s", path, strerror(errno));
}

zb_status zb_output_replaced(const char *path, bool (*known)(const char *name), zb_inputs inputs,
                             zb_err *err) {
    if (!*path) return zb_fail(err, ZB_ERR_USAGE, "out: expected a folder, found no name");
    ZB_TRY(zb_output_folder(path, err));
    if (!zb_dir_exists(path)) return ZB_OK;
    ZB_TRY(check_above(path, err)); /* the folder itself is renamed */
    ZB_TRY(check_inputs(path, inputs, err));
    zb_arena a = {0};
    char **name;
    size_t n;
    zb_status s = zb_dir_list(path, "", &a, &name, &n, err);
    for (size_t i = 0; i < n && s == ZB_OK; i++)
        if (!known(name[i]))
            s = zb_fail(err, ZB_ERR_CONFIG,
                        "%s: expected a new folder or one of an earlier result, found %s in it: "
                        "replacing the folder would delete it",
                        path, name[i]);
    zb_arena_free(&a);
    return s;
}

/* Whether writing to the path replaces what stands there. */
static bool is_replaced(const char *path) {
    struct stat st;
    return path && *path && (stat(path, &st) != 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

zb_status zb_outputs_apart(zb_inputs outputs, zb_err *err) {
    for (int i = 0; i < outputs.n; i++)
        for (int k = 0; k < outputs.n && is_replaced(outputs.path[i]); k++)
            if (k != i && is_replaced(outputs.path[k]) &&
                zb_path_holds(outputs.path[i], outputs.path[k]))
                return zb_fail(err, ZB_ERR_CONFIG,
                               "%s: expected another output: it would replace the output %s",
                               outputs.path[i], outputs.path[k]);
    return ZB_OK;
}
