/** Arithmetic, comparison and selection on values in their legal representation. */
import { rangeOf } from '../builder.js';
import { byteMix } from '../target.js';
import {
  type BinaryFn,
  type ByteType,
  type CompareFn,
  type ExactUnaryFn,
  type KInst,
  type KType,
  type KValue,
  scalarBits,
} from '../types.js';
import { oddSumF32 } from './float16.js';
import * as f64 from './float64.js';
import * as int64 from './int64.js';
import { isHalf, isNarrow, type Rep, type Representations, smallRange, within } from './representation.js';
import type { Pair } from './words.js';

function each(r: Representations, a: Rep, fn: (part: KValue) => KValue): Rep {
  return r.chunks(
    a.type,
    a.parts.map((part) => r.finish(a.type, fn(part))),
  );
}

export function unary(r: Representations, fn: ExactUnaryFn, a: Rep, result: KValue, fast?: boolean): Rep {
  const { b } = r;
  const { type } = a;
  const { scalar } = type;
  if (scalar === 'f64' && a.kind === 'pairs') {
    return r.fromWide(
      type,
      r.wide(a).map((x) => softUnary(r, fn, x)),
    );
  }
  if (int64.isWideInteger(scalar) && !r.native(scalar)) return wideUnary(r, fn, a, result);
  if (isNarrow(scalar) && !r.native(scalar) && (fn === 'popcount' || fn === 'clz')) {
    const bits = scalarBits[scalar];
    return r.chunks(
      type,
      a.parts.map((part) => {
        const { lanes } = part.type;
        const word = b.and(part, b.constant(2 ** bits - 1, part.type.scalar, lanes));
        const count = b.unary(fn, word);
        return fn === 'clz' ? b.sub(count, b.constant(32 - bits, part.type.scalar, lanes)) : count;
      }),
    );
  }
  // Negation and absolute value of a half are exact: no rounding.
  if (isHalf(scalar) && fn !== 'sqrt')
    return r.chunks(
      type,
      a.parts.map((part) => b.unary(fn, part, fast)),
    );
  return each(r, a, (part) => b.unary(fn, part, fast));
}

function softUnary(r: Representations, fn: ExactUnaryFn, x: Pair): Pair {
  const w = r.w;
  switch (fn) {
    case 'neg':
      return f64.neg(w, x);
    case 'abs':
      return f64.abs(w, x);
    case 'sqrt':
      return f64.sqrt(w, x);
    case 'floor':
    case 'ceil':
    case 'round':
    case 'trunc':
      return f64.toIntegral(w, fn, x);
    case 'not':
    case 'popcount':
    case 'clz':
      throw new Error(`kernel ${r.kernel.name}: ${fn} of f64`);
    default:
      return fn satisfies never;
  }
}

function wideUnary(r: Representations, fn: ExactUnaryFn, a: Rep, result: KValue): Rep {
  const { b } = r;
  const w = r.w;
  const { type } = a;
  if (fn === 'floor' || fn === 'ceil' || fn === 'round' || fn === 'trunc') return a;
  if (r.narrowed(type, result.range) && (fn === 'neg' || fn === 'not' || (fn === 'abs' && a.kind === 'chunks'))) {
    return r.chunks(
      type,
      r.lowWords(a).parts.map((part) => r.clamped(b.unary(fn, part), result.range)),
    );
  }
  const out = r.wide(a).map((x): Pair => {
    switch (fn) {
      case 'neg':
        return w.neg64(x);
      case 'not':
        return w.not64(x);
      case 'abs':
        return type.scalar === 'i64' ? int64.abs64(w, x) : x;
      case 'clz':
        return { lo: w.clz64(x), hi: w.c(0) };
      case 'popcount':
        return { lo: w.add(b.unary('popcount', x.lo), b.unary('popcount', x.hi)), hi: w.c(0) };
      case 'sqrt':
        throw new Error(`kernel ${r.kernel.name}: sqrt of ${type.scalar}`);
      default:
        return fn satisfies never;
    }
  });
  return r.fromWide(type, out, result.range);
}

export function binary(r: Representations, fn: BinaryFn, x: Rep, y: Rep, result: KValue, fast?: boolean): Rep {
  const { b } = r;
  const { type } = x;
  const { scalar } = type;
  if (x.kind === 'pairs' && scalar === 'f64') {
    const ys = r.wide(y);
    return r.fromWide(
      type,
      r.wide(x).map((p, i) => softBinary(r, fn, p, ys[i])),
    );
  }
  if (int64.isWideInteger(scalar) && !r.native(scalar)) return wideBinary(r, fn, scalar, x, y, result);
  const parts = x.parts.map((part, i) => b.binary(fn, part, y.parts[i], fast));
  // These pick or cut: what comes out is in the type already.
  const exact = fn === 'min' || fn === 'max' || fn === 'rem' || (fn === 'shr' && isNarrow(scalar));
  const bitwise = fn === 'and' || fn === 'or' || fn === 'xor';
  if (exact || bitwise) {
    const limits = isNarrow(scalar) && !r.native(scalar) ? smallRange(scalar) : undefined;
    return r.chunks(
      type,
      parts.map((part) => r.within(part, limits)),
    );
  }
  return r.chunks(
    type,
    parts.map((part) => r.finish(type, part)),
  );
}

function softBinary(r: Representations, fn: BinaryFn, x: Pair, y: Pair): Pair {
  const w = r.w;
  switch (fn) {
    case 'add':
      return f64.add(w, x, y);
    case 'sub':
      return f64.sub(w, x, y);
    case 'mul':
      return f64.mul(w, x, y);
    case 'div':
      return f64.div(w, x, y);
    case 'rem':
      return f64.rem(w, x, y);
    case 'min':
    case 'max':
      return f64.minimum(w, fn, x, y);
    case 'and':
    case 'or':
    case 'xor':
    case 'shl':
    case 'shr':
    case 'mulhi':
      throw new Error(`kernel ${r.kernel.name}: ${fn} of f64`);
    default:
      return fn satisfies never;
  }
}

function wideBinary(r: Representations, fn: BinaryFn, scalar: int64.Wide, x: Rep, y: Rep, result: KValue): Rep {
  const { b } = r;
  const w = r.w;
  const { type } = x;
  if (r.narrowed(type, result.range)) {
    // The low words of these depend on low words only.
    const modular = fn === 'add' || fn === 'sub' || fn === 'mul' || fn === 'and' || fn === 'or' || fn === 'xor';
    const shiftsLow = fn === 'shl' && y.kind === 'chunks' && within(rangeOf(y.parts[0]), { min: 0, max: 31 });
    const narrow = x.kind === 'chunks' && y.kind === 'chunks';
    const shiftsRight = fn === 'shr' && narrow && within(rangeOf(y.parts[0]), { min: 0, max: 31 });
    const ordered = narrow && (fn === 'div' || fn === 'rem' || fn === 'min' || fn === 'max');
    if (modular || shiftsLow || shiftsRight || ordered) {
      const [xs, ys] = [r.lowWords(x).parts, r.lowWords(y).parts];
      const parts = xs.map((part, i) => b.binary(fn, part, ys[i]));
      return r.chunks(type, narrow ? parts : parts.map((part) => r.clamped(part, result.range)));
    }
  }
  const ys = r.wide(y);
  const out = r.wide(x).map((p, i): Pair => {
    const q = ys[i];
    switch (fn) {
      case 'add':
        return w.add64(p, q);
      case 'sub':
        return w.sub64(p, q);
      case 'mul':
        return w.mul64(p, q);
      case 'div':
      case 'rem':
        return int64.divide64(w, scalar, fn, p, q);
      case 'and':
        return w.and64(p, q);
      case 'or':
        return w.or64(p, q);
      case 'xor':
        return w.xor64(p, q);
      case 'shl':
        return w.shl64(p, q.lo);
      case 'shr':
        return w.shr64(p, q.lo, scalar === 'i64' ? w.signFill(p.hi) : w.c(0));
      case 'min':
      case 'max': {
        const less = scalar === 'i64' ? w.signedLt64(p, q) : w.lt64(p, q);
        return fn === 'min' ? w.select64(less, p, q) : w.select64(less, q, p);
      }
      case 'mulhi':
        throw new Error(`kernel ${r.kernel.name}: mulhi of ${scalar}`);
      default:
        return fn satisfies never;
    }
  });
  return r.fromWide(type, out, result.range);
}

/** Where the target lacks it, byte by byte: both words' bytes are moved to the top and back, which extends them. */
export function dot4(r: Representations, inst: KInst & { readonly op: 'dot4' }, x: Rep, y: Rep, z: Rep): Rep {
  const { b } = r;
  const { left, right, result } = inst;
  const parts = x.parts.map((part, i) => {
    if (r.target.byteDots?.has(byteMix(left, right))) return b.dot4(part, y.parts[i], z.parts[i], left, right);
    const { lanes } = part.type;
    const byte = (word: KValue, type: ByteType, at: number): KValue => {
      const scalar = type === 'i8' ? 'i32' : 'u32';
      const shift = (fn: 'shl' | 'shr', value: KValue, by: number): KValue =>
        by === 0 ? value : b.binary(fn, value, b.constant(by, scalar, lanes));
      const top = shift('shl', b.convert(word, scalar), 24 - 8 * at);
      return b.convert(shift('shr', top, 24), 'i32');
    };
    return [0, 1, 2, 3].reduce(
      (sum, at) => b.add(sum, b.mul(byte(part, left, at), byte(y.parts[i], right, at))),
      z.parts[i],
    );
  });
  return r.chunks(result.type, parts);
}

export function fma(r: Representations, x: Rep, y: Rep, z: Rep): Rep {
  const { b } = r;
  const { type } = x;
  if (x.kind === 'pairs') {
    const [ys, zs] = [r.wide(y), r.wide(z)];
    return r.fromWide(
      type,
      r.wide(x).map((p, i) => f64.fma(r.w, p, ys[i], zs[i])),
    );
  }
  if (!isHalf(type.scalar) || r.native(type.scalar)) {
    return r.chunks(
      type,
      x.parts.map((part, i) => b.fma(part, y.parts[i], z.parts[i])),
    );
  }
  if (type.scalar === 'f16') {
    // The product is exact in f32; the sum is rounded once, by way of round to odd.
    const parts = x.parts.map((part, i) => oddSumF32(b, b.mul(part, y.parts[i]), z.parts[i]));
    return r.chunks(
      type,
      parts.map((part) => r.round('f16', part)),
    );
  }
  // A product of bf16 may leave f32's range: it is exact in f64.
  const w = r.w;
  const [ys, zs] = [r.lanes(y), r.lanes(z)];
  const lanes = r.lanes(x).map((lane, i) => {
    const product = f64.mul(w, f64.fromF32(w, lane), f64.fromF32(w, ys[i]));
    return r.round('bf16', f64.toF32(w, f64.oddSum(w, product, f64.fromF32(w, zs[i])), 'odd'));
  });
  return r.gather(type, lanes);
}

export function compare(r: Representations, fn: CompareFn, x: Rep, y: Rep, type: KType): Rep {
  const { b } = r;
  const w = r.w;
  if (x.kind === 'chunks' && y.kind === 'chunks') {
    return r.chunks(
      type,
      x.parts.map((part, i) => b.compare(fn, part, y.parts[i])),
    );
  }
  const { scalar } = x.type;
  if (scalar !== 'f64') r.opaque = true;
  const [xs, ys] = [r.wide(x), r.wide(y)];
  const lanes = xs.map((p, i) => {
    const q = ys[i];
    if (scalar === 'f64') return f64.compare(w, fn, p, q);
    const less = (u: Pair, v: Pair) => (scalar === 'i64' ? w.signedLt64(u, v) : w.lt64(u, v));
    switch (fn) {
      case 'eq':
        return w.eq64(p, q);
      case 'ne':
        return w.no(w.eq64(p, q));
      case 'lt':
        return less(p, q);
      case 'gt':
        return less(q, p);
      case 'le':
        return w.no(less(q, p));
      case 'ge':
        return w.no(less(p, q));
      default:
        return fn satisfies never;
    }
  });
  return r.gather(type, lanes);
}

export function select(r: Representations, condition: Rep, x: Rep, y: Rep, result: KValue): Rep {
  const { type } = x;
  if (x.kind === 'chunks' && y.kind === 'chunks') {
    return r.chunks(
      type,
      x.parts.map((part, i) => selectPart(r, condition, i, part, y.parts[i])),
    );
  }
  const conditions = condition.type.lanes === 1 ? undefined : r.lanes(condition);
  const ys = r.wide(y);
  const out = r.wide(x).map((p, i) => r.w.select64(conditions?.[i] ?? condition.parts[0], p, ys[i]));
  return r.fromWide(type, out, result.range);
}

function selectPart(r: Representations, condition: Rep, i: number, a: KValue, c: KValue): KValue {
  return r.b.select(condition.parts[condition.type.lanes === 1 ? 0 : i], a, c);
}
