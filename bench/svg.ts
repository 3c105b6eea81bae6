/**
 * Charts of ratios as SVG: a bar to the right of 1 where we are better than the peer, to the left where we are not, on
 * a logarithmic scale, so that twice and half are equally far. Readable on light and dark pages.
 */

export interface RatioBar {
  readonly label: string;
  /** Undefined: nothing could be measured, and `note` says why. */
  readonly ratio?: number;
  /** Ratios to further peers, as dots. */
  readonly others: readonly { readonly peer: number; readonly ratio: number }[];
  readonly note: string;
}

export interface RatioChart {
  readonly title: string;
  /** What a bar's length is. */
  readonly caption: string;
  /** The bars' peer first, then those of the dots. */
  readonly peers: readonly string[];
  readonly geomean?: number;
  readonly bars: readonly RatioBar[];
}

const size = { row: 20, head: 68, foot: 34, label: 300, plot: 440, note: 190 } as const;
const width = size.label + size.plot + size.note;

/** Blue and orange stay apart for all kinds of colour vision, on white and on black. */
const style = `
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.quiet { fill: #57606a }
.grid { stroke: #d0d7de; stroke-width: 1 }
.one { stroke: #24292f; stroke-width: 1.5 }
.mean { stroke: #6e40c9; stroke-width: 1.5; stroke-dasharray: 4 3 }
.meantext { fill: #6e40c9 }
.better { fill: #2f81c7 }
.worse { fill: #d9730d }
.dot { stroke: #24292f; stroke-width: 1 }
.dot0 { fill: #ffffff } .dot1 { fill: #f2cc60 } .dot2 { fill: #56d364 } .dot3 { fill: #ff9bce }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .quiet { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .one { stroke: #e6edf3 }
  .mean { stroke: #b392f0 }
  .meantext { fill: #b392f0 }
  .better { fill: #4493f8 }
  .worse { fill: #f0883e }
  .dot { stroke: #e6edf3 }
  .dot0 { fill: #0d1117 }
}`;

const escapes: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
export const escapeXml = (text: string): string => text.replaceAll(/[&<>"]/g, (character) => escapes[character]);

/** Powers of two where there is room for them, else of four or sixteen. */
function ticksOf(low: number, high: number): number[] {
  const step = [1, 2, 4].find((candidate) => (high - low) / candidate <= 10) ?? 8;
  const ticks: number[] = [];
  for (let power = Math.ceil(low / step) * step; power <= high; power += step) ticks.push(power);
  return ticks;
}

const formatRatio = (ratio: number): string =>
  ratio >= 100 ? ratio.toFixed(0) : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2);
const powerText = (power: number): string => (power < 0 ? `1/${2 ** -power}` : String(2 ** power));

const clip = (text: string, most: number): string => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

export function ratioChart({ title, caption, peers, geomean, bars }: RatioChart): string {
  const logs = bars.flatMap(({ ratio, others }) =>
    [ratio, ...others.map((other) => other.ratio)].flatMap((value) => (value === undefined ? [] : Math.log2(value))),
  );
  const low = Math.min(-1, Math.floor(Math.min(...logs, 0) - 0.4));
  const high = Math.max(1, Math.ceil(Math.max(...logs, 0) + 0.4));
  const x = (ratio: number): number => size.label + ((Math.log2(ratio) - low) / (high - low)) * size.plot;
  const bottom = size.head + bars.length * size.row;
  const height = bottom + size.foot;
  const at = (value: number): string => value.toFixed(1);
  const text = (left: number, top: number, content: string, attributes = ''): string =>
    `<text x="${at(left)}" y="${at(top)}"${attributes && ` ${attributes}`}>${escapeXml(content)}</text>`;
  const line = (left: number, kind: string, top: number = size.head): string =>
    `<line class="${kind}" x1="${at(left)}" x2="${at(left)}" y1="${top}" y2="${bottom + 4}"/>`;

  const grid = ticksOf(low, high).flatMap((power) => [
    line(x(2 ** power), power === 0 ? 'one' : 'grid'),
    text(x(2 ** power), bottom + 18, powerText(power), 'text-anchor="middle" class="quiet"'),
  ]);
  const marks = bars.flatMap(({ label, ratio, others, note }, i) => {
    const top = size.head + i * size.row;
    const middle = top + size.row / 2;
    const parts = [text(size.label - 8, middle + 4, clip(label, 46), 'text-anchor="end"')];
    if (ratio !== undefined) {
      const [from, to] = [x(Math.min(1, ratio)), x(Math.max(1, ratio))];
      const box = `x="${at(from)}" y="${top + 3}" width="${at(Math.max(1, to - from))}" height="${size.row - 6}"`;
      parts.push(`<rect class="${ratio >= 1 ? 'better' : 'worse'}" ${box} rx="2"/>`);
      const [end, anchor] = ratio >= 1 ? [to + 4, 'start'] : [from - 4, 'end'];
      parts.push(text(end, middle + 4, formatRatio(ratio), `text-anchor="${anchor}"`));
    }
    for (const other of others) {
      parts.push(`<circle class="dot dot${(other.peer - 1) % 4}" cx="${at(x(other.ratio))}" cy="${middle}" r="4"/>`);
    }
    parts.push(text(size.label + size.plot + 14, middle + 4, clip(note, 30), 'class="quiet"'));
    return parts;
  });
  const legend = peers
    .slice(1)
    .flatMap((peer, i) => [
      `<circle class="dot dot${i % 4}" cx="${size.label + 230 + 150 * i}" cy="40" r="4"/>`,
      text(size.label + 240 + 150 * i, 44, peer, 'class="quiet"'),
    ]);
  const mean =
    geomean === undefined
      ? []
      : [
          line(x(geomean), 'mean', size.head - 6),
          text(x(geomean), size.head - 10, `mean ${formatRatio(geomean)}`, 'text-anchor="middle" class="meantext"'),
        ];
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escapeXml(title)}</title>`,
    `<style>${style}</style>`,
    text(12, 22, title, 'class="title"'),
    text(12, 44, caption, 'class="quiet"'),
    ...legend,
    ...grid,
    ...marks,
    ...mean,
    '</svg>',
  ].join('\n')}\n`;
}
