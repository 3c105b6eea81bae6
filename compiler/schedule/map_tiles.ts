/**
 * Maps on CPUs whose operands run across the result: in squares that are turned in registers, so that memory is read
 * and written in whole vectors; in strips of few columns, which are computed column by column and interleaved.
 */
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { Affine, delinearize } from './affine.js';
import { type Lowering, mostSteps } from './lowering.js';
import { shareOf, taskCount, widestWithin } from './shares.js';
import { pickLanes } from './shuffle.js';
import { type Index, range } from './tensors.js';

/** A result whose every element can be computed anywhere. */
export interface Box {
  readonly shape: readonly number[];
  /** Computes and stores the `lanes` elements from `index` on. */
  write(lowering: Lowering, index: Index, lanes: Lanes): void;
  element(lowering: Lowering, index: Index, lanes: Lanes): KValue;
  put(lowering: Lowering, index: Index, value: KValue, lanes: Lanes): void;
  /** Whether `write` stores nothing but the element. */
  readonly single: boolean;
  /** Nodes that are computed for an element. */
  readonly nodes: number;
}

/** Squares of fewer rows are not worth it. */
const fewestRows = 4;
/** A square repeats the arithmetic for each of its rows in the code. */
const [fewNodes, mostNodes] = [6, 16];

/** Coefficients of an address in the dims; undefined where a dim is divided on the way. */
type Strides = readonly (number | undefined)[];

/** The dims that matter: neighbours that all addresses go through as one are one, extents of 1 are left out. */
interface Space {
  readonly shape: readonly number[];
  /** Of every address, a stride for each dim. */
  readonly strides: readonly Strides[];
  /** Index into the box. */
  indexOf(index: Index): Index;
}

/** The kernel, or undefined if no operand runs across the result along one dim. */
export function lowerTiles(start: () => Lowering, target: Target, box: Box): KernelFunction | undefined {
  if (box.nodes > mostNodes) return undefined;
  const space = spaceOf(start(), box);
  const across = acrossDim(space);
  if (across === undefined) return undefined;
  const last = space.shape.length - 1;
  const [rows, columns] = [space.shape[across], space.shape[last]];
  const lanes = widestWithin(Math.min(target.vectorLanes, rows));
  if (columns <= mostSteps && across === last - 1 && box.single && columns <= lanes) {
    return interleaved(start(), target, box, space, lanes);
  }
  const side = widestWithin(Math.min(lanes, columns, box.nodes > fewNodes ? 8 : 16));
  return side < fewestRows ? undefined : squares(start(), target, box, space, across, side);
}

function spaceOf(lowering: Lowering, box: Box): Space {
  const dims = range(box.shape.length).filter((d) => box.shape[d] !== 1);
  const strides = probe(lowering, box).map((all) => dims.map((d) => all[d]));
  const groups: number[][] = [];
  dims.forEach((d, i) => {
    const asOne = strides.every((own) => {
      const [outer, inner] = [own[i - 1], own[i]];
      return outer !== undefined && inner !== undefined && outer === inner * box.shape[d];
    });
    if (i > 0 && asOne) groups[groups.length - 1].push(i);
    else groups.push([i]);
  });
  const extents = groups.map((group) => group.map((i) => box.shape[dims[i]]));
  return {
    shape: extents.map(sizeOf),
    strides: strides.map((own) => groups.map((group) => own[group[group.length - 1]])),
    indexOf(index) {
      const whole: Affine[] = box.shape.map(() => Affine.constant(0));
      groups.forEach((group, g) => {
        delinearize(index[g], extents[g]).forEach((part, k) => {
          whole[dims[group[k]]] = part;
        });
      });
      return whole;
    },
  };
}

/** Strides of all addresses, of loads and stores alike. */
function probe(lowering: Lowering, box: Box): readonly Strides[] {
  const { b } = lowering;
  let found: readonly Strides[] = [];
  const nest = (index: readonly KValue[]): void => {
    const d = index.length;
    if (d < box.shape.length) {
      b.for(0, box.shape[d], 1, [], (i) => nest([...index, i]));
      return;
    }
    const at = index.map((value, k) => (box.shape[k] === 1 ? Affine.constant(0) : Affine.of(value, b)));
    box.write(lowering, at, 1);
    found = lowering.addresses.map((address) => index.map((value) => address.coefficientOf(value)));
  };
  nest([]);
  return found;
}

/** The dim along which the operands lie that are far apart along the last one. */
function acrossDim({ shape, strides }: Space): number | undefined {
  const last = shape.length - 1;
  const far = strides.filter((own) => (own[last] ?? 0) > mostSteps);
  return range(Math.max(0, last)).findLast((d) => far.some((own) => own[d] === 1));
}

/** Blocks of `lanes` from block `from` to before `to`; whoever has the last also does what is left, as one that overlaps. */
function overBlocks(
  lowering: Lowering,
  extent: number,
  lanes: number,
  [from, to]: readonly [Affine, Affine],
  body: (start: KValue) => void,
): void {
  const { b } = lowering;
  const whole = Math.floor(extent / lanes);
  const isLast = b.and(
    b.compare('eq', to.emit(b), b.constant(whole)),
    b.compare('lt', from.emit(b), b.constant(whole)),
  );
  const end = b.select(isLast, b.constant(extent), to.scale(lanes).emit(b));
  lowering.for(from.scale(lanes).emit(b), end, lanes, [], (at) => body(b.min(at.emit(b), b.constant(extent - lanes))));
}

/** Tasks take shares of the outer dims, or of the blocks of dim `shared` where the outer dims are few. */
function sharedOut(
  lowering: Lowering,
  target: Target,
  { shape }: Space,
  outer: readonly number[],
  blocks: number,
  body: (at: (d: number) => Affine, share: readonly [Affine, Affine]) => void,
): KernelFunction {
  const { b } = lowering;
  const extents = outer.map((d) => shape[d]);
  const count = sizeOf(extents);
  const elements = sizeOf(shape);
  const [byOuter, byBlock] = [taskCount(target, count, elements), taskCount(target, blocks, elements)];
  const tasks = Math.max(byOuter, byBlock);
  const grid = lowering.workgroups(tasks, (task) => {
    const all = [Affine.constant(0), Affine.constant(blocks)] as const;
    const [from, to] = byOuter >= byBlock ? shareOf(lowering, task, tasks, count) : [0, count].map(Affine.constant);
    const share = byOuter >= byBlock ? all : shareOf(lowering, task, tasks, blocks);
    lowering.for(from.emit(b), to.emit(b), 1, [], (flat) => {
      const index = delinearize(flat, extents);
      body((d) => index[outer.indexOf(d)], share);
    });
  });
  return lowering.finish(grid, [1, 1, 1]);
}

function squares(
  lowering: Lowering,
  target: Target,
  box: Box,
  space: Space,
  across: number,
  lanes: Lanes,
): KernelFunction {
  const { b } = lowering;
  const last = space.shape.length - 1;
  const outer = range(last).filter((d) => d !== across);
  const [rows, columns] = [space.shape[across], space.shape[last]];
  const wholeColumns = [Affine.constant(0), Affine.constant(Math.floor(columns / lanes))] as const;
  return sharedOut(lowering, target, space, outer, Math.floor(rows / lanes), (at, share) => {
    // Along the rows inside: operands are read as streams.
    overBlocks(lowering, columns, lanes, wholeColumns, (first) => {
      overBlocks(lowering, rows, lanes, share, (start) => {
        for (const row of range(lanes)) {
          lowering.tile = { start, row, lanes };
          const index = range(last + 1).map((d) => {
            if (d === last) return Affine.of(first, b).add(Affine.lane(lanes));
            return d === across ? Affine.of(start, b).add(row) : at(d);
          });
          box.write(lowering, space.indexOf(index), lanes);
        }
        lowering.tile = undefined;
      });
    });
  });
}

/** `lanes` rows of few columns at a time, which lie in memory as so many vectors. */
function interleaved(lowering: Lowering, target: Target, box: Box, space: Space, lanes: Lanes): KernelFunction {
  const { b } = lowering;
  const last = space.shape.length - 1;
  const [rows, columns] = [space.shape[last - 1], space.shape[last]];
  return sharedOut(lowering, target, space, range(last - 1), Math.floor(rows / lanes), (at, share) => {
    const outer = range(last - 1).map(at);
    overBlocks(lowering, rows, lanes, share, (start) => {
      const first = Affine.of(start, b);
      const vectors = range(columns).map((column) => {
        const index = [...outer, first.add(Affine.lane(lanes)), Affine.constant(column)];
        return lowering.widen(box.element(lowering, space.indexOf(index), lanes), lanes);
      });
      for (const k of range(columns)) {
        const picks = range(lanes).map((lane) => {
          const place = k * lanes + lane;
          return { vector: vectors[place % columns], lane: Math.floor(place / columns) };
        });
        const place = Affine.lane(lanes).add(k * lanes);
        const index = [...outer, first.add(place.div(columns)), place.mod(columns)];
        box.put(lowering, space.indexOf(index), pickLanes(b, picks), lanes);
      }
    });
  });
}
