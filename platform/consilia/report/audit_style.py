"""The look of audit.html: no file beside it, readable in light and dark, on paper and on narrow screens."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5a6570; --line: #d5dbe1; --paper: #ffffff; --card: #f5f7f9;
  --error: #b3261e; --warning: #8a5a00; --note: #4a5a6a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa6b2; --line: #38424d; --paper: #14181d;
  --card: #1d232a; --error: #ff8a80; --warning: #f0b849; --note: #9db2c6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { margin: .3rem 0; }
.soft, td.soft { color: var(--soft); } code { font-size: .92em; overflow-wrap: anywhere; }
.finding { display: grid; grid-template-columns: 5.5rem 1fr; gap: .75rem; padding: .6rem .9rem; margin: .4rem 0;
  background: var(--card); border-left: 4px solid var(--mark); border-radius: 4px; overflow-wrap: anywhere; }
.finding b { color: var(--mark); text-transform: uppercase; font-size: .78rem; letter-spacing: .04em;
  padding-top: .2rem; }
.error { --mark: var(--error); } .warning { --mark: var(--warning); } .note { --mark: var(--note); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .85rem; } .number { text-align: right; }
td.mark { color: var(--warning); font-weight: 600; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: .8rem;
  align-items: start; }
.case { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem; }
.case > p { font-size: .85rem; color: var(--soft); margin: 0 0 .5rem; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; max-width: 9rem; aspect-ratio: 1; object-fit: contain; background: #000; border-radius: 3px;
  image-rendering: pixelated; }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.tag { display: inline-block; padding: 0 .4rem; border-radius: 3px; border: 1px solid currentColor; font-size: .75rem;
  margin-right: .3rem; color: var(--mark, var(--soft)); }
@media print { body { max-width: none; padding: 0; } .case, .finding { border: 1px solid #999; } }
"""
