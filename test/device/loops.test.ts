// Loops on the devices of this machine: recurrent networks, random bodies, and lists of thousands of dispatches.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { compile, devices, Session, Tensor } from '../../index.js';
import { type DeviceHandle, openDevice } from '../../runtime/device.js';
import { chooserOf } from '../support/graph_cases.js';
import {
  expectClose,
  modelOf,
  standardActivations,
  type Trial,
  toleranceOf,
  trials,
} from '../support/recurrent_cases.js';
import { accumulation, loopGraph, scanCase } from '../support/scan_cases.js';
import { useVirtualDevices } from '../support/virtual_devices.js';

useVirtualDevices();
const { devices: present } = await devices();
const hosts = (results: Readonly<Record<string, Tensor>>): Map<string, HostTensor> =>
  new Map(Object.entries(results).map(([name, tensor]) => [name, tensor.toHost()]));
const feeds = (inputs: Readonly<Record<string, HostTensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, Tensor.fromHost(tensor)]));

/** Kernels of one device are compiled one after the other: few cases, but long loops. */
const runs = 3;

for (const { id } of present) {
  describe(`loops on ${id}`, () => {
    let device: DeviceHandle;
    beforeAll(async () => {
      device = await openDevice(id);
    });
    afterAll(async () => {
      await device.release();
    });
    const run = async (model: Graph | Uint8Array, inputs: Readonly<Record<string, HostTensor>>) => {
      const compiled = model instanceof Uint8Array ? await compile(model) : model;
      await using session = await Session.create(compiled, { device });
      return hosts(await session.run(feeds(inputs)));
    };

    it.each(['RNN', 'GRU', 'LSTM'] as const)('%s over 20 to 40 steps', { timeout: 600_000 }, async (kind) => {
      const standard = standardActivations[kind];
      const cases = fc.tuple(trials(kind, 9), fc.integer({ min: 20, max: 40 })).map(([trial, steps]): Trial => {
        const { operator } = trial;
        const { x, batch, input, lengths } = operator;
        const repeated = Array.from({ length: steps * batch * input }, (_, i) => x[i % x.length]);
        const ends = lengths?.map((length, i) => (i === 0 ? steps : length));
        // Functions under which states, and errors, do not grow.
        const bounded = {
          activations: operator.activations.map((_, i) => standard[i % standard.length]),
          alphas: [],
          betas: [],
        };
        return { ...trial, dtype: 'f32', operator: { ...operator, ...bounded, steps, x: repeated, lengths: ends } };
      });
      await fc.assert(
        fc.asyncProperty(cases, async (trial) => {
          const { bytes, inputs } = modelOf(trial);
          expectClose(await run(bytes, inputs), trial, 5 * toleranceOf(trial.dtype));
        }),
        { numRuns: runs, endOnFailure: true },
      );
    });

    it('random bodies over 70 iterations', { timeout: 600_000 }, async () => {
      await fc.assert(
        fc.asyncProperty(fc.gen(), async (g) => {
          const { graph, given } = loopGraph(scanCase(chooserOf(g), { trips: 70 }));
          const [actual, expected] = [await run(graph, given), evaluateGraph(graph, given)];
          for (const [name, tensor] of expected) expect(actual.get(name), name).toEqual(tensor);
        }),
        { numRuns: runs, endOnFailure: true },
      );
    });

    it('a list of 3000 dispatches is recorded once and replayed', { timeout: 120_000 }, async () => {
      const trips = 3000;
      const { graph, inputs, last } = accumulation(trips);
      await using session = await Session.create(graph, { device });
      for (let i = 0; i < 3; i++) expect((await session.run(feeds(inputs))).last.toHost().data[0]).toBe(last);
      const [{ plan }] = session.report().specialisations;
      expect(plan).toMatchObject({ dispatches: trips, kernels: 1 });
    });
  });
}
