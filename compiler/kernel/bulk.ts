/**
 * Kernel IR of Hopper-like devices: copies of whole boxes of a tensor, barriers that count bytes, and products that a
 * warpgroup (four consecutive subgroups from a multiple of four on) begins on operands in shared memory.
 * `Target.features` has `warpgroups` where these exist.
 *
 * Signals. A `KSignal` is a row of barriers in shared memory. `signal_init` gives one the number of arrivals that
 * complete a phase; others see it after the next `barrier`. A phase completes when that many arrivals and all expected
 * bytes have come; then the next begins. `signal_arrive` is one arrival, `signal_expect` one that also announces bytes,
 * `signal_wait` waits until the phase of the given parity has completed: of a fresh signal the phase before the first,
 * of parity 1, counts as completed. What happened before the arrivals is seen after the wait.
 *
 * Tensor copies. A `KTensorMap` describes a tensor in a buffer, innermost dimension first. `tensor_copy`, by one
 * invocation, brings the box at `at` to shared memory, dense and innermost first, with zeros where the tensor does not
 * exist, and tells `signal` of its bytes. `index` is a multiple of 1024 bytes. Until the signal's phase has completed the
 * elements are undefined.
 *
 * Swizzle. Both ends see shared memory through a permutation of 16-byte units: byte address a (of arrays that begin at
 * multiples of 1024) is where a ^ ((a >> 3) & 0x70) lies. Rows of a box have 128 bytes.
 *
 * Products. `group_multiply` begins accumulator += a · b for tiles of a warpgroup (`KTile.subgroups` is 4; rows in order
 * of subgroups), with elements of 16 bits: element (row, k) of `a`, or (column, k) of `b`, is element
 * index + 64·row + k (`along` k) or index + panel·(row div 64) + 64·k + row mod 64 (`along` row), swizzled. A row lies
 * within a 128-byte row of a box, a panel has 64 rows. `a` may also be a tile of the warpgroup, 64×16. `group_commit` closes a group of the products begun so far and
 * `group_wait` waits until at most `pending` groups are unfinished; until then accumulators and operands must not be
 * touched. `group_fence` comes before the first product after registers of an accumulator were written by other ops.
 *
 * `registers` moves registers between the warpgroups of a workgroup: those that execute it have `count` each from then on.
 */
import type { KTile } from './engines.js';
import type { KArray, KBuffer, KMemory, KValue } from './types.js';

export interface KSignal {
  readonly kind: 'signal';
  readonly name: string;
  readonly count: number;
}

/** A tensor for `tensor_copy`, from element `offset` of the buffer on. Sizes in elements, innermost dimension first. */
export interface KTensorMap {
  readonly kind: 'tensor_map';
  readonly name: string;
  readonly buffer: KBuffer;
  readonly offset: number;
  readonly dims: readonly number[];
  /** Of the dimensions after the innermost, whose elements are neighbours; multiples of 16 bytes. */
  readonly strides: readonly number[];
  readonly box: readonly number[];
}

export interface GroupOperand {
  readonly memory: KArray;
  readonly index: KValue;
  readonly along: 'k' | 'row';
  /** Elements from one panel of 64 rows to the next. */
  readonly panel: number;
}

export const isTile = (operand: GroupOperand | KTile): operand is KTile => 'role' in operand;

export type BulkInst =
  | { readonly op: 'signal_init'; readonly signal: KSignal; readonly index: KValue; readonly arrivals: number }
  | { readonly op: 'signal_expect'; readonly signal: KSignal; readonly index: KValue; readonly bytes: number }
  | { readonly op: 'signal_arrive'; readonly signal: KSignal; readonly index: KValue }
  | { readonly op: 'signal_wait'; readonly signal: KSignal; readonly index: KValue; readonly parity: KValue }
  | {
      readonly op: 'tensor_copy';
      readonly map: KTensorMap;
      /** Coordinates of the box's first element; may lie outside. */
      readonly at: readonly KValue[];
      readonly memory: KArray;
      readonly index: KValue;
      readonly signal: KSignal;
      readonly signalIndex: KValue;
    }
  | { readonly op: 'group_fence' }
  | {
      readonly op: 'group_multiply';
      /** Element type of both operands; their memory may hold the bits as u16. */
      readonly scalar: 'f16' | 'bf16';
      readonly accumulator: KTile;
      readonly a: GroupOperand | KTile;
      readonly b: GroupOperand;
    }
  | { readonly op: 'group_commit' }
  | { readonly op: 'group_wait'; readonly pending: number }
  | { readonly op: 'registers'; readonly count: number; readonly change: 'grow' | 'shrink' };

export const bulkOps: readonly BulkInst['op'][] = [
  'signal_init',
  'signal_expect',
  'signal_arrive',
  'signal_wait',
  'tensor_copy',
  'group_fence',
  'group_multiply',
  'group_commit',
  'group_wait',
  'registers',
];
const bulkNames: ReadonlySet<string> = new Set(bulkOps);

export const isBulkInst = <I extends { readonly op: string }>(inst: I): inst is Extract<I, BulkInst> =>
  bulkNames.has(inst.op);

/** Subgroups of a warpgroup. */
export const warpgroup = 4;

/** Whether the op is executed by all of a warpgroup together. */
export const isGroupOp = ({ op }: BulkInst): boolean => op.startsWith('group_') || op === 'registers';

/** Elements of a row of 128 bytes, for elements of 16 bits: what a swizzled box has side by side. */
export const swizzleRow = 64;

/** Elements that swap places among themselves: arrays that are swizzled have a multiple of them. */
export const swizzleBlock = 8 * swizzleRow;

/** Where element `index` of a swizzled array of 16-bit elements lies. */
export const swizzled = (index: number): number => index ^ ((index >> 3) & 0x38);

export const boxElements = ({ box }: KTensorMap): number => box.reduce((product, extent) => product * extent, 1);

/** Elements from the first to the last of an operand of `rows` rows and `k` steps, before they are permuted. */
export function groupExtent({ along, panel }: GroupOperand, rows: number, k: number): number {
  if (along === 'k') return (rows - 1) * swizzleRow + k;
  return Math.floor((rows - 1) / swizzleRow) * panel + (k - 1) * swizzleRow + Math.min(rows, swizzleRow);
}

export function bulkOperands(inst: BulkInst): readonly KValue[] {
  switch (inst.op) {
    case 'signal_init':
    case 'signal_expect':
    case 'signal_arrive':
      return [inst.index];
    case 'signal_wait':
      return [inst.index, inst.parity];
    case 'tensor_copy':
      return [...inst.at, inst.index, inst.signalIndex];
    case 'group_multiply':
      return isTile(inst.a) ? [inst.b.index] : [inst.a.index, inst.b.index];
    case 'group_fence':
    case 'group_commit':
    case 'group_wait':
    case 'registers':
      return [];
    default:
      return inst satisfies never;
  }
}

export function bulkMemories(inst: BulkInst): readonly KMemory[] {
  if (inst.op === 'tensor_copy') return [inst.memory, inst.map.buffer];
  if (inst.op !== 'group_multiply') return [];
  return isTile(inst.a) ? [inst.b.memory] : [inst.a.memory, inst.b.memory];
}

/** Replacements for what an op mentions. Default: unchanged. */
export interface BulkMap {
  readonly use: (value: KValue) => KValue;
  readonly memory?: (memory: KMemory) => KMemory;
  readonly tile?: (tile: KTile) => KTile;
  readonly signal?: (signal: KSignal) => KSignal;
  readonly map?: (map: KTensorMap) => KTensorMap;
}

const same = <T>(x: T): T => x;

export function mapBulk(inst: BulkInst, maps: BulkMap): BulkInst {
  const { use, memory = same, tile = same, signal = same, map = same } = maps;
  const operand = (from: GroupOperand): GroupOperand => ({
    ...from,
    memory: memory(from.memory) as KArray,
    index: use(from.index),
  });
  switch (inst.op) {
    case 'signal_init':
    case 'signal_expect':
    case 'signal_arrive':
      return { ...inst, signal: signal(inst.signal), index: use(inst.index) };
    case 'signal_wait':
      return { ...inst, signal: signal(inst.signal), index: use(inst.index), parity: use(inst.parity) };
    case 'tensor_copy':
      return {
        ...inst,
        map: map(inst.map),
        at: inst.at.map(use),
        memory: memory(inst.memory) as KArray,
        index: use(inst.index),
        signal: signal(inst.signal),
        signalIndex: use(inst.signalIndex),
      };
    case 'group_multiply':
      return {
        ...inst,
        accumulator: tile(inst.accumulator),
        a: isTile(inst.a) ? tile(inst.a) : operand(inst.a),
        b: operand(inst.b),
      };
    case 'group_fence':
    case 'group_commit':
    case 'group_wait':
    case 'registers':
      return inst;
    default:
      return inst satisfies never;
  }
}
