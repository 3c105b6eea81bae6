/** Memory of an interpreted kernel: its buffers and arrays as typed arrays, loads, stores and atomics. */
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../numeric.js';
import { RaceDetector } from '../races.js';
import { binaryBig, binaryNumber, isBig } from '../semantics.js';
import {
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KParam,
  type ScalarType,
  scalarBits,
} from '../types.js';
import { type Frame, linearIdSlot, type Op } from './frame.js';

type Access = KInst & { readonly op: 'load' | 'store' | 'atomic' | 'atomic_compare_exchange' };

export type MemoryView =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array;

export interface Memory {
  readonly memory: KMemory;
  readonly view: MemoryView;
  /** Elements from one invocation's copy to the next: 0 unless private and run in lockstep. */
  readonly stride: number;
  readonly races: RaceDetector | undefined;
}

export const viewTypes = {
  bool: Uint8Array,
  i8: Int8Array,
  u8: Uint8Array,
  i16: Int16Array,
  u16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  i64: BigInt64Array,
  u64: BigUint64Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f32: Float32Array,
  f64: Float64Array,
} as const satisfies Record<ScalarType, unknown>;

const isBuffer = (param: KParam): param is KBuffer => param.kind === 'buffer';

/** Views of the given bytes and of fresh arrays; `copyBack` is to be run after the kernel. */
export function bindMemories(
  kernel: KernelFunction,
  bytes: readonly ArrayBufferView[],
  frames: number,
  checkRaces: boolean,
): { readonly byMemory: ReadonlyMap<KMemory, Memory>; readonly copyBack: readonly (() => void)[] } {
  const params = kernel.params.filter(isBuffer);
  if (params.length !== bytes.length) {
    throw new Error(`kernel ${kernel.name} has ${params.length} buffers, got ${bytes.length}`);
  }
  const byMemory = new Map<KMemory, Memory>();
  const copyBack: (() => void)[] = [];
  for (const [i, memory] of params.entries()) {
    const size = (memory.length * scalarBits[memory.scalar]) / 8;
    const given = bytes[i];
    if (given.byteLength < size) {
      throw new Error(`kernel ${kernel.name}: buffer ${memory.name} needs ${size} bytes, got ${given.byteLength}`);
    }
    let { buffer, byteOffset } = given;
    if (byteOffset % (scalarBits[memory.scalar] / 8) !== 0) {
      const aligned = new Uint8Array(buffer, byteOffset, size).slice();
      if (memory.access !== 'read') copyBack.push(() => new Uint8Array(given.buffer, given.byteOffset).set(aligned));
      buffer = aligned.buffer;
      byteOffset = 0;
    }
    const view = new viewTypes[memory.scalar](buffer as ArrayBuffer, byteOffset, memory.length);
    const races = checkRaces && memory.access !== 'read' ? new RaceDetector(kernel.name, memory) : undefined;
    byMemory.set(memory, { memory, view, stride: 0, races });
  }
  for (const memory of kernel.arrays) {
    const copies = memory.space === 'private' ? frames : 1;
    const view = new viewTypes[memory.scalar](memory.length * copies);
    const races = checkRaces && memory.space === 'shared' ? new RaceDetector(kernel.name, memory) : undefined;
    byMemory.set(memory, { memory, view, stride: copies > 1 ? memory.length : 0, races });
  }
  return { byMemory, copyBack };
}

/** Copies element `at` of `view` into a register. */
export function reader(frame: Frame, scalar: ScalarType, view: MemoryView): (at: number, slot: number) => void {
  const { f, i, u } = frame.registers;
  if (view instanceof BigInt64Array || view instanceof BigUint64Array) {
    const bits = scalar === 'i64' ? i : u;
    return (at, slot) => {
      bits[slot] = view[at];
    };
  }
  switch (scalar) {
    case 'f16':
      return (at, slot) => {
        f[slot] = f16ToF32(view[at]);
      };
    case 'bf16':
      return (at, slot) => {
        f[slot] = bf16ToF32(view[at]);
      };
    case 'bool':
      return (at, slot) => {
        f[slot] = view[at] !== 0 ? 1 : 0;
      };
    case 'f32': {
      // Own closures for the common types keep the property access monomorphic.
      const floats = view as Float32Array;
      return (at, slot) => {
        f[slot] = floats[at];
      };
    }
    default:
      return (at, slot) => {
        f[slot] = view[at];
      };
  }
}

/** Copies a register into element `at` of `view`. */
export function writer(frame: Frame, scalar: ScalarType, view: MemoryView): (at: number, slot: number) => void {
  const { f, i, u } = frame.registers;
  if (view instanceof BigInt64Array || view instanceof BigUint64Array) {
    const bits = scalar === 'i64' ? i : u;
    return (at, slot) => {
      view[at] = bits[slot];
    };
  }
  switch (scalar) {
    case 'f16':
      return (at, slot) => {
        view[at] = f32ToF16(f[slot]);
      };
    case 'bf16':
      return (at, slot) => {
        view[at] = f32ToBf16(f[slot]);
      };
    case 'f32': {
      const floats = view as Float32Array;
      return (at, slot) => {
        floats[at] = f[slot];
      };
    }
    default:
      return (at, slot) => {
        view[at] = f[slot];
      };
  }
}

/** A load, store or atomic: checked, then performed. */
export function access(frame: Frame, memories: ReadonlyMap<KMemory, Memory>, inst: Access, checkBounds: boolean): Op {
  const { f, i } = frame.registers;
  const bound = memories.get(inst.memory);
  if (bound === undefined) throw new Error(`kernel ${frame.kernel.name}: memory ${inst.memory.name} is not declared`);
  const { memory, view, stride, races } = bound;
  const isWrite = inst.op !== 'load';
  const isAtomic = inst.op === 'atomic' || inst.op === 'atomic_compare_exchange';
  if (memory.kind === 'buffer' && (isWrite ? memory.access === 'read' : memory.access === 'write')) {
    throw new Error(`kernel ${frame.kernel.name}: ${inst.op} on ${memory.access} buffer ${memory.name}`);
  }
  const lanes = inst.op === 'load' ? inst.result.type.lanes : inst.op === 'store' ? inst.value.type.lanes : 1;
  const index = frame.slot(inst.index);
  const bigIndex = isBig(inst.index.type.scalar);
  const { length } = memory;
  const mustAlign = lanes > 1 && (inst.op === 'load' || inst.op === 'store') && inst.aligned;
  const perform = element(frame, inst, view, lanes);
  const run = (base: number): void => {
    const at = bigIndex ? Number(i[base + index]) : f[base + index];
    if (checkBounds) {
      if (at < 0 || at + lanes > length) outOfBounds(frame, inst.op, memory, at, lanes, base);
      if (mustAlign && at % lanes !== 0) {
        throw new Error(
          `kernel ${frame.kernel.name}: ${inst.op} of ${memory.name}[${at}] is not aligned to ${lanes} elements`,
        );
      }
    }
    perform(base, stride === 0 ? at : at + f[base + linearIdSlot] * stride);
  };
  if (races === undefined) return run;
  return (base) => {
    const at = bigIndex ? Number(i[base + index]) : f[base + index];
    if (at >= 0 && at + lanes <= length) {
      const kind = isAtomic ? 'atomic' : isWrite ? 'write' : 'read';
      for (let lane = 0; lane < lanes; lane++) races.access(kind, at + lane, f[base + linearIdSlot], frame.epoch);
    }
    run(base);
  };
}

/** The access itself, at an element of the view that was checked. */
function element(frame: Frame, inst: Access, view: MemoryView, lanes: number): (base: number, at: number) => void {
  const { scalar } = inst.memory;
  const read = reader(frame, scalar, view);
  const write = writer(frame, scalar, view);
  if (inst.op === 'load') {
    const r = frame.slot(inst.result);
    if (lanes === 1) return (base, at) => read(at, base + r);
    return (base, at) => {
      for (let lane = 0; lane < lanes; lane++) read(at + lane, base + r + lane);
    };
  }
  const value = frame.slot(inst.value);
  if (inst.op === 'store') {
    if (lanes === 1) return (base, at) => write(at, base + value);
    return (base, at) => {
      for (let lane = 0; lane < lanes; lane++) write(at + lane, base + value + lane);
    };
  }
  const { f, i, u } = frame.registers;
  const bits = scalar === 'i64' ? i : u;
  const r = frame.slot(inst.result);
  // The new value is made in scratch, for writing may convert.
  const scratch = frame.scratch;
  if (inst.op === 'atomic_compare_exchange') {
    const expected = frame.slot(inst.expected);
    const registers = isBig(scalar) ? bits : f;
    return (base, at) => {
      read(at, base + r);
      if (registers[base + r] === registers[base + expected]) write(at, base + value);
    };
  }
  if (inst.fn === 'exchange') {
    return (base, at) => {
      read(at, base + r);
      write(at, base + value);
    };
  }
  if (isBig(scalar)) {
    const apply = binaryBig(inst.fn, scalar);
    return (base, at) => {
      read(at, base + r);
      bits[base + scratch] = apply(bits[base + r], bits[base + value]);
      write(at, base + scratch);
    };
  }
  const apply = binaryNumber(inst.fn, scalar);
  return (base, at) => {
    read(at, base + r);
    f[base + scratch] = apply(f[base + r], f[base + value]);
    write(at, base + scratch);
  };
}

export function outOfBounds(
  frame: Frame,
  op: string,
  memory: KMemory,
  index: number,
  lanes: number,
  base: number,
): never {
  const what = lanes === 1 ? `index ${index}` : `indices ${index} to ${index + lanes - 1}`;
  throw new Error(
    `kernel ${frame.kernel.name}: ${op} of ${memory.name} out of bounds: ${what}, length ${memory.length} ${frame.where(base)}`,
  );
}

/** All bits set: NaN in every float type, so that reading undefined contents shows. */
export function poison(view: MemoryView): void {
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(0xff);
}
