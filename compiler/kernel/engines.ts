/**
 * Kernel IR of what only some devices have: matrix units and copies that run by themselves. `Target.matrixUnits` and
 * `Target.features` say which; everything else treats these ops alike, since none of them defines a value.
 *
 * Matrix tiles. A `KTile` is a matrix that the invocations of one subgroup hold together, in registers, in a layout that
 * only the device knows. It is mutable memory like a private array: one instance a subgroup, undefined at start. All
 * invocations of a subgroup execute a tile op together, with the same operands (`verify` proves both), and the
 * workgroup consists of whole subgroups.
 *
 * - `tile_fill` sets every element of an accumulator.
 * - `tile_load` and `tile_store` move a whole tile from or to memory: element (r, c) is `memory[index + r·stride + c]`
 *   in layout `row` and `memory[index + c·stride + r]` in layout `column`. The memory holds the tile's element type; a
 *   `tf32` tile loads f32 and rounds to 10 bits of fraction, ties away from zero. Only accumulators are stored.
 *   `aligned` promises that index and stride are multiples of 16 bytes.
 * - `tile_multiply` is accumulator += a · b. Products are exact. f32 sums are rounded in an order and number that the
 *   device chooses (at least as precise as f32 sums of the exact products); integer sums wrap modulo 2^32.
 * - `tile_unpack` and `tile_pack` move the elements that an invocation holds between a tile and `count` elements of a
 *   private array from `from` on, where the target's `fragments` say who holds which (`fragmentPlace`): f32 accumulators
 *   both ways, and rounded to 16 bits into tiles of role `a`. Tiles have 16 rows a subgroup then.
 * - `subgroup_barrier` orders the accesses to shared memory of the subgroup's invocations.
 *
 * Tiles of a warpgroup (`subgroups` is 4) are rows of four subgroups one below the other; see `bulk.ts`, where the ops of
 * Hopper-like devices are. They are only accumulators, which are filled and stored as above; a store may be
 * of some `columns` only, c counted from the first of them.
 *
 * Asynchronous copies. `async_copy` moves a few elements from global to shared memory past the registers; until the
 * invocation that began it has waited, the target elements are undefined and must not be touched. `async_commit` closes
 * a group of the copies begun so far by this invocation, `async_wait` waits until at most `pending` closed groups are
 * unfinished. Other invocations see the elements after a barrier that follows the wait.
 */
import {
  type BulkInst,
  type BulkMap,
  bulkMemories,
  bulkOperands,
  bulkOps,
  isBulkInst,
  isGroupOp,
  isTile,
  mapBulk,
  warpgroup,
} from './bulk.js';
import type { KArray, KBuffer, KMemory, KValue, ScalarType } from './types.js';

export type { BulkInst, KSignal, KTensorMap } from './bulk.js';

/** `tf32`: f32 with 10 bits of fraction, rounded when a tile is loaded. */
export type TileScalar = 'f16' | 'bf16' | 'tf32' | 'f32' | 'i8' | 'u8' | 'i32';
export type TileRole = 'a' | 'b' | 'accumulator';
export type TileLayout = 'row' | 'column';

/** One matrix of the product m×n += m×k · k×n that a matrix unit computes. */
export interface KTile {
  readonly kind: 'tile';
  readonly name: string;
  readonly role: TileRole;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly scalar: TileScalar;
  /** Subgroups that hold it together: 1 if absent. */
  readonly subgroups?: number;
}

/** A product of tiles that a target computes: m×n (accumulator) += m×k (a) · k×n (b). */
export interface MatrixUnit {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: TileScalar;
  readonly b: TileScalar;
  readonly accumulator: TileScalar;
  /** Multiply-adds for each one of the target's rate for f32; 1 if absent. */
  readonly speed?: number;
}

export interface TileAccess {
  readonly tile: KTile;
  readonly memory: KMemory;
  /** Of the tile's first element. */
  readonly index: KValue;
  /** Elements from one row (layout `row`) or column (`column`) to the next, at least its length. */
  readonly stride: number;
  readonly layout: TileLayout;
  readonly aligned: boolean;
}

/** Neighbouring columns of an accumulator, in multiples of 8. */
export interface TileColumns {
  readonly from: number;
  readonly count: number;
}

export type TileInst =
  | { readonly op: 'tile_fill'; readonly tile: KTile; readonly value: KValue }
  | ({ readonly op: 'tile_load' } & TileAccess)
  | ({ readonly op: 'tile_store'; readonly columns?: TileColumns } & TileAccess)
  | { readonly op: 'tile_multiply'; readonly accumulator: KTile; readonly a: KTile; readonly b: KTile }
  | { readonly op: 'subgroup_barrier' };

export interface FragmentInst {
  readonly op: 'tile_unpack' | 'tile_pack';
  readonly tile: KTile;
  readonly memory: KArray;
  /** Of the first element. */
  readonly from: number;
}

export type AsyncInst =
  /**
   * `elements` consecutive elements (4, 8 or 16 bytes) of `source` from `from` to `memory` from `index`, both multiples
   * of `elements`; zeros instead where `condition` is false. The source elements must exist in any case.
   */
  | {
      readonly op: 'async_copy';
      readonly memory: KArray;
      readonly index: KValue;
      readonly source: KBuffer;
      readonly from: KValue;
      readonly elements: number;
      readonly condition?: KValue;
    }
  | { readonly op: 'async_commit' }
  | { readonly op: 'async_wait'; readonly pending: number };

export type EngineInst = TileInst | FragmentInst | AsyncInst | BulkInst;

const engineOps: ReadonlySet<string> = new Set<EngineInst['op']>([
  'tile_fill',
  'tile_load',
  'tile_store',
  'tile_multiply',
  'tile_unpack',
  'tile_pack',
  'subgroup_barrier',
  'async_copy',
  'async_commit',
  'async_wait',
  ...bulkOps,
]);

export const isEngineInst = <I extends { readonly op: string }>(inst: I): inst is Extract<I, EngineInst> =>
  engineOps.has(inst.op);

/** How many consecutive subgroups execute the op together; 0 where each invocation does by itself. */
export function subgroupsOf(inst: EngineInst): number {
  if (isBulkInst(inst)) return isGroupOp(inst) ? warpgroup : 0;
  switch (inst.op) {
    case 'tile_fill':
    case 'tile_load':
    case 'tile_store':
    case 'tile_unpack':
    case 'tile_pack':
      return inst.tile.subgroups ?? 1;
    case 'tile_multiply':
    case 'subgroup_barrier':
      return 1;
    case 'async_copy':
    case 'async_commit':
    case 'async_wait':
      return 0;
    default:
      return inst satisfies never;
  }
}

// Tiles ---------------------------------------------------------------------------------------------------------------

export const tileRows = ({ role, m, k }: KTile): number => (role === 'b' ? k : m);
export const tileColumns = ({ role, n, k }: KTile): number => (role === 'a' ? k : n);

/** Rows of a subgroup's part of a tile that is unpacked or packed. */
export const fragmentRows = 16;

/** Elements of a tile that each invocation of a subgroup of 32 holds. */
export const fragmentElements = (tile: KTile): number => (fragmentRows * tileColumns(tile)) / 32;

/**
 * Where, in the 16 rows of a subgroup's part of a tile, element `element` of invocation `lane` lies: blocks of eight
 * columns, of which an invocation has two neighbours each in two rows (PTX ISA, "Matrix Fragments for mma.m16n8k16").
 */
export const fragmentPlace = (element: number, lane: number): { readonly row: number; readonly column: number } => ({
  row: (lane >> 2) + 8 * ((element >> 1) & 1),
  column: 8 * (element >> 2) + 2 * (lane & 3) + (element & 1),
});

/** Element type of the memory that a tile is loaded from or stored to. */
export const tileMemoryScalar = ({ scalar }: KTile): Exclude<TileScalar, 'tf32'> =>
  scalar === 'tf32' ? 'f32' : scalar;

/** Whether memory of `scalar` has a tile's elements: their type, or their bits as unsigned integers. */
export function holdsTile(scalar: ScalarType, tile: KTile): boolean {
  const own = tileMemoryScalar(tile);
  if (scalar === own) return true;
  if (own === 'f16' || own === 'bf16') return scalar === 'u16';
  return own === 'i8' && scalar === 'u8';
}

/** Elements from the first to the last that a load or store touches, both included. */
export function tileExtent(inst: TileAccess & { readonly columns?: TileColumns }): number {
  const { tile, stride, layout } = inst;
  const [rows, columns] = [tileRows(tile), inst.columns?.count ?? tileColumns(tile)];
  return layout === 'row' ? (rows - 1) * stride + columns : (columns - 1) * stride + rows;
}

/** The unit that multiplies tiles like these, if the target has one. */
export function unitFor(
  units: readonly MatrixUnit[] | undefined,
  accumulator: KTile,
  a: KTile,
  b: KTile,
): MatrixUnit | undefined {
  return units?.find(
    (unit) =>
      unit.m === accumulator.m &&
      unit.n === accumulator.n &&
      unit.k === accumulator.k &&
      unit.a === a.scalar &&
      unit.b === b.scalar &&
      unit.accumulator === accumulator.scalar,
  );
}

// What passes ask of the ops ------------------------------------------------------------------------------------------

/** Values that an op reads. */
export function engineOperands(inst: EngineInst): readonly KValue[] {
  if (isBulkInst(inst)) return bulkOperands(inst);
  switch (inst.op) {
    case 'tile_fill':
      return [inst.value];
    case 'tile_load':
    case 'tile_store':
      return [inst.index];
    case 'async_copy':
      return inst.condition ? [inst.index, inst.from, inst.condition] : [inst.index, inst.from];
    case 'tile_multiply':
    case 'tile_unpack':
    case 'tile_pack':
    case 'subgroup_barrier':
    case 'async_commit':
    case 'async_wait':
      return [];
    default:
      return inst satisfies never;
  }
}

export function engineMemories(inst: EngineInst): readonly KMemory[] {
  if (isBulkInst(inst)) return bulkMemories(inst);
  switch (inst.op) {
    case 'tile_load':
    case 'tile_store':
    case 'tile_unpack':
    case 'tile_pack':
      return [inst.memory];
    case 'async_copy':
      return [inst.memory, inst.source];
    case 'tile_fill':
    case 'tile_multiply':
    case 'subgroup_barrier':
    case 'async_commit':
    case 'async_wait':
      return [];
    default:
      return inst satisfies never;
  }
}

export function engineTiles(inst: EngineInst): readonly KTile[] {
  if (isBulkInst(inst)) {
    if (inst.op !== 'group_multiply') return [];
    return isTile(inst.a) ? [inst.accumulator, inst.a] : [inst.accumulator];
  }
  switch (inst.op) {
    case 'tile_fill':
    case 'tile_load':
    case 'tile_store':
    case 'tile_unpack':
    case 'tile_pack':
      return [inst.tile];
    case 'tile_multiply':
      return [inst.accumulator, inst.a, inst.b];
    case 'subgroup_barrier':
    case 'async_copy':
    case 'async_commit':
    case 'async_wait':
      return [];
    default:
      return inst satisfies never;
  }
}

const same = <T>(x: T): T => x;

/** The op with its values, memories, tiles, signals and tensor maps replaced. */
export function mapEngine(inst: EngineInst, map: BulkMap): EngineInst {
  if (isBulkInst(inst)) return mapBulk(inst, map);
  const { use, memory = same, tile = same } = map;
  switch (inst.op) {
    case 'tile_fill':
      return { ...inst, tile: tile(inst.tile), value: use(inst.value) };
    case 'tile_load':
    case 'tile_store':
      return { ...inst, tile: tile(inst.tile), memory: memory(inst.memory), index: use(inst.index) };
    case 'tile_unpack':
    case 'tile_pack':
      return { ...inst, tile: tile(inst.tile), memory: memory(inst.memory) as KArray };
    case 'tile_multiply':
      return { ...inst, accumulator: tile(inst.accumulator), a: tile(inst.a), b: tile(inst.b) };
    case 'async_copy': {
      const [target, source] = [memory(inst.memory) as KArray, memory(inst.source) as KBuffer];
      const places = { memory: target, index: use(inst.index), source, from: use(inst.from) };
      return { ...inst, ...places, ...(inst.condition ? { condition: use(inst.condition) } : {}) };
    }
    case 'subgroup_barrier':
    case 'async_commit':
    case 'async_wait':
      return inst;
    default:
      return inst satisfies never;
  }
}
