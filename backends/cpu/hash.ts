/** A name for a text: kernels of different texts can share a translation unit. */

/**
 * 128 bits as hexadecimal, for names that must differ where texts differ by accident, not by malice: the cache has
 * SHA-256 keys of its own. Four lanes of multiply-xorshift with the finisher of MurmurHash3.
 */
export function contentHash(text: string): string {
  const lanes = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344].map((seed, lane) => {
    const multiplier = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f][lane];
    let hash = seed ^ text.length;
    for (let i = 0; i < text.length; i++) {
      hash = Math.imul(hash ^ text.charCodeAt(i), multiplier);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
  });
  return lanes.map((lane) => lane.toString(16).padStart(8, '0')).join('');
}
