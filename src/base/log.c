/* log.c - messages, progress line, event lines, interrupt flag (contract in log.h).
 *
 * The level and the interrupt flag are the process-wide state the library allows itself. */
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static zb_log_level level = ZB_LOG_INFO;
static volatile sig_atomic_t interrupted;
static bool line_open; /* a progress line is on the terminal and must be ended before other text */

void zb_log_set(zb_log_level l) { level = l; }

double zb_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say(const char *prefix, const char *fmt, va_list ap) {
    char text[2048];
    vsnprintf(text, sizeof text, fmt, ap);
    fprintf(stderr, "%s%s%s\n", line_open ? "\n" : "", prefix, text);
    line_open = false;
}

#define ZB_SAY(min_level, prefix)                                                                  \
    do {                                                                                           \
        if (level < (min_level)) return;                                                           \
        va_list ap;                                                                                \
        va_start(ap, fmt);                                                                         \
        say(prefix, fmt, ap);                                                                      \
        va_end(ap);                                                                                \
    } while (0)

void zb_error(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}
void zb_warn(const char *fmt, ...) { ZB_SAY(ZB_LOG_WARN, "warning: "); }
void zb_info(const char *fmt, ...) { ZB_SAY(ZB_LOG_INFO, ""); }
void zb_debug(const char *fmt, ...) { ZB_SAY(ZB_LOG_DEBUG, "debug: "); }

void zb_progress_begin(zb_progress *p, const char *what, const char *unit, double start,
                       double total) {
    *p = (zb_progress){
        .what = what, .unit = unit, .start = start, .total = total, .t0 = zb_seconds()};
    p->t_shown = p->t0;
}

static void time_text(double s, char out[32]) {
    if (s < 90)
        snprintf(out, 32, "%.0f s", s);
    else if (s < 5400)
        snprintf(out, 32, "%.0f min", s / 60);
    else
        snprintf(out, 32, "%.1f h", s / 3600);
}

static void show(zb_progress *p, double done, const char *note, bool last) {
    double now = zb_seconds(), spent = now - p->t0;
    double rate = spent > 0 ? (done - p->start) / spent : 0;
    char left[32];
    time_text(last ? spent : rate > 0 ? (p->total - done) / rate : 0, left);
    bool tty = isatty(STDERR_FILENO);
    fprintf(stderr, "%s%s %.0f/%.0f %s (%.0f %%), %.4g %s/s, %s %s%s%s%s", tty ? "\r\033[K" : "",
            p->what, done, p->total, p->unit, p->total > 0 ? 100 * done / p->total : 100, rate,
            p->unit, last ? "took" : "left", left, note ? ", " : "", note ? note : "",
            tty && !last ? "" : "\n");
    fflush(stderr);
    line_open = tty && !last;
    p->t_shown = now;
}

void zb_progress_update(zb_progress *p, double done, const char *note) {
    if (level < ZB_LOG_INFO) return;
    double every = isatty(STDERR_FILENO) ? 0.2 : 10.0;
    if (zb_seconds() - p->t_shown >= every) show(p, done, note, false);
}

void zb_progress_end(zb_progress *p, double done, const char *note) {
    if (level >= ZB_LOG_INFO) show(p, done, note, true);
}

zb_status zb_log_event(const char *path, json_t *event, zb_err *err) {
    FILE *f = fopen(path, "ab");
    if (!f) {
        json_decref(event);
        return zb_fail(err, ZB_ERR_IO, "%s: cannot append: %s", path, strerror(errno));
    }
    int bad = json_dumpf(event, f, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(event);
    if (fputc('\n', f) == EOF) bad = -1;
    if (fclose(f) != 0) bad = -1;
    return bad ? zb_fail(err, ZB_ERR_IO, "%s: cannot append: %s", path, strerror(errno)) : ZB_OK;
}

static void on_signal(int sig) {
    if (interrupted) {
        signal(sig, SIG_DFL);
        raise(sig);
    }
    interrupted = 1;
}

void zb_interrupt_install(void) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* nohup */
            sigaction(signals[i], &sa, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is then an error of the write */
}

void zb_interrupt_clear(void) { interrupted = 0; }

bool zb_interrupted(void) { return interrupted != 0; }
