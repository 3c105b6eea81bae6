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

import {
  type AtomicFn,
  type Carried,
  type CompareFn,
  type HelperFunction,
  isFloatScalar,
  isIntScalar,
  isMathFn,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KScalar,
  type KType,
  type KValue,
  type SubgroupFn,
} from '../../compiler/kernel/types.js';
import { f32ToF16 } from '../../compiler/numeric.js';
import type { KernelCode, Target } from '../backend.js';
import { Guards } from './guards.js';
import { type MemoryView, memoryViews } from './views.js';
import {
  components,
  f32Bits,
  type LibraryFunction,
  libraryName,
  libraryText,
  literal,
  typeName,
  withScalar,
} from './wgsl.js';

const compareOperators: Readonly<Record<CompareFn, string>> = {
  eq: '==',
  ne: '!=',
  lt: '<',
  le: '<=',
  gt: '>',
  ge: '>=',
};
const atomicFunctions: Readonly<Record<AtomicFn, string>> = {
  add: 'atomicAdd',
  min: 'atomicMin',
  max: 'atomicMax',
  and: 'atomicAnd',
  or: 'atomicOr',
  xor: 'atomicXor',
  exchange: 'atomicExchange',
};
const subgroupFunctions: Readonly<Record<SubgroupFn, string>> = {
  add: 'subgroupAdd',
  min: 'subgroupMin',
  max: 'subgroupMax',
  broadcast_first: 'subgroupBroadcastFirst',
  shuffle_xor: 'subgroupShuffleXor',
  shuffle_down: 'subgroupShuffleDown',
};

/** The WGSL of a kernel that is legal for the target. Pure. */
export function renderWgsl(kernel: KernelFunction, target: Target): KernelCode {
  return new Renderer(kernel, target).render();
}

const isVector = (type: KType): boolean => type.lanes > 1;

class Renderer {
  readonly #kernel: KernelFunction;
  readonly #lines: string[] = [];
  readonly #names = new Map<KValue, string>();
  readonly #constants = new Map<KValue, number | bigint>();
  readonly #guards = new Guards(this.#constants);
  /** Constants whose name is their literal. */
  readonly #inline = new Set<KValue>();
  readonly #views: ReadonlyMap<KMemory, MemoryView>;
  readonly #memoryNames = new Map<KMemory, string>();
  readonly #scalarNames = new Map<KScalar, string>();
  readonly #helperNames = new Map<HelperFunction, string>();
  readonly #library = new Map<string, string>();
  readonly #builtins = new Set<string>();
  readonly #barrierStorage: boolean;
  #usesF16 = false;
  #indent = 1;
  #temporaries = 0;

  constructor(kernel: KernelFunction, _target: Target) {
    this.#kernel = kernel;
    this.#views = memoryViews(kernel);
    this.#barrierStorage = [...this.#views].some(([memory, view]) => memory.kind === 'buffer' && view.exchanged);
    const buffers = kernel.params.filter((param): param is KBuffer => param.kind === 'buffer');
    buffers.forEach((buffer, i) => {
      this.#memoryNames.set(buffer, `b${i}`);
    });
    const scalars = kernel.params.filter((param): param is KScalar => param.kind === 'scalar');
    scalars.forEach((scalar, i) => {
      this.#scalarNames.set(scalar, `scalars.s${i}`);
    });
    kernel.arrays.forEach((array, i) => {
      this.#memoryNames.set(array, `${array.space === 'shared' ? 'shared' : 'private'}${i}`);
    });
    kernel.helpers.forEach((helper, i) => {
      this.#helperNames.set(helper, `helper${i}`); // not f: f32 is a type
    });
  }

  render(): KernelCode {
    const kernel = this.#kernel;
    const buffers = kernel.params.filter((param): param is KBuffer => param.kind === 'buffer');
    const scalars = kernel.params.filter((param): param is KScalar => param.kind === 'scalar');
    const helpers = kernel.helpers.map((helper) => this.#helper(helper));

    this.#indent = 1;
    this.#lines.length = 0;
    for (const array of kernel.arrays) {
      if (array.space === 'private') this.#line(`var ${this.#name(array)}: ${this.#arrayType(array)};`);
    }
    this.#block(kernel.body);
    const body = this.#lines.join('\n');

    const globals: string[] = [
      `// ${oneLine(kernel.name)}${kernel.sources.length > 0 ? `: ${oneLine(kernel.sources.join(', '))}` : ''}`,
    ];
    if (this.#usesF16) globals.push('enable f16;');
    if (this.#builtins.has('subgroups')) {
      // Control flow around subgroup ops is the producer's promise; the analysis is too coarse for it.
      globals.push('enable subgroups;', 'diagnostic(off, subgroup_uniformity);');
    }
    buffers.forEach((buffer, i) => {
      globals.push(
        `@group(0) @binding(${i}) var<storage, read_write> b${i}: ${this.#arrayType(buffer)}; // ${oneLine(buffer.name)}`,
      );
    });
    if (scalars.length > 0) {
      globals.push(`struct Scalars { ${scalars.map((s, i) => `s${i}: ${s.scalar}`).join(', ')} }`);
      globals.push(`@group(0) @binding(${buffers.length}) var<uniform> scalars: Scalars;`);
    }
    for (const array of kernel.arrays) {
      if (array.space === 'shared')
        globals.push(`var<workgroup> ${this.#name(array)}: ${this.#arrayType(array)}; // ${oneLine(array.name)}`);
    }
    const parameters: string[] = [];
    const hides = [...this.#library.keys()].some((name) => name.startsWith('lib_hide'));
    if (hides) {
      // At most 65,535 workgroups: zero, but no compiler knows.
      globals.push('var<private> zero_bits: u32;');
      parameters.push('@builtin(num_workgroups) workgroups: vec3<u32>');
    }
    if (this.#builtins.has('workgroup_id')) parameters.push('@builtin(workgroup_id) workgroup_id: vec3<u32>');
    if (this.#builtins.has('local_id')) parameters.push('@builtin(local_invocation_id) local_id: vec3<u32>');
    if (this.#builtins.has('subgroup_lane')) parameters.push('@builtin(subgroup_invocation_id) subgroup_lane: u32');
    if (this.#builtins.has('subgroup_size')) parameters.push('@builtin(subgroup_size) subgroup_size: u32');
    const text = [
      ...globals,
      ...this.#library.values(),
      ...helpers,
      `@compute @workgroup_size(${kernel.workgroup.join(', ')})`,
      `fn main(${parameters.join(', ')}) {`,
      ...(hides ? ['  zero_bits = workgroups.x >> 31u;'] : []),
      body,
      '}',
      '',
    ].join('\n');
    return {
      name: kernel.name,
      text,
      entry: 'main',
      workgroup: kernel.workgroup,
      bindings: buffers.map((buffer) => buffer.access),
      scalarBytes: scalars.length * 4,
      sharedBytes: kernel.arrays.reduce(
        (sum, array) => sum + (array.space === 'shared' ? array.length * (array.scalar === 'f16' ? 2 : 4) : 0),
        0,
      ),
      ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
    };
  }

  // --- declarations ------------------------------------------------------------------------------------------------

  #helper(helper: HelperFunction): string {
    this.#lines.length = 0;
    this.#indent = 1;
    for (const param of helper.params) this.#names.set(param, `v${param.id}`);
    const params = helper.params.map((param) => `v${param.id}: ${this.#type(param.type)}`).join(', ');
    const [result] = helper.body.yields;
    for (const inst of helper.body.instructions) this.#instruction(inst);
    this.#line(`return ${this.#guards.composite(result) ? this.#hidden(result) : this.#value(result)};`);
    const name = this.#helperNames.get(helper);
    return `fn ${name}(${params}) -> ${this.#type(helper.result)} { // ${oneLine(helper.name)}\n${this.#lines.join('\n')}\n}`;
  }

  #arrayType(memory: KMemory): string {
    const { width, atomic } = this.#view(memory);
    const scalar = this.#type({ scalar: memory.scalar, lanes: 1 });
    const element = atomic ? `atomic<${scalar}>` : width === 1 ? scalar : `vec${width}<${scalar}>`;
    const count = memory.kind === 'buffer' ? Math.floor(memory.length / width) : Math.ceil(memory.length / width);
    return `array<${element}, ${Math.max(count, 1)}>`;
  }

  #view(memory: KMemory): MemoryView {
    return this.#views.get(memory) ?? { width: 1, atomic: false, exchanged: false };
  }

  #name(memory: KMemory): string {
    const name = this.#memoryNames.get(memory);
    if (name === undefined)
      throw new Error(`kernel ${this.#kernel.name} uses '${memory.name}', which it does not declare`);
    return name;
  }

  #type(type: KType): string {
    if (type.scalar === 'f16') this.#usesF16 = true;
    return typeName(type);
  }

  #use = (fn: LibraryFunction, type: KType): string => {
    const name = libraryName(fn, type);
    if (!this.#library.has(name)) {
      this.#library.set(name, ''); // its place; functions it asks for follow
      this.#library.set(name, libraryText(fn, type, this.#use));
    }
    return name;
  };

  // --- values ------------------------------------------------------------------------------------------------------

  #line(text: string): void {
    this.#lines.push('  '.repeat(this.#indent) + text);
  }

  /** The expression for a value: its name, or its literal. */
  #value(value: KValue): string {
    const name = this.#names.get(value);
    if (name === undefined)
      throw new Error(`kernel ${this.#kernel.name}: value %${value.id} is used before its definition`);
    return name;
  }

  /** As `#value`, but never a constant expression: WGSL refuses constant expressions that overflow. */
  #runtime(value: KValue): string {
    const text = this.#value(value);
    if (!this.#inline.has(value)) return text;
    const name = `k${this.#temporaries++}`;
    this.#line(`let ${name} = ${text};`);
    return name;
  }

  /** A value that compilers cannot trace back to how it was computed: see guards.ts. */
  #hidden(value: KValue): string {
    return `${this.#use('hide', value.type)}(${this.#value(value)})`;
  }

  #define(result: KValue, text: string): void {
    const name = `v${result.id}`;
    this.#names.set(result, name);
    this.#line(`let ${name}: ${this.#type(result.type)} = ${text};`);
  }

  #constant(result: KValue, value: number | bigint): void {
    const { scalar, lanes } = result.type;
    this.#constants.set(result, value);
    const type = this.#type(result.type);
    const text = literal(scalar, value);
    if (text !== undefined) {
      this.#inline.add(result);
      this.#names.set(result, lanes === 1 ? text : `${type}(${text})`);
      return;
    }
    // NaN, infinities, −0 and subnormals: from bits that are no constant expression.
    const name = `v${result.id}`;
    this.#names.set(result, name);
    const number = Number(value);
    if (scalar === 'f16') {
      this.#line(`let ${name}_bits = ${f32ToF16(number)}u;`);
      this.#line(
        `let ${name} = ${lanes === 1 ? '' : `${type}(`}bitcast<vec2<f16>>(${name}_bits).x${lanes === 1 ? '' : ')'};`,
      );
    } else {
      this.#line(`let ${name}_bits = ${f32Bits(number)}u;`);
      this.#line(`let ${name} = ${lanes === 1 ? '' : `${type}(`}bitcast<f32>(${name}_bits)${lanes === 1 ? '' : ')'};`);
    }
  }

  /** Operands of which at least one is no constant expression; a zero divisor in dead code must not be one either. */
  #operands(a: KValue, b: KValue, divides = false): readonly [string, string] {
    const bConstant = this.#constants.get(b);
    const left = bConstant === undefined ? this.#value(a) : this.#runtime(a);
    const right = divides && bConstant !== undefined && Number(bConstant) === 0 ? this.#runtime(b) : this.#value(b);
    return [left, right];
  }

  // --- instructions --------------------------------------------------------------------------------------------------

  #block(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst) {
    switch (inst.op) {
      case 'const':
        return this.#constant(inst.result, inst.value);
      case 'scalar': {
        const name = this.#scalarNames.get(inst.param);
        if (name === undefined)
          throw new Error(`kernel ${this.#kernel.name} reads undeclared scalar '${inst.param.name}'`);
        return this.#define(inst.result, name);
      }
      case 'builtin':
        return this.#builtin(inst);
      case 'unary':
        return this.#define(inst.result, this.#unary(inst));
      case 'binary':
        return this.#define(inst.result, this.#binary(inst));
      case 'fma': {
        const args = [inst.a, inst.b, inst.c].map((value) => this.#value(value)).join(', ');
        return this.#define(inst.result, `${this.#use('fma', inst.a.type)}(${args})`);
      }
      case 'compare':
        return this.#define(inst.result, this.#compare(inst.fn, inst.a, inst.b));
      case 'select':
        return this.#define(
          inst.result,
          `select(${this.#value(inst.b)}, ${this.#value(inst.a)}, ${this.#value(inst.condition)})`,
        );
      case 'convert':
        return this.#define(inst.result, this.#convert(inst.a, inst.result.type));
      case 'bitcast':
        return this.#define(inst.result, `bitcast<${this.#type(inst.result.type)}>(${this.#runtime(inst.a)})`);
      case 'splat':
        return this.#define(
          inst.result,
          isVector(inst.result.type) ? `${this.#type(inst.result.type)}(${this.#value(inst.a)})` : this.#value(inst.a),
        );
      case 'extract': {
        const text = this.#runtime(inst.a);
        return this.#define(inst.result, isVector(inst.a.type) ? `${text}.${components[inst.lane]}` : text);
      }
      case 'build':
        return this.#define(
          inst.result,
          isVector(inst.result.type)
            ? `${this.#type(inst.result.type)}(${inst.elements.map((e) => this.#value(e)).join(', ')})`
            : this.#value(inst.elements[0]),
        );
      case 'assume': {
        this.#names.set(inst.result, this.#value(inst.a));
        const constant = this.#constants.get(inst.a);
        if (constant !== undefined) this.#constants.set(inst.result, constant);
        if (this.#inline.has(inst.a)) this.#inline.add(inst.result);
        return;
      }
      case 'load':
        return this.#define(inst.result, this.#load(inst.memory, inst.index, inst.result.type));
      case 'store':
        return this.#store(inst.memory, inst.index, inst.value);
      case 'atomic': {
        const place = `${this.#name(inst.memory)}[${this.#index(inst.memory, inst.index)}]`;
        return this.#define(inst.result, `${atomicFunctions[inst.fn]}(&${place}, ${this.#value(inst.value)})`);
      }
      case 'atomic_compare_exchange':
        return this.#compareExchange(inst);
      case 'subgroup': {
        this.#builtins.add('subgroups');
        const delta = inst.fn === 'shuffle_xor' || inst.fn === 'shuffle_down' ? `, ${inst.delta}u` : '';
        return this.#define(inst.result, `${subgroupFunctions[inst.fn]}(${this.#value(inst.a)}${delta})`);
      }
      case 'call': {
        const name = this.#helperNames.get(inst.callee);
        if (name === undefined)
          throw new Error(`kernel ${this.#kernel.name} calls undeclared helper '${inst.callee.name}'`);
        // Helpers are inlined below, so what they are given and give back could merge too.
        const args = inst.args.map((arg) => (this.#guards.composite(arg) ? this.#hidden(arg) : this.#value(arg)));
        return this.#define(inst.result, `${name}(${args.join(', ')})`);
      }
      case 'for':
        return this.#for(inst);
      case 'loop':
        return this.#loop(inst);
      case 'if':
        return this.#if(inst);
      case 'barrier':
        this.#line('workgroupBarrier();');
        if (this.#barrierStorage) this.#line('storageBarrier();');
        return;
      default:
        return inst satisfies never;
    }
  }

  #builtin(inst: Extract<KInst, { op: 'builtin' }>): void {
    this.#builtins.add(inst.builtin);
    if (inst.builtin === 'subgroup_lane' || inst.builtin === 'subgroup_size') this.#builtins.add('subgroups');
    const whole = inst.builtin === 'workgroup_id' || inst.builtin === 'local_id';
    const text = whole ? `${inst.builtin}.${components[inst.dim]}` : inst.builtin;
    this.#define(inst.result, `${this.#type(inst.result.type)}(${text})`);
  }

  #unary(inst: Extract<KInst, { op: 'unary' }>): string {
    const { fn, a } = inst;
    if (isMathFn(fn)) throw new Error(`kernel ${this.#kernel.name}: ${fn} must be expanded before rendering`);
    const text = this.#guards.operands(inst).a ? this.#hidden(a) : this.#runtime(a);
    const { scalar } = a.type;
    switch (fn) {
      case 'neg':
        return scalar === 'u32' ? `(~${text}) + ${this.#one(a.type)}` : `-${text}`;
      case 'abs':
        return scalar === 'u32' ? text : `abs(${text})`;
      case 'not':
        return scalar === 'bool' ? `!${text}` : `~${text}`;
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
        return isFloatScalar(scalar) ? `${fn}(${text})` : text;
      case 'sqrt':
        return `sqrt(${text})`;
      case 'popcount':
        return `countOneBits(${text})`;
      case 'clz':
        return `countLeadingZeros(${text})`;
      default:
        return fn satisfies never;
    }
  }

  #one(type: KType): string {
    const one = literal(type.scalar, 1) as string;
    return isVector(type) ? `${this.#type(type)}(${one})` : one;
  }

  #binary(inst: Extract<KInst, { op: 'binary' }>): string {
    const { fn, a, b } = inst;
    if (isMathFn(fn)) throw new Error(`kernel ${this.#kernel.name}: ${fn} must be expanded before rendering`);
    const { scalar } = a.type;
    const float = isFloatScalar(scalar);
    const infix = (operator: string, divides = false): string => {
      const hide = this.#guards.operands(inst);
      const [left, right] = this.#operands(a, b, divides);
      return `${hide.a ? this.#hidden(a) : left} ${operator} ${hide.b ? this.#hidden(b) : right}`;
    };
    switch (fn) {
      case 'add':
        return infix('+');
      case 'sub':
        return infix('-');
      case 'mul':
        return infix('*');
      case 'div':
        return infix('/', true);
      case 'rem':
        if (float) return `${this.#use('fmod', a.type)}(${this.#value(a)}, ${this.#value(b)})`;
        return infix('%', true);
      case 'min':
      case 'max':
        return this.#minMax(fn, a, b);
      case 'and':
        return infix('&');
      case 'or':
        return infix('|');
      case 'xor':
        return infix(scalar === 'bool' ? '!=' : '^');
      case 'shl':
      case 'shr': {
        const amount = withScalar(b.type, 'u32');
        const constant = this.#constants.get(b);
        const known = constant !== undefined && Number(constant) >= 0 && Number(constant) < 32;
        const one = known ? `${Number(constant)}u` : undefined;
        const text =
          one !== undefined
            ? isVector(amount)
              ? `${typeName(amount)}(${one})`
              : one
            : b.type.scalar === 'u32'
              ? this.#runtime(b)
              : `${typeName(amount)}(${this.#runtime(b)})`;
        return `${this.#runtime(a)} ${fn === 'shl' ? '<<' : '>>'} ${text}`;
      }
      case 'mulhi':
        return `${this.#use('mulhi', a.type)}(${this.#value(a)}, ${this.#value(b)})`;
      default:
        return fn satisfies never;
    }
  }

  /** WGSL's own min and max may drop a NaN: test the bits, but not of a constant. */
  #minMax(fn: 'min' | 'max', a: KValue, b: KValue): string {
    const [left, right] = this.#operands(a, b);
    const { scalar } = a.type;
    if (scalar === 'bool') return `${left} ${fn === 'min' ? '&' : '|'} ${right}`;
    if (!isFloatScalar(scalar)) return `${fn}(${left}, ${right})`;
    const never = (value: KValue): boolean => {
      const constant = this.#constants.get(value);
      return constant !== undefined && !Number.isNaN(Number(constant));
    };
    if (never(a) && never(b)) return `${fn}(${left}, ${right})`;
    if (never(b)) return `select(${fn}(${left}, ${right}), ${left}, ${this.#use('is_nan', a.type)}(${left}))`;
    if (never(a)) return `select(${fn}(${left}, ${right}), ${right}, ${this.#use('is_nan', a.type)}(${right}))`;
    return `${this.#use(fn, a.type)}(${left}, ${right})`;
  }

  #compare(fn: CompareFn, a: KValue, b: KValue): string {
    const { scalar } = a.type;
    if (a === b && isFloatScalar(scalar) && (fn === 'ne' || fn === 'eq')) {
      const test = `${this.#use('is_nan', a.type)}(${this.#value(a)})`;
      return fn === 'ne' ? test : `!${test}`;
    }
    const [left, right] = this.#operands(a, b);
    if (scalar === 'bool' && fn !== 'eq' && fn !== 'ne') {
      const u = typeName(withScalar(a.type, 'u32'));
      return `${u}(${left}) ${compareOperators[fn]} ${u}(${right})`;
    }
    // Compilers turn `!=` into an ordered comparison, which is false with NaN.
    if (fn === 'ne' && isFloatScalar(scalar)) return `!(${left} == ${right})`;
    return `${left} ${compareOperators[fn]} ${right}`;
  }

  #convert(a: KValue, to: KType): string {
    const from = a.type.scalar;
    const text = this.#runtime(a);
    if (to.scalar === from) return text;
    if (to.scalar === 'bool') {
      const zero = literal(from, 0) as string;
      return `!(${text} == ${isVector(to) ? `${this.#type(a.type)}(${zero})` : zero})`;
    }
    if (isFloatScalar(from) && isIntScalar(to.scalar)) {
      return `${this.#use(to.scalar === 'i32' ? 'to_i32' : 'to_u32', a.type)}(${text})`;
    }
    if (to.scalar === 'f16' && from !== 'bool') {
      const f32 = withScalar(a.type, 'f32');
      // Integers that f32 rounds lie beyond f16's range, so rounding twice is harmless.
      return `${this.#use('round_f16', f32)}(${from === 'f32' ? text : `${typeName(f32)}(${text})`})`;
    }
    // Below 2^24 every integer is an f32; above, drivers round u32 as they like.
    const small = a.range !== undefined && a.range.max <= 2 ** 24;
    if (from === 'u32' && to.scalar === 'f32' && !small) return `${this.#use('u32_to_f32', a.type)}(${text})`;
    return `${this.#type(to)}(${text})`;
  }

  // --- memory --------------------------------------------------------------------------------------------------------

  /** An index into an array whose elements are `width` lanes wide, `ahead` elements further. */
  #index(memory: KMemory, index: KValue, ahead = 0): string {
    const { width } = this.#view(memory);
    const constant = this.#constants.get(index);
    if (constant !== undefined) {
      const element = Math.floor((Number(constant) + ahead) / width);
      // Out of bounds in dead code: an error of the whole module if it were a constant.
      if (Number(constant) < 0 || (element + 1) * width > memory.length) return this.#runtime(index);
      return String(element);
    }
    const text = ahead === 0 ? this.#value(index) : `${this.#value(index)} + ${ahead}`;
    if (width === 1) return text;
    const shift = width === 4 ? '2u' : '1u';
    return ahead === 0 ? `${text} >> ${shift}` : `(${text}) >> ${shift}`;
  }

  #load(memory: KMemory, index: KValue, type: KType): string {
    const name = this.#name(memory);
    const { width, atomic } = this.#view(memory);
    if (width > 1 && type.lanes === width) return `${name}[${this.#index(memory, index)}]`;
    if (width > 1) {
      const vector = `${name}[${this.#index(memory, index)}]`;
      const constant = this.#constants.get(index);
      const lane = constant === undefined ? undefined : Number(constant) % width;
      if (type.lanes === 1) {
        return lane === undefined ? `${vector}[${this.#value(index)} & ${width - 1}]` : `${vector}.${components[lane]}`;
      }
      if (lane !== undefined) return `${vector}.${lane === 0 ? 'xy' : 'zw'}`;
      const whole = `k${this.#temporaries++}`;
      this.#line(`let ${whole} = ${vector};`);
      return `select(${whole}.xy, ${whole}.zw, (${this.#value(index)} & 2) != 0)`;
    }
    const one = (ahead: number): string => {
      const place = `${name}[${this.#index(memory, index, ahead)}]`;
      return atomic ? `atomicLoad(&${place})` : place;
    };
    if (type.lanes === 1) return one(0);
    return `${this.#type(type)}(${components
      .slice(0, type.lanes)
      .map((_, i) => one(i))
      .join(', ')})`;
  }

  #store(memory: KMemory, index: KValue, value: KValue): void {
    const name = this.#name(memory);
    const { width, atomic } = this.#view(memory);
    const { lanes } = value.type;
    if (lanes === width && !atomic) {
      this.#line(`${name}[${this.#index(memory, index)}] = ${this.#value(value)};`);
      return;
    }
    const text = lanes === 1 ? this.#value(value) : this.#runtime(value);
    for (let lane = 0; lane < lanes; lane++) {
      const element = lanes === 1 ? text : `${text}.${components[lane]}`;
      const place = `${name}[${this.#index(memory, index, lane)}]`;
      this.#line(atomic ? `atomicStore(&${place}, ${element});` : `${place} = ${element};`);
    }
  }

  /** WGSL has only the weak form, which may fail for no reason: again until it fails for one. */
  #compareExchange(inst: Extract<KInst, { op: 'atomic_compare_exchange' }>): void {
    const place = `${this.#name(inst.memory)}[${this.#index(inst.memory, inst.index)}]`;
    const old = `k${this.#temporaries++}`;
    const expected = this.#value(inst.expected);
    this.#line(`var ${old}: ${this.#type(inst.result.type)};`);
    this.#line('loop {');
    this.#line(`  let attempt = atomicCompareExchangeWeak(&${place}, ${expected}, ${this.#value(inst.value)});`);
    this.#line(`  ${old} = attempt.old_value;`);
    this.#line(`  if (attempt.exchanged || attempt.old_value != ${expected}) { break; }`);
    this.#line('}');
    this.#define(inst.result, old);
  }

  // --- control ---------------------------------------------------------------------------------------------------------

  #carry(carried: readonly Carried[]): readonly string[] {
    return carried.map(({ initial, result }) => {
      const name = `c${result.id}`;
      this.#line(`var ${name}: ${this.#type(result.type)} = ${this.#value(initial)};`);
      return name;
    });
  }

  /** The body of a loop: `inner` values are snapshots, so the assignments at its end cannot disturb each other. */
  #iterate(carried: readonly Carried[], variables: readonly string[], body: KBlock): void {
    this.#indent++;
    carried.forEach(({ inner }, i) => {
      this.#define(inner, variables[i]);
    });
    this.#block(body);
    body.yields.forEach((value, i) => {
      this.#line(`${variables[i]} = ${this.#value(value)};`);
    });
  }

  #finish(carried: readonly Carried[], variables: readonly string[]): void {
    carried.forEach(({ result }, i) => {
      this.#define(result, variables[i]);
    });
  }

  #for(inst: Extract<KInst, { op: 'for' }>): void {
    const variables = this.#carry(inst.carried);
    const { index } = inst;
    const counter = `n${index.id}`; // not i: i32 is a type
    const type = this.#type(index.type);
    const step = literal(index.type.scalar, inst.step) as string;
    this.#line(
      `for (var ${counter}: ${type} = ${this.#value(inst.lower)}; ${counter} < ${this.#value(inst.upper)}; ${counter} = ${counter} + ${step}) {`,
    );
    this.#indent++;
    this.#define(index, counter);
    this.#indent--;
    this.#iterate(inst.carried, variables, inst.body);
    this.#indent--;
    this.#line('}');
    this.#finish(inst.carried, variables);
  }

  #loop(inst: Extract<KInst, { op: 'loop' }>): void {
    const variables = this.#carry(inst.carried);
    this.#line('loop {');
    this.#iterate(inst.carried, variables, inst.body);
    this.#line(`if (!(${this.#value(inst.condition)})) { break; }`);
    this.#indent--;
    this.#line('}');
    this.#finish(inst.carried, variables);
  }

  #if(inst: Extract<KInst, { op: 'if' }>): void {
    const variables = inst.results.map((result) => {
      this.#line(`var c${result.id}: ${this.#type(result.type)};`);
      return `c${result.id}`;
    });
    const arm = (block: KBlock): void => {
      this.#indent++;
      this.#block(block);
      block.yields.forEach((value, i) => {
        this.#line(`${variables[i]} = ${this.#value(value)};`);
      });
      this.#indent--;
    };
    this.#line(`if (${this.#value(inst.condition)}) {`);
    arm(inst.then);
    if (inst.else.instructions.length > 0 || inst.else.yields.length > 0) {
      this.#line('} else {');
      arm(inst.else);
    }
    this.#line('}');
    inst.results.forEach((result, i) => {
      this.#define(result, variables[i]);
    });
  }
}

/** Names come from models: a comment must not end early or hide a line. */
const oneLine = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?').slice(0, 200);
