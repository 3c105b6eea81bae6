/**
 * The body of a PTX function.
 *
 * Vectors are as many registers. Structured control flow becomes labels and branches; carried values and results of `if`
 * are registers that both sides write. Loops that ask for unrolling and have constant bounds are unrolled here, and
 * constants are folded on the way, so that addresses differ by offsets only. Helpers are inlined where that stays small;
 * else they are functions, whose parameters are memory of the `.param` space.
 */
import { rangeOf } from '../../compiler/kernel/builder.js';
import { type EngineInst, isEngineInst } from '../../compiler/kernel/engines.js';
import { binaryNumber } from '../../compiler/kernel/semantics.js';
import {
  type Carried,
  type HelperFunction,
  isFloatScalar,
  isMathFn,
  isSignedScalar,
  type KBlock,
  type KInst,
  type KValue,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { Arithmetic, type Operand } from './arithmetic.js';
import { MemoryAccess } from './memory.js';
import { type Module, warp } from './module.js';
import { loadParam, paramOf, storeParam } from './params.js';
import {
  type FunctionText,
  integerLiteral,
  integerOf,
  isLiteral,
  opType,
  type Reg,
  type Width,
  widthOf,
} from './ptx.js';
import { renderSubgroup } from './subgroup.js';
import { foldable } from './survey.js';
import { TileRenderer } from './tiles.js';

type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;
type Lanes = readonly Reg[];

export class BodyRenderer {
  readonly memory: MemoryAccess;
  readonly #module: Module;
  readonly #f: FunctionText;
  readonly #math: Arithmetic;
  readonly #tiles: TileRenderer;
  readonly #values = new Map<KValue, Lanes>();
  readonly #builtins = new Map<string, Reg>();
  readonly #uniform = new Map<KValue, boolean>();
  /** Blocks around the current one that not all invocations may run. */
  #conditional = 0;

  constructor(module: Module, text: FunctionText) {
    this.#module = module;
    this.#f = text;
    this.#math = new Arithmetic(text, module.arch.sm);
    const regOf = (value: KValue): Reg => this.lanes(value)[0];
    this.memory = new MemoryAccess(text, module, regOf);
    this.#tiles = new TileRenderer(text, module, this.memory, regOf);
  }

  lanes(value: KValue): Lanes {
    const lanes = this.#values.get(value);
    if (!lanes) throw new Error(`kernel ${this.#module.kernel.name}: value %${value.id} is used before it is defined`);
    return lanes;
  }
  define(value: KValue, lanes: Lanes): void {
    this.#values.set(value, lanes);
  }
  #operand(value: KValue, lane: number): Operand {
    const reg = this.lanes(value)[lane];
    return value.range ? { reg, range: value.range } : { reg };
  }

  /** The block's addresses are forgotten at its end: the registers they were computed from may change. */
  block(block: KBlock): void {
    this.memory.enter();
    for (const inst of block.instructions) this.#instruction(inst);
    this.memory.leave();
  }

  #instruction(inst: KInst): void {
    if (isEngineInst(inst)) {
      this.#tiles.render(inst);
      return;
    }
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
        this.memory.store(inst, this.lanes(inst.value));
        return;
      case 'barrier':
        this.#f.line('bar.sync 0;');
        return;
      default:
        this.define(inst.result, this.#value(inst));
    }
  }

  #value(inst: Exclude<KInst, EngineInst | { op: 'for' | 'loop' | 'if' | 'store' | 'barrier' }>): Lanes {
    const math = this.#math;
    const { type } = inst.result;
    const each = (make: (lane: number) => Reg): Lanes => Array.from({ length: type.lanes }, (_, lane) => make(lane));
    switch (inst.op) {
      case 'const':
        return new Array<Reg>(type.lanes).fill(math.constant(type.scalar, inst.value));
      case 'scalar': {
        const number = this.#module.kernel.params.filter((param) => param.kind === 'scalar').indexOf(inst.param);
        return [this.#early(`s${number}`, 'ld.param.b32', `[s${number}]`)];
      }
      case 'builtin':
        return [this.#builtin(inst)];
      case 'unary': {
        const { fn } = inst;
        if (fn === 'exp2' && inst.fast)
          return each((lane) => this.#f.value(32, 'ex2.approx.ftz.f32', this.lanes(inst.a)[lane]));
        if (isMathFn(fn)) throw unexpanded(fn);
        return each((lane) => math.unary(fn, type.scalar, this.#operand(inst.a, lane)));
      }
      case 'binary': {
        const { fn } = inst;
        if (fn === 'pow' || fn === 'atan2') throw unexpanded(fn);
        if (fn === 'rem' && isFloatScalar(type.scalar)) return this.#remainder(inst);
        const folded = this.#folded(inst);
        if (folded !== undefined) return [folded];
        return each((lane) =>
          math.binary(fn, type.scalar, this.#operand(inst.a, lane), this.#operand(inst.b, lane), inst.fast === true),
        );
      }
      case 'fma': {
        const [a, b, c] = [this.lanes(inst.a), this.lanes(inst.b), this.lanes(inst.c)];
        return each((lane) => math.fma(type.scalar, a[lane], b[lane], c[lane]));
      }
      case 'dot4': {
        const [a, b, c] = [this.lanes(inst.a), this.lanes(inst.b), this.lanes(inst.c)];
        return each((lane) => math.dot4(inst.left, inst.right, a[lane], b[lane], c[lane]));
      }
      case 'compare': {
        const [a, b] = [this.lanes(inst.a), this.lanes(inst.b)];
        return each((lane) => math.compare(inst.fn, inst.a.type.scalar, a[lane], b[lane]));
      }
      case 'select': {
        const [condition, a, b] = [this.lanes(inst.condition), this.lanes(inst.a), this.lanes(inst.b)];
        const one = condition.length === 1;
        return each((lane) => math.select(type.scalar, condition[one ? 0 : lane], a[lane], b[lane]));
      }
      case 'convert':
        return each((lane) => math.convert(inst.a.type.scalar, type.scalar, this.#operand(inst.a, lane)));
      case 'bitcast':
        return math.bitcast(inst.a.type.scalar, type.scalar, this.lanes(inst.a));
      case 'splat':
        return new Array<Reg>(type.lanes).fill(this.lanes(inst.a)[0]);
      case 'extract':
        return [this.lanes(inst.a)[inst.lane]];
      case 'build':
        return inst.elements.map((element) => this.lanes(element)[0]);
      case 'assume':
        return this.lanes(inst.a);
      case 'load':
        return this.memory.load(inst);
      case 'atomic':
        return [this.memory.atomic(inst, this.lanes(inst.value)[0])];
      case 'atomic_compare_exchange':
        return [this.memory.compareExchange(inst, this.lanes(inst.expected)[0], this.lanes(inst.value)[0])];
      case 'subgroup': {
        const [x, y, z] = this.#module.kernel.workgroup;
        const full = this.#conditional === 0 && (x * y * z) % warp === 0;
        return renderSubgroup(this.#f, math, this.#module.arch.sm, inst, this.lanes(inst.a), full);
      }
      case 'call':
        return this.#call(
          inst.callee,
          inst.args.map((arg) => this.lanes(arg)),
        );
      default:
        return inst satisfies never;
    }
  }

  /** Arithmetic on known integers, which unrolling brings about. */
  #folded({ fn, a, b, result }: Inst<'binary'>): Reg | undefined {
    if (!foldable(result)) return undefined;
    const [x, y] = [integerOf(this.lanes(a)[0]), integerOf(this.lanes(b)[0])];
    if (x === undefined || y === undefined) return undefined;
    const scalar = result.type.scalar as 'i32' | 'u32';
    // In code that never runs, promises of the IR may be broken.
    if ((fn === 'div' || fn === 'rem') && (y === 0n || y === -1n)) return y === 0n || fn === 'rem' ? '0' : undefined;
    if ((fn === 'shl' || fn === 'shr') && (y < 0n || y > 31n)) return '0';
    return integerLiteral(scalar, binaryNumber(fn, scalar)(Number(x), Number(y)));
  }

  #remainder({ a, b, result }: Inst<'binary'>): Lanes {
    const { scalar, lanes } = result.type;
    const wide = scalar === 'f64' ? 'f64' : 'f32';
    const helper = this.#module.survey.remainder(wide);
    return Array.from({ length: lanes }, (_, lane) => {
      const operands = [a, b].map((value) => this.#math.convert(scalar, wide, this.#operand(value, lane)));
      const [remainder] = this.#call(
        helper,
        operands.map((operand) => [operand]),
      );
      return this.#math.convert(wide, scalar, { reg: remainder });
    });
  }

  #call(helper: HelperFunction, args: readonly Lanes[]): Lanes {
    const f = this.#f;
    const name = this.#module.functions.get(helper);
    if (name === undefined) {
      helper.params.forEach((param, i) => {
        this.define(param, args[i]);
      });
      this.block(helper.body);
      return this.lanes(helper.body.yields[0]);
    }
    f.line('{');
    helper.params.forEach(({ type }, i) => {
      f.line(`${paramOf(type, `a${i}`)};`);
      storeParam(f, type, `a${i}`, args[i]);
    });
    f.line(`${paramOf(helper.result, 'r')};`);
    f.line(`call.uni (r), ${name}, (${args.map((_, i) => `a${i}`).join(', ')});`);
    const result = loadParam(f, helper.result, 'r');
    f.line('}');
    return result;
  }

  // Invocation ------------------------------------------------------------------------------------------------------

  #early(key: string, op: string, operand: string): Reg {
    let reg = this.#builtins.get(key);
    if (reg === undefined) this.#builtins.set(key, (reg = this.#f.early(32, op, operand)));
    return reg;
  }

  #builtin({ builtin, dim }: Inst<'builtin'>): Reg {
    const axis = 'xyz'[dim];
    switch (builtin) {
      case 'workgroup_id':
        return this.#early(`ctaid${axis}`, 'mov.u32', `%ctaid.${axis}`);
      case 'local_id':
        return this.#early(`tid${axis}`, 'mov.u32', `%tid.${axis}`);
      case 'subgroup_lane':
        return this.#early('lane', 'mov.u32', '%laneid');
      case 'subgroup_size':
        return String(warp);
      default:
        return builtin satisfies never;
    }
  }

  // Control flow ----------------------------------------------------------------------------------------------------

  /** Registers that hold carried values, one a lane, set to the initial ones. */
  #carry(carried: readonly Carried[]): readonly Lanes[] {
    const f = this.#f;
    return carried.map(({ initial, inner }) => {
      const width = widthOf(inner.type.scalar);
      const registers = this.lanes(initial).map((from) => {
        const reg = f.reg(width);
        f.move(width, reg, from);
        return reg;
      });
      this.define(inner, registers);
      return registers;
    });
  }

  /** The moves that hand `values` over to `registers`. */
  #handOver(registers: readonly Lanes[], values: readonly KValue[]): (readonly [Width, Reg, Reg])[] {
    return values.flatMap((value, i) => {
      const width = widthOf(value.type.scalar);
      return this.lanes(value).map((from, lane) => [width, registers[i][lane], from] as const);
    });
  }

  #results(carried: readonly Carried[], registers: readonly Lanes[]): void {
    carried.forEach(({ result }, i) => {
      this.define(result, registers[i]);
    });
  }

  #for(inst: Inst<'for'>): void {
    const trips = this.#module.survey.unrolled.get(inst);
    if (trips) {
      this.#unrolled(inst, trips.lower, trips.upper);
      return;
    }
    const f = this.#f;
    const { scalar } = inst.index.type;
    const width = widthOf(scalar);
    const type = opType(scalar);
    const index = f.reg(width);
    const upper = this.lanes(inst.upper)[0];
    const registers = this.#carry(inst.carried);
    f.move(width, index, this.lanes(inst.lower)[0]);
    this.define(inst.index, [index]);
    const [loop, end] = [f.label(), f.label()];
    const [first, last] = [rangeOf(inst.lower), rangeOf(inst.upper)];
    const runs = first !== undefined && last !== undefined && first.max < last.min;
    if (!runs) f.line(`@${f.value(1, `setp.ge.${type}`, index, upper)} bra ${end};`);
    f.place(loop);
    this.#conditionally(!this.#isUniform(inst.lower) || !this.#isUniform(inst.upper), () => this.block(inst.body));
    f.moveAll(this.#handOver(registers, inst.body.yields));
    let more: Reg;
    if (last !== undefined && last.max + inst.step - 1 <= largest(scalar)) {
      f.line(`add.${type} ${index}, ${index}, ${inst.step};`);
      more = f.value(1, `setp.lt.${type}`, index, upper);
    } else {
      // The next index might not be in the type: the distance to the end is, unsigned.
      const left = f.value(width, `sub.${type}`, upper, index);
      more = f.value(1, `setp.gt.u${width}`, left, String(inst.step));
      f.line(`add.${type} ${index}, ${index}, ${inst.step};`);
    }
    f.line(`@${more} bra ${loop};`);
    f.place(end);
    this.#results(inst.carried, registers);
  }

  #unrolled(inst: Inst<'for'>, lower: number, upper: number): void {
    let values = inst.carried.map(({ initial }) => this.lanes(initial));
    for (let at = lower; at < upper; at += inst.step) {
      this.define(inst.index, [integerLiteral(inst.index.type.scalar, at)]);
      inst.carried.forEach(({ inner }, i) => {
        this.define(inner, values[i]);
      });
      this.block(inst.body);
      values = inst.body.yields.map((value) => this.lanes(value));
    }
    this.#results(inst.carried, values);
  }

  #loop(inst: Inst<'loop'>): void {
    const f = this.#f;
    const registers = this.#carry(inst.carried);
    const loop = f.label();
    f.place(loop);
    // The condition is not known here, and how often neighbours go round may differ.
    this.#conditionally(true, () => this.block(inst.body));
    // The condition may itself be a carried value, which the moves change.
    const again = f.reg(1);
    f.moveAll([...this.#handOver(registers, inst.body.yields), [1, again, this.lanes(inst.condition)[0]]]);
    f.line(`@${again} bra ${loop};`);
    this.#results(inst.carried, registers);
  }

  #if(inst: Inst<'if'>): void {
    const f = this.#f;
    const results = inst.results.map(({ type }) =>
      Array.from({ length: type.lanes }, () => f.reg(widthOf(type.scalar))),
    );
    const condition = this.lanes(inst.condition)[0];
    const end = f.label();
    const hasElse = inst.else.instructions.length > 0 || results.length > 0;
    const otherwise = hasElse ? f.label() : end;
    const arm = (block: KBlock): void => {
      this.#conditionally(!this.#isUniform(inst.condition), () => this.block(block));
      f.moveAll(this.#handOver(results, block.yields));
    };
    f.line(`@!${condition} bra ${otherwise};`);
    arm(inst.then);
    if (hasElse) {
      f.line(`bra ${end};`);
      f.place(otherwise);
      arm(inst.else);
    }
    f.place(end);
    inst.results.forEach((result, i) => {
      this.define(result, results[i]);
    });
  }

  #conditionally(conditional: boolean, work: () => void): void {
    if (conditional) this.#conditional++;
    work();
    if (conditional) this.#conditional--;
  }

  /** Whether a value is surely the same for all invocations of a workgroup: made of constants, scalars, workgroup ids. */
  #isUniform(value: KValue): boolean {
    if (isLiteral(this.lanes(value)[0])) return true;
    let known = this.#uniform.get(value);
    if (known === undefined) this.#uniform.set(value, (known = this.#isUniformResult(value)));
    return known;
  }

  #isUniformResult(value: KValue): boolean {
    const inst = this.#module.survey.definitions.get(value);
    switch (inst?.op) {
      case 'const':
      case 'scalar':
        return true;
      case 'builtin':
        return inst.builtin === 'workgroup_id';
      case 'assume':
      case 'convert':
      case 'unary':
        return this.#isUniform(inst.a);
      case 'binary':
      case 'compare':
        return this.#isUniform(inst.a) && this.#isUniform(inst.b);
      default:
        return false;
    }
  }
}

/** The largest value of an index type as its register has it. */
function largest(scalar: ScalarType): number {
  const bits = Math.max(32, scalarBits[scalar]);
  return isSignedScalar(scalar) ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
}

const unexpanded = (fn: string): Error => new Error(`${fn} reached the PTX renderer: expandMath comes before it`);
