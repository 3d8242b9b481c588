/* plot.h - the pictures of a report.
 *
 * Each picture is a data file, a gnuplot script and the SVG it makes, all kept in `out_dir`/plots
 * so that a picture can be changed by hand: `cd plots; gnuplot memory.gp`. */
#ifndef ZB_REPORT_PLOT_H
#define ZB_REPORT_PLOT_H

#include "report/measure.h"

typedef enum zb_report_topic {
    ZB_TOPIC_MEMORY,
    ZB_TOPIC_SPEED,
    ZB_TOPIC_TASKS,
    ZB_TOPIC_RECALL,
    ZB_TOPIC_TRAINING,
    ZB_TOPIC_LAYERS
} zb_report_topic;

typedef struct zb_report_plot {
    zb_report_topic topic;
    const char *name;    /* "memory": plots/memory.svg */
    const char *caption; /* a sentence to stand below it; may hold outside text */
    zb_str svg;          /* the file's content; empty when it could not be made */
} zb_report_plot;

typedef struct zb_report_plots {
    zb_report_plot *plot;
    size_t n, cap;
} zb_report_plots;

/* Makes all pictures the measures have data for; everything lives in the arena. Failures of gnuplot
 * are warnings and notes in m->missing, failures to write files are errors. */
zb_status zb_report_plots_make(zb_report_measures *m, zb_report_plots *out, zb_arena *a,
                               zb_err *err);

#endif
