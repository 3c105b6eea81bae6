// Runs in stages and tensors that stay on the device, on the devices of this machine.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { bytesOfTensor, emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { devices, Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { typeOfDType } from '../../runtime/tensor.js';
import { grow, growth, names, scalar } from '../support/control_cases.js';
import { f32, type ModelInit, model, node, value } from '../support/onnx_model.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();
const feeds = (inputs: Readonly<Record<string, HostTensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));
const numbers = (tensor: Tensor): number[] => Array.from(tensor.data as Float32Array, Number);

/** What is selected goes through a loop as long as it is small: counts, conditions and shapes all depend on data. */
const selecting: ModelInit = {
  opset: 17,
  inputs: [value('x', 'f32', ['n']), value('limit', 'f32', [])],
  initializers: { go: scalar('bool', 1), two: f32([], 2) },
  nodes: [
    node('mask = Greater(x, limit)'),
    node('some = Compress(x, mask)', { axis: 0n }),
    node('last = Loop(, go, some)', {
      body: {
        name: 'b',
        input: names('i c before'),
        node: [
          node('after = Mul(before, two)'),
          node('sum = ReduceSum(after)', { keepdims: 0n }),
          node('more = Less(sum, limit)'),
        ],
        output: names('more after'),
      },
    }),
  ],
  outputs: ['last'],
};

for (const { id } of present) {
  describe(`stages on ${id}`, () => {
    let device: DeviceHandle;
    beforeAll(async () => {
      device = await openDevice(id);
    });
    afterAll(async () => {
      await device.release();
    });

    it('a loop that data ends, overlapping with others', { timeout: 300_000 }, async () => {
      await using session = await Session.create(model(growth), { device });
      const cases = fc.sample(
        fc.record({
          h: fc.tuple(fc.nat(40), fc.nat(40), fc.nat(40)).map((v) => v.map((x) => x / 8)),
          x: fc.tuple(fc.nat(40), fc.nat(40), fc.nat(40)).map((v) => v.map((x) => x / 8)),
          limit: fc.integer({ min: 0, max: 500 }),
          trips: fc.nat(20),
        }),
        { numRuns: 12, seed: 5 },
      );
      const runs = cases.map(({ h, x, limit, trips }) =>
        session.run(
          feeds({ h: f32([3], ...h), x: f32([3], ...x), limit: scalar('f32', limit), trips: scalar('i64', trips) }),
        ),
      );
      for (const [i, { last, all }] of (await Promise.all(runs)).entries()) {
        const { h, x, limit, trips } = cases[i];
        const expected = grow(h, x, limit, trips);
        expect(numbers(last)).toEqual(expected.last);
        expect(numbers(all)).toEqual(expected.all);
      }
    });

    it('elements that data selects', { timeout: 300_000 }, async () => {
      await using session = await Session.create(model(selecting), { device });
      const cases: readonly (readonly [limit: number, x: readonly number[]])[] = [
        [3, [1, 5, 2, 4]],
        [40, [41, 0, 42, 43, 7]],
        [9, Array.from({ length: 300 }, (_, i) => (i % 3 === 0 ? 10 : 1))],
      ];
      for (const [limit, x] of cases) {
        let expected = x.filter((v) => v > limit);
        do expected = expected.map((v) => v * 2);
        while (expected.reduce((p, q) => p + q, 0) < limit);
        const { last } = await session.run(feeds({ x: f32([x.length], ...x), limit: scalar('f32', limit) }));
        expect(numbers(last)).toEqual(expected);
      }
    });

    it.each(['f32', 'i8', 'bool', 'i64'] as const)(
      '%s tensors of odd sizes go round',
      {
        timeout: 300_000,
      },
      async (dtype: DType) => {
        for (const count of [1, 3, 1025]) {
          const bytes = model({
            inputs: [value('x', dtype, [count]), value('h', dtype, [count])],
            nodes: [node('y = Where(c, x, h)'), node('next = Identity(x)'), node('old = Identity(h)')],
            initializers: { c: scalar('bool', 0) },
            outputs: ['y', 'next', 'old'],
          });
          await using session = await Session.create(bytes, { device });
          const tensorOf = (seed: number): HostTensor => {
            const tensor = emptyTensor(dtype, [count]);
            bytesOfTensor(tensor).forEach((_, i, all) => {
              all[i] = dtype === 'bool' ? (i + seed) % 2 : (7 * i + seed) % 100;
            });
            return tensor;
          };
          let h = await session.tensor(typeOfDType(dtype), [count], tensorOf(0).data as never);
          for (let i = 1; i < 4; i++) {
            const { y, next, old } = await session.run(
              { x: Tensor.fromHost(tensorOf(i)), h },
              { outputs: { y: 'cpu', next: 'device', old: 'device' } },
            );
            expect(y.data).toEqual(tensorOf(i - 1).data);
            expect(await old.getData()).toEqual(tensorOf(i - 1).data);
            old.dispose();
            h.dispose();
            h = next;
          }
          h.dispose();
        }
      },
    );

    it('a state that is updated in place', { timeout: 300_000 }, async () => {
      const bytes = model({
        inputs: [value('x', 'f32', [5]), value('h', 'f32', [5])],
        initializers: { half: f32([], 0.5) },
        nodes: [node('scaled = Mul(h, half)'), node('y = Add(x, scaled)'), node('next = Add(y, y)')],
        outputs: ['y', 'next'],
      });
      await using session = await Session.create(bytes, { device });
      const state = await session.tensor('float32', [5]);
      const binding = await session.bind({
        inputs: { x: [1, 2, 3, 4, 5], h: state },
        outputs: { y: 'cpu', next: state },
      });
      let expected = [0, 0, 0, 0, 0];
      for (let i = 0; i < 5; i++) {
        const { y } = await binding.run();
        const now = expected.map((v, k) => v / 2 + k + 1);
        expect(numbers(y)).toEqual(now);
        expected = now.map((v) => 2 * v);
      }
      expect(Array.from((await state.getData()) as Float32Array)).toEqual(expected);
      binding.dispose();
      state.dispose();
    });
  });
}
