/** Dawn's turns of the event loop: none is lost, and they get rare while a run lasts. */
import { afterEach, describe, expect, test } from 'vitest';
import { Polling } from '../../backends/webgpu/polling.js';

const original = globalThis.setImmediate;
afterEach(() => {
  globalThis.setImmediate = original;
});

/** Work that takes `ms` and is asked for in every turn, as Dawn does it; resolves to how often. */
function work(ms: number): Promise<number> {
  const end = performance.now() + ms;
  let turns = 0;
  return new Promise((resolve) => {
    const turn = (): void => {
      turns++;
      if (performance.now() >= end) resolve(turns);
      else setImmediate(turn);
    };
    setImmediate(turn);
  });
}

describe('polling', () => {
  test('turns are spaced while work lasts', async () => {
    const polling = new Polling(true);
    const turns = await polling.begin(() => work(60));
    expect(turns).toBeGreaterThan(1);
    // Two milliseconds of eager turns, whose number is the machine's, then one a millisecond.
    const eager = await work(2);
    expect(turns).toBeLessThan(eager * 20 + 80);
  });

  test('others see their own setImmediate', async () => {
    const polling = new Polling(false);
    let inside: unknown;
    polling.begin(() => {
      inside = globalThis.setImmediate;
    });
    expect(inside).not.toBe(original);
    expect(globalThis.setImmediate).toBe(original);
    expect(() =>
      polling.begin(() => {
        throw new Error('no device');
      }),
    ).toThrow('no device');
    expect(globalThis.setImmediate).toBe(original);
  });

  test('a browser has none', () => {
    Reflect.deleteProperty(globalThis, 'setImmediate');
    expect(new Polling(true).begin(() => 7)).toBe(7);
    expect('setImmediate' in globalThis).toBe(false);
  });
});
