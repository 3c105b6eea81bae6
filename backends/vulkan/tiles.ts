/**
 * Matrix tiles as cooperative matrices of a subgroup (VK_KHR_cooperative_matrix), each a variable of the function.
 *
 * Loads and stores take a pointer to an element of an array and a stride in elements of it; the element may be a vector,
 * as shared arrays have where all else that accesses them is aligned vectors. Vulkan demands that pointer and stride are
 * aligned to 16 bytes or to a whole row (column), so accesses that promise less have no rendering. Modules with matrices must use the Vulkan
 * memory model. Written from the specifications; this code has not yet run on real hardware.
 */
import {
  type KTile,
  type TileAccess,
  type TileInst,
  type TileScalar,
  tileColumns,
  tileRows,
} from '../../compiler/kernel/engines.js';
import { unexpected } from '../common/names.js';
import { barrier } from './groups.js';
import { hasUnsignedSums } from './matrices.js';
import { place, sharing, viewOf } from './memory.js';
import type { Scope } from './scope.js';
import { type Id, MatrixLayout, MatrixSigned, Op, StorageClass } from './spirv.js';

const uses = { a: 'A', b: 'B', accumulator: 'Accumulator' } as const;

export class TileRenderer {
  readonly #scope: Scope;

  constructor(scope: Scope) {
    this.#scope = scope;
    if (scope.kernel.tiles.length === 0) return;
    scope.asm.useVulkanMemoryModel();
    scope.asm.capability('CooperativeMatrix');
    scope.asm.extension('SPV_KHR_cooperative_matrix');
  }

  /** Notes how a memory is accessed: buffers as scalars, arrays as whatever else accesses them. */
  survey({ memory }: TileAccess): void {
    if (memory.kind === 'array') return;
    this.#scope.survey.accessesOf(memory).widths.add(1);
  }

  /** Declares every tile, at the start of the function. */
  declare(): void {
    const { asm, kernel, names } = this.#scope;
    for (const tile of kernel.tiles) {
      if ((tile.subgroups ?? 1) !== 1) throw unexpected(kernel, 'vulkan', `${tile.name}, of several subgroups`);
      const component = this.#component(tile.scalar);
      const type = asm.typeCooperativeMatrix(component, tileRows(tile), tileColumns(tile), uses[tile.role]);
      const variable = asm.value(Op.Variable, asm.typePointer('Function', type), [StorageClass.Function]);
      asm.name(variable, tile.name);
      names.setTile(tile, { variable, type });
    }
  }

  render(inst: TileInst) {
    const scope = this.#scope;
    const { asm } = scope;
    switch (inst.op) {
      case 'tile_fill':
        // One constituent stands for all elements.
        return this.#set(inst.tile, Op.CompositeConstruct, [scope.id(inst.value)]);
      case 'tile_load': {
        const { pointer, stride } = this.#memory(inst);
        const layout = this.#layout(inst);
        return this.#set(inst.tile, Op.CooperativeMatrixLoad, [
          ...[pointer, layout, stride],
          ...sharing(scope, inst.memory),
        ]);
      }
      case 'tile_store': {
        const matrix = this.#get(inst.tile);
        const { pointer, stride } = this.#memory(inst);
        const operands = [pointer, matrix, this.#layout(inst), stride, ...sharing(scope, inst.memory)];
        asm.emit(Op.CooperativeMatrixStore, operands);
        return;
      }
      case 'tile_multiply': {
        const { accumulator, a, b } = inst;
        const matrices = [this.#get(a), this.#get(b), this.#get(accumulator)];
        const signs = this.#signs(a, b, accumulator);
        return this.#set(accumulator, Op.CooperativeMatrixMulAdd, signs === 0 ? matrices : [...matrices, signs]);
      }
      case 'subgroup_barrier':
        return barrier(scope, 'Subgroup');
      default:
        return inst satisfies never;
    }
  }

  /** Integer types have no sign here; products say which of their matrices do. */
  #signs(a: KTile, b: KTile, accumulator: KTile): number {
    if (accumulator.scalar !== 'i32') return 0;
    const sums = hasUnsignedSums(this.#scope.target, a.scalar, b.scalar) ? 0 : MatrixSigned.C | MatrixSigned.Result;
    return (a.scalar === 'i8' ? MatrixSigned.A : 0) | (b.scalar === 'i8' ? MatrixSigned.B : 0) | sums;
  }

  #memory({ memory, index, stride, aligned }: TileAccess): { readonly pointer: Id; readonly stride: Id } {
    const scope = this.#scope;
    if (!aligned) throw unexpected(scope.kernel, 'vulkan', 'a tile of memory that is not aligned');
    // An array's one view; 16 bytes, which index and stride are multiples of, are whole vectors of every width.
    const view = memory.kind === 'array' ? scope.names.memory(memory)[0] : viewOf(scope, memory, 1);
    return { pointer: place(scope, memory, view, index), stride: scope.asm.uint(stride / view.lanes) };
  }

  #layout({ layout }: TileAccess): Id {
    return this.#scope.asm.uint(layout === 'row' ? MatrixLayout.Row : MatrixLayout.Column);
  }

  #component(scalar: TileScalar): Id {
    const { asm, math, kernel } = this.#scope;
    switch (scalar) {
      case 'f16':
      case 'f32':
      case 'i8':
      case 'u8':
      case 'i32':
        return math.scalarType(scalar);
      case 'bf16':
        asm.capability('BFloat16Type');
        asm.capability('BFloat16CooperativeMatrix');
        asm.extension('SPV_KHR_bfloat16');
        return asm.typeBfloat16();
      case 'tf32':
        throw unexpected(kernel, 'vulkan', `a tile of ${scalar}`);
      default:
        return scalar satisfies never;
    }
  }

  #get(tile: KTile): Id {
    const { variable, type } = this.#scope.names.tile(tile);
    return this.#scope.asm.value(Op.Load, type, [variable]);
  }

  #set(tile: KTile, op: number, operands: readonly Id[]): void {
    const { variable, type } = this.#scope.names.tile(tile);
    const { asm } = this.#scope;
    asm.emit(Op.Store, [variable, asm.value(op, type, operands)]);
  }
}
