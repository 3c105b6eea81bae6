/**
 * Modules with cooperative matrices as plain SPIR-V, for drivers without them: every invocation holds whole matrices as
 * arrays of f32 or u32, and loads, multiplies and stores all of their elements. What a subgroup does together is so done
 * by each of its invocations, with the same result; barriers of a subgroup become those of the workgroup, since the
 * driver's subgroups may be narrower than the module assumes. Throws where a module is not as the extension demands.
 */
import {
  type Component,
  capability,
  Declarations,
  type MatrixType,
  nonPrivatePointer,
  op,
  type Pointer,
  scope,
  signedBits,
  storage,
} from './matrix_modules.js';
import { encodeModule, type Instruction, textOf } from './spirv_modules.js';

/** Products of one iteration: few iterations stay under llvmpipe's limit, few products compile fast. */
const steps = 4;

/** What is not yet where it is stored to: a matrix that an instruction made. */
interface Made {
  readonly type: MatrixType;
  write(to: number): void;
}

class Emulation {
  readonly #known: Declarations;
  readonly #words: Uint32Array;
  #bound: number;
  readonly #scalars: Instruction[] = [];
  readonly #globals: Instruction[] = [];
  readonly #late: Instruction[] = [];
  readonly #helpers: Instruction[] = [];
  readonly #ids = new Map<string, number>();
  #code: Instruction[] = [];

  constructor(words: Uint32Array) {
    this.#words = words;
    this.#known = new Declarations(words);
    this.#bound = words[3];
  }

  run(): Uint32Array {
    const known = this.#known;
    const head: Instruction[] = [];
    const functions: Instruction[] = [];
    let isBody = false;
    // Element types and words first: arrays that stand for matrices need them.
    const isScalar = ({ op: code, operands }: Instruction): boolean =>
      code === op.typeInt || (code === op.typeFloat && operands.length === 2);
    for (const inst of known.instructions) if (isScalar(inst)) this.#adopt(this.#scalars, inst);
    for (const inst of known.instructions) {
      isBody ||= inst.op === op.function;
      if (isBody) functions.push(inst);
      else if (inst.op === op.capability) {
        if (![capability.matrix, capability.bfloat16, capability.bfloat16Matrix].includes(inst.operands[0]))
          head.push(inst);
      } else if (inst.op === op.extension) {
        if (!['SPV_KHR_cooperative_matrix', 'SPV_KHR_bfloat16'].includes(textOf(inst.operands))) head.push(inst);
      } else if (inst.op < op.typeVoid || inst.op === 71 || inst.op === 72) head.push(inst);
      else if (inst.op === op.typeInt || inst.op === op.typeFloat) continue;
      else if (inst.op === op.constant && this.#isUint(inst.operands[0])) this.#adopt(this.#globals, inst, true);
      else if (inst.op === op.typeMatrix) this.#declare(inst.operands[0]);
      else this.#late.push(inst);
    }
    for (const inst of this.#late) {
      if (
        inst.op === op.typeVoid ||
        inst.op === op.typePointer ||
        inst.op === op.typeFunction ||
        inst.op === op.typeBool
      )
        this.#ids.set(this.#key(inst.op, inst.operands.slice(1)), inst.operands[0]);
    }
    const body = this.#functions(functions);
    const all = [...head, ...this.#scalars, ...this.#globals, ...this.#late, ...body, ...this.#helpers];
    return encodeModule(this.#words, all, this.#bound);
  }

  #isUint(type: number): boolean {
    const { op: code, operands } = this.#known.types.get(type) as Instruction;
    return code === op.typeInt && operands[1] === 32;
  }

  // Types and constants: what the module has is used again.

  #key(code: number, operands: readonly number[]): string {
    return `${code}:${operands}`;
  }
  #adopt(list: Instruction[], inst: Instruction, isConstant = false): void {
    const [first, second, ...rest] = inst.operands;
    const [id, operands] = isConstant ? [second, [first, ...rest]] : [first, [second, ...rest]];
    this.#ids.set(this.#key(inst.op, operands), id);
    list.push(inst);
  }
  #id(): number {
    return this.#bound++;
  }
  #type(list: Instruction[], code: number, ...operands: number[]): number {
    const key = this.#key(code, operands);
    let id = this.#ids.get(key);
    if (id === undefined) {
      id = this.#id();
      this.#ids.set(key, id);
      list.push({ op: code, operands: [id, ...operands] });
    }
    return id;
  }
  #uintType = (bits = 32): number => this.#type(this.#scalars, op.typeInt, bits, 0);
  #floatType = (bits = 32): number => this.#type(this.#scalars, op.typeFloat, bits);
  #uint(value: number): number {
    const type = this.#uintType();
    const key = this.#key(op.constant, [type, value]);
    let id = this.#ids.get(key);
    if (id === undefined) {
      id = this.#id();
      this.#ids.set(key, id);
      this.#globals.push({ op: op.constant, operands: [type, id, value] });
    }
    return id;
  }
  #elementType({ component }: MatrixType): number {
    return component === 'int8' || component === 'int32' ? this.#uintType() : this.#floatType();
  }
  #declare(id: number): void {
    const type = this.#known.matrices.get(id) as MatrixType;
    const length = this.#uint(type.rows * type.columns);
    this.#globals.push({ op: op.typeArray, operands: [id, this.#elementType(type), length] });
  }
  #pointer(where: number, pointee: number): number {
    return this.#type(this.#late, op.typePointer, where, pointee);
  }

  // Code.

  #value(code: number, type: number, ...operands: number[]): number {
    const id = this.#id();
    this.#code.push({ op: code, operands: [type, id, ...operands] });
    return id;
  }
  #emit(code: number, ...operands: number[]): void {
    this.#code.push({ op: code, operands });
  }

  /** A function of pointers and words, made once for each `name`. `body` is given its parameters. */
  #helper(name: string, parameters: readonly number[], body: (...parameters: number[]) => void): number {
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    const outer = this.#code;
    this.#code = [];
    const nothing = this.#type(this.#late, op.typeVoid);
    const id = this.#id();
    this.#ids.set(name, id);
    this.#emit(op.function, nothing, id, 0, this.#type(this.#late, op.typeFunction, nothing, ...parameters));
    const ids = parameters.map((type) => this.#value(op.functionParameter, type));
    this.#emit(op.label, this.#id());
    body(...ids);
    this.#emit(op.return);
    this.#emit(op.functionEnd);
    this.#helpers.push(...this.#code);
    this.#code = outer;
    return id;
  }
  #call(helper: number, ...operands: number[]): void {
    this.#value(op.functionCall, this.#type(this.#late, op.typeVoid), helper, ...operands);
  }

  /** A loop over the rows (or columns) of a matrix: drivers are slow to compile what is written out in full. */
  #loop(count: number, body: (index: number) => void): void {
    const word = this.#uintType();
    const [before, header, inner, next, merge] = [this.#id(), this.#id(), this.#id(), this.#id(), this.#id()];
    const [index, following] = [this.#id(), this.#id()];
    this.#emit(op.branch, before);
    this.#emit(op.label, before);
    this.#emit(op.branch, header);
    this.#emit(op.label, header);
    this.#code.push({ op: op.phi, operands: [word, index, this.#uint(0), before, following, next] });
    const isLess = this.#value(op.uLessThan, this.#type(this.#late, op.typeBool), index, this.#uint(count));
    this.#emit(op.loopMerge, merge, next, 2 /* DontUnroll */);
    this.#emit(op.branchConditional, isLess, inner, merge);
    this.#emit(op.label, inner);
    body(index);
    this.#emit(op.branch, next);
    this.#emit(op.label, next);
    this.#code.push({ op: op.iAdd, operands: [word, following, index, this.#uint(1)] });
    this.#emit(op.branch, header);
    this.#emit(op.label, merge);
  }
  #element(type: MatrixType, matrix: number, row: number, column: number): number {
    const word = this.#uintType();
    const start = this.#value(op.iMul, word, row, this.#uint(type.columns));
    const at = this.#value(op.iAdd, word, start, column);
    return this.#value(op.accessChain, this.#pointer(storage.function, this.#elementType(type)), matrix, at);
  }
  #held(type: MatrixType): number {
    return this.#pointer(storage.function, type.id);
  }

  /** Calls `body` with a pointer to each element in memory: the variable from element `index` on. */
  #inMemory(
    from: Pointer,
    type: MatrixType,
    layout: number,
    stride: number,
    index: number,
    body: (memory: number, row: number, column: number) => void,
  ): void {
    const { scalar, lanes, storage: where } = this.#known.element(from.type);
    const word = this.#uintType();
    const pointer = this.#pointer(where, scalar.operands[0]);
    this.#loop(type.rows, (row) => {
      this.#loop(type.columns, (column) => {
        // Rows (columns) begin `stride` elements of the array apart, of `lanes` matrix elements each.
        const [line, within] = layout === 0 ? [row, column] : [column, row];
        const start = this.#value(op.iAdd, word, index, this.#value(op.iMul, word, line, this.#uint(stride)));
        const wide = this.#value(op.iMul, word, start, this.#uint(lanes));
        const at = this.#value(op.iAdd, word, wide, within);
        const place = this.#value(op.uDiv, word, at, this.#uint(lanes));
        const lane = lanes === 1 ? [] : [this.#value(op.uMod, word, at, this.#uint(lanes))];
        const outer = from.indices.slice(0, -1);
        body(this.#value(op.accessChain, pointer, from.variable, ...outer, place, ...lane), row, column);
      });
    });
  }

  #load(from: Pointer, type: MatrixType, layout: number, stride: number): (to: number) => void {
    const { scalar } = this.#known.element(from.type);
    const name = `load ${from.variable} ${from.type} ${type.id} ${layout} ${stride}`;
    const helper = this.#helper(name, [this.#held(type), this.#uintType()], (matrix, index) => {
      this.#inMemory(from, type, layout, stride, index, (memory, row, column) => {
        const stored = this.#value(op.load, scalar.operands[0], memory, nonPrivatePointer);
        this.#emit(op.store, this.#element(type, matrix, row, column), this.#widened(stored, scalar, type.component));
      });
    });
    return (to) => this.#call(helper, to, from.indices.at(-1) as number);
  }
  /** The bits of an element of memory as what a matrix holds. */
  #widened(value: number, { op: code, operands: [, bits] }: Instruction, component: Component): number {
    const isFloat = code === op.typeFloat;
    const expected = { f16: 16, bf16: 16, f32: 32, int8: 8, int32: 32 }[component];
    if (bits !== expected) throw new Error(`elements of ${bits} bits are loaded as ${component}`);
    const [word, float] = [this.#uintType(), this.#floatType()];
    switch (component) {
      case 'f16':
        return this.#value(op.fConvert, float, isFloat ? value : this.#value(op.bitcast, this.#floatType(16), value));
      case 'bf16': {
        if (isFloat) throw new Error('bf16 out of f16');
        const high = this.#value(op.shiftLeft, word, this.#value(op.uConvert, word, value), this.#uint(16));
        return this.#value(op.bitcast, float, high);
      }
      case 'int8':
        return this.#value(op.uConvert, word, value);
      case 'f32':
        return isFloat ? value : this.#value(op.bitcast, float, value);
      case 'int32':
        return isFloat ? this.#value(op.bitcast, word, value) : value;
      default:
        return component satisfies never;
    }
  }

  #store(to: Pointer, type: MatrixType, layout: number, stride: number, matrix: number): void {
    const { scalar } = this.#known.element(to.type);
    const element = this.#elementType(type);
    if (scalar.operands[0] !== element) throw new Error('a matrix is stored as other elements than its own');
    const name = `store ${to.variable} ${to.type} ${type.id} ${layout} ${stride}`;
    const helper = this.#helper(name, [this.#held(type), this.#uintType()], (held, index) => {
      this.#inMemory(to, type, layout, stride, index, (memory, row, column) => {
        const value = this.#value(op.load, element, this.#element(type, held, row, column));
        this.#emit(op.store, memory, value, nonPrivatePointer);
      });
    });
    this.#call(helper, matrix, to.indices.at(-1) as number);
  }

  #multiply(a: MatrixType, b: MatrixType, c: MatrixType, signs: number): number {
    const isInteger = c.component === 'int32';
    const element = this.#elementType(c);
    const factor = (isSigned: boolean, pointer: number): number => {
      const value = this.#value(op.load, element, pointer);
      if (!isInteger || !isSigned) return value;
      const sign = this.#uint(0x80);
      return this.#value(op.iSub, element, this.#value(op.xor, element, value, sign), sign);
    };
    const name = `multiply ${a.id} ${b.id} ${c.id} ${signs}`;
    return this.#helper(
      name,
      [a, b, c, c].map((type) => this.#held(type)),
      (left, right, addend, sum) => {
        this.#loop(c.rows, (row) => {
          this.#loop(c.columns, (column) => {
            const place = this.#element(c, sum, row, column);
            this.#emit(op.store, place, this.#value(op.load, element, this.#element(c, addend, row, column)));
            this.#loop(a.columns / steps, (pass) => {
              let value = this.#value(op.load, element, place);
              const first = this.#value(op.iMul, this.#uintType(), pass, this.#uint(steps));
              for (let step = 0; step < steps; step++) {
                const k = this.#value(op.iAdd, this.#uintType(), first, this.#uint(step));
                const x = factor((signs & signedBits.a) !== 0, this.#element(a, left, row, k));
                const y = factor((signs & signedBits.b) !== 0, this.#element(b, right, k, column));
                const product = this.#value(isInteger ? op.iMul : op.fMul, element, x, y);
                value = this.#value(isInteger ? op.iAdd : op.fAdd, element, value, product);
              }
              this.#emit(op.store, place, value);
            });
          });
        });
      },
    );
  }

  #functions(instructions: readonly Instruction[]): Instruction[] {
    const known = this.#known;
    const out: Instruction[] = [];
    this.#code = out;
    const pointers = new Map<number, Pointer>();
    /** Matrices by value: the variables that hold them, until those are stored to. */
    const held = new Map<number, { readonly type: MatrixType; readonly variable: number }>();
    const made = new Map<number, Made>();
    const heldBy = (id: number): { readonly type: MatrixType; readonly variable: number } => {
      const found = held.get(id);
      if (!found) throw new Error(`%${id} is no matrix whose variable still holds it`);
      return found;
    };
    for (const inst of instructions) {
      const { op: code, operands } = inst;
      const type = known.matrices.get(operands[0]);
      if (code === op.accessChain) {
        const [pointerType, id, variable, ...indices] = operands;
        pointers.set(id, { type: pointerType, variable, indices });
        out.push(inst);
      } else if (code === op.load && type) held.set(operands[1], { type, variable: operands[2] });
      else if (code === op.compositeConstruct && type) {
        if (operands.length !== 3) throw new Error('a matrix is made of one constituent');
        const helper = this.#helper(`fill ${type.id}`, [this.#held(type), this.#elementType(type)], (matrix, value) => {
          this.#loop(type.rows, (row) => {
            this.#loop(type.columns, (column) => {
              this.#emit(op.store, this.#element(type, matrix, row, column), value);
            });
          });
        });
        made.set(operands[1], { type, write: (to) => this.#call(helper, to, operands[2]) });
      } else if (code === op.matrixLoad && type) {
        const [, id, pointer, layout, stride, memory] = operands;
        this.#isNonPrivate(pointers.get(pointer) as Pointer, memory);
        const write = this.#load(pointers.get(pointer) as Pointer, type, known.uint(layout), known.uint(stride));
        made.set(id, { type, write });
      } else if (code === op.matrixStore) {
        const [pointer, object, layout, stride, memory] = operands;
        const matrix = heldBy(object);
        const to = pointers.get(pointer) as Pointer;
        this.#isNonPrivate(to, memory);
        this.#store(to, matrix.type, known.uint(layout), known.uint(stride), matrix.variable);
      } else if (code === op.matrixMulAdd && type) {
        const [, id, ...rest] = operands;
        const [a, b, c] = rest.slice(0, 3).map(heldBy);
        known.product(a.type, b.type, c.type);
        if (c.type !== type) throw new Error('the result of a product is not of the type of its addend');
        const signs = rest[3] ?? 0;
        const [isC, isResult] = [(signs & signedBits.c) !== 0, (signs & signedBits.result) !== 0];
        if (signs > 15 || isC !== isResult || (signs !== 0 && type.component !== 'int32'))
          throw new Error(`signs ${signs}`);
        const helper = this.#multiply(a.type, b.type, c.type, signs);
        made.set(id, { type, write: (to) => this.#call(helper, a.variable, b.variable, c.variable, to) });
      } else if (code === op.store && made.has(operands[1])) {
        const [to, value] = operands;
        made.get(value)?.write(to);
        made.delete(value);
        for (const [id, { variable }] of held) if (variable === to) held.delete(id);
      } else if (code === op.controlBarrier) {
        const [, , semantics] = operands;
        const workgroup = this.#uint(scope.workgroup);
        out.push({ op: code, operands: [workgroup, workgroup, semantics] });
      } else out.push(inst);
    }
    if (made.size > 0) throw new Error('a matrix is made that is not stored');
    return out;
  }

  /** Memory that invocations share must be accessed as such. */
  #isNonPrivate(pointer: Pointer, operands: number | undefined): void {
    const { storage: where } = this.#known.element(pointer.type);
    if (where === storage.workgroup && operands !== nonPrivatePointer)
      throw new Error('a private access of shared memory');
  }
}

export const emulated = (words: Uint32Array): Uint32Array => new Emulation(words).run();
