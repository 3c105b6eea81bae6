// Inputs and outputs that are not plain tensors of numbers: sequences, optionals, strings.
import { afterEach, describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { interpreterDevice } from '../support/interpreter_device.js';
import { type ModelInit, model, node, value } from '../support/onnx_model.js';

const open: Session[] = [];
async function create(init: ModelInit): Promise<Session> {
  const session = await Session.create(await compile(model(init)), { device: interpreterDevice() });
  open.push(session);
  return session;
}
afterEach(async () => {
  for (const session of open.splice(0)) await session.close();
});

const floats = { tensorType: { elemType: 1 } };
const vector = (...data: readonly number[]): Tensor => Tensor.from(Float32Array.from(data), [data.length]);
const rejection = (work: Promise<unknown>): Promise<TuttiError> =>
  work.then(
    () => expect.fail('it was fulfilled'),
    (error) => (error instanceof TuttiError ? error : Promise.reject(error)),
  );

describe('sequences', () => {
  const doubled: ModelInit = {
    inputs: [{ name: 's', type: { sequenceType: { elemType: floats } } }, value('x', 'f32', ['n'])],
    nodes: [node('d = Add(x, x)'), node('y = SequenceInsert(s, d)'), node('n = SequenceLength(y)')],
    outputs: ['y', 'n'],
  };
  it('go in and come out as lists, of any length and shapes', async () => {
    const session = await create(doubled);
    expect(session.inputs[0]).toMatchObject({ name: 's', type: 'float32', container: 'sequence' });
    for (const list of [[], [vector(1)], [vector(2, 3), vector(), vector(4)]]) {
      const { y, n } = await session.run<Tensor | readonly Tensor[]>({ s: list, x: vector(5, 6) });
      expect((y as readonly Tensor[]).map(({ data }) => [...(data as Float32Array)])).toEqual([
        ...list.map(({ data }) => [...(data as Float32Array)]),
        [10, 12],
      ]);
      expect((n as Tensor).data).toEqual(BigInt64Array.of(BigInt(list.length + 1)));
    }
  });
  it('stay on the device where that is wanted', async () => {
    const session = await create(doubled);
    let list: readonly Tensor[] = [];
    for (const x of [1, 2, 3]) {
      const run = await session.run<readonly Tensor[]>({ s: list, x: vector(x) }, { outputs: { y: 'device' } });
      list = run.y;
      expect(list.every(({ location }) => location === 'device')).toBe(true);
    }
    const data = await Promise.all(list.map(async (tensor) => [...((await tensor.getData()) as Float32Array)]));
    expect(data).toEqual([[2], [4], [6]]);
    for (const tensor of list) tensor.dispose();
  });
  it('are refused by name where they are none, or of another type', async () => {
    const session = await create(doubled);
    expect((await rejection(session.run({ x: vector(1) }))).message).toContain('s');
    expect(await rejection(session.run({ s: vector(1), x: vector(1) }))).toMatchObject({ code: 'E_INPUT' });
    const wrong = [Tensor.from(Int32Array.of(1), [1])];
    expect((await rejection(session.run({ s: wrong, x: vector(1) }))).message).toContain('float32');
  });
});

describe('optionals', () => {
  it('hold a tensor or null', async () => {
    const branch = (name: string, made: ReturnType<typeof node>) => ({ node: [made], output: [{ name }], name });
    const session = await create({
      inputs: [{ name: 'o', type: { optionalType: { elemType: floats } } }, value('x', 'f32', [2])],
      nodes: [
        node('h = OptionalHasElement(o)'),
        node('y = If(h)', {
          then_branch: branch('t', node('t = OptionalGetElement(o)')),
          else_branch: branch('e', node('e = Neg(x)')),
        }),
      ],
      outputs: ['y'],
    });
    expect((await session.run({ o: null, x: vector(1, 2) })).y.data).toEqual(Float32Array.of(-1, -2));
    expect((await session.run({ o: vector(7), x: vector(1, 2) })).y.data).toEqual(Float32Array.of(7));
    expect(await rejection(session.run({ x: vector(1, 2) }))).toMatchObject({ code: 'E_INPUT' });
  });
});

describe('strings', () => {
  const words = (...data: readonly string[]): Tensor => new Tensor('string', data, [data.length]);
  it('decide what is computed, in programs that other texts share', async () => {
    const session = await create({
      inputs: [value('text', 'string', ['n']), value('x', 'f32', ['n'])],
      initializers: { stop: { dtype: 'string', shape: [], data: ['skip'] } },
      nodes: [
        node('s = Equal(text, stop)'),
        node('k = Not(s)'),
        node('f = Cast(k)', { to: 1n }),
        node('y = Mul(x, f)'),
      ],
      outputs: ['y'],
    });
    const run = async (...text: readonly string[]) =>
      [...((await session.run({ text: words(...text), x: vector(1, 2, 3) })).y.data as Float32Array)].map(Math.abs);
    expect(await run('a', 'skip', 'b')).toEqual([1, 0, 3]);
    const { planned } = session.report().stages;
    expect(await run('skip', 'skip', 'c')).toEqual([0, 0, 3]);
    expect(await run('d', 'e', 'f')).toEqual([1, 2, 3]);
    expect(session.report().stages.planned).toBe(planned);
  });
  it('come out', async () => {
    const session = await create({
      inputs: [value('a', 'string', ['n']), value('x', 'f32', ['n'])],
      nodes: [node('t = Cast(x)', { to: 8n }), node('y = StringConcat(a, t)')],
      outputs: ['y'],
    });
    expect((await session.run({ a: words('x=', 'y='), x: vector(0.5, -2) })).y.data).toEqual(['x=0.5', 'y=-2']);
  });
  it('are computed from what the device computes', async () => {
    const session = await create({
      inputs: [value('x', 'f32', ['n'])],
      nodes: [node('d = Add(x, x)'), node('y = Cast(d)', { to: 8n })],
      outputs: ['y'],
    });
    expect((await session.run({ x: vector(0.25, 3) })).y.data).toEqual(['0.5', '6']);
  });
});
