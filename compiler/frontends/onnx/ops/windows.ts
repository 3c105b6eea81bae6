/** Geometry of windows as ONNX gives it: auto_pad, pads, strides, dilations, ceil_mode. */
import { addDims, ceilDivDims, type Dim, isSymbolic, mulDims, subDims } from '../../../graph/dims.js';
import type { Window } from '../../../graph/types.js';
import type { ConvertContext } from '../context.js';

const autoPads = ['NOTSET', 'SAME_UPPER', 'SAME_LOWER', 'VALID'] as const;
export type AutoPad = (typeof autoPads)[number];
export const autoPadOf = (c: ConvertContext): AutoPad => c.choice('auto_pad', autoPads, 'NOTSET');

/** A list attribute with one entry a spatial axis. */
export function spatial(c: ConvertContext, name: string, count: number, standard: number): readonly number[] {
  const list = c.ints(name) ?? new Array<number>(count).fill(standard);
  return list.length === count ? list : c.fail(`wrong length of ${name}`, String(count), String(list.length));
}

/** Explicit pads: those before, and those after. */
export function explicitPads(c: ConvertContext, count: number): { low: readonly number[]; high: readonly number[] } {
  const pads = spatial(c, 'pads', 2 * count, 0);
  return { low: pads.slice(0, count), high: pads.slice(count) };
}

/** Strides, dilations and pads over spatial dims; `kernel` are the window's. */
export function windowOf(c: ConvertContext, dims: readonly Dim[], kernel: readonly number[]): Window {
  const strides = spatial(c, 'strides', dims.length, 1);
  const dilations = spatial(c, 'dilations', dims.length, 1);
  const mode = autoPadOf(c);
  if (mode === 'NOTSET' || mode === 'VALID') {
    const { low, high } =
      mode === 'VALID' ? { low: dims.map(() => 0), high: dims.map(() => 0) } : explicitPads(c, dims.length);
    return { strides, dilations, padLow: low, padHigh: high };
  }
  const total = dims.map((dim, i) => {
    const extent = (kernel[i] - 1) * dilations[i] + 1;
    // With a stride of 1 the size does not matter.
    if (strides[i] === 1) return extent - 1;
    const size = c.concreteDim(dim);
    return Math.max(0, (Math.ceil(size / strides[i]) - 1) * strides[i] + extent - size);
  });
  const less = total.map((pad) => Math.floor(pad / 2));
  const more = total.map((pad) => Math.ceil(pad / 2));
  return mode === 'SAME_UPPER'
    ? { strides, dilations, padLow: less, padHigh: more }
    : { strides, dilations, padLow: more, padHigh: less };
}

/**
 * The window with high pads such that rounding down gives as many places as `ceil_mode` asks for. A last window that
 * would start in the high padding is left out.
 */
export function ceilWindow(c: ConvertContext, window: Window, dims: readonly Dim[], kernel: readonly number[]): Window {
  if (!c.flag('ceil_mode')) return window;
  const padHigh = dims.map((dim, i): Dim => {
    const [low, high, stride] = [window.padLow[i], window.padHigh[i], window.strides[i]];
    if (stride === 1) return high;
    const extent = (kernel[i] - 1) * window.dilations[i] + 1;
    const padded = addDims(addDims(dim, low), high);
    let last = ceilDivDims(subDims(padded, extent), stride);
    if (isSymbolic(last)) return c.notConstant(0);
    if (last * stride >= c.concreteDim(addDims(dim, low))) last -= 1;
    return subDims(addDims(mulDims(last, stride), extent), addDims(dim, low));
  });
  return { ...window, padHigh };
}

/** A spatial window as one over all dims [N, C, …spatial]. */
export const overAll = (
  window: Window,
  kernel: readonly number[],
): Window & { readonly window: readonly number[] } => ({
  window: [1, 1, ...kernel],
  strides: [1, 1, ...window.strides],
  dilations: [1, 1, ...window.dilations],
  padLow: [0, 0, ...window.padLow],
  padHigh: [0, 0, ...window.padHigh],
});
