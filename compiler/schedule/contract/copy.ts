/**
 * The rhs of a contraction copied into temporary memory, once, in the form that register tiles read fast on a GPU: rows
 * of aligned vectors, zeros for padding, no conversions.
 */
import type { Target } from '../../kernel/target.js';
import { type KernelFunction, type KMemory, scalarBits } from '../../kernel/types.js';
import { memoriesOf, visitKernel } from '../../kernel/walk.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { Binding, LoweredKernel, Temporary } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import type { Contraction } from './contraction.js';
import type { Dim, Geometry } from './geometry.js';
import { loweringOf } from './integer_contraction.js';
import { vector } from './tiling.js';

export interface Copy {
  readonly memory: Temporary;
  readonly length: number;
  /** Elements of a row. */
  readonly pitch: number;
  readonly kernel: LoweredKernel;
}

const roundUp = (count: number, to: number): number => Math.ceil(count / to) * to;

/** [image][channel][phase h][phase w][row][pitch]; row y of the copy is row y + h.minShift of the plane, columns alike. */
export interface PlanesCopy extends Copy {
  readonly rows: number;
  readonly phasesH: readonly number[];
  readonly phasesW: readonly number[];
}

/** Phases as first + i·step, so that an index finds them by arithmetic. */
function regular({ phases, stride }: Dim): readonly number[] {
  const step = phases.length > 1 ? phases[1] - phases[0] : 0;
  return phases.every((phase, i) => phase === phases[0] + i * step) ? phases : range(stride);
}

/** @param columns Columns of a row that tiles may touch before shifts are added. */
export function copyPlanes(
  group: Group,
  target: Target,
  contraction: Contraction,
  { h, w, spatial }: Geometry,
  columns: number,
): PlanesCopy {
  const { rhs, batch, k, lhsBatches: groups } = contraction;
  const [images, channels] = [batch / groups, (groups * k) / (h.kernel * w.kernel)];
  const rows = h.extent + h.maxShift - h.minShift;
  const pitch = roundUp(columns + w.maxShift - w.minShift, vector);
  const [phasesH, phasesW] = [regular(h), regular(w)];
  const shape = [images, channels, phasesH.length, phasesW.length, rows, pitch / vector];
  const point = rhs.point as NonNullable<typeof rhs.point>;
  const phaseOf = (phases: readonly number[], at: Affine) =>
    at.scale(phases.length > 1 ? phases[1] - phases[0] : 0).add(phases[0]);
  return copyOf(
    group,
    target,
    contraction,
    pitch,
    shape,
    (lowering, [image, channel, ph, pw, row, column]) => {
      const { b } = lowering;
      return b.build(
        range(vector).map((lane) => {
          const y = row.add(h.minShift).scale(h.stride).add(phaseOf(phasesH, ph));
          const x = column
            .scale(vector)
            .add(lane + w.minShift)
            .scale(w.stride)
            .add(phaseOf(phasesW, pw));
          return point(lowering, image, channel, spatial(y, x));
        }),
      );
    },
    { rows, phasesH, phasesW },
  );
}

/** [batch][k][pitch]. */
export function copyRows(group: Group, target: Target, contraction: Contraction): Copy {
  const { rhs, rhsBatches, k, n } = contraction;
  const pitch = roundUp(n, vector);
  return copyOf(
    group,
    target,
    contraction,
    pitch,
    [rhsBatches, k, pitch / vector],
    (lowering, [batch, step, column]) => {
      const { b } = lowering;
      return b.build(
        range(vector).map((lane) => {
          const at = column.scale(vector).add(lane);
          const inside = at.range.max < n ? at : Affine.of(b.min(at.emit(b), b.constant(n - 1)), b);
          return rhs.element(lowering, batch, inside, step, 1);
        }),
      );
    },
    {},
  );
}

function copyOf<Extra extends object>(
  group: Group,
  target: Target,
  contraction: Contraction,
  pitch: number,
  shape: readonly number[],
  element: (lowering: Lowering, index: readonly Affine[]) => ReturnType<Lowering['value']>,
  extra: Extra,
): Copy & Extra {
  const { scalar } = contraction;
  const length = shape.reduce((product, extent) => product * extent, 1) * vector;
  const memory: Temporary = {
    kind: 'temporary',
    name: `${contraction.rhs.value.name}.copy`,
    bytes: (length * scalarBits[scalar]) / 8,
  };
  const lowering = loweringOf(group, target, contraction);
  const { b } = lowering;
  const buffer = b.buffer('copy', scalar, length, 'write');
  const workgroup = Math.min(target.style === 'simt' ? 128 : 64, target.limits.workgroupInvocations);
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const grid = lowering.workgroups(Math.ceil(length / vector / workgroup), (at) => {
    lowering.guarded(at.scale(workgroup).add(local), length / vector, (flat) => {
      const value = b.convert(element(lowering, delinearize(flat, shape)), scalar);
      b.store(buffer, flat.scale(vector).emit(b), value, true);
    });
  });
  const kernel = lowering.finish(grid, [workgroup, 1, 1]);
  return {
    memory,
    length,
    pitch,
    kernel: trimmed({ ...kernel, name: `${kernel.name}_copy` }, [...lowering.bindings, memory]),
    ...extra,
  };
}

/** The kernel without the buffers that it does not touch. */
export function trimmed(kernel: KernelFunction, bindings: readonly Binding[]): LoweredKernel {
  const used = new Set<KMemory>();
  visitKernel(kernel, (inst) => {
    for (const memory of memoriesOf(inst)) used.add(memory);
  });
  const buffers = kernel.params.filter((param) => param.kind === 'buffer');
  return {
    kernel: { ...kernel, params: kernel.params.filter((param) => param.kind !== 'buffer' || used.has(param)) },
    bindings: bindings.filter((_, i) => used.has(buffers[i])),
  };
}
