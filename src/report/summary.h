/* summary.h - the measures as report.json and as a table.
 *
 * One list of rows serves the Markdown table of the terminal and the table of the page, so that the
 * two cannot differ. */
#ifndef ZB_REPORT_SUMMARY_H
#define ZB_REPORT_SUMMARY_H

#include "base/json.h"
#include "report/measure.h"

typedef struct zb_report_row {
    const char *section; /* "Memory"; same pointer for all rows of a section */
    const char *label;   /* as measured, from outside in part: escape it */
    const char **cell;   /* by model */
    double *value;       /* by model, NAN: absent */
    bool ratio;          /* value / value of the first model says something */
} zb_report_row;

typedef struct zb_report_rows {
    zb_report_row *row;
    size_t n, cap;
} zb_report_rows;

/* Rows that at least one model has, in the order of reading. */
zb_report_rows zb_report_rows_make(const zb_report_measures *m, zb_arena *a);

void zb_report_markdown(const zb_report_measures *m, zb_buf *out);

/* {"<model>": {...}, ..., "average_rule", "missing", "zebra_version"}: new reference. */
json_t *zb_report_json(const zb_report_measures *m);

/* Published results of the same kind of conversion, to be put beside ours. */
typedef struct zb_report_published {
    const char *name, *layers, *tokens;
    double kv_percent, original, converted; /* averages of eight tasks, percent */
} zb_report_published;

extern const zb_report_published zb_report_published_list[];
extern const int zb_report_n_published;

#endif
