/**
 * Matrix tiles as arrays of simdgroup matrices, which are 8×8, in rows. Half and bfloat operands may have float sums.
 *
 * An 8×8 matrix is loaded from rows of memory, or from columns as the transposed of what is loaded.
 */
import {
  type KTile,
  type TileAccess,
  type TileInst,
  type TileScalar,
  tileColumns,
  tileRows,
} from '../../compiler/kernel/engines.js';
import { commentText } from '../common/structured.js';
import { addressSpace } from './msl.js';
import type { Scope } from './scope.js';
import { matrixSide as side } from './target.js';

const matrixNames: Partial<Record<TileScalar, string>> = { f16: 'half', bf16: 'bfloat', f32: 'float' };

export class TileRenderer {
  readonly #scope: Scope;

  constructor(scope: Scope) {
    this.#scope = scope;
  }

  /** Declares every tile in the kernel's body. */
  declare(): void {
    for (const tile of this.#scope.kernel.tiles) {
      const { rows, columns } = this.#shape(tile);
      const type = `simdgroup_matrix<${this.#scalar(tile)}, ${side}, ${side}>`;
      this.#scope.line(`${type} ${this.#scope.names.tile(tile)}[${rows * columns}]; // ${commentText(tile.name)}`);
    }
  }

  render(inst: TileInst): void {
    const scope = this.#scope;
    switch (inst.op) {
      case 'tile_fill': {
        const scalar = this.#scalar(inst.tile);
        const filled = `make_filled_simdgroup_matrix<${scalar}, ${side}, ${side}>(${scope.value(inst.value)})`;
        this.#each(inst.tile, (matrix) => scope.line(`${matrix} = ${filled};`));
        return;
      }
      case 'tile_load':
        this.#each(inst.tile, (matrix, row, column) =>
          scope.line(`simdgroup_load(${matrix}, ${this.#place(inst, row, column, true)});`),
        );
        return;
      case 'tile_store':
        this.#each(inst.tile, (matrix, row, column) =>
          scope.line(`simdgroup_store(${matrix}, ${this.#place(inst, row, column, false)});`),
        );
        return;
      case 'tile_multiply': {
        const { accumulator, a, b } = inst;
        const depth = this.#shape(a).columns;
        // k outermost: products that follow one another do not wait for one another.
        for (let k = 0; k < depth; k++) {
          this.#each(accumulator, (sum, row, column) => {
            const [left, right] = [this.#matrix(a, row, k), this.#matrix(b, k, column)];
            scope.line(`simdgroup_multiply_accumulate(${sum}, ${left}, ${right}, ${sum});`);
          });
        }
        return;
      }
      case 'subgroup_barrier':
        scope.line('simdgroup_barrier(mem_flags::mem_threadgroup);');
        return;
      default:
        inst satisfies never;
    }
  }

  /** Pointer, stride, origin and whether to transpose: what loads and stores of one matrix of a tile take. */
  #place({ tile, memory, index, stride, layout }: TileAccess, row: number, column: number, load: boolean): string {
    const scope = this.#scope;
    const byRows = layout === 'row';
    const offset = side * (byRows ? row * stride + column : column * stride + row);
    const pointer = `${addressSpace(memory)} ${load ? 'const ' : ''}${this.#scalar(tile)}*`;
    const at = `${scope.names.memory(memory)} + ${scope.value(index)}${offset === 0 ? '' : ` + ${offset}`}`;
    return `(${pointer})(${at}), ${stride}${byRows ? '' : ', ulong2(0), true'}`;
  }

  #shape(tile: KTile): { readonly rows: number; readonly columns: number } {
    const [rows, columns] = [tileRows(tile) / side, tileColumns(tile) / side];
    if (!Number.isInteger(rows) || !Number.isInteger(columns)) {
      throw this.#scope.unexpected(`a tile of ${tileRows(tile)}×${tileColumns(tile)}`);
    }
    return { rows, columns };
  }

  #matrix(tile: KTile, row: number, column: number): string {
    return `${this.#scope.names.tile(tile)}[${row * this.#shape(tile).columns + column}]`;
  }

  #each(tile: KTile, write: (matrix: string, row: number, column: number) => void): void {
    const { rows, columns } = this.#shape(tile);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) write(this.#matrix(tile, row, column), row, column);
    }
  }

  #scalar({ scalar }: KTile): string {
    const name = matrixNames[scalar];
    if (name === undefined) throw this.#scope.unexpected(`a tile of ${scalar}`);
    return name;
  }
}
