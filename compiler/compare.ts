/** Comparison of tensors with tolerances, as the ONNX backend tests do it: NaN and infinities must match. */
import { isFloat, isMiniFloat } from './dtype.js';
import { bigsOf, isBig, numbersOf as numbersOfSmall } from './graph/ops/reference/data.js';
import { type HostTensor, sizeOf } from './tensor.js';

export interface Tolerance {
  /** |actual - expected| ≤ atol + rtol·|expected|; exact for all but floats. */
  readonly rtol: number;
  readonly atol: number;
}

export interface Comparison {
  readonly ok: boolean;
  /** Why not, in one line. */
  readonly reason?: string;
  /** Largest absolute difference over elements that are finite in both (Infinity if finiteness differs). */
  readonly maxDifference: number;
  /** Largest absolute value of `expected`, over its finite elements. */
  readonly maxExpected: number;
  /** Elements out of tolerance. */
  readonly mismatches: number;
}

/** Elements as numbers (64-bit integers beyond 2^53 rounded). @throws TypeError on strings. */
export function numbersOf(tensor: HostTensor): ArrayLike<number> & Iterable<number> {
  return isBig(tensor.dtype) ? Float64Array.from(bigsOf(tensor), Number) : numbersOfSmall(tensor);
}

/** Compares element by element; integers, bool, strings and floats of at most a byte exactly. */
export function compareTensors(actual: HostTensor, expected: HostTensor, { rtol, atol }: Tolerance): Comparison {
  const differ = (reason: string): Comparison => ({
    ok: false,
    reason,
    maxDifference: Number.POSITIVE_INFINITY,
    maxExpected: 0,
    mismatches: sizeOf(expected.shape),
  });
  if (actual.dtype !== expected.dtype) return differ(`element type ${actual.dtype}, expected ${expected.dtype}`);
  if (actual.shape.length !== expected.shape.length || actual.shape.some((dim, i) => dim !== expected.shape[i])) {
    return differ(`shape [${actual.shape.join(', ')}], expected [${expected.shape.join(', ')}]`);
  }
  if (expected.dtype === 'string') {
    const at = (expected.data as readonly string[]).findIndex((text, i) => text !== actual.data[i]);
    if (at >= 0) return differ(`string ${at} is ${JSON.stringify(actual.data[at])}`);
    return { ok: true, maxDifference: 0, maxExpected: 0, mismatches: 0 };
  }
  const exact = !isFloat(expected.dtype) || isMiniFloat(expected.dtype);
  const wide = expected.dtype === 'i64' || expected.dtype === 'u64';
  const [a, e] = [numbersOf(actual), numbersOf(expected)];
  let [maxDifference, maxExpected, mismatches, first] = [0, 0, 0, -1];
  for (let i = 0; i < e.length; i++) {
    const same = wide
      ? actual.data[i] === expected.data[i]
      : a[i] === e[i] || (Number.isNaN(a[i]) && Number.isNaN(e[i]));
    if (Number.isFinite(e[i])) maxExpected = Math.max(maxExpected, Math.abs(e[i]));
    if (same) continue;
    const finite = Number.isFinite(a[i]) && Number.isFinite(e[i]);
    const difference = finite ? Math.abs(a[i] - e[i]) : Number.POSITIVE_INFINITY;
    maxDifference = Math.max(maxDifference, difference);
    if (!exact && finite && difference <= atol + rtol * Math.abs(e[i])) continue;
    if (mismatches++ === 0) first = i;
  }
  if (mismatches === 0) return { ok: true, maxDifference, maxExpected, mismatches };
  const reason = `${mismatches} of ${e.length} elements differ, first at ${first}: ${a[first]}, expected ${e[first]}`;
  return { ok: false, reason, maxDifference, maxExpected, mismatches };
}
