// Random programs of branches and loops over one vector, as ONNX graphs and in plain code. All numbers stay small
// integers, so that both must agree to the last bit.
import type { Chooser } from './graph_cases.js';
import { f32, i64, type ModelInit, node, value } from './onnx_model.js';

export type Statement =
  /** v = clip(v·a + b, -999, 999) */
  | { readonly kind: 'affine'; readonly a: number; readonly b: number }
  /** v = [...v, sum(v)], at most 6 elements: then the first one goes. */
  | { readonly kind: 'append' }
  | { readonly kind: 'if'; readonly limit: number; readonly yes: Program; readonly no: Program }
  /** Goes on while sum(v) < limit, at most `trips` times; `counted` adds the number of the iteration. */
  | {
      readonly kind: 'loop';
      readonly trips: number;
      readonly limit: number | undefined;
      readonly counted: boolean;
      readonly body: Program;
    };
export type Program = readonly Statement[];

export function randomProgram(c: Chooser, depth = 3): Program {
  return Array.from({ length: c.int(1, 3) }, (): Statement => {
    const kind = c.int(0, depth === 0 ? 1 : 5);
    if (kind === 0) return { kind: 'append' };
    if (kind <= 2) return { kind: 'affine', a: [1, 2, -1, 0][c.int(0, 3)], b: c.int(-3, 5) };
    const limit = c.int(-20, 60);
    if (kind === 3) return { kind: 'if', limit, yes: randomProgram(c, depth - 1), no: randomProgram(c, depth - 1) };
    const body = randomProgram(c, depth - 1);
    return {
      kind: 'loop',
      trips: c.int(0, 5),
      limit: c.int(0, 1) === 0 ? undefined : limit,
      counted: c.int(0, 1) === 0,
      body,
    };
  });
}

const sumOf = (v: readonly number[]): number => v.reduce((p, q) => p + q, 0);
const clip = (x: number): number => Math.min(999, Math.max(-999, x));

export function interpret(program: Program, start: readonly number[]): readonly number[] {
  let v = start;
  for (const statement of program) {
    switch (statement.kind) {
      case 'affine':
        v = v.map((x) => clip(x * statement.a + statement.b));
        break;
      case 'append':
        v = [...v, clip(sumOf(v))].slice(-6);
        break;
      case 'if':
        v = interpret(sumOf(v) < statement.limit ? statement.yes : statement.no, v);
        break;
      case 'loop':
        for (let i = 0; i < statement.trips; i++) {
          if (statement.counted) v = v.map((x) => clip(x + i));
          v = interpret(statement.body, v);
          if (statement.limit !== undefined && !(sumOf(v) < statement.limit)) break;
        }
        break;
      default:
        statement satisfies never;
    }
  }
  return v;
}

type Nodes = ReturnType<typeof node>[];

/** The model y = program(x). */
export function programModel(program: Program): ModelInit {
  const initializers: Record<string, ReturnType<typeof f32>> = {
    least: f32([], -999),
    most: f32([], 999),
    last: i64(-6),
    end: i64(1000),
    go: { dtype: 'bool', shape: [], data: Uint8Array.of(1) },
  };
  let names = 0;
  const fresh = (): string => `n${names++}`;
  const constant = (x: number): string => {
    initializers[`c${x}`] = f32([], x);
    return `c${x}`;
  };
  const add = (nodes: Nodes, text: string, attrs: Parameters<typeof node>[1] = {}): string => {
    const name = fresh();
    nodes.push(node(`${name} = ${text}`, attrs));
    return name;
  };
  const clipped = (nodes: Nodes, x: string): string => add(nodes, `Clip(${x}, least, most)`);
  const emit = (nodes: Nodes, statements: Program, from: string): string => {
    let v = from;
    for (const statement of statements) v = one(nodes, statement, v);
    return v;
  };
  const branch = (statements: Program, v: string) => {
    const nodes: Nodes = [];
    const result = add(nodes, `Identity(${emit(nodes, statements, v)})`);
    return { name: 'branch', node: nodes, output: [{ name: result }] };
  };
  const one = (nodes: Nodes, statement: Statement, v: string): string => {
    switch (statement.kind) {
      case 'affine': {
        const scaled = add(nodes, `Mul(${v}, ${constant(statement.a)})`);
        return clipped(nodes, add(nodes, `Add(${scaled}, ${constant(statement.b)})`));
      }
      case 'append': {
        const sum = clipped(nodes, add(nodes, `ReduceSum(${v})`, { keepdims: 1n }));
        return add(nodes, `Slice(${add(nodes, `Concat(${v}, ${sum})`, { axis: 0n })}, last, end)`);
      }
      case 'if': {
        const sum = add(nodes, `ReduceSum(${v})`, { keepdims: 0n });
        const condition = add(nodes, `Less(${sum}, ${constant(statement.limit)})`);
        const branches = { then_branch: branch(statement.yes, v), else_branch: branch(statement.no, v) };
        return add(nodes, `If(${condition})`, branches);
      }
      case 'loop': {
        const [i, c, h] = [fresh(), fresh(), fresh()];
        const inner: Nodes = [];
        const counted = statement.counted ? add(inner, `Cast(${i})`, { to: 1n }) : undefined;
        const start = counted === undefined ? h : clipped(inner, add(inner, `Add(${h}, ${counted})`));
        const after = add(inner, `Identity(${emit(inner, statement.body, start)})`);
        const more =
          statement.limit === undefined
            ? add(inner, `Identity(${c})`)
            : add(inner, `Less(${add(inner, `ReduceSum(${after})`, { keepdims: 0n })}, ${constant(statement.limit)})`);
        const trips = `trips${statement.trips}`;
        initializers[trips] = { dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(statement.trips)) };
        const body = {
          name: 'body',
          input: [i, c, h].map((name) => ({ name })),
          node: inner,
          output: [{ name: more }, { name: after }],
        };
        return add(nodes, `Loop(${trips}, go, ${v})`, { body });
      }
      default:
        return statement satisfies never;
    }
  };
  const nodes: Nodes = [];
  const y = emit(nodes, program, 'x');
  nodes.push(node(`y = Identity(${y})`));
  return { opset: 17, inputs: [value('x', 'f32', ['n'])], initializers, nodes, outputs: ['y'] };
}
