/* pipeline_record.h - what a stage leaves behind: <output>/stages/<name>.json.
 *
 *     {"teacher": ..., "teacher_contents": ..., "from": ..., "options": {...}, "seconds": ...,
 *      "done": true}
 *
 * `from` is the id of the record of the model that the stage started from ("": the teacher alone).
 * A record holds as long as teacher and from are the same, each option has its value, and the files
 * that options name, and the teacher, hold what they held (base/contents.h; records of earlier
 * versions do not say). An option that the record does not know is of a later version, and has to
 * stand at its default. Options that
 * change no result (how often a stage writes, how much memory it may take) are not in it. */
#ifndef ZB_CLI_PIPELINE_RECORD_H
#define ZB_CLI_PIPELINE_RECORD_H

#include "base/opts.h"

typedef struct zb_record {
    const char *name, *path, *teacher;
    const char *from;        /* NULL: the stage sees the teacher alone, whatever its record says */
    const char *contents;    /* the teacher's; behind reading those that the record names, if any */
    zb_opt_group options[4]; /* what the stage depends on */
    /* known once it is read: */
    const char *id;  /* digest of all of the above */
    json_t *values;  /* of the options; to be freed with zb_record_free */
    double seconds;  /* spent so far */
    bool finished;   /* at some time, whatever its options were */
    const char *why; /* what keeps it from being done, a clause; NULL: it is, with a result that
                        holds */
} zb_record;

/* Looks for the record at r->path. One that does not hold, or cannot be read, is none. */
void zb_record_read(zb_record *r, zb_arena *a);

/* The record after so many seconds in all. */
zb_status zb_record_write(const zb_record *r, double seconds, bool done, zb_err *err);

void zb_record_free(zb_record *r);

#endif
