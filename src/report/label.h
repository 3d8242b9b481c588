/* label.h - text for people: numbers with units, and strings from outside made harmless.
 *
 * Strings from files and command lines may hold anything. What is written goes through one of three
 * doors: HTML, Markdown cells, plot labels. Each takes any bytes and gives valid UTF-8: what is not
 * valid, and control characters, become U+FFFD. */
#ifndef ZB_REPORT_LABEL_H
#define ZB_REPORT_LABEL_H

#include "base/text.h"

enum { ZB_LABEL = 40 }; /* bytes that hold any formatted number */

/* "134.5 M", "45.0 KiB", "12 min"; a dash for NAN and for counts below zero. */
void zb_label_count(double x, char out[ZB_LABEL]);
void zb_label_bytes(double x, char out[ZB_LABEL]);
void zb_label_seconds(double x, char out[ZB_LABEL]);
void zb_label_ratio(double x, char out[ZB_LABEL]); /* three significant digits */

/* Valid UTF-8, control characters other than tab and newline replaced. */
void zb_label_text(zb_buf *out, const char *s, size_t n);

/* The same with & < > " ' written as entities: safe in elements and quoted attributes. */
void zb_label_html(zb_buf *out, const char *s, size_t n);

/* One cell of a Markdown table: one line, no bars, no HTML. */
char *zb_label_cell(zb_arena *a, const char *s);

/* For data files and scripts of gnuplot: letters, digits, space, and _ . - + ( ) / : % stay, and
 * all valid characters above ASCII; the rest becomes "_". At most `max` characters. */
char *zb_label_plot(zb_arena *a, const char *s, size_t max);

#endif
