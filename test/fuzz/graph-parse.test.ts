// Text that was a graph once: whatever happened to it, reading it gives a graph or a TuttiError, and soon.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { addDims, dimName, floorDivDims } from '../../compiler/graph/dims.js';
import { parseGraph } from '../../compiler/graph/parse.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { ConstantData, Graph } from '../../compiler/graph/types.js';
import { emptyTensor } from '../../compiler/tensor.js';
import { type Chooser, caseKinds, randomCase } from '../support/graph_cases.js';

const store = new Map<string, ConstantData>();

/** mulberry32. */
function chooser(seed: number): Chooser {
  let state = seed;
  return {
    int(min, max) {
      state = (state + 0x6d2b79f5) | 0;
      let x = Math.imul(state ^ (state >>> 15), 1 | state);
      x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
      return min + Math.floor((((x ^ (x >>> 14)) >>> 0) / 2 ** 32) * (max - min + 1));
    },
  };
}

/** A body with a body, each with a constant too large to stand in the text. */
function nested(depth: number): Graph {
  const b = new GraphBuilder(`body ${depth}`);
  const x = b.input('formal', 'f32', [], true);
  const data = b.constant(emptyTensor('f32', [20]), 'inner data');
  const body: Readonly<Record<string, Graph>> =
    depth === 0 ? {} : { then_branch: nested(depth - 1), else_branch: nested(0) };
  const attrs = { domain: '', name: 'If', opset: 13, present: [true], attrs: body };
  const [y] = b.node('source_op', depth === 0 ? [x] : [x, data], attrs, [{ dtype: 'f32', shape: [], unknown: true }]);
  b.output('result', y);
  return b.finish();
}

/** One graph with a node of every op. */
function everything(seed: number): string {
  const c = chooser(seed);
  const b = new GraphBuilder('everything');
  b.dim('n', { min: 1, max: 9 });
  const n = dimName('n');
  const x = b.input('named dims', 'f32', [n, addDims(floorDivDims(n, 2), 3)]);
  b.node(
    'source_op',
    [x],
    {
      domain: '',
      name: 'Reshape',
      opset: 13,
      present: [true, false],
      attrs: { allowzero: 1, big: 5n, text: 'a"b', list: [1.5, -2], value: emptyTensor('f32', [20]), body: nested(2) },
    },
    [{ dtype: 'f32', shape: [], unknown: true }],
  );
  for (const kind of caseKinds) {
    const { attrs, inputs } = randomCase(c, kind);
    const values = inputs.map((input, i) =>
      c.int(0, 1) === 0 ? b.constant(input, `${kind}.c${i}`) : b.input(`${kind}.${i}`, input.dtype, input.shape),
    );
    b.op(kind, values, attrs).forEach((value, i) => {
      b.output(`${kind}.${i}`, value);
    });
  }
  const graph = b.finish();
  return printGraph(graph, {
    keyOf(data, name) {
      const key = `${seed}/${name}`;
      store.set(key, data);
      return key;
    },
  });
}

const texts = [1, 2, 3].map(everything);
/** Bits of the format that are likely to lead somewhere. */
const pieces = [
  '0',
  '-1',
  '1e9',
  '9007199254740992',
  '99999999999999999999999n',
  'NaN',
  '-Infinity',
  'null',
  'true',
  '[',
  ']',
  '[]',
  '{',
  '}',
  '(',
  ')',
  '"',
  '%',
  '@',
  ',',
  ':',
  '=',
  '*',
  '+',
  '-',
  '?',
  '#',
  '\\',
  '\n',
  ' ',
  'floordiv(',
  'mod(n, ',
  'min(',
  'f32',
  'string',
  'i4',
  'data "',
  'begin "1"',
  'end',
  'graph "1"',
  'tensor f32[2] = [1, 2]',
  'op',
  '%x',
  '__proto__',
  'constructor',
  'toString',
  '\u0000',
  '𝄞',
];

function read(text: string): void {
  const start = performance.now();
  try {
    parseGraph(text, (key) => store.get(key));
  } catch (error) {
    if (!(error instanceof TuttiError)) throw error;
    expect(error.code).toBe('E_IR');
  }
  expect(performance.now() - start).toBeLessThan(10_000);
}

describe('parseGraph', () => {
  it('reads the seeds', () => {
    texts.forEach((text, i) => {
      const graph = parseGraph(text, (key) => store.get(key));
      expect(printGraph(graph, { keyOf: (_, name) => `${i + 1}/${name}` })).toBe(text);
    });
  });

  it('refuses bodies that are used twice, missing, unfinished or nested without an end', () => {
    const body = 'begin "1"\ngraph "b"\ninput %x: f32[]\noutput "y" = %x\nend\n';
    const use =
      '%y: f32[]? = source_op(%x) {domain: "", name: "If", opset: 1, attrs: {"b": graph "1"}, present: [true]} @ "n"\n';
    const head = 'tutti graph 1\ngraph "g"\ninput %x: f32[]\n';
    const messageOf = (text: string): string => {
      try {
        parseGraph(text);
      } catch (error) {
        return (error as TuttiError).message;
      }
      return '';
    };
    expect(messageOf(`${head}${body}${use}output "y" = %y\n`)).toBe('');
    expect(messageOf(`${head}${body}${use}${use.replaceAll('%y', '%z')}`)).toMatch(/line 10: no graph under this key/);
    expect(messageOf(`${head}${use}`)).toMatch(/no graph under this key/);
    expect(messageOf(`${head}${body.replace('end\n', '')}${use}`)).toMatch(/graph|end/);
    expect(messageOf(`${head}end\n`)).toMatch(/'end' without 'begin'/);
    expect(messageOf(head + 'begin "1"\n'.repeat(10_000))).toMatch(/nested too deeply/);
    // A body that takes less than it captures.
    const captures = use.replace('(%x)', '(%x, %x, %x)');
    expect(messageOf(`${head}${body}${captures}`)).toMatch(/takes fewer inputs than it captures/);
  });

  it('survives edits', () => {
    const edit = fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      remove: fc.nat(12),
      insert: fc.oneof(fc.constantFrom(...pieces), fc.string({ maxLength: 4 })),
    });
    fc.assert(
      fc.property(fc.constantFrom(...texts), fc.array(edit, { minLength: 1, maxLength: 4 }), (text, edits) => {
        let mutated = text;
        for (const { at, remove, insert } of edits) {
          const place = Math.floor(at * mutated.length);
          mutated = mutated.slice(0, place) + insert + mutated.slice(place + remove);
        }
        read(mutated);
      }),
      { numRuns: 1500 },
    );
  });

  it('survives single lines that were edited', () => {
    const lines = texts.flatMap((text) => text.split('\n').slice(2));
    fc.assert(
      fc.property(
        fc.constantFrom(...lines),
        fc.array(fc.tuple(fc.nat(400), fc.nat(6), fc.constantFrom(...pieces)), { maxLength: 3 }),
        (line, edits) => {
          let mutated = line;
          for (const [at, remove, insert] of edits) {
            const place = at % (mutated.length + 1);
            mutated = mutated.slice(0, place) + insert + mutated.slice(place + remove);
          }
          // Inputs first, so that the line gets as far as it can.
          read(
            `${texts[0]
              .split('\n')
              .filter((l) => !l.startsWith('%') && !l.startsWith('output'))
              .join('\n')}\n${mutated}`,
          );
        },
      ),
      { numRuns: 3000 },
    );
  });

  it('survives lines in another order, missing or repeated', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...texts),
        fc.array(fc.tuple(fc.nat(400), fc.nat(400)), { minLength: 1, maxLength: 5 }),
        (text, moves) => {
          const lines = text.split('\n');
          for (const [from, to] of moves) {
            const [line] = from % 2 === 0 ? lines.splice(from % lines.length, 1) : [lines[from % lines.length]];
            lines.splice(to % (lines.length + 1), 0, line);
          }
          read(lines.join('\n'));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('survives anything at all', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...pieces), { maxLength: 60 }), (list) =>
        read(`tutti graph 1\n${list.join(' ')}`),
      ),
      {
        numRuns: 3000,
      },
    );
    fc.assert(fc.property(fc.string({ unit: 'binary' }), read), { numRuns: 500 });
  });

  it('does not slow down on long lines', () => {
    const header = 'tutti graph 1\n';
    read(`${header}input %x: f32[${'a + '.repeat(100_000)}1]`);
    read(`${header}input %x: f32[${'a*'.repeat(100_000)}1]`);
    read(`${header}input %x: f32[${Array.from({ length: 5000 }, (_, i) => `a${i}`).join(' + ')}]`);
    read(`${header}input %x: f32[${Array.from({ length: 40 }, (_, i) => `floordiv(2*a${i} + 2*b${i}, 2)`).join('*')}]`);
    read(`${header}constant %x: f32[200000] = [${'1, '.repeat(200_000)}1]`);
    read(`${header}input %"${'\\"'.repeat(200_000)}`);
    read(`${header}${'input %x: f32[1]\n'.repeat(100_000)}`);
    read(`${header}${' '.repeat(500_000)}x`);
    read(`${header}input %x: f32${'['.repeat(100_000)}`);
  });
});
