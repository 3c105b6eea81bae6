// Properties of all ops: shape rules against evaluation, symbolic against concrete, decompositions against meanings.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bytesOf } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { type Dim, dimName, substituteDim } from '../../compiler/graph/dims.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { definitionOf, opKinds } from '../../compiler/graph/ops/index.js';
import { numbersOf } from '../../compiler/graph/ops/reference/data.js';
import type { Graph, NodeOf, OpKind, TensorType } from '../../compiler/graph/types.js';
import { verifyGraph } from '../../compiler/graph/verify.js';
import { bytesOfTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { caseKinds, chooserOf, graphOf, inputsOf, type NodeCase, randomCase } from '../support/graph_cases.js';

/** Runs `check` on random nodes of one op. */
const forAll = (kind: (typeof caseKinds)[number], check: (node: NodeCase) => void, runs = 60): void =>
  fc.assert(
    fc.property(fc.gen(), (g) => check(randomCase(chooserOf(g), kind))),
    { numRuns: runs },
  );

function infer(kind: OpKind, attrs: unknown, inputs: readonly TensorType[]): TensorType[] {
  return definitionOf(kind).infer({
    attrs: attrs as never,
    inputs,
    source: { node: 'node' },
    fail(message, expected, found): never {
      throw new Error(`${message}; expected ${expected}, found ${found}`);
    },
  });
}

describe('every op', () => {
  it('has cases, a summary and a name', () => {
    expect(new Set(opKinds)).toEqual(new Set([...caseKinds, 'source_op']));
    for (const kind of opKinds) {
      expect(definitionOf(kind).kind).toBe(kind);
      expect(definitionOf(kind).summary.length).toBeGreaterThan(2);
    }
  });

  for (const kind of caseKinds) {
    it(`${kind}: evaluates to what its shape rule says`, () => {
      forAll(kind, (node) => {
        const graph = graphOf(node);
        verifyGraph(graph);
        const results = evaluateGraph(graph, inputsOf(node));
        expect(results.size).toBe(graph.outputs.length);
        for (const { name, value } of graph.outputs) {
          const result = results.get(name) as HostTensor;
          expect(result.dtype).toBe(value.type.dtype);
          expect(result.shape).toEqual(value.type.shape);
          if (result.dtype === 'string') expect(result.data.length).toBe(sizeOf(result.shape));
          else expect(bytesOfTensor(result).length).toBe(bytesOf(result.dtype, sizeOf(result.shape)));
          if (result.dtype === 'bool') expect(numbersOf(result).every((x) => x === 0 || x === 1)).toBe(true);
        }
      });
    });

    it(`${kind}: leaves its inputs as they are`, () => {
      forAll(
        kind,
        (node) => {
          const before = structuredClone(node.inputs);
          evaluateGraph(graphOf(node), inputsOf(node));
          expect(node.inputs).toEqual(before);
        },
        20,
      );
    });

    it(`${kind}: infers with names what it infers with numbers`, () => {
      fc.assert(
        fc.property(fc.gen(), (g) => {
          const c = chooserOf(g);
          const { kind: op, attrs, inputs } = randomCase(c, kind);
          const bindings = new Map<string, Dim>();
          const named = inputs.map(({ dtype, shape }) => ({
            dtype,
            shape: shape.map((dim): Dim => {
              // Equal sizes get one name, so that dims that must agree do.
              if (c.int(0, 2) > 0) return dim;
              bindings.set(`d${dim}`, dim);
              return dimName(`d${dim}`);
            }),
          }));
          let symbolic: TensorType[];
          try {
            symbolic = infer(op, attrs, named);
          } catch (error) {
            // Only what must be known may be refused.
            expect(String(error)).toMatch(/not known|wrong number/);
            return;
          }
          const concrete = infer(op, attrs, inputs);
          expect(symbolic.map(({ dtype }) => dtype)).toEqual(concrete.map(({ dtype }) => dtype));
          const bound = symbolic.map(({ shape }) => shape.map((dim) => substituteDim(dim, bindings)));
          // A window that does not fit gives 0 places, which expressions do not say.
          const clipped = bound.map((shape) => shape.map((dim) => (typeof dim === 'number' ? Math.max(0, dim) : dim)));
          expect(clipped).toEqual(concrete.map(({ shape }) => shape));
        }),
        { numRuns: 60 },
      );
    });

    if (definitionOf(kind).decompose) {
      it(`${kind}: means what it decomposes into`, () => {
        forAll(
          kind,
          (node) => {
            const graph = graphOf(node);
            const flat = decomposed(graph);
            verifyGraph(flat);
            expect(flat.nodes.every((n) => n.op !== kind)).toBe(true);
            const expected = evaluateGraph(graph, inputsOf(node));
            const actual = evaluateGraph(flat, inputsOf(node));
            for (const [name, tensor] of expected) expectClose(actual.get(name) as HostTensor, tensor);
          },
          400,
        );
      });
    }
  }
});

/** The graph of one node with the node decomposed. */
function decomposed(graph: Graph): Graph {
  const b = new GraphBuilder(graph.name);
  const inputs = graph.inputs.map(({ name, type }) => b.input(name, type.dtype, type.shape));
  const node = { ...graph.nodes[0], inputs } as unknown as NodeOf<OpKind>;
  const outputs = definitionOf(node.op).decompose?.(b, node) ?? [];
  expect(outputs.map(({ type }) => type)).toEqual(graph.outputs.map(({ value }) => value.type));
  graph.outputs.forEach(({ name }, i) => {
    b.output(name, outputs[i]);
  });
  return b.finish();
}

/** Composites round once, their decompositions a few times. Integers are truncated, which may tip either way. */
function expectClose(actual: HostTensor, expected: HostTensor): void {
  expect(actual.dtype).toBe(expected.dtype);
  expect(actual.shape).toEqual(expected.shape);
  if (expected.dtype === 'i64' || expected.dtype === 'u64') {
    expect(actual.data).toEqual(expected.data);
    return;
  }
  const relative =
    { f64: 1e-5, f32: 1e-5, f16: 2e-3, bf16: 2e-2, f8e4m3: 0.15, f8e4m3fnuz: 0.15, f8e5m2: 0.3, f8e5m2fnuz: 0.3 }[
      expected.dtype as 'f32'
    ] ?? 0;
  const [p, q] = [numbersOf(actual), numbersOf(expected)];
  for (let i = 0; i < q.length; i++) {
    const tolerance = relative * Math.max(1, Math.abs(q[i])) + (expected.dtype === 'i32' ? 1 : 0);
    if (!(Object.is(p[i], q[i]) || (Number.isNaN(p[i]) && Number.isNaN(q[i])))) {
      expect(Math.abs(p[i] - q[i])).toBeLessThanOrEqual(tolerance);
    }
  }
}

describe('shape rules', () => {
  const b = () => new GraphBuilder();
  const rule = (call: (g: GraphBuilder) => unknown, ...parts: readonly (string | RegExp)[]) => {
    const g = b();
    g.source = { node: 'Node_7', op: 'Thing' };
    const error = errorOf(() => call(g));
    expect(error.code).toBe('E_SHAPE');
    expect(error.message).toContain('Node_7');
    for (const part of parts) expect(error.message).toMatch(part);
  };

  it('name what was expected and found', () => {
    rule((g) => g.op('add', [g.input('x', 'f32', [2]), g.input('y', 'f32', [3])], {}), /expected \[2\]/, /found \[3\]/);
    rule((g) => g.op('add', [g.input('x', 'f32', [2]), g.input('y', 'f16', [2])], {}), /f32/, /f16/);
    rule((g) => g.op('exp', [g.input('x', 'i32', [2])], {}), /float/, /i32/);
    rule((g) => g.op('add', [g.input('x', 'f32', [2])], {}), /2 input/, /found 1/);
    rule((g) => g.op('reshape', [g.input('x', 'f32', [2, 3])], { shape: [7] }), /6 elements/, /7 elements/);
    rule((g) => g.op('reshape', [g.input('x', 'f32', [2, 3])], { shape: [-6, -1] }), /at least 0/);
    rule((g) => g.op('transpose', [g.input('x', 'f32', [2, 3])], { permutation: [0, 0] }), /repeat/);
    rule((g) => g.op('broadcast', [g.input('x', 'f32', [2])], { shape: [3] }), /\[2\]/, /\[3\]/);
    rule((g) => g.op('slice', [g.input('x', 'f32', [4])], { starts: [2], sizes: [3], steps: [1] }), /leaves axis 0/);
    rule((g) => g.op('slice', [g.input('x', 'f32', [4])], { starts: [0], sizes: [1], steps: [0] }), /step/);
    rule((g) => g.op('concat', [g.input('x', 'f32', [2, 3]), g.input('y', 'f32', [2, 4])], { axis: 0 }), /differ/);
    rule((g) => g.op('gather', [g.input('x', 'f32', [2]), g.input('i', 'u8', [1])], { axis: 0 }), /i32 or i64/);
    rule((g) => g.op('reduce', [g.input('x', 'f32', [2])], { fn: 'sum', axes: [1], keep: false }), /0 to 0/);
    rule((g) => g.op('reduce', [g.input('x', 'f32', [2])], { fn: 'and', axes: [0], keep: false }), /bool/);
    rule((g) => g.op('top_k', [g.input('x', 'f32', [2])], { k: 3, axis: 0, largest: true }), /at most 2/);
    const dot = { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: 'f32' } as const;
    rule((g) => g.op('dot', [g.input('x', 'f32', [2, 3]), g.input('y', 'f32', [4, 2])], dot), /contracting/, /3/, /4/);
    rule((g) => g.op('clamp', [g.input('x', 'f32', [1])], { min: Number.NaN, max: null }), /NaN/);
  });

  it('prefer numbers to names', () => {
    const g = b();
    const [n, m] = [dimName('n'), dimName('m')];
    const [sum] = g.op('add', [g.input('x', 'f32', [n, 3]), g.input('y', 'f32', [2, m])], {});
    expect(sum.type.shape).toEqual([2, 3]);
    const [same] = g.op('add', [g.input('p', 'f32', [n]), g.input('q', 'f32', [m])], {});
    expect(String(same.type.shape[0])).toBe('n');
  });

  it('refuse shapes that are not known yet', () => {
    rule(
      (g) => g.op('neg', [g.node('source_op', [], {} as never, [{ dtype: 'f32', shape: [], unknown: true }])[0]], {}),
      /not known yet/,
    );
  });
});
