/** Transformers at the sizes of well-known ones, with seeded weights: BERT, GPT-2, one block of Llama. */
import { ModelBuilder } from '../compiler/builder/index.js';
import type { Graph, Value } from '../compiler/graph/types.js';
import { sizeOf } from '../compiler/tensor.js';
import { hash, normal } from './random.js';

interface TransformerSize {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly inner: number;
  readonly tokens: number;
  /** 0: the input is already embedded. */
  readonly vocabulary: number;
}

/** Weights of layers have the deviation 0.02 that such models start training with; one name gives one tensor. */
const weight = (g: ModelBuilder, name: string, ...shape: number[]): Value =>
  g.constant(normal(sizeOf(shape), hash(name), 0.02), shape);

/** Around 1, as the gains of normalisations are. */
const gain = (g: ModelBuilder, name: string, width: number): Value =>
  g.constant(normal(width, hash(name), 0.02).map((value) => 1 + value));

/** [1, tokens, width] → [1, heads, tokens, width / heads]. */
const splitHeads = (g: ModelBuilder, x: Value, heads: number): Value => {
  const [batch, tokens, width] = x.type.shape.map(Number);
  return g.transpose(g.reshape(x, [batch, tokens, heads, width / heads]), [0, 2, 1, 3]);
};

const joinHeads = (g: ModelBuilder, x: Value): Value => {
  const [batch, heads, tokens, width] = x.type.shape.map(Number);
  return g.reshape(g.transpose(x, [0, 2, 1, 3]), [batch, tokens, heads * width]);
};

const dense = (g: ModelBuilder, name: string, x: Value, outputs: number): Value => {
  const inputs = Number(x.type.shape[x.type.shape.length - 1]);
  return g.linear(x, weight(g, `${name}.weight`, outputs, inputs), weight(g, `${name}.bias`, outputs));
};

const norm = (g: ModelBuilder, name: string, x: Value): Value => {
  const width = Number(x.type.shape[x.type.shape.length - 1]);
  return g.layerNorm(x, { scale: gain(g, `${name}.weight`, width), bias: weight(g, `${name}.bias`, width) });
};

function selfAttention(g: ModelBuilder, name: string, x: Value, heads: number, causal: boolean): Value {
  const width = Number(x.type.shape[x.type.shape.length - 1]);
  const [q, k, v] = ['q', 'k', 'v'].map((part) => splitHeads(g, dense(g, `${name}.${part}`, x, width), heads));
  return dense(g, `${name}.out`, joinHeads(g, g.attention(q, k, v, { causal })), width);
}

function embed(g: ModelBuilder, { tokens, width, vocabulary }: TransformerSize): { x: Value; table: Value } {
  const ids = g.input('ids', 'i64', [1, tokens]);
  const table = weight(g, 'embedding', vocabulary, width);
  return { x: g.add(g.embedding(table, ids), weight(g, 'positions', tokens, width)), table };
}

/** Encoder with normalisation after each part; `y`: the last layer's states. */
export function bert(size: TransformerSize): Graph {
  const g = new ModelBuilder('bert');
  let x = norm(g, 'embedding.norm', embed(g, size).x);
  for (let i = 0; i < size.layers; i++) {
    const name = `layer${i}`;
    x = norm(g, `${name}.norm1`, g.add(x, selfAttention(g, name, x, size.heads, false)));
    const inner = g.gelu(dense(g, `${name}.up`, x, size.inner));
    x = norm(g, `${name}.norm2`, g.add(x, dense(g, `${name}.down`, inner, size.width)));
  }
  g.output('y', x);
  return g.build();
}

/** Decoder with normalisation before each part; `y`: logits of the last token, by the embedding's table. */
export function gpt2(size: TransformerSize): Graph {
  const g = new ModelBuilder('gpt2');
  const embedded = embed(g, size);
  let x = embedded.x;
  for (let i = 0; i < size.layers; i++) {
    const name = `layer${i}`;
    x = g.add(x, selfAttention(g, name, norm(g, `${name}.norm1`, x), size.heads, true));
    const inner = g.gelu(dense(g, `${name}.up`, norm(g, `${name}.norm2`, x), size.inner), 'tanh');
    x = g.add(x, dense(g, `${name}.down`, inner, size.width));
  }
  const last = g.slice(norm(g, 'norm', x), 1, size.tokens - 1);
  g.output('y', g.linear(last, embedded.table));
  return g.build();
}

/** One block: RMS normalisation, rotary positions, gated inner layer, no biases. */
export function llamaBlock({ width, heads, inner, tokens }: TransformerSize): Graph {
  const g = new ModelBuilder('llama-block');
  const x = g.input('x', 'f32', [1, tokens, width]);
  const matrix = (name: string, outputs: number, of: Value): Value =>
    g.linear(of, weight(g, name, outputs, Number(of.type.shape[2])));
  const first = g.rmsNorm(x, { scale: gain(g, 'norm1', width) });
  const [q, k, v] = ['q', 'k', 'v'].map((name) => splitHeads(g, matrix(name, width, first), heads));
  const half = width / heads / 2;
  const angles = Float32Array.from(
    { length: tokens * half },
    (_, i) => Math.floor(i / half) / 10000 ** ((i % half) / half),
  );
  const [cos, sin] = [Math.cos, Math.sin].map((f) => g.constant(angles.map(f), [tokens, half]));
  const rotate = (of: Value): Value => {
    const [low, high] = g.split(of, 2, 3);
    return g.concat([g.sub(g.mul(low, cos), g.mul(high, sin)), g.add(g.mul(high, cos), g.mul(low, sin))], 3);
  };
  const attended = joinHeads(g, g.attention(rotate(q), rotate(k), v, { causal: true }));
  const y = g.add(x, matrix('out', width, attended));
  const second = g.rmsNorm(y, { scale: gain(g, 'norm2', width) });
  const gated = g.mul(g.silu(matrix('gate', inner, second)), matrix('up', inner, second));
  g.output('y', g.add(y, matrix('down', width, gated)));
  return g.build();
}

export interface Network {
  readonly name: string;
  graph(): Graph;
}

/** The real sizes; in quick runs the same shapes of network, far smaller. */
export function networks(quick: boolean): readonly Network[] {
  const base: TransformerSize = { layers: 12, width: 768, heads: 12, inner: 3072, tokens: 128, vocabulary: 30522 };
  const block: TransformerSize = { layers: 1, width: 4096, heads: 32, inner: 11008, tokens: 128, vocabulary: 0 };
  const tiny = { layers: 2, width: 128, heads: 4, inner: 512, tokens: 32, vocabulary: 1000 };
  if (quick) {
    return [
      { name: 'bert-tiny', graph: () => bert(tiny) },
      { name: 'gpt2-tiny', graph: () => gpt2(tiny) },
      { name: 'llama-block-128', graph: () => llamaBlock({ ...tiny, inner: 344 }) },
    ];
  }
  return [
    { name: 'bert-base', graph: () => bert(base) },
    { name: 'gpt2-small', graph: () => gpt2({ ...base, vocabulary: 50257 }) },
    { name: 'llama-block-4096', graph: () => llamaBlock(block) },
  ];
}
