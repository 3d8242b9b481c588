/* file.h - files and paths.
 *
 * Reading: whole files into an arena, or a read-only mapping. Writing: to a temporary beside the
 * target, synced, then renamed, so that a reader or a crash never sees half a file; devices and
 * pipes are written to as they are, links keep pointing where they do. Every error names the path.
 * Large files (weights) are written piecewise through zb_writer, same guarantee. */
#ifndef ZB_BASE_FILE_H
#define ZB_BASE_FILE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

#include <stdio.h>

typedef struct zb_map {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;
} zb_map;

zb_status zb_map_open(zb_map *m, const char *path, zb_err *err);
void zb_map_close(zb_map *m);
/* What was read leaves memory; what is asked for again is read again. */
void zb_map_forget(const zb_map *m);

/* Whole file, NUL-terminated, at most `limit` bytes. */
zb_status zb_file_read(const char *path, size_t limit, zb_arena *a, zb_str *out, zb_err *err);
zb_status zb_file_write(const char *path, const void *bytes, size_t n, zb_err *err); /* atomic */
zb_status zb_file_copy(const char *from, const char *to, zb_err *err);               /* atomic */
bool zb_file_exists(const char *path);
bool zb_dir_exists(const char *path);
zb_status zb_dir_make(const char *path, zb_err *err);   /* with parents; fine if it exists */
zb_status zb_dir_remove(const char *path, zb_err *err); /* with content; fine if absent */
zb_status zb_path_rename(const char *from, const char *to, zb_err *err); /* and syncs the folder */

/* "dir/name" in the arena. */
char *zb_path_join(zb_arena *a, const char *dir, const char *name);
const char *zb_path_base(const char *path);         /* after the last slash */
char *zb_path_plain(zb_arena *a, const char *path); /* without slashes at its end */
bool zb_path_same(const char *a, const char *b);    /* one and the same existing file or folder */
/* Where the links of `path` lead; `path` itself where it is no link or leads nowhere. */
char *zb_path_target(zb_arena *a, const char *path);
/* Whether `inner` is `outer` or lies below it, links followed; neither has to exist. */
bool zb_path_holds(const char *outer, const char *inner);

/* Entries of a folder whose names start with `prefix`, sorted by name; count in *n. */
zb_status zb_dir_list(const char *path, const char *prefix, zb_arena *a, char ***names, size_t *n,
                      zb_err *err);

/* Piecewise atomic writing. After an error the writer is dead; close or abort must still be called.
 */
typedef struct zb_writer {
    FILE *f;
    char *tmp, *path; /* in the arena given at open */
    bool in_place;    /* no temporary: the target is no regular file */
    uint64_t written;
} zb_writer;

zb_status zb_writer_open(zb_writer *w, const char *path, zb_arena *a, zb_err *err);
zb_status zb_writer_add(zb_writer *w, const void *bytes, size_t n, zb_err *err);
zb_status zb_writer_close(zb_writer *w, zb_err *err); /* sync, rename */
void zb_writer_abort(zb_writer *w);                   /* removes the temporary; fine after close */

/* Line by line, .gz included; *line is valid until the next call; *more = false at the end. */
typedef struct zb_lines zb_lines;
zb_status zb_lines_open(zb_lines **out, const char *path, size_t line_limit, zb_err *err);
zb_status zb_lines_next(zb_lines *l, zb_str *line, bool *more, zb_err *err);
int64_t zb_lines_number(const zb_lines *l); /* of the line last returned, from 1 */
void zb_lines_close(zb_lines *l);           /* NULL is legal */

/* Bytes of all lines; of a large .gz estimated by how far its beginning was compressed. 0 where
 * nothing can be read. */
size_t zb_lines_size(const char *path);

#endif
