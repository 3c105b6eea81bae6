/**
 * Kernel IR → C with vector extensions, for gcc and clang.
 *
 * A kernel becomes one function that runs a range of linear workgroup ids:
 *
 *   void ENTRY(void *const *buffers, const uint32_t *scalars, unsigned char *scratch, const uint32_t *grid,
 *              uint64_t first, uint64_t last)
 *
 * ENTRY carries a hash of the text, so that texts of different kernels can share a translation unit. Scratch holds
 * the shared arrays and large private ones; it is aligned to 64 bytes and belongs to the calling thread.
 * Integer arithmetic that may wrap is done unsigned; where ranges prove that it does not, it stays signed, because
 * that lets the C compiler follow addresses through loops and vectorise them.
 */
import { TuttiError } from '../../compiler/error.js';
import { rangeOf } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type BinaryFn,
  type Carried,
  type CompareFn,
  type HelperFunction,
  isFloatScalar,
  isMathFn,
  isSignedScalar,
  type KArray,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KType,
  type KValue,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import type { KernelCode } from '../backend.js';
import { collectFloatConstants, contentHash, countUses, staysInside, unrollCount } from './analysis.js';
import { cLiteral } from './literal.js';
import { cScalar, heldAs, isHalf, type MaskBits, Prelude, signedOf, storedAs, unsignedOf } from './prelude.js';

/** Stands for the content hash until the text is known. */
const ID = '@ID@';
/** Private arrays above this go to scratch: stacks of pool threads are small. */
const STACK_BYTES = 16 * 1024;

type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;

/** C for a value. Vectors of bools are masks of `maskBits`. */
interface Ref {
  readonly c: string;
  readonly maskBits: MaskBits;
}

export function renderKernel(kernel: KernelFunction, target: Target): KernelCode {
  if (kernel.workgroup.some((size) => size !== 1)) {
    throw new TuttiError('E_KERNEL', 'a CPU workgroup is one invocation', {
      subject: kernel.name,
      expected: 'workgroup 1x1x1',
      found: kernel.workgroup.join('x'),
      remedy: 'Schedule the kernel for the cpu target.',
    });
  }
  return new KernelRenderer(kernel, target).render();
}

class KernelRenderer {
  readonly #prelude = new Prelude();
  readonly #values = new Map<KValue, Ref>();
  readonly #memories = new Map<KMemory, string>();
  readonly #helpers = new Map<HelperFunction, string>();
  readonly #uses: ReadonlyMap<KValue, number>;
  readonly #floatConstants: ReadonlyMap<KValue, number>;
  readonly #fastProducts = new Map<KValue, Inst<'binary'>>();
  #lines: string[] = [];
  #indent = 1;

  constructor(
    readonly kernel: KernelFunction,
    readonly target: Target,
  ) {
    this.#uses = countUses(kernel);
    this.#floatConstants = collectFloatConstants(kernel);
  }

  render(): KernelCode {
    const { kernel } = this;
    const helpers = kernel.helpers.map((helper) => this.#helper(helper));

    const params: string[] = [];
    const args: string[] = [];
    const bindings: KernelCode['bindings'][number][] = [];
    let scalars = 0;
    for (const param of kernel.params) {
      if (param.kind === 'scalar') {
        scalars++;
        continue;
      }
      const name = `b${bindings.length}`;
      const constant = param.access === 'read' ? 'const ' : '';
      params.push(`${constant}${cScalar(storedAs(param.scalar))} *restrict ${name}`);
      args.push(`buffers[${bindings.length}]`);
      this.#memories.set(param, name);
      bindings.push(param.access);
    }
    let scratch = 0;
    const locals: string[] = [];
    kernel.arrays.forEach((array, i) => {
      const type = cScalar(storedAs(array.scalar));
      const bytes = arrayBytes(array);
      this.#memories.set(array, `a${i}`);
      if (array.space === 'private' && bytes <= STACK_BYTES) {
        locals.push(`_Alignas(64) ${type} a${i}[${Math.max(1, array.length)}];`);
        return;
      }
      params.push(`${type} *restrict a${i}`);
      args.push(`(${type} *)(scratch + ${scratch})`);
      scratch += Math.ceil(bytes / 64) * 64;
    });

    this.#indent = 3;
    this.#lines = locals.map((line) => `      ${line}`);
    this.#instructions(kernel.body);
    const body = this.#lines;

    const rest = ['scalars', 'grid', 'first', 'last'];
    const signature = [
      ...params,
      'const uint32_t *restrict scalars',
      'const uint32_t *restrict grid',
      'const uint64_t first',
      'const uint64_t last',
    ];
    const from = kernel.sources.length > 0 ? ` from ${kernel.sources.join(', ')}` : '';
    const text = [
      `/* ${commentText(kernel.name + from)} */`,
      this.#prelude.text() + helpers.join('\n'),
      `static __attribute__((noinline)) void run_${ID}(${signature.join(', ')}) {`,
      '  const uint64_t gx = grid[0], gy = grid[1];',
      '  (void)scalars;',
      '  uint64_t todo = last - first, x = first % gx, y = first / gx % gy, z = first / gx / gy;',
      '  while (todo > 0) {',
      '    const uint64_t run = gx - x < todo ? gx - x : todo;',
      '    const int32_t wy = (int32_t)y, wz = (int32_t)z, end = (int32_t)(x + run);',
      '    (void)wy, (void)wz;',
      '    for (int32_t wx = (int32_t)x; wx < end; wx++) {',
      ...body,
      '    }',
      '    todo -= run;',
      '    x = 0;',
      '    if (++y == gy) y = 0, z++;',
      '  }',
      '}',
      `__attribute__((visibility("default"))) void ${ID}(void *const *buffers, const uint32_t *scalars, unsigned char *scratch, const uint32_t *grid, uint64_t first, uint64_t last) {`,
      '  (void)buffers, (void)scratch;',
      `  run_${ID}(${[...args, ...rest].join(', ')});`,
      '}',
      '',
    ].join('\n');
    const entry = `tutti_k_${contentHash(text)}`;
    return {
      name: kernel.name,
      text: text.replaceAll(ID, entry),
      entry,
      workgroup: [1, 1, 1],
      bindings,
      scalarBytes: 4 * scalars,
      sharedBytes: scratch,
    };
  }

  #helper(helper: HelperFunction): string {
    const name = `h${this.#helpers.size}_${ID}`;
    this.#helpers.set(helper, name);
    const params = helper.params.map((param) => {
      this.#values.set(param, { c: `v${param.id}`, maskBits: 32 });
      return `const ${this.#type(param.type)} v${param.id}`;
    });
    this.#lines = [];
    this.#indent = 1;
    this.#instructions(helper.body);
    const result = this.#as(helper.body.yields[0], 32);
    return [
      `TUTTI_INLINE ${this.#type(helper.result)} ${name}(${params.join(', ')}) { /* ${commentText(helper.name)} */`,
      ...this.#lines,
      `  return ${result};`,
      '}',
      '',
    ].join('\n');
  }

  // --- statements ------------------------------------------------------------------------------------------------

  #line(text: string): void {
    this.#lines.push('  '.repeat(this.#indent) + text);
  }

  #instructions(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  /** Declares `value` as a C constant. */
  #let(value: KValue, c: string, maskBits: MaskBits = 32): void {
    const name = `v${value.id}`;
    this.#line(`const ${this.#type(value.type, maskBits)} ${name} = ${c};`);
    this.#values.set(value, { c: name, maskBits });
  }

  /** Gives `value` an existing expression. */
  #alias(value: KValue, c: string, maskBits: MaskBits = 32): void {
    this.#values.set(value, { c, maskBits });
  }

  #instruction(inst: KInst): void {
    switch (inst.op) {
      case 'const': {
        const literal = cLiteral(inst.value, inst.result.type.scalar);
        if (inst.result.type.lanes === 1) this.#alias(inst.result, literal);
        else this.#let(inst.result, this.#splat(literal, inst.result.type, 32));
        return;
      }
      case 'scalar': {
        const index = this.kernel.params.filter((param) => param.kind === 'scalar').indexOf(inst.param);
        const word = `scalars[${index}]`;
        const { scalar } = inst.param;
        this.#let(
          inst.result,
          scalar === 'f32' ? `${this.#prelude.bitcast('u32', 1, 'f32', 1)}(${word})` : `(${cScalar(scalar)})${word}`,
        );
        return;
      }
      case 'builtin':
        if (inst.builtin === 'workgroup_id')
          this.#let(inst.result, `(${this.#type(inst.result.type)})${['wx', 'wy', 'wz'][inst.dim]}`);
        else if (inst.builtin === 'local_id') this.#alias(inst.result, '0');
        else throw this.#unexpected(inst.builtin);
        return;
      case 'unary':
        this.#unary(inst);
        return;
      case 'binary':
        this.#binary(inst);
        return;
      case 'fma':
        this.#let(inst.result, this.#fma(inst.result.type, this.#c(inst.a), this.#c(inst.b), this.#c(inst.c)));
        return;
      case 'compare':
        this.#compare(inst);
        return;
      case 'select':
        this.#select(inst);
        return;
      case 'convert':
        this.#convert(inst);
        return;
      case 'bitcast':
        this.#bitcast(inst);
        return;
      case 'splat':
        this.#let(inst.result, this.#splat(this.#c(inst.a), inst.result.type, 32));
        return;
      case 'extract': {
        const lane = `${this.#c(inst.a)}[${inst.lane}]`;
        this.#let(inst.result, inst.result.type.scalar === 'bool' ? `${lane} != 0` : lane);
        return;
      }
      case 'build': {
        const bool = inst.result.type.scalar === 'bool';
        const lanes = inst.elements.map((element) => (bool ? `-(int32_t)${this.#c(element)}` : this.#c(element)));
        this.#let(inst.result, `(${this.#type(inst.result.type)}){${lanes.join(', ')}}`);
        return;
      }
      case 'assume':
        this.#values.set(inst.result, this.#ref(inst.a));
        return;
      case 'load':
        this.#load(inst);
        return;
      case 'store':
        this.#store(inst);
        return;
      case 'atomic':
        this.#atomic(inst);
        return;
      case 'atomic_compare_exchange': {
        const scalar = this.#atomicScalar(inst.memory);
        const place = `${this.#memory(inst.memory)} + ${this.#c(inst.index)}`;
        this.#let(
          inst.result,
          `${this.#prelude.compareExchange(scalar)}(${place}, ${this.#c(inst.expected)}, ${this.#c(inst.value)})`,
        );
        return;
      }
      case 'call': {
        const name = this.#helpers.get(inst.callee);
        if (name === undefined)
          throw new Error(`${this.kernel.name}: helper ${inst.callee.name} is called before it is defined`);
        this.#let(inst.result, `${name}(${inst.args.map((arg) => this.#as(arg, 32)).join(', ')})`);
        return;
      }
      case 'for':
        this.#for(inst);
        return;
      case 'loop':
        this.#loop(inst);
        return;
      case 'if':
        this.#if(inst);
        return;
      case 'barrier':
        return; // one invocation: its own accesses are ordered
      case 'subgroup':
        throw this.#unexpected(`subgroup ${inst.fn}`);
      default:
        inst satisfies never;
    }
  }

  #carry(carried: readonly Carried[]): void {
    for (const { initial, result } of carried) {
      this.#line(`${this.#type(result.type)} v${result.id} = ${this.#as(initial, 32)};`);
      this.#alias(result, `v${result.id}`);
    }
  }

  /** Inside the body: the values as they were at its start, which later assignments must not change. */
  #enter(carried: readonly Carried[]): void {
    for (const { inner, result } of carried) this.#let(inner, `v${result.id}`);
  }

  #next(carried: readonly Carried[], yields: readonly KValue[]): void {
    carried.forEach(({ inner, result }, i) => {
      if (yields[i] !== inner) this.#line(`v${result.id} = ${this.#as(yields[i], 32)};`);
    });
  }

  #for(inst: Inst<'for'>): void {
    this.#carry(inst.carried);
    const { scalar } = inst.index.type;
    const [lower, upper] = [this.#c(inst.lower), this.#c(inst.upper)];
    const last = rangeOf(inst.upper)?.max;
    if (inst.unroll) this.#line(`#pragma GCC unroll ${unrollCount(inst)}`);
    const counter = `i${inst.index.id}`;
    const type = cScalar(heldAs(scalar as Exclude<ScalarType, 'bool'>));
    // The counter must be able to pass the bound: widen it where the bound may be near the type's end.
    const fits = last !== undefined && last + inst.step <= 2 ** 31 - 1 && scalarBits[scalar] <= 32;
    if (fits)
      this.#line(
        `for (int32_t ${counter} = (int32_t)${lower}; ${counter} < (int32_t)${upper}; ${counter} += ${inst.step}) {`,
      );
    else if (scalarBits[scalar] < 64)
      this.#line(`for (int64_t ${counter} = ${lower}; ${counter} < (int64_t)${upper}; ${counter} += ${inst.step}) {`);
    else {
      // Steps that would pass the bound end the loop before they can overflow.
      this.#line(
        `for (${type} ${counter} = ${lower}, more = 1; more && ${counter} < ${upper}; more = (uint64_t)${upper} - (uint64_t)${counter} > ${inst.step}u, ${counter} = more ? ${counter} + ${inst.step} : ${counter}) {`,
      );
    }
    this.#indent++;
    this.#let(inst.index, `(${type})${counter}`);
    this.#enter(inst.carried);
    this.#instructions(inst.body);
    this.#next(inst.carried, inst.body.yields);
    this.#indent--;
    this.#line('}');
  }

  #loop(inst: Inst<'loop'>): void {
    this.#carry(inst.carried);
    this.#line('for (;;) {');
    this.#indent++;
    this.#enter(inst.carried);
    this.#instructions(inst.body);
    this.#next(inst.carried, inst.body.yields);
    this.#line(`if (!${this.#c(inst.condition)}) break;`);
    this.#indent--;
    this.#line('}');
  }

  #if(inst: Inst<'if'>): void {
    for (const result of inst.results) {
      this.#line(`${this.#type(result.type)} v${result.id};`);
      this.#alias(result, `v${result.id}`);
    }
    const arm = (block: KBlock) => {
      this.#indent++;
      this.#instructions(block);
      inst.results.forEach((result, i) => {
        this.#line(`v${result.id} = ${this.#as(block.yields[i], 32)};`);
      });
      this.#indent--;
    };
    this.#line(`if (${this.#c(inst.condition)}) {`);
    arm(inst.then);
    if (inst.else.instructions.length > 0 || inst.results.length > 0) {
      this.#line('} else {');
      arm(inst.else);
    }
    this.#line('}');
  }

  // --- memory ----------------------------------------------------------------------------------------------------

  #load(inst: Inst<'load'>): void {
    const { scalar, lanes } = inst.result.type;
    const stored = storedAs(scalar);
    const [memory, index] = [this.#memory(inst.memory), this.#c(inst.index)];
    if (lanes === 1) {
      const element = `${memory}[${index}]`;
      if (scalar === 'bool') this.#let(inst.result, `${element} != 0`);
      else this.#let(inst.result, isHalf(scalar) ? `${this.#prelude.unpack(scalar, 1)}(${element})` : element);
      return;
    }
    const vector = `*(const ${this.#prelude.memoryType(stored, lanes, inst.aligned)} *)(${memory} + ${index})`;
    if (scalar === 'bool') this.#let(inst.result, `${vector} != 0`, 8);
    else this.#let(inst.result, isHalf(scalar) ? `${this.#prelude.unpack(scalar, lanes)}(${vector})` : vector);
  }

  #store(inst: Inst<'store'>): void {
    const { scalar, lanes } = inst.value.type;
    const stored = storedAs(scalar);
    const [memory, index] = [this.#memory(inst.memory), this.#c(inst.index)];
    let value = this.#c(inst.value);
    if (isHalf(scalar)) value = `${this.#prelude.pack(scalar, lanes)}(${value})`;
    if (scalar === 'bool' && lanes > 1) value = `(${this.#prelude.type('u8', lanes)})(${this.#as(inst.value, 8)} & 1)`;
    if (lanes === 1) this.#line(`${memory}[${index}] = ${value};`);
    else this.#line(`*(${this.#prelude.memoryType(stored, lanes, inst.aligned)} *)(${memory} + ${index}) = ${value};`);
  }

  #atomicScalar(memory: KMemory): 'i32' | 'u32' | 'i64' | 'u64' | 'f32' | 'f64' {
    const { scalar } = memory;
    if (
      scalar === 'i32' ||
      scalar === 'u32' ||
      scalar === 'i64' ||
      scalar === 'u64' ||
      scalar === 'f32' ||
      scalar === 'f64'
    )
      return scalar;
    throw this.#unexpected(`atomic on ${scalar}`);
  }

  #atomic(inst: Inst<'atomic'>): void {
    const scalar = this.#atomicScalar(inst.memory);
    const place = `${this.#memory(inst.memory)} + ${this.#c(inst.index)}`;
    const value = this.#c(inst.value);
    const { fn } = inst;
    if (isFloatScalar(scalar) || fn === 'min' || fn === 'max') {
      if (fn === 'and' || fn === 'or' || fn === 'xor') throw this.#unexpected(`atomic ${fn} on ${scalar}`);
      const next =
        fn === 'add' ? 'old + a' : fn === 'exchange' ? 'a' : `${this.#prelude.minMax(fn, scalar, 1)}(old, a)`;
      this.#let(inst.result, `${this.#prelude.atomic(fn, scalar, next)}(${place}, ${value})`);
      return;
    }
    const builtin = fn === 'exchange' ? '__atomic_exchange_n' : `__atomic_fetch_${fn}`;
    this.#let(inst.result, `${builtin}(${place}, ${value}, __ATOMIC_RELAXED)`);
  }

  // --- arithmetic ------------------------------------------------------------------------------------------------

  #unary(inst: Inst<'unary'>): void {
    const { fn } = inst;
    if (isMathFn(fn)) throw this.#unexpected(`${fn} (expandMath comes before rendering)`);
    const { scalar, lanes } = inst.result.type;
    const a = this.#c(inst.a);
    const { maskBits } = this.#ref(inst.a);
    if (scalar === 'bool') {
      if (fn !== 'not') throw this.#unexpected(`${fn} on bool`);
      this.#let(inst.result, lanes === 1 ? `!${a}` : `~${a}`, maskBits);
      return;
    }
    const held = heldAs(scalar);
    const type = this.#prelude.type(held, lanes);
    const unsigned = this.#prelude.type(unsignedOf(held), lanes);
    const float = held === 'f32' || held === 'f64';
    switch (fn) {
      case 'neg':
        this.#let(inst.result, float ? `-${paren(a)}` : `(${type})(0 - (${unsigned})${a})`);
        return;
      case 'abs':
        if (float) {
          if (lanes === 1) this.#let(inst.result, `__builtin_fabs${held === 'f32' ? 'f' : ''}(${a})`);
          else
            this.#let(
              inst.result,
              `(${type})((${unsigned})${a} & ${held === 'f32' ? '0x7fffffffu' : '0x7fffffffffffffffu'})`,
            );
        } else if (!isSignedScalar(scalar)) this.#alias(inst.result, a);
        else if (lanes === 1) this.#let(inst.result, `${a} < 0 ? (${type})(0 - (${unsigned})${a}) : ${a}`);
        else
          this.#let(
            inst.result,
            `${this.#prelude.select(held, lanes)}(${a} < 0, (${type})(0 - (${unsigned})${a}), ${a})`,
          );
        return;
      case 'not':
        this.#let(inst.result, `(${type})~${a}`);
        return;
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
      case 'sqrt': {
        if (!float) throw this.#unexpected(`${fn} on ${scalar}`);
        const value = `${this.#prelude.unary(fn, held, lanes)}(${a})`;
        this.#let(inst.result, fn === 'sqrt' ? this.#rounded(value, scalar, lanes) : value);
        return;
      }
      case 'popcount':
      case 'clz': {
        const callee = this.#prelude.bitCount(fn, held);
        this.#let(inst.result, `${lanes === 1 ? callee : this.#prelude.lanewise(callee, held, [held], lanes)}(${a})`);
        return;
      }
      default:
        fn satisfies never;
    }
  }

  #binary(inst: Inst<'binary'>): void {
    const { fn, a, b, result } = inst;
    if (isMathFn(fn)) throw this.#unexpected(`${fn} (expandMath comes before rendering)`);
    const { scalar } = result.type;
    if (scalar === 'bool') this.#boolBinary(inst, fn as BinaryFn);
    else if (isFloatScalar(scalar)) this.#floatBinary(inst, fn as BinaryFn, scalar as 'f16' | 'bf16' | 'f32' | 'f64');
    else this.#let(result, this.#integerBinary(fn as BinaryFn, a, b, result));
  }

  #boolBinary(inst: Inst<'binary'>, fn: BinaryFn): void {
    const operators: Partial<Record<BinaryFn, string>> = { and: '&', or: '|', xor: '^', min: '&', max: '|' };
    const operator = operators[fn];
    if (operator === undefined) throw this.#unexpected(`${fn} on bool`);
    const { maskBits } = this.#ref(inst.a);
    const text = `${this.#c(inst.a)} ${operator} ${this.#as(inst.b, maskBits)}`;
    this.#let(inst.result, text, maskBits);
  }

  #floatBinary(inst: Inst<'binary'>, fn: BinaryFn, scalar: 'f16' | 'bf16' | 'f32' | 'f64'): void {
    const { a, b, result } = inst;
    const { lanes } = result.type;
    const held = heldAs(scalar) as 'f32' | 'f64';
    const [x, y] = [this.#c(a), this.#c(b)];
    switch (fn) {
      case 'add':
      case 'sub':
        this.#let(
          result,
          this.#contracted(inst) ?? this.#rounded(`${x} ${fn === 'add' ? '+' : '-'} ${y}`, scalar, lanes),
        );
        return;
      case 'mul':
      case 'div': {
        const operator = fn === 'mul' ? '*' : '/';
        if (scalar === 'bf16') {
          const callee = this.#prelude.halfThroughDouble(scalar, fn, operator);
          this.#let(
            result,
            `${lanes === 1 ? callee : this.#prelude.lanewise(callee, 'f32', ['f32', 'f32'], lanes)}(${x}, ${y})`,
          );
          return;
        }
        if (fn === 'mul' && inst.fast) this.#fastProducts.set(result, inst);
        this.#let(result, this.#rounded(`${x} ${operator} ${y}`, scalar, lanes));
        return;
      }
      case 'rem': {
        const callee = held === 'f32' ? '__builtin_fmodf' : '__builtin_fmod';
        this.#let(
          result,
          `${lanes === 1 ? callee : this.#prelude.lanewise(callee, held, [held, held], lanes)}(${x}, ${y})`,
        );
        return;
      }
      case 'min':
      case 'max':
        this.#let(result, this.#floatMinMax(fn, held, lanes, a, b));
        return;
      case 'and':
      case 'or':
      case 'xor':
      case 'shl':
      case 'shr':
      case 'mulhi':
        throw this.#unexpected(`${fn} on ${scalar}`);
      default:
        fn satisfies never;
    }
  }

  /** Against a constant one comparison is enough: it sends NaN to the operand, and zeros to the right sign. */
  #floatMinMax(fn: 'min' | 'max', held: 'f32' | 'f64', lanes: Lanes, a: KValue, b: KValue): string {
    const constants = this.#floatConstants;
    const [value, other] = constants.has(a) ? [b, a] : [a, b];
    const constant = constants.get(other);
    const winsTies = fn === 'max' ? Object.is(constant, 0) : Object.is(constant, -0);
    // Against a zero that loses to the other zero, compilers have been seen to lose the sign (clang 14).
    if (constant === undefined || Number.isNaN(constant) || (constant === 0 && !winsTies)) {
      return `${this.#prelude.minMax(fn, held, lanes)}(${this.#c(a)}, ${this.#c(b)})`;
    }
    const comparison = `${fn === 'max' ? '<' : '>'}${winsTies ? '=' : ''}`;
    const [x, c] = [this.#c(value), this.#c(other)];
    if (lanes === 1) return `${x} ${comparison} ${c} ? ${c} : ${x}`;
    return `${this.#prelude.select(held, lanes)}(${x} ${comparison} ${c}, ${c}, ${x})`;
  }

  /** a * b + c with one rounding, where both ops are `fast`, the product has no other use and the CPU fuses. */
  #contracted(inst: Inst<'binary'>): string | undefined {
    const { scalar, lanes } = inst.result.type;
    if (!inst.fast || !this.target.features.has('fma') || (scalar !== 'f32' && scalar !== 'f64')) return undefined;
    const single = (value: KValue) => (this.#uses.get(value) === 1 ? this.#fastProducts.get(value) : undefined);
    const fma = this.#prelude.fma(scalar, lanes);
    const [left, right] = [single(inst.a), single(inst.b)];
    const negate = (sign: boolean, text: string) => (sign ? `-${paren(text)}` : text);
    const subtract = inst.fn === 'sub';
    if (right) return `${fma}(${negate(subtract, this.#c(right.a))}, ${this.#c(right.b)}, ${this.#c(inst.a)})`;
    if (left) return `${fma}(${this.#c(left.a)}, ${this.#c(left.b)}, ${negate(subtract, this.#c(inst.b))})`;
    return undefined;
  }

  #integerBinary(fn: BinaryFn, a: KValue, b: KValue, result: KValue): string {
    const { scalar, lanes } = result.type;
    const held = heldAs(scalar as Exclude<ScalarType, 'bool'>);
    const type = this.#prelude.type(held, lanes);
    // C computes what is narrower than int in int: go through a type whose wrapping is defined.
    const wide = lanes === 1 && scalarBits[scalar] < 32 ? 'u32' : unsignedOf(held);
    const unsigned = this.#prelude.type(wide, lanes);
    const [x, y] = [this.#c(a), this.#c(b)];
    switch (fn) {
      case 'add':
      case 'sub':
      case 'mul': {
        const operator = { add: '+', sub: '-', mul: '*' }[fn];
        if (lanes === 1 && isSignedScalar(scalar) && staysInside(fn, a, b, result)) {
          return scalarBits[scalar] < 32 ? `(${type})(${x} ${operator} ${y})` : `${x} ${operator} ${y}`;
        }
        return `(${type})((${unsigned})${x} ${operator} (${unsigned})${y})`;
      }
      case 'div':
      case 'rem': {
        const operator = fn === 'div' ? '/' : '%';
        const positive = (value: KValue) => (rangeOf(value)?.min ?? -1) >= 0;
        if (isSignedScalar(scalar) && positive(a) && positive(b))
          return `(${type})((${unsigned})${x} ${operator} (${unsigned})${y})`;
        return `(${type})(${x} ${operator} ${y})`;
      }
      case 'min':
      case 'max':
        return `${this.#prelude.minMax(fn, held, lanes)}(${x}, ${y})`;
      case 'and':
        return `(${type})(${x} & ${y})`;
      case 'or':
        return `(${type})(${x} | ${y})`;
      case 'xor':
        return `(${type})(${x} ^ ${y})`;
      case 'shl':
        return `(${type})((${unsigned})${x} << ${lanes === 1 ? y : `(${unsigned})${y}`})`;
      case 'shr':
        return `(${type})(${x} >> ${y})`;
      case 'mulhi': {
        const callee = this.#prelude.mulHigh(held);
        return `${lanes === 1 ? callee : this.#prelude.lanewise(callee, held, [held, held], lanes)}(${x}, ${y})`;
      }
      default:
        return fn satisfies never;
    }
  }

  #fma(type: KType, a: string, b: string, c: string): string {
    const { scalar, lanes } = type;
    if (scalar === 'f32' || scalar === 'f64') return `${this.#prelude.fma(scalar, lanes)}(${a}, ${b}, ${c})`;
    if (!isHalf(scalar)) throw this.#unexpected(`fma on ${scalar}`);
    const callee = this.#prelude.halfFma(scalar);
    return `${lanes === 1 ? callee : this.#prelude.lanewise(callee, 'f32', ['f32', 'f32', 'f32'], lanes)}(${a}, ${b}, ${c})`;
  }

  #compare(inst: Inst<'compare'>): void {
    const { scalar, lanes } = inst.a.type;
    if (scalar === 'bool' && lanes > 1) {
      const { maskBits } = this.#ref(inst.a);
      this.#let(inst.result, boolCompare[inst.fn](this.#c(inst.a), this.#as(inst.b, maskBits)), maskBits);
      return;
    }
    const operator = { eq: '==', ne: '!=', lt: '<', le: '<=', gt: '>', ge: '>=' }[inst.fn];
    const bits = scalar === 'bool' ? 32 : (scalarBits[heldAs(scalar)] as MaskBits);
    this.#let(inst.result, `${this.#c(inst.a)} ${operator} ${this.#c(inst.b)}`, bits);
  }

  #select(inst: Inst<'select'>): void {
    const { scalar, lanes } = inst.result.type;
    if (scalar === 'bool' && lanes > 1) {
      const { maskBits } = this.#ref(inst.a);
      const [a, b] = [this.#c(inst.a), this.#as(inst.b, maskBits)];
      if (inst.condition.type.lanes === 1) this.#let(inst.result, `${this.#c(inst.condition)} ? ${a} : ${b}`, maskBits);
      else {
        const mask = this.#as(inst.condition, maskBits);
        this.#let(inst.result, `${mask} & ${a} | ~${mask} & ${b}`, maskBits);
      }
      return;
    }
    const [a, b] = [this.#c(inst.a), this.#c(inst.b)];
    if (inst.condition.type.lanes === 1) {
      this.#let(inst.result, `${this.#c(inst.condition)} ? ${a} : ${b}`);
      return;
    }
    const held = heldAs(scalar as Exclude<ScalarType, 'bool'>);
    const mask = this.#as(inst.condition, scalarBits[held] as MaskBits);
    this.#let(inst.result, `${this.#prelude.select(held, lanes)}(${mask}, ${a}, ${b})`);
  }

  // --- conversions -----------------------------------------------------------------------------------------------

  #convert(inst: Inst<'convert'>): void {
    const { lanes } = inst.result.type;
    const [from, to] = [inst.a.type.scalar, inst.result.type.scalar];
    const a = this.#c(inst.a);
    if (from === to) {
      this.#values.set(inst.result, this.#ref(inst.a));
      return;
    }
    if (to === 'bool') {
      this.#let(inst.result, `${a} != 0`, scalarBits[heldAs(from as Exclude<ScalarType, 'bool'>)] as MaskBits);
      return;
    }
    const held = heldAs(to);
    const type = this.#prelude.type(held, lanes);
    if (from === 'bool') {
      if (lanes === 1) this.#let(inst.result, `(${type})${a}`);
      else {
        const mask = this.#as(inst.a, scalarBits[held] as MaskBits);
        if (held === 'f32' || held === 'f64')
          this.#let(inst.result, `(${type})(${mask} & ${held === 'f32' ? '0x3f800000' : '0x3ff0000000000000'})`);
        else this.#let(inst.result, `(${type})(${mask} & 1)`);
      }
      return;
    }
    this.#let(inst.result, this.#numericConvert(a, from, to, lanes));
  }

  #numericConvert(a: string, from: Exclude<ScalarType, 'bool'>, to: Exclude<ScalarType, 'bool'>, lanes: Lanes): string {
    const [source, target] = [heldAs(from), heldAs(to)];
    const cast = (text: string, type: typeof target) =>
      lanes === 1
        ? `(${cScalar(type)})${paren(text)}`
        : `__builtin_convertvector(${text}, ${this.#prelude.type(type, lanes)})`;
    if (source === 'f32' || source === 'f64') {
      if (target !== 'f32' && target !== 'f64') return `${this.#prelude.saturate(source, target, lanes)}(${a})`;
      if (!isHalf(to)) return source === target ? a : cast(a, target);
      if (source === 'f32') return this.#rounded(a, to, lanes);
      const callee = this.#prelude.roundDouble(to);
      return `${lanes === 1 ? callee : this.#prelude.lanewise(callee, 'f32', ['f64'], lanes)}(${a})`;
    }
    if (!isHalf(to)) return cast(a, target);
    if (scalarBits[from] <= 16) return this.#rounded(cast(a, 'f32'), to, lanes);
    // One rounding in all: to double without loss of what decides, then to the half.
    let wide = scalarBits[from] === 32 ? cast(a, 'f64') : '';
    if (source === 'i64' || source === 'u64') {
      const sticky = this.#prelude.stickyDouble(source);
      wide = `${lanes === 1 ? sticky : this.#prelude.lanewise(sticky, 'f64', [source], lanes)}(${a})`;
    }
    const callee = this.#prelude.roundDouble(to);
    return `${lanes === 1 ? callee : this.#prelude.lanewise(callee, 'f32', ['f64'], lanes)}(${wide})`;
  }

  #bitcast(inst: Inst<'bitcast'>): void {
    const [from, to] = [inst.a.type, inst.result.type];
    if (from.scalar === 'bool' || to.scalar === 'bool') throw this.#unexpected('bitcast of bool');
    let text = this.#c(inst.a);
    if (isHalf(from.scalar)) text = `${this.#prelude.pack(from.scalar, from.lanes)}(${text})`;
    const [source, target] = [storedAs(from.scalar), storedAs(to.scalar)];
    if (source !== target || from.lanes !== to.lanes)
      text = `${this.#prelude.bitcast(source, from.lanes, target, to.lanes)}(${text})`;
    if (isHalf(to.scalar)) text = `${this.#prelude.unpack(to.scalar, to.lanes)}(${text})`;
    this.#let(inst.result, text);
  }

  // --- values ----------------------------------------------------------------------------------------------------

  #type(type: KType, maskBits: MaskBits = 32): string {
    if (type.scalar !== 'bool') return this.#prelude.type(heldAs(type.scalar), type.lanes);
    return type.lanes === 1 ? 'bool' : this.#prelude.type(signedOf(maskBits), type.lanes);
  }

  #ref(value: KValue): Ref {
    const ref = this.#values.get(value);
    if (ref === undefined) throw new Error(`${this.kernel.name}: %${value.id} is used before it is defined`);
    return ref;
  }

  #c(value: KValue): string {
    return this.#ref(value).c;
  }

  /** The value with masks of the given width. */
  #as(value: KValue, maskBits: MaskBits): string {
    const ref = this.#ref(value);
    if (value.type.scalar !== 'bool' || value.type.lanes === 1 || ref.maskBits === maskBits) return ref.c;
    return `__builtin_convertvector(${ref.c}, ${this.#prelude.maskType(maskBits, value.type.lanes)})`;
  }

  #memory(memory: KMemory): string {
    const name = this.#memories.get(memory);
    if (name === undefined)
      throw new Error(`${this.kernel.name}: ${memory.name} is not a parameter or array of the kernel`);
    return name;
  }

  #splat(text: string, type: KType, maskBits: MaskBits): string {
    if (type.scalar === 'bool') return `${this.#prelude.splat(signedOf(maskBits), type.lanes)}(-(int32_t)${text})`;
    return `${this.#prelude.splat(heldAs(type.scalar), type.lanes)}(${text})`;
  }

  #rounded(text: string, scalar: ScalarType, lanes: Lanes): string {
    return isHalf(scalar) ? `${this.#prelude.round(scalar, lanes)}(${text})` : text;
  }

  #unexpected(what: string): Error {
    return new Error(`${this.kernel.name}: the cpu renderer was given ${what}`);
  }
}

const boolCompare: Readonly<Record<CompareFn, (a: string, b: string) => string>> = {
  eq: (a, b) => `~(${a} ^ ${b})`,
  ne: (a, b) => `${a} ^ ${b}`,
  lt: (a, b) => `~${a} & ${b}`,
  le: (a, b) => `~${a} | ${b}`,
  gt: (a, b) => `${a} & ~${b}`,
  ge: (a, b) => `${a} | ~${b}`,
};

const paren = (text: string): string => (/^\w+$/.test(text) ? text : `(${text})`);
const commentText = (text: string): string => text.replaceAll('*/', '* /').replaceAll(/[\r\n]/g, ' ');
const arrayBytes = (array: KArray): number => (array.length * scalarBits[array.scalar]) / 8;
