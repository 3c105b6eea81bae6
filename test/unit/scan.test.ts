// Loops: the meaning of `scan`, its text, and what planning makes of it.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { add, cast, mul } from '../../compiler/graph/compose/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import { partsOf, scan, unroll } from '../../compiler/graph/scan.js';
import type { Graph, NodeOf } from '../../compiler/graph/types.js';
import { verifyGraph } from '../../compiler/graph/verify.js';
import { eliminate } from '../../compiler/passes/eliminate.js';
import { loops } from '../../compiler/passes/loops.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { chooserOf } from '../support/graph_cases.js';
import { runInterpreted, runPlanned } from '../support/interpreted.js';
import { loopGraph, scanCase } from '../support/scan_cases.js';
import { testTargets } from '../support/targets.js';

const f32 = (shape: readonly number[], values: readonly number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});

/** h ← h·w + x_t + t; stacks h. */
function accumulate(trips: number, reverse = false): Graph {
  const step = new GraphBuilder('step');
  const t = step.input('t', 'i64', []);
  const h = step.input('h', 'f32', [2]);
  const x = step.input('x', 'f32', [2]);
  const w = step.input('w', 'f32', [2]);
  const number = step.op('broadcast', [cast(step, t, 'f32')], { shape: [2] })[0];
  const next = add(step, add(step, mul(step, h, w), x), number);
  step.output('h', next);
  step.output('y', next);
  const b = new GraphBuilder('sums');
  const first = b.input('first', 'f32', [2]);
  const xs = b.input('xs', 'f32', [trips, 2]);
  const w0 = b.input('w', 'f32', [2]);
  const { carried, stacked } = scan(b, {
    body: step.finish(),
    trips,
    iteration: true,
    carried: [first],
    scanned: [{ array: xs, reverse }],
    captured: [w0],
    stacked: [{ reverse }],
  });
  b.output('last', carried[0]);
  b.output('all', stacked[0]);
  return b.finish();
}

describe('meaning', () => {
  const inputs = { first: f32([2], [1, 2]), xs: f32([3, 2], [1, 2, 3, 4, 5, 6]), w: f32([2], [2, 0]) };

  it('carries, scans and stacks', () => {
    const graph = accumulate(3);
    verifyGraph(graph);
    const results = evaluateGraph(graph, inputs);
    expect(results.get('last')?.data).toEqual(Float32Array.of(27, 8));
    expect(results.get('all')).toEqual(f32([3, 2], [3, 2, 10, 5, 27, 8]));
  });

  it('walks and stacks from the end', () => {
    const results = evaluateGraph(accumulate(3, true), inputs);
    expect(results.get('all')).toEqual(f32([3, 2], [39, 4, 18, 5, 7, 6]));
  });

  it('gives the initial values and empty stacks without iterations', () => {
    const results = evaluateGraph(accumulate(0), { ...inputs, xs: f32([0, 2], []) });
    expect(results.get('last')?.data).toEqual(Float32Array.of(1, 2));
    expect(results.get('all')).toEqual(f32([0, 2], []));
  });
});

describe('text', () => {
  it('is read back', () => {
    const text = printGraph(accumulate(3));
    expect(text).toContain('begin "1"\ngraph "step"\n');
    expect(printGraph(parseGraph(text))).toBe(text);
  });

  it('names the line of what is wrong', () => {
    const text = printGraph(accumulate(3));
    const broken = [
      [text.slice(0, text.indexOf('end\n')), "'end' is missing"],
      [text.replace('graph "1"', 'graph "2"'), 'no graph under this key'],
      [`${text}end\n`, "'end' without 'begin'"],
      [text.replace('trips: 3', 'trips: 4'), 'differ'],
    ] as const;
    for (const [bad, message] of broken) {
      const error = errorOf(() => parseGraph(bad));
      expect(error.code).toBe('E_IR');
      expect(error.message).toContain(message);
    }
  });
});

describe.each(Object.entries(testTargets))('kernels for %s', (_, target) => {
  it.each([1, 2, 3, 13, 14, 40])('carry, scan and stack over %i iterations', async (trips) => {
    for (const reverse of [false, true]) {
      const graph = accumulate(trips, reverse);
      const inputs = {
        first: f32([2], [1, 2]),
        xs: f32(
          [trips, 2],
          Array.from({ length: 2 * trips }, (_, i) => i),
        ),
        w: f32([2], [0.5, -1]),
      };
      const expected = evaluateGraph(graph, inputs);
      const actual = await runInterpreted(target, graph, inputs);
      for (const [name, tensor] of expected) expect(actual[name]).toEqual(tensor);
    }
  });
});

const expectSame = (actual: ReadonlyMap<string, HostTensor>, expected: ReadonlyMap<string, HostTensor>): void => {
  for (const [name, tensor] of expected) expect(actual.get(name), name).toEqual(tensor);
};

describe('random loops', () => {
  it('mean what they are when written out', () => {
    fc.assert(
      fc.property(fc.gen(), (g) => {
        const { graph, given } = loopGraph(scanCase(chooserOf(g)));
        const [node] = graph.nodes as [NodeOf<'scan'>];
        const b = new GraphBuilder('unrolled');
        const inputs = graph.inputs.map(({ name, type }) => b.input(name, type.dtype, type.shape));
        const { carried, stacked } = unroll(b, partsOf(node, inputs));
        [...carried, ...stacked].forEach((value, i) => {
          b.output(`out${i}`, value);
        });
        expectSame(evaluateGraph(b.finish(), given), evaluateGraph(graph, given));
      }),
      { numRuns: 200 },
    );
  });

  it('mean the same after the pass', () => {
    fc.assert(
      fc.property(fc.gen(), (g) => {
        const c = chooserOf(g);
        const { graph, given } = loopGraph(scanCase(c, { trips: c.int(0, 1) === 0 ? c.int(0, 4) : 70 }));
        const changed = loops(graph);
        verifyGraph(changed);
        expectSame(evaluateGraph(changed, given), evaluateGraph(graph, given));
      }),
      { numRuns: 200 },
    );
  });

  it.each(Object.entries(testTargets))('are planned for %s', { timeout: 300_000 }, (_, target) => {
    fc.assert(
      fc.property(fc.gen(), (g) => {
        const c = chooserOf(g);
        const { graph, given } = loopGraph(scanCase(c, { trips: c.int(1, 4) }));
        expectSame(runPlanned(graph, target, given), evaluateGraph(graph, given));
      }),
      { numRuns: 60 },
    );
  });
});

describe('the pass', () => {
  /** h ← tanh(x_t·W + b + h·R) as a model spells it, W and b captured. */
  function spelled(trips: number, reverse: boolean): Graph {
    const attrs = { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: 'f32' } as const;
    const step = new GraphBuilder('step');
    const h = step.input('h', 'f32', [1, 8]);
    const x = step.input('x', 'f32', [1, 4]);
    const [w, r, bias] = [
      step.input('w', 'f32', [4, 8]),
      step.input('r', 'f32', [8, 8]),
      step.input('bias', 'f32', [8]),
    ];
    const own = add(step, step.op('dot', [x, w], attrs)[0], mul(step, bias, bias));
    const next = step.op('tanh', [add(step, own, step.op('dot', [h, r], attrs)[0])], {})[0];
    step.output('h', next);
    step.output('y', next);
    step.output('w', w);
    const b = new GraphBuilder('spelled');
    const inputs = [
      b.input('first', 'f32', [1, 8]),
      b.input('xs', 'f32', [trips, 1, 4]),
      b.input('w', 'f32', [4, 8]),
      b.input('bias', 'f32', [8]),
    ];
    const weights = b.constant(f32([8, 8], new Array<number>(64).fill(0.1)));
    const { carried, stacked } = scan(b, {
      body: step.finish(),
      trips,
      iteration: false,
      carried: [inputs[0]],
      scanned: [{ array: inputs[1], reverse }],
      captured: [inputs[2], weights, inputs[3]],
      stacked: [{ reverse }, { reverse: false }],
    });
    b.output('last', carried[0]);
    b.output('all', stacked[0]);
    b.output('same', stacked[1]);
    return b.finish();
  }
  const given = (trips: number) => ({
    first: f32([1, 8], [1, 2, 3, 4, 5, 6, 7, 8]),
    xs: f32(
      [trips, 1, 4],
      Array.from({ length: 4 * trips }, (_, i) => (i % 7) / 8),
    ),
    w: f32(
      [4, 8],
      Array.from({ length: 32 }, (_, i) => (i % 5) / 16),
    ),
    bias: f32([8], [0, 1, 2, 3, 0, 1, 2, 3]),
  });

  it.each([false, true])('leaves in the body what differs between iterations (reverse: %s)', (reverse) => {
    const graph = spelled(30, reverse);
    const changed = eliminate(loops(graph));
    verifyGraph(changed);
    const outer = changed.nodes.map(({ op }) => op);
    expect(outer.filter((op) => op === 'dot')).toHaveLength(1);
    expect(outer).toContain('mul');
    const [loop] = changed.nodes.filter((node): node is NodeOf<'scan'> => node.op === 'scan');
    expect(loop.attrs.stacked).toHaveLength(1);
    expect(loop.attrs.body.nodes.filter(({ op }) => op === 'dot' || op === 'mul')).toHaveLength(1);
    // The recurrence's weights are a constant of the body, which contractions pack.
    expect([...loop.attrs.body.constants.values()].map(({ shape }) => shape)).toEqual([[8, 8]]);
    const [actual, expected] = [evaluateGraph(changed, given(30)), evaluateGraph(graph, given(30))];
    for (const [name, tensor] of expected) {
      const found = actual.get(name) as HostTensor;
      expect(compareTensors(found, tensor, { rtol: 1e-6, atol: 1e-6 }).reason, name).toBeUndefined();
    }
  });

  it('writes short loops out', () => {
    expect(loops(spelled(2, false)).nodes.map(({ op }) => op)).not.toContain('scan');
    expect(loops(spelled(1, false)).nodes.map(({ op }) => op)).not.toContain('scan');
  });
});
