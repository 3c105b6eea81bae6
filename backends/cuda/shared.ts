/**
 * Where a kernel's shared arrays and signals lie. Up to 48 KiB are variables of the entry; more, and what tensor copies
 * write, is one block that the launch sizes: boxes begin at multiples of 1024 bytes, where their swizzle does.
 */
import type { KSignal } from '../../compiler/kernel/engines.js';
import { isEngineInst } from '../../compiler/kernel/engines.js';
import { type KArray, type KernelFunction, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { visitInstructions } from '../../compiler/kernel/walk.js';

/** Arrays are aligned for the widest access. */
export const arrayAlignment = 16;
/** Shared memory that variables may take. */
const staticBytes = 48 << 10;
const boxAlignment = 1024;
/** Bytes of an mbarrier. */
const signalBytes = 8;

/** Bools are bytes of 0 or 1. */
export const memoryScalar = ({ scalar }: { readonly scalar: ScalarType }): ScalarType =>
  scalar === 'bool' ? 'u8' : scalar;

export const arrayBytes = (array: KArray): number => (Math.max(1, array.length) * scalarBits[memoryScalar(array)]) / 8;

export class SharedLayout {
  /** One block for all, sized by the launch. */
  readonly isDynamic: boolean;
  readonly bytes: number;
  readonly #offsets = new Map<KArray | KSignal, number>();

  constructor(kernel: KernelFunction) {
    const boxes = new Set<KArray>();
    visitInstructions(kernel.body, (inst) => {
      if (isEngineInst(inst) && inst.op === 'tensor_copy') boxes.add(inst.memory);
    });
    const arrays = kernel.arrays.filter(({ space }) => space === 'shared');
    let end = 0;
    const place = (what: KArray | KSignal, bytes: number, alignment: number): void => {
      const offset = Math.ceil(end / alignment) * alignment;
      this.#offsets.set(what, offset);
      end = offset + bytes;
    };
    for (const array of arrays) if (boxes.has(array)) place(array, arrayBytes(array), boxAlignment);
    for (const array of arrays) if (!boxes.has(array)) place(array, arrayBytes(array), arrayAlignment);
    for (const signal of kernel.signals) place(signal, signalBytes * signal.count, arrayAlignment);
    this.bytes = Math.ceil(end / arrayAlignment) * arrayAlignment;
    this.isDynamic = boxes.size > 0 || this.bytes > staticBytes;
  }

  offsetOf(what: KArray | KSignal): number {
    const offset = this.#offsets.get(what);
    if (offset === undefined) throw new Error(`${what.name} is not shared memory of the kernel`);
    return offset;
  }

  /** Declarations before the entry. */
  declarations(name: string): readonly string[] {
    return this.isDynamic ? [`.extern .shared .align ${boxAlignment} .b8 ${name}[];`] : [];
  }
}

/** The block of a kernel whose shared memory the launch sizes. */
export const blockName = (entry: string): string => `${entry}_shared`;
