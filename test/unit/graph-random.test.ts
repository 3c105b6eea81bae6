// Counter-based random bits: the generator against the answers published with it, and the op against the generator.
import { describe, expect, it } from 'vitest';
import { philox } from '../../compiler/graph/ops/reference/random.js';

describe('Philox4x32-10', () => {
  // Known answers of the library Random123 (kat_vectors).
  const answers = [
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const;
  for (const [counter, key, words] of answers) {
    it(`of ${counter.map((word) => word.toString(16)).join(' ')}`, () => expect(philox(counter, key)).toEqual(words));
  }
});
