/**
 * A SPIR-V assembler: collects words by the sections that the specification orders, hands out ids, and gives equal
 * types and constants one id. Knows nothing of Kernel IR.
 *
 * Numbers are those of the "SPIR-V Specification" 1.3 (unified1), sections 3.3 (decorations) to 3.42 (instructions), and of
 * the extensions SPV_KHR_cooperative_matrix, SPV_KHR_bfloat16 and SPV_KHR_vulkan_memory_model.
 */

export const Op = {
  Name: 5,
  Source: 3,
  Extension: 10,
  ExtInstImport: 11,
  ExtInst: 12,
  MemoryModel: 14,
  EntryPoint: 15,
  ExecutionMode: 16,
  Capability: 17,
  TypeVoid: 19,
  TypeBool: 20,
  TypeInt: 21,
  TypeFloat: 22,
  TypeVector: 23,
  TypeArray: 28,
  TypeRuntimeArray: 29,
  TypeStruct: 30,
  TypePointer: 32,
  TypeFunction: 33,
  ConstantTrue: 41,
  ConstantFalse: 42,
  Constant: 43,
  ConstantComposite: 44,
  Function: 54,
  FunctionParameter: 55,
  FunctionEnd: 56,
  FunctionCall: 57,
  Variable: 59,
  Load: 61,
  Store: 62,
  AccessChain: 65,
  Decorate: 71,
  MemberDecorate: 72,
  CompositeConstruct: 80,
  CompositeExtract: 81,
  ConvertFToU: 109,
  ConvertFToS: 110,
  ConvertSToF: 111,
  ConvertUToF: 112,
  UConvert: 113,
  SConvert: 114,
  FConvert: 115,
  Bitcast: 124,
  SNegate: 126,
  FNegate: 127,
  IAdd: 128,
  FAdd: 129,
  ISub: 130,
  FSub: 131,
  IMul: 132,
  FMul: 133,
  UDiv: 134,
  SDiv: 135,
  FDiv: 136,
  UMod: 137,
  SRem: 138,
  UMulExtended: 151,
  SMulExtended: 152,
  LogicalEqual: 164,
  LogicalNotEqual: 165,
  LogicalOr: 166,
  LogicalAnd: 167,
  LogicalNot: 168,
  Select: 169,
  IEqual: 170,
  INotEqual: 171,
  UGreaterThan: 172,
  SGreaterThan: 173,
  UGreaterThanEqual: 174,
  SGreaterThanEqual: 175,
  ULessThan: 176,
  SLessThan: 177,
  ULessThanEqual: 178,
  SLessThanEqual: 179,
  FOrdEqual: 180,
  FUnordNotEqual: 183,
  FOrdLessThan: 184,
  FUnordLessThan: 185,
  FOrdGreaterThan: 186,
  FUnordGreaterThan: 187,
  FOrdLessThanEqual: 188,
  FOrdGreaterThanEqual: 190,
  ShiftRightLogical: 194,
  ShiftRightArithmetic: 195,
  ShiftLeftLogical: 196,
  BitwiseOr: 197,
  BitwiseXor: 198,
  BitwiseAnd: 199,
  Not: 200,
  BitCount: 205,
  ControlBarrier: 224,
  AtomicExchange: 229,
  AtomicCompareExchange: 230,
  AtomicIAdd: 234,
  AtomicSMin: 236,
  AtomicUMin: 237,
  AtomicSMax: 238,
  AtomicUMax: 239,
  AtomicAnd: 240,
  AtomicOr: 241,
  AtomicXor: 242,
  Phi: 245,
  LoopMerge: 246,
  SelectionMerge: 247,
  Label: 248,
  Branch: 249,
  BranchConditional: 250,
  Return: 253,
  ReturnValue: 254,
  GroupNonUniformBroadcast: 337,
  GroupNonUniformBroadcastFirst: 338,
  GroupNonUniformShuffle: 345,
  GroupNonUniformShuffleXor: 346,
  GroupNonUniformShuffleDown: 348,
  GroupNonUniformIAdd: 349,
  GroupNonUniformFAdd: 350,
  GroupNonUniformSMin: 353,
  GroupNonUniformUMin: 354,
  GroupNonUniformSMax: 356,
  GroupNonUniformUMax: 357,
  TypeCooperativeMatrix: 4456,
  CooperativeMatrixLoad: 4457,
  CooperativeMatrixStore: 4458,
  CooperativeMatrixMulAdd: 4459,
  SDot: 4450,
  UDot: 4451,
  SUDot: 4452,
} as const;

export const Capability = {
  Shader: 1,
  Float16: 9,
  Float64: 10,
  Int64: 11,
  Int16: 22,
  Int8: 39,
  GroupNonUniform: 61,
  GroupNonUniformArithmetic: 63,
  GroupNonUniformBallot: 64,
  GroupNonUniformShuffle: 65,
  GroupNonUniformShuffleRelative: 66,
  StorageBuffer16BitAccess: 4433,
  StorageBuffer8BitAccess: 4448,
  SignedZeroInfNanPreserve: 4466,
  RoundingModeRTE: 4467,
  BFloat16Type: 5116,
  BFloat16CooperativeMatrix: 5118,
  VulkanMemoryModel: 5345,
  CooperativeMatrix: 6022,
  DotProductInput4x8BitPacked: 6018,
  DotProduct: 6019,
} as const;

export const Decoration = {
  Block: 2,
  ArrayStride: 6,
  BuiltIn: 11,
  Restrict: 19,
  Aliased: 20,
  Coherent: 23,
  NonWritable: 24,
  NonReadable: 25,
  Binding: 33,
  DescriptorSet: 34,
  Offset: 35,
  NoContraction: 42,
} as const;

export const BuiltIn = {
  WorkgroupId: 26,
  LocalInvocationId: 27,
  SubgroupSize: 36,
  SubgroupLocalInvocationId: 41,
} as const;
export const StorageClass = { Input: 1, Workgroup: 4, Function: 7, PushConstant: 9, StorageBuffer: 12 } as const;
export const ExecutionMode = { LocalSize: 17, SignedZeroInfNanPreserve: 4461, RoundingModeRTE: 4462 } as const;
export const Scope = { Device: 1, Workgroup: 2, Subgroup: 3, QueueFamily: 5 } as const;
export const MemorySemantics = {
  AcquireRelease: 0x8,
  UniformMemory: 0x40,
  WorkgroupMemory: 0x100,
  MakeAvailable: 0x2000,
  MakeVisible: 0x4000,
} as const;
export const MemoryOperand = { NonPrivatePointer: 0x20 } as const;
export const MatrixUse = { A: 0, B: 1, Accumulator: 2 } as const;
export const MatrixLayout = { Row: 0, Column: 1 } as const;
/** Of a product of cooperative matrices: which of them hold signed integers. */
export const MatrixSigned = { A: 1, B: 2, C: 4, Result: 8 } as const;
export const LoopControl = { None: 0, Unroll: 1 } as const;

/** GLSL.std.450 */
export const Glsl = {
  RoundEven: 2,
  Trunc: 3,
  FAbs: 4,
  SAbs: 5,
  Floor: 8,
  Ceil: 9,
  Sqrt: 31,
  UMin: 38,
  SMin: 39,
  UMax: 41,
  SMax: 42,
  Fma: 50,
  FindUMsb: 75,
} as const;

/** An id: a value, type, label or function of the module. */
export type Id = number;

/** A growing run of words. */
class Words {
  words = new Uint32Array(256);
  length = 0;

  reserve(count: number): void {
    if (this.length + count <= this.words.length) return;
    const larger = new Uint32Array(Math.max(this.words.length * 2, this.length + count));
    larger.set(this.words.subarray(0, this.length));
    this.words = larger;
  }
  instruction(op: number, operands: readonly number[]): void {
    const count = operands.length + 1;
    this.reserve(count);
    this.words[this.length] = (count << 16) | op;
    for (let i = 0; i < operands.length; i++) this.words[this.length + 1 + i] = operands[i];
    this.length += count;
  }
}

/** Little-endian UTF-8 with a terminating zero, padded to whole words. */
export function stringWords(text: string): number[] {
  const bytes = new TextEncoder().encode(text);
  const words = new Array<number>((bytes.length >> 2) + 1).fill(0);
  for (let i = 0; i < bytes.length; i++) words[i >> 2] |= bytes[i] << (8 * (i & 3));
  return words.map((word) => word >>> 0);
}

export class Assembler {
  readonly #capabilities = new Set<number>();
  readonly #extensions = new Set<string>();
  readonly #entry = new Words();
  readonly #names = new Words();
  readonly #annotations = new Words();
  readonly #globals = new Words();
  readonly #code = new Words();
  readonly #unique = new Map<string, Id>();
  readonly #uints = new Map<number, Id>();
  readonly #glsl: Id;
  #bound = 1;
  #isVulkanMemoryModel = false;

  constructor() {
    this.capability('Shader');
    this.#glsl = this.id();
  }

  id(): Id {
    return this.#bound++;
  }
  capability(name: keyof typeof Capability): void {
    this.#capabilities.add(Capability[name]);
  }
  extension(name: string): void {
    this.#extensions.add(name);
  }
  /**
   * Turns the module to Vulkan's memory model: variables that invocations share are then accessed as `NonPrivatePointer`,
   * and barriers make writes available and visible. Nothing may be Coherent.
   */
  useVulkanMemoryModel(): void {
    this.#isVulkanMemoryModel = true;
    this.capability('VulkanMemoryModel');
    this.extension('SPV_KHR_vulkan_memory_model');
  }
  get isVulkanMemoryModel(): boolean {
    return this.#isVulkanMemoryModel;
  }
  name(target: Id, name: string): void {
    this.#names.instruction(Op.Name, [target, ...stringWords(name)]);
  }
  decorate(target: Id, decoration: keyof typeof Decoration, ...operands: number[]): void {
    this.#annotations.instruction(Op.Decorate, [target, Decoration[decoration], ...operands]);
  }
  decorateMember(target: Id, member: number, decoration: keyof typeof Decoration, ...operands: number[]): void {
    this.#annotations.instruction(Op.MemberDecorate, [target, member, Decoration[decoration], ...operands]);
  }
  entryPoint(fn: Id, name: string, inputs: readonly Id[]): void {
    this.#entry.instruction(Op.EntryPoint, [5 /* GLCompute */, fn, ...stringWords(name), ...inputs]);
  }
  executionMode(fn: Id, mode: keyof typeof ExecutionMode, ...operands: number[]): void {
    this.#entry.instruction(Op.ExecutionMode, [fn, ExecutionMode[mode], ...operands]);
  }

  // Types and constants: equal ones share an id.

  #shared(op: number, operands: readonly number[]): Id {
    const key = `${op}:${operands.join()}`;
    let id = this.#unique.get(key);
    if (id === undefined) {
      id = this.id();
      this.#unique.set(key, id);
      this.#globals.instruction(op, [id, ...operands]);
    }
    return id;
  }
  /** Constants name their type before their own id. */
  #sharedConstant(op: number, type: Id, operands: readonly number[]): Id {
    const key = `${op}:${type}:${operands.join()}`;
    let id = this.#unique.get(key);
    if (id === undefined) {
      id = this.id();
      this.#unique.set(key, id);
      this.#globals.instruction(op, [type, id, ...operands]);
    }
    return id;
  }
  typeVoid(): Id {
    return this.#shared(Op.TypeVoid, []);
  }
  typeBool(): Id {
    return this.#shared(Op.TypeBool, []);
  }
  typeUint(bits: number): Id {
    return this.#shared(Op.TypeInt, [bits, 0]);
  }
  typeFloat(bits: number): Id {
    return this.#shared(Op.TypeFloat, [bits]);
  }
  typeBfloat16(): Id {
    return this.#shared(Op.TypeFloat, [16, 0 /* BFloat16KHR */]);
  }
  /** A matrix that a subgroup holds. */
  typeCooperativeMatrix(component: Id, rows: number, columns: number, use: keyof typeof MatrixUse): Id {
    const [scope, of] = [this.uint(Scope.Subgroup), this.uint(MatrixUse[use])];
    return this.#shared(Op.TypeCooperativeMatrix, [component, scope, this.uint(rows), this.uint(columns), of]);
  }
  typeVector(component: Id, lanes: number): Id {
    return lanes === 1 ? component : this.#shared(Op.TypeVector, [component, lanes]);
  }
  typeArray(element: Id, length: number): Id {
    return this.#shared(Op.TypeArray, [element, this.uint(length)]);
  }
  typePair(element: Id): Id {
    return this.#shared(Op.TypeStruct, [element, element]);
  }
  typePointer(storage: keyof typeof StorageClass, pointee: Id): Id {
    return this.#shared(Op.TypePointer, [StorageClass[storage], pointee]);
  }
  typeFunction(result: Id, params: readonly Id[]): Id {
    return this.#shared(Op.TypeFunction, [result, ...params]);
  }
  /** A block of one unsized array, for a storage buffer. Equal ones share an id. */
  typeStorageBlock(element: Id, stride: number): Id {
    const key = `block:${element}:${stride}`;
    let block = this.#unique.get(key);
    if (block === undefined) {
      const array = this.id();
      block = this.id();
      this.#globals.instruction(Op.TypeRuntimeArray, [array, element]);
      this.decorate(array, 'ArrayStride', stride);
      this.#globals.instruction(Op.TypeStruct, [block, array]);
      this.decorate(block, 'Block');
      this.decorateMember(block, 0, 'Offset', 0);
      this.#unique.set(key, block);
    }
    return block;
  }
  /** A block of 4-byte members, for push constants. */
  typePushBlock(members: readonly Id[]): Id {
    const block = this.id();
    this.#globals.instruction(Op.TypeStruct, [block, ...members]);
    this.decorate(block, 'Block');
    members.forEach((_, i) => {
      this.decorateMember(block, i, 'Offset', 4 * i);
    });
    return block;
  }
  /** `words` is the literal, low word first. */
  constant(type: Id, words: readonly number[]): Id {
    return this.#sharedConstant(Op.Constant, type, words);
  }
  uint(value: number): Id {
    let id = this.#uints.get(value);
    if (id === undefined) {
      id = this.constant(this.typeUint(32), [value >>> 0]);
      this.#uints.set(value, id);
    }
    return id;
  }
  bool(value: boolean): Id {
    return this.#sharedConstant(value ? Op.ConstantTrue : Op.ConstantFalse, this.typeBool(), []);
  }
  composite(type: Id, parts: readonly Id[]): Id {
    return this.#sharedConstant(Op.ConstantComposite, type, parts);
  }
  /** A variable of the module (not of a function). */
  variable(pointer: Id, storage: Exclude<keyof typeof StorageClass, 'Function'>): Id {
    const id = this.id();
    this.#globals.instruction(Op.Variable, [pointer, id, StorageClass[storage]]);
    return id;
  }

  // Code.

  /** An instruction without a result. */
  emit(op: number, operands: readonly number[] = []): void {
    this.#code.instruction(op, operands);
  }
  /** An instruction with a result, whose id it returns. */
  value(op: number, type: Id, operands: readonly number[]): Id {
    const id = this.id();
    const code = this.#code;
    const count = operands.length + 3;
    code.reserve(count);
    const { words } = code;
    let at = code.length;
    words[at++] = (count << 16) | op;
    words[at++] = type;
    words[at++] = id;
    for (const operand of operands) words[at++] = operand;
    code.length = at;
    return id;
  }
  glsl(instruction: keyof typeof Glsl, type: Id, operands: readonly Id[]): Id {
    return this.value(Op.ExtInst, type, [this.#glsl, Glsl[instruction], ...operands]);
  }
  label(id: Id): void {
    this.emit(Op.Label, [id]);
  }
  /** A phi whose second pair is set later, when the loop's body is known. Returns its id and how to set it. */
  loopPhi(type: Id, initial: Id, before: Id): { readonly id: Id; close(next: Id, from: Id): void } {
    const id = this.value(Op.Phi, type, [initial, before, 0, 0]);
    const end = this.#code.length;
    return {
      id,
      close: (next, from) => {
        this.#code.words[end - 2] = next;
        this.#code.words[end - 1] = from;
      },
    };
  }

  /** The module. Version 1.3 runs on every Vulkan 1.1 driver. */
  finish(): Uint32Array {
    const head = new Words();
    for (const capability of this.#capabilities) head.instruction(Op.Capability, [capability]);
    for (const extension of this.#extensions) head.instruction(Op.Extension, stringWords(extension));
    head.instruction(Op.ExtInstImport, [this.#glsl, ...stringWords('GLSL.std.450')]);
    head.instruction(Op.MemoryModel, [0 /* Logical */, this.#isVulkanMemoryModel ? 3 /* Vulkan */ : 1 /* GLSL450 */]);
    const sections = [head, this.#entry, this.#names, this.#annotations, this.#globals, this.#code];
    const module = new Uint32Array(sections.reduce((sum, section) => sum + section.length, 5));
    module.set([0x07230203, 0x00010300, 0, this.#bound, 0]);
    let at = 5;
    for (const section of sections) {
      module.set(section.words.subarray(0, section.length), at);
      at += section.length;
    }
    return module;
  }
}
