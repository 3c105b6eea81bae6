/** SPIR-V modules as lists of instructions: to look into rendered ones and to rewrite them. */

export interface Instruction {
  readonly op: number;
  /** All words after the first. */
  readonly operands: readonly number[];
}

const headerWords = 5;

export function decodeModule(words: Uint32Array): Instruction[] {
  const list: Instruction[] = [];
  for (let at = headerWords; at < words.length; ) {
    const count = words[at] >>> 16;
    if (count === 0 || at + count > words.length) throw new Error(`an instruction of ${count} words at ${at}`);
    list.push({ op: words[at] & 0xffff, operands: [...words.subarray(at + 1, at + count)] });
    at += count;
  }
  return list;
}

/** A module like `words` of other instructions; `bound` is above every id. */
export function encodeModule(words: Uint32Array, instructions: readonly Instruction[], bound: number): Uint32Array {
  const header = [...words.subarray(0, headerWords)];
  header[3] = bound;
  const body = instructions.flatMap(({ op, operands }) => [((operands.length + 1) << 16) | op, ...operands]);
  return Uint32Array.from([...header, ...body]);
}

/** The text that literal words hold. */
export function textOf(words: readonly number[]): string {
  const bytes = new Uint8Array(Uint32Array.from(words).buffer);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}
