/**
 * Products with weights of few bits (`dequantise.ts`) on a CPU: the packed integers pass from memory through registers once
 * for some rows of the lhs.
 *
 *   Σ_k x·(q − z)·s = Σ_blocks s·(Σ x·q − z·Σ x)
 *
 * A vector holds a word of 16 rows of the weights. Its levels are masked where they are, not shifted down: a level at
 * bit p counts 2^p times, and the x that it meets is divided by that, which is exact. The top level, whose bit is the
 * sign of the word, is moved down by one place first.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, ktype, type Lanes } from '../../kernel/types.js';
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import type { Contraction } from './contraction.js';
import { type BlockWeights, type PackedBlocks, packBlocks } from './dequantise.js';
import { finishTile } from './finish_tile.js';
import { loadWords } from './integer_words.js';

export function lowerBlocks(
  group: Group,
  target: Target,
  contraction: Contraction,
  weights: BlockWeights,
): LoweredKernel | undefined {
  const { batch, m, n } = contraction;
  const lanes = target.vectorLanes;
  if (batch !== 1 || m === 0 || n < lanes || lanes < 4) return undefined;
  return new BlockProduct(group, target, contraction, weights).lower();
}

class BlockProduct {
  readonly #group: Group;
  readonly #target: Target;
  readonly #contraction: Contraction;
  readonly #weights: BlockWeights;
  readonly #packed: PackedBlocks;
  readonly #lowering: Lowering;
  readonly #lanes: Lanes;
  readonly #tileM: number;
  readonly #vectors: number;
  /** Rows of the lhs, divided as their levels are multiplied: [k][tileM]. */
  readonly #rows: KArray;
  /** Their sums in each block: [blocks][tileM]. */
  readonly #shares: KArray;
  readonly #sums: KArray;

  constructor(group: Group, target: Target, contraction: Contraction, weights: BlockWeights) {
    this.#group = group;
    this.#target = target;
    this.#contraction = contraction;
    this.#weights = weights;
    this.#lanes = target.vectorLanes;
    const { m, rhs } = contraction;
    // Sums of a block and sums of all take as many registers.
    const most = Math.floor((target.vectorRegisters - 4) / 2);
    // Equal shares of at most so many rows that unpacking hides among the products.
    this.#tileM = Math.ceil(m / Math.ceil(m / Math.min(8, most)));
    this.#vectors = Math.max(1, Math.min(4, Math.floor(most / this.#tileM)));
    this.#packed = packBlocks(weights, rhs.value.name, this.#tileN);
    this.#lowering = new Lowering(group, target, new Map([[rhs.value.id, this.#packed.constant]]));
    const { b } = this.#lowering;
    const { blocks } = this.#packed;
    this.#rows = b.array('rows', 'shared', 'f32', blocks * weights.block * this.#tileM);
    this.#shares = b.array('shares', 'shared', 'f32', blocks * this.#tileM);
    this.#sums = b.array('sums', 'shared', 'f32', this.#tileM * this.#tileN);
  }

  get #tileN(): number {
    return this.#lanes * this.#vectors;
  }

  lower(): LoweredKernel | undefined {
    const { m, n, k } = this.#contraction;
    const lowering = this.#lowering;
    const scratch = 4 * (this.#rows.length + this.#shares.length + this.#sums.length);
    if (scratch > this.#target.limits.sharedBytes) return undefined;
    const tilesN = Math.ceil(n / this.#tileN);
    const tilesM = Math.ceil(m / this.#tileM);
    // Each task prepares the rows anew: few tasks, but some more than threads.
    const wanted = Math.min(this.#target.parallelism * 3, Math.max(1, Math.floor((m * n * k) / (1 << 17))));
    const blockN = Math.ceil(tilesN / Math.min(tilesN, wanted));
    const grid = lowering.workgroups(Math.ceil(tilesN / blockN), (task) => {
      lowering.for(0, tilesM, 1, [], (row) => {
        this.#prepare(row);
        lowering.for(0, blockN, 1, [], (i) =>
          lowering.guarded(task.scale(blockN).add(i), tilesN, (column) => {
            this.#multiply(column);
            const tile = { sums: this.#sums, rows: this.#tileM, vectors: this.#vectors, lanes: this.#lanes };
            finishTile(lowering, this.#group, this.#contraction, tile, row, column);
          }),
        );
      });
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** Bits by which level `i` of a word is multiplied. */
  #place(i: number): number {
    const { each } = this.#packed;
    return this.#weights.bits * (i === each - 1 ? i - 1 : i);
  }

  #prepare(tile: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lhs, k, m } = this.#contraction;
    const { block } = this.#weights;
    const { each, words, blocks, zero } = this.#packed;
    lowering.for(0, this.#tileM, 1, [], (r) => {
      const at = tile.scale(this.#tileM).add(r);
      const row = at.range.max < m ? at : Affine.of(b.min(at.emit(b), b.constant(m - 1)), b);
      lowering.for(0, blocks, 1, [], (blockAt) => {
        const none = b.constant(0, 'f32');
        const [sum] = lowering.for(0, words, 1, [none], (word, [carried]) => {
          let total = carried;
          range(each).forEach((i) => {
            const step = blockAt.scale(block).add(word.scale(each)).add(i);
            const read = (index: Affine) => lhs.element(lowering, Affine.constant(0), row, index, 1);
            const inside = step.range.max < k;
            const value = inside
              ? read(step)
              : lowering.if(
                  b.compare('lt', step.emit(b), b.constant(k)),
                  () => [read(Affine.of(b.assume(step.emit(b), 0, k - 1), b))],
                  () => [none],
                )[0];
            total = b.add(total, value);
            const scaled = b.mul(value, b.constant(2 ** -this.#place(i), 'f32'));
            b.store(this.#rows, step.scale(this.#tileM).add(r).emit(b), scaled);
          });
          return [total];
        });
        const share = zero === undefined ? sum : b.mul(sum, b.constant(-zero, 'f32'));
        b.store(this.#shares, blockAt.scale(this.#tileM).add(r).emit(b), share);
      });
    });
  }

  /** The levels at place `i` of words, times 2^place, as f32. */
  #levels(word: KValue, i: number): KValue {
    const { b } = this.#lowering;
    const { bits } = this.#weights;
    const { lanes } = word.type;
    const moved = i === this.#packed.each - 1 ? b.binary('shr', word, b.constant(bits, 'u32', lanes)) : word;
    const mask = ((2 ** bits - 1) * 2 ** this.#place(i)) >>> 0;
    const level = b.and(moved, b.constant(mask, 'u32', lanes));
    return b.convert(b.bitcast(level, ktype('i32', lanes)), 'f32');
  }

  #multiply(column: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { block } = this.#weights;
    const { each, words, blocks, pitch, zero } = this.#packed;
    const lanes = this.#lanes;
    const [tileM, vectors, tileN] = [this.#tileM, this.#vectors, this.#tileN];
    const buffer = lowering.buffer(this.#contraction.rhs.value);
    if (!buffer) throw new Error('the packed weights are not bound');
    const aligned = pitch % lanes === 0;
    const pairs = range(tileM * vectors).map((i) => ({ r: Math.floor(i / vectors), v: i % vectors }));
    const zeros = pairs.map(() => b.constant(0, 'f32', lanes));
    const totals = lowering.for(0, blocks, 1, zeros, (blockAt, carried) => {
      const base = column.scale(blocks).add(blockAt).scale(pitch);
      const share = (r: number) => b.splat(b.load(this.#shares, blockAt.scale(tileM).add(r).emit(b)), lanes);
      const initial = zero === undefined ? zeros : pairs.map(({ r }) => share(r));
      const sums = lowering.for(0, words, 1, initial, (word, inner) => {
        const packed = range(vectors).map((v) =>
          loadWords(lowering, buffer, base.add(word.scale(tileN)).add(v * lanes), lanes, aligned),
        );
        return range(each).reduce<readonly KValue[]>((now, i) => {
          const levels = packed.map((value) => this.#levels(value, i));
          const step = blockAt.scale(block).add(word.scale(each)).add(i);
          const factors = range(tileM).map((r) => b.splat(b.load(this.#rows, step.scale(tileM).add(r).emit(b)), lanes));
          return pairs.map(({ r, v }, at) => this.#fused(levels[v], factors[r], now[at]));
        }, inner);
      });
      const scaleAt = base.add(words * tileN);
      const scales = range(vectors).map((v) =>
        b.bitcast(loadWords(lowering, buffer, scaleAt.add(v * lanes), lanes, aligned), ktype('f32', lanes)),
      );
      const points =
        zero === undefined ? range(vectors).map((v) => this.#points(scaleAt.add(tileN + (v * lanes) / 4))) : undefined;
      return pairs.map(({ r, v }, at) => {
        const centred = points ? b.sub(sums[at], b.mul(points[v], share(r))) : sums[at];
        return this.#fused(scales[v], centred, carried[at]);
      });
    });
    totals.forEach((total, i) => {
      b.store(this.#sums, b.constant(i * lanes), total, true);
    });
  }

  /** Zero points of a vector, which are bytes of words. */
  #points(at: Affine): KValue {
    const lowering = this.#lowering;
    const { b } = lowering;
    const lanes = this.#lanes;
    const buffer = lowering.buffer(this.#contraction.rhs.value);
    if (!buffer) throw new Error('the packed weights are not bound');
    const words = loadWords(lowering, buffer, at, (lanes / 4) as Lanes, false);
    return b.convert(b.convert(b.bitcast(words, ktype('u8', lanes)), 'i32'), 'f32');
  }

  #fused(a: KValue, c: KValue, sum: KValue): KValue {
    const { b } = this.#lowering;
    return this.#target.features.has('fma') ? b.fma(a, c, sum) : b.add(sum, b.mul(a, c));
  }
}
