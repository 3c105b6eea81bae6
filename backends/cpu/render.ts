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
import { isEngineInst } from '../../compiler/kernel/engines.js';
import { scaleHelper } from '../../compiler/kernel/math/calc.js';
import type { HelperFunction, KArray, KBlock, KernelFunction, KInst, ScalarType } from '../../compiler/kernel/types.js';
import type { KernelCode, Target } from '../backend.js';
import { forHeader, unrollCount } from '../common/c_family.js';
import { arrayBytes, type Frame, frameOf, kernelCode } from '../common/frame.js';
import { commentText, type Syntax, writeFor, writeIf, writeLoop } from '../common/structured.js';
import { binary, compare, fma, select, unary } from './arithmetic.js';
import { Branches, keptBranch } from './branches.js';
import { build } from './build.js';
import { bitcast, convert } from './convert.js';
import { preferring, scale } from './hardware.js';
import { contentHash } from './hash.js';
import { cLiteral } from './literal.js';
import { atomic, compareExchange, load, store } from './memory.js';
import * as bytes from './prelude/bytes.js';
import { type CScalar, cScalar, heldAs, storedAs } from './prelude/types.js';
import * as vectors from './prelude/vectors.js';
import { type Inst, Scope } from './scope.js';

/** Stands for the content hash until the text is known. */
const ID = '@ID@';
/** Private arrays above this go to scratch: stacks of pool threads are small. */
const STACK_BYTES = 16 * 1024;

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

/** Parameters of `run` and what the entry point passes for them, in order. */
interface Signature {
  readonly params: readonly string[];
  readonly args: readonly string[];
  /** Declarations of arrays on the stack. */
  readonly locals: readonly string[];
  readonly scratchBytes: number;
}

class KernelRenderer {
  readonly #kernel: KernelFunction;
  readonly #frame: Frame;
  readonly #scope: Scope;
  readonly #syntax: Syntax;
  /** The syntax of branches that the compiler must not convert. */
  readonly #kept: Syntax;
  readonly #branches: Branches;

  constructor(kernel: KernelFunction, target: Target) {
    this.#kernel = kernel;
    this.#frame = frameOf(kernel);
    this.#branches = new Branches(kernel);
    const scope = new Scope(kernel, target);
    this.#scope = scope;
    this.#syntax = {
      endless: 'for (;;) {',
      breakUnless: (condition) => `if (!${scope.c(condition)}) break;`,
      declare: (result, initial) => {
        const name = `v${result.id}`;
        scope.line(`${scope.type(result.type)} ${name}${initial === undefined ? '' : ` = ${scope.as(initial, 32)}`};`);
        return name;
      },
      assign: (variable, value) => scope.line(`${variable} = ${scope.as(value, 32)};`),
      snapshot: (inner, variable) => scope.let(inner, variable),
      settle: (result, variable) => scope.alias(result, variable),
      condition: (value) => scope.c(value),
      block: (block) => this.#block(block),
    };
    this.#kept = {
      ...this.#syntax,
      block: (block) => {
        scope.line(keptBranch);
        this.#block(block);
      },
    };
  }

  render(): KernelCode {
    const helpers = this.#kernel.helpers.map((helper) => this.#helper(helper));
    const signature = this.#signature();
    this.#scope.lines.take(3);
    this.#block(this.#kernel.body);
    const body = [...signature.locals.map((line) => `      ${line}`), ...this.#scope.lines.take()];
    const text = this.#text(helpers, signature, body);
    const entry = `tutti_k_${contentHash(text)}`;
    return {
      ...kernelCode(this.#kernel, this.#frame, entry, signature.scratchBytes),
      text: text.replaceAll(ID, entry),
    };
  }

  /** Names every parameter and array. */
  #signature(): Signature {
    const { names } = this.#scope;
    const params: string[] = [];
    const args: string[] = [];
    const locals: string[] = [];
    this.#frame.scalars.forEach((scalar, i) => {
      names.setScalar(scalar, String(i));
    });
    this.#frame.buffers.forEach((buffer, i) => {
      const constant = buffer.access === 'read' ? 'const ' : '';
      params.push(`${constant}${cScalar(storedAs(buffer.scalar))} *restrict b${i}`);
      args.push(`buffers[${i}]`);
      names.setMemory(buffer, `b${i}`);
    });
    let scratchBytes = 0;
    this.#kernel.arrays.forEach((array, i) => {
      const type = cScalar(storedAs(array.scalar));
      const bytes = bytesOf(array);
      names.setMemory(array, `a${i}`);
      if (array.space === 'private' && bytes <= STACK_BYTES) {
        locals.push(`_Alignas(64) ${type} a${i}[${Math.max(1, array.length)}];`);
        return;
      }
      params.push(`${type} *restrict a${i}`);
      args.push(`(${type} *)(scratch + ${scratchBytes})`);
      scratchBytes += Math.ceil(bytes / 64) * 64;
    });
    return { params, args, locals, scratchBytes };
  }

  #text(helpers: readonly string[], signature: Signature, body: readonly string[]): string {
    const { name, sources } = this.#kernel;
    const params = [
      ...signature.params,
      'const uint32_t *restrict scalars',
      'const uint32_t *restrict grid',
      'const uint64_t first',
      'const uint64_t last',
    ];
    const from = sources.length > 0 ? ` from ${sources.join(', ')}` : '';
    return [
      `/* ${commentText(name + from)} */`,
      this.#scope.prelude.text() + helpers.join('\n'),
      `static __attribute__((noinline)) void run_${ID}(${params.join(', ')}) {`,
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
      `  run_${ID}(${[...signature.args, 'scalars', 'grid', 'first', 'last'].join(', ')});`,
      '}',
      '',
    ].join('\n');
  }

  #helper(helper: HelperFunction): string {
    const scope = this.#scope;
    const name = `h${this.#kernel.helpers.indexOf(helper)}_${ID}`;
    scope.names.setHelper(helper, name);
    const params = helper.params.map((param) => {
      scope.alias(param, `v${param.id}`);
      return `const ${scope.type(param.type)} v${param.id}`;
    });
    scope.lines.take();
    this.#block(helper.body);
    const result = scope.as(helper.body.yields[0], 32);
    const body = [...scope.lines.take(), `  return ${result};`].join('\n');
    const [x, n] = helper.params.map((param) => `v${param.id}`);
    const { scalar, lanes } = helper.result;
    const special = helper.name.startsWith(scaleHelper) ? scale(scalar, lanes, x, n) : undefined;
    return [
      `TUTTI_INLINE ${scope.type(helper.result)} ${name}(${params.join(', ')}) { /* ${commentText(helper.name)} */`,
      preferring(special, body),
      '}',
      '',
    ].join('\n');
  }

  #block(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  #instruction(inst: KInst) {
    const scope = this.#scope;
    if (isEngineInst(inst)) throw scope.unexpected(inst.op);
    switch (inst.op) {
      case 'const': {
        const literal = cLiteral(inst.value, inst.result.type.scalar);
        if (inst.result.type.lanes === 1) scope.alias(inst.result, literal);
        else scope.let(inst.result, scope.splat(literal, inst.result.type, 32));
        return;
      }
      case 'scalar': {
        const word = `scalars[${scope.names.scalar(inst.param)}]`;
        const { scalar } = inst.param;
        const value =
          scalar === 'f32'
            ? `${vectors.bitcast(scope.prelude, 'u32', 1, 'f32', 1)}(${word})`
            : `(${cScalar(scalar)})${word}`;
        scope.let(inst.result, value);
        return;
      }
      case 'builtin':
        if (inst.builtin === 'workgroup_id')
          scope.let(inst.result, `(${scope.type(inst.result.type)})${['wx', 'wy', 'wz'][inst.dim]}`);
        else if (inst.builtin === 'local_id') scope.alias(inst.result, '0');
        else throw scope.unexpected(inst.builtin);
        return;
      case 'unary':
        return unary(scope, inst);
      case 'binary':
        return binary(scope, inst);
      case 'fma':
        return scope.let(inst.result, fma(scope, inst.result.type, scope.c(inst.a), scope.c(inst.b), scope.c(inst.c)));
      case 'dot4': {
        const callee = bytes.dot4(scope.prelude, inst.left, inst.right, inst.result.type.lanes);
        return scope.let(inst.result, `${callee}(${scope.c(inst.a)}, ${scope.c(inst.b)}, ${scope.c(inst.c)})`);
      }
      case 'compare':
        return compare(scope, inst);
      case 'select':
        return select(scope, inst);
      case 'convert':
        return convert(scope, inst);
      case 'bitcast':
        return bitcast(scope, inst);
      case 'splat':
        scope.let(inst.result, scope.splat(scope.c(inst.a), inst.result.type, 32));
        return;
      case 'extract': {
        const lane = `${scope.c(inst.a)}[${inst.lane}]`;
        if (inst.result.type.scalar === 'bool') scope.let(inst.result, `${lane} != 0`);
        else {
          scope.alias(inst.result, lane);
          scope.extracts.set(inst.result, inst);
        }
        return;
      }
      case 'build':
        return build(scope, inst);
      case 'assume':
        scope.names.setValue(inst.result, scope.ref(inst.a));
        return;
      case 'load':
        return load(scope, inst);
      case 'store':
        return store(scope, inst);
      case 'atomic':
        return atomic(scope, inst);
      case 'atomic_compare_exchange':
        return compareExchange(scope, inst);
      case 'call': {
        const name = scope.names.helper(inst.callee);
        scope.let(inst.result, `${name}(${inst.args.map((arg) => scope.as(arg, 32)).join(', ')})`);
        return;
      }
      case 'for':
        return this.#for(inst);
      case 'loop':
        return writeLoop(scope.lines, this.#syntax, inst);
      case 'if':
        return writeIf(scope.lines, this.#branches.mustStay(inst) ? this.#kept : this.#syntax, inst);
      case 'barrier':
        return; // one invocation: its own accesses are ordered
      case 'subgroup':
        throw scope.unexpected(`subgroup ${inst.fn}`);
      default:
        inst satisfies never;
    }
  }

  #for(inst: Inst<'for'>): void {
    const scope = this.#scope;
    const { scalar } = inst.index.type;
    const counter = `i${inst.index.id}`;
    const type = cScalar(heldAs(scalar as Exclude<ScalarType, 'bool'>));
    const header = (): string => {
      const [lower, upper] = [scope.c(inst.lower), scope.c(inst.upper)];
      if (inst.unroll) scope.line(`#pragma GCC unroll ${unrollCount(inst)}`);
      return forHeader(inst, counter, lower, upper, (integer) => cScalar(integer as CScalar));
    };
    writeFor(scope.lines, this.#syntax, inst, header, () => scope.let(inst.index, `(${type})${counter}`));
  }
}

const bytesOf = (array: KArray): number => arrayBytes([array], ({ scalar }) => scalar);
