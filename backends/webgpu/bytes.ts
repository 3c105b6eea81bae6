/**
 * Copies and fills that WebGPU's own commands cannot do: they work in whole words, ours in bytes.
 *
 * One small kernel a kind, an invocation for each destination word: bytes outside the range keep their value. Callers
 * bind windows of the buffers whose offsets obey the alignment of bindings.
 */

/** Invocations of a workgroup; each handles one word. */
const WORKGROUP = 64;
const MAX_GROUPS = 32_768;

const prelude = `struct Range { to: u32, bytes: u32, origin: u32, byte: u32 }
@group(0) @binding(0) var<storage, read_write> target_words: array<u32>;
`;
const word = `@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let place = range.to / 4u + id.y * ${WORKGROUP * MAX_GROUPS}u + id.x;
  if (place * 4u >= range.to + range.bytes) { return; }
  var value = target_words[place];
  for (var i = 0u; i < 4u; i++) {
    let at = place * 4u + i;
    if (at >= range.to && at < range.to + range.bytes) {
      let byte = BYTE;
      value = (value & ~(255u << (i * 8u))) | (byte << (i * 8u));
    }
  }
  target_words[place] = value;
}
`;

export const fillCode = `${prelude}@group(0) @binding(1) var<uniform> range: Range;
${word.replace('BYTE', 'range.byte')}`;

export const copyCode = `${prelude}@group(0) @binding(1) var<storage, read_write> source_words: array<u32>;
@group(0) @binding(2) var<uniform> range: Range;
fn source_byte(at: u32) -> u32 { return (source_words[at / 4u] >> ((at % 4u) * 8u)) & 255u; }
${word.replace('BYTE', 'source_byte(at - range.to + range.origin)')}`;

/** Workgroups for a range of `bytes` at byte `to` of its window. */
export function byteGrid(to: number, bytes: number): readonly [number, number, number] {
  const groups = Math.ceil((Math.ceil((to + bytes) / 4) - Math.floor(to / 4)) / WORKGROUP);
  return groups <= MAX_GROUPS ? [groups, 1, 1] : [MAX_GROUPS, Math.ceil(groups / MAX_GROUPS), 1];
}

/** The uniform of one run. */
export const byteRange = (to: number, bytes: number, from: number, byte: number): Uint32Array<ArrayBuffer> =>
  new Uint32Array([to, bytes, from, byte]);
