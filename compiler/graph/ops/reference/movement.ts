/** Movement ops on host tensors: strided copies of whole runs. */
import { type HostTensor, sizeOf } from '../../../tensor.js';
import { type Elements, elementsOf, newElements, stridesOf, tensorOfElements } from './data.js';

/**
 * Copies a box: element i… of the result is `source[offset + Σ iₖ·sourceStrides[k]]`, written at
 * `targetOffset + Σ iₖ·targetStrides[k]`. Runs that lie alike in both are copied as one.
 */
export function copyBox(
  source: Elements,
  offset: number,
  sourceStrides: readonly number[],
  target: Elements,
  targetOffset: number,
  targetStrides: readonly number[],
  shape: readonly number[],
): void {
  if (shape.some((dim) => dim === 0)) return;
  const axes = mergeAxes(shape, sourceStrides, targetStrides);
  const inner = axes.pop();
  if (!inner) {
    target[targetOffset] = source[offset];
    return;
  }
  const { size, from, to } = inner;
  const copyable = from === 1 && to === 1 && size > 8 && !Array.isArray(source);
  const index = new Array<number>(axes.length).fill(0);
  let [p, q] = [offset, targetOffset];
  for (;;) {
    if (copyable) (target as Uint8Array).set((source as Uint8Array).subarray(p, p + size), q);
    else for (let i = 0, s = p, t = q; i < size; i++, s += from, t += to) target[t] = source[s];
    let axis = axes.length - 1;
    for (; axis >= 0; axis--) {
      const { size: length, from: step, to: advance } = axes[axis];
      p += step;
      q += advance;
      if (++index[axis] < length) break;
      index[axis] = 0;
      p -= length * step;
      q -= length * advance;
    }
    if (axis < 0) return;
  }
}

interface CopyAxis {
  size: number;
  readonly from: number;
  readonly to: number;
}

/** Drops axes of size 1 and joins neighbours that are one run in source and target. */
function mergeAxes(shape: readonly number[], from: readonly number[], to: readonly number[]): CopyAxis[] {
  const axes: CopyAxis[] = [];
  shape.forEach((size, i) => {
    if (size === 1) return;
    const last = axes[axes.length - 1];
    if (last && last.from === from[i] * size && last.to === to[i] * size) {
      axes[axes.length - 1] = { size: last.size * size, from: from[i], to: to[i] };
    } else axes.push({ size, from: from[i], to: to[i] });
  });
  return axes;
}

/** The packed tensor of a strided view of x. */
function gathered(x: HostTensor, shape: readonly number[], offset: number, strides: readonly number[]): HostTensor {
  const out = newElements(x.dtype, sizeOf(shape));
  copyBox(elementsOf(x), offset, strides, out, 0, stridesOf(shape), shape);
  return tensorOfElements(x.dtype, shape, out);
}

export function transpose(x: HostTensor, permutation: readonly number[]): HostTensor {
  const strides = stridesOf(x.shape);
  return gathered(
    x,
    permutation.map((axis) => x.shape[axis]),
    0,
    permutation.map((axis) => strides[axis]),
  );
}

export function broadcast(x: HostTensor, shape: readonly number[]): HostTensor {
  const strides = stridesOf(x.shape);
  const offset = shape.length - x.shape.length;
  return gathered(
    x,
    shape,
    0,
    shape.map((_, i) => (i < offset || x.shape[i - offset] === 1 ? 0 : strides[i - offset])),
  );
}

export function slice(
  x: HostTensor,
  starts: readonly number[],
  sizes: readonly number[],
  steps: readonly number[],
): HostTensor {
  const strides = stridesOf(x.shape);
  const offset = starts.reduce((sum, start, i) => sum + start * strides[i], 0);
  return gathered(
    x,
    sizes,
    offset,
    strides.map((stride, i) => stride * steps[i]),
  );
}

export function concat(inputs: readonly HostTensor[], shape: readonly number[], axis: number): HostTensor {
  const { dtype } = inputs[0];
  const out = newElements(dtype, sizeOf(shape));
  const strides = stridesOf(shape);
  let at = 0;
  for (const input of inputs) {
    copyBox(elementsOf(input), 0, stridesOf(input.shape), out, at * strides[axis], strides, input.shape);
    at += input.shape[axis];
  }
  return tensorOfElements(dtype, shape, out);
}

/** Source place of a padded place along one axis. Reflections repeat where a pad is longer than the axis. */
const padIndex = {
  edge: (i: number, size: number) => Math.min(Math.max(i, 0), size - 1),
  wrap: (i: number, size: number) => ((i % size) + size) % size,
  reflect(i: number, size: number): number {
    if (size === 1) return 0;
    const period = 2 * (size - 1);
    const at = ((i % period) + period) % period;
    return at < size ? at : period - at;
  },
} as const;

export function pad(
  x: HostTensor,
  value: HostTensor | undefined,
  low: readonly number[],
  shape: readonly number[],
  mode: 'constant' | keyof typeof padIndex,
): HostTensor {
  const source = elementsOf(x);
  const out = newElements(x.dtype, sizeOf(shape));
  const strides = stridesOf(shape);
  if (mode === 'constant') {
    const [fill] = elementsOf(value as HostTensor);
    (out as unknown[]).fill(fill);
    const offset = low.reduce((sum, p, i) => sum + p * strides[i], 0);
    copyBox(source, 0, stridesOf(x.shape), out, offset, strides, x.shape);
    return tensorOfElements(x.dtype, shape, out);
  }
  const places = shape.map((size, axis) =>
    Int32Array.from({ length: size }, (_, i) => padIndex[mode](i - low[axis], x.shape[axis])),
  );
  pickBox(source, x.shape, places, out);
  return tensorOfElements(x.dtype, shape, out);
}

/** target[i…] = source[places[0][i₀], places[1][i₁], …], both packed. */
export function pickBox(
  source: Elements,
  shape: readonly number[],
  places: readonly ArrayLike<number>[],
  target: Elements,
): void {
  const strides = stridesOf(shape);
  const last = shape.length - 1;
  let at = 0;
  const walk = (axis: number, offset: number): void => {
    const list = places[axis];
    if (axis === last) for (let i = 0; i < list.length; i++) target[at++] = source[offset + list[i]];
    else for (let i = 0; i < list.length; i++) walk(axis + 1, offset + list[i] * strides[axis]);
  };
  if (last < 0) target[0] = source[0];
  else walk(0, 0);
}
