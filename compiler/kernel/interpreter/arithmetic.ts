/** Instructions that compute a value from values, lane by lane. What they mean is in `semantics.ts`. */
import {
  binaryBig,
  binaryNumber,
  comparisons,
  conversion,
  fusedNumber,
  isBig,
  type NumberFn2,
  unaryBig,
  unaryNumber,
} from '../semantics.js';
import { type ByteType, type KInst, type KValue, type ScalarType, scalarBits } from '../types.js';
import { type Frame, type Op, perLane, sequence } from './frame.js';
import { reader, viewTypes, writer } from './memory.js';

type Inst<Name extends KInst['op']> = KInst & { readonly op: Name };

export function unary(frame: Frame, inst: Inst<'unary'>): Op {
  const { f, i, u } = frame.registers;
  const { scalar, lanes } = inst.a.type;
  const a = frame.slot(inst.a);
  const r = frame.slot(inst.result);
  if (isBig(scalar)) {
    const apply = unaryBig(inst.fn, scalar);
    const bits = scalar === 'i64' ? i : u;
    return perLane(lanes, (lane) => (base) => {
      bits[base + r + lane] = apply(bits[base + a + lane]);
    });
  }
  const apply = unaryNumber(inst.fn, scalar);
  return perLane(lanes, (lane) => (base) => {
    f[base + r + lane] = apply(f[base + a + lane]);
  });
}

export function binary(frame: Frame, inst: Inst<'binary'>): Op {
  const { f, i, u } = frame.registers;
  const { scalar, lanes } = inst.a.type;
  const a = frame.slot(inst.a);
  const b = frame.slot(inst.b);
  const r = frame.slot(inst.result);
  if (isBig(scalar)) {
    const apply = binaryBig(inst.fn, scalar);
    const bits = scalar === 'i64' ? i : u;
    return perLane(lanes, (lane) => (base) => {
      bits[base + r + lane] = apply(bits[base + a + lane], bits[base + b + lane]);
    });
  }
  const generic = binaryNumber(inst.fn, scalar);
  return perLane(lanes, (lane) => binaryOp(f, inst.fn, scalar, generic, r + lane, a + lane, b + lane));
}

export function fma(frame: Frame, inst: Inst<'fma'>): Op {
  const { f } = frame.registers;
  const apply = fusedNumber(inst.a.type.scalar);
  const [a, b, c, r] = [inst.a, inst.b, inst.c, inst.result].map((value) => frame.slot(value));
  return perLane(inst.a.type.lanes, (lane) => (base) => {
    const at = base + lane;
    f[at + r] = apply(f[at + a], f[at + b], f[at + c]);
  });
}

export function dot4(frame: Frame, inst: Inst<'dot4'>): Op {
  const { f } = frame.registers;
  const [a, b, c, r] = [inst.a, inst.b, inst.c, inst.result].map((value) => frame.slot(value));
  const byte = (type: ByteType, word: number, i: number) =>
    type === 'i8' ? (word << (24 - 8 * i)) >> 24 : (word >>> (8 * i)) & 255;
  return perLane(inst.a.type.lanes, (lane) => (base) => {
    const [x, y] = [f[base + a + lane], f[base + b + lane]];
    let sum = f[base + c + lane];
    for (let i = 0; i < 4; i++) sum += byte(inst.left, x, i) * byte(inst.right, y, i);
    f[base + r + lane] = sum | 0;
  });
}

export function compare(frame: Frame, inst: Inst<'compare'>): Op {
  const { f, i, u } = frame.registers;
  const { scalar, lanes } = inst.a.type;
  const [a, b, r] = [inst.a, inst.b, inst.result].map((value) => frame.slot(value));
  const apply = comparisons[inst.fn];
  if (isBig(scalar)) {
    const bits = scalar === 'i64' ? i : u;
    return perLane(lanes, (lane) => (base) => {
      f[base + r + lane] = apply(bits[base + a + lane], bits[base + b + lane]);
    });
  }
  if (inst.fn === 'lt')
    return perLane(lanes, (lane) => (base) => {
      f[base + r + lane] = f[base + a + lane] < f[base + b + lane] ? 1 : 0;
    });
  return perLane(lanes, (lane) => (base) => {
    f[base + r + lane] = apply(f[base + a + lane], f[base + b + lane]);
  });
}

export function select(frame: Frame, inst: Inst<'select'>): Op {
  const { f, i } = frame.registers;
  const { scalar, lanes } = inst.result.type;
  const [c, a, b, r] = [inst.condition, inst.a, inst.b, inst.result].map((value) => frame.slot(value));
  const perLaneCondition = inst.condition.type.lanes > 1;
  return perLane(lanes, (lane) => {
    const condition = c + (perLaneCondition ? lane : 0);
    return isBig(scalar)
      ? (base) => {
          i[base + r + lane] = i[base + lane + (f[base + condition] !== 0 ? a : b)];
        }
      : (base) => {
          f[base + r + lane] = f[base + lane + (f[base + condition] !== 0 ? a : b)];
        };
  });
}

export function convert(frame: Frame, inst: Inst<'convert'>): Op {
  const { f, i, u } = frame.registers;
  const { scalar: from, lanes } = inst.a.type;
  const to = inst.result.type.scalar;
  const a = frame.slot(inst.a);
  const r = frame.slot(inst.result);
  const source = from === 'u64' ? u : i;
  const target = to === 'u64' ? u : i;
  const op = conversion(from, to);
  return perLane(lanes, (lane) => {
    switch (op.kind) {
      case 'number':
        return (base) => {
          f[base + r + lane] = op.apply(f[base + a + lane]);
        };
      case 'toBig':
        return (base) => {
          target[base + r + lane] = op.apply(f[base + a + lane]);
        };
      case 'fromBig':
        return (base) => {
          f[base + r + lane] = op.apply(source[base + a + lane]);
        };
      case 'big':
        return (base) => {
          target[base + r + lane] = op.apply(source[base + a + lane]);
        };
      default:
        return op satisfies never;
    }
  });
}

export function bitcast(frame: Frame, inst: Inst<'bitcast'>): Op {
  const bytes = new ArrayBuffer((scalarBits[inst.a.type.scalar] / 8) * inst.a.type.lanes);
  const source = new viewTypes[inst.a.type.scalar](bytes);
  const target = new viewTypes[inst.result.type.scalar](bytes);
  const write = writer(frame, inst.a.type.scalar, source);
  const read = reader(frame, inst.result.type.scalar, target);
  const a = frame.slot(inst.a);
  const r = frame.slot(inst.result);
  const inLanes = inst.a.type.lanes;
  const outLanes = inst.result.type.lanes;
  return (base) => {
    for (let lane = 0; lane < inLanes; lane++) write(lane, base + a + lane);
    for (let lane = 0; lane < outLanes; lane++) read(lane, base + r + lane);
  };
}

export function assume(frame: Frame, inst: Inst<'assume'>): Op {
  const { range } = inst.result;
  const move = frame.move(inst.a, frame.slot(inst.a), frame.slot(inst.result), inst.a.type.lanes);
  if (range === undefined) return move;
  const check = rangeCheck(frame, inst.result, 'assume');
  return (base) => {
    move(base);
    check(base);
  };
}

export function splat(frame: Frame, inst: Inst<'splat'>): Op {
  const [from, to] = [frame.slot(inst.a), frame.slot(inst.result)];
  return perLane(inst.result.type.lanes, (lane) => frame.move(inst.a, from, to + lane, 1));
}

export function extract(frame: Frame, inst: Inst<'extract'>): Op {
  return frame.move(inst.a, frame.slot(inst.a) + inst.lane, frame.slot(inst.result), 1);
}

export function build(frame: Frame, inst: Inst<'build'>): Op {
  const to = frame.slot(inst.result);
  return sequence(inst.elements.map((value, lane) => frame.move(value, frame.slot(value), to + lane, 1)));
}

/** Throws where `value` has left the range it claims. */
export function rangeCheck(frame: Frame, value: KValue, what: string): Op {
  const { f, i, u } = frame.registers;
  const range = value.range!;
  const { scalar, lanes } = value.type;
  const slot = frame.slot(value);
  const bits = scalar === 'u64' ? u : i;
  return perLane(lanes, (lane) => (base) => {
    const found = isBig(scalar) ? bits[base + slot + lane] : f[base + slot + lane];
    if (found < range.min || found > range.max) {
      throw new Error(
        `kernel ${frame.kernel.name}: ${what} %${value.id} is ${found}, not in [${range.min}, ${range.max}] ${frame.where(base)}`,
      );
    }
  });
}

/** Inline forms of the ops that kernels spend their time in; the rest go through `generic`. */
function binaryOp(
  f: Float64Array,
  fn: string,
  scalar: ScalarType,
  generic: NumberFn2,
  r: number,
  a: number,
  b: number,
): Op {
  switch (`${fn} ${scalar}`) {
    case 'add f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] + f[base + b]);
      };
    case 'sub f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] - f[base + b]);
      };
    case 'mul f32':
      return (base) => {
        f[base + r] = Math.fround(f[base + a] * f[base + b]);
      };
    case 'add i32':
      return (base) => {
        f[base + r] = (f[base + a] + f[base + b]) | 0;
      };
    case 'mul i32':
      return (base) => {
        f[base + r] = Math.imul(f[base + a], f[base + b]);
      };
    case 'add u32':
      return (base) => {
        f[base + r] = (f[base + a] + f[base + b]) >>> 0;
      };
    case 'mul u32':
      return (base) => {
        f[base + r] = Math.imul(f[base + a], f[base + b]) >>> 0;
      };
    default:
      return (base) => {
        f[base + r] = generic(f[base + a], f[base + b]);
      };
  }
}
