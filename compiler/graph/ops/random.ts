/**
 * Random numbers by counting: bits are a function of a key and an element's index, so they are the same on every
 * device and in any order. Philox4x32-10, J. Salmon and others, "Parallel random numbers: as easy as 1, 2, 3" (2011).
 */
import type { GraphBuilder } from '../builder.js';
import { binary, binaryC, cast, iota, reshape, scalar } from '../compose/index.js';
import type { OpDefinition } from '../definition.js';
import { productOf } from '../dims.js';
import type { NodeOf, Value } from '../types.js';
import { checkInteger, checkLength, checkShape, define } from './common.js';
import { philox, philoxKeyStep, philoxMultipliers, philoxRounds } from './reference/random.js';

const randomBits = define<'random_bits'>({
  kind: 'random_bits',
  summary: 'Random u32: the first word of Philox4x32-10 under the key, with the row-major index as its counter',
  arity: 0,
  family: 'map',
  infer(context) {
    const { shape, key } = context.attrs;
    checkShape(context, shape);
    checkLength(context, key, 2, 'words of the key');
    for (const word of key) {
      checkInteger(context, word, 0, 'word of the key');
      if (word >= 2 ** 32) context.fail('invalid word of the key', 'an integer below 2^32', String(word));
    }
    return [{ dtype: 'u32', shape }];
  },
  evaluate({ attrs: { key }, outputs: [{ shape }] }) {
    const count = shape.reduce((product, dim) => product * dim, 1);
    const data = Uint32Array.from({ length: count }, (_, i) => philox([i, 0, 0, 0], [key[0], key[1]])[0]);
    return [{ dtype: 'u32', shape, data }];
  },
  decompose: (b, node) => [decomposeBits(b, node)],
});

/** The rounds on whole tensors. Indices are below 2^32: the counter's other words are 0 at the start. */
function decomposeBits(b: GraphBuilder, { attrs: { shape, key } }: NodeOf<'random_bits'>): Value {
  const zero = scalar(b, 0, 'u32');
  let counter: readonly Value[] = [iota(b, 'u32', [productOf(shape)]), zero, zero, zero];
  let words: readonly number[] = key;
  const product = (x: Value, factor: number): { low: Value; high: Value } => {
    const whole = binaryC(b, 'mul', cast(b, x, 'u64'), BigInt(factor));
    return { low: binaryC(b, 'mul', x, factor), high: cast(b, binaryC(b, 'shr', whole, 32n), 'u32') };
  };
  for (let round = 0; round < philoxRounds; round++) {
    const [first, second] = [product(counter[0], philoxMultipliers[0]), product(counter[2], philoxMultipliers[1])];
    counter = [
      binaryC(b, 'xor', binary(b, 'xor', second.high, counter[1]), words[0]),
      second.low,
      binaryC(b, 'xor', binary(b, 'xor', first.high, counter[3]), words[1]),
      first.low,
    ];
    words = words.map((word, i) => (word + philoxKeyStep[i]) % 2 ** 32);
  }
  return reshape(b, counter[0], shape);
}

export const random = { random_bits: randomBits } satisfies { readonly [K in 'random_bits']: OpDefinition<K> };
