// Side-by-side timing: subjects take turns, and measuring ends where one of them is slow.
import { describe, expect, it } from 'vitest';
import { measure, type Subject } from '../../cli/measure.js';

/** Blocks by a clock of its own: what a subject is asked for, without waiting for it. */
function timed(name: string, ms: number, log: string[]): Subject {
  return {
    name,
    run: async () => void log.push(`${name} settles`),
    block: async (count) => {
      log.push(`${name} ${count}`);
      return new Array<number>(count).fill(ms);
    },
  };
}

const waiting = (name: string, ms: number, log: string[]): Subject => ({
  name,
  run: () => {
    log.push(name);
    return new Promise((resolve) => setTimeout(resolve, ms));
  },
});

describe('measure', () => {
  it('warms up, then runs blocks in the order A B B A', async () => {
    const log: string[] = [];
    const [a, b] = await measure([timed('a', 240, log), timed('b', 120, log)], {
      warmup: 5,
      iterations: 4,
      duration: 0,
    });
    const blocks = log.filter((line) => !line.endsWith('settles'));
    expect(blocks).toEqual(['a 1', 'a 4', 'b 1', 'b 4', 'a 2', 'b 3', 'b 3', 'a 2']);
    expect([a.medianMs, a.samples, b.medianMs, b.samples]).toEqual([240, 4, 120, 6]);
  });

  it('lets only short runs settle', async () => {
    const log: string[] = [];
    await measure([timed('long', 300, log), timed('short', 60, log)], { warmup: 1, iterations: 2, duration: 0 });
    expect(log).not.toContain('long settles');
    expect(log).toContain('short settles');
  });

  it('ends at its limit, after as many turns of one order as of the other', async () => {
    const log: string[] = [];
    const schedule = { warmup: 100, iterations: 1000, duration: 60_000, limit: 500 };
    const [a, b] = await measure([waiting('a', 200, log), waiting('b', 200, log)], schedule);
    expect(a.samples).toBe(b.samples);
    expect(a.samples % 2).toBe(0);
    expect(a.samples).toBeGreaterThanOrEqual(4);
    // Warm-ups of one run each; a run that settles before each that counts.
    expect(log.length).toBeLessThanOrEqual(2 + 4 * a.samples);
    expect(a.samples).toBeLessThanOrEqual(6);
  });

  it('measures as long as it is told where there is no limit', async () => {
    const log: string[] = [];
    const [only] = await measure([waiting('only', 5, log)], { warmup: 2, iterations: 3, duration: 300 });
    expect(only.samples).toBeGreaterThanOrEqual(12);
  });
});
