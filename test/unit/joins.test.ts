// Concatenations whose parts are made in their place: no copies, right results, nothing bound twice.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import type { KBuffer, KernelFunction, KParam } from '../../compiler/kernel/types.js';
import { flatSteps, type Plan } from '../../compiler/plan.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { planOf, runPlanned } from '../support/interpreted.js';
import { runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

const targets = Object.values(testTargets);

const tensor = (shape: readonly number[], seed: number): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, (_, i) => Math.sin(1 + seed * 31 + i)),
});

/** One row times a matrix: a kernel of its own. */
const product = (b: GraphBuilder, x: Value, columns: number, seed = 1): Value => {
  const rows = x.type.shape[x.type.shape.length - 1] as number;
  return c.matmul(b, x, b.constant(tensor([rows, columns], seed)));
};
const concat = (b: GraphBuilder, ...parts: readonly Value[]): Value => c.concat(b, [...parts], 1);

const isPart = ({ name }: KernelFunction): boolean => name.includes('_part');
const isWritten = (param: KParam): param is KBuffer => param.kind === 'buffer' && param.access !== 'read';

/** Dispatches; a sum in slices, of which the last kernel makes one, counts once. */
function dispatchesOf({ steps, kernels }: Plan): number {
  const dispatched = [...flatSteps(steps)].flatMap(({ step }) =>
    step.kind === 'dispatch' ? [kernels[step.kernel]] : [],
  );
  return dispatched.filter((kernel) => !isPart(kernel)).length;
}

/** Runs the graph on every target and compares it with the reference. @returns dispatches on each */
function check(make: (b: GraphBuilder, x: Value) => readonly Value[]): number[] {
  const graph = graphOf(make);
  const inputs = { x: tensor([1, 32], 0) };
  const expected = runReference(graph, inputs);
  return targets.map((target) => {
    const found = runPlanned(graph, target, inputs);
    for (const [name, want] of expected) {
      const result = compareTensors(found.get(name) as HostTensor, want, { rtol: 1e-4, atol: 1e-4 });
      if (!result.ok) throw new Error(`${target.arch}, ${name}: ${JSON.stringify(result)}`);
    }
    return dispatchesOf(planOf(graph, target));
  });
}

function graphOf(make: (b: GraphBuilder, x: Value) => readonly Value[]): Graph {
  const b = new GraphBuilder();
  const outputs = make(b, b.input('x', 'f32', [1, 32]));
  outputs.forEach((value, i) => {
    b.output(`y${i}`, value);
  });
  return b.finish();
}

const each = (count: number) => targets.map(() => count);

describe('joined in place', () => {
  it('parts made by kernels, with what is done to them last', () => {
    const found = check((b, x) => {
      const joined = concat(b, c.relu(b, product(b, x, 64)), c.silu(b, product(b, x, 128)));
      return [product(b, joined, 32)];
    });
    expect(found).toEqual(each(3));
  });

  it('a chain of growing tensors is one tensor', () => {
    const found = check((b, x) => {
      let all = c.relu(b, product(b, x, 64));
      for (let layer = 0; layer < 3; layer++) all = concat(b, all, c.relu(b, product(b, all, 64, layer)));
      return [product(b, all, 16)];
    });
    expect(found).toEqual(each(5));
    const graph = graphOf((b, x) => {
      let all = c.relu(b, product(b, x, 64));
      for (let layer = 0; layer < 3; layer++) all = concat(b, all, c.relu(b, product(b, all, 64, layer)));
      return [product(b, all, 16)];
    });
    for (const target of targets) {
      const { pools, kernels } = planOf(graph, target);
      // Sums in slices are beside it for a while.
      const slices = kernels
        .filter(isPart)
        .flatMap(({ params }) => params.filter(isWritten).map(({ length }) => length));
      const arena = pools.filter(({ kind }) => kind === 'arena').map(({ bytes }) => bytes);
      expect(arena).toEqual([4 * (256 + Math.max(0, ...slices))]);
    }
  });

  it('parts under another shape', () => {
    const found = check((b, x) => {
      const first = c.reshape(b, product(b, x, 64), [1, 4, 16]);
      const second = c.reshape(b, c.relu(b, product(b, x, 128)), [1, 8, 16]);
      return [product(b, c.reshape(b, concat(b, first, second), [1, 192]), 8)];
    });
    expect(found).toEqual(each(3));
  });

  it('one part left, which a kernel of its own makes', () => {
    const computed = check((b, x) => {
      const left = c.transpose(b, c.reshape(b, product(b, x, 64), [8, 8]), [1, 0]);
      const joined = concat(b, product(b, x, 128), c.reshape(b, left, [1, 64]));
      return [product(b, joined, 8), left];
    });
    expect(Math.max(...computed)).toBeLessThanOrEqual(5);
    const given = check((b, x) => [product(b, concat(b, product(b, x, 64), x), 8)]);
    expect(given).toEqual(each(3));
  });
});

describe('copied, where it must be', () => {
  const cases: Record<string, (b: GraphBuilder, x: Value) => readonly Value[]> = {
    'twice the same': (b, x) => {
      const part = product(b, x, 64);
      return [product(b, concat(b, part, part), 8)];
    },
    'in two places': (b, x) => {
      const part = product(b, x, 64);
      const other = product(b, x, 64, 2);
      return [product(b, concat(b, part, other), 8), product(b, concat(b, other, part), 8, 3)];
    },
    'a kernel reads part and whole': (b, x) => {
      const part = product(b, x, 64);
      const joined = concat(b, part, product(b, x, 64, 2));
      return [c.add(b, c.slice1(b, joined, 1, 32, 64), part)];
    },
    'a part of a part is read with the whole': (b, x) => {
      const part = product(b, x, 64);
      const inner = concat(b, part, product(b, x, 64, 2));
      const joined = concat(b, inner, product(b, inner, 128, 3));
      return [c.add(b, c.slice1(b, joined, 1, 100, 64), part)];
    },
    'a slice of a part is the last part': (b, x) => {
      const part = product(b, x, 64);
      return [product(b, concat(b, part, c.slice1(b, part, 1, 16, 32)), 8)];
    },
    'parts begin where no binding may': (b, x) => [
      product(b, concat(b, product(b, x, 60), product(b, x, 68, 2), product(b, x, 3, 3)), 8),
    ],
    'parts are results': (b, x) => {
      const part = product(b, x, 64);
      const joined = concat(b, part, product(b, x, 64, 2));
      return [part, joined, product(b, joined, 8)];
    },
    'parts are inputs and constants': (b, x) => [
      product(b, concat(b, x, b.constant(tensor([1, 64], 4)), product(b, x, 64)), 8),
    ],
    'rows of several images': (b, x) => {
      const rows = c.reshape(b, x, [2, 16]);
      return [product(b, concat(b, product(b, rows, 64), product(b, rows, 64, 2)), 8)];
    },
  };
  it.each(Object.entries(cases))('%s', (_, make) => {
    check(make);
  });
});

it('property: networks of products, sums, slices and joins', () => {
  const step = fc.record({
    kind: fc.constantFrom('product', 'join', 'join', 'sum', 'slice', 'relu'),
    a: fc.nat(),
    b: fc.nat(),
    columns: fc.constantFrom(16, 32, 60, 64),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 3, maxLength: 12 }), (steps) => {
      check((b, x) => {
        const values = [x];
        for (const { kind, a, b: other, columns } of steps) {
          const [p, q] = [values[a % values.length], values[other % values.length]];
          const width = (value: Value): number => value.type.shape[1] as number;
          const least = Math.min(width(p), width(q));
          if (kind === 'product') values.push(product(b, p, columns, a % 7));
          else if (kind === 'join') {
            if (width(p) + width(q) <= 512) values.push(concat(b, p, q));
          } else if (kind === 'sum')
            values.push(c.add(b, c.slice1(b, p, 1, 0, least), c.slice1(b, q, 1, width(q) - least, least)));
          else if (kind === 'slice') values.push(c.slice1(b, p, 1, a % width(p), width(p) - (a % width(p))));
          else values.push(c.relu(b, p));
        }
        return [product(b, values[values.length - 1], 8), c.relu(b, values[values.length >> 1])];
      });
    }),
    { numRuns: 60 },
  );
});
