/**
 * Mathematical functions as Kernel IR: built from add, mul, div, sqrt, integer ops, select and bitcast only, without
 * branches or tables, so that every backend computes the same and compilers can vectorise them.
 *
 * Each function becomes a helper (`tutti_exp_f32x4`) that kernels call. f16 and bf16 compute in f32. The tables below bound the error in
 * ulp where division and square root are correctly rounded; f32 is tested against f64, f64 against JavaScript's Math, itself an ulp off.
 */
import { KernelBuilder } from './builder.js';
import { Calc, type Dialect, ieeeFused, portable } from './math/calc.js';
import * as exponential from './math/exponential.js';
import { f32Format, f64Format } from './math/formats.js';
import * as trigonometric from './math/trigonometric.js';
import { Rebuilder } from './rebuild.js';
import type { Target } from './target.js';
import {
  isMathFn,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KValue,
  ktype,
  type MathBinaryFn,
  type MathFn,
  type ScalarType,
} from './types.js';

interface Entry<F> {
  readonly build: F;
  /** Bound of the error in ulp. */
  readonly f32: number;
  readonly f64: number;
}
type Unary = (m: Calc, x: KValue) => KValue;
type Binary = (m: Calc, x: KValue, y: KValue) => KValue;

export const unaryMath: Readonly<Record<MathFn, Entry<Unary>>> = {
  exp: { build: exponential.exp, f32: 1, f64: 1 },
  exp2: { build: exponential.exp2, f32: 1, f64: 1 },
  log: { build: exponential.log, f32: 1, f64: 1 },
  log2: { build: exponential.log2, f32: 1, f64: 1 },
  sin: { build: trigonometric.sin, f32: 1, f64: 1 },
  cos: { build: trigonometric.cos, f32: 1, f64: 1 },
  tan: { build: trigonometric.tan, f32: 2, f64: 2 },
  asin: { build: trigonometric.asin, f32: 1, f64: 1 },
  acos: { build: trigonometric.acos, f32: 1, f64: 1 },
  atan: { build: trigonometric.atan, f32: 1, f64: 1 },
  sinh: { build: exponential.sinh, f32: 2, f64: 2 },
  cosh: { build: exponential.cosh, f32: 2, f64: 2 },
  asinh: { build: exponential.asinh, f32: 2, f64: 2 },
  acosh: { build: exponential.acosh, f32: 2, f64: 2 },
  atanh: { build: exponential.atanh, f32: 2, f64: 2 },
  tanh: { build: exponential.tanh, f32: 2, f64: 2 },
  erf: { build: exponential.erf, f32: 2, f64: 2 },
};

export const binaryMath: Readonly<Record<MathBinaryFn, Entry<Binary>>> = {
  pow: { build: exponential.pow, f32: 2, f64: 2 },
  atan2: { build: trigonometric.atan2, f32: 2, f64: 2 },
};

/** In which form a target gets the functions. */
export const dialectOf = ({ style, features }: Target): Dialect =>
  style === 'cpu' && features.has('fma') ? ieeeFused : portable;

/** Emits a call that computes `fn` of a float value of any width. */
export function mathUnary(b: KernelBuilder, fn: MathFn, x: KValue, dialect: Dialect = portable): KValue {
  return callMath(b, fn, [x], dialect, (m, [a]) => unaryMath[fn].build(m, a));
}

/** pow(x, y) or atan2(y, x), in that order of arguments. */
export function mathBinary(
  b: KernelBuilder,
  fn: MathBinaryFn,
  x: KValue,
  y: KValue,
  dialect: Dialect = portable,
): KValue {
  return callMath(b, fn, [x, y], dialect, (m, [a, c]) => binaryMath[fn].build(m, a, c));
}

function callMath(
  b: KernelBuilder,
  fn: string,
  args: readonly KValue[],
  dialect: Dialect,
  build: (m: Calc, args: readonly KValue[]) => KValue,
): KValue {
  const { scalar, lanes } = args[0].type;
  if (scalar !== 'f32' && scalar !== 'f64') {
    const wide = args.map((arg) => b.convert(arg, 'f32'));
    return b.convert(callMath(b, fn, wide, dialect, build), scalar);
  }
  const format = scalar === 'f32' ? f32Format : f64Format;
  return b.call(`tutti_${fn}_${typeName(scalar, lanes)}`, args, ktype(scalar, lanes), (params) =>
    build(new Calc(b, format, lanes, dialect), params),
  );
}

const typeName = (scalar: ScalarType, lanes: number): string => (lanes === 1 ? scalar : `${scalar}x${lanes}`);

const usesMath = (block: KBlock): boolean =>
  block.instructions.some((inst) => {
    if (inst.op === 'unary' || inst.op === 'binary') return isMathFn(inst.fn);
    if (inst.op === 'if') return usesMath(inst.then) || usesMath(inst.else);
    return (inst.op === 'for' || inst.op === 'loop') && usesMath(inst.body);
  });

/** Replaces every mathematical function by a call of its helper; the same kernel where there is none. */
export function expandMath(kernel: KernelFunction, dialect: Dialect = portable): KernelFunction {
  if (!usesMath(kernel.body) && !kernel.helpers.some((helper) => usesMath(helper.body))) return kernel;
  return new MathExpander(new KernelBuilder(), dialect).kernel(kernel);
}

class MathExpander extends Rebuilder {
  constructor(
    b: KernelBuilder,
    readonly dialect: Dialect,
  ) {
    super(b);
  }

  protected override instruction(inst: KInst): void {
    if (inst.op === 'unary' && isMathFn(inst.fn)) {
      this.set(inst.result, mathUnary(this.b, inst.fn as MathFn, this.get(inst.a), this.dialect));
    } else if (inst.op === 'binary' && isMathFn(inst.fn)) {
      const [a, b] = [this.get(inst.a), this.get(inst.b)];
      this.set(inst.result, mathBinary(this.b, inst.fn as MathBinaryFn, a, b, this.dialect));
    } else super.instruction(inst);
  }
}
