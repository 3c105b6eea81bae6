// If, Loop and Scan of ONNX models in sessions, against the same loops in plain JavaScript.
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import type { HostTensor } from '../../compiler/tensor.js';
import type { SessionReport } from '../../runtime/api.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { grow, growth, names, scalar } from '../support/control_cases.js';
import { interpret, programModel, randomProgram } from '../support/control_programs.js';
import { chooserOf } from '../support/graph_cases.js';
import { interpreterDevice } from '../support/interpreter_device.js';
import { f32, i64, type ModelInit, model, node, value } from '../support/onnx_model.js';

const open: Session[] = [];
async function sessionOf(init: ModelInit, memoryBytes?: number): Promise<Session> {
  const device = interpreterDevice(memoryBytes === undefined ? {} : { memoryBytes });
  const session = await Session.create(model(init), { device });
  open.push(session);
  return session;
}
afterEach(async () => {
  for (const session of open.splice(0)) await session.close();
});

const feed = (tensor: HostTensor) => Tensor.fromHost(tensor);
const numbers = (tensor: Tensor): number[] => Array.from(tensor.data as Float32Array, Number);
const difference = (after: SessionReport, before: SessionReport) => ({
  run: after.stages.run - before.stages.run,
  planned: after.stages.planned - before.stages.planned,
  valuesRead: after.stages.valuesRead - before.stages.valuesRead,
});

describe('a loop whose condition depends on data', () => {
  it('does what plain code does, for any data', { timeout: 60_000 }, async () => {
    const session = await sessionOf(growth);
    const element = fc.integer({ min: 0, max: 64 }).map((n) => n / 8);
    const vector = fc.tuple(element, element, element);
    await fc.assert(
      fc.asyncProperty(vector, vector, fc.integer({ min: 0, max: 300 }), fc.nat(12), async (h, x, limit, trips) => {
        const feeds = {
          h: f32([3], ...h),
          x: f32([3], ...x),
          limit: scalar('f32', limit),
          trips: scalar('i64', trips),
        };
        const { last, all } = await session.run(
          Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, feed(tensor)])),
        );
        const expected = grow(h, x, limit, trips);
        expect(numbers(last)).toEqual(expected.last);
        expect(numbers(all)).toEqual(expected.all);
        expect(all.dims).toEqual([expected.all.length / 3, 3]);
      }),
      { numRuns: 40 },
    );
  });

  it('plans its iterations once, and finds its stages again', async () => {
    const session = await sessionOf(growth);
    const feeds = (limit: number) => ({
      h: Tensor.from([1, 1, 1]),
      x: Tensor.from([1, 0, 0]),
      limit: feed(scalar('f32', limit)),
      trips: feed(scalar('i64', 30)),
    });
    const start = session.report();
    const { all } = await session.run(feeds(100));
    const rows = all.dims[0];
    expect(rows).toBeGreaterThan(5);
    const first = difference(session.report(), start);
    expect(first.valuesRead).toBe(rows);
    // The beginning, an iteration, the end.
    expect(first.planned).toBeLessThanOrEqual(4);
    const before = session.report();
    await session.run(feeds(100));
    expect(difference(session.report(), before)).toEqual({ ...first, planned: 0 });
  });
});

describe('a loop of a known number of trips', () => {
  const counting = (trips: number): ModelInit => ({
    opset: 17,
    inputs: [value('x', 'f32', [2])],
    initializers: { trips: scalar('i64', trips) },
    nodes: [
      node('last = Loop(trips, , x)', {
        body: {
          name: 'step',
          input: names('i c before'),
          node: [node('f = Cast(i)', { to: 1n }), node('after = Add(before, f)'), node('d = Identity(c)')],
          output: names('d after'),
        },
      }),
    ],
    outputs: ['last'],
  });

  it('is one stage, long or short', { timeout: 60_000 }, async () => {
    for (const trips of [1, 2, 10, 1000]) {
      const session = await sessionOf(counting(trips));
      const sum = (trips * (trips - 1)) / 2;
      expect(numbers((await session.run({ x: [0, 1] })).last)).toEqual([sum, sum + 1]);
      expect(session.report().stages).toEqual({ run: 1, planned: 1, valuesRead: 0 });
    }
  });

  it('is cut into stages of one program where it is endless for a list, without reading anything', {
    timeout: 60_000,
  }, async () => {
    const session = await sessionOf(counting(5000));
    const { last } = await session.run({ x: [0, 1] });
    // Sums beyond 2^24 are rounded at each step.
    let sum = Float32Array.of(0, 1);
    for (let i = 0; i < 5000; i++) sum = sum.map((v) => v + i);
    expect(numbers(last)).toEqual([...sum]);
    const { planned, valuesRead } = session.report().stages;
    expect(valuesRead).toBe(0);
    expect(planned).toBeLessThanOrEqual(3);
  });
});

describe('shapes that grow', () => {
  it('carries what is concatenated', async () => {
    const session = await sessionOf({
      opset: 17,
      inputs: [value('x', 'f32', ['n']), value('limit', 'f32', [])],
      initializers: { go: scalar('bool', 1) },
      nodes: [
        node('all = Loop(, go, x)', {
          body: {
            name: 'double',
            input: names('i c before'),
            node: [
              node('after = Concat(before, before)', { axis: 0n }),
              node('sum = ReduceSum(after)', { keepdims: 0n }),
              node('more = Less(sum, limit)'),
            ],
            output: names('more after'),
          },
        }),
      ],
      outputs: ['all'],
    });
    for (const [x, limit] of [
      [[1, 2], 11],
      [[1], 100],
      [[5, 5], 1],
    ] as const) {
      let expected: number[] = [...x];
      do expected = [...expected, ...expected];
      while (expected.reduce((p, q) => p + q) < limit);
      const { all } = await session.run({ x: [...x], limit: feed(scalar('f32', limit)) });
      expect(numbers(all)).toEqual(expected);
    }
  });
});

describe('a branch in a loop', () => {
  /** Collatz: n/2 or 3n+1 until 1; the branches give different shapes, so that none is computed for nothing. */
  const collatz: ModelInit = {
    opset: 17,
    inputs: [value('n', 'i64', [1])],
    initializers: { go: scalar('bool', 1), two: i64(2), three: i64(3), one: i64(1), axes: i64(0) },
    nodes: [
      node('wide = Mul(n, one)'),
      node('last, steps = Loop(, go, wide)', {
        body: {
          name: 'step',
          input: names('i c before'),
          node: [
            node('rest = Mod(before, two)'),
            node('odd = Cast(rest)', { to: 9n }),
            node('after = If(odd)', {
              then_branch: {
                name: 'up',
                node: [node('t = Mul(before, three)'), node('u = Add(t, one)'), node('v = Reshape(u, one)')],
                output: names('v'),
              },
              else_branch: { name: 'down', node: [node('w = Div(before, two)')], output: names('w') },
            }),
            node('same = Equal(after, one)'),
            node('apart = Not(same)'),
            node('more = Squeeze(apart, axes)'),
            node('copy = Identity(after)'),
          ],
          output: names('more after copy'),
        },
      }),
    ],
    outputs: ['last', 'steps'],
  };

  it('follows the data', async () => {
    const session = await sessionOf(collatz);
    for (const start of [6, 7, 27, 6]) {
      const expected: number[] = [];
      let n = start;
      do expected.push((n = n % 2 === 0 ? n / 2 : 3 * n + 1));
      while (n !== 1);
      const { steps, last } = await session.run({ n: feed(i64(start)) });
      expect(numbers(steps)).toEqual(expected);
      expect(numbers(last)).toEqual([1]);
    }
  });
});

describe('random programs', () => {
  const plain = (list: readonly number[]): number[] => list.map((x) => x + 0);
  const start = fc.array(fc.integer({ min: -5, max: 9 }), { minLength: 1, maxLength: 4 });

  it('evaluate as plain code does', { timeout: 120_000 }, () => {
    let most = 0;
    fc.assert(
      fc.property(fc.gen(), start, (g, x) => {
        const program = randomProgram(chooserOf(g));
        const graph = importOnnx(model(programModel(program)));
        const { outputs, stages } = evaluateStages(graph, { x: f32([x.length], ...x) }, resolvers);
        most = Math.max(most, stages);
        const y = outputs.get('y') as HostTensor;
        expect(plain(Array.from(y.data as Float32Array))).toEqual(plain(interpret(program, x)));
      }),
      { numRuns: 300 },
    );
    // Not all of them are straight.
    expect(most).toBeGreaterThan(5);
  });

  it('run on a device, again and again, as plain code does', { timeout: 240_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.gen(), fc.array(start, { minLength: 1, maxLength: 3 }), async (g, starts) => {
        const program = randomProgram(chooserOf(g), 2);
        const session = await sessionOf(programModel(program));
        for (const x of [...starts, ...starts]) {
          const { y } = await session.run({ x: Tensor.from(x) });
          // A kernel may leave out the addition of a zero, which decides about the sign of zeros.
          expect(plain(numbers(y))).toEqual(plain(interpret(program, x)));
        }
      }),
      { numRuns: 25 },
    );
  });
});

describe('loops without an end', () => {
  const endless: ModelInit = {
    opset: 17,
    inputs: [value('x', 'f32', [4])],
    nodes: [
      node('last = Loop(, , x)', {
        body: {
          name: 'step',
          input: names('i c before'),
          node: [
            node('after = Neg(before)'),
            node('sum = ReduceSum(after)', { keepdims: 0n }),
            node('big = IsInf(sum)'),
            node('more = Not(big)'),
          ],
          output: names('more after'),
        },
      }),
    ],
    outputs: ['last'],
  };

  it('stop when the signal fires', async () => {
    const session = await sessionOf(endless);
    const control = new AbortController();
    const run = session.run({ x: [1, 2, 3, 4] }, { signal: control.signal });
    setTimeout(() => control.abort(), 100);
    await expect(run).rejects.toMatchObject({ code: 'E_ABORTED' });
  });

  it('stop when the session is closed', async () => {
    const session = await sessionOf(endless);
    const run = session.run({ x: [1, 2, 3, 4] });
    setTimeout(() => session.close(), 100);
    await expect(run).rejects.toMatchObject({ code: 'E_DEVICE_CLOSED' });
  });

  it('that stack results end when memory is full, and leave none behind', { timeout: 60_000 }, async () => {
    const [step] = endless.nodes as never[];
    const body = (step as { attribute: { g: { node: unknown[]; output: unknown[] } }[] }).attribute[0].g;
    const stacking: ModelInit = {
      ...endless,
      nodes: [
        node('last, all = Loop(, , x)', {
          body: {
            ...body,
            node: [...body.node, node('copy = Identity(after)')],
            output: names('more after copy'),
          } as never,
        }),
      ],
      outputs: ['last', 'all'],
    };
    const session = await sessionOf(stacking, 1 << 16);
    const full = () => expect(session.run({ x: [1, 2, 3, 4] })).rejects.toMatchObject({ code: 'E_OUT_OF_MEMORY' });
    await full();
    const { residentBytes } = session.memory;
    await full();
    expect(session.memory.residentBytes).toBe(residentBytes);
  });
});

describe('Scan', () => {
  const sums = (attrs: Record<string, bigint[] | bigint>, trips: number | string): ModelInit => ({
    opset: 17,
    inputs: [value('h', 'f32', [2]), value('x', 'f32', [trips, 2])],
    nodes: [
      node('last, all = Scan(h, x)', {
        num_scan_inputs: 1n,
        ...attrs,
        body: {
          name: 'step',
          input: names('before slice'),
          node: [node('after = Add(before, slice)'), node('copy = Identity(after)')],
          output: names('after copy'),
        },
      }),
    ],
    outputs: ['last', 'all'],
  });

  it('walks and stacks in either direction', async () => {
    for (const [from, to] of [
      [0n, 0n],
      [1n, 0n],
      [0n, 1n],
      [1n, 1n],
    ]) {
      const session = await sessionOf(sums({ scan_input_directions: [from], scan_output_directions: [to] }, 3));
      const { last, all } = await session.run({ h: [10, 20], x: [1, 2, 3, 4, 5, 6] });
      const rows = [
        [1, 2],
        [3, 4],
        [5, 6],
      ];
      if (from === 1n) rows.reverse();
      let h = [10, 20];
      const stack = rows.map((row) => (h = [h[0] + row[0], h[1] + row[1]]));
      expect(numbers(last)).toEqual(h);
      expect(numbers(all)).toEqual((to === 1n ? stack.reverse() : stack).flat());
    }
  });

  it('stacks along another axis', async () => {
    const session = await sessionOf(sums({ scan_output_axes: [-1n] }, 3));
    const { all } = await session.run({ h: [0, 0], x: [1, 2, 3, 4, 5, 6] });
    expect(all.dims).toEqual([2, 3]);
    expect(numbers(all)).toEqual([1, 4, 9, 2, 6, 12]);
  });

  it('over nothing gives stacks of no slices', async () => {
    const session = await sessionOf(sums({}, 'n'));
    const { last, all } = await session.run({ h: [7, 8], x: Tensor.from(new Float32Array(), [0, 2]) });
    expect(numbers(last)).toEqual([7, 8]);
    expect(all.dims).toEqual([0, 2]);
  });
});

describe('what is wrong with a body', () => {
  it('is said by name', () => {
    const broken: ModelInit = {
      ...growth,
      nodes: [node('last = Loop(trips, go, h)', { body: { name: 'b', input: names('i'), output: names('i') } })],
      outputs: ['last'],
    };
    return expect(
      sessionOf(broken).then((session) =>
        session.run({
          h: [1, 1, 1],
          x: [1, 1, 1],
          limit: feed(scalar('f32', 1)),
          trips: feed(scalar('i64', 2)),
        }),
      ),
    ).rejects.toMatchObject({ code: 'E_MODEL_INVALID', message: expect.stringMatching(/Loop.*number of inputs/) });
  });
});
