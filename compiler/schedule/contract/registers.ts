/**
 * Contraction on a GPU without shared memory: each invocation keeps a tile of m × n in registers and walks along k.
 * Neighbouring invocations take neighbouring columns, so they read the same rows of the lhs. On devices that are
 * executed by a CPU this is the fastest form: barriers cost more there than caches save.
 */
import type { Target } from '../../kernel/target.js';
import type { KValue, Lanes } from '../../kernel/types.js';
import { Affine, delinearize, linearize } from '../affine.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import { type Group, resultIndex } from '../group.js';
import { Lowering, range, scalarOf, shapeOf } from '../lowering.js';
import { type Contraction, contractionOf, kernelExtents, multiplyAdd } from './contraction.js';
import { packConstant, stridesOf } from './packing.js';

interface Tile {
  readonly rows: number;
  /** Vectors of `lanes` columns. */
  readonly vectors: number;
  readonly lanes: Lanes;
}

function chooseTile(contraction: Contraction, target: Target): Tile {
  const { m, n } = contraction;
  const lanes: Lanes = target.vectorLanes >= 4 && n % 4 === 0 && columnsAreVectors(contraction) ? 4 : 1;
  const fit = (extent: number, sizes: readonly number[]) => {
    const waste = (size: number) => (Math.ceil(extent / size) * size) / extent;
    return sizes.reduce((best, size) => (waste(size) * (1 + 1 / size) < waste(best) * (1 + 1 / best) ? size : best));
  };
  const rows = fit(m, [8, 4, 2, 1]);
  const vectors = lanes === 4 ? fit(n / 4, [2, 1]) : fit(n, [4, 2, 1]);
  return { rows, vectors, lanes };
}

/** Four neighbouring columns are neighbours in the rhs's memory, or all in one row of an image. */
function columnsAreVectors({ node, rhs }: Contraction): boolean {
  if (!rhs.padded) return true;
  const width = shapeOf(node.outputs[0]).at(-1) as number;
  return width % 4 === 0;
}

export function lowerRegisters(group: Group, target: Target): LoweredKernel {
  const contraction = contractionOf(group);
  const { batch, m, n, k, lhs, rhs, node, accumulator } = contraction;
  const tile = chooseTile(contraction, target);
  const { rows, vectors, lanes } = tile;
  const shape = { batches: contraction.lhsBatches, rows: m, k, width: rows };
  const data = group.constants.get(lhs.value.id);
  const isOwn = group.reads.includes(lhs.value) && scalarOf(lhs.value) === accumulator
    && group.nodes.every((other) => other === node || !other.inputs.includes(lhs.value));
  const strides = data && isOwn ? stridesOf(lhs, shape) : undefined;
  const packed: DerivedConstant | undefined = data && strides && packConstant(lhs.value, data, shape, strides);
  const lowering = new Lowering(group, target, new Map(packed ? [[lhs.value.id, packed]] : []));
  const { b } = lowering;

  const tilesM = Math.ceil(m / rows);
  const tilesN = Math.ceil(n / (vectors * lanes));
  const total = batch * tilesM * tilesN;
  const workgroup = Math.min(target.style === 'simt' ? 128 : 32, target.limits.workgroupInvocations);
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const grid = lowering.workgroups(Math.ceil(total / workgroup), (index) => {
    lowering.guarded(index.scale(workgroup).add(local), total, (flat) => {
      const [batchAt, tileM, tileN] = delinearize(flat, [batch, tilesM, tilesN]);
      const limited = (at: Affine, last: number) =>
        at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
      const rowAt = (r: number) => limited(tileM.scale(rows).add(r), m - 1);
      const columnAt = (v: number) => limited(tileN.scale(vectors * lanes).add(v * lanes), n - lanes);
      const columns = range(vectors).map(columnAt);
      const factors = (step: Affine): KValue[] => {
        const buffer = packed && lowering.buffer(lhs.value);
        if (!buffer) return range(rows).map((r) => lhs.element(lowering, batchAt, rowAt(r), step, 1));
        const address = contraction.lhsBatch(batchAt).scale(tilesM).add(tileM).scale(k).add(step).scale(rows);
        const width = Math.min(rows, target.vectorLanes, 4) as Lanes;
        return range(rows / width).flatMap((i) => {
          const vector = b.load(buffer, address.add(i * width).emit(b), width, true);
          return range(width).map((lane) => b.extract(vector, lane));
        });
      };
      const zero = b.constant(accumulator === 'i64' || accumulator === 'u64' ? 0n : 0, accumulator, lanes);
      const extents = kernelExtents(node);
      const nest = (d: number, at: readonly Affine[], carried: readonly KValue[]): readonly KValue[] => {
        if (d < extents.length) return lowering.for(0, extents[d], 1, carried, (i, inner) => nest(d + 1, [...at, i], inner));
        const step = linearize(at, extents);
        const row = factors(step);
        const column = columns.map((c) => lowering.widen(rhs.element(lowering, batchAt, c.add(Affine.lane(lanes)), step, lanes), lanes));
        return range(rows).flatMap((r) => column.map((value, v) => multiplyAdd(lowering, row[r], value, carried[r * vectors + v])));
      };
      const sums = k === 0 ? range(rows * vectors).map(() => zero) : nest(0, [], range(rows * vectors).map(() => zero));
      for (const r of range(rows)) {
        lowering.guarded(tileM.scale(rows).add(r), m, (row) => {
          for (const v of range(vectors)) {
            const first = tileN.scale(vectors * lanes).add(v * lanes);
            lowering.guarded(first.div(lanes), n / lanes, (column) => {
              finish(lowering, group, contraction, { batch: batchAt, m: row, n: column.scale(lanes).add(Affine.lane(lanes)) }, sums[r * vectors + v], lanes);
            });
          }
        });
      }
    });
  });
  return { kernel: lowering.finish(grid, [workgroup, 1, 1]), bindings: lowering.bindings };
}

/** Epilogue and store of one finished vector of sums. */
export function finish(
  lowering: Lowering, group: Group, contraction: Contraction, place: { batch: Affine; m: Affine; n: Affine }, sum: KValue, lanes: Lanes,
): void {
  const { node } = contraction;
  const [result] = node.outputs;
  const [output] = group.writes;
  lowering.define(result, () => lowering.b.convert(sum, scalarOf(result, node)));
  const index = resultIndex(group, contraction.result(place));
  lowering.store(output, index, lowering.value(output, index, lanes), lanes);
}
