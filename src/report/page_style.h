/* page_style.h - the style sheet of report.html: system fonts, light and dark, narrow and wide.
 *
 * Pictures are drawn on white; in the dark they are inverted and their hues turned back, which keeps
 * the colours of the models and makes the ground as dark as a card. */
#ifndef ZB_REPORT_PAGE_STYLE_H
#define ZB_REPORT_PAGE_STYLE_H

static const char page_style[] =
    ":root{color-scheme:light dark;--bg:#f6f7f8;--card:#fff;--fg:#1c2024;--dim:#5f6770;--line:#dfe3e7;"
    "--first:#0072b2;--second:#c85200;--third:#8a949e}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#101214;--card:#1a1a1a;--fg:#e6e8ea;--dim:#9aa3ad;"
    "--line:#33383d;--first:#56b4e9;--second:#f08a4b;--third:#7b858f}"
    "figure svg{filter:invert(.9) hue-rotate(180deg)}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,'Segoe "
    "UI',Roboto,'Helvetica Neue',Arial,sans-serif}\n"
    "main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}\n"
    "h1{font-size:1.9rem;line-height:1.2;margin:0 0 4px}\n"
    "h2{font-size:1.25rem;margin:44px 0 12px;padding-top:14px;border-top:1px solid var(--line)}\n"
    "h3{font-size:1rem;margin:20px 0 8px}\n"
    "p,li{max-width:75ch}.dim{color:var(--dim)}header p{margin:0}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:14px;margin:24px 0 0}\n"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}\n"
    ".card b{display:block;font-size:1.5rem;line-height:1.3;white-space:nowrap;font-weight:650;font-variant-numeric:tabular-nums}\n"
    ".card span{display:block;font-size:.85rem;color:var(--dim)}.card .what{color:var(--fg);font-weight:600}\n"
    ".scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}\n"
    "table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:6px 14px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\n"
    "th:first-child,td:first-child{text-align:left}tbody tr:last-child td{border-bottom:0}\n"
    "tr.section th{padding-top:14px;color:var(--dim);font-size:.8rem;letter-spacing:.04em;"
    "text-transform:uppercase}\n"
    "tr.sum td{font-weight:650}\n"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px;"
    "margin:14px 0}\n"
    "figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px}\n"
    "figure:only-child{max-width:680px}\n"
    "figure svg{display:block;width:100%;height:auto}\n"
    "figcaption{font-size:.85rem;color:var(--dim);padding:8px 4px 0}\n"
    ".strip{display:flex;flex-wrap:wrap;gap:3px;margin:4px 0 14px}\n"
    ".strip i{font:600 .72rem/26px system-ui,sans-serif;width:26px;height:26px;text-align:center;"
    "border-radius:4px;color:#fff;background:var(--third)}\n"
    ".strip i.attention{background:#0072b2}.strip i.mla{background:#c85200}.strip i.mamba2{background:#6f7a85}\n"
    ".strip i.key{margin-left:10px}.strip i.key:first-child{margin-left:0}\n"
    ".strip span{font-size:.85rem;line-height:26px;margin-left:3px}\n"
    ".sample{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px;"
    "margin:14px 0}\n"
    ".texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));gap:16px}\n"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0 0;font:.86rem/1.5 ui-monospace,"
    "SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;unicode-bidi:isolate}\n"
    ".texts pre{border-left:3px solid var(--third);padding-left:12px}\n"
    ".texts div:nth-child(1) pre{border-color:var(--first)}.texts div:nth-child(2) "
    "pre{border-color:var(--second)}\n"
    "details{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;"
    "margin:14px 0}summary{cursor:pointer;font-weight:600}\n"
    "@media print{body{background:#fff}figure,.card,.sample{break-inside:avoid}}\n";

#endif
