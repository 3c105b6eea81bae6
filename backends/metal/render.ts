/**
 * Kernel IR → MSL (Metal Shading Language 3, which is C++14).
 *
 * The kernel's parameters are its buffers at [[buffer(0)]], [[buffer(1)]], … in binding order and then, if it has scalar
 * parameters, one `constant Scalars&` with all of them. Threadgroup arrays are declared in the body.
 *
 * The source asks for IEEE arithmetic without contraction, and drivers must compile it without fast math: on older
 * systems that is the compiler's option alone. What stays open: Apple GPUs flush subnormal f32.
 */

import { TuttiError } from '../../compiler/error.js';
import { isBulkInst } from '../../compiler/kernel/bulk.js';
import type { HelperFunction, KBlock, KernelFunction, KInst, ScalarType } from '../../compiler/kernel/types.js';
import { divergent } from '../../compiler/kernel/uniformity.js';
import type { KernelCode, Target } from '../backend.js';
import { forHeader, unrollCount } from '../common/c_family.js';
import { fmodHelper } from '../common/fmod.js';
import { arrayBytes, type Frame, frameOf, kernelCode } from '../common/frame.js';
import { nameParts } from '../common/names.js';
import { commentText, type Syntax, writeFor, writeIf, writeLoop } from '../common/structured.js';
import { binary, bitcast, compare, convert, fma, select, unary } from './arithmetic.js';
import { alignmentOf, atomic, compareExchange, load, store } from './memory.js';
import { components, storedAs, typeName } from './msl.js';
import { fmodName, type Inst, Scope } from './scope.js';
import { subgroup } from './subgroup.js';
import { simdWidth } from './target.js';
import { TileRenderer } from './tiles.js';

const head = [
  '#include <metal_stdlib>',
  'using namespace metal;',
  '#pragma clang fp contract(off)',
  '#if __METAL_VERSION__ >= 320',
  '#pragma METAL fp math_mode(safe)',
  '#pragma METAL fp contract(off)',
  '#endif',
];

const builtins = {
  workgroup_id: 'uint3 workgroup_id [[threadgroup_position_in_grid]]',
  local_id: 'uint3 local_id [[thread_position_in_threadgroup]]',
  subgroup_lane: 'uint subgroup_lane [[thread_index_in_simdgroup]]',
  subgroup_size: 'uint subgroup_size [[threads_per_simdgroup]]',
} as const;

/** The MSL of a kernel that is legal for the target. Pure. */
export function render(kernel: KernelFunction, target: Target): KernelCode {
  if (kernel.subgroupSize !== undefined && (kernel.subgroupSize !== simdWidth || !target.features.has('subgroups'))) {
    throw new TuttiError('E_KERNEL', 'Apple GPUs have subgroups of one width, others none that is known', {
      subject: kernel.name,
      expected: target.features.has('subgroups') ? String(simdWidth) : 'no subgroup operations',
      found: String(kernel.subgroupSize),
      remedy: 'Schedule the kernel for the metal target.',
    });
  }
  return new Renderer(kernel).render();
}

class Renderer {
  readonly #kernel: KernelFunction;
  readonly #frame: Frame;
  readonly #scope: Scope;
  readonly #syntax: Syntax;
  readonly #builtins = new Set<keyof typeof builtins>();
  /** Whether every workgroup is made of whole SIMD-groups. */
  readonly #wholeGroups: boolean;
  readonly #divergent: ReadonlySet<KInst>;
  readonly #barrier: string;
  readonly #tiles: TileRenderer;

  constructor(kernel: KernelFunction) {
    const scope = new Scope(kernel);
    const [x, y, z] = kernel.workgroup;
    this.#kernel = kernel;
    this.#frame = frameOf(kernel);
    this.#scope = scope;
    this.#wholeGroups = (x * y * z) % simdWidth === 0;
    this.#divergent = divergent(kernel, 'subgroup', simdWidth);
    const exchanged = this.#frame.buffers.some(({ access }) => access === 'readwrite');
    this.#tiles = new TileRenderer(scope);
    this.#barrier = `threadgroup_barrier(${exchanged ? 'mem_flags::mem_device | ' : ''}mem_flags::mem_threadgroup);`;
    this.#syntax = {
      endless: 'while (true) {',
      breakUnless: (condition) => `if (!${scope.value(condition)}) break;`,
      declare: (result, initial) => {
        const name = `c${result.id}`;
        scope.line(`${typeName(result.type)} ${name}${initial === undefined ? '' : ` = ${scope.value(initial)}`};`);
        return name;
      },
      assign: (variable, value) => scope.line(`${variable} = ${scope.value(value)};`),
      snapshot: (inner, variable) => scope.define(inner, variable),
      settle: (result, variable) => scope.names.setValue(result, variable),
      condition: (value) => scope.value(value),
      block: (block) => this.#block(block),
    };
  }

  render(): KernelCode {
    const { name, sources, body } = this.#kernel;
    nameParts(this.#scope.names, this.#kernel, this.#frame);
    const helpers = this.#kernel.helpers.map((helper) => this.#helper(helper));
    this.#scope.lines.take();
    this.#arrays();
    this.#tiles.declare();
    this.#block(body);
    const lines = this.#scope.lines.take();
    const entry = `tutti_${name.replace(/[^A-Za-z0-9_]/g, '_')}`;
    const { scalars, shared } = this.#frame;
    const from = sources.length > 0 ? ` from ${sources.join(', ')}` : '';
    const text = [
      `// ${commentText(name + from)}`,
      ...head,
      ...(scalars.length > 0
        ? [
            `struct Scalars { ${scalars.map((s, i) => `${typeName({ scalar: s.scalar, lanes: 1 })} s${i};`).join(' ')} };`,
          ]
        : []),
      ...(this.#scope.usesFmod ? [this.#fmod()] : []),
      ...this.#scope.library.values(),
      ...helpers,
      `kernel void ${entry}(`,
      this.#parameters()
        .map((parameter) => `    ${parameter}`)
        .join(',\n'),
      ') {',
      ...lines,
      '}',
      '',
    ].join('\n');
    const sharedBytes = shared.reduce((sum, array) => {
      const bytes = arrayBytes([array], ({ scalar }) => storedAs(scalar));
      return sum + Math.ceil(bytes / alignmentOf(array)) * alignmentOf(array);
    }, 0);
    return { ...kernelCode(this.#kernel, this.#frame, entry, sharedBytes), text };
  }

  // --- declarations ------------------------------------------------------------------------------------------------

  #parameters(): readonly string[] {
    const { buffers, scalars } = this.#frame;
    const element = (scalar: ScalarType): string => typeName({ scalar: storedAs(scalar), lanes: 1 });
    const parameters = buffers.map(
      ({ scalar, access }, i) =>
        `device ${access === 'read' ? 'const ' : ''}${element(scalar)}* b${i} [[buffer(${i})]]`,
    );
    if (scalars.length > 0) parameters.push(`constant Scalars& scalars [[buffer(${buffers.length})]]`);
    for (const builtin of this.#builtins) parameters.push(builtins[builtin]);
    return parameters;
  }

  #arrays(): void {
    for (const array of this.#kernel.arrays) {
      const space = array.space === 'shared' ? 'threadgroup ' : '';
      const element = typeName({ scalar: storedAs(array.scalar), lanes: 1 });
      const name = this.#scope.names.memory(array);
      const length = Math.max(1, array.length);
      this.#scope.line(
        `alignas(${alignmentOf(array)}) ${space}${element} ${name}[${length}]; // ${commentText(array.name)}`,
      );
    }
  }

  #helper(helper: HelperFunction, name = this.#scope.names.helper(helper)): string {
    const scope = this.#scope;
    const params = helper.params.map((param) => {
      scope.names.setValue(param, `v${param.id}`);
      return `const ${typeName(param.type)} v${param.id}`;
    });
    scope.lines.take();
    this.#block(helper.body);
    scope.line(`return ${scope.value(helper.body.yields[0])};`);
    return [
      `static inline ${typeName(helper.result)} ${name}(${params.join(', ')}) { // ${commentText(helper.name)}`,
      ...scope.lines.take(),
      '}',
    ].join('\n');
  }

  #fmod(): string {
    return this.#helper(fmodHelper('f32'), fmodName);
  }

  // --- instructions ------------------------------------------------------------------------------------------------

  #block(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst) {
    const scope = this.#scope;
    if (isBulkInst(inst)) throw scope.unexpected(inst.op);
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
      case 'fma':
        return scope.define(inst.result, fma(scope, inst));
      case 'dot4':
        throw scope.unexpected('dot4');
      case 'compare':
        return scope.define(inst.result, compare(scope, inst));
      case 'select':
        return scope.define(inst.result, select(scope, inst));
      case 'convert':
        return scope.define(inst.result, convert(scope, inst));
      case 'bitcast':
        return scope.define(inst.result, bitcast(scope, inst));
      case 'splat':
        return scope.define(inst.result, `${typeName(inst.result.type)}(${scope.value(inst.a)})`);
      case 'extract': {
        const component = inst.a.type.lanes === 1 ? '' : `.${components[inst.lane]}`;
        return scope.define(inst.result, scope.value(inst.a) + component);
      }
      case 'build':
        return scope.define(
          inst.result,
          `${typeName(inst.result.type)}(${inst.elements.map((element) => scope.value(element)).join(', ')})`,
        );
      case 'assume':
        return scope.names.setValue(inst.result, scope.value(inst.a));
      case 'load':
        return scope.define(inst.result, load(scope, inst));
      case 'store':
        return store(scope, inst);
      case 'atomic':
        return scope.define(inst.result, atomic(scope, inst));
      case 'atomic_compare_exchange':
        return scope.define(inst.result, compareExchange(scope, inst));
      case 'subgroup':
        return scope.define(inst.result, subgroup(scope, inst, this.#wholeGroups && !this.#divergent.has(inst)));
      case 'call': {
        const args = inst.args.map((arg) => scope.value(arg)).join(', ');
        return scope.define(inst.result, `${scope.names.helper(inst.callee)}(${args})`);
      }
      case 'for':
        return this.#for(inst);
      case 'loop':
        return writeLoop(scope.lines, this.#syntax, inst);
      case 'if':
        return writeIf(scope.lines, this.#syntax, inst);
      case 'barrier':
        return scope.line(this.#barrier);
      case 'tile_fill':
      case 'tile_load':
      case 'tile_store':
      case 'tile_multiply':
      case 'subgroup_barrier':
        return this.#tiles.render(inst);
      case 'tile_unpack':
      case 'tile_pack':
      case 'async_copy':
      case 'async_commit':
      case 'async_wait':
        throw scope.unexpected(inst.op);
      default:
        return inst satisfies never;
    }
  }

  #builtin(inst: Inst<'builtin'>): void {
    const { builtin, dim, result } = inst;
    this.#builtins.add(builtin);
    const whole = builtin === 'workgroup_id' || builtin === 'local_id';
    this.#scope.define(result, `${typeName(result.type)}(${builtin}${whole ? `.${components[dim]}` : ''})`);
  }

  #for(inst: Inst<'for'>): void {
    const scope = this.#scope;
    const { index } = inst;
    const counter = `i${index.id}`;
    const header = (): string => {
      const [lower, upper] = [scope.value(inst.lower), scope.value(inst.upper)];
      if (inst.unroll) scope.line(`#pragma clang loop unroll_count(${unrollCount(inst)})`);
      return forHeader(inst, counter, lower, upper, (scalar) => typeName({ scalar, lanes: 1 }));
    };
    writeFor(scope.lines, this.#syntax, inst, header, () => scope.define(index, `${typeName(index.type)}(${counter})`));
  }
}
