// The arena planner: no two live tensors share a byte, alignment and pool limits hold, and little memory is wasted.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { type ArenaPlan, type ArenaTensor, planArena } from '../../compiler/schedule/arena.js';

const noLimit = 2 ** 40;
const total = (plan: ArenaPlan) => plan.pools.reduce((sum, bytes) => sum + bytes, 0);

/** Throws on overlap, misalignment or ranges outside their pool. */
function check(tensors: readonly ArenaTensor[], plan: ArenaPlan, alignment: number, maxPoolBytes: number): void {
  expect(plan.offsets).toHaveLength(tensors.length);
  for (const bytes of plan.pools) {
    expect(bytes % 16).toBe(0);
    expect(bytes).toBeLessThanOrEqual(Math.ceil(maxPoolBytes / 16) * 16);
  }
  for (const [i, a] of tensors.entries()) {
    const at = plan.offsets[i];
    if (a.bytes === 0) continue;
    expect(at.offset % alignment).toBe(0);
    expect(at.offset + a.bytes).toBeLessThanOrEqual(plan.pools[at.pool]);
    for (let j = 0; j < i; j++) {
      const b = tensors[j];
      const other = plan.offsets[j];
      const together = a.first <= b.last && b.first <= a.last && b.bytes > 0 && at.pool === other.pool;
      if (together && at.offset < other.offset + b.bytes && other.offset < at.offset + a.bytes) {
        throw new Error(`tensors ${j} and ${i} overlap`);
      }
    }
  }
}

const tensor = fc.record({
  bytes: fc.oneof(fc.integer({ min: 0, max: 64 }), fc.integer({ min: 1, max: 1 << 20 })),
  first: fc.integer({ min: 0, max: 60 }),
  length: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 60 })),
});
const tensors = fc
  .array(tensor, { maxLength: 120 })
  .map((list) => list.map(({ bytes, first, length }): ArenaTensor => ({ bytes, first, last: first + length })));

describe('planArena', () => {
  it('never lets live tensors share bytes, keeps alignment and pool limits', () => {
    const alignments = fc.constantFrom(4, 16, 64, 256);
    fc.assert(
      fc.property(tensors, alignments, fc.constantFrom(noLimit, 1 << 20, 3 << 20), (list, alignment, limit) => {
        check(list, planArena(list, alignment, limit), alignment, limit);
      }),
      { numRuns: 300 },
    );
  });

  it('stays within 1.3 of the largest live sum on random lifetimes', () => {
    let worst = 1;
    fc.assert(
      fc.property(tensors, (list) => {
        const plan = planArena(list, 16, noLimit);
        const ratio = total(plan) / Math.max(1, plan.lowerBound);
        worst = Math.max(worst, ratio);
        expect(ratio).toBeLessThanOrEqual(1.3);
      }),
      { numRuns: 500 },
    );
    expect(worst).toBeGreaterThanOrEqual(1);
  });

  it('reports the true lower bound', () => {
    fc.assert(
      fc.property(tensors, (list) => {
        let most = 0;
        for (let step = 0; step <= 120; step++) {
          const live = list.filter((t) => t.first <= step && step <= t.last);
          most = Math.max(
            most,
            live.reduce((sum, t) => sum + Math.ceil(t.bytes / 16) * 16, 0),
          );
        }
        expect(planArena(list, 16, noLimit).lowerBound).toBe(most);
      }),
    );
  });

  it('runs a chain in two buffers and a residual network close to its bound', () => {
    const chain = Array.from({ length: 50 }, (_, i): ArenaTensor => ({ bytes: 4096, first: i, last: i + 1 }));
    expect(total(planArena(chain, 256, noLimit))).toBe(2 * 4096);

    // Four stages of residual blocks (3 convolutions and a sum), sizes halving, as in ResNet-50.
    const network: ArenaTensor[] = [{ bytes: 150528 * 4, first: 0, last: 1 }];
    let step = 1;
    for (const [stage, blocks] of [3, 4, 6, 3].entries()) {
      const bytes = (56 >> stage) ** 2 * (256 << stage) * 4;
      for (let block = 0; block < blocks; block++) {
        network.push({ bytes, first: step, last: step + 4 });
        network.push({ bytes: bytes / 4, first: step + 1, last: step + 2 });
        network.push({ bytes: bytes / 4, first: step + 2, last: step + 3 });
        network.push({ bytes, first: step + 3, last: step + 4 });
        step += 4;
      }
    }
    const plan = planArena(network, 256, noLimit);
    check(network, plan, 256, noLimit);
    expect(total(plan) / plan.lowerBound).toBeLessThanOrEqual(1.15);
  });

  it('grows dense connections (each output alive to the end of its block) within the bound', () => {
    const dense: ArenaTensor[] = [];
    for (let layer = 0; layer < 32; layer++) {
      dense.push({ bytes: 28 * 28 * 32 * 4, first: 2 * layer, last: 64 });
      dense.push({ bytes: 28 * 28 * (64 + 32 * layer) * 4, first: 2 * layer, last: 2 * layer + 1 });
    }
    const plan = planArena(dense, 256, noLimit);
    check(dense, plan, 256, noLimit);
    expect(total(plan) / plan.lowerBound).toBeLessThanOrEqual(1.3);
  });

  it('opens further pools at the limit and refuses a tensor larger than one', () => {
    const list = Array.from({ length: 10 }, (): ArenaTensor => ({ bytes: 600, first: 0, last: 9 }));
    const plan = planArena(list, 16, 1300);
    expect(plan.pools).toHaveLength(5);
    check(list, plan, 16, 1300);
    expect(() => planArena([{ bytes: 2000, first: 0, last: 0 }], 16, 1300)).toThrow(TuttiError);
  });

  it('needs nothing for nothing', () => {
    expect(planArena([], 16, 1000)).toEqual({ offsets: [], pools: [], lowerBound: 0 });
    expect(planArena([{ bytes: 0, first: 0, last: 5 }], 16, 1000).pools).toEqual([]);
  });

  it('places 10,000 tensors in seconds', () => {
    const list = Array.from({ length: 10_000 }, (_, i): ArenaTensor => {
      const noise = (i * 2654435761) % 4294967296;
      return { bytes: 1 + (noise % 100_000), first: i, last: i + 1 + (noise % 7) };
    });
    const start = performance.now();
    const plan = planArena(list, 256, noLimit);
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(total(plan) / plan.lowerBound).toBeLessThanOrEqual(1.3);
  });
});
