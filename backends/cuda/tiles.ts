/**
 * Matrix tiles as registers of a warp, for mma.sync.
 *
 * A tile is cut into the fragments of the instructions, each 16 rows of A (or 8 columns of B) by 32 bytes of k, and
 * 16×8 of the accumulator. With g = lane / 4, t = lane % 4 and E elements in a register (PTX ISA, "Matrix fragments
 * for mma.m16n8k…"): register r of A holds row g + 8(r & 1), columns 4E(r >> 1) + tE …; register r of B rows
 * 4Er + tE … of column g; element i of the accumulator row g + 8(i >> 1), column 2t + (i & 1). The smaller shapes of
 * sm_75 use the same registers, some at a time.
 *
 * Aligned tiles in shared memory are loaded by ldmatrix, whose 8×8 matrices of 16-bit elements are those registers, or
 * with `.trans` their transpose. Everything else is loaded element by element.
 */
import { isBulkInst } from '../../compiler/kernel/bulk.js';
import {
  type EngineInst,
  type FragmentInst,
  type KTile,
  type TileAccess,
  type TileInst,
  tileColumns,
  tileRows,
} from '../../compiler/kernel/engines.js';
import { type KMemory, type KValue, scalarBits } from '../../compiler/kernel/types.js';
import { BulkRenderer } from './bulk.js';
import type { MemoryAccess } from './memory.js';
import type { Module } from './module.js';
import type { FunctionText, Reg } from './ptx.js';

type Access = TileInst & TileAccess;
type Inst<Op extends EngineInst['op']> = Extract<EngineInst, { op: Op }>;

/** A place of the fragments: elements of k in 32 bytes, and in one register. */
interface Format {
  readonly bytes: number;
  readonly perRegister: number;
  readonly depth: number;
}

function formatOf({ scalar }: KTile): Format {
  const bytes =
    scalar === 'tf32' || scalar === 'f32' || scalar === 'i32' ? 4 : scalar === 'i8' || scalar === 'u8' ? 1 : 2;
  return { bytes, perRegister: 4 / bytes, depth: 32 / bytes };
}

/** Registers of one fragment in order, by block of rows (A, accumulator) or of k (B) and block of columns. */
type Fragments = readonly (readonly (readonly Reg[])[])[];

/** Type of an operand or accumulator in an instruction's name. */
const mmaTypes: Readonly<Record<KTile['scalar'], string>> = {
  f16: 'f16',
  bf16: 'bf16',
  tf32: 'tf32',
  f32: 'f32',
  i8: 's8',
  u8: 'u8',
  i32: 's32',
};

export class TileRenderer {
  readonly #f: FunctionText;
  readonly #memory: MemoryAccess;
  readonly #sm: number;
  readonly #bulk: BulkRenderer;
  readonly #regOf: (value: KValue) => Reg;
  readonly #fragments = new Map<KTile, Fragments>();
  /** Byte offsets that depend on the lane only, by what they are. */
  readonly #offsets = new Map<string, Reg>();

  constructor(
    text: FunctionText,
    { kernel, arch }: Pick<Module, 'kernel' | 'arch'>,
    memory: MemoryAccess,
    regOf: (value: KValue) => Reg,
  ) {
    this.#f = text;
    this.#memory = memory;
    this.#sm = arch.sm;
    this.#regOf = regOf;
    this.#bulk = new BulkRenderer(text, kernel, memory, regOf, (tile) => this.#of(tile).flat(2));
  }

  render(inst: EngineInst): void {
    if (isBulkInst(inst)) {
      this.#bulk.render(inst);
      return;
    }
    switch (inst.op) {
      case 'tile_fill':
        this.#fill(inst);
        break;
      case 'tile_load':
        if (inst.tile.role === 'accumulator') this.#moveAccumulator(inst);
        else this.#load(inst);
        break;
      case 'tile_store':
        this.#moveAccumulator(inst);
        break;
      case 'tile_multiply':
        this.#multiply(inst);
        break;
      case 'tile_unpack':
      case 'tile_pack':
        this.#fragment(inst);
        break;
      case 'subgroup_barrier':
        this.#f.line('bar.warp.sync 0xffffffff;');
        break;
      case 'async_copy':
        this.#copy(inst);
        break;
      case 'async_commit':
        this.#f.line('cp.async.commit_group;');
        break;
      case 'async_wait':
        this.#f.line(`cp.async.wait_group ${inst.pending};`);
        break;
      default:
        inst satisfies never;
    }
  }

  // Registers -------------------------------------------------------------------------------------------------------

  #of(tile: KTile): Fragments {
    let fragments = this.#fragments.get(tile);
    if (fragments === undefined) {
      const { depth } = formatOf(tile);
      // Each warp of a warpgroup has a part of the rows.
      const [rows, columns] = [tileRows(tile) / (tile.subgroups ?? 1), tileColumns(tile)];
      const blocks = { a: [16, depth, 4], b: [depth, 8, 2], accumulator: [16, 8, tile.scalar === 'f16' ? 2 : 4] }[
        tile.role
      ];
      fragments = Array.from({ length: rows / blocks[0] }, () =>
        Array.from({ length: columns / blocks[1] }, () => Array.from({ length: blocks[2] }, () => this.#f.reg(32))),
      );
      this.#fragments.set(tile, fragments);
    }
    return fragments;
  }

  #fill({ tile, value }: Inst<'tile_fill'>): void {
    const f = this.#f;
    const reg = this.#regOf(value);
    const filled = tile.scalar === 'f16' ? f.value(32, 'mov.b32', `{${reg}, ${reg}}`) : reg;
    for (const register of this.#of(tile).flat(2)) f.move(32, register, filled);
  }

  // Memory ----------------------------------------------------------------------------------------------------------

  /** Bytes from row to row and from column to column. */
  #steps({ tile, stride, layout }: Access): { readonly row: number; readonly column: number } {
    const { bytes } = formatOf(tile);
    return layout === 'row' ? { row: stride * bytes, column: bytes } : { row: bytes, column: stride * bytes };
  }

  #load(inst: Inst<'tile_load'>): void {
    const { tile, layout, aligned, memory } = inst;
    const { bytes } = formatOf(tile);
    const alongK = (tile.role === 'a') === (layout === 'row');
    const matrices = aligned && memory.kind === 'array' && (alongK || bytes === 2);
    // B takes two fragments at a time.
    if (matrices && (tile.role === 'a' || tile.n % 16 === 0)) this.#loadMatrices(inst, !alongK);
    else this.#loadElements(inst);
    if (tile.scalar === 'tf32') this.#roundTf32(tile);
  }

  /**
   * ldmatrix.x4: lane l gives the address of row l % 8 of matrix l / 8. The matrices of A are its registers of one
   * fragment; those of B the registers of two neighbours.
   */
  #loadMatrices(inst: Inst<'tile_load'>, transposed: boolean): void {
    const f = this.#f;
    const { tile } = inst;
    const { depth } = formatOf(tile);
    const { row, column } = this.#steps(inst);
    const isA = tile.role === 'a';
    // From matrix to matrix: half a fragment along k, and eight rows of A or columns of B.
    const halfK = (isA ? column : row) * (depth / 2);
    const eight = (isA ? row : column) * 8;
    const [second, fourth] = isA ? [eight, halfK] : [halfK, eight];
    const within = transposed === isA ? column : row;
    const lane = this.#laneOffset(`matrix ${within} ${second} ${fourth}`, (id) => {
      const part = (bit: number, step: number): Reg =>
        f.early(32, 'mul.lo.u32', f.early(32, 'bfe.u32', id, String(bit), '1'), String(step));
      const inner = f.early(32, 'mad.lo.u32', f.early(32, 'and.b32', id, '7'), String(within), part(3, second));
      return f.early(32, 'add.u32', inner, part(4, fourth));
    });
    const place = this.#memory.tilePlace(inst.memory, inst.index, lane);
    const op = `ldmatrix.sync.aligned.m8n8.x4${transposed ? '.trans' : ''}.shared.b16`;
    const fragments = this.#of(tile);
    const emit = (registers: readonly Reg[], offset: number): void =>
      f.line(`${op} {${registers.join(', ')}}, [${place.at(offset)}];`);
    fragments.forEach((blocks, down) => {
      if (isA) blocks.forEach((registers, across) => void emit(registers, down * 16 * row + across * depth * column));
      else {
        for (let across = 0; across < blocks.length; across += 2)
          emit([...blocks[across], ...blocks[across + 1]], down * depth * row + across * 8 * column);
      }
    });
  }

  #loadElements(inst: Inst<'tile_load'>): void {
    const f = this.#f;
    const { tile, memory } = inst;
    const { depth, bytes, perRegister } = formatOf(tile);
    const { row, column } = this.#steps(inst);
    const isA = tile.role === 'a';
    const [alongK, across] = isA ? [column, row] : [row, column];
    const place = this.#memory.tilePlace(memory, inst.index, this.#fragmentOffset(across, alongK * perRegister));
    const op = `ld.${place.space}`;
    const read = (offset: number): Reg => {
      const source = `[${place.at(offset)}]`;
      if (bytes === 4) return f.value(32, `${op}.b32`, source);
      return bytes === 2 ? f.value(16, `${op}.b16`, source) : f.value(32, `${op}.u8`, source);
    };
    this.#of(tile).forEach((blocks, down) => {
      blocks.forEach((registers, right) => {
        const [k, other] = isA ? [right * depth, down * 16] : [down * depth, right * 8];
        registers.forEach((register, r) => {
          const [atK, atOther] = isA ? [k + (depth / 2) * (r >> 1), other + 8 * (r & 1)] : [k + (depth / 2) * r, other];
          const elements = Array.from({ length: perRegister }, (_, e) => read(atOther * across + (atK + e) * alongK));
          f.move(32, register, this.#packed(elements, bytes));
        });
      });
    });
  }

  /** Elements of a register from the lowest byte on. */
  #packed(elements: readonly Reg[], bytes: number): Reg {
    const f = this.#f;
    if (bytes === 4) return elements[0];
    if (bytes === 2) return f.value(32, 'mov.b32', `{${elements.join(', ')}}`);
    const [a, b, c, d] = elements;
    // The lowest bytes of two words, of two of those pairs.
    const pair = (low: Reg, high: Reg): Reg => f.value(32, 'prmt.b32', low, high, '0x0040');
    return f.value(32, 'prmt.b32', pair(a, b), pair(c, d), '0x5410');
  }

  #roundTf32(tile: KTile): void {
    for (const register of this.#of(tile).flat(2)) this.#f.line(`cvt.rna.tf32.f32 ${register}, ${register};`);
  }

  /** Loads or stores an accumulator: pairs of neighbours at once where they lie so. */
  #moveAccumulator(inst: Access): void {
    const f = this.#f;
    const { tile, memory, aligned, layout } = inst;
    const { bytes } = formatOf(tile);
    const { row, column } = this.#steps(inst);
    const { subgroups = 1 } = tile;
    const within = this.#fragmentOffset(row, 2 * column);
    const lane = subgroups === 1 ? within : this.#warpOffset(within, (tileRows(tile) / subgroups) * row, subgroups);
    const place = this.#memory.tilePlace(memory, inst.index, lane);
    const some = inst.op === 'tile_store' ? inst.columns : undefined;
    const [first, end] = some ? [some.from / 8, (some.from + some.count) / 8] : [0, tileColumns(tile) / 8];
    const pairs = aligned && layout === 'row';
    const isLoad = inst.op === 'tile_load';
    const op = `${isLoad ? 'ld' : 'st'}.${place.space}`;
    const line = (type: string, offset: number, value: string): void => {
      const source = `[${place.at(offset)}]`;
      f.line(isLoad ? `${op}.${type} ${value}, ${source};` : `${op}.${type} ${source}, ${value};`);
    };
    this.#of(tile).forEach((blocks, down) => {
      blocks.slice(first, end).forEach((registers, right) => {
        for (const half of [0, 1]) {
          const at = (down * 16 + half * 8) * row + right * 8 * column;
          if (bytes === 2) {
            this.#moveHalves(registers[half], pairs, isLoad, (type, neighbour, value) =>
              line(type, at + neighbour * column, value),
            );
            continue;
          }
          const [low, high] = [registers[2 * half], registers[2 * half + 1]];
          if (pairs) line('v2.b32', at, `{${low}, ${high}}`);
          else {
            line('b32', at, low);
            line('b32', at + column, high);
          }
        }
      });
    });
  }

  /** Two f16 in one register. */
  #moveHalves(
    register: Reg,
    pairs: boolean,
    isLoad: boolean,
    line: (type: string, neighbour: number, value: string) => void,
  ): void {
    const f = this.#f;
    if (pairs) {
      line('b32', 0, register);
      return;
    }
    const halves = [f.reg(16), f.reg(16)];
    if (!isLoad) f.line(`mov.b32 {${halves.join(', ')}}, ${register};`);
    halves.forEach((half, i) => void line('b16', i, half));
    if (isLoad) f.line(`mov.b32 ${register}, {${halves.join(', ')}};`);
  }

  /** g·`byGroup` + t·`byThread` bytes. */
  #fragmentOffset(byGroup: number, byThread: number): Reg {
    const f = this.#f;
    return this.#laneOffset(`fragment ${byGroup} ${byThread}`, (id) => {
      const thread = f.early(32, 'mul.lo.u32', f.early(32, 'and.b32', id, '3'), String(byThread));
      return f.early(32, 'mad.lo.u32', f.early(32, 'shr.u32', id, '2'), String(byGroup), thread);
    });
  }

  /** The same `byWarp` bytes further for each warp of the warpgroup. */
  #warpOffset(within: Reg, byWarp: number, warps: number): Reg {
    const f = this.#f;
    return this.#laneOffset(`warp ${within} ${byWarp}`, () => {
      const warp = f.early(32, 'shr.u32', f.early(32, 'mov.u32', '%tid.x'), '5');
      return f.early(32, 'mad.lo.u32', f.early(32, 'and.b32', warp, String(warps - 1)), String(byWarp), within);
    });
  }

  #laneOffset(key: string, make: (lane: Reg) => Reg): Reg {
    let offset = this.#offsets.get(key);
    if (offset === undefined) {
      let lane = this.#offsets.get('lane');
      if (lane === undefined) this.#offsets.set('lane', (lane = this.#f.early(32, 'mov.u32', '%laneid')));
      this.#offsets.set(key, (offset = make(lane)));
    }
    return offset;
  }

  /** Between a tile's registers and the registers of a private array, in the order of `fragmentPlace`. */
  #fragment({ op, tile, memory, from }: FragmentInst): void {
    const f = this.#f;
    const held = this.#of(tile).flat(2);
    const elements = this.#memory.registersOf(memory);
    if (tile.role === 'accumulator') {
      held.forEach((register, i) => {
        const element = elements[from + i];
        if (op === 'tile_unpack') f.move(32, element, register);
        else f.move(32, register, element);
      });
      return;
    }
    held.forEach((register, i) => {
      const [low, high] = [elements[from + 2 * i], elements[from + 2 * i + 1]];
      if (this.#sm >= 80) {
        f.line(`cvt.rn.${tile.scalar}x2.f32 ${register}, ${high}, ${low};`);
        return;
      }
      const halves = [low, high].map((element) => f.value(16, 'cvt.rn.f16.f32', element));
      f.move(32, register, f.value(32, 'mov.b32', `{${halves.join(', ')}}`));
    });
  }

  // Products --------------------------------------------------------------------------------------------------------

  #multiply({ accumulator, a, b }: Inst<'tile_multiply'>): void {
    const [sums, left, right] = [accumulator, a, b].map((tile) => this.#of(tile));
    const types = [accumulator, a, b, accumulator].map(({ scalar }) => mmaTypes[scalar]).join('.');
    sums.forEach((blocks, down) => {
      blocks.forEach((sum, across) => {
        right.forEach((rows, k) => void this.#step(a, types, sum, left[down][k], rows[across]));
      });
    });
  }

  /** 16×8 += 16×(32 bytes) · (32 bytes)×8 */
  #step(tile: KTile, types: string, c: readonly Reg[], a: readonly Reg[], b: readonly Reg[]): void {
    const { depth, bytes } = formatOf(tile);
    if (this.#sm >= 80) this.#mma(`m16n8k${depth}`, types, c, a, b);
    else if (bytes === 2) {
      this.#mma('m16n8k8', types, c, [a[0], a[1]], [b[0]]);
      this.#mma('m16n8k8', types, c, [a[2], a[3]], [b[1]]);
    } else {
      for (const half of [0, 1]) {
        const sums = [c[2 * half], c[2 * half + 1]];
        this.#mma('m8n8k16', types, sums, [a[half]], [b[0]]);
        this.#mma('m8n8k16', types, sums, [a[half + 2]], [b[1]]);
      }
    }
  }

  #mma(shape: string, types: string, c: readonly Reg[], a: readonly Reg[], b: readonly Reg[]): void {
    const [sums, left, right] = [c, a, b].map((registers) => `{${registers.join(', ')}}`);
    this.#f.line(`mma.sync.aligned.${shape}.row.col.${types} ${sums}, ${left}, ${right}, ${sums};`);
  }

  // Asynchronous copies ---------------------------------------------------------------------------------------------

  #copy({ memory, index, source, from, elements, condition }: Inst<'async_copy'>): void {
    const f = this.#f;
    const bytes = (elements * scalarBits[memory.scalar]) / 8;
    const place = (of: KMemory, at: KValue): string => this.#memory.place(of, at);
    const size = condition ? `, ${f.value(32, 'selp.b32', String(bytes), '0', this.#regOf(condition))}` : '';
    const cache = bytes === 16 ? 'cg' : 'ca';
    f.line(`cp.async.${cache}.shared.global ${place(memory, index)}, ${place(source, from)}, ${bytes}${size};`);
  }
}
