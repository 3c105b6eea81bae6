/** A page about a model: one file, no scripts, nothing loaded from elsewhere. */
import type { Inspection } from './inspection.js';
import { formatBytes, formatNumber, shortDim } from './output.js';

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};
/** Names come from models, which nobody vouches for. */
const escapeHtml = (text: string): string => text.replaceAll(/[&<>"']/g, (char) => entities[char]);

const style = `
  :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
  body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; }
  dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; }
  dt { opacity: .7; } dd { margin: 0; font-size: 1.2rem; }
  code { font-size: .9em; overflow-wrap: anywhere; }
  .bar { display: inline-block; height: .7em; background: #4a8; border-radius: 2px; }`;

const table = (heads: readonly string[], rows: readonly (readonly string[])[]): string =>
  `<table><thead><tr>${heads.map((head) => `<th>${escapeHtml(head)}</th>`).join('')}</tr></thead><tbody>${rows
    .map((row) => `<tr>${row.map((cell) => `<td>${cell}</td>`).join('')}</tr>`)
    .join('\n')}</tbody></table>`;
const code = (text: string): string => `<code>${escapeHtml(text)}</code>`;

export function htmlReport(inspection: Inspection): string {
  const { name, model, target, numerics, inputs, outputs, ops, assumed, placement } = inspection;
  const facts: readonly (readonly [string, string])[] = [
    ['Nodes', String(inspection.nodes)],
    ['Groups after fusion', String(inspection.groups)],
    ['Kernels', String(inspection.kernels)],
    ['Dispatches', String(inspection.dispatches)],
    ['Constants folded', String(inspection.constantsFolded)],
    ['Weights', formatBytes(inspection.weightsBytes)],
    ['Arena', formatBytes(inspection.arenaBytes)],
    ['Largest live', formatBytes(inspection.largestLiveBytes)],
    ['Work', `${formatNumber(inspection.flops / 1e9)} GFLOP`],
    ['Bytes moved', formatBytes(inspection.bytesMoved)],
  ];
  const most = Math.max(1, ...Object.values(ops));
  const value = (kind: string, { name: of, dtype, shape }: Inspection['inputs'][number]): string[] => [
    kind,
    code(of),
    dtype,
    escapeHtml(`[${shape.map(shortDim).join(', ')}]`),
  ];
  const sized = Object.entries(assumed)
    .map(([dim, size]) => `${dim}=${size}`)
    .join(', ');
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(name)}</title><style>${style}</style></head>
<body>
<h1>${escapeHtml(name)}</h1>
<p>${code(model)}, planned for ${code(target)}, numerics ${escapeHtml(numerics)}${sized === '' ? '' : `, with ${escapeHtml(sized)}`}.</p>
<dl>${facts.map(([label, text]) => `<div><dt>${label}</dt><dd>${escapeHtml(text)}</dd></div>`).join('')}</dl>
<h2>Inputs and outputs</h2>
${table(['', 'Name', 'Type', 'Shape'], [...inputs.map((info) => value('input', info)), ...outputs.map((info) => value('output', info))])}
<h2>Ops</h2>
${table(
  ['Op', 'Count', ''],
  Object.entries(ops).map(([op, count]) => [
    code(op),
    String(count),
    `<span class="bar" style="width:${((10 * count) / most).toFixed(2)}rem"></span>`,
  ]),
)}
<h2>Groups</h2>
${table(
  ['#', 'Kernel', 'Family', 'Nodes of the model', 'Notes'],
  placement.map(({ kernel, family, sources, notes }, i) => [
    String(i),
    code(kernel),
    escapeHtml(family),
    sources.map(code).join(' '),
    escapeHtml(notes.join('; ')),
  ]),
)}
</body>
</html>
`;
}
