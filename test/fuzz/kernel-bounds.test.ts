/** Whatever the verifier accepts runs: no access out of bounds, no value outside its claimed range. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { print } from '../../compiler/kernel/print.js';
import { simplify } from '../../compiler/kernel/simplify.js';
import type { KernelFunction, KValue } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';

const types = ['i32', 'u32', 'i8', 'u8', 'i64'] as const;
const comparisons = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const;

/** A kernel made by the choices that `pick` draws; integer values of several types in all control flow. */
function randomKernel(pick: (below: number) => number, steps: number): KernelFunction {
  const b = new KernelBuilder();
  const input = b.buffer('input', 'i32', 16, 'read');
  const bytes = b.buffer('bytes', 'u8', 16, 'read');
  const length = [4, 16, 40, 130, 300][pick(5)];
  const memory = b.buffer('memory', 'i32', length, 'readwrite');
  const local = b.builtin('local_id', 0, 8);
  const values: KValue[] = [
    local,
    b.builtin('workgroup_id', 0, 2),
    b.load(input, local),
    b.scalar('n', 'i32'),
    b.scalar('m', 'u32'),
    b.convert(b.load(bytes, local), 'i32'),
    b.constant(3),
    b.constant(-1),
    b.constant(length),
  ];
  const one = (): KValue =>
    values[pick(3) === 0 ? pick(values.length) : values.length - 1 - pick(Math.min(6, values.length))];
  const as = (type: (typeof types)[number]) => b.convert(one(), type);
  const constant = (type: (typeof types)[number]): KValue => {
    const c = [0, 1, 2, 3, 7, 10, 63, 100][pick(8)];
    return b.constant(type === 'i64' ? BigInt(c) : c, type);
  };
  const condition = (depth = 0): KValue => {
    const kind = pick(depth > 1 ? 1 : 5);
    if (kind === 1) return b.and(condition(depth + 1), condition(depth + 1));
    if (kind === 2) return b.or(condition(depth + 1), condition(depth + 1));
    if (kind === 3) return b.unary('not', condition(depth + 1));
    const type = types[pick(5)];
    return b.compare(comparisons[pick(6)], as(type), pick(2) ? constant(type) : as(type));
  };
  const within = (body: () => readonly KValue[]): readonly KValue[] => {
    const mark = values.length;
    const results = body();
    values.length = mark;
    return results;
  };
  const run = (count: number, depth: number): void => {
    for (let i = 0; i < count; i++) step(depth);
  };
  /** A store under a condition that is mostly enough to prove it. */
  const guarded = (index: KValue, kind: number): void => {
    const shifted = b.addc(index, pick(5) - 2);
    const scaled = b.mulc(b.clamp(index, 0, 1000), 1 + pick(3));
    const tested = [index, shifted, scaled, b.convert(index, 'u32')][kind];
    const { scalar } = tested.type;
    const low = b.compare('ge', tested, b.constant(pick(4), scalar));
    const high = b.compare('lt', tested, b.constant(length - pick(3), scalar));
    b.if(pick(4) ? b.and(low, high) : high, () => {
      const used = [index, index, shifted, b.convert(tested, 'i32')][pick(4)];
      b.store(memory, used, one().type.scalar === 'i32' ? index : shifted);
    });
  };
  const step = (depth: number): void => {
    const type = types[pick(5)];
    const positive = () => b.constant(type === 'i64' ? BigInt(1 + pick(9)) : 1 + pick(9), type);
    switch (pick(depth > 2 ? 10 : 13)) {
      case 0:
      case 1:
        values.push(
          b.binary((['add', 'sub', 'mul', 'min', 'max', 'and', 'or', 'xor'] as const)[pick(8)], as(type), as(type)),
        );
        break;
      case 2:
        values.push(
          b.binary(
            (['add', 'sub', 'mul', 'min', 'max', 'and', 'or', 'xor'] as const)[pick(8)],
            as(type),
            constant(type),
          ),
        );
        break;
      case 3:
        values.push(b.binary((['div', 'rem'] as const)[pick(2)], as(type), positive()));
        break;
      case 4:
        values.push(
          b.binary((['shl', 'shr'] as const)[pick(2)], as(type), b.constant(type === 'i64' ? 3n : pick(8), type)),
        );
        break;
      case 5: {
        const [x, y] = [as(type), as(type)];
        values.push(b.select(condition(), x, y));
        break;
      }
      case 6:
        values.push(b.unary((['neg', 'abs', 'not', 'popcount', 'clz'] as const)[pick(5)], as(type)));
        break;
      case 7: {
        const low = pick(20) - 5;
        values.push(b.clamp(as('i32'), low, low + pick(150)));
        break;
      }
      case 8:
        values.push(b.load(memory, as('i32')));
        break;
      case 9:
        guarded(as('i32'), pick(4));
        break;
      case 10: {
        const arm = () =>
          within(() => {
            run(1 + pick(3), depth + 1);
            return [as(type), as('i32')];
          });
        values.push(...b.if(condition(), arm, arm));
        break;
      }
      case 11: {
        const [x, y] = [as(type), as('i32')];
        values.push(
          ...b.for(pick(4), pick(2) ? pick(9) : b.clamp(as('i32'), 0, 6), 1 + pick(3), [x, y], (index, carried) =>
            within(() => {
              values.push(index, ...carried);
              run(1 + pick(3), depth + 1);
              return [as(type), as('i32')];
            }),
          ),
        );
        break;
      }
      default: {
        // A loop that is sure to end: it counts down.
        const [, , kept] = b.loop([b.constant(5), as(type), as('i32')], ([left, x, y]) => {
          const next = within(() => {
            values.push(left, x, y);
            run(1 + pick(2), depth + 1);
            return [as(type), as('i32')];
          });
          const fewer = b.addc(left, -1);
          return { condition: b.compare('gt', fewer, b.constant(0)), next: [fewer, ...next] };
        });
        values.push(kept);
      }
    }
  };
  run(steps, 0);
  return b.finish({ name: 'random', grid: [2, 1, 1], workgroup: [8, 1, 1] });
}

test('accepted kernels keep their bounds and ranges, and mean the same without dead code', () => {
  let accepted = 0;
  let touching = 0;
  fc.assert(
    fc.property(
      fc.infiniteStream(fc.nat(2 ** 20)),
      fc.integer({ min: 1, max: 5 }),
      fc.array(fc.integer(), { minLength: 18, maxLength: 18 }),
      fc.boolean(),
      (stream, steps, data, small) => {
        const kernel = randomKernel((below) => Number(stream.next().value) % below, steps);
        try {
          verify(kernel, { stage: 'scheduled' });
        } catch (error) {
          if (!(error instanceof TuttiError)) throw error;
          // Accesses may be unproven. Everything the builder claims by itself must be provable.
          expect(error.message, print(kernel)).toMatch(/not proven in bounds/);
          return;
        }
        accepted++;
        if (/store|@memory\[/.test(print(kernel).split('\n').slice(4).join('\n'))) touching++;
        const input = Int32Array.from(data.slice(0, 16), (x) => (small ? x % 50 : x));
        const bytes = Uint8Array.from(data.slice(2, 18));
        const scalars = [small ? data[16] % 100 : data[16], small ? Math.abs(data[17]) % 100 : data[17] >>> 0];
        const [memory] = kernel.params.flatMap((param) =>
          param.name === 'memory' && param.kind === 'buffer' ? [param] : [],
        );
        const results = [kernel, simplify(kernel)].map((k) => {
          const out = new Int32Array(memory.length);
          interpret(k, [input, bytes, out], scalars, { checkRanges: true });
          return [...out];
        });
        expect(results[1]).toEqual(results[0]);
      },
    ),
    { numRuns: 4000 },
  );
  expect(accepted).toBeGreaterThan(500);
  expect(touching).toBeGreaterThan(200);
});
