/** Any text either parses, and then prints and parses to the same again, or is refused with a position. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { parse } from '../../compiler/kernel/parse.js';
import { print } from '../../compiler/kernel/print.js';
import { verify } from '../../compiler/kernel/verify.js';
import { everyOp } from '../support/kernels.js';

const valid = print(everyOp());
const lines = valid.split('\n');
const tokens = [...new Set(valid.match(/[A-Za-z_][A-Za-z0-9_]*|%[0-9]+|-?[0-9.]+|[^\sA-Za-z0-9]/g))];

/** Parses and verifies; all that may be thrown is a TuttiError E_IR. */
function survives(text: string): boolean {
  let kernel: ReturnType<typeof parse>;
  try {
    kernel = parse(text);
  } catch (error) {
    expect(error).toBeInstanceOf(TuttiError);
    expect((error as TuttiError).code).toBe('E_IR');
    expect((error as TuttiError).message).toMatch(/^line [0-9]+, column [0-9]+: /);
    return false;
  }
  const printed = print(kernel);
  expect(print(parse(printed))).toBe(printed);
  try {
    verify(kernel, { stage: 'scheduled' });
  } catch (error) {
    if (!(error instanceof TuttiError)) throw error;
    expect(error.code).toBe('E_IR');
  }
  return true;
}

test('mutations of a valid text', () => {
  const at = fc.integer({ min: 0, max: valid.length });
  const mutation = fc.oneof(
    fc.tuple(at, fc.constantFrom(...tokens)).map(
      ([i, token]) =>
        (text: string) =>
          `${text.slice(0, i)} ${token} ${text.slice(i)}`,
    ),
    fc.tuple(at, fc.integer({ min: 1, max: 30 })).map(
      ([i, n]) =>
        (text: string) =>
          text.slice(0, i) + text.slice(i + n),
    ),
    fc.tuple(at, fc.string({ minLength: 1, maxLength: 3, unit: 'binary' })).map(
      ([i, s]) =>
        (text: string) =>
          text.slice(0, i) + s + text.slice(i + s.length),
    ),
  );
  fc.assert(
    fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
      survives(mutations.reduce((text, mutate) => mutate(text), valid));
    }),
    { numRuns: 3000 },
  );
});

test('one token for another, which often still parses', () => {
  const parts = valid.split(/(%[0-9]+|[A-Za-z_][A-Za-z0-9_]*|-?[0-9.]+)/);
  let parsed = 0;
  fc.assert(
    fc.property(fc.nat(parts.length - 1), fc.constantFrom(...tokens), (i, token) => {
      if (survives(parts.with(i, i % 2 === 1 ? token : parts[i]).join(''))) parsed++;
    }),
    { numRuns: 3000 },
  );
  expect(parsed).toBeGreaterThan(100);
});

test('lines left out, doubled or swapped', () => {
  const line = fc.nat(lines.length - 1);
  fc.assert(
    fc.property(line, line, fc.constantFrom('drop', 'double', 'swap'), (i, j, how) => {
      const copy = [...lines];
      if (how === 'drop') copy.splice(i, 1);
      else if (how === 'double') copy.splice(i, 0, lines[j]);
      else [copy[i], copy[j]] = [copy[j], copy[i]];
      survives(copy.join('\n'));
    }),
    { numRuns: 2000 },
  );
});

test('any text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => void survives(text)),
    { numRuns: 1000 },
  );
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...tokens), { maxLength: 60 }), (list) => {
      survives(`tutti-kernel 1\nkernel @k grid 1, 1, 1 workgroup 1, 1, 1 {\n${list.join(' ')}\n}`);
    }),
    { numRuns: 2000 },
  );
});

test('long texts take time in proportion', () => {
  const head = 'tutti-kernel 1\nkernel @k grid 1, 1, 1 workgroup 1, 1, 1 {\n';
  const start = performance.now();
  survives(`${head}source "${'x'.repeat(3_000_000)}"\n}`);
  survives(`${head}source "${'\\n'.repeat(1_000_000)}`);
  survives(head + ' '.repeat(3_000_000));
  survives(head + '{'.repeat(1_000_000));
  survives(`${head}%0: f64 = const ${'9'.repeat(1_000_000)}\n}`);
  expect(performance.now() - start).toBeLessThan(5000);
});
