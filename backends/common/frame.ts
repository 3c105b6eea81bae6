/** The outside of a kernel: its parameters by kind, and what KernelCode says of every kernel whatever its language. */
import type { KArray, KBuffer, KernelFunction, KMemory, KScalar, ScalarType } from '../../compiler/kernel/types.js';
import { scalarBits } from '../../compiler/kernel/types.js';
import type { KernelCode } from '../backend.js';

export interface Frame {
  /** In binding order. */
  readonly buffers: readonly KBuffer[];
  /** In order of their 4-byte slots. */
  readonly scalars: readonly KScalar[];
  readonly shared: readonly KArray[];
  readonly private: readonly KArray[];
}

export const frameOf = ({ params, arrays }: KernelFunction): Frame => ({
  buffers: params.filter((param) => param.kind === 'buffer'),
  scalars: params.filter((param) => param.kind === 'scalar'),
  shared: arrays.filter((array) => array.space === 'shared'),
  private: arrays.filter((array) => array.space === 'private'),
});

/** KernelCode without its text or words. `sharedBytes` as the language lays the arrays out. */
export function kernelCode(
  kernel: KernelFunction,
  { buffers, scalars }: Frame,
  entry: string,
  sharedBytes: number,
): Omit<KernelCode, 'text' | 'words'> {
  return {
    name: kernel.name,
    entry,
    workgroup: kernel.workgroup,
    bindings: buffers.map((buffer) => buffer.access),
    scalarBytes: 4 * scalars.length,
    sharedBytes,
    ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
  };
}

/** Bytes of the arrays, with elements of the type that `stored` gives each. */
export const arrayBytes = (arrays: readonly KArray[], stored: (memory: KMemory) => ScalarType): number =>
  arrays.reduce((sum, array) => sum + (array.length * scalarBits[stored(array)]) / 8, 0);
