/** Conversions and bitcasts between values in their legal representation. */
import { isSignedScalar, type KType, type KValue, ktype, type Range, type ScalarType, scalarBits } from '../types.js';
import * as f64 from './float64.js';
import * as int64 from './int64.js';
import { isHalf, isNarrow, type Rep, type Representations, smallRange, within } from './representation.js';

export function convert(r: Representations, a: Rep, type: KType, range: Range | undefined): Rep {
  const from = a.type.scalar;
  const to = type.scalar;
  if (from === to) return { ...a, type };
  const target = r.chunkScalar(to);
  if (a.kind === 'chunks' && target !== undefined && !(int64.isWideInteger(from) && !r.native(from))) {
    return convertChunks(r, a, type, target, range);
  }
  if (a.kind === 'chunks' && int64.isWideInteger(from) && !r.native(from)) {
    // Narrowed: an i32 by another name.
    const narrow: Rep = { ...a, type: ktype('i32', type.lanes) };
    if (to === 'i32') return { ...narrow, type };
    if (int64.isWideInteger(to) && !r.native(to) && (to === 'i64' || nonNegative(r, a))) return { ...a, type };
    return convert(r, narrow, type, range);
  }
  if (target === undefined && int64.isWideInteger(to)) return toSoftInteger(r, a, type, range);
  if (target === undefined) return toSoftDouble(r, a, type);
  return fromSoft(r, a, type, target, range);
}

function nonNegative(r: Representations, a: Rep): boolean {
  return a.parts.every((part) => (r.rangeOf(part)?.min ?? -1) >= 0);
}

/** Between types that are both kept in chunks. */
function convertChunks(r: Representations, a: Rep, type: KType, target: ScalarType, range: Range | undefined): Rep {
  const { b } = r;
  const from = a.type.scalar;
  const to = type.scalar;
  const double = from === 'f64' || from === 'i64' || from === 'u64';
  if (isHalf(to) && !r.native(to) && double) return fromSoft(r, a, type, target, range);
  return r.chunks(
    type,
    a.parts.map((part) => {
      const held = part.type.scalar;
      if (isHalf(to) && !r.native(to)) {
        if (held === 'f32' || held === 'bool' || isHalf(held)) {
          const value = b.convert(part, 'f32');
          return from === 'bool' ? value : r.round(to, value);
        }
        return r.round(to, b.convert(to === 'bf16' ? stickyInteger(r, part) : part, 'f32'));
      }
      if (!isNarrow(to) || r.native(to)) return r.within(b.convert(part, target), range);
      if (held === 'f32' || held === 'f16' || held === 'f64') {
        const { min, max } = smallRange(to);
        const word = b.clamp(b.convert(part, 'i32'), min, max);
        return b.convert(word, target);
      }
      const known = r.rangeOf(part);
      const limits = smallRange(to);
      const word = b.convert(part, target);
      return within(known, limits) ? r.within(word, known) : r.wrap(to, word);
    }),
  );
}

/** A 32-bit integer with the bits that bf16 has no room for gathered into one, so that it converts to f32 exactly. */
function stickyInteger(r: Representations, part: KValue): KValue {
  const { b } = r;
  const known = r.rangeOf(part);
  if (known && known.min > -(2 ** 24) && known.max < 2 ** 24) return part;
  const { lanes } = part.type;
  const held = part.type.scalar === 'u32' || part.type.scalar === 'i32' ? part : b.convert(part, 'i32');
  const signed = held.type.scalar === 'i32';
  const c = (value: number) => b.constant(value, 'u32', lanes);
  const bits = r.w.unsigned(held);
  const negative = signed ? b.compare('lt', held, b.constant(0, 'i32', lanes)) : undefined;
  const magnitude = negative ? b.select(negative, b.unary('neg', bits), bits) : bits;
  const large = b.compare('ge', magnitude, c(2 ** 24));
  const lost = b.compare('ne', b.and(magnitude, c(0xff)), c(0));
  const jammed = b.or(b.and(magnitude, c(0xffffff00)), b.select(lost, c(0x100), c(0)));
  const out = b.select(large, jammed, magnitude);
  if (!negative) return out;
  const value = b.convert(out, 'f32');
  // The magnitude may be 2^31, which i32 has no room for: the sign goes on as a float.
  return b.select(negative, b.unary('neg', value), value);
}

function toSoftInteger(r: Representations, a: Rep, type: KType, range: Range | undefined): Rep {
  const w = r.w;
  const from = a.type.scalar;
  const scalar = type.scalar as int64.Wide;
  if (from === 'f64')
    return r.fromWide(
      type,
      r.wide(a).map((x) => f64.toWide(w, scalar, x)),
      range,
    );
  if (a.kind === 'pairs') {
    return r.narrowed(type, range) ? { ...r.lowWords(a, range), type } : { ...a, type };
  }
  if (from === 'i64' || from === 'u64') return r.fromWide(type, r.wide(a), range);
  const lanes = r.lanes(a);
  if (from === 'f32' || isHalf(from)) {
    return r.fromWide(
      type,
      lanes.map((x) => int64.fromF32(w, scalar, r.b.convert(x, 'f32'))),
      range,
    );
  }
  const words = lanes.map((x) =>
    x.type.scalar === 'i32' || x.type.scalar === 'u32'
      ? x
      : r.b.convert(x, from !== 'bool' && isSignedScalar(from) ? 'i32' : 'u32'),
  );
  return r.fromWide(
    type,
    words.map((x) => r.extend(x)),
    range,
  );
}

function toSoftDouble(r: Representations, a: Rep, type: KType): Rep {
  const w = r.w;
  const from = a.type.scalar;
  if (from === 'i64' || from === 'u64') {
    return r.fromWide(
      type,
      r.wide(a).map((x) => f64.fromInteger(w, from, x)),
    );
  }
  const lanes = r.lanes(a);
  if (from === 'f32' || isHalf(from)) {
    return r.fromWide(
      type,
      lanes.map((x) => f64.fromF32(w, r.b.convert(x, 'f32'))),
    );
  }
  const signed = from !== 'bool' && isSignedScalar(from);
  const words = lanes.map((x) =>
    x.type.scalar === 'i32' || x.type.scalar === 'u32' ? x : r.b.convert(x, signed ? 'i32' : 'u32'),
  );
  return r.fromWide(
    type,
    words.map((x) => f64.fromInteger(w, signed ? 'i32' : 'u32', r.extend(x))),
  );
}

/** From a 64-bit type (soft, or native where the result must be rounded once) to one kept in chunks. */
function fromSoft(r: Representations, a: Rep, type: KType, target: ScalarType, range: Range | undefined): Rep {
  const { b } = r;
  const w = r.w;
  const from = a.type.scalar as int64.Wide | 'f64';
  const to = type.scalar;
  const lanes = r.wide(a).map((x): KValue => {
    if (to === 'bool') return from === 'f64' ? f64.isNonZero(w, x) : w.no(w.isZero64(x));
    if (to === 'f32') return from === 'f64' ? f64.toF32(w, x, 'even') : int64.toF32(w, from, x, 'even');
    if (isHalf(to)) {
      const odd = from === 'f64' ? f64.toF32(w, x, 'odd') : int64.toF32(w, from, x, 'odd');
      return r.native(to) ? b.convert(odd, to) : r.round(to, odd);
    }
    if (to === 'f64') return b.bitcast(w.pack(f64.fromInteger(w, from as int64.Wide, x)), ktype('f64'));
    if (to === 'i64' || to === 'u64') {
      // Native here, so the source is a soft f64 or the other signedness.
      const whole = from === 'f64' ? f64.toWide(w, to, x) : x;
      return r.fromPairs(ktype(to), [w.pack(whole)]).parts[0];
    }
    if (from === 'f64') {
      if (to === 'i32' || to === 'u32') {
        const word = f64.toWord(w, to, x);
        return to === 'i32' ? w.signed(word) : word;
      }
      const { min, max } = smallRange(to);
      return b.convert(b.clamp(w.signed(f64.toWord(w, 'i32', x)), min, max), target);
    }
    const word = isSignedScalar(to) ? w.signed(x.lo) : x.lo;
    if (to === 'i32' || to === 'u32') return word;
    return r.native(to) ? b.convert(word, to) : r.wrap(to, word);
  });
  return r.gather(
    type,
    lanes.map((lane) => r.clamped(lane, scalarBits[to] === 32 ? range : undefined)),
  );
}

export function bitcast(r: Representations, a: Rep, type: KType): Rep {
  const { b } = r;
  const from = a.type.scalar;
  const to = type.scalar;
  const [fromBits, toBits] = [scalarBits[from], scalarBits[to]];
  const soft = (scalar: ScalarType) => !r.native(scalar);
  if (fromBits === toBits) {
    if (fromBits === 64) {
      if (!soft(from) && !soft(to))
        return r.chunks(
          type,
          a.parts.map((p) => b.bitcast(p, ktype(to, p.type.lanes))),
        );
      return r.fromWide(type, r.wide(a));
    }
    const direct = !soft(from) && !soft(to);
    return r.chunks(
      type,
      a.parts.map((part) =>
        direct ? b.bitcast(part, ktype(to, part.type.lanes)) : r.fromBits(to, r.toBits(from, part)),
      ),
    );
  }
  const whole = a.parts.length === 1 && type.lanes <= r.target.vectorLanes;
  if (whole && !soft(from) && !soft(to)) return r.chunks(type, [b.bitcast(a.parts[0], type)]);
  return regroup(r, a, type);
}

/** Between element sizes: all the bits as words, then cut anew. */
function regroup(r: Representations, a: Rep, type: KType): Rep {
  const w = r.w;
  const fromBits = scalarBits[a.type.scalar];
  const toBits = scalarBits[type.scalar];
  let fields: { bits: number; value: KValue }[];
  if (fromBits === 64) {
    fields = r.wide(a).flatMap(({ lo, hi }) => [
      { bits: 32, value: lo },
      { bits: 32, value: hi },
    ]);
  } else {
    fields = r.lanes(a).map((lane) => ({ bits: fromBits, value: r.toBits(a.type.scalar, lane) }));
  }
  const size = Math.min(toBits, 32);
  const cut: KValue[] = [];
  let pending: KValue | undefined;
  let filled = 0;
  for (const { bits, value } of fields) {
    if (bits > size) {
      for (let at = 0; at < bits; at += size) cut.push(w.and(w.shr(value, at), 2 ** size - 1));
      continue;
    }
    pending = pending ? w.or(pending, w.shl(value, filled)) : value;
    filled += bits;
    if (filled === size) {
      cut.push(pending);
      [pending, filled] = [undefined, 0];
    }
  }
  if (toBits === 64) {
    const pairs = Array.from({ length: type.lanes }, (_, i) => ({ lo: cut[2 * i], hi: cut[2 * i + 1] }));
    return r.fromWide(type, pairs);
  }
  return r.gather(
    type,
    cut.map((bits) => r.fromBits(type.scalar, bits)),
  );
}
