/** Subgroup operations: they act on the registers of all the invocations that reach them together. */
import { binaryBig, binaryNumber, isBig, normalizers, wrapBig } from '../semantics.js';
import { isIntScalar, type KInst, type SubgroupFn } from '../types.js';
import { type Frame, laneSlot, linearIdSlot } from './frame.js';

/** Reductions go over the active lanes of a subgroup in ascending order. */
export function subgroup(frame: Frame, inst: KInst & { op: 'subgroup' }): (active: readonly number[]) => void {
  const size = frame.kernel.subgroupSize;
  if (size === undefined) throw new Error(`kernel ${frame.kernel.name}: subgroup op without subgroupSize`);
  const { f, i, u } = frame.registers;
  const { scalar, lanes } = inst.a.type;
  const a = frame.slot(inst.a);
  const r = frame.slot(inst.result);
  const { fn, delta } = inst;
  const registers = scalar === 'i64' ? i : scalar === 'u64' ? u : f;
  const undefinedValue = isBig(scalar)
    ? wrapBig(scalar)(-1n)
    : isIntScalar(scalar)
      ? normalizers[scalar](-1)
      : scalar === 'bool'
        ? 1
        : Number.NaN;
  const combine = (
    fn === 'add' || fn === 'min' || fn === 'max'
      ? isBig(scalar)
        ? binaryBig(fn, scalar)
        : binaryNumber(fn, scalar)
      : undefined
  ) as ((x: number | bigint, y: number | bigint) => number | bigint) | undefined;
  return (active) => {
    const groups = new Map<number, number[]>();
    for (const base of active) {
      const key = Math.floor(f[base + linearIdSlot] / size);
      const members = groups.get(key);
      if (members) members.push(base);
      else groups.set(key, [base]);
    }
    for (const members of groups.values()) {
      for (let k = 0; k < lanes; k++) {
        const values = members.map((base) => registers[base + a + k]);
        const byLane = new Map(members.map((base, at) => [f[base + laneSlot], values[at]]));
        const total = combine ? values.reduce((x, y) => combine(x, y)) : undefined;
        for (const base of members) {
          const lane = f[base + laneSlot];
          const value =
            total ?? (fn === 'broadcast_first' ? values[0] : byLane.get(laneFrom(fn, lane, delta))) ?? undefinedValue;
          (registers as { [at: number]: number | bigint })[base + r + k] = value;
        }
      }
    }
  };
}

/** Which lane a value comes from that is moved to `lane`. */
function laneFrom(fn: SubgroupFn, lane: number, delta: number): number {
  if (fn === 'broadcast') return delta;
  return fn === 'shuffle_xor' ? lane ^ delta : lane + delta;
}
