/**
 * How a contraction is cut into register tiles on a GPU: where its columns are read from, rows and columns of a tile,
 * which invocations work together. By what loads, padding and idle units cost in multiply-adds.
 */
import type { Target } from '../../kernel/target.js';
import { scalarBits } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import type { Group } from '../group.js';
import { shapeOf } from '../tensors.js';
import { type Contraction, transposed } from './contraction.js';
import { type Geometry, geometryOf } from './geometry.js';
import { type Reading, readingOf } from './packing.js';
import { sharingOf } from './sharing.js';
import { vector } from './tiling.js';

export interface Tile {
  readonly rows: number;
  readonly columns: number;
  /** Multiply-add slots used per useful multiply-add: padding, loads and addresses, idle units. */
  readonly cost: number;
  /** Invocations of a workgroup along n, and along m. */
  readonly along: number;
  readonly across: number;
  /** Invocations that each sum a slice of k for one tile; their sums meet in shared memory. */
  readonly slices: number;
  readonly workgroups: number;
}

/** Output positions as `lines` of `width`; tiles do not cross lines. */
export interface Space {
  readonly lines: number;
  readonly width: number;
  /** Residues of the output that are computed apart. */
  readonly classes: number;
  /** Taps whose multiply-adds are written out. */
  readonly taps: number;
  /** Whether k is one loop that several invocations may share. */
  readonly sliced: boolean;
}

/** Multiply-adds per unrolled tap from which on larger tiles pay for the time their compilation takes. */
const largeTiles = [
  { from: 1e9, limit: 256 },
  { from: 5e7, limit: 128 },
];

/** Slices of k that invocations of a workgroup take on a GPU with fast barriers, where tiles alone are too few. */
const sliceCounts = [1, 2, 4, 8, 16];
/** Tiles of a workgroup whose invocations slice k: neighbours still read a few hundred bytes side by side. */
const slicedTiles = 16;
/** A barrier, in multiply-adds. */
const exchangeCost = 64;

/**
 * What a step of k costs beside its multiply-adds, counted in them: for each column of a tile, for each row, and for each
 * row whose factors a subgroup reads together.
 *
 * Of software devices as measured on lavapipe (8 lanes; 384³, 12 and 24 rows as good as their neighbours): every load is
 * a loop over the lanes, at one address too, so a column is worth 10 multiply-adds and a row as much; a row that is
 * handed round by shuffles costs 10 / 8 and the shuffle.
 */
const overheads = { column: 8, row: 8, softwareColumn: 10, softwareRow: 10, shuffle: 1 };

/** Invocations that keep a unit busy: of a real GPU, of a software device. */
export const fullUnit = 256;
const softwareUnit = 16;

/**
 * How many times longer work takes on a real GPU than on a full one. Units without a workgroup do nothing; those with few
 * invocations wait for memory, but not all of the time.
 * @param work Workgroups' worth of invocations, of `fullUnit` each.
 */
export const idleness = ({ parallelism }: Target, work: number, workgroups: number): number =>
  Math.max(1, (parallelism / work) ** 0.5, parallelism / workgroups);

/**
 * Rows × columns of a tile by cost per multiply-add: loads and address arithmetic, padding, and compute units without
 * work.
 */
function chooseTile(
  { batch, m, k, accumulator }: Contraction,
  { lines, width, classes, taps, sliced }: Space,
  target: Target,
): Tile {
  const isSoftware = target.style === 'software-gpu';
  const work = batch * m * lines * width * classes * k;
  const limit = !isSoftware || classes > 1 ? 64 : (largeTiles.find(({ from }) => work >= from * taps)?.limit ?? 64);
  const most = target.limits.workgroupInvocations;
  let best: Tile | undefined;
  for (const { rows, columns, slices } of tileShapes(isSoftware || !sliced ? [1] : sliceCounts)) {
    const workgroup = Math.min(isSoftware ? 8 : slices > 1 ? slicedTiles : 64, most);
    const exchanged = slices > 1 ? (slices * workgroup * rows * columns * scalarBits[accumulator]) / 8 : 0;
    // Each slice is worth a few vectors of k.
    const pays = slices === 1 || (k >= slices * 4 * vector && slices * workgroup <= most);
    if (rows * columns > limit || exchanged > target.limits.sharedBytes || !pays) continue;
    const tilesM = Math.ceil(m / rows);
    const segments = lines * Math.ceil(width / columns);
    let along = workgroup;
    while (along > 1 && along / 2 >= segments) along /= 2;
    const across = workgroup / along;
    const sharing = sharingOf(target, along, accumulator);
    const { column, row } = isSoftware
      ? {
          column: overheads.softwareColumn,
          row: overheads.softwareRow / sharing + (sharing > 1 ? overheads.shuffle : 0),
        }
      : overheads;
    const waste = ((tilesM * rows) / m) * ((segments * columns) / (lines * width));
    const units = batch * classes * Math.ceil(tilesM / across) * Math.ceil(segments / along);
    const busy = batch * classes * tilesM * segments * slices;
    const idle = isSoftware
      ? Math.max(1, (target.parallelism * softwareUnit) / busy) ** 0.5
      : idleness(target, busy / fullUnit, units);
    const exchange = slices > 1 ? (2 * slices + exchangeCost) / k : 0;
    const cost = waste * (1 + column / rows + row / columns + exchange) * idle;
    if (!best || cost < best.cost) best = { rows, columns, cost, along, across, slices, workgroups: units };
  }
  return (
    best ?? { rows: 1, columns: vector, cost: Number.POSITIVE_INFINITY, along: 1, across: 1, slices: 1, workgroups: 1 }
  );
}

const tileShapes = (counts: readonly number[]) =>
  [1, 2, 4, 8, 16, 24, 32].flatMap((rows) =>
    [4, 8, 12, 16].flatMap((columns) => counts.map((slices) => ({ rows, columns, slices }))),
  );

/** An element of a copy in multiply-adds: loaded, perhaps by itself, and stored. */
const copyCost = 25;

/** The form that suits a contraction: what its columns are read from, how its output is cut, which tile. */
export interface RegisterPlan {
  readonly contraction: Contraction;
  readonly geometry?: Geometry;
  readonly reading: Reading;
  readonly space: Space;
  readonly tile: Tile;
}

export function planRegisters(group: Group, target: Target, plain: Contraction): RegisterPlan {
  // Vectors run along n: the problem is turned round where n is too short for them.
  const contraction = plain.n < vector && plain.m > plain.n ? transposed(plain) : plain;
  const { n, k, rhs, rhsBatches } = contraction;
  const reading = readingOf(group, rhs, rhsBatches, n, k);
  const geometry = reading === 'element' && contraction === plain ? geometryOf(group) : undefined;
  const isUsable = geometry && geometry.h.phases.length > 0 && geometry.w.phases.length > 0 && !isFlat(geometry);
  if (!isUsable) {
    const sliced = reading !== 'element' || group.constants.has(rhs.value.id);
    const space = { lines: 1, width: n, classes: 1, taps: 1, sliced };
    return { contraction, reading, space, tile: chooseTile(contraction, space, target) };
  }
  const { h, w } = geometry;
  const space = {
    lines: h.extent,
    width: w.extent,
    classes: h.inputDilation * w.inputDilation,
    taps: w.kernel,
    sliced: false,
  };
  const tile = chooseTile(contraction, space, target);
  // An element of the copy is loaded, perhaps by itself, and stored.
  const copied = target.style === 'software-gpu' ? copyCost * sizeOf(shapeOf(rhs.value)) : 0;
  const cost = tile.cost + copied / (contraction.batch * contraction.m * n * k);
  return { contraction, geometry, reading, space, tile: { ...tile, cost } };
}

/** One tap, no movement: a matrix product. */
const isFlat = ({ h, w }: Geometry): boolean =>
  [h, w].every(
    ({ kernel, stride, inputDilation, minShift, maxShift }) =>
      kernel === 1 && stride === 1 && inputDilation === 1 && minShift === 0 && maxShift === 0,
  );
