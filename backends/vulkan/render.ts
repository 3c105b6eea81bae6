/**
 * Kernel IR → SPIR-V 1.3 for Vulkan 1.1.
 *
 * Buffers are descriptor set 0, binding i: a runtime array, seen through one variable for each vector width that is
 * used with aligned accesses (a vec4 load is then one load). Scalar parameters are push constants. Control flow
 * is SPIR-V's structured form with phis (control.ts).
 */
import { isBulkInst } from '../../compiler/kernel/bulk.js';
import { type EngineInst, isEngineInst } from '../../compiler/kernel/engines.js';
import {
  type HelperFunction,
  isFloatScalar,
  isMathFn,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type ScalarType,
} from '../../compiler/kernel/types.js';
import type { KernelCode, Target } from '../backend.js';
import { fmodHelper } from '../common/fmod.js';
import { arrayBytes, type Frame, frameOf, kernelCode } from '../common/frame.js';
import { unexpanded, unexpected } from '../common/names.js';
import type { Operand } from './arithmetic.js';
import { ControlFlow } from './control.js';
import { fmaHelper } from './fma.js';
import { barrier, builtin, subgroup } from './groups.js';
import {
  atomic,
  compareExchange,
  declareBuffer,
  declarePrivate,
  declareShared,
  load,
  memoryScalar,
  store,
} from './memory.js';
import { Scope } from './scope.js';
import { type Id, Op } from './spirv.js';
import { floatControlsOf } from './target.js';
import { TileRenderer } from './tiles.js';

export function render(kernel: KernelFunction, target: Target): KernelCode {
  return new Renderer(kernel, target).render();
}

class Renderer {
  readonly #kernel: KernelFunction;
  readonly #frame: Frame;
  readonly #scope: Scope;
  readonly #control: ControlFlow;
  readonly #tiles: TileRenderer;
  /** Float remainders, which need a loop. */
  readonly #fmods = new Map<ScalarType, HelperFunction>();
  /** Fused multiply-adds for targets without; by type, as `f32x4`. */
  readonly #fmas = new Map<string, HelperFunction>();
  #pushBlock: Id = 0;

  constructor(kernel: KernelFunction, target: Target) {
    this.#kernel = kernel;
    this.#frame = frameOf(kernel);
    this.#scope = new Scope(kernel, target);
    this.#control = new ControlFlow(this.#scope, (block) => this.#body(block));
    this.#tiles = new TileRenderer(this.#scope);
  }

  render(): KernelCode {
    const kernel = this.#kernel;
    const scope = this.#scope;
    const { asm, survey } = scope;
    const remainders = new Set<'f32' | 'f64'>();
    for (const { body } of [...kernel.helpers, kernel]) this.#survey(body, remainders);
    this.#control.plan();

    const { buffers, scalars } = this.#frame;
    buffers.forEach((buffer, binding) => {
      declareBuffer(scope, buffer, binding, survey.accesses.get(buffer)?.widths);
    });
    if (scalars.length > 0) this.#declareScalars(scalars);
    for (const array of this.#frame.shared) declareShared(scope, array, survey.accesses.get(array)?.widths);

    for (const scalar of remainders) {
      const helper = fmodHelper(scalar);
      this.#survey(helper.body, remainders);
      this.#fmods.set(scalar, helper);
      this.#function(helper);
    }
    for (const helper of this.#fmas.values()) this.#function(helper);
    for (const helper of kernel.helpers) this.#function(helper);

    const main = asm.id();
    const voidType = asm.typeVoid();
    this.#open(main, voidType, asm.typeFunction(voidType, []));
    for (const array of this.#frame.private) declarePrivate(scope, array, survey.accesses.get(array)?.widths);
    this.#tiles.declare();
    this.#body(kernel.body);
    asm.emit(Op.Return);
    asm.emit(Op.FunctionEnd);

    asm.entryPoint(main, 'main', [...scope.inputs.values()]);
    asm.executionMode(main, 'LocalSize', ...kernel.workgroup);
    this.#floatControls(main);
    const sharedBytes = arrayBytes(this.#frame.shared, memoryScalar);
    return { ...kernelCode(kernel, this.#frame, 'main', sharedBytes), words: asm.finish() };
  }

  /** What the kernel's own survey tells, and which helpers its arithmetic needs. */
  #survey(block: KBlock, remainders: Set<'f32' | 'f64'>): void {
    const { survey, target } = this.#scope;
    survey.add(block, (inst) => {
      if (inst.op === 'tile_load' || inst.op === 'tile_store') this.#tiles.survey(inst);
      else if (inst.op === 'binary' && inst.fn === 'rem' && isFloatScalar(inst.result.type.scalar)) {
        remainders.add(inst.result.type.scalar === 'f64' ? 'f64' : 'f32');
      } else if (inst.op === 'fma' && !target.features.has('fma')) {
        const { type } = inst.result;
        if (!this.#fmas.has(typeName(type))) this.#fmas.set(typeName(type), fmaHelper(type, target.arithmetic));
      }
    });
  }

  #floatControls(main: Id): void {
    const { asm, math, target } = this.#scope;
    const controls = floatControlsOf(target);
    for (const width of math.floatWidths) {
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
  }

  #declareScalars(scalars: readonly KScalar[]): void {
    const scope = this.#scope;
    const { asm } = scope;
    const types = scalars.map((param) => scope.math.scalarType(param.scalar));
    this.#pushBlock = asm.variable(asm.typePointer('PushConstant', asm.typePushBlock(types)), 'PushConstant');
    scalars.forEach((param, index) => {
      scope.names.setScalar(param, { index, type: types[index] });
    });
  }

  #open(id: Id, result: Id, type: Id): void {
    this.#scope.asm.emit(Op.Function, [result, id, 0, type]);
    if (result === this.#scope.asm.typeVoid()) this.#scope.start(this.#scope.asm.id());
  }

  #function(helper: HelperFunction): void {
    const scope = this.#scope;
    const { asm } = scope;
    const id = asm.id();
    asm.name(id, helper.name);
    const result = scope.math.type(helper.result);
    const params = helper.params.map((param) => scope.math.type(param.type));
    asm.emit(Op.Function, [result, id, 0, asm.typeFunction(result, params)]);
    helper.params.forEach((param, i) => {
      scope.names.setValue(param, asm.value(Op.FunctionParameter, params[i], []));
    });
    scope.start(asm.id());
    this.#body(helper.body);
    asm.emit(Op.ReturnValue, [scope.id(helper.body.yields[0])]);
    asm.emit(Op.FunctionEnd);
    scope.names.setHelper(helper, id);
  }

  #body(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst) {
    const scope = this.#scope;
    if (isEngineInst(inst)) return this.#engine(inst);
    switch (inst.op) {
      case 'for':
        return this.#control.for(inst);
      case 'loop':
        return this.#control.loop(inst);
      case 'if':
        return this.#control.if(inst);
      case 'store':
        return store(scope, inst);
      case 'barrier':
        return barrier(scope, 'Workgroup');
      case 'const':
        scope.constants.set(inst.result, inst.value);
        scope.names.setValue(inst.result, scope.math.constant(inst.result.type, inst.value));
        return;
      case 'assume': {
        const constant = scope.constants.get(inst.a);
        if (constant !== undefined) scope.constants.set(inst.result, constant);
        scope.names.setValue(inst.result, scope.id(inst.a));
        return;
      }
      default:
        scope.names.setValue(inst.result, this.#value(inst));
    }
  }

  #engine(inst: EngineInst) {
    if (isBulkInst(inst)) throw unexpected(this.#kernel, 'vulkan', inst.op);
    switch (inst.op) {
      case 'tile_unpack':
      case 'tile_pack':
      case 'async_copy':
      case 'async_commit':
      case 'async_wait':
        throw unexpected(this.#kernel, 'vulkan', inst.op);
      default:
        return this.#tiles.render(inst);
    }
  }

  #value(
    inst: Exclude<KInst, EngineInst | { op: 'for' | 'loop' | 'if' | 'store' | 'barrier' | 'const' | 'assume' }>,
  ): Id {
    const scope = this.#scope;
    const { asm, math } = scope;
    const { type } = inst.result;
    switch (inst.op) {
      case 'scalar': {
        const push = scope.names.scalar(inst.param);
        const pointer = asm.typePointer('PushConstant', push.type);
        const at = asm.value(Op.AccessChain, pointer, [this.#pushBlock, asm.uint(push.index)]);
        return asm.value(Op.Load, push.type, [at]);
      }
      case 'builtin':
        return builtin(scope, inst);
      case 'unary':
        if (isMathFn(inst.fn)) throw unexpanded(scope.kernel, 'vulkan', inst.fn);
        return math.unary(inst.fn, type, scope.operand(inst.a), inst.fast);
      case 'binary': {
        const { fn } = inst;
        if (fn === 'pow' || fn === 'atan2') throw unexpanded(scope.kernel, 'vulkan', fn);
        const [a, b] = [scope.operand(inst.a), scope.operand(inst.b)];
        if (fn === 'rem' && isFloatScalar(type.scalar)) return this.#floatRemainder(type, a.id, b.id);
        return this.#folded(inst.result, fn, a, b) ?? math.binary(fn, type, a, b, inst.fast);
      }
      case 'fma': {
        const operands = [scope.id(inst.a), scope.id(inst.b), scope.id(inst.c)] as const;
        const helper = this.#fmas.get(typeName(type));
        if (!helper) return math.fma(type, ...operands);
        return asm.value(Op.FunctionCall, math.type(type), [scope.names.helper(helper), ...operands]);
      }
      case 'dot4':
        return math.dot4(type, inst.left, inst.right, scope.id(inst.a), scope.id(inst.b), scope.id(inst.c));
      case 'compare':
        return math.compare(inst.fn, inst.a.type, scope.operand(inst.a), scope.operand(inst.b));
      case 'select':
        return math.select(
          type,
          scope.id(inst.condition),
          inst.condition.type.lanes,
          scope.id(inst.a),
          scope.id(inst.b),
        );
      case 'convert':
        return math.convert(inst.a.type, type, scope.operand(inst.a));
      case 'bitcast':
        return math.bitcast(inst.a.type, type, scope.id(inst.a));
      case 'splat':
        return math.splat(type, scope.id(inst.a));
      case 'extract':
        return inst.a.type.lanes === 1
          ? scope.id(inst.a)
          : asm.value(Op.CompositeExtract, math.type(type), [scope.id(inst.a), inst.lane]);
      case 'build':
        return asm.value(
          Op.CompositeConstruct,
          math.type(type),
          inst.elements.map((element) => scope.id(element)),
        );
      case 'load':
        return load(scope, inst);
      case 'atomic':
        return atomic(scope, inst);
      case 'atomic_compare_exchange':
        return compareExchange(scope, inst);
      case 'subgroup':
        return subgroup(scope, inst);
      case 'call': {
        const callee = scope.names.helper(inst.callee);
        return asm.value(Op.FunctionCall, math.type(type), [callee, ...inst.args.map((arg) => scope.id(arg))]);
      }
      default:
        return inst satisfies never;
    }
  }

  /** Index arithmetic on constants, which unrolling brings about. */
  #folded(result: KValue, fn: string, a: Operand, b: Operand): Id | undefined {
    const scope = this.#scope;
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
    scope.constants.set(result, value);
    return scope.math.constant(type, value);
  }

  #floatRemainder(type: KType, a: Id, b: Id): Id {
    const scope = this.#scope;
    const { asm } = scope;
    const scalar = type.scalar === 'f64' ? 'f64' : 'f32';
    const helper = scope.names.helper(this.#fmods.get(scalar) as HelperFunction);
    const wide = ktype(scalar);
    const one = ktype(type.scalar);
    const lane = (x: Id, i: number): Id => {
      const part = type.lanes === 1 ? x : asm.value(Op.CompositeExtract, scope.math.type(one), [x, i]);
      return scope.math.convert(one, wide, { id: part });
    };
    const parts = Array.from({ length: type.lanes }, (_, i) => {
      const result = asm.value(Op.FunctionCall, scope.math.type(wide), [helper, lane(a, i), lane(b, i)]);
      return scope.math.convert(wide, one, { id: result });
    });
    return type.lanes === 1 ? parts[0] : asm.value(Op.CompositeConstruct, scope.math.type(type), parts);
  }
}

const typeName = (type: KType): string => `${type.scalar}x${type.lanes}`;
