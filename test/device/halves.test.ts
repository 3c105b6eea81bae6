// Floats of 16 bits on every device of this machine: what a kernel computes in a chain it rounds once. Each chain passes
// through numbers of which the type keeps no fraction, so that a rounding on the way would be seen.
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import type { Value } from '../../compiler/graph/types.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { devices, Session, Tensor } from '../../index.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();

type Half = 'f16' | 'bf16';
const [rows, columns] = [7, 20];
/** Multiples of 1/16 from -2 to 2, which both types hold. */
const numbers = Float32Array.from({ length: rows * columns }, (_, i) => (((i * 29) % 65) - 32) / 16);

interface Chain {
  readonly build: (b: GraphBuilder, x: Value, dtype: Half) => Value;
  /** Of row and column, exactly. */
  readonly expected: (row: number, column: number) => number;
}
const at = (row: number, column: number): number => numbers[row * columns + column];
const total = (row: number): number => numbers.slice(row * columns, (row + 1) * columns).reduce((s, x) => s + x, 0);
/** Above this neither type has fractions. */
const large = 4096;
const there = (b: GraphBuilder, x: Value): Value => c.binaryC(b, 'add', x, large);
const back = (b: GraphBuilder, x: Value): Value => c.binaryC(b, 'sub', x, large);

const chains: Readonly<Record<string, Chain>> = {
  map: { build: (b, x) => back(b, c.unary(b, 'neg', c.unary(b, 'neg', there(b, x)))), expected: at },
  'map through views': {
    build: (b, x) => c.transpose(b, back(b, c.transpose(b, there(b, x), [1, 0])), [1, 0]),
    expected: at,
  },
  'before rows': {
    build: (b, x) => c.binaryC(b, 'add', c.reduce(b, 'max', back(b, there(b, x)), [1], true), 0.5),
    expected: (row) => Math.max(...numbers.slice(row * columns, (row + 1) * columns)) + 0.5,
  },
  'after rows': {
    build: (b, x) => back(b, there(b, c.reduce(b, 'sum', x, [1], true))),
    expected: total,
  },
  'after a product': {
    build: (b, x, dtype) => back(b, there(b, c.matmul(b, x, c.full(b, 1, dtype, [columns, 1]), dtype))),
    expected: total,
  },
};

for (const { id } of present) {
  describe(id, () => {
    for (const dtype of ['f16', 'bf16'] as const) {
      it.each(Object.keys(chains))(`${dtype}, %s`, { timeout: 120_000 }, async (name) => {
        const { build, expected } = chains[name];
        const b = new GraphBuilder(name);
        b.output('z', build(b, b.input('x', dtype, [rows, columns]), dtype));
        const x = cast({ dtype: 'f32', shape: [rows, columns], data: numbers }, dtype, { saturate: true });
        await using session = await Session.create(b.finish(), { device: id });
        const { z } = await session.run({ x: Tensor.fromHost(x) });
        const tensor: HostTensor = z.toHost();
        const width = tensor.shape[1];
        [...elementsOf(cast(tensor, 'f32', { saturate: true }))].forEach((value, i) => {
          const wanted = expected(Math.floor(i / width), i % width);
          // Half a unit in the last place of the type.
          const tolerance = Math.abs(wanted) * (dtype === 'f16' ? 2 ** -11 : 2 ** -8);
          expect(Math.abs(Number(value) - wanted), `${i}: ${value}, not ${wanted}`).toBeLessThanOrEqual(tolerance);
        });
      });
    }
  });
}
