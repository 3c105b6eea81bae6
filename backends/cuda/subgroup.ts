/**
 * Subgroup operations as warp shuffles. Lane and warp are those of the workgroup's invocations in order, 32 each.
 *
 * Where the whole warp takes part, float reductions are butterflies (the same order on every device) and integer ones
 * `redux` where there is one. Elsewhere (divergent control flow, a last warp that is not full) the mask is that of the
 * active lanes, and reductions walk over the lanes in ascending order.
 */
import type { KInst, ScalarType } from '../../compiler/kernel/types.js';
import type { Arithmetic } from './arithmetic.js';
import { type FunctionText, type Reg, rawBits, widthOf } from './ptx.js';

const wholeWarp = '0xffffffff';
type SubgroupInst = Extract<KInst, { op: 'subgroup' }>;

/** `full`: every lane of every warp is there and takes part. */
export function renderSubgroup(
  f: FunctionText,
  arithmetic: Arithmetic,
  sm: number,
  { fn, delta, result }: SubgroupInst,
  lanes: readonly Reg[],
  full: boolean,
): readonly Reg[] {
  const { scalar } = result.type;
  const mask = full ? wholeWarp : activeMask(f);
  const from = (mode: 'bfly' | 'down' | 'idx', reg: Reg, lane: Reg): Reg => shuffle(f, scalar, mode, reg, lane, mask);
  switch (fn) {
    case 'shuffle_xor':
      return lanes.map((reg) => from('bfly', reg, String(delta)));
    case 'shuffle_down':
      return lanes.map((reg) => from('down', reg, String(delta)));
    case 'broadcast':
      return lanes.map((reg) => from('idx', reg, String(delta)));
    case 'broadcast_first': {
      const first = full ? '0' : lowestLane(f, mask);
      return lanes.map((reg) => from('idx', reg, first));
    }
    case 'add':
    case 'min':
    case 'max': {
      const combine = (x: Reg, y: Reg): Reg => arithmetic.binary(fn, scalar, { reg: x }, { reg: y }, false);
      const word = scalar === 'i32' || scalar === 'u32';
      if (word && sm >= 80) {
        const op = `redux.sync.${fn}.${scalar === 'i32' ? 's32' : 'u32'}`;
        return lanes.map((reg) => f.value(32, op, reg, mask));
      }
      return lanes.map((reg) => {
        if (!full) return walk(f, scalar, reg, mask, from, combine);
        let value = reg;
        for (let distance = 1; distance < 32; distance *= 2) {
          const other = from('bfly', value, String(distance));
          value = combine(value, other);
        }
        return value;
      });
    }
    default:
      return fn satisfies never;
  }
}

/** Combines the values of the lanes in `mask` in ascending order. */
function walk(
  f: FunctionText,
  scalar: ScalarType,
  reg: Reg,
  mask: Reg,
  from: (mode: 'idx', reg: Reg, lane: Reg) => Reg,
  combine: (x: Reg, y: Reg) => Reg,
): Reg {
  const width = widthOf(scalar);
  const total = f.reg(width);
  const left = f.reg(32);
  const first = lowestLane(f, mask);
  f.move(width, total, from('idx', reg, first));
  const without = (lanes: Reg): Reg => f.value(32, 'and.b32', lanes, f.value(32, 'sub.s32', lanes, '1'));
  f.move(32, left, without(mask));
  const [loop, end] = [f.label(), f.label()];
  f.place(loop);
  // All lanes of the mask agree on it, so they leave together.
  f.line(`@${f.value(1, 'setp.eq.u32', left, '0')} bra ${end};`);
  const lane = lowestLane(f, left);
  f.move(width, total, combine(total, from('idx', reg, lane)));
  f.move(32, left, without(left));
  f.line(`bra ${loop};`);
  f.place(end);
  return total;
}

function activeMask(f: FunctionText): Reg {
  const mask = f.reg(32);
  f.line(`activemask.b32 ${mask};`);
  return mask;
}

function lowestLane(f: FunctionText, mask: Reg): Reg {
  const lowest = f.value(32, 'and.b32', mask, f.value(32, 'neg.s32', mask));
  return f.value(32, 'bfind.u32', lowest);
}

/** Values move as words of 32 bits. */
function shuffle(f: FunctionText, scalar: ScalarType, mode: string, reg: Reg, lane: Reg, mask: Reg): Reg {
  const move = (word: Reg): Reg => f.value(32, `shfl.sync.${mode}.b32`, word, lane, '31', mask);
  const width = widthOf(scalar);
  switch (width) {
    case 64: {
      const [whole, low, high] = [f.reg(64), f.reg(32), f.reg(32)];
      f.move(64, whole, reg);
      f.line(`mov.b64 {${low}, ${high}}, ${whole};`);
      return f.value(64, 'mov.b64', `{${move(low)}, ${move(high)}}`);
    }
    case 16: {
      const word = f.value(32, 'cvt.u32.u16', reg);
      return f.value(16, 'cvt.u16.u32', move(word));
    }
    case 32:
      return move(rawBits(reg));
    case 1:
      throw new Error(`subgroup operation on ${scalar}`);
    default:
      return width satisfies never;
  }
}
