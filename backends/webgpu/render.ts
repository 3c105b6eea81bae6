/**
 * Kernel IR → WGSL.
 *
 * One `let` an instruction, constants inline, carried values as `var`s. Every buffer is `var<storage, read_write>`:
 * the arena may be bound several times in one dispatch, and WebGPU forbids to mix read-only and writable uses of a
 * buffer in it.
 *
 * What WGSL leaves open and a kernel must not rely on: contraction of a·b+c, the last bits of `/` (2.5 ULP by
 * the specification) and `sqrt`, and subnormals (may be flushed). Reassociation is prevented: see guards.ts. `fma` is exact, but done with integers: it is there
 * for the few that need it, not for speed (targets of this backend do not have the feature `fma`). Barriers need control
 * flow that is uniform by WGSL's analysis: conditions from ids of the workgroup, scalars, constants and loop indices
 * are; anything loaded from memory is not.
 */

import { isEngineInst } from '../../compiler/kernel/engines.js';
import type {
  HelperFunction,
  KBlock,
  KernelFunction,
  KInst,
  KMemory,
  SubgroupFn,
} from '../../compiler/kernel/types.js';
import type { KernelCode, Target } from '../backend.js';
import { arrayBytes, type Frame, frameOf, kernelCode } from '../common/frame.js';
import { nameParts, unexpected } from '../common/names.js';
import { commentText, type Syntax, writeFor, writeIf, writeLoop } from '../common/structured.js';
import { binary, compare, convert, unary } from './arithmetic.js';
import { atomic, compareExchange, load, store } from './memory.js';
import { Scope } from './scope.js';
import { byteDotFeature } from './target.js';
import { components, isVector, literal } from './wgsl.js';

const subgroupFunctions: Readonly<Record<SubgroupFn, string>> = {
  add: 'subgroupAdd',
  min: 'subgroupMin',
  max: 'subgroupMax',
  broadcast: 'subgroupBroadcast',
  broadcast_first: 'subgroupBroadcastFirst',
  shuffle_xor: 'subgroupShuffleXor',
  shuffle_down: 'subgroupShuffleDown',
};

/** The WGSL of a kernel that is legal for the target. Pure. */
export function renderWgsl(kernel: KernelFunction, _target: Target): KernelCode {
  return new Renderer(kernel).render();
}

class Renderer {
  readonly #kernel: KernelFunction;
  readonly #frame: Frame;
  readonly #scope: Scope;
  readonly #syntax: Syntax;
  readonly #builtins = new Set<string>();
  readonly #barrierStorage: boolean;

  constructor(kernel: KernelFunction) {
    const scope = new Scope(kernel);
    this.#kernel = kernel;
    this.#frame = frameOf(kernel);
    this.#scope = scope;
    this.#barrierStorage = [...scope.views].some(([memory, view]) => memory.kind === 'buffer' && view.exchanged);
    this.#syntax = {
      endless: 'loop {',
      breakUnless: (condition) => `if (!(${scope.value(condition)})) { break; }`,
      declare: (result, initial) => {
        const name = `c${result.id}`;
        const value = initial === undefined ? '' : ` = ${scope.value(initial)}`;
        scope.line(`var ${name}: ${scope.type(result.type)}${value};`);
        return name;
      },
      assign: (variable, value) => scope.line(`${variable} = ${scope.value(value)};`),
      snapshot: (inner, variable) => scope.define(inner, variable),
      settle: (result, variable) => scope.define(result, variable),
      condition: (value) => scope.value(value),
      block: (block) => this.#block(block),
    };
    nameParts(this.#scope.names, this.#kernel, this.#frame);
  }

  render(): KernelCode {
    const kernel = this.#kernel;
    const scope = this.#scope;
    const helpers = kernel.helpers.map((helper) => this.#helper(helper));
    scope.lines.take();
    for (const array of this.#frame.private) {
      scope.line(`var ${scope.names.memory(array)}: ${this.#arrayType(array)};`);
    }
    this.#block(kernel.body);
    const body = scope.lines.take();
    const hides = [...scope.library.keys()].some((name) => name.startsWith('lib_hide'));
    const text = [
      ...this.#globals(hides),
      ...scope.library.values(),
      ...helpers,
      `@compute @workgroup_size(${kernel.workgroup.join(', ')})`,
      `fn main(${this.#parameters(hides).join(', ')}) {`,
      ...(hides ? ['  zero_bits = workgroups.x >> 31u;'] : []),
      body.join('\n'),
      '}',
      '',
    ].join('\n');
    const sharedBytes = arrayBytes(this.#frame.shared, ({ scalar }) => (scalar === 'f16' ? 'f16' : 'u32'));
    return { ...kernelCode(kernel, this.#frame, 'main', sharedBytes), text };
  }

  // --- declarations ------------------------------------------------------------------------------------------------

  #globals(hides: boolean): readonly string[] {
    const { name, sources } = this.#kernel;
    const { buffers, scalars, shared } = this.#frame;
    const globals = [`// ${commentText(name)}${sources.length > 0 ? `: ${commentText(sources.join(', '))}` : ''}`];
    const arrays = {
      buffers: buffers.map((buffer) => this.#arrayType(buffer)),
      shared: shared.map((array) => this.#arrayType(array)),
    };
    if (this.#scope.usesF16) globals.push('enable f16;');
    if (this.#builtins.has(byteDotFeature)) globals.push(`requires ${byteDotFeature};`);
    if (this.#builtins.has('subgroups')) {
      // Control flow around subgroup ops is the producer's promise; the analysis is too coarse for it.
      globals.push('enable subgroups;', 'diagnostic(off, subgroup_uniformity);');
    }
    buffers.forEach((buffer, i) => {
      const comment = commentText(buffer.name);
      globals.push(`@group(0) @binding(${i}) var<storage, read_write> b${i}: ${arrays.buffers[i]}; // ${comment}`);
    });
    if (scalars.length > 0) {
      globals.push(`struct Scalars { ${scalars.map((s, i) => `s${i}: ${s.scalar}`).join(', ')} }`);
      globals.push(`@group(0) @binding(${buffers.length}) var<uniform> scalars: Scalars;`);
    }
    shared.forEach((array, i) => {
      const declared = `${this.#scope.names.memory(array)}: ${arrays.shared[i]}`;
      globals.push(`var<workgroup> ${declared}; // ${commentText(array.name)}`);
    });
    // At most 65,535 workgroups: zero, but no compiler knows.
    if (hides) globals.push('var<private> zero_bits: u32;');
    return globals;
  }

  #parameters(hides: boolean): readonly string[] {
    const parameters: string[] = [];
    if (hides) parameters.push('@builtin(num_workgroups) workgroups: vec3<u32>');
    if (this.#builtins.has('workgroup_id')) parameters.push('@builtin(workgroup_id) workgroup_id: vec3<u32>');
    if (this.#builtins.has('local_id')) parameters.push('@builtin(local_invocation_id) local_id: vec3<u32>');
    if (this.#builtins.has('subgroup_lane')) parameters.push('@builtin(subgroup_invocation_id) subgroup_lane: u32');
    if (this.#builtins.has('subgroup_size')) parameters.push('@builtin(subgroup_size) subgroup_size: u32');
    return parameters;
  }

  #helper(helper: HelperFunction): string {
    const scope = this.#scope;
    scope.lines.take();
    for (const param of helper.params) scope.names.setValue(param, `v${param.id}`);
    const params = helper.params.map((param) => `v${param.id}: ${scope.type(param.type)}`).join(', ');
    const [result] = helper.body.yields;
    this.#block(helper.body);
    scope.line(`return ${scope.guards.composite(result) ? scope.hidden(result) : scope.value(result)};`);
    const name = scope.names.helper(helper);
    const body = scope.lines.take().join('\n');
    return `fn ${name}(${params}) -> ${scope.type(helper.result)} { // ${commentText(helper.name)}\n${body}\n}`;
  }

  #arrayType(memory: KMemory): string {
    const { width, atomic } = this.#scope.view(memory);
    const scalar = this.#scope.type({ scalar: memory.scalar, lanes: 1 });
    const element = atomic ? `atomic<${scalar}>` : width === 1 ? scalar : `vec${width}<${scalar}>`;
    const count = memory.kind === 'buffer' ? Math.floor(memory.length / width) : Math.ceil(memory.length / width);
    return `array<${element}, ${Math.max(count, 1)}>`;
  }

  // --- instructions ------------------------------------------------------------------------------------------------

  #block(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst) {
    const scope = this.#scope;
    if (isEngineInst(inst)) throw unexpected(scope.kernel, 'webgpu', inst.op);
    switch (inst.op) {
      case 'const':
        return scope.constant(inst.result, inst.value);
      case 'scalar':
        return scope.define(inst.result, scope.names.scalar(inst.param));
      case 'builtin':
        return this.#builtin(inst);
      case 'unary':
        return scope.define(inst.result, unary(scope, inst));
      case 'binary':
        return scope.define(inst.result, binary(scope, inst));
      case 'fma': {
        const args = [inst.a, inst.b, inst.c].map((value) => scope.value(value)).join(', ');
        return scope.define(inst.result, `${scope.use('fma', inst.a.type)}(${args})`);
      }
      case 'dot4':
        return scope.define(inst.result, this.#dot4(inst));
      case 'compare':
        return scope.define(inst.result, compare(scope, inst.fn, inst.a, inst.b));
      case 'select':
        return scope.define(
          inst.result,
          `select(${scope.value(inst.b)}, ${scope.value(inst.a)}, ${scope.value(inst.condition)})`,
        );
      case 'convert':
        return scope.define(inst.result, convert(scope, inst.a, inst.result.type));
      case 'bitcast':
        return scope.define(inst.result, `bitcast<${scope.type(inst.result.type)}>(${scope.runtime(inst.a)})`);
      case 'splat':
        return scope.define(
          inst.result,
          isVector(inst.result.type) ? `${scope.type(inst.result.type)}(${scope.value(inst.a)})` : scope.value(inst.a),
        );
      case 'extract': {
        const text = scope.runtime(inst.a);
        return scope.define(inst.result, isVector(inst.a.type) ? `${text}.${components[inst.lane]}` : text);
      }
      case 'build':
        return scope.define(
          inst.result,
          isVector(inst.result.type)
            ? `${scope.type(inst.result.type)}(${inst.elements.map((e) => scope.value(e)).join(', ')})`
            : scope.value(inst.elements[0]),
        );
      case 'assume':
        return scope.same(inst.result, inst.a);
      case 'load':
        return scope.define(inst.result, load(scope, inst.memory, inst.index, inst.result.type));
      case 'store':
        return store(scope, inst.memory, inst.index, inst.value);
      case 'atomic':
        return scope.define(inst.result, atomic(scope, inst));
      case 'atomic_compare_exchange':
        return compareExchange(scope, inst);
      case 'subgroup': {
        this.#builtins.add('subgroups');
        const takesLane = inst.fn === 'broadcast' || inst.fn === 'shuffle_xor' || inst.fn === 'shuffle_down';
        const delta = takesLane ? `, ${inst.delta}u` : '';
        return scope.define(inst.result, `${subgroupFunctions[inst.fn]}(${scope.value(inst.a)}${delta})`);
      }
      case 'call': {
        const name = scope.names.helper(inst.callee);
        // Helpers are inlined below, so what they are given and give back could merge too.
        const args = inst.args.map((arg) => (scope.guards.composite(arg) ? scope.hidden(arg) : scope.value(arg)));
        return scope.define(inst.result, `${name}(${args.join(', ')})`);
      }
      case 'for':
        return this.#for(inst);
      case 'loop':
        return writeLoop(scope.lines, this.#syntax, inst);
      case 'if':
        return writeIf(scope.lines, this.#syntax, inst);
      case 'barrier':
        scope.line('workgroupBarrier();');
        if (this.#barrierStorage) scope.line('storageBarrier();');
        return;
      default:
        return inst satisfies never;
    }
  }

  /** c + the products of the bytes of two words: there is one of signed bytes and one of unsigned. */
  #dot4(inst: Extract<KInst, { op: 'dot4' }>): string {
    const scope = this.#scope;
    if (inst.left !== inst.right) throw unexpected(scope.kernel, 'webgpu', `dot4 of ${inst.left} and ${inst.right}`);
    this.#builtins.add(byteDotFeature);
    const signed = inst.left === 'i8';
    const { type } = inst.result;
    const [a, b] = [scope.runtime(inst.a), scope.runtime(inst.b)];
    const of = (part: string): string => {
      const dot = `dot4${signed ? 'I' : 'U'}8Packed(${a}${part}, ${b}${part})`;
      return signed ? dot : `i32(${dot})`;
    };
    const products = isVector(type)
      ? `${scope.type(type)}(${components
          .slice(0, type.lanes)
          .map((name) => of(`.${name}`))
          .join(', ')})`
      : of('');
    return `${scope.value(inst.c)} + ${products}`;
  }

  #builtin(inst: Extract<KInst, { op: 'builtin' }>): void {
    const scope = this.#scope;
    this.#builtins.add(inst.builtin);
    if (inst.builtin === 'subgroup_lane' || inst.builtin === 'subgroup_size') this.#builtins.add('subgroups');
    const whole = inst.builtin === 'workgroup_id' || inst.builtin === 'local_id';
    const text = whole ? `${inst.builtin}.${components[inst.dim]}` : inst.builtin;
    scope.define(inst.result, `${scope.type(inst.result.type)}(${text})`);
  }

  #for(inst: Extract<KInst, { op: 'for' }>): void {
    const scope = this.#scope;
    const { index } = inst;
    const counter = `n${index.id}`; // not i: i32 is a type
    const step = literal(index.type.scalar, inst.step) as string;
    const header = (): string => {
      const [lower, upper] = [scope.value(inst.lower), scope.value(inst.upper)];
      const type = scope.type(index.type);
      return `for (var ${counter}: ${type} = ${lower}; ${counter} < ${upper}; ${counter} = ${counter} + ${step}) {`;
    };
    writeFor(scope.lines, this.#syntax, inst, header, () => scope.define(index, counter));
  }
}
