/** The verifier's interval arithmetic contains every value that the op can give. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { binaryInterval, invertBinary, typeInterval } from '../../compiler/kernel/intervals.js';
import { binaryNumber, integerBounds } from '../../compiler/kernel/semantics.js';

const fns = ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'] as const;
const types = ['i8', 'u8', 'i16', 'i32', 'u32'] as const;

/** An interval of the type, often a narrow one near 0 or a bound, and a value in it. */
const member = (type: (typeof types)[number]) => {
  const [low, high] = integerBounds(type);
  const end = fc.oneof(
    fc.integer({ min: Math.max(low, -20), max: 20 }),
    fc.integer({ min: low, max: high }),
    fc.constantFrom(low, high, high - 1),
  );
  return fc.tuple(end, end, fc.double({ min: 0, max: 1, noNaN: true })).map(([x, y, t]) => {
    const [min, max] = [Math.min(x, y), Math.max(x, y)];
    return { range: { min, max }, value: Math.min(max, min + Math.floor(t * (max - min + 1))) };
  });
};

test.each(fns.flatMap((fn) => types.map((type) => [fn, type] as const)))('%s %s', (fn, type) => {
  const apply = binaryNumber(fn, type);
  fc.assert(
    fc.property(member(type), member(type), (a, b) => {
      let result: number;
      try {
        result = apply(a.value, b.value);
      } catch {
        // A promise of the op is broken: no result.
        return;
      }
      const interval = binaryInterval(fn, a.range, b.range, type) ?? typeInterval(type);
      expect(interval?.min).toBeLessThanOrEqual(result);
      expect(interval?.max).toBeGreaterThanOrEqual(result);
      // What is concluded back about `a` from a result that did not wrap.
      const exact = {
        add: a.value + b.value,
        sub: a.value - b.value,
        mul: a.value * b.value,
        div: Math.trunc(a.value / b.value),
      };
      if (Object.hasOwn(exact, fn) && exact[fn as keyof typeof exact] === result) {
        const back = invertBinary(fn, { min: result, max: result }, b.value, a.range);
        if (back !== undefined) {
          expect(back.min).toBeLessThanOrEqual(a.value);
          expect(back.max).toBeGreaterThanOrEqual(a.value);
        }
      }
    }),
    { numRuns: 300 },
  );
});
