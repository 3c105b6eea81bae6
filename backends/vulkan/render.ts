/**
 * Kernel IR → SPIR-V 1.3 for Vulkan 1.1.
 *
 * Buffers are descriptor set 0, binding i: a runtime array, seen through one variable for each vector width that is
 * used with aligned accesses (a vec4 load is then one load). Scalar parameters are push constants. Control flow is
 * SPIR-V's structured form with phis; loops that ask for unrolling and have constant bounds are unrolled here, because
 * not every driver does.
 */
import {
  type AtomicFn,
  type Builtin,
  type HelperFunction,
  isFloatScalar,
  isMathFn,
  isSignedScalar,
  type KArray,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import type { KernelCode, Target } from '../backend.js';
import { Arithmetic, type Operand } from './arithmetic.js';
import { fmaHelper } from './fma.js';
import { fmodHelper } from './fmod.js';
import { tripsAnIteration } from './loops.js';
import { Assembler, BuiltIn, type Id, LoopControl, Op, Scope, StorageClass } from './spirv.js';
import { floatControlsOf, loopLimitOf } from './target.js';

/** Instructions that unrolling may produce from one loop, counted as trips × instructions of the body. */
const unrollBudget = 4096;
const u32 = ktype('u32');
const acquireReleaseAll = 0x8 | 0x40 | 0x100; // AcquireRelease | UniformMemory | WorkgroupMemory

export function render(kernel: KernelFunction, target: Target): KernelCode {
  return new Renderer(kernel, target).render();
}

type For = Extract<KInst, { op: 'for' }>;
type LoadInst = Extract<KInst, { op: 'load' }>;
type StoreInst = Extract<KInst, { op: 'store' }>;
type SubgroupInst = Extract<KInst, { op: 'subgroup' }>;

const atomicOps: Readonly<Record<AtomicFn, readonly [signed: number, unsigned: number]>> = {
  add: [Op.AtomicIAdd, Op.AtomicIAdd],
  min: [Op.AtomicSMin, Op.AtomicUMin],
  max: [Op.AtomicSMax, Op.AtomicUMax],
  and: [Op.AtomicAnd, Op.AtomicAnd],
  or: [Op.AtomicOr, Op.AtomicOr],
  xor: [Op.AtomicXor, Op.AtomicXor],
  exchange: [Op.AtomicExchange, Op.AtomicExchange],
};

/** How memory is seen through one variable: elements of `lanes` scalars. */
interface View {
  readonly variable: Id;
  readonly pointer: Id;
  readonly lanes: Lanes;
}

class Renderer {
  readonly #kernel: KernelFunction;
  readonly #target: Target;
  readonly #asm = new Assembler();
  readonly #math: Arithmetic;
  readonly #ids = new Map<KValue, Id>();
  readonly #constants = new Map<KValue, number | bigint>();
  /** Where values come from: to divide indices symbolically. */
  readonly #definitions = new Map<KValue, KInst>();
  readonly #views = new Map<KMemory, View[]>();
  readonly #helpers = new Map<HelperFunction, Id>();
  readonly #fmods = new Map<ScalarType, HelperFunction>();
  /** By type, as `f32x4`. */
  readonly #fmas = new Map<string, HelperFunction>();
  readonly #inputs = new Map<string, Id>();
  readonly #pushes = new Map<KScalar, { readonly index: number; readonly type: Id }>();
  /** Trips that one iteration of a loop does; one if absent. */
  #factors: ReadonlyMap<For, number> = new Map();
  #hasBarrier = false;
  #pushBlock: Id = 0;
  #block: Id = 0;

  constructor(kernel: KernelFunction, target: Target) {
    this.#kernel = kernel;
    this.#target = target;
    this.#math = new Arithmetic(this.#asm, target);
  }

  render(): KernelCode {
    const kernel = this.#kernel;
    const asm = this.#asm;
    const widths = new Map<KMemory, Set<number>>();
    const remainders = new Set<'f32' | 'f64'>();
    for (const helper of kernel.helpers) this.#survey(helper.body, widths, remainders);
    this.#survey(kernel.body, widths, remainders);

    const limit = loopLimitOf(this.#target);
    if (limit !== undefined) {
      const isUnrolled = (loop: For): boolean => this.#unrollable(loop) !== undefined;
      this.#factors = tripsAnIteration(kernel, limit, (loop) => this.#mostTrips(loop), isUnrolled, countInstructions);
    }

    const buffers = kernel.params.filter((param) => param.kind === 'buffer');
    buffers.forEach((buffer, binding) => {
      this.#declareBuffer(buffer, binding, widths.get(buffer));
    });
    const scalars = kernel.params.filter((param) => param.kind === 'scalar');
    if (scalars.length > 0) this.#declareScalars(scalars);
    for (const array of kernel.arrays) if (array.space === 'shared') this.#declareShared(array, widths.get(array));

    for (const scalar of remainders) {
      const helper = fmodHelper(scalar);
      this.#survey(helper.body, widths, remainders);
      this.#fmods.set(scalar, helper);
      this.#function(helper);
    }
    for (const helper of this.#fmas.values()) this.#function(helper);
    for (const helper of kernel.helpers) this.#function(helper);

    const main = asm.id();
    const voidType = asm.typeVoid();
    this.#open(main, voidType, asm.typeFunction(voidType, []));
    for (const array of kernel.arrays) if (array.space === 'private') this.#declarePrivate(array, widths.get(array));
    this.#body(kernel.body);
    asm.emit(Op.Return);
    asm.emit(Op.FunctionEnd);

    asm.entryPoint(main, 'main', [...this.#inputs.values()]);
    asm.executionMode(main, 'LocalSize', ...kernel.workgroup);
    const controls = floatControlsOf(this.#target);
    for (const width of this.#math.floatWidths) {
      if (controls.preserve.has(width)) {
        asm.extension('SPV_KHR_float_controls');
        asm.capability('SignedZeroInfNanPreserve');
        asm.executionMode(main, 'SignedZeroInfNanPreserve', width);
      }
      if (controls.roundToEven.has(width)) {
        asm.extension('SPV_KHR_float_controls');
        asm.capability('RoundingModeRTE');
        asm.executionMode(main, 'RoundingModeRTE', width);
      }
    }
    return {
      name: kernel.name,
      words: asm.finish(),
      entry: 'main',
      workgroup: kernel.workgroup,
      bindings: buffers.map((buffer) => buffer.access),
      scalarBytes: 4 * scalars.length,
      sharedBytes: sharedBytes(kernel),
      ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
    };
  }

  // Declarations ----------------------------------------------------------------------------------------------------

  /** One walk before rendering: widths of accesses, definitions, and which remainders are needed. */
  #survey(block: KBlock, widths: Map<KMemory, Set<number>>, remainders: Set<'f32' | 'f64'>): void {
    const access = (memory: KMemory, lanes: number): void => {
      let set = widths.get(memory);
      if (!set) widths.set(memory, (set = new Set()));
      set.add(lanes);
    };
    for (const inst of block.instructions) {
      if ('result' in inst) this.#definitions.set(inst.result, inst);
      if (inst.op === 'const') this.#constants.set(inst.result, inst.value);
      switch (inst.op) {
        case 'load':
          access(inst.memory, inst.aligned ? inst.result.type.lanes : 1);
          break;
        case 'store':
          access(inst.memory, inst.aligned ? inst.value.type.lanes : 1);
          break;
        case 'atomic':
        case 'atomic_compare_exchange':
          access(inst.memory, 1);
          break;
        case 'binary': {
          const { scalar } = inst.result.type;
          if (inst.fn !== 'rem' || !isFloatScalar(scalar)) break;
          remainders.add(scalar === 'f64' ? 'f64' : 'f32');
          break;
        }
        case 'fma': {
          const { type } = inst.result;
          const name = typeName(type);
          if (this.#target.features.has('fma') || this.#fmas.has(name)) break;
          this.#fmas.set(name, fmaHelper(type, this.#target.arithmetic));
          break;
        }
        case 'for':
        case 'loop':
          this.#survey(inst.body, widths, remainders);
          break;
        case 'if':
          this.#survey(inst.then, widths, remainders);
          this.#survey(inst.else, widths, remainders);
          break;
        case 'barrier':
          this.#hasBarrier = true;
          break;
        default:
          break;
      }
    }
  }

  #declareBuffer(buffer: KBuffer, binding: number, widths: ReadonlySet<number> = new Set()): void {
    const asm = this.#asm;
    const scalar = memoryScalar(buffer);
    const bits = scalarBits[scalar];
    if (widths.size > 0 && bits === 16) asm.capability('StorageBuffer16BitAccess');
    if (widths.size > 0 && bits === 8) {
      asm.capability('StorageBuffer8BitAccess');
      asm.extension('SPV_KHR_8bit_storage');
    }
    const views: View[] = [];
    for (const lanes of widths) {
      const element = this.#math.type(ktype(scalar, lanes as Lanes));
      const block = asm.typeStorageBlock(element, (bits / 8) * lanes);
      const variable = asm.variable(asm.typePointer('StorageBuffer', block), 'StorageBuffer');
      asm.decorate(variable, 'DescriptorSet', 0);
      asm.decorate(variable, 'Binding', binding);
      asm.decorate(variable, widths.size > 1 ? 'Aliased' : 'Restrict');
      if (buffer.access === 'read') asm.decorate(variable, 'NonWritable');
      // What one invocation wrote before a barrier, others of its workgroup read after it.
      if (buffer.access === 'readwrite' && this.#hasBarrier) asm.decorate(variable, 'Coherent');
      asm.name(variable, lanes === 1 ? buffer.name : `${buffer.name}_x${lanes}`);
      views.push({ variable, pointer: asm.typePointer('StorageBuffer', element), lanes: lanes as Lanes });
    }
    this.#views.set(buffer, views);
  }

  #declareScalars(scalars: readonly KScalar[]): void {
    const asm = this.#asm;
    const types = scalars.map((param) => this.#math.scalarType(param.scalar));
    this.#pushBlock = asm.variable(asm.typePointer('PushConstant', asm.typePushBlock(types)), 'PushConstant');
    scalars.forEach((param, index) => {
      this.#pushes.set(param, { index, type: types[index] });
    });
  }

  /** Arrays whose every access has one aligned width are arrays of vectors. */
  #arrayType(array: KArray, widths: ReadonlySet<number> = new Set()): { type: Id; element: Id; lanes: Lanes } {
    const [width] = widths;
    const lanes = (widths.size === 1 && array.length % width === 0 ? width : 1) as Lanes;
    const element = this.#math.type(ktype(memoryScalar(array), lanes));
    return { type: this.#asm.typeArray(element, array.length / lanes), element, lanes };
  }

  #declareShared(array: KArray, widths?: ReadonlySet<number>): void {
    const asm = this.#asm;
    const { type, element, lanes } = this.#arrayType(array, widths);
    const variable = asm.variable(asm.typePointer('Workgroup', type), 'Workgroup');
    asm.name(variable, array.name);
    this.#views.set(array, [{ variable, pointer: asm.typePointer('Workgroup', element), lanes }]);
  }

  #declarePrivate(array: KArray, widths?: ReadonlySet<number>): void {
    const asm = this.#asm;
    const { type, element, lanes } = this.#arrayType(array, widths);
    const variable = asm.value(Op.Variable, asm.typePointer('Function', type), [StorageClass.Function]);
    asm.name(variable, array.name);
    this.#views.set(array, [{ variable, pointer: asm.typePointer('Function', element), lanes }]);
  }

  #open(id: Id, result: Id, type: Id): void {
    this.#asm.emit(Op.Function, [result, id, 0, type]);
    if (result === this.#asm.typeVoid()) this.#start(this.#asm.id());
  }

  #function(helper: HelperFunction): void {
    const asm = this.#asm;
    const id = asm.id();
    asm.name(id, helper.name);
    const result = this.#math.type(helper.result);
    const params = helper.params.map((param) => this.#math.type(param.type));
    asm.emit(Op.Function, [result, id, 0, asm.typeFunction(result, params)]);
    helper.params.forEach((param, i) => {
      this.#ids.set(param, asm.value(Op.FunctionParameter, params[i], []));
    });
    this.#start(asm.id());
    this.#body(helper.body);
    asm.emit(Op.ReturnValue, [this.#id(helper.body.yields[0])]);
    asm.emit(Op.FunctionEnd);
    this.#helpers.set(helper, id);
  }

  // Values and blocks -----------------------------------------------------------------------------------------------

  #id(value: KValue): Id {
    const id = this.#ids.get(value);
    if (id === undefined)
      throw new Error(`kernel ${this.#kernel.name}: value %${value.id} is used before it is defined`);
    return id;
  }
  #operand(value: KValue): Operand {
    return { id: this.#id(value), range: value.range, constant: this.#constants.get(value) };
  }
  #start(label: Id): void {
    this.#asm.label(label);
    this.#block = label;
  }
  #branch(label: Id): void {
    this.#asm.emit(Op.Branch, [label]);
  }
  #body(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst): void {
    const asm = this.#asm;
    switch (inst.op) {
      case 'for':
        this.#for(inst);
        return;
      case 'loop':
        this.#loop(inst);
        return;
      case 'if':
        this.#if(inst);
        return;
      case 'store':
        this.#store(inst);
        return;
      case 'barrier': {
        const workgroup = asm.uint(Scope.Workgroup);
        asm.emit(Op.ControlBarrier, [workgroup, workgroup, asm.uint(acquireReleaseAll)]);
        return;
      }
      case 'const':
        this.#constants.set(inst.result, inst.value);
        this.#ids.set(inst.result, this.#math.constant(inst.result.type, inst.value));
        return;
      case 'assume': {
        const constant = this.#constants.get(inst.a);
        if (constant !== undefined) this.#constants.set(inst.result, constant);
        this.#ids.set(inst.result, this.#id(inst.a));
        return;
      }
      default:
        this.#ids.set(inst.result, this.#value(inst));
    }
  }

  #value(inst: Exclude<KInst, { op: 'for' | 'loop' | 'if' | 'store' | 'barrier' | 'const' | 'assume' }>): Id {
    const asm = this.#asm;
    const math = this.#math;
    const { type } = inst.result;
    switch (inst.op) {
      case 'scalar': {
        const push = this.#pushes.get(inst.param);
        if (!push) throw new Error(`scalar ${inst.param.name} is not a parameter`);
        const pointer = asm.typePointer('PushConstant', push.type);
        const at = asm.value(Op.AccessChain, pointer, [this.#pushBlock, asm.uint(push.index)]);
        return asm.value(Op.Load, push.type, [at]);
      }
      case 'builtin':
        return this.#builtin(inst.builtin, inst.dim);
      case 'unary':
        if (isMathFn(inst.fn)) throw unexpanded(inst.fn);
        return math.unary(inst.fn, type, this.#operand(inst.a), inst.fast);
      case 'binary': {
        const { fn } = inst;
        if (fn === 'pow' || fn === 'atan2') throw unexpanded(fn);
        const [a, b] = [this.#operand(inst.a), this.#operand(inst.b)];
        if (fn === 'rem' && isFloatScalar(type.scalar)) return this.#floatRemainder(type, a.id, b.id);
        return this.#folded(inst.result, fn, a, b) ?? math.binary(fn, type, a, b, inst.fast);
      }
      case 'fma': {
        const operands = [this.#id(inst.a), this.#id(inst.b), this.#id(inst.c)] as const;
        const helper = this.#fmas.get(typeName(type));
        if (!helper) return math.fma(type, ...operands);
        return asm.value(Op.FunctionCall, math.type(type), [this.#helpers.get(helper) as Id, ...operands]);
      }
      case 'compare':
        return math.compare(inst.fn, inst.a.type, this.#operand(inst.a), this.#operand(inst.b));
      case 'select':
        return math.select(
          type,
          this.#id(inst.condition),
          inst.condition.type.lanes,
          this.#id(inst.a),
          this.#id(inst.b),
        );
      case 'convert':
        return math.convert(inst.a.type, type, this.#operand(inst.a));
      case 'bitcast':
        return math.bitcast(inst.a.type, type, this.#id(inst.a));
      case 'splat':
        return math.splat(type, this.#id(inst.a));
      case 'extract':
        return inst.a.type.lanes === 1
          ? this.#id(inst.a)
          : asm.value(Op.CompositeExtract, math.type(type), [this.#id(inst.a), inst.lane]);
      case 'build':
        return asm.value(
          Op.CompositeConstruct,
          math.type(type),
          inst.elements.map((element) => this.#id(element)),
        );
      case 'load':
        return this.#load(inst);
      case 'atomic': {
        const op = atomicOps[inst.fn][isSignedScalar(type.scalar) ? 0 : 1];
        const [at, scope] = this.#atomicPlace(inst.memory, inst.index, type);
        return asm.value(op, math.type(type), [at, scope, asm.uint(0), this.#id(inst.value)]);
      }
      case 'atomic_compare_exchange': {
        const [at, scope] = this.#atomicPlace(inst.memory, inst.index, type);
        const relaxed = asm.uint(0);
        const operands = [at, scope, relaxed, relaxed, this.#id(inst.value), this.#id(inst.expected)];
        return asm.value(Op.AtomicCompareExchange, math.type(type), operands);
      }
      case 'subgroup':
        return this.#subgroup(inst);
      case 'call': {
        const callee = this.#helpers.get(inst.callee);
        if (callee === undefined) throw new Error(`helper ${inst.callee.name} is called before it is defined`);
        return asm.value(Op.FunctionCall, math.type(type), [callee, ...inst.args.map((arg) => this.#id(arg))]);
      }
      default:
        return inst satisfies never;
    }
  }

  /** Index arithmetic on constants, which unrolling brings about. */
  #folded(result: KValue, fn: string, a: Operand, b: Operand): Id | undefined {
    const { type } = result;
    if (typeof a.constant !== 'number' || typeof b.constant !== 'number') return undefined;
    if (type.lanes !== 1 || (type.scalar !== 'i32' && type.scalar !== 'u32')) return undefined;
    const exact =
      fn === 'add'
        ? a.constant + b.constant
        : fn === 'sub'
          ? a.constant - b.constant
          : fn === 'mul'
            ? a.constant * b.constant
            : undefined;
    if (exact === undefined || !Number.isSafeInteger(exact)) return undefined;
    const value = type.scalar === 'i32' ? exact | 0 : exact >>> 0;
    this.#constants.set(result, value);
    return this.#math.constant(type, value);
  }

  #floatRemainder(type: KType, a: Id, b: Id): Id {
    const asm = this.#asm;
    const scalar = type.scalar === 'f64' ? 'f64' : 'f32';
    const helper = this.#helpers.get(this.#fmods.get(scalar) as HelperFunction) as Id;
    const wide = ktype(scalar);
    const one = ktype(type.scalar);
    const lane = (x: Id, i: number): Id => {
      const part = type.lanes === 1 ? x : asm.value(Op.CompositeExtract, this.#math.type(one), [x, i]);
      return this.#math.convert(one, wide, { id: part });
    };
    const parts = Array.from({ length: type.lanes }, (_, i) => {
      const result = asm.value(Op.FunctionCall, this.#math.type(wide), [helper, lane(a, i), lane(b, i)]);
      return this.#math.convert(wide, one, { id: result });
    });
    return type.lanes === 1 ? parts[0] : asm.value(Op.CompositeConstruct, this.#math.type(type), parts);
  }

  #builtin(builtin: Builtin, dim: number): Id {
    const asm = this.#asm;
    const word = this.#math.type(u32);
    const vector = asm.typeVector(word, 3);
    const input = (name: keyof typeof BuiltIn, type: Id): Id => {
      let variable = this.#inputs.get(name);
      if (variable === undefined) {
        variable = asm.variable(asm.typePointer('Input', type), 'Input');
        asm.decorate(variable, 'BuiltIn', BuiltIn[name]);
        this.#inputs.set(name, variable);
      }
      return asm.value(Op.Load, type, [variable]);
    };
    switch (builtin) {
      case 'workgroup_id':
        return asm.value(Op.CompositeExtract, word, [input('WorkgroupId', vector), dim]);
      case 'local_id':
        return asm.value(Op.CompositeExtract, word, [input('LocalInvocationId', vector), dim]);
      case 'subgroup_lane':
        asm.capability('GroupNonUniform');
        return input('SubgroupLocalInvocationId', word);
      case 'subgroup_size':
        asm.capability('GroupNonUniform');
        return input('SubgroupSize', word);
      default:
        return builtin satisfies never;
    }
  }

  #subgroup(inst: SubgroupInst): Id {
    const asm = this.#asm;
    const type = this.#math.type(inst.result.type);
    const { scalar } = inst.result.type;
    const scope = asm.uint(Scope.Subgroup);
    const a = this.#id(inst.a);
    asm.capability('GroupNonUniform');
    const shuffle = (x: Id, distance: number): Id => {
      asm.capability('GroupNonUniformShuffle');
      return asm.value(Op.GroupNonUniformShuffleXor, type, [scope, x, asm.uint(distance)]);
    };
    switch (inst.fn) {
      case 'broadcast_first':
        asm.capability('GroupNonUniformBallot');
        return asm.value(Op.GroupNonUniformBroadcastFirst, type, [scope, a]);
      case 'shuffle_xor':
        return shuffle(a, inst.delta);
      case 'shuffle_down':
        asm.capability('GroupNonUniformShuffleRelative');
        return asm.value(Op.GroupNonUniformShuffleDown, type, [scope, a, asm.uint(inst.delta)]);
      case 'add':
      case 'min':
      case 'max': {
        const size = this.#kernel.subgroupSize;
        if (isFloatScalar(scalar) && size !== undefined) {
          // A butterfly: the same order on every device, and NaN wins in min and max, which the group operation does not promise.
          let value = a;
          for (let distance = 1; distance < size; distance *= 2) {
            value = this.#math.binary(inst.fn, inst.result.type, { id: value }, { id: shuffle(value, distance) });
          }
          return value;
        }
        asm.capability('GroupNonUniformArithmetic');
        const signed = isSignedScalar(scalar);
        const op =
          inst.fn === 'add'
            ? isFloatScalar(scalar)
              ? Op.GroupNonUniformFAdd
              : Op.GroupNonUniformIAdd
            : inst.fn === 'min'
              ? signed
                ? Op.GroupNonUniformSMin
                : Op.GroupNonUniformUMin
              : signed
                ? Op.GroupNonUniformSMax
                : Op.GroupNonUniformUMax;
        return asm.value(op, type, [scope, 0 /* Reduce */, a]);
      }
      default:
        return inst.fn satisfies never;
    }
  }

  // Memory ----------------------------------------------------------------------------------------------------------

  #view(memory: KMemory, lanes: number): View {
    const views = this.#views.get(memory);
    const view =
      views?.find((candidate) => candidate.lanes === lanes) ?? views?.find((candidate) => candidate.lanes === 1);
    if (!view) throw new Error(`kernel ${this.#kernel.name}: ${memory.name} is not a parameter or array`);
    return view;
  }

  /** Pointer to the view's element that holds scalar element `index + offset`. */
  #place(memory: KMemory, view: View, index: KValue, offset = 0): Id {
    const asm = this.#asm;
    let at: Id;
    const constant = this.#constants.get(index);
    if (constant !== undefined) at = asm.uint((Number(constant) + offset) / view.lanes);
    else if (view.lanes === 1) at = offset === 0 ? this.#index(index) : this.#plus(this.#index(index), offset);
    else at = this.#quotient(index, view.lanes) ?? this.#shifted(index, view.lanes);
    return asm.value(
      Op.AccessChain,
      view.pointer,
      memory.kind === 'buffer' ? [view.variable, asm.uint(0), at] : [view.variable, at],
    );
  }
  #index(index: KValue): Id {
    return this.#math.convert(index.type, u32, this.#operand(index));
  }
  #plus(id: Id, offset: number): Id {
    return this.#asm.value(Op.IAdd, this.#math.type(u32), [id, this.#asm.uint(offset)]);
  }
  #shifted(index: KValue, lanes: number): Id {
    const shift = this.#asm.uint(Math.log2(lanes));
    return this.#asm.value(Op.ShiftRightLogical, this.#math.type(u32), [this.#index(index), shift]);
  }

  /**
   * `index / lanes` without a shift, where the way the index was computed shows that it divides: drivers do not see
   * through (4·i) >> 2, since the product might wrap. Indices do not, so dividing the terms is exact.
   */
  #quotient(index: KValue, lanes: number): Id | undefined {
    return this.#divides(index, lanes, 8) ? this.#divided(index, lanes) : undefined;
  }
  #divides(value: KValue, lanes: number, depth: number): boolean {
    const constant = this.#constants.get(value);
    if (constant !== undefined) return Number(constant) % lanes === 0;
    const definition = this.#definitions.get(value);
    if (depth === 0 || value.type.scalar !== 'i32' || definition === undefined) return false;
    if (definition.op === 'assume') return this.#divides(definition.a, lanes, depth - 1);
    if (definition.op !== 'binary') return false;
    const { fn, a, b } = definition;
    if (fn === 'mul') return this.#divides(a, lanes, depth - 1) || this.#divides(b, lanes, depth - 1);
    return (fn === 'add' || fn === 'sub') && this.#divides(a, lanes, depth - 1) && this.#divides(b, lanes, depth - 1);
  }
  #divided(value: KValue, lanes: number): Id {
    const type = this.#math.type(u32);
    const constant = this.#constants.get(value);
    if (constant !== undefined) return this.#asm.uint(Number(constant) / lanes);
    const definition = this.#definitions.get(value);
    if (definition?.op === 'assume') return this.#divided(definition.a, lanes);
    if (definition?.op !== 'binary') throw new Error('an index that does not divide');
    const { fn, a, b } = definition;
    if (fn !== 'mul') {
      const op = fn === 'add' ? Op.IAdd : Op.ISub;
      return this.#asm.value(op, type, [this.#divided(a, lanes), this.#divided(b, lanes)]);
    }
    const [whole, other] = this.#divides(b, lanes, 8) ? [b, a] : [a, b];
    if (Number(this.#constants.get(whole)) === lanes) return this.#id(other);
    return this.#asm.value(Op.IMul, type, [this.#id(other), this.#divided(whole, lanes)]);
  }

  #load(inst: LoadInst): Id {
    const asm = this.#asm;
    const { type } = inst.result;
    const stored = ktype(memoryScalar(inst.memory), type.lanes);
    const view = this.#view(inst.memory, inst.aligned ? type.lanes : 1);
    const element = this.#math.type(ktype(stored.scalar, view.lanes));
    let value: Id;
    if (view.lanes === type.lanes) value = asm.value(Op.Load, element, [this.#place(inst.memory, view, inst.index)]);
    else {
      const parts = Array.from({ length: type.lanes }, (_, lane) =>
        asm.value(Op.Load, element, [this.#place(inst.memory, view, inst.index, lane)]),
      );
      value = asm.value(Op.CompositeConstruct, this.#math.type(stored), parts);
    }
    return this.#math.convert(stored, type, { id: value });
  }

  #store(inst: StoreInst): void {
    const asm = this.#asm;
    const { type } = inst.value;
    const stored = ktype(memoryScalar(inst.memory), type.lanes);
    const value = this.#math.convert(type, stored, this.#operand(inst.value));
    const view = this.#view(inst.memory, inst.aligned ? type.lanes : 1);
    if (view.lanes === type.lanes) {
      asm.emit(Op.Store, [this.#place(inst.memory, view, inst.index), value]);
      return;
    }
    const element = this.#math.type(ktype(stored.scalar));
    for (let lane = 0; lane < type.lanes; lane++) {
      const part = asm.value(Op.CompositeExtract, element, [value, lane]);
      asm.emit(Op.Store, [this.#place(inst.memory, view, inst.index, lane), part]);
    }
  }

  #atomicPlace(memory: KMemory, index: KValue, type: KType): [pointer: Id, scope: Id] {
    if (type.scalar !== 'i32' && type.scalar !== 'u32') throw new Error(`atomic on ${type.scalar}`);
    const scope = memory.kind === 'buffer' ? Scope.Device : Scope.Workgroup;
    return [this.#place(memory, this.#view(memory, 1), index), this.#asm.uint(scope)];
  }

  // Control flow ----------------------------------------------------------------------------------------------------

  /** Constant bounds of a loop that is to be unrolled in full. */
  #unrollable(inst: For): { readonly lower: number; readonly upper: number } | undefined {
    const [lower, upper] = [this.#constants.get(inst.lower), this.#constants.get(inst.upper)];
    if (!inst.unroll || typeof lower !== 'number' || typeof upper !== 'number') return undefined;
    const trips = Math.max(0, Math.ceil((upper - lower) / inst.step));
    return trips * countInstructions(inst.body) <= unrollBudget ? { lower, upper } : undefined;
  }

  /** The most trips that a loop's bounds allow, or undefined. */
  #mostTrips(inst: For): number | undefined {
    const [lower, upper] = [this.#constants.get(inst.lower), this.#constants.get(inst.upper)];
    const low = lower === undefined ? inst.lower.range?.min : Number(lower);
    const high = upper === undefined ? inst.upper.range?.max : Number(upper);
    if (low !== undefined && high !== undefined) return Math.max(0, Math.ceil((high - low) / inst.step));
    const range = inst.index.range;
    return range && Math.max(0, Math.floor((range.max - range.min) / inst.step) + 1);
  }

  #for(inst: For): void {
    const bounds = this.#unrollable(inst);
    if (bounds) {
      this.#unrolled(inst, bounds.lower, bounds.upper);
      return;
    }
    const asm = this.#asm;
    const { index } = inst;
    const [header, body, next, merge] = [asm.id(), asm.id(), asm.id(), asm.id()];
    const before = this.#block;
    const indexType = this.#math.type(index.type);
    this.#branch(header);
    this.#start(header);
    const counter = asm.loopPhi(indexType, this.#id(inst.lower), before);
    this.#ids.set(index, counter.id);
    const phis = inst.carried.map((carried) => {
      const phi = asm.loopPhi(this.#math.type(carried.inner.type), this.#id(carried.initial), before);
      this.#ids.set(carried.inner, phi.id);
      return phi;
    });
    const condition = this.#math.compare('lt', index.type, { id: counter.id }, { id: this.#id(inst.upper) });
    asm.emit(Op.LoopMerge, [merge, next, inst.unroll ? LoopControl.Unroll : LoopControl.None]);
    asm.emit(Op.BranchConditional, [condition, body, merge]);
    this.#start(body);
    this.#body(inst.body);
    let values = inst.body.yields.map((value) => this.#id(value));
    const factor = this.#factors.get(inst) ?? 1;
    for (let trip = 1; trip < factor; trip++) values = this.#furtherTrip(inst, counter.id, trip, values);
    this.#branch(next);
    this.#start(next);
    const step = this.#math.constant(index.type, inst.step * factor);
    counter.close(asm.value(Op.IAdd, indexType, [counter.id, step]), next);
    phis.forEach((phi, i) => {
      phi.close(values[i], next);
    });
    this.#branch(header);
    this.#start(merge);
    inst.carried.forEach((carried, i) => {
      this.#ids.set(carried.result, phis[i].id);
    });
  }

  /** Another copy of the body in the same iteration, if the index has not passed the bound. */
  #furtherTrip(inst: For, counter: Id, trip: number, values: readonly Id[]): Id[] {
    const asm = this.#asm;
    const { type } = inst.index;
    const offset = this.#math.constant(type, inst.step * trip);
    const index = asm.value(Op.IAdd, this.#math.type(type), [counter, offset]);
    const [then, merge] = [asm.id(), asm.id()];
    const condition = this.#math.compare('lt', type, { id: index }, { id: this.#id(inst.upper) });
    const before = this.#block;
    asm.emit(Op.SelectionMerge, [merge, 0]);
    asm.emit(Op.BranchConditional, [condition, then, merge]);
    this.#start(then);
    this.#ids.set(inst.index, index);
    inst.carried.forEach((carried, i) => {
      this.#ids.set(carried.inner, values[i]);
    });
    this.#forget(inst.body);
    this.#body(inst.body);
    const end = this.#block;
    const yields = inst.body.yields.map((value) => this.#id(value));
    this.#branch(merge);
    this.#start(merge);
    return inst.carried.map((carried, i) =>
      asm.value(Op.Phi, this.#math.type(carried.inner.type), [yields[i], end, values[i], before]),
    );
  }

  #unrolled(inst: For, lower: number, upper: number): void {
    let values = inst.carried.map((carried) => this.#id(carried.initial));
    for (let at = lower; at < upper; at += inst.step) {
      this.#ids.set(inst.index, this.#math.constant(inst.index.type, at));
      this.#constants.set(inst.index, at);
      inst.carried.forEach((carried, i) => {
        this.#ids.set(carried.inner, values[i]);
      });
      this.#forget(inst.body);
      this.#body(inst.body);
      values = inst.body.yields.map((value) => this.#id(value));
    }
    inst.carried.forEach((carried, i) => {
      this.#ids.set(carried.result, values[i]);
    });
  }

  /** Constants folded in one copy of a body do not hold in the next. */
  #forget(block: KBlock): void {
    for (const inst of block.instructions) {
      if (inst.op === 'binary' || inst.op === 'assume') this.#constants.delete(inst.result);
      else if (inst.op === 'for' || inst.op === 'loop') {
        if (inst.op === 'for') this.#constants.delete(inst.index);
        this.#forget(inst.body);
      } else if (inst.op === 'if') {
        this.#forget(inst.then);
        this.#forget(inst.else);
      }
    }
  }

  #loop(inst: Extract<KInst, { op: 'loop' }>): void {
    const asm = this.#asm;
    const [header, body, next, merge] = [asm.id(), asm.id(), asm.id(), asm.id()];
    const before = this.#block;
    this.#branch(header);
    this.#start(header);
    const phis = inst.carried.map((carried) => {
      const phi = asm.loopPhi(this.#math.type(carried.inner.type), this.#id(carried.initial), before);
      this.#ids.set(carried.inner, phi.id);
      return phi;
    });
    asm.emit(Op.LoopMerge, [merge, next, LoopControl.None]);
    this.#branch(body);
    this.#start(body);
    this.#body(inst.body);
    this.#branch(next);
    this.#start(next);
    const yields = inst.body.yields.map((value) => this.#id(value));
    phis.forEach((phi, i) => {
      phi.close(yields[i], next);
    });
    asm.emit(Op.BranchConditional, [this.#id(inst.condition), header, merge]);
    this.#start(merge);
    inst.carried.forEach((carried, i) => {
      this.#ids.set(carried.result, yields[i]);
    });
  }

  #if(inst: Extract<KInst, { op: 'if' }>): void {
    const asm = this.#asm;
    const empty = inst.else.instructions.length === 0 && inst.results.length === 0;
    const [then, merge] = [asm.id(), asm.id()];
    const otherwise = empty ? merge : asm.id();
    asm.emit(Op.SelectionMerge, [merge, 0]);
    asm.emit(Op.BranchConditional, [this.#id(inst.condition), then, otherwise]);
    const arm = (label: Id, block: KBlock): { values: Id[]; end: Id } => {
      this.#start(label);
      this.#body(block);
      const end = this.#block;
      this.#branch(merge);
      return { values: block.yields.map((value) => this.#id(value)), end };
    };
    const a = arm(then, inst.then);
    const b = empty ? undefined : arm(otherwise, inst.else);
    this.#start(merge);
    inst.results.forEach((result, i) => {
      if (!b) throw new Error('an if with results needs both arms');
      this.#ids.set(result, asm.value(Op.Phi, this.#math.type(result.type), [a.values[i], a.end, b.values[i], b.end]));
    });
  }
}

const typeName = (type: KType): string => `${type.scalar}x${type.lanes}`;

/** Bool memory: bytes in buffers, words in arrays, where bytes would need a capability for nothing. */
function memoryScalar(memory: KMemory): ScalarType {
  if (memory.scalar !== 'bool') return memory.scalar;
  return memory.kind === 'buffer' ? 'u8' : 'u32';
}

function sharedBytes(kernel: KernelFunction): number {
  let bytes = 0;
  for (const array of kernel.arrays) {
    if (array.space === 'shared') bytes += (array.length * scalarBits[memoryScalar(array)]) / 8;
  }
  return bytes;
}

function countInstructions(block: KBlock): number {
  let count = 0;
  for (const inst of block.instructions) {
    count++;
    if (inst.op === 'if') count += countInstructions(inst.then) + countInstructions(inst.else);
    else if (inst.op === 'for' || inst.op === 'loop') {
      const { body } = inst;
      count += countInstructions(body);
    }
  }
  return count;
}

const unexpanded = (fn: string): Error => new Error(`${fn} reached the SPIR-V renderer: expandMath comes before it`);
