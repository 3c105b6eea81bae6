/**
 * Contraction on a GPU through shared memory: a workgroup multiplies a block of blockM × blockN, staging blockK steps of
 * both operands at a time; each invocation keeps rows × columns sums in registers. While one pair of buffers is
 * multiplied, the next elements are on their way from memory to registers and then to the other pair, so that one
 * barrier a stage is enough. Im2col, transposes, conversions and padding happen on the way in.
 */
import type { Target } from '../../kernel/target.js';
import { isIntScalar, type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Contraction, multiplyAdd, type Operand } from './contraction.js';
import { trimmed } from './copy.js';
import { finish, unrolledStores } from './finish.js';
import { loweringOf, Shares } from './integer_contraction.js';
import { packedLhs, packedRhs, type Reading, readingOf } from './packing.js';
import { vector } from './tiling.js';

export interface Block {
  readonly blockM: number;
  readonly blockN: number;
  readonly blockK: number;
  /** Sums of an invocation. */
  readonly rows: number;
  readonly columns: number;
}

/** Blocks with the share of the multiply rate that they reach when they fill the device, by loads per multiply-add. */
export const blocks: readonly { readonly block: Block; readonly efficiency: number }[] = [
  { block: { blockM: 128, blockN: 128, blockK: 16, rows: 8, columns: 8 }, efficiency: 0.8 },
  { block: { blockM: 128, blockN: 64, blockK: 16, rows: 8, columns: 8 }, efficiency: 0.7 },
  { block: { blockM: 64, blockN: 128, blockK: 16, rows: 8, columns: 8 }, efficiency: 0.7 },
  { block: { blockM: 64, blockN: 64, blockK: 16, rows: 8, columns: 4 }, efficiency: 0.6 },
  { block: { blockM: 32, blockN: 64, blockK: 16, rows: 4, columns: 4 }, efficiency: 0.45 },
];

export const invocationsOf = ({ blockM, blockN, rows, columns }: Block): number => (blockM / rows) * (blockN / columns);

/** The block with as deep a stage as the target's shared memory holds twice, or undefined where it is not legal. */
export function fitted(block: Block, { accumulator, scalar }: Contraction, target: Target): Block | undefined {
  if (invocationsOf(block) > Math.min(target.limits.workgroupInvocations, target.limits.workgroupSize[0]))
    return undefined;
  // Checking the bounds of a kernel takes time with the square of the integers that its loops carry.
  if (isIntScalar(accumulator) && block.rows * block.columns > 32) return undefined;
  for (let { blockK } = block; blockK >= 4; blockK /= 2) {
    const bytes = (2 * blockK * (block.blockM + block.blockN) * scalarBits[scalar]) / 8;
    if (bytes <= target.limits.sharedBytes) return { ...block, blockK };
  }
  return undefined;
}

/** One operand's share of a stage: what an invocation carries from memory to shared memory. */
interface Stager {
  /** Loads its elements of stage `at`. */
  load(at: Affine): KValue[];
  store(values: readonly KValue[], half: Affine): void;
}

export function lowerShared(group: Group, target: Target, contraction: Contraction, block: Block): LoweredKernel {
  return new SharedTiles(group, target, contraction, block).lower();
}

class SharedTiles {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #block: Block;
  readonly #lowering: Lowering;
  /** Operands that are constants in packed form. */
  readonly #isPacked: { readonly lhs: boolean; readonly rhs: boolean };
  readonly #shares: Shares;
  readonly #left: KArray;
  readonly #right: KArray;
  readonly #local: Affine;

  constructor(group: Group, target: Target, contraction: Contraction, block: Block) {
    this.#group = group;
    this.#contraction = contraction;
    this.#block = block;
    const lhs = packedLhs(group, contraction, block.blockM);
    // Of words there is no other form; else columns are read as fast where they are.
    const rhs = contraction.words && packedRhs(group, contraction, block.blockN);
    this.#isPacked = { lhs: lhs !== undefined, rhs: rhs !== undefined };
    const derived = new Map<number, DerivedConstant>();
    if (lhs) derived.set(contraction.lhs.value.id, lhs);
    if (rhs) derived.set(contraction.rhs.value.id, rhs);
    this.#lowering = loweringOf(group, target, contraction, derived);
    this.#shares = new Shares(this.#lowering, contraction);
    const { b } = this.#lowering;
    this.#left = b.array('left', 'shared', contraction.scalar, 2 * block.blockK * block.blockM);
    this.#right = b.array('right', 'shared', contraction.scalar, 2 * block.blockK * block.blockN);
    this.#local = Affine.of(b.builtin('local_id', 0, invocationsOf(block)), b);
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { batch, m, n } = this.#contraction;
    const { blockM, blockN } = this.#block;
    const counts = [batch, Math.ceil(n / blockN), Math.ceil(m / blockM)];
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (index) => {
      const [batchAt, columnBlock, rowBlock] = delinearize(index, counts);
      this.#finish(batchAt, rowBlock, columnBlock, this.#sums(batchAt, rowBlock, columnBlock));
    });
    return trimmed(lowering.finish(grid, [invocationsOf(this.#block), 1, 1]), [
      ...lowering.bindings,
      ...this.#shares.bindings,
    ]);
  }

  /** Row and column of this invocation within the block, in vectors of columns. */
  #place(): { row: Affine; column: Affine } {
    const { blockM, blockN, rows, columns } = this.#block;
    const [row, column] = delinearize(this.#local, [blockM / rows, blockN / columns]);
    return { row, column };
  }

  /** Column of the i-th of an invocation's vectors: neighbours take neighbouring vectors, so that no bank is hit twice. */
  #column(i: number): Affine {
    const { blockN, columns } = this.#block;
    return this.#place()
      .column.scale(vector)
      .add((i * blockN) / (columns / vector));
  }

  #sums(batch: Affine, rowBlock: Affine, columnBlock: Affine): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { k, accumulator, words } = this.#contraction;
    const { blockM, blockN, blockK, rows, columns } = this.#block;
    const left = this.#leftStager(batch, rowBlock);
    const right = this.#rightStager(batch, columnBlock);
    const zero = b.zero(accumulator);
    const none = Affine.constant(0);
    left.store(left.load(none), none);
    right.store(right.load(none), none);
    b.barrier();
    const stages = Math.ceil(k / blockK);
    const { row } = this.#place();
    return lowering.for(
      0,
      stages,
      1,
      range(rows * columns).map(() => zero),
      (stage, carried) => {
        const half = stage.mod(2);
        const next = stage.add(1);
        const [leftNext, rightNext] = [left.load(next), right.load(next)];
        const sums = lowering.for(
          0,
          blockK,
          1,
          carried,
          (step, inner) => {
            const lanes = (array: KArray, at: Affine) => {
              const loaded = b.load(array, at.emit(b), vector, true);
              return range(vector).map((lane) => b.extract(loaded, lane));
            };
            const depth = half.scale(blockK).add(step);
            const factors = range(rows / vector).flatMap((i) =>
              lanes(
                this.#left,
                depth
                  .scale(blockM)
                  .add(row.scale(rows))
                  .add(i * vector),
              ),
            );
            const values = range(columns / vector).flatMap((i) =>
              lanes(this.#right, depth.scale(blockN).add(this.#column(i))),
            );
            return range(rows * columns).map((i) =>
              multiplyAdd(lowering, factors[Math.floor(i / columns)], values[i % columns], inner[i], words),
            );
          },
          { unroll: true },
        );
        const other = next.mod(2);
        left.store(leftNext, other);
        right.store(rightNext, other);
        b.barrier();
        return sums;
      },
    );
  }

  #leftStager(batch: Affine, rowBlock: Affine): Stager {
    const { lhs, lhsBatches, lhsBatch, m, k } = this.#contraction;
    const { blockM } = this.#block;
    if (this.#isPacked.lhs) return this.#packedStager(this.#left, lhs, lhsBatch(batch), rowBlock, m, blockM);
    const reading = readingOf(this.#group, lhs, lhsBatches, m, k);
    return this.#stager(this.#left, lhs, reading, batch, rowBlock, m, blockM);
  }

  #rightStager(batch: Affine, columnBlock: Affine): Stager {
    const { rhs, rhsBatches, rhsBatch, n, k } = this.#contraction;
    const { blockN } = this.#block;
    if (this.#isPacked.rhs) return this.#packedStager(this.#right, rhs, rhsBatch(batch), columnBlock, n, blockN);
    const reading = readingOf(this.#group, rhs, rhsBatches, n, k);
    return this.#stager(this.#right, rhs, reading, batch, columnBlock, n, blockN);
  }

  #packedStager(array: KArray, operand: Operand, batch: Affine, block: Affine, total: number, extent: number): Stager {
    const { b } = this.#lowering;
    const buffer = this.#lowering.buffer(operand.value);
    if (!buffer) throw new Error('a packed operand is not bound');
    const panel = batch.scale(Math.ceil(total / extent)).add(block);
    return this.#vectors(array, extent, (step, at) =>
      b.load(buffer, panel.scale(this.#contraction.k).add(step).scale(extent).add(at).emit(b), vector, true),
    );
  }

  #stager(
    array: KArray,
    operand: Operand,
    reading: Reading,
    batch: Affine,
    block: Affine,
    total: number,
    extent: number,
  ): Stager {
    const lowering = this.#lowering;
    const { b } = lowering;
    const limited = (at: Affine, last: number) =>
      at.range.max <= last ? at : Affine.of(b.min(at.emit(b), b.constant(last)), b);
    const first = block.scale(extent);
    switch (reading) {
      case 'along-row':
        return this.#vectors(array, extent, (step, at) => {
          const row = limited(first.add(at).div(vector), total / vector - 1).scale(vector);
          return operand.element(lowering, batch, row.add(Affine.lane(vector)), step, vector);
        });
      case 'along-k':
        return this.#alongK(array, extent, (row, step) =>
          operand.element(lowering, batch, limited(first.add(row), total - 1), step.add(Affine.lane(vector)), vector),
        );
      case 'element':
        return this.#elements(array, extent, (row, step) =>
          operand.element(lowering, batch, limited(first.add(row), total - 1), step, 1),
        );
      default:
        return reading satisfies never;
    }
  }

  /** `count` pieces of a stage, dealt out so that neighbours take neighbouring pieces; `body` gets each piece's number. */
  #deal<T>(count: number, body: (piece: Affine, guard: (then: () => void) => void) => T): T[] {
    const invocations = invocationsOf(this.#block);
    return range(Math.ceil(count / invocations)).map((i) => {
      const piece = this.#local.add(i * invocations);
      if (piece.range.max < count) return body(piece, (then) => then());
      const { b } = this.#lowering;
      const value = piece.emit(b);
      const guard = (then: () => void) => {
        this.#lowering.if(b.compare('lt', value, b.constant(count)), then);
      };
      return body(Affine.of(b.min(value, b.constant(count - 1)), b), guard);
    });
  }

  /** k of a step of a stage, limited to what exists, and whether it does. */
  #step(stage: Affine, step: Affine, width: number): { k: Affine; exists: KValue | undefined } {
    const { b } = this.#lowering;
    const { k } = this.#contraction;
    const at = stage.scale(this.#block.blockK).add(step);
    if (at.range.max + width <= k) return { k: at, exists: undefined };
    const value = at.emit(b);
    // Multiples of the width, so that vectors stay aligned.
    const last = Math.floor(k / width) - 1;
    const limited =
      width === 1
        ? Affine.of(b.min(value, b.constant(last)), b)
        : Affine.of(b.min(at.div(width).emit(b), b.constant(last)), b).scale(width);
    return { k: limited, exists: b.compare('le', value, b.constant(k - width)) };
  }

  #masked(value: KValue, exists: KValue | undefined): KValue {
    if (!exists) return value;
    const { b } = this.#lowering;
    const { scalar, lanes } = value.type;
    return b.select(this.#lowering.widen(exists, lanes), value, b.zero(scalar, lanes));
  }

  /** Vectors along rows: stored as they were loaded. */
  #vectors(array: KArray, extent: number, element: (k: Affine, row: Affine) => KValue): Stager {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockK } = this.#block;
    const shape = [blockK, extent / vector];
    const count = (blockK * extent) / vector;
    return {
      load: (stage) =>
        this.#deal(count, (piece) => {
          const [step, row] = delinearize(piece, shape);
          const { k, exists } = this.#step(stage, step, 1);
          return this.#masked(lowering.widen(element(k, row.scale(vector)), vector), exists);
        }),
      store: (values, half) => {
        this.#deal(count, (piece, guard) => ({ piece, guard })).forEach(({ piece, guard }, i) => {
          guard(() =>
            b.store(
              array,
              half
                .scale(blockK * extent)
                .add(piece.scale(vector))
                .emit(b),
              values[i],
              true,
            ),
          );
        });
      },
    };
  }

  /** Vectors along k: four steps of one row each. */
  #alongK(array: KArray, extent: number, element: (row: Affine, k: Affine) => KValue): Stager {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockK } = this.#block;
    const shape = [extent, blockK / vector];
    const count = (blockK * extent) / vector;
    return {
      load: (stage) =>
        this.#deal(count, (piece) => {
          const [row, group] = delinearize(piece, shape);
          const { k, exists } = this.#step(stage, group.scale(vector), vector);
          return this.#masked(lowering.widen(element(row, k), vector), exists);
        }),
      store: (values, half) => {
        this.#deal(count, (piece, guard) => ({ piece, guard })).forEach(({ piece, guard }, i) => {
          guard(() => {
            const [row, group] = delinearize(piece, shape);
            for (const lane of range(vector)) {
              const step = half.scale(blockK).add(group.scale(vector)).add(lane);
              b.store(array, step.scale(extent).add(row).emit(b), b.extract(values[i], lane));
            }
          });
        });
      },
    };
  }

  /** Single elements; neighbours take neighbouring rows. */
  #elements(array: KArray, extent: number, element: (row: Affine, k: Affine) => KValue): Stager {
    const { b } = this.#lowering;
    const { blockK } = this.#block;
    const shape = [blockK, extent];
    const count = blockK * extent;
    return {
      load: (stage) =>
        this.#deal(count, (piece) => {
          const [step, row] = delinearize(piece, shape);
          const { k, exists } = this.#step(stage, step, 1);
          return this.#masked(element(row, k), exists);
        }),
      store: (values, half) => {
        this.#deal(count, (piece, guard) => ({ piece, guard })).forEach(({ piece, guard }, i) => {
          guard(() => b.store(array, half.scale(count).add(piece).emit(b), values[i]));
        });
      },
    };
  }

  #finish(batch: Affine, rowBlock: Affine, columnBlock: Affine, sums: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m, n, accumulator } = this.#contraction;
    const { blockM, blockN, rows, columns } = this.#block;
    const lanes: Lanes = n % vector === 0 ? vector : 1;
    const { row } = this.#place();
    const pieces = columns / vector;
    const store = (r: Affine, i: Affine, part: number, sum: () => KValue): void =>
      lowering.guarded(rowBlock.scale(blockM).add(row.scale(rows)).add(r), m, (rowAt) => {
        const column = columnBlock
          .scale(blockN)
          .add(this.#column(0))
          .add(i.scale(blockN / pieces))
          .add(part);
        lowering.guarded(column.div(lanes), n / lanes, (at) => {
          const place = { batch, m: rowAt, n: at.scale(lanes).add(Affine.lane(lanes)) };
          finish(lowering, this.#group, this.#contraction, place, this.#shares.added(place, sum(), lanes), lanes);
        });
      });
    const parts = range(vector / lanes);
    if (((rows * columns) / lanes) * this.#group.nodes.length <= unrolledStores) {
      for (const r of range(rows)) {
        for (const i of range(pieces)) {
          for (const part of parts) {
            const from = r * columns + i * vector + part;
            store(Affine.constant(r), Affine.constant(i), part, () => b.build(sums.slice(from, from + lanes)));
          }
        }
      }
      return;
    }
    const array = b.array('tile', 'private', accumulator, rows * columns);
    for (const i of range((rows * columns) / vector))
      b.store(array, b.constant(i * vector), b.build(sums.slice(i * vector, (i + 1) * vector)), true);
    lowering.for(0, rows, 1, [], (r) =>
      lowering.for(0, pieces, 1, [], (i) => {
        for (const part of parts) {
          store(r, i, part, () => b.load(array, r.scale(columns).add(i.scale(vector)).add(part).emit(b), lanes, true));
        }
      }),
    );
  }
}
