/* log.h - the only way to stderr, the progress line, and JSON lines of events.
 *
 * Level is set once by the program. On a terminal a progress line is redrawn in place; otherwise a
 * plain line is printed at most every few seconds. Safe from any thread. */
#ifndef ZB_BASE_LOG_H
#define ZB_BASE_LOG_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum zb_log_level { ZB_LOG_QUIET, ZB_LOG_WARN, ZB_LOG_INFO, ZB_LOG_DEBUG } zb_log_level;

void zb_log_set(zb_log_level level);
void zb_error(const char *fmt, ...) ZB_PRINTF(1, 2); /* at every level, no prefix */
void zb_warn(const char *fmt, ...) ZB_PRINTF(1, 2);
void zb_info(const char *fmt, ...) ZB_PRINTF(1, 2);
void zb_debug(const char *fmt, ...) ZB_PRINTF(1, 2);

/* Progress of one piece of work: `total` units named `unit` ("tokens"); `start` units were already
 * done by an earlier run. update() is cheap, call it as often as you like; `note` is a short text
 * such as "loss 2.31" (NULL: none). */
typedef struct zb_progress {
    const char *what, *unit;
    double start, total, t0, t_shown;
} zb_progress;

void zb_progress_begin(zb_progress *p, const char *what, const char *unit, double start,
                       double total);
void zb_progress_update(zb_progress *p, double done, const char *note);
void zb_progress_end(zb_progress *p, double done, const char *note);

/* Appends one JSON object as a line (opened for append, flushed); steals `event`. */
zb_status zb_log_event(const char *path, json_t *event, zb_err *err);

double zb_seconds(void); /* monotonic */

/* SIGINT, SIGTERM and SIGHUP, unless they are ignored, set a flag that long work asks for; the
 * second signal ends the program. A file that grows too large is an error, not a signal. */
void zb_interrupt_install(void);
void zb_interrupt_clear(void); /* for those who go on: the next signal is a first one */
bool zb_interrupted(void);

#endif
