/* gnuplot.h - gnuplot as a child process.
 *
 * Started without a shell, without the user's settings and with a small environment, in a process
 * group of its own that is killed when the time is over. Blocks the calling thread. */
#ifndef ZB_REPORT_GNUPLOT_H
#define ZB_REPORT_GNUPLOT_H

#include "base/err.h"

typedef struct zb_gnuplot {
    const char *program; /* found by PATH; a path with a slash must be absolute */
    double seconds;      /* limit of one run */
} zb_gnuplot;

/* Runs `script` (a file name inside `dir`) with `dir` as working directory. ZB_ERR_UNSUPPORTED: the
 * program is not installed; ZB_ERR_INTERNAL: it failed or took too long, with its first words;
 * ZB_ERR_INTERRUPTED: the user asked to stop. */
zb_status zb_gnuplot_run(const zb_gnuplot *g, const char *dir, const char *script, zb_err *err);

#endif
