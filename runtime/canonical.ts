/** Data as text, the same for equal data, to be hashed. */

/** Keys sorted, sets as lists: the order in which something was built does not matter. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => {
    if (inner instanceof Set) return [...inner].sort();
    if (inner instanceof Map) return [...inner].sort(([a], [b]) => (a < b ? -1 : 1));
    if (typeof inner !== 'object' || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
