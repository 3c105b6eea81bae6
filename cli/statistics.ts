/** Medians and percentiles of timings. */

/** The value below which a fraction of the sorted samples lies, interpolated. NaN of nothing. */
export function quantile(samples: readonly number[], fraction: number): number {
  if (samples.length === 0) return Number.NaN;
  const sorted = [...samples].sort((a, b) => a - b);
  const place = (sorted.length - 1) * fraction;
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

export const median = (samples: readonly number[]): number => quantile(samples, 0.5);
