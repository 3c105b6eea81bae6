/** Philox4x32-10 on numbers. Constants: the paper's, and of its library Random123. */
export const philoxRounds = 10;
export const philoxMultipliers = [0xd2511f53, 0xcd9e8d57] as const;
/** What is added to the key from round to round: parts of the golden ratio and of the root of 3. */
export const philoxKeyStep = [0x9e3779b9, 0xbb67ae85] as const;

type Words = readonly [number, number, number, number];

/** Four random words from a counter of four and a key of two. */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [a, b, c, d] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < philoxRounds; round++) {
    const first = BigInt(a) * BigInt(philoxMultipliers[0]);
    const second = BigInt(c) * BigInt(philoxMultipliers[1]);
    const high = (x: bigint): number => Number(x >> 32n);
    const low = (x: bigint): number => Number(x & 0xffff_ffffn);
    [a, b, c, d] = [(high(second) ^ b ^ k0) >>> 0, low(second), (high(first) ^ d ^ k1) >>> 0, low(first)];
    k0 = (k0 + philoxKeyStep[0]) >>> 0;
    k1 = (k1 + philoxKeyStep[1]) >>> 0;
  }
  return [a, b, c, d];
}
