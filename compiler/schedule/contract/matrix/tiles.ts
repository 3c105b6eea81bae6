/**
 * Contraction on the matrix units that subgroups have: a workgroup multiplies blockM × blockN, its subgroups a grid of
 * tiles of it. Stages of blockK pass through a ring in shared memory; while one is multiplied, later ones are on their
 * way. The sums leave through shared memory too, a row of tiles at a time, so that each invocation ends up with
 * elements whose place it knows, for any epilogue.
 */
import type { KTile } from '../../../kernel/engines.js';
import type { Target } from '../../../kernel/target.js';
import type { KArray, KBuffer } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { Binding, LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { trimmed } from '../copy.js';
import { type MatrixBlock, slotOf, sumPitch, sumScalar } from './blocks.js';
import { alongOf, Loader, type Route, type Staged } from './loader.js';
import type { Product, Side } from './operands.js';
import { choose, pickUp } from './results.js';

export interface MatrixPlan {
  readonly product: Product;
  readonly block: MatrixBlock;
  readonly routes: { readonly lhs: Route; readonly rhs: Route };
}

export function lowerMatrix(group: Group, target: Target, contraction: Contraction, plan: MatrixPlan): LoweredKernel {
  return new MatrixTiles(group, target, contraction, plan).lower();
}

/** Where a workgroup works. */
interface Place {
  readonly batch: Affine;
  readonly row: Affine;
  readonly column: Affine;
}

class MatrixTiles {
  readonly #group: Group;
  readonly #target: Target;
  readonly #contraction: Contraction;
  readonly #plan: MatrixPlan;
  readonly #lowering: Lowering;
  readonly #bindings: Binding[];
  readonly #correction: KBuffer | undefined;
  readonly #local: Affine;
  readonly #left: Loader;
  readonly #right: Loader;
  readonly #sums: KArray;
  readonly #accumulators: readonly (readonly KTile[])[];
  readonly #rows: readonly KTile[];
  readonly #columns: readonly KTile[];

  constructor(group: Group, target: Target, contraction: Contraction, plan: MatrixPlan) {
    this.#group = group;
    this.#target = target;
    this.#contraction = contraction;
    this.#plan = plan;
    const { product, block, routes } = plan;
    const lowering = new Lowering(group, target);
    this.#lowering = lowering;
    const { b } = lowering;
    this.#bindings = [...lowering.bindings];
    for (const { narrow } of [product.lhs, product.rhs]) {
      // What is staged are the small integers; views before the contraction see them instead of the wide ones.
      if (narrow && narrow.source !== narrow.top) lowering.see(narrow.top, narrow.source);
    }
    const invocations = this.#invocations;
    this.#local = Affine.of(b.builtin('local_id', 0, invocations), b);
    const loader = (name: string, side: Side, route: Route, extent: number): Loader => {
      const { size } = slotOf(side, alongOf(route), extent, block.blockK);
      const array = b.array(name, 'shared', side.scalar, size * block.stages);
      const buffer = this.#bufferOf(name, side);
      const options = {
        lowering,
        side,
        route,
        array,
        block,
        extent,
        k: contraction.k,
        local: this.#local,
        invocations,
      };
      return new Loader({ ...options, ...(buffer ? { buffer } : {}) });
    };
    this.#left = loader('left', product.lhs, routes.lhs, block.blockM);
    this.#right = loader('right', product.rhs, routes.rhs, block.blockN);
    this.#correction = product.correction && b.buffer('correction', 'i32', product.correction.length, 'read');
    if (product.correction) this.#bindings.push(product.correction.constant);
    const { unit } = product;
    this.#sums = b.array('sums', 'shared', sumScalar(unit), block.down * block.across * unit.m * sumPitch(block));
    const { m, n, k } = unit;
    const tile = (name: string, role: KTile['role']): KTile => b.tile({ name, role, m, n, k, scalar: unit[role] });
    const [down, across] = [block.blockM / block.down / m, block.blockN / block.across / n];
    this.#accumulators = range(down).map((i) => range(across).map((j) => tile(`sum${i}_${j}`, 'accumulator')));
    this.#rows = range(down).map((i) => tile(`a${i}`, 'a'));
    this.#columns = range(across).map((j) => tile(`b${j}`, 'b'));
  }

  get #invocations(): number {
    const { down, across } = this.#plan.block;
    return down * across * this.#target.subgroup.max;
  }

  /** The buffer that a side's memory is, declared here where it is a copy. */
  #bufferOf(name: string, { memory, scalar }: Side): KBuffer | undefined {
    if (!memory) return undefined;
    const { binding, length } = memory;
    if (binding.kind === 'value') return this.#lowering.buffer(binding.value);
    this.#bindings.push(binding.constant);
    return this.#lowering.b.buffer(`packed_${name}`, scalar, length, 'read');
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { batch, m, n } = this.#contraction;
    const { blockM, blockN } = this.#plan.block;
    const counts = [batch, Math.ceil(n / blockN), Math.ceil(m / blockM)];
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (index) => {
      const [batchAt, column, row] = delinearize(index, counts);
      const place = { batch: batchAt, row: row.scale(blockM), column: column.scale(blockN) };
      this.#multiply(place);
      this.#finish(place);
    });
    const kernel = lowering.finish(grid, [this.#invocations, 1, 1], this.#target.subgroup.max);
    return trimmed(kernel, this.#bindings);
  }

  /** This subgroup's row and column in the workgroup's grid of subgroups. */
  #subgroup(): { readonly down: Affine; readonly across: Affine } {
    const { block } = this.#plan;
    const [down, across] = delinearize(this.#local.div(this.#target.subgroup.max), [block.down, block.across]);
    return { down, across };
  }

  // --- Sums ---

  #multiply({ batch, row, column }: Place): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockK, stages } = this.#plan.block;
    const scalar = sumScalar(this.#plan.product.unit);
    for (const tile of this.#accumulators.flat()) b.engine({ op: 'tile_fill', tile, value: b.constant(0, scalar) });
    const sides: readonly (readonly [Loader, Staged])[] = [
      [this.#left, { batch, first: row }],
      [this.#right, { batch, first: column }],
    ];
    const copied = sides.filter(([loader]) => loader.isAsynchronous);
    const carried = sides.filter(([loader]) => !loader.isAsynchronous);
    // Copies are ahead by all stages but the one that is multiplied, what goes through registers by one.
    const ahead = stages - 1;
    for (const stage of range(ahead).map(Affine.constant)) {
      for (const [loader, staged] of copied) loader.copy(staged, stage, stage);
      if (copied.length > 0) b.engine({ op: 'async_commit' });
    }
    const first = Affine.constant(0);
    for (const [loader, staged] of carried) loader.store(loader.load(staged, first), first);
    lowering.for(0, Math.ceil(this.#contraction.k / blockK), 1, [], (stage) => {
      if (copied.length > 0) b.engine({ op: 'async_wait', pending: ahead - 1 });
      // After it, this stage is seen by all, and all are done with the one whose place is filled next.
      b.barrier();
      const later = stage.add(ahead);
      for (const [loader, staged] of copied) loader.copy(staged, later, later.mod(stages));
      if (copied.length > 0) b.engine({ op: 'async_commit' });
      const next = stage.add(1);
      const values = carried.map(([loader, staged]) => loader.load(staged, next));
      this.#multiplyStage(stage.mod(stages));
      carried.forEach(([loader], i) => void loader.store(values[i], next.mod(stages)));
    });
  }

  #multiplyStage(slot: Affine): void {
    const { b } = this.#lowering;
    const { product, block, routes } = this.#plan;
    const { m, n, k } = product.unit;
    const { down, across } = this.#subgroup();
    const [firstRow, firstColumn] = [down.scale(this.#rows.length * m), across.scale(this.#columns.length * n)];
    const load = (tile: KTile, loader: Loader, route: Route, memory: KArray, row: Affine, step: number): void => {
      // Rows of a side are the rows of a, and the columns of b.
      const layout = (alongOf(route) === 'k') === (tile.role === 'a') ? 'row' : 'column';
      const index = loader.at(slot, row, Affine.constant(step)).emit(b);
      b.engine({ op: 'tile_load', tile, memory, index, stride: loader.pitch, layout, aligned: true });
    };
    for (let step = 0; step < block.blockK; step += k) {
      this.#columns.forEach((tile, j) => {
        load(tile, this.#right, routes.rhs, this.#right.array, firstColumn.add(j * n), step);
      });
      // Row by row, so that few rows need to be held at once.
      this.#accumulators.forEach((sums, i) => {
        const row = this.#rows[i];
        load(row, this.#left, routes.lhs, this.#left.array, firstRow.add(i * m), step);
        sums.forEach((accumulator, j) => {
          b.engine({ op: 'tile_multiply', accumulator, a: row, b: this.#columns[j] });
        });
      });
    }
  }

  // --- Results ---

  /** Row of tiles by row of tiles: the subgroup puts its sums down, then its invocations pick them up. */
  #finish({ batch, row, column }: Place): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { product, block } = this.#plan;
    const { unit } = product;
    const subgroup = this.#target.subgroup.max;
    const pitch = sumPitch(block);
    const { down, across } = this.#subgroup();
    const base = this.#local.div(subgroup).scale(unit.m * pitch);
    const width = block.blockN / block.across;
    const context = {
      lowering,
      group: this.#group,
      contraction: this.#contraction,
      product,
      subgroup,
      lane: this.#local.mod(subgroup),
      ...(this.#correction ? { correction: this.#correction } : {}),
    };
    lowering.for(0, this.#accumulators.length, 1, [], (pass) => {
      choose(lowering, pass, this.#accumulators.length, (i) => {
        this.#accumulators[i].forEach((tile, j) => {
          const index = base.add(j * unit.n).emit(b);
          b.engine({ op: 'tile_store', tile, memory: this.#sums, index, stride: pitch, layout: 'row', aligned: true });
        });
      });
      b.engine({ op: 'subgroup_barrier' });
      pickUp(context, {
        ...{ memory: this.#sums, base, pitch, rows: unit.m, width, batch },
        row: row.add(down.scale(block.blockM / block.down)).add(pass.scale(unit.m)),
        column: column.add(across.scale(width)),
      });
      b.engine({ op: 'subgroup_barrier' });
    });
  }
}
