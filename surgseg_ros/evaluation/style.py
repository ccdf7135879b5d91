# SPDX-License-Identifier: Apache-2.0
"""How a report looks."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5d6b7a; --line: #d9e0e7; --sheet: #f4f6f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--sheet); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 28px; margin: 0 0 20px; }
h2 { font-size: 19px; margin: 0 0 4px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px 24px; margin: 0 0 20px; overflow-x: auto; }
.note { color: var(--soft); max-width: 78ch; margin: 0 0 16px; }
.cards { display: flex; flex-wrap: wrap; gap: 16px; }
.card { flex: 1 1 200px; border: 1px solid var(--line); border-radius: 8px; padding: 12px 18px; }
.card b { display: block; font-size: 34px; line-height: 1.25; }
.card span { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: 13px; line-height: 1.3; }
.numbers { width: 100%; margin-top: 22px; }
.numbers th, .numbers td { text-align: right; padding: 5px 10px;
  border-bottom: 1px solid var(--line); }
.numbers th { vertical-align: bottom; }
.numbers th:first-child, .numbers td:first-child { text-align: left; padding-left: 0; }
.bars { display: grid; grid-template-columns: max-content repeat(3, 1fr); gap: 0 26px;
  align-items: center; min-width: 760px; }
.bars .head { font-weight: 600; padding-bottom: 2px; }
.bars .name { padding-right: 4px; }
.track, .axis { position: relative; margin-right: 44px; }
.track { height: 30px; border-left: 1px solid var(--soft); background:
  repeating-linear-gradient(to right, transparent 0 calc(25% - 1px),
    var(--line) calc(25% - 1px) 25%); }
.bar { position: absolute; top: 6px; bottom: 6px; left: 0; border: 1px solid rgb(0 0 0 / 45%);
  border-left: 0; border-radius: 0 3px 3px 0; }
.tick { position: absolute; top: 2px; bottom: 2px; width: 3px; margin-left: -1px;
  background: var(--ink); outline: 1px solid #fff; }
.value { position: absolute; left: calc(100% + 8px); top: 4px;
  font-variant-numeric: tabular-nums; }
.axis { height: 22px; color: var(--soft); font-size: 12px; }
.axis span { position: absolute; transform: translateX(-50%); }
.matrix { font-size: 13px; table-layout: fixed; width: 100%; min-width: 940px; }
.matrix th, .matrix td { padding: 6px 3px; text-align: center; border: 1px solid #fff; }
.matrix .row { text-align: right; padding-right: 10px; color: var(--ink); width: 132px; }
.matrix .corner { text-align: left; font-weight: 400; }
.matrix .same { outline: 2px solid var(--ink); outline-offset: -2px; }
figure { margin: 0; padding: 16px 0 6px; border-top: 1px solid var(--line); }
figcaption { display: flex; justify-content: space-between; font-weight: 600; margin-bottom: 8px; }
figcaption span { font-weight: 400; color: var(--soft); }
.panels { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; }
.panel span { display: block; color: var(--soft); font-size: 13px; margin-bottom: 2px; }
.panel img, .none { display: block; width: 100%; border-radius: 4px; }
.none { background: var(--sheet); color: var(--soft); padding: 60px 0; text-align: center; }
.chip { display: inline-block; margin: 10px 16px 0 0; font-size: 13px;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.swatch { display: inline-block; width: 12px; height: 12px; border: 1px solid rgb(0 0 0 / 45%);
  border-radius: 3px; vertical-align: -1px; margin-right: 7px; }
"""
