/**
 * Discrete Fourier transforms as contractions.
 *
 * Short lengths are one product with the matrix of roots of unity. Longer ones are split n = p·q (Cooley and Tukey,
 * 1965): p-point transforms, a pointwise product, q-point transforms. Lengths with large prime factors become a cyclic
 * convolution of a power of two (Bluestein, 1970). Roots are computed in f64 from integers reduced modulo n, so that
 * those on the axes are exact, and rounded once.
 */
import type { GraphBuilder } from './builder.js';
import { add, broadcastTo, concat, mul, pad, reshape, reverse, slice1, swapAxes, tensor } from './compose/index.js';
import type { Value } from './types.js';

/** Transforms of this length and shorter are one product; up to the second number where they do not divide. */
const directLimit = 256;
const directPrimeLimit = 1024;

/** cos and sin of 2π·index/length, exact where they are 0 or ±1; any integers below 2^50. */
export function unitRoot(index: number, length: number): readonly [cos: number, sin: number] {
  const reduced = (((index % length) + length) % length) * 8;
  const octant = Math.floor(reduced / length);
  const rest = reduced - octant * length;
  // Within [0, π/4], from the nearer end of the octant.
  const angle = ((octant % 2 === 0 ? rest : length - rest) / length) * (Math.PI / 4);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  switch (octant) {
    case 0:
      return [c, s];
    case 1:
      return [s, c];
    case 2:
      return [-s, c];
    case 3:
      return [-c, s];
    case 4:
      return [-c, -s];
    case 5:
      return [-s, -c];
    case 6:
      return [s, -c];
    default:
      return [c, -s];
  }
}

/**
 * x [..., n, 1 (real) or 2 (real and imaginary part)], concrete, f32 or f64 → [..., outputs, 2]: the first `outputs`
 * of Σ x[j]·e^(∓2πi·jk/n), the sign positive if `inverse`; not scaled.
 */
export function fourier(b: GraphBuilder, x: Value, inverse: boolean, outputs?: number): Value {
  const rank = x.type.shape.length;
  const n = Number(x.type.shape[rank - 2]);
  const count = outputs ?? n;
  const first = (y: Value): Value => slice1(b, y, rank - 2, 0, count);
  if (n <= directLimit) return product(b, x, n, count, inverse);
  const factor = factorOf(n);
  if (factor !== undefined) return first(split(b, x, factor, n / factor, inverse));
  return n <= directPrimeLimit ? product(b, x, n, count, inverse) : first(chirp(b, x, n, inverse));
}

/** The divisor of n up to `directLimit` that is nearest to its root, or undefined. */
function factorOf(n: number): number | undefined {
  let best: number | undefined;
  for (let p = 2; p <= Math.min(directLimit, n / 2); p++) {
    if (n % p === 0 && (best === undefined || Math.abs(p * p - n) < Math.abs(best * best - n))) best = p;
  }
  return best;
}

/** The sum itself, as a contraction over elements and components. */
function product(b: GraphBuilder, x: Value, n: number, outputs: number, inverse: boolean): Value {
  const { shape, dtype } = x.type;
  const rank = shape.length;
  const components = Number(shape[rank - 1]);
  const sign = inverse ? 1 : -1;
  const matrix = new Float64Array(n * components * outputs * 2);
  for (let j = 0; j < n; j++) {
    for (let k = 0; k < outputs; k++) {
      const [c, s] = unitRoot(j * k, n);
      const at = (component: number) => ((j * components + component) * outputs + k) * 2;
      matrix.set([c, sign * s], at(0));
      if (components === 2) matrix.set([-sign * s, c], at(1));
    }
  }
  return b.op('dot', [x, table(b, dtype, matrix, [n, components, outputs, 2])], {
    lhsBatch: [],
    rhsBatch: [],
    lhsContract: [rank - 2, rank - 1],
    rhsContract: [0, 1],
    dtype,
  })[0];
}

/** j = q·j1 + j2 and k = k1 + p·k2. */
function split(b: GraphBuilder, x: Value, p: number, q: number, inverse: boolean): Value {
  const { shape } = x.type;
  const outer = shape.slice(0, -2);
  const rank = outer.length;
  const components = shape[rank + 1];
  // p-point transforms over j1, which leaves [..., j2, k1, 2].
  const columns = swapAxes(b, reshape(b, x, [...outer, p, q, components]), rank, rank + 1);
  const inner = fourier(b, columns, inverse);
  const roots = Array.from({ length: q * p }, (_, i) => unitRoot(Math.floor(i / p) * (i % p), p * q));
  const turned = timesComplex(b, inner, rotation(roots, inverse), [q, p, 2]);
  // q-point transforms over j2: [..., k1, k2, 2].
  const result = fourier(b, swapAxes(b, turned, rank, rank + 1), inverse);
  return reshape(b, swapAxes(b, result, rank, rank + 1), [...outer, p * q, 2]);
}

/** With jk = (j² + k² - (k - j)²) / 2 the sum is a convolution with e^(±πi·j²/n). */
function chirp(b: GraphBuilder, x: Value, n: number, inverse: boolean): Value {
  const { shape } = x.type;
  const rank = shape.length;
  let size = 1;
  while (size < 2 * n - 1) size *= 2;
  // j² modulo 2n by its differences, which stays exact for any n.
  const squares = new Array<number>(n).fill(0);
  for (let j = 1; j < n; j++) squares[j] = (squares[j - 1] + 2 * j - 1) % (2 * n);
  const own = rotation(
    squares.map((square) => unitRoot(square, 2 * n)),
    inverse,
  );
  const kernel = { re: new Float64Array(size), im: new Float64Array(size) };
  own.forEach(([re, im], j) => {
    for (const at of j === 0 ? [0] : [j, size - j]) {
      kernel.re[at] = re;
      kernel.im[at] = -im;
    }
  });
  hostTransform(kernel.re, kernel.im);
  const complex = shape[rank - 1] === 2 ? x : concat(b, [x, zerosLike(b, x)], rank - 1);
  const none = shape.map(() => 0);
  const high = none.map((_, i) => (i === rank - 2 ? size - n : 0));
  const padded = pad(b, timesComplex(b, complex, own, [n, 2]), none, high);
  const spectrum = fourier(b, padded, false);
  const filter = Array.from(kernel.re, (re, i): readonly [number, number] => [re / size, kernel.im[i] / size]);
  const back = fourier(b, timesComplex(b, spectrum, filter, [size, 2]), true);
  return timesComplex(b, slice1(b, back, rank - 2, 0, n), own, [n, 2]);
}

const zerosLike = (b: GraphBuilder, x: Value): Value => broadcastTo(b, tensor(b, x.type.dtype, [0], []), x.type.shape);

type Complex = readonly [re: number, im: number];

/** e^(-iφ) of the roots e^(iφ), or the roots themselves. */
const rotation = (roots: readonly Complex[], inverse: boolean): readonly Complex[] =>
  inverse ? roots : roots.map(([c, s]) => [c, -s]);

/** x [..., 2] times constants whose shape (with the 2) is aligned at the right. */
function timesComplex(b: GraphBuilder, x: Value, factors: readonly Complex[], shape: readonly number[]): Value {
  const own = new Float64Array(factors.length * 2);
  const other = new Float64Array(factors.length * 2);
  factors.forEach(([re, im], i) => {
    own.set([re, re], 2 * i);
    other.set([-im, im], 2 * i);
  });
  const { dtype } = x.type;
  return add(b, mul(b, x, table(b, dtype, own, shape)), mul(b, reverse(b, x, -1), table(b, dtype, other, shape)));
}

/** A constant of f64 numbers, rounded to the type. */
const table = (b: GraphBuilder, dtype: Value['type']['dtype'], values: Float64Array, shape: readonly number[]): Value =>
  b.constant({ dtype, shape, data: dtype === 'f64' ? values : Float32Array.from(values) });

/** Forward transform in place, of a power of two, in f64. */
function hostTransform(re: Float64Array, im: Float64Array): void {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let length = 2; length <= n; length *= 2) {
    const half = length / 2;
    const roots = Array.from({ length: half }, (_, k) => unitRoot(k, length));
    for (let start = 0; start < n; start += length) {
      for (let k = 0; k < half; k++) {
        const [c, s] = roots[k];
        const [p, q] = [start + k, start + k + half];
        const [tr, ti] = [re[q] * c + im[q] * s, im[q] * c - re[q] * s];
        [re[q], im[q]] = [re[p] - tr, im[p] - ti];
        [re[p], im[p]] = [re[p] + tr, im[p] + ti];
      }
    }
  }
}
