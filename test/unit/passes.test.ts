// Graph passes: each rewrite happens where it should, not where it must not, and keeps the meaning.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { elementsOf } from '../../compiler/graph/ops/reference/data.js';
import type { Graph, ScatterFn, Value } from '../../compiler/graph/types.js';
import { pullAttentionScales } from '../../compiler/passes/attention.js';
import { eliminate } from '../../compiler/passes/eliminate.js';
import { foldConstants } from '../../compiler/passes/fold.js';
import { recognise } from '../../compiler/passes/recognise.js';
import { pullScales } from '../../compiler/passes/scales.js';
import { scattersToGathers } from '../../compiler/passes/scatters.js';
import { simplify } from '../../compiler/passes/simplify.js';
import { recogniseSoftmax } from '../../compiler/passes/softmax.js';
import { emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';

function ramp(dtype: 'f32' | 'u8' | 'i8', shape: readonly number[], step = 1): HostTensor {
  const tensor = emptyTensor(dtype, shape);
  for (let i = 0; i < sizeOf(shape); i++)
    (tensor.data as Float32Array)[i] = ((i * 7 * step) % 23) - (dtype === 'u8' ? 0 : 11);
  return tensor;
}

function build(make: (b: GraphBuilder) => Value | readonly Value[]): Graph {
  const b = new GraphBuilder('test');
  const made = make(b);
  (Array.isArray(made) ? made : [made]).forEach((value: Value, i: number) => {
    b.output(`y${i}`, value);
  });
  return b.finish();
}

function sameMeaning(before: Graph, after: Graph, inputs: Record<string, HostTensor>): void {
  const feeds = new Map(Object.entries(inputs));
  const [a, e] = [evaluateGraph(after, feeds), evaluateGraph(before, feeds)];
  for (const [name, tensor] of e) {
    expect(compareTensors(a.get(name) as HostTensor, tensor, { rtol: 1e-5, atol: 1e-5 }).reason).toBeUndefined();
  }
}
const ops = (graph: Graph): string[] => graph.nodes.map((node) => node.op);

describe('pull scales', () => {
  const dequantised = (b: GraphBuilder, q: Value, scale: Value) =>
    c.mul(b, c.cast(b, c.sub(b, c.cast(b, q, 'i32'), c.scalar(b, 3, 'i32')), 'f32'), scale);
  const channel = (b: GraphBuilder, count: number) =>
    c.reshape(
      b,
      b.constant({ dtype: 'f32', shape: [count], data: Float32Array.from({ length: count }, (_, i) => 0.1 + i / 8) }),
      [count, 1, 1, 1],
    );
  const conv = {
    strides: [1, 1],
    padLow: [1, 1],
    padHigh: [1, 1],
    dilations: [1, 1],
    inputDilation: [1, 1],
    groups: 1,
    dtype: 'f32' as const,
  };

  test('per channel, out of a convolution', () => {
    const graph = build((b) => {
      const x = dequantised(b, b.input('x', 'u8', [1, 4, 5, 6]), c.scalar(b, 0.25, 'f32'));
      const w = dequantised(b, b.constant(ramp('i8', [3, 4, 3, 3])), channel(b, 3));
      return b.op('conv', [x, w], conv)[0];
    });
    const pulled = pullScales(graph);
    const product = pulled.nodes.find((node) => node.op === 'conv');
    expect(pulled.nodes.find((node) => node.outputs[0] === product?.inputs[0])?.op).toBe('cast');
    sameMeaning(graph, pulled, { x: ramp('u8', [1, 4, 5, 6]) });
  });

  test('out of a product, along the free dim', () => {
    const graph = build((b) => {
      const x = dequantised(b, b.input('x', 'u8', [5, 7]), c.scalar(b, 0.5, 'f32'));
      const scale = c.reshape(
        b,
        b.constant({ dtype: 'f32', shape: [4], data: Float32Array.of(1, 2, 0.5, 0.25) }),
        [4, 1],
      );
      const w = dequantised(b, b.constant(ramp('i8', [4, 7])), scale);
      return b.op('dot', [x, w], { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [1], dtype: 'f32' })[0];
    });
    const pulled = pullScales(graph);
    expect(pulled.nodes.at(-1)?.op).toBe('mul');
    sameMeaning(graph, pulled, { x: ramp('u8', [5, 7]) });
  });

  test('stays where the scale varies along what is summed, or nothing is quantised', () => {
    const along = build((b) => {
      const x = dequantised(b, b.input('x', 'u8', [5, 4]), c.scalar(b, 0.5, 'f32'));
      const w = dequantised(b, b.constant(ramp('i8', [4, 6])), c.reshape(b, b.constant(ramp('f32', [4])), [4, 1]));
      return c.matmul(b, x, w);
    });
    expect(ops(pullScales(along))).toEqual(ops(along));
    const floats = build((b) =>
      c.matmul(b, c.mul(b, b.input('x', 'f32', [2, 3]), c.scalar(b, 2, 'f32')), b.constant(ramp('f32', [3, 2]))),
    );
    expect(ops(pullScales(floats))).toEqual(ops(floats));
  });

  test('property: integers and scales of all sizes', () => {
    const large = (seed: number): HostTensor => ({
      dtype: 'i32',
      shape: [3, 3],
      data: Int32Array.from({ length: 9 }, (_, i) => Math.imul(seed + i, 2654435761)),
    });
    const power = fc.integer({ min: -120, max: 120 });
    fc.assert(
      fc.property(power, power, fc.nat(1000), (k, l, seed) => {
        const graph = build((b) => {
          const [x, y] = [k, l].map((exponent, i) =>
            c.mul(b, c.cast(b, b.input(`x${i}`, 'i32', [3, 3]), 'f32'), c.scalar(b, 2 ** exponent, 'f32')),
          );
          return c.matmul(b, x, y);
        });
        const feeds = new Map([0, 1].map((i) => [`x${i}`, large(seed + i)] as const));
        const [found, wanted] = [pullScales(graph), graph].map(
          (one) => evaluateGraph(one, feeds).get('y0') as HostTensor,
        );
        // Sums cancel: what rounding leaves is measured by what is added up.
        const size = Math.max(...[...elementsOf(wanted)].map((x) => Math.abs(Number(x))));
        const close = compareTensors(found, wanted, { rtol: 1e-5, atol: Number.isFinite(size) ? size * 1e-5 : 0 });
        expect(close.reason).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });
});

describe('recognise', () => {
  const spelled = (b: GraphBuilder, x: Value, wrong = false): Value => {
    const d = c.sub(b, x, c.mean(b, x, [-1], true));
    const square = c.mul(b, d, wrong ? x : d);
    const variance = c.mean(b, square, [-1], true);
    return c.div(b, d, c.unary(b, 'sqrt', c.add(b, variance, c.scalar(b, 1e-5, 'f32'))));
  };
  test('a normalisation that is spelled out', () => {
    const graph = build((b) => spelled(b, b.input('x', 'f32', [3, 8])));
    const found = recognise(eliminate(foldConstants(graph).graph));
    expect(ops(found)).toContain('normalize');
    sameMeaning(graph, found, { x: ramp('f32', [3, 8]) });
  });
  test('not one that is something else', () => {
    const graph = build((b) => spelled(b, b.input('x', 'f32', [3, 8]), true));
    expect(ops(recognise(eliminate(foldConstants(graph).graph)))).not.toContain('normalize');
  });
});

describe('softmax', () => {
  const spelled = (shift: (b: GraphBuilder, x: Value) => Value) =>
    build((b) => {
      const x = b.input('x', 'f32', [3, 8]);
      const powers = c.unary(b, 'exp', c.sub(b, x, shift(b, x)));
      return c.div(b, powers, c.reduce(b, 'sum', powers, [1], true));
    });
  test('spelled out becomes one op', () => {
    const graph = spelled((b, x) => c.reduce(b, 'max', x, [-1], true));
    const after = eliminate(recogniseSoftmax(graph));
    expect(ops(after)).toEqual(['softmax']);
    sameMeaning(graph, after, { x: ramp('f32', [3, 8]) });
  });
  test('shifted by something else it is none', () => {
    expect(ops(recogniseSoftmax(spelled((b, x) => c.reduce(b, 'min', x, [-1], true))))).not.toContain('softmax');
  });
});

describe('scales of attention', () => {
  const attention = (wrap: (b: GraphBuilder, scores: Value) => Value) =>
    build((b) => {
      const [q, k] = [b.input('q', 'f32', [5, 4]), b.input('k', 'f32', [6, 4])];
      const turned = c.binaryC(b, 'mul', c.transpose(b, k, [1, 0]), 0.25);
      return wrap(b, c.matmul(b, c.binaryC(b, 'div', q, 2), turned));
    });
  const inputs = { q: ramp('f32', [5, 4]), k: ramp('f32', [6, 4], 3) };
  test('leave the operands of products that a softmax is taken of', () => {
    const graph = attention((b, scores) => c.softmax(b, c.add(b, scores, c.scalar(b, 1, 'f32')), [1]));
    const after = eliminate(pullAttentionScales(graph));
    expect(ops(after).filter((op) => op !== 'broadcast' && op !== 'cast')).toEqual([
      'transpose',
      'dot',
      'mul',
      'add',
      'softmax',
    ]);
    sameMeaning(graph, after, inputs);
  });
  test('stay where the product is something else', () => {
    const graph = attention((b, scores) => c.relu(b, scores));
    expect(pullAttentionScales(graph)).toBe(graph);
  });
});

describe('simplify', () => {
  test('drops what changes nothing and merges movement', () => {
    const graph = build((b) => {
      const x = b.input('x', 'f32', [2, 3, 4]);
      const twice = b.op('transpose', [b.op('transpose', [x], { permutation: [2, 0, 1] })[0]], {
        permutation: [1, 2, 0],
      })[0];
      const same = b.op('reshape', [b.op('reshape', [twice], { shape: [6, 4] })[0]], { shape: [2, 3, 4] })[0];
      return c.add(b, c.mul(b, same, c.scalar(b, 1, 'f32')), c.scalar(b, 0, 'f32'));
    });
    const simplified = eliminate(simplify(simplify(graph)));
    expect(simplified.nodes.length).toBe(0);
  });
  test('zero padding joins the convolution', () => {
    const graph = build((b) => {
      const padded = b.op('pad', [b.input('x', 'f32', [1, 2, 5, 5]), c.scalar(b, 0, 'f32')], {
        low: [0, 0, 1, 2],
        high: [0, 0, 0, 1],
        mode: 'constant',
      })[0];
      const attrs = {
        strides: [1, 1],
        padLow: [0, 0],
        padHigh: [0, 0],
        dilations: [1, 1],
        inputDilation: [1, 1],
        groups: 1,
        dtype: 'f32' as const,
      };
      return b.op('conv', [padded, b.constant(ramp('f32', [3, 2, 3, 3]))], attrs)[0];
    });
    const simplified = eliminate(simplify(graph));
    expect(ops(simplified)).toEqual(['conv']);
    sameMeaning(graph, simplified, { x: ramp('f32', [1, 2, 5, 5]) });
  });
  test.each([
    { fn: 'max', window: [1, 1, 5, 7], parts: 2 },
    { fn: 'min', window: [1, 3, 5, 4], parts: 3 },
    { fn: 'max', window: [1, 1, 3, 3], parts: 1 },
    { fn: 'sum', window: [1, 1, 5, 7], parts: 1 },
  ] as const)('extremes of wide windows, dim by dim: $fn of $window', ({ fn, window, parts }) => {
    const graph = build((b) => {
      const attrs = { fn, window, strides: [2, 1, 1, 2], padLow: [0, 1, 2, 3], padHigh: [1, 0, 2, 3] };
      return b.op('reduce_window', [b.input('x', 'f32', [3, 4, 9, 11])], { ...attrs, dilations: [1, 1, 1, 1] })[0];
    });
    const simplified = simplify(graph);
    expect(ops(simplified)).toEqual(Array(parts).fill('reduce_window'));
    sameMeaning(graph, simplified, { x: ramp('f32', [3, 4, 9, 11]) });
  });
});

describe('fold', () => {
  test('computes what depends on constants alone, also behind broadcasts', () => {
    const graph = build((b) => {
      const w = b.constant(ramp('f32', [4, 4]));
      return c.add(b, b.input('x', 'f32', [4, 4]), c.relu(b, c.mul(b, w, c.scalar(b, 2, 'f32'))));
    });
    const { graph: folded, count } = foldConstants(graph);
    expect(count).toBeGreaterThan(0);
    expect(ops(eliminate(folded))).toEqual(['add']);
    sameMeaning(graph, folded, { x: ramp('f32', [4, 4]) });
  });
  test('does not blow constants up', () => {
    const graph = build((b) =>
      c.mul(b, b.input('x', 'f32', [256, 256]), c.broadcastTo(b, c.scalar(b, 2, 'f32'), [256, 256])),
    );
    const { graph: folded } = foldConstants(graph);
    const bytes = [...folded.constants.values()].reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
    expect(bytes).toBe(4);
  });
});

describe('scatters', () => {
  /** Updates that are no constants, at constant places. */
  function scattered(
    kind: 'scatter_nd' | 'scatter_elements',
    fn: ScatterFn,
    places: HostTensor,
    updates: readonly number[],
  ) {
    const b = new GraphBuilder('scatter');
    const [x, u] = [b.input('x', 'f32', [3, 4]), b.input('u', 'f32', updates)];
    const indices = b.constant(places);
    const [y] =
      kind === 'scatter_nd' ? b.op(kind, [x, indices, u], { fn }) : b.op(kind, [x, indices, u], { axis: 1, fn });
    b.output('y', y);
    return b.finish();
  }
  const i64 = (shape: readonly number[], ...values: readonly number[]): HostTensor => ({
    dtype: 'i64',
    shape,
    data: BigInt64Array.from(values, BigInt),
  });
  test.each([
    ['rows, one of them from the end', 'scatter_nd', 'set', i64([2, 1], 2, -3), [2, 4]],
    ['elements, of which the last update stays', 'scatter_nd', 'set', i64([3, 2], 0, 1, 2, 3, 0, 1), [3]],
    ['every row', 'scatter_nd', 'set', i64([3, 1], 2, 0, 1), [3, 4]],
    ['places that do not exist', 'scatter_nd', 'set', i64([2, 1], 7, 1), [2, 4]],
    ['sums', 'scatter_nd', 'add', i64([2, 1], 2, 0), [2, 4]],
    ['maxima', 'scatter_elements', 'max', i64([2, 2], 3, 1, 0, -1), [2, 2]],
    ['elements along an axis', 'scatter_elements', 'set', i64([2, 3], 3, 1, 3, 0, -1, 2), [2, 3]],
  ] as const)('%s', (_, kind, fn, places, updates) => {
    const graph = scattered(kind, fn, places, updates);
    const changed = scattersToGathers(graph);
    expect(changed.nodes.map(({ op }) => op)).not.toContain(kind);
    const inputs = { x: ramp('f32', [3, 4]), u: ramp('f32', updates, 2) };
    expect(evaluateGraph(changed, inputs)).toEqual(evaluateGraph(graph, inputs));
  });

  test('sums at places that repeat stay', () => {
    const graph = scattered('scatter_nd', 'add', i64([2, 1], 1, 1), [2, 4]);
    expect(scattersToGathers(graph).nodes.map(({ op }) => op)).toEqual(['scatter_nd']);
  });
});
