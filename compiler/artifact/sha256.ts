/** SHA-256 (FIPS 180-4, section 6.2), incremental and synchronous, for where the platform has none of that kind. */

/** One message. The runtime hands in the platform's own where that is faster. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** In hexadecimal; call once, at the end. */
  digest(): string;
}
export type CreateHasher = () => Hasher;

const fractionalBits = (x: number): number => Math.floor((x - Math.floor(x)) * 2 ** 32);

function firstPrimes(count: number): number[] {
  const primes: number[] = [];
  for (let candidate = 2; primes.length < count; candidate++) {
    if (primes.every((prime) => candidate % prime !== 0)) primes.push(candidate);
  }
  return primes;
}

/** First 32 bits of the fractional parts of the cube roots of the first 64 primes (4.2.2). */
const roundConstants = Uint32Array.from(firstPrimes(64), (prime) => fractionalBits(Math.cbrt(prime)));
/** … and of the square roots of the first 8 (5.3.3). */
const initialState = Uint32Array.from(firstPrimes(8), (prime) => fractionalBits(Math.sqrt(prime)));

const rotate = (x: number, bits: number): number => (x >>> bits) | (x << (32 - bits));

class Sha256 implements Hasher {
  readonly #state = Uint32Array.from(initialState);
  readonly #schedule = new Uint32Array(64);
  /** Bytes that do not fill a block yet. */
  readonly #rest = new Uint8Array(64);
  #length = 0;

  update(bytes: Uint8Array): void {
    let at = 0;
    const held = this.#length % 64;
    this.#length += bytes.byteLength;
    if (held > 0) {
      at = Math.min(64 - held, bytes.byteLength);
      this.#rest.set(bytes.subarray(0, at), held);
      if (held + at < 64) return;
      this.#block(this.#rest, 0);
    }
    for (; at + 64 <= bytes.byteLength; at += 64) this.#block(bytes, at);
    this.#rest.set(bytes.subarray(at));
  }

  digest(): string {
    const bits = BigInt(this.#length) * 8n;
    const held = this.#length % 64;
    const padding = new Uint8Array(held < 56 ? 64 - held : 128 - held);
    padding[0] = 0x80;
    new DataView(padding.buffer).setBigUint64(padding.byteLength - 8, bits);
    this.update(padding);
    return Array.from(this.#state, (word) => word.toString(16).padStart(8, '0')).join('');
  }

  #block(bytes: Uint8Array, at: number): void {
    const w = this.#schedule;
    for (let t = 0; t < 16; t++) {
      const i = at + 4 * t;
      w[t] = (bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3];
    }
    for (let t = 16; t < 64; t++) {
      const s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >>> 3);
      const s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >>> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let t = 0; t < 64; t++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + roundConstants[t] + w[t]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    const state = this.#state;
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
  }
}

export const createSha256: CreateHasher = () => new Sha256();

export function sha256(bytes: Uint8Array, create: CreateHasher = createSha256): string {
  const hasher = create();
  hasher.update(bytes);
  return hasher.digest();
}
