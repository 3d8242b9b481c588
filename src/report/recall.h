/* recall.h - what recall tests found, from the file of `zebra recall`.
 *
 * Strings live in the measures' arena. */
#ifndef ZB_REPORT_RECALL_H
#define ZB_REPORT_RECALL_H

#include "base/json.h"
#include "report/measure.h"

zb_status zb_report_recall_read(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                                const char *path, zb_err *err);

/* Whether cell i is the first of its test, or with `length` of its test and length. */
bool zb_report_recall_first(const zb_report_measured *r, int i, bool length);

/* Mean over the samples of all depths of a test at one length; NAN: not measured. */
double zb_report_recall_mean(const zb_report_measured *r, const char *test, int64_t length);
/* Whether that mean is one of sure answers: no text was written. */
bool zb_report_recall_sure(const zb_report_measured *r, const char *test, int64_t length);

/* The cell; NULL: not measured. */
const zb_report_recall *zb_report_recall_find(const zb_report_measured *r, const char *test,
                                              int64_t length, int64_t depth);

#endif
