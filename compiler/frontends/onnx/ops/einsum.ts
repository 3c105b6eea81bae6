/** Einsum: any equation, as a chain of dots over the labels that are not needed any more. */
import { broadcastTo, mul, reduce, reshape, slice1, transpose } from '../../../graph/compose/index.js';
import { type Dim, mulDims } from '../../../graph/dims.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** A value whose axes have labels; labels are letters, or `.0`, `.1` … for the axes of an ellipsis. */
interface Term {
  readonly value: Value;
  readonly labels: readonly string[];
}

function parseTerm(c: ConvertContext, text: string, rank: number, ellipsis: number): string[] {
  const labels: string[] = [];
  for (let i = 0; i < text.length; i++) {
    if (text.startsWith('...', i)) {
      const own = rank - (text.length - 3);
      // Ellipses are aligned at the right.
      for (let k = ellipsis - own; k < ellipsis; k++) labels.push(`.${k}`);
      i += 2;
    } else if (/[A-Za-z]/.test(text[i])) labels.push(text[i]);
    else c.fail(`invalid term ${text} in the equation`);
  }
  return labels;
}

/** Takes the diagonal over axes with one label: flattened, its elements are n + 1 apart. */
function diagonal(c: ConvertContext, { value, labels }: Term): Term {
  const second = labels.findIndex((label, i) => labels.indexOf(label) < i);
  if (second < 0) return { value, labels };
  const first = labels.indexOf(labels[second]);
  const rest = labels.flatMap((_, i) => (i === first || i === second ? [] : [i]));
  const moved = transpose(c.b, value, [...rest, first, second]);
  const size = c.concreteDim(value.type.shape[first]);
  const leading = rest.map((i) => value.type.shape[i]);
  const flat = reshape(c.b, moved, [...leading, mulDims(size, size)]);
  const picked = slice1(c.b, flat, rest.length, 0, size, size + 1);
  return diagonal(c, { value: picked, labels: [...rest.map((i) => labels[i]), labels[first]] });
}

function einsum(c: ConvertContext): Value {
  const equation = c.string('equation').replaceAll(/\s/g, '');
  const [left, right, ...more] = equation.split('->');
  const texts = left.split(',');
  if (more.length > 0 || texts.length !== c.inputs.length) {
    c.fail(`equation ${equation} does not fit the inputs`, `${texts.length} inputs`, String(c.inputs.length));
  }
  const ellipsis = Math.max(0, ...texts.map((text, i) => (text.includes('...') ? c.rank(i) - (text.length - 3) : 0)));
  let terms: Term[] = texts.map((text, i) => {
    const labels = parseTerm(c, text, c.rank(i), ellipsis);
    if (labels.length !== c.rank(i))
      c.fail(`term ${text} does not fit its input`, `${labels.length} axes`, String(c.rank(i)));
    return diagonal(c, { value: c.input(i), labels });
  });
  const counts = new Map<string, number>();
  for (const label of texts.flatMap((text, i) => parseTerm(c, text, c.rank(i), ellipsis))) {
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const all = Array.from({ length: ellipsis }, (_, k) => `.${k}`);
  const implicit = [
    ...all,
    ...[...counts]
      .filter(([l, n]) => n === 1 && !l.startsWith('.'))
      .map(([l]) => l)
      .sort(),
  ];
  const output =
    right === undefined ? implicit : parseTerm(c, right, ellipsis + right.replace('...', '').length, ellipsis);
  const sizes = new Map<string, Dim>();
  for (const { value, labels } of terms) {
    labels.forEach((label, i) => {
      const known = sizes.get(label);
      if (known === undefined || known === 1) sizes.set(label, value.type.shape[i]);
    });
  }
  const unknown = output.find((label) => !sizes.has(label));
  if (unknown !== undefined) c.fail(`output label ${unknown} of ${equation} is in no input`);
  // Axes of 1 that others broadcast do not count.
  terms = terms.map(({ value, labels }) => {
    const kept = labels.flatMap((label, i) => (value.type.shape[i] === 1 && sizes.get(label) !== 1 ? [] : [i]));
    return {
      value: reshape(
        c.b,
        value,
        kept.map((i) => value.type.shape[i]),
      ),
      labels: kept.map((i) => labels[i]),
    };
  });
  const needed = (label: string, others: readonly Term[]): boolean =>
    output.includes(label) || others.some((term) => term.labels.includes(label));
  const reduced = terms.map((term, i) =>
    summed(c, term, (label) =>
      needed(
        label,
        terms.filter((_, k) => k !== i),
      ),
    ),
  );
  let result = reduced[0];
  for (let i = 1; i < reduced.length; i++) {
    result = product(c, result, reduced[i], (label) => needed(label, reduced.slice(i + 1)));
  }
  const order = output.filter((label) => result.labels.includes(label));
  const sorted = transpose(
    c.b,
    result.value,
    order.map((label) => result.labels.indexOf(label)),
  );
  const shape = output.map((label): Dim => (order.includes(label) ? (sizes.get(label) as Dim) : 1));
  return broadcastTo(
    c.b,
    reshape(c.b, sorted, shape),
    output.map((label) => sizes.get(label) as Dim),
  );
}

function summed(c: ConvertContext, { value, labels }: Term, needed: (label: string) => boolean): Term {
  const axes = labels.flatMap((label, i) => (needed(label) ? [] : [i]));
  return { value: reduce(c.b, 'sum', value, axes), labels: labels.filter(needed) };
}

function product(c: ConvertContext, x: Term, y: Term, needed: (label: string) => boolean): Term {
  if (x.labels.length === 0 || y.labels.length === 0) {
    return { value: mul(c.b, x.value, y.value), labels: [...x.labels, ...y.labels] };
  }
  const shared = x.labels.filter((label) => y.labels.includes(label));
  const batch = shared.filter(needed);
  const contract = shared.filter((label) => !needed(label));
  const value = c.op('dot', [x.value, y.value], {
    lhsBatch: batch.map((label) => x.labels.indexOf(label)),
    rhsBatch: batch.map((label) => y.labels.indexOf(label)),
    lhsContract: contract.map((label) => x.labels.indexOf(label)),
    rhsContract: contract.map((label) => y.labels.indexOf(label)),
    dtype: x.value.type.dtype,
  });
  const free = (labels: readonly string[]) => labels.filter((label) => !shared.includes(label));
  return { value, labels: [...batch, ...free(x.labels), ...free(y.labels)] };
}

export const einsums: readonly Conversion[] = [{ op: 'Einsum', since: 12, convert: einsum }];
