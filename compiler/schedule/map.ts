/**
 * The map family: every output element from input elements at computed places.
 *
 * A GPU runs one invocation per vector of consecutive elements; a CPU splits the elements over tasks and loops. Either
 * way the innermost index is a vector lane, so that contiguous operands are vector loads. A concat at the root is
 * written part by part, without conditions in the inner loops.
 */
import { bytesOf, isPacked, type PackedDType, perByte } from '../dtype.js';
import { elementScalar } from '../graph/ops/scalar.js';
import type { NodeOf, Value } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, Lanes } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { Affine, delinearize } from './affine.js';
import type { Group } from './group.js';
import { inside } from './inside.js';
import { Lowering } from './lowering.js';
import { type Box, lowerTiles } from './map_tiles.js';
import { lastTask, shareOf, taskCount, widestWithin } from './shares.js';
import { type Index, shapeOf } from './tensors.js';

/** A box of the output with its own source. */
interface Part {
  /** Of the places that are gone through: elements, or bytes of a packed output. */
  readonly shape: readonly number[];
  /** Computes and stores the `lanes` places from `index` on. */
  write(lowering: Lowering, index: Index, lanes: Lanes): void;
}

/** Tells a fresh `Lowering` how the group's anchor computes an element (windows, short sums); see `Lowering.define`. */
export type Prepare = (lowering: Lowering) => void;

export function lowerMap(group: Group, target: Target, prepare: Prepare = () => undefined): KernelFunction {
  return target.style === 'cpu' ? lowerOnCpu(group, target, prepare) : lowerOnGpu(group, target, prepare);
}

function partsOf(group: Group): Part[] {
  const [output] = group.writes;
  // What an anchor's schedule defines need not be a node's result.
  const root = group.nodes.find((node) => node.outputs.includes(output));
  if (isPacked(output.type.dtype)) return [packedPart(output, output.type.dtype)];
  const part = (value: Value, place: (index: Index) => Index): Part => ({
    shape: shapeOf(value),
    write: (lowering, index, lanes) => lowering.store(output, place(index), lowering.value(value, index, lanes), lanes),
  });
  if (root?.op === 'pad' && root.attrs.mode === 'constant') return paddedParts(root, output, part);
  if (root?.op !== 'concat') return [part(output, (index) => index)];
  const { axis } = root.attrs;
  let start = 0;
  return root.inputs
    .map((value) => {
      const offset = start;
      start += shapeOf(value)[axis];
      return part(value, (index) => index.map((i, d) => (d === axis ? i.add(offset) : i)));
    })
    .filter((part) => sizeOf(part.shape) > 0);
}

/** The tensor that is padded, and slabs of the filling before and after it in each dim. */
function paddedParts(
  { inputs: [x, fill], attrs }: NodeOf<'pad'>,
  output: Value,
  part: (value: Value, place: (index: Index) => Index) => Part,
): Part[] {
  const [inner, whole] = [shapeOf(x), shapeOf(output)];
  const low = attrs.low.map(Number);
  const offset = (index: Index, by: readonly number[]): Index => index.map((i, d) => i.add(by[d]));
  const slab = (axis: number, from: number, extent: number): Part => {
    const start = whole.map((_, d) => (d < axis ? low[d] : d === axis ? from : 0));
    return {
      shape: whole.map((n, d) => (d < axis ? inner[d] : d === axis ? extent : n)),
      write(lowering, index, lanes) {
        const at = shapeOf(fill).map(() => Affine.constant(0));
        lowering.store(output, offset(index, start), lowering.value(fill, at, 1), lanes);
      },
    };
  };
  const slabs = whole.flatMap((n, d) => [slab(d, 0, low[d]), slab(d, low[d] + inner[d], n - low[d] - inner[d])]);
  return [part(x, (index) => offset(index, low)), ...slabs].filter(({ shape }) => sizeOf(shape) > 0);
}

/** Byte by byte, so that nobody else writes into one: the elements of each, zeros after the last. */
function packedPart(output: Value, dtype: PackedDType): Part {
  const shape = shapeOf(output);
  const each = perByte(dtype);
  const count = sizeOf(shape);
  return {
    shape: [bytesOf(dtype, count)],
    write(lowering, [at], lanes) {
      const { b } = lowering;
      const byteElements = Array.from({ length: each }, (_, j) =>
        inside(
          lowering,
          [at.scale(each).add(j)],
          [count],
          lanes,
          ([flat], width) => lowering.value(output, delinearize(flat, shape), width),
          () => b.constant(0, elementScalar(dtype)),
        ),
      );
      lowering.storePacked(output, at, byteElements, lanes);
    },
  };
}

/** Lanes that divide the innermost extent that is contiguous for the part. */
function lanesFor(part: Part, limit: number): Lanes {
  const inner = sizeOf(part.shape);
  const last = part.shape.at(-1) ?? 1;
  for (const lanes of [16, 8, 4, 2] as const) {
    if (lanes <= limit && inner % lanes === 0 && (last % lanes === 0 || last === 1 || lanes <= 4)) return lanes;
  }
  return 1;
}

function lowerOnGpu(group: Group, target: Target, prepare: Prepare): KernelFunction {
  const parts = partsOf(group);
  const workgroup = Math.min(target.style === 'simt' ? 128 : 64, target.limits.workgroupInvocations);
  const lowering = new Lowering(group, target);
  prepare(lowering);
  const sizes = parts.map((part) => {
    const lanes = lanesFor(part, target.vectorLanes);
    return { part, lanes, groups: Math.ceil(sizeOf(part.shape) / lanes / workgroup) };
  });
  const total = sizes.reduce((sum, { groups }) => sum + groups, 0);
  const local = Affine.of(lowering.b.builtin('local_id', 0, workgroup), lowering.b);
  const grid = lowering.workgroups(total, (workgroupIndex) => {
    const emit = (at: number, start: number): void => {
      const { part, lanes, groups } = sizes[at];
      const here = () => {
        const relative =
          start === 0 && at === sizes.length - 1 ? workgroupIndex : within(lowering, workgroupIndex.sub(start), groups);
        const invocation = relative.scale(workgroup).add(local);
        lowering.guarded(invocation, sizeOf(part.shape) / lanes, (vector) => {
          const index = delinearize(vector.scale(lanes).add(Affine.lane(lanes)), part.shape);
          part.write(lowering, index, lanes);
        });
      };
      if (at === sizes.length - 1) here();
      else {
        const value = workgroupIndex.emit(lowering.b);
        lowering.if(lowering.b.compare('lt', value, lowering.b.constant(start + groups)), here, () =>
          emit(at + 1, start + groups),
        );
      }
    };
    emit(0, 0);
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}

/** `index` limited to [0, extent) by a clamp: the enclosing condition implies it, across several arms. */
function within(lowering: Lowering, index: Affine, extent: number): Affine {
  if (index.range.min >= 0 && index.range.max < extent) return index;
  return Affine.of(lowering.b.clamp(index.emit(lowering.b), 0, extent - 1), lowering.b);
}

function lowerOnCpu(group: Group, target: Target, prepare: Prepare): KernelFunction {
  const parts = partsOf(group);
  const box = boxOf(group, parts);
  const tiled = box && lowerTiles(() => new Lowering(group, target), target, box);
  if (tiled) return tiled;
  let best: KernelFunction | undefined;
  const rank = Math.max(...parts.map((part) => part.shape.length));
  // Fewest outer dims first: a single flat loop where all operands run alike.
  for (let outer = 0; outer <= Math.max(0, rank - 1); outer++) {
    const { kernel, divided } = lowerNest(group, target, parts, outer, prepare);
    best = kernel;
    if (!divided) break;
  }
  return best as KernelFunction;
}

/** What may be computed in tiles: one part, without accumulators of its own. */
function boxOf(group: Group, [part, ...others]: readonly Part[]): Box | undefined {
  const [output] = group.writes;
  if (group.anchor || others.length > 0 || isPacked(output.type.dtype)) return undefined;
  return {
    shape: part.shape,
    write: part.write,
    element: (lowering, index, lanes) => lowering.value(output, index, lanes),
    put: (lowering, index, value, lanes) => lowering.store(output, index, value, lanes),
    single: group.sides.length === 0,
    nodes: group.nodes.length,
  };
}

/** Tasks × outer loop × inner vector loop, with the first `outer` dims in the outer loop. */
function lowerNest(
  group: Group,
  target: Target,
  parts: readonly Part[],
  outer: number,
  prepare: Prepare,
): { kernel: KernelFunction; divided: boolean } {
  const lowering = new Lowering(group, target);
  prepare(lowering);
  const { b } = lowering;
  const total = parts.reduce((sum, part) => sum + sizeOf(part.shape), 0);
  const tasks = taskCount(target, total, total);
  let divided = false;
  const grid = lowering.workgroups(tasks, (task) => {
    for (const part of parts) {
      const outerShape = part.shape.slice(0, outer);
      const innerShape = part.shape.slice(outer);
      const rows = sizeOf(outerShape);
      const inner = sizeOf(innerShape);
      const lanes = widestWithin(Math.min(inner, target.vectorLanes));
      const emit = (outerIndex: Index, first: Affine, width: Lanes): void => {
        const index = [...outerIndex, ...delinearize(first.add(Affine.lane(width)), innerShape)];
        part.write(lowering, index, width);
      };
      const sweep = (outerIndex: Index, from: Affine, to: Affine): void => {
        // [from, to) counts vectors of `lanes`.
        lowering.for(from.emit(b), to.emit(b), 1, [], (vector) => {
          const seen = lowering.addresses.length;
          emit(outerIndex, vector.scale(lanes), lanes);
          divided ||= lowering.addresses.slice(seen).some((address) => dividesInner(address, vector));
        });
      };
      const vectors = Math.floor(inner / lanes);
      const tail = inner - vectors * lanes;
      // What is left of a row is done by a last vector that overlaps the one before: it writes the same values again.
      const runTail = (outerIndex: Index): void => {
        if (tail > 0) emit(outerIndex, Affine.constant(inner - lanes), lanes);
      };
      if (rows === 1) {
        const zero = outerShape.map(() => Affine.constant(0));
        const [from, to] = shareOf(lowering, task, tasks, vectors);
        sweep(zero, from, to);
        const last = b.constant(lastTask(tasks, vectors));
        if (tail > 0) lowering.if(b.compare('eq', task.emit(b), last), () => runTail(zero));
      } else {
        const [from, to] = shareOf(lowering, task, tasks, rows);
        lowering.for(from.emit(b), to.emit(b), 1, [], (row) => {
          const outerIndex = delinearize(row, outerShape);
          sweep(outerIndex, Affine.constant(0), Affine.constant(vectors));
          runTail(outerIndex);
        });
      }
    }
  });
  return { kernel: lowering.finish(grid, [1, 1, 1]), divided };
}

/** True if the inner loop would divide to find the address: another loop order avoids that. */
const dividesInner = (address: Affine, inner: Affine): boolean =>
  address.laneCoefficient() === undefined ||
  inner.terms.some(({ atom }) => atom.kind === 'value' && address.divides(atom.value));
