/** How a contraction is cut for matrix units: what a workgroup and its subgroups multiply, and what that is to cost. */
import { type MatrixUnit, tileMemoryScalar } from '../../../kernel/engines.js';
import type { Target } from '../../../kernel/target.js';
import { scalarBits } from '../../../kernel/types.js';
import type { Contraction } from '../contraction.js';
import type { Product, Side } from './operands.js';

export interface MatrixBlock {
  readonly blockM: number;
  readonly blockN: number;
  readonly blockK: number;
  /** Subgroups along m and n. */
  readonly down: number;
  readonly across: number;
  /** Pairs of operand blocks in shared memory: one is multiplied while the others are on their way. */
  readonly stages: number;
  /** Whether copies to shared memory run by themselves. */
  readonly asynchronous: boolean;
}

interface Shape {
  readonly blockM: number;
  readonly blockN: number;
  readonly down: number;
  readonly across: number;
  /** Share of the unit's rate when the device is full: estimates from loads of shared memory per product. */
  readonly efficiency: number;
}

const shapes: readonly Shape[] = [
  { blockM: 128, blockN: 128, down: 2, across: 4, efficiency: 0.6 },
  { blockM: 128, blockN: 64, down: 4, across: 2, efficiency: 0.5 },
  { blockM: 64, blockN: 128, down: 2, across: 4, efficiency: 0.5 },
  { blockM: 64, blockN: 64, down: 2, across: 2, efficiency: 0.4 },
  { blockM: 32, blockN: 128, down: 1, across: 4, efficiency: 0.35 },
  { blockM: 128, blockN: 32, down: 4, across: 1, efficiency: 0.35 },
  { blockM: 32, blockN: 64, down: 2, across: 2, efficiency: 0.25 },
  { blockM: 16, blockN: 64, down: 1, across: 4, efficiency: 0.15 },
];

/** Bytes of k that a stage holds: rows of shared memory are these and a pad of 16. */
const depthBytes = 64;
/** Stages of asynchronous copies, as many as fit; through registers two are as good as more. */
const mostStages = 4;

export const padBytes = 16;
export const bytesOf = ({ scalar }: Side): number => scalarBits[scalar] / 8;

/** Elements of f32 or i32 from row to row of the sums that a subgroup puts down. */
export const sumPitch = (block: MatrixBlock): number => block.blockN / block.across + 4;

/** What a side's neighbours in shared memory differ in: k, or the row. Bytes are always side by side along k. */
export type Along = 'k' | 'row';

/** Elements of one stage of a side in shared memory, and from line to line. */
export function slotOf(
  side: Side,
  along: Along,
  extent: number,
  blockK: number,
): { readonly size: number; readonly pitch: number } {
  const pad = padBytes / bytesOf(side);
  const pitch = (along === 'k' ? blockK : extent) + pad;
  return { pitch, size: pitch * (along === 'k' ? extent : blockK) };
}

export interface Candidate {
  readonly block: MatrixBlock;
  readonly cost: number;
  readonly workgroups: number;
}

/** Every block that fits, each with its microseconds. */
export function candidatesFor(
  contraction: Contraction,
  { unit, lhs, rhs }: Product,
  along: { readonly lhs: Along; readonly rhs: Along },
  asynchronous: boolean,
  target: Target,
): readonly Candidate[] {
  const { batch, m, n, k } = contraction;
  const { limits, subgroup, parallelism, rates } = target;
  const blockK = Math.max(unit.k, depthBytes / bytesOf(lhs));
  return shapes.flatMap(({ efficiency, ...shape }): Candidate[] => {
    const { blockM, blockN, down, across } = shape;
    const fits = blockM % (down * unit.m) === 0 && blockN % (across * unit.n) === 0;
    const invocations = down * across * subgroup.max;
    if (!fits || invocations > Math.min(limits.workgroupInvocations, limits.workgroupSize[0])) return [];
    const stage =
      slotOf(lhs, along.lhs, blockM, blockK).size * bytesOf(lhs) +
      slotOf(rhs, along.rhs, blockN, blockK).size * bytesOf(rhs);
    const base: MatrixBlock = { ...shape, blockK, stages: 2, asynchronous };
    const sums = down * across * unit.m * sumPitch(base) * (scalarBits[sumScalar(unit)] / 8);
    const room = Math.floor((limits.sharedBytes - sums) / stage);
    if (room < 2) return [];
    const stages = asynchronous ? Math.min(mostStages, room, Math.max(2, Math.ceil(k / blockK))) : 2;
    const [rows, columns] = [Math.ceil(m / blockM), Math.ceil(n / blockN)];
    const waste = (rows * blockM * columns * blockN * Math.ceil(k / blockK) * blockK) / (m * n * k);
    const tiles = batch * rows * columns;
    const waves = (Math.ceil(tiles / parallelism) * parallelism) / tiles;
    const rate = rates.gflops * 1e3 * (unit.speed ?? 1) * efficiency;
    return [{ block: { ...base, stages }, cost: ((2 * batch * m * n * k) / rate) * waste * waves, workgroups: tiles }];
  });
}

/** Type of the sums in memory. */
export const sumScalar = (unit: MatrixUnit): 'f32' | 'i32' => {
  const scalar = tileMemoryScalar({ kind: 'tile', name: '', role: 'accumulator', ...unit, scalar: unit.accumulator });
  if (scalar !== 'f32' && scalar !== 'i32') throw new Error(`sums of ${scalar}`);
  return scalar;
};
