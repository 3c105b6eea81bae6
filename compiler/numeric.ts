/**
 * Exact number formats on the host: rounding to the 16-bit float formats, their bits, fused multiply-add and erf. The
 * formats of at most a byte are in `minifloat.ts`.
 *
 * All roundings go from a double in one step (to nearest, ties to even, subnormals kept), so a value computed in f64
 * from operands of at most half its precision is never rounded twice in a way that shows.
 */

const scratch = new DataView(new ArrayBuffer(8));
const f64 = new Float64Array(1);
const f64Words = new Uint32Array(f64.buffer);
const f32 = new Float32Array(1);
const f32Word = new Uint32Array(f32.buffer);
const high = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? 1 : 0;
const low = 1 - high;

/** Unbiased exponent of a double: floor(log2|x|) for normal x, below -1022 for subnormals and zero. */
export function exponentOf(x: number): number {
  f64[0] = x;
  return ((f64Words[high] >>> 20) & 0x7ff) - 1023;
}

/** 2^k for -1022 ≤ k ≤ 1023. */
function powerOfTwo(k: number): number {
  f64Words[high] = (k + 1023) << 20;
  f64Words[low] = 0;
  return f64[0];
}

/** `x` rounded to a multiple of 2^k, ties to even, sign of zero kept; needs |x| < 2^(k+51). */
function roundToQuantum(x: number, k: number): number {
  const magic = 1.5 * powerOfTwo(k + 52);
  const y = x + magic - magic;
  return y === 0 ? x * 0 : y;
}

/** The integer nearest to `x`, ties to even; keeps NaN, infinities and the sign of zero. */
export function roundTiesToEven(x: number): number {
  const magnitude = Math.abs(x);
  if (!(magnitude < 4503599627370496)) return x;
  const y = magnitude + 4503599627370496 - 4503599627370496;
  return x < 0 || Object.is(x, -0) ? -y : y;
}

/** `x` rounded to f16; overflow gives an infinity. */
export function roundF16(x: number): number {
  if (!(Math.abs(x) < 65520)) return Number.isNaN(x) ? x : x > 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  const exponent = exponentOf(x);
  return roundToQuantum(x, (exponent < -14 ? -14 : exponent) - 10);
}

const bf16Overflow = 2 ** 128 - 2 ** 119;

/** `x` rounded to bf16; overflow gives an infinity. */
export function roundBf16(x: number): number {
  if (!(Math.abs(x) < bf16Overflow)) {
    return Number.isNaN(x) ? x : x > 0 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  }
  const exponent = exponentOf(x);
  return roundToQuantum(x, (exponent < -126 ? -126 : exponent) - 7);
}

/** Bits of `x` rounded to f16; NaN is 0x7e00. */
export function f32ToF16(x: number): number {
  if (Number.isNaN(x)) return 0x7e00;
  const y = roundF16(x);
  const sign = y < 0 || Object.is(y, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(y);
  if (magnitude === Number.POSITIVE_INFINITY) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | (magnitude * 2 ** 24);
  const exponent = exponentOf(magnitude);
  return sign | ((exponent + 15) << 10) | ((f64Words[high] >>> 10) & 0x3ff);
}

/** Value of f16 bits. */
export function f16ToF32(bits: number): number {
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1024 + mantissa) * powerOfTwo(exponent - 25);
}

/** Bits of `x` rounded to bf16; NaN is 0x7fc0. */
export function f32ToBf16(x: number): number {
  if (Number.isNaN(x)) return 0x7fc0;
  f32[0] = roundBf16(x);
  return f32Word[0] >>> 16;
}

/** Value of bf16 bits. */
export function bf16ToF32(bits: number): number {
  f32Word[0] = (bits & 0xffff) << 16;
  return f32[0];
}

/**
 * a·b + c as a double rounded to odd: exact if it fits, else the neighbour with an odd last bit. Needs a·b exact in
 * f64. Rounding that to a format with at most 51 bits gives the correctly rounded fused result
 * (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
 */
function fusedOdd(a: number, b: number, c: number): number {
  const product = a * b;
  const sum = product + c;
  const part = sum - product;
  const error = product - (sum - part) + (c - part);
  if (error === 0 || Number.isNaN(error)) return sum;
  f64[0] = sum;
  if (f64Words[low] & 1) return sum;
  // One step towards the exact value: away from zero if the error has the sign of the sum.
  scratch.setFloat64(0, sum);
  scratch.setBigInt64(0, scratch.getBigInt64(0) + (error > 0 === sum > 0 ? 1n : -1n));
  return scratch.getFloat64(0);
}

/** Fused multiply-add of f32, f16 and bf16 operands, rounded once. */
export const fmaF32 = (a: number, b: number, c: number): number => Math.fround(fusedOdd(a, b, c));
export const fmaF16 = (a: number, b: number, c: number): number => roundF16(fusedOdd(a, b, c));
export const fmaBf16 = (a: number, b: number, c: number): number => roundBf16(fusedOdd(a, b, c));

/** The bits of a double. */
export function bitsOfF64(x: number): bigint {
  scratch.setFloat64(0, x);
  return scratch.getBigUint64(0);
}

/** A finite double as integer·2^exponent. */
function decompose(x: number): { readonly integer: bigint; readonly exponent: number } {
  const bits = bitsOfF64(x);
  const biased = Number((bits >> 52n) & 0x7ffn);
  const fraction = bits & 0xfffffffffffffn;
  const magnitude = biased === 0 ? fraction : fraction | (1n << 52n);
  return { integer: bits >> 63n ? -magnitude : magnitude, exponent: (biased === 0 ? 1 : biased) - 1075 };
}

/** integer·2^exponent rounded to a double. */
function roundToF64(integer: bigint, exponent: number): number {
  if (integer === 0n) return 0;
  const negative = integer < 0n;
  let magnitude = negative ? -integer : integer;
  let scale = exponent;
  const length = magnitude.toString(2).length;
  // Keep 53 bits, fewer where the result is subnormal (the last place is never below 2^-1074).
  const drop = Math.max(length - 53, -1074 - exponent);
  if (drop > 0) {
    const shift = BigInt(drop);
    const half = 1n << (shift - 1n);
    const rest = magnitude & ((1n << shift) - 1n);
    magnitude >>= shift;
    if (rest > half || (rest === half && magnitude & 1n)) magnitude += 1n;
    scale += drop;
  }
  // Two exact factors: 2^scale alone may be out of range.
  const number = Number(magnitude) * 2 ** Math.max(scale, -1022) * 2 ** Math.min(scale + 1022, 0);
  return negative ? -number : number;
}

/** Fused multiply-add of doubles, rounded once. */
export function fmaF64(a: number, b: number, c: number): number {
  const plain = a * b;
  if (a === 0 || b === 0 || !Number.isFinite(a) || !Number.isFinite(b) || !Number.isFinite(c)) {
    // The product is exact or special. An overflow of a finite product does not reach an infinite c.
    return Number.isFinite(a) && Number.isFinite(b) && !Number.isFinite(c) ? c : plain + c;
  }
  if (c === 0) return plain;
  const x = decompose(a);
  const y = decompose(b);
  const z = decompose(c);
  let product = x.integer * y.integer;
  let addend = z.integer;
  const exponent = x.exponent + y.exponent;
  if (exponent > z.exponent) product <<= BigInt(exponent - z.exponent);
  else addend <<= BigInt(z.exponent - exponent);
  return roundToF64(product + addend, Math.min(exponent, z.exponent));
}

/** A 64-bit integer as a double rounded to odd, so that a second rounding to a smaller format is exact. */
export function bigintToOddF64(x: bigint): number {
  const magnitude = x < 0n ? -x : x;
  if (magnitude <= 9007199254740992n) return Number(x);
  const shift = BigInt(magnitude.toString(2).length - 53);
  let top = magnitude >> shift;
  if (top << shift !== magnitude) top |= 1n;
  const y = Number(top) * 2 ** Number(shift);
  return x < 0n ? -y : y;
}

/** A number as the unevaluated sum of two doubles (T. J. Dekker, "A floating-point technique", 1971). */
type Double2 = readonly [high: number, low: number];

/** a + b exactly, for |a| ≥ |b|. */
function fastSum(a: number, b: number): Double2 {
  const high = a + b;
  return [high, b - (high - a)];
}

/** a · b exactly, far from overflow and underflow. */
function exactProduct(a: number, b: number): Double2 {
  const split = (x: number): Double2 => {
    const scaled = x * (2 ** 27 + 1);
    const high = scaled - (scaled - x);
    return [high, x - high];
  };
  const [ah, al] = split(a);
  const [bh, bl] = split(b);
  const high = a * b;
  return [high, al * bl - (high - ah * bh - al * bh - ah * bl)];
}

function product2(a: Double2, b: Double2): Double2 {
  const [high, low] = exactProduct(a[0], b[0]);
  return fastSum(high, low + (a[0] * b[1] + a[1] * b[0]));
}

function quotient2(a: Double2, divisor: number): Double2 {
  const high = a[0] / divisor;
  const [back, rest] = exactProduct(high, divisor);
  return fastSum(high, (a[0] - back - rest + a[1]) / divisor);
}

function sum2(a: Double2, b: Double2): Double2 {
  const high = a[0] + b[0];
  const part = high - a[0];
  return fastSum(high, a[0] - (high - part) + (b[0] - part) + (a[1] + b[1]));
}

const twoOverRootPi: Double2 = [1.1283791670955126, 1.533545961316588e-17];

/**
 * The error function in f64, to 1 ulp. Below 2.5 its Maclaurin series 2/√π·Σ (−1)ⁿx^(2n+1)/(n!·(2n+1)) with twice the
 * digits, for its terms cancel; above it one minus Laplace's continued fraction of erfc, which is small there
 * (Abramowitz & Stegun 7.1.5, 7.1.14).
 */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (Number.isNaN(x) || z === 0) return x;
  // The cube of so small a number is lost; its product would be cut off as subnormal.
  if (z < 2 ** -30) return x * twoOverRootPi[0];
  if (z >= 6) return Math.sign(x);
  if (z < 2.5) {
    const [high, low] = exactProduct(z, z);
    const step: Double2 = [-high, -low];
    let power: Double2 = [z, 0];
    let sum: Double2 = power;
    for (let n = 1; Math.abs(power[0]) > sum[0] * 2 ** -60; n++) {
      power = quotient2(product2(power, step), n);
      sum = sum2(sum, quotient2(power, 2 * n + 1));
    }
    return Math.sign(x) * product2(sum, twoOverRootPi)[0];
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (z + fraction);
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction));
}

/** C's pow: unlike JavaScript's, pow(1, y) and pow(-1, ±Inf) are 1. */
export function pow(x: number, y: number): number {
  if (x === 1 || (x === -1 && Math.abs(y) === Number.POSITIVE_INFINITY)) return 1;
  return x ** y;
}

/** The real functions of one argument that both IRs know, in f64: the caller rounds to the type at hand. */
export const realFunctions = {
  sqrt: Math.sqrt,
  exp: Math.exp,
  exp2: (x: number): number => 2 ** x,
  log: Math.log,
  log2: Math.log2,
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
  asin: Math.asin,
  acos: Math.acos,
  atan: Math.atan,
  sinh: Math.sinh,
  cosh: Math.cosh,
  asinh: Math.asinh,
  acosh: Math.acosh,
  atanh: Math.atanh,
  tanh: Math.tanh,
  erf,
} as const satisfies Readonly<Record<string, (x: number) => number>>;
