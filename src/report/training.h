/* training.h - the log of one training stage as curves.
 *
 * Reads the JSON lines that a stage appends while it runs (see zb_report_log in report.h). Curves
 * live in the arena of the caller. */
#ifndef ZB_REPORT_TRAINING_H
#define ZB_REPORT_TRAINING_H

#include "report/measure.h"

/* Reads the whole log; a line that is no JSON object or has neither "tokens" nor "examples" is an
 * error with its number. */
zb_status zb_report_stage_read(zb_report_stage *s, const char *name, const char *path, zb_arena *a,
                               zb_err *err);

/* At most `points` points: neighbours are replaced by their means in x and y, so that a plot of a
 * long run stays small and shows its trend. The curve itself when it is short enough. */
zb_report_curve zb_report_curve_thin(const zb_report_curve *c, size_t points, zb_arena *a);

/* Means over a window of `width` points centred on each: narrower at the start, where losses fall
 * fast and a one-sided mean would mislead, cut off at the end. */
zb_report_curve zb_report_curve_smooth(const zb_report_curve *c, size_t width, zb_arena *a);

#endif
