/**
 * Keeps invocations under a driver's limit of loop iterations.
 *
 * llvmpipe leaves every loop once the loops of an invocation have together run 65,535 times (its guard against shaders
 * that hang) and goes on with wrong values. Loops are therefore run several trips an iteration where a kernel could
 * reach that.
 */
import type { KBlock, KernelFunction, KInst } from '../../compiler/kernel/types.js';

type For = Extract<KInst, { op: 'for' }>;

/** Trips of a loop whose bounds are not known; those that end by a condition are short (trees, retries, remainders). */
const unknownTrips = 65_536;
const conditionTrips = 64;
const largestFactor = 1024;
/** Instructions that one loop may grow to. */
const largestBody = 20_000;

/** How many trips each iteration of a loop must do; loops that are absent do one. Throws if the limit cannot be kept. */
export function tripsAnIteration(
  kernel: KernelFunction,
  limit: number,
  tripsOf: (loop: For) => number | undefined,
  isUnrolled: (loop: For) => boolean,
  sizeOf: (block: KBlock) => number,
): ReadonlyMap<For, number> {
  const factors = new Map<For, number>();
  const iterations = new Map<For, number>();
  const count = (block: KBlock, times: number): number => {
    let sum = 0;
    for (const inst of block.instructions) {
      if (inst.op === 'if') sum += count(inst.then, times) + count(inst.else, times);
      else if (inst.op === 'loop') sum += times * conditionTrips + count(inst.body, times * conditionTrips);
      else if (inst.op === 'for') {
        const trips = tripsOf(inst) ?? unknownTrips;
        if (!isUnrolled(inst)) {
          const own = times * Math.ceil(trips / (factors.get(inst) ?? 1));
          iterations.set(inst, own);
          sum += own;
        }
        sum += count(inst.body, times * trips);
      }
    }
    return sum;
  };
  for (let total = count(kernel.body, 1); total > limit; total = count(kernel.body, 1)) {
    let worst: For | undefined;
    for (const [loop, own] of iterations) {
      const next = 2 * (factors.get(loop) ?? 1);
      if (next > largestFactor || next * sizeOf(loop.body) > largestBody || own <= 1) continue;
      if (!worst || own > (iterations.get(worst) as number)) worst = loop;
    }
    if (!worst) {
      throw new Error(
        `kernel ${kernel.name}: an invocation may run ${total} loop iterations; this driver stops at ${limit}: give it less work`,
      );
    }
    factors.set(worst, 2 * (factors.get(worst) ?? 1));
  }
  return factors;
}
