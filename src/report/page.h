/* page.h - report.html: one file that needs nothing else.
 *
 * Pictures and style are inside, there are no scripts and no addresses of other machines, and a
 * content policy in its head makes browsers hold to that. All text from outside is escaped. */
#ifndef ZB_REPORT_PAGE_H
#define ZB_REPORT_PAGE_H

#include "report/measure.h"
#include "report/plot.h"

void zb_report_page(const zb_report_measures *m, const zb_report_plots *plots, zb_buf *out);

#endif
