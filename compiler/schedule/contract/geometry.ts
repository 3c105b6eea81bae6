/**
 * Convolutions by taps: which plane of the input, and how far shifted, each kernel element reads.
 *
 * Strides split the input into one plane a residue (position s·y + r is element y of plane r), so that every tap reads
 * consecutive elements of one plane. Input dilations split the output instead: outputs of one residue (a class) use a
 * fixed subset of the taps, densely.
 */
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import { type Index, range, shapeOf } from '../tensors.js';

/** One spatial dim. Output o of residue `class` (o = o'·dilation + class) takes plane `phase` at o' + shift. */
export interface Tap {
  readonly k: number;
  readonly phase: number;
  readonly shift: number;
}
export interface Dim {
  readonly input: number;
  readonly output: number;
  readonly kernel: number;
  readonly stride: number;
  readonly inputDilation: number;
  /** Taps of each residue of the output. */
  readonly classes: readonly (readonly Tap[])[];
  readonly phases: readonly number[];
  readonly minShift: number;
  readonly maxShift: number;
  /** Outputs of the largest class. */
  readonly extent: number;
}

/** Geometry of a convolution as two spatial dims; `spatial` gives the original index. */
export interface Geometry {
  readonly h: Dim;
  readonly w: Dim;
  spatial(h: Affine, w: Affine): Index;
}

const trivial: Dim = dimOf(1, 1, 1, 1, 0, 1, 1);

function dimOf(
  input: number,
  output: number,
  kernel: number,
  stride: number,
  padLow: number,
  dilation: number,
  inputDilation: number,
): Dim {
  const classes = range(inputDilation).map((residue) =>
    range(kernel).flatMap((k): Tap[] => {
      const offset = residue + k * dilation - padLow;
      if (inputDilation > 1)
        return offset % inputDilation === 0 ? [{ k, phase: 0, shift: offset / inputDilation }] : [];
      const shift = Math.floor(offset / stride);
      return [{ k, phase: offset - shift * stride, shift }];
    }),
  );
  const shifts = classes.flat().map((tap) => tap.shift);
  return {
    input,
    output,
    kernel,
    stride,
    inputDilation,
    classes,
    phases: [...new Set(classes.flat().map((tap) => tap.phase))].sort((p, q) => p - q),
    minShift: Math.min(...shifts),
    maxShift: Math.max(...shifts),
    extent: Math.ceil(output / inputDilation),
  };
}

/** Planes and classes of a dim that code may be written out for; beyond, gathering element by element is better. */
const mostResidues = 4;

/** The taps of a convolution, or undefined where it has no such form: three spatial dims, long strides, slices. */
export function geometryOf(group: Group): Geometry | undefined {
  const node = group.anchor;
  if (node?.op !== 'conv' || group.slices) return undefined;
  const { strides, padLow, dilations, inputDilation } = node.attrs;
  const [inputs, kernels, outputs] = [node.inputs[0], node.inputs[1], node.outputs[0]].map((v) => shapeOf(v).slice(2));
  const dims = inputs.map((input, d) =>
    dimOf(input, outputs[d], kernels[d], strides[d], Number(padLow[d]), dilations[d], inputDilation[d]),
  );
  if (dims.some((dim, d) => dim.stride > 1 && inputDilation[d] > 1)) return undefined;
  if (dims.some((dim) => dim.phases.length > mostResidues || dim.classes.length > mostResidues)) return undefined;
  const isTrivial = ({ input, output, kernel }: Dim, d: number) =>
    input === 1 && output === 1 && kernel === 1 && Number(padLow[d]) === 0;
  const real = range(dims.length).filter((d) => !isTrivial(dims[d], d));
  if (real.length > 2) return undefined;
  const [hAt, wAt] = real.length === 2 ? real : [-1, real[0] ?? -1];
  return {
    h: hAt < 0 ? trivial : dims[hAt],
    w: wAt < 0 ? trivial : dims[wAt],
    spatial: (h, w) => dims.map((_, d) => (d === hAt ? h : d === wAt ? w : Affine.constant(0))),
  };
}

/** Elements of plane `phase` that exist. */
export const countOf = (dim: Dim, phase: number): number => Math.max(0, Math.ceil((dim.input - phase) / dim.stride));

/** Taps as arithmetic progressions of one phase each: first tap, count, and the steps of k and of the shift. */
export function progressions(taps: readonly Tap[]): [first: Tap, count: number, stepK: number, stepShift: number][] {
  return [...new Set(taps.map((tap) => tap.phase))].map((phase) => {
    const own = taps.filter((tap) => tap.phase === phase);
    return own.length === 1
      ? [own[0], 1, 0, 0]
      : [own[0], own.length, own[1].k - own[0].k, own[1].shift - own[0].shift];
  });
}
