/**
 * What a module with cooperative matrices declares, read from the specification of SPV_KHR_cooperative_matrix and apart
 * from the renderer. Throws where a module is not as the extension demands.
 */
import { decodeModule, type Instruction, textOf } from './spirv_modules.js';

/** Numbers of the unified SPIR-V specification. */
export const op = {
  extension: 10,
  memoryModel: 14,
  capability: 17,
  typeVoid: 19,
  typeBool: 20,
  typeInt: 21,
  typeFloat: 22,
  typeVector: 23,
  typeArray: 28,
  typeRuntimeArray: 29,
  typeStruct: 30,
  typePointer: 32,
  typeFunction: 33,
  constantTrue: 41,
  constantFalse: 42,
  constant: 43,
  function: 54,
  functionParameter: 55,
  functionEnd: 56,
  functionCall: 57,
  variable: 59,
  load: 61,
  store: 62,
  accessChain: 65,
  compositeConstruct: 80,
  uConvert: 113,
  fConvert: 115,
  bitcast: 124,
  iAdd: 128,
  fAdd: 129,
  iSub: 130,
  iMul: 132,
  fMul: 133,
  uDiv: 134,
  uMod: 137,
  uLessThan: 176,
  shiftLeft: 196,
  xor: 198,
  controlBarrier: 224,
  phi: 245,
  loopMerge: 246,
  label: 248,
  branch: 249,
  branchConditional: 250,
  return: 253,
  typeMatrix: 4456,
  matrixLoad: 4457,
  matrixStore: 4458,
  matrixMulAdd: 4459,
  typeMatrixNv: 5358,
  matrixLoadNv: 5359,
  matrixStoreNv: 5360,
  matrixMulAddNv: 5361,
} as const;
export const capability = {
  shader: 1,
  bfloat16: 5116,
  bfloat16Matrix: 5118,
  vulkanMemoryModel: 5345,
  matrixNv: 5357,
  matrix: 6022,
};
export const scope = { workgroup: 2, subgroup: 3 };
export const storage = { workgroup: 4, function: 7, storageBuffer: 12 };
export const nonPrivatePointer = 0x20;
export const signedBits = { a: 1, b: 2, c: 4, result: 8 };

export type Component = 'f16' | 'bf16' | 'f32' | 'int8' | 'int32';
export interface MatrixType {
  readonly id: number;
  readonly component: Component;
  readonly rows: number;
  readonly columns: number;
  /** 0: a, 1: b, 2: accumulator. */
  readonly use: number;
}
export interface Pointer {
  readonly type: number;
  readonly variable: number;
  readonly indices: readonly number[];
}

/** What a module declares before its functions. */
export class Declarations {
  readonly instructions: readonly Instruction[];
  readonly uints = new Map<number, number>();
  readonly types = new Map<number, Instruction>();
  readonly matrices = new Map<number, MatrixType>();
  /** Variables of the module, with the ids of their pointer types. */
  readonly variables = new Map<number, number>();

  constructor(words: Uint32Array) {
    this.instructions = decodeModule(words);
    for (const inst of this.instructions) {
      const { op: code, operands } = inst;
      if (code === op.constant) this.uints.set(operands[1], operands[2]);
      else if (code === op.variable) this.variables.set(operands[1], operands[0]);
      else if (code >= op.typeVoid && code <= op.typeFunction) this.types.set(operands[0], inst);
      else if (code === op.typeMatrix) {
        const [id, component, ...numbers] = operands;
        const [within, rows, columns, use] = numbers.map((constant) => this.#uint(constant));
        if (numbers.length !== 4 || within !== scope.subgroup || use > 2)
          throw new Error(`a matrix type of ${numbers}`);
        this.matrices.set(id, { id, component: this.#component(component), rows, columns, use });
      }
    }
    this.#demand();
  }

  /** Capabilities and memory model that the extension asks for. */
  #demand(): void {
    const isDeclared = (code: number, holds: (operands: readonly number[]) => boolean): boolean =>
      this.instructions.some((inst) => inst.op === code && holds(inst.operands));
    const demanded: readonly (readonly [string, boolean])[] = [
      ['capability', isDeclared(op.capability, ([name]) => name === capability.matrix)],
      ['extension', isDeclared(op.extension, (text) => textOf(text) === 'SPV_KHR_cooperative_matrix')],
      ['memory model', isDeclared(op.capability, ([name]) => name === capability.vulkanMemoryModel)],
      ['memory model', isDeclared(op.memoryModel, ([, model]) => model === 3)],
      ['memory model', isDeclared(op.extension, (text) => textOf(text) === 'SPV_KHR_vulkan_memory_model')],
    ];
    for (const [what, holds] of demanded) if (!holds) throw new Error(`the ${what} is missing`);
  }

  #uint(constant: number): number {
    const value = this.uints.get(constant);
    if (value === undefined) throw new Error(`%${constant} is no constant`);
    return value;
  }
  uint = (constant: number): number => this.#uint(constant);

  #component(type: number): Component {
    const { op: code, operands } = this.types.get(type) as Instruction;
    const bits = operands[1];
    if (code === op.typeFloat) return operands.length > 2 ? 'bf16' : bits === 16 ? 'f16' : 'f32';
    if (code !== op.typeInt || operands[2] !== 0) throw new Error(`matrices of %${type}`);
    return bits === 8 ? 'int8' : 'int32';
  }

  /** The matrix type of which this is a pointer to one. */
  pointee(pointer: number): MatrixType | undefined {
    return this.matrices.get((this.types.get(pointer) as Instruction)?.operands[2]);
  }

  /** Element type and lanes of what a pointer points to. */
  element(pointer: number): { readonly scalar: Instruction; readonly lanes: number; readonly storage: number } {
    const [, where, pointee] = (this.types.get(pointer) as Instruction).operands;
    const type = this.types.get(pointee) as Instruction;
    if (type.op !== op.typeVector) return { scalar: type, lanes: 1, storage: where };
    return { scalar: this.types.get(type.operands[1]) as Instruction, lanes: type.operands[2], storage: where };
  }

  /** Throws unless a product is of matrices that fit. */
  product(a: MatrixType, b: MatrixType, c: MatrixType): void {
    const fits = a.rows === c.rows && b.columns === c.columns && a.columns === b.rows;
    if (!fits || a.use !== 0 || b.use !== 1 || c.use !== 2) throw new Error('a product of matrices that do not fit');
  }
}
