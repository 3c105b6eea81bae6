/**
 * Compiles blocks and control flow to closures.
 *
 * Stretches without barriers and subgroup ops run invocation by invocation; around them, control flow keeps the set of
 * invocations that take it, so a barrier that not all reach is found.
 */
import { isEngineInst } from '../engines.js';
import { isBig } from '../semantics.js';
import { isIntScalar, type KBlock, type KInst, type KMemory } from '../types.js';
import * as arithmetic from './arithmetic.js';
import { atOnce } from './bulk.js';
import type { Engines } from './engines.js';
import { type Code, type Frame, type Op, sequence } from './frame.js';
import { access, type Memory } from './memory.js';
import { subgroup } from './subgroup.js';

type Inst<Name extends KInst['op']> = KInst & { readonly op: Name };

export interface Checks {
  readonly bounds: boolean;
  readonly ranges: boolean;
}

/** Whether invocations have to meet in the block. */
export function hasSync(block: KBlock): boolean {
  return block.instructions.some((inst) => {
    if (isEngineInst(inst)) return true;
    switch (inst.op) {
      case 'barrier':
      case 'subgroup':
        return true;
      case 'for':
      case 'loop':
        return hasSync(inst.body);
      case 'if':
        return hasSync(inst.then) || hasSync(inst.else);
      default:
        return false;
    }
  });
}

/** Code of an op that a set of invocations executes at once, without waiting. */
const together = (run: (active: readonly number[]) => void): Code => ({ sync: true, run: atOnce(run) });

export class BlockCompiler {
  readonly #frame: Frame;
  readonly #memories: ReadonlyMap<KMemory, Memory>;
  readonly #engines: Engines;
  readonly #checks: Checks;

  constructor(frame: Frame, memories: ReadonlyMap<KMemory, Memory>, engines: Engines, checks: Checks) {
    this.#frame = frame;
    this.#memories = memories;
    this.#engines = engines;
    this.#checks = checks;
  }

  block(block: KBlock): Code {
    const parts: Code[] = [];
    let plain: Op[] = [];
    const flush = (): void => {
      if (plain.length > 0) parts.push({ sync: false, run: sequence(plain) });
      plain = [];
    };
    for (const inst of block.instructions) {
      const code = this.#instruction(inst);
      if (code === undefined) continue;
      if (code.sync) {
        flush();
        parts.push(code);
      } else {
        plain.push(this.#checks.ranges ? this.#checkRange(inst, code.run) : code.run);
      }
    }
    flush();
    if (parts.length === 0) return { sync: false, run: () => {} };
    if (parts.length === 1) return parts[0];
    return {
      sync: true,
      run: function* (active) {
        for (const part of parts) {
          if (part.sync) yield* part.run(active);
          else for (const base of active) part.run(base);
        }
      },
    };
  }

  #instruction(inst: KInst): Code | undefined {
    const plain = (run: Op): Code => ({ sync: false, run });
    if (isEngineInst(inst)) return { sync: true, run: this.#engines.op(inst) };
    switch (inst.op) {
      case 'const':
      case 'scalar':
      case 'builtin':
        return undefined;
      case 'unary':
        return plain(arithmetic.unary(this.#frame, inst));
      case 'binary':
        return plain(arithmetic.binary(this.#frame, inst));
      case 'fma':
        return plain(arithmetic.fma(this.#frame, inst));
      case 'dot4':
        return plain(arithmetic.dot4(this.#frame, inst));
      case 'compare':
        return plain(arithmetic.compare(this.#frame, inst));
      case 'select':
        return plain(arithmetic.select(this.#frame, inst));
      case 'convert':
        return plain(arithmetic.convert(this.#frame, inst));
      case 'bitcast':
        return plain(arithmetic.bitcast(this.#frame, inst));
      case 'splat':
        return plain(arithmetic.splat(this.#frame, inst));
      case 'extract':
        return plain(arithmetic.extract(this.#frame, inst));
      case 'build':
        return plain(arithmetic.build(this.#frame, inst));
      case 'assume':
        return plain(arithmetic.assume(this.#frame, inst));
      case 'load':
      case 'store':
      case 'atomic':
      case 'atomic_compare_exchange':
        return plain(access(this.#frame, this.#memories, inst, this.#checks.bounds));
      case 'subgroup':
        return together(subgroup(this.#frame, inst));
      case 'call':
        return plain(this.#call(inst));
      case 'for':
        return this.#for(inst);
      case 'loop':
        return this.#loop(inst);
      case 'if':
        return this.#if(inst);
      case 'barrier':
        return together((active) => {
          if (active.length !== this.#frame.count) {
            throw new Error(
              `kernel ${this.#frame.kernel.name}: barrier reached by ${active.length} of ${this.#frame.count} invocations`,
            );
          }
          this.#frame.epoch++;
        });
      default:
        return inst satisfies never;
    }
  }

  #for(inst: Inst<'for'>): Code {
    const index = this.#frame.slot(inst.index);
    const [lower, upper] = [this.#frame.slot(inst.lower), this.#frame.slot(inst.upper)];
    const enter = this.#frame.moves(inst.carried.map(({ initial, inner }) => [initial, inner]));
    const next = this.#frame.moves(inst.carried.map(({ inner }, k) => [inst.body.yields[k], inner]));
    const leave = this.#frame.moves(inst.carried.map(({ inner, result }) => [inner, result]));
    const start = this.#frame.move(inst.index, lower, index, 1);
    const { below, advance } = this.#counter(inst, index, upper);
    const body = this.block(inst.body);
    if (!body.sync) {
      return {
        sync: false,
        run: (base) => {
          enter(base);
          start(base);
          if (below(base)) {
            do {
              body.run(base);
              next(base);
            } while (advance(base));
          }
          leave(base);
        },
      };
    }
    return {
      sync: true,
      run: function* (active) {
        for (const base of active) {
          enter(base);
          start(base);
        }
        let running = active.filter(below);
        while (running.length > 0) {
          yield* body.run(running);
          for (const base of running) next(base);
          running = running.filter(advance);
        }
        for (const base of active) leave(base);
      },
    };
  }

  /** `advance` steps the index and says whether it is still below the bound. It may step past the type's largest value. */
  #counter(
    { index: { type }, step }: Inst<'for'>,
    index: number,
    upper: number,
  ): { readonly below: (base: number) => boolean; readonly advance: (base: number) => boolean } {
    const { f, i, u } = this.#frame.registers;
    if (!isBig(type.scalar)) {
      return {
        below: (base) => f[base + index] < f[base + upper],
        advance: (base) => {
          f[base + index] += step;
          return f[base + index] < f[base + upper];
        },
      };
    }
    const bits = type.scalar === 'i64' ? i : u;
    const bigStep = BigInt(step);
    return {
      below: (base) => bits[base + index] < bits[base + upper],
      advance: (base) => {
        const next = bits[base + index] + bigStep;
        bits[base + index] = next;
        return next < bits[base + upper];
      },
    };
  }

  #loop(inst: Inst<'loop'>): Code {
    const { f } = this.#frame.registers;
    const condition = this.#frame.slot(inst.condition);
    const enter = this.#frame.moves(inst.carried.map(({ initial, inner }) => [initial, inner]));
    const next = this.#frame.moves(inst.carried.map(({ inner }, k) => [inst.body.yields[k], inner]));
    const leave = this.#frame.moves(inst.carried.map(({ inner, result }) => [inner, result]));
    const body = this.block(inst.body);
    /** Steps the carried values; whether the loop goes on (the condition may itself be a carried value). */
    const step = (base: number): boolean => {
      const again = f[base + condition] !== 0;
      next(base);
      return again;
    };
    if (!body.sync) {
      return {
        sync: false,
        run: (base) => {
          enter(base);
          do body.run(base);
          while (step(base));
          leave(base);
        },
      };
    }
    return {
      sync: true,
      run: function* (active) {
        for (const base of active) enter(base);
        let running: readonly number[] = active;
        while (running.length > 0) {
          yield* body.run(running);
          running = running.filter(step);
        }
        for (const base of active) leave(base);
      },
    };
  }

  #if(inst: Inst<'if'>): Code {
    const { f } = this.#frame.registers;
    const condition = this.#frame.slot(inst.condition);
    const branch = (block: KBlock) => ({
      code: this.block(block),
      leave: this.#frame.moves(inst.results.map((result, k) => [block.yields[k], result])),
    });
    const yes = branch(inst.then);
    const no = branch(inst.else);
    if (!yes.code.sync && !no.code.sync) {
      const thenRun = sequence([yes.code.run, yes.leave]);
      const elseRun = sequence([no.code.run, no.leave]);
      return { sync: false, run: (base) => (f[base + condition] !== 0 ? thenRun(base) : elseRun(base)) };
    }
    const run = function* ({ code, leave }: typeof yes, active: readonly number[]): Generator<void, void> {
      if (active.length === 0) return;
      if (code.sync) yield* code.run(active);
      else for (const base of active) code.run(base);
      for (const base of active) leave(base);
    };
    return {
      sync: true,
      run: function* (active) {
        const taken = active.filter((base) => f[base + condition] !== 0);
        const rest = active.filter((base) => f[base + condition] === 0);
        // While one arm waits, the other goes on.
        let arms = [run(yes, taken), run(no, rest)];
        for (;;) {
          arms = arms.filter((arm) => !arm.next().done);
          if (arms.length === 0) return;
          yield;
        }
      },
    };
  }

  #call(inst: Inst<'call'>): Op {
    const { callee } = inst;
    const body = this.block(callee.body);
    if (body.sync) throw new Error(`kernel ${this.#frame.kernel.name}: helper ${callee.name} is not pure`);
    const enter = this.#frame.moves(callee.params.map((param, k) => [inst.args[k], param]));
    const leave = this.#frame.moves([[callee.body.yields[0], inst.result]]);
    return sequence([enter, body.run, leave]);
  }

  #checkRange(inst: KInst, run: Op): Op {
    if (!('result' in inst) || inst.result.range === undefined || !isIntScalar(inst.result.type.scalar)) return run;
    return sequence([run, arithmetic.rangeCheck(this.#frame, inst.result, `${inst.op} result`)]);
  }
}
