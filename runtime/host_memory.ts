/** From here on clearing memory costs more than to ask for it uncleared. */
const worthAsking = 1 << 16;

type AllocUnsafeSlow = (bytes: number) => Uint8Array<ArrayBuffer>;

/**
 * Memory for results, which are about to be written whole: what it holds is undefined. In Node it is not cleared first:
 * that would touch every page in the thread that submits, before the threads that compute do.
 */
export function resultMemory(bytes: number): Uint8Array<ArrayBuffer> {
  if (bytes < worthAsking) return new Uint8Array(bytes);
  const { Buffer: node } = globalThis as { Buffer?: { allocUnsafeSlow?: AllocUnsafeSlow } };
  if (node?.allocUnsafeSlow === undefined) return new Uint8Array(bytes);
  return new Uint8Array(node.allocUnsafeSlow(bytes).buffer);
}
