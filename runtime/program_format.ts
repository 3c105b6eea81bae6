/**
 * Programs as text and sections of bytes, for storage: numbers, names and steps go into one JSON document, constants and
 * words of kernels into sections of their own, which are read when they are needed.
 */
import type { KernelCode } from '../backends/backend.js';
import type { ConstantData } from '../compiler/graph/types.js';
import type { PlannedConstant, PlannedTensor, Program } from '../compiler/plan.js';
import { type HostTensor, type NumericData, tensorFromBytes } from '../compiler/tensor.js';
import { type Piece, piecesInBestOrder } from './constant_parts.js';

/** A plan with its kernels as a device's driver takes them. */
export interface RenderedProgram {
  readonly program: Program;
  /** In the order of the program's kernels. */
  readonly codes: readonly KernelCode[];
}

/** A stored program is not what was written. */
export class DamagedProgram extends Error {}

/** Bytes of a section, in any order; called once, in the order of the sections. */
export type Section = () => Iterable<Piece>;

type StoredData = Pick<ConstantData, 'dtype' | 'shape'> &
  ({ readonly section: number } | { readonly strings: readonly string[] });
type StoredConstant = Omit<PlannedConstant, 'data'> & { readonly data: StoredData };
type StoredTensor = Omit<PlannedTensor, 'constant'> & { readonly constant?: StoredData };
type StoredCode = Omit<KernelCode, 'words'> & { readonly words?: number };

interface Stored extends Omit<Program, 'constants' | 'inputs' | 'outputs'> {
  readonly constants: readonly StoredConstant[];
  readonly inputs: readonly StoredTensor[];
  readonly outputs: readonly StoredTensor[];
  readonly codes: readonly StoredCode[];
}

/** The document, and the sections that it counts. */
export function encodeProgram({ program, codes }: RenderedProgram): { text: string; sections: readonly Section[] } {
  const sections: Section[] = [];
  // What is one object stays one: constants are told apart by identity.
  const known = new Map<ConstantData, StoredData>();
  const store = (data: ConstantData): StoredData => {
    let stored = known.get(data);
    if (stored !== undefined) return stored;
    const { dtype, shape } = data;
    if (dtype === 'string') stored = { dtype, shape, strings: data.load().data as readonly string[] };
    else {
      stored = { dtype, shape, section: sections.length };
      sections.push(() => piecesInBestOrder(data));
    }
    known.set(data, stored);
    return stored;
  };
  const tensor = ({ constant, ...rest }: PlannedTensor): StoredTensor =>
    constant === undefined ? rest : { ...rest, constant: store(constant) };
  const code = ({ words, ...rest }: KernelCode): StoredCode => {
    if (words === undefined) return rest;
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    sections.push(() => [{ offset: 0, bytes }]);
    return { ...rest, words: sections.length - 1 };
  };
  const { steps, pools, report } = program;
  const stored: Stored = {
    kernels: program.kernels.map(({ name, grid }) => ({ name, grid })),
    steps,
    pools,
    constants: program.constants.map(({ data, ...rest }) => ({ ...rest, data: store(data) })),
    inputs: program.inputs.map(tensor),
    outputs: program.outputs.map(tensor),
    // What making it took says nothing of the program.
    report: { ...report, times: {} },
    codes: codes.map(code),
  };
  return { text: JSON.stringify(stored), sections };
}

/** Where the sections of a stored program are read from, when they are needed. Both throw DamagedProgram. */
export interface Sections {
  /** Anew at each call. */
  all(section: number): Uint8Array;
  /** Fills `into` with what begins there. */
  part(section: number, offset: number, into: Uint8Array): void;
}

export function decodeProgram(text: string, sections: Sections): RenderedProgram {
  const { codes, ...stored } = JSON.parse(text) as Stored;
  const known = new Map<number, ConstantData>();
  const restore = (data: StoredData): ConstantData => {
    const { dtype, shape } = data;
    if ('strings' in data) return { dtype, shape, load: (): HostTensor => ({ dtype, shape, data: data.strings }) };
    const { section } = data;
    let constant = known.get(section);
    if (constant === undefined)
      known.set(section, (constant = new StoredSection(dtype as Numbers, shape, section, sections)));
    return constant;
  };
  const tensor = ({ constant, ...rest }: StoredTensor): PlannedTensor =>
    constant === undefined ? rest : { ...rest, constant: restore(constant) };
  const program: Program = {
    ...stored,
    constants: stored.constants.map(({ data, ...rest }) => ({ ...rest, data: restore(data) })),
    inputs: stored.inputs.map(tensor),
    outputs: stored.outputs.map(tensor),
  };
  return {
    program,
    codes: codes.map(({ words, ...rest }) => ({
      ...rest,
      ...(words === undefined ? {} : { words: wordsOf(sections.all(words)) }),
    })),
  };
}

type Numbers = Parameters<typeof tensorFromBytes>[0];

class StoredSection implements ConstantData {
  readonly #section: number;
  readonly #sections: Sections;

  constructor(
    readonly dtype: Numbers,
    readonly shape: readonly number[],
    section: number,
    sections: Sections,
  ) {
    this.#section = section;
    this.#sections = sections;
  }

  load(): HostTensor {
    return tensorFromBytes(this.dtype, this.shape, this.#sections.all(this.#section));
  }

  readPart(start: number, into: NumericData): void {
    const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
    this.#sections.part(this.#section, start * into.BYTES_PER_ELEMENT, bytes);
  }
}

const wordsOf = (bytes: Uint8Array): Uint32Array =>
  new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / Uint32Array.BYTES_PER_ELEMENT);
