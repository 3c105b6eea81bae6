/**
 * What every driver asks of commands, ranges and sizes before it passes them on.
 *
 * Here and not in native code, because only here are names, limits and remedies known; native code checks again what
 * would corrupt memory. All throw TuttiError.
 */
import { TuttiError } from '../../compiler/error.js';
import type { BufferRange, Command, KernelCode, Target } from '../backend.js';

type Dispatch = Extract<Command, { kind: 'dispatch' }>;
type Limits = Target['limits'];

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;

/** Where the range is used, for the message: `write`, `copy source`, `kernel add, buffer 2`. */
export function checkRange({ buffer, offset, bytes }: BufferRange, use: string): void {
  if (isCount(offset) && isCount(bytes) && offset + bytes <= buffer.bytes) return;
  throw new TuttiError('E_USAGE', 'range outside its buffer', {
    subject: use,
    expected: `within ${buffer.bytes} bytes`,
    found: `${bytes} bytes at ${offset}`,
  });
}

/** Host data of a write or read must have the size of its range. */
export function checkTransfer(range: BufferRange, data: Uint8Array, use: 'write' | 'read'): void {
  checkRange(range, use);
  if (data.byteLength === range.bytes) return;
  throw new TuttiError('E_USAGE', 'the host array does not fit the range', {
    subject: use,
    expected: `${range.bytes} bytes`,
    found: `${data.byteLength} bytes`,
  });
}

const overlap = (a: BufferRange, b: BufferRange): boolean =>
  a.buffer === b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;

export function checkCopy(from: BufferRange, to: BufferRange): void {
  checkRange(from, 'copy source');
  checkRange(to, 'copy destination');
  if (from.bytes !== to.bytes) {
    throw new TuttiError('E_USAGE', 'a copy between ranges of different sizes', {
      subject: 'copy',
      expected: `${from.bytes} bytes`,
      found: `${to.bytes} bytes`,
    });
  }
  if (overlap(from, to)) {
    throw new TuttiError('E_USAGE', 'the ranges of a copy overlap', {
      subject: 'copy',
      found: `${from.bytes} bytes from ${from.offset} to ${to.offset}`,
    });
  }
}

export function checkFill(to: BufferRange, byte: number): void {
  checkRange(to, 'fill');
  if (Number.isInteger(byte) && byte >= 0 && byte <= 255) return;
  throw new TuttiError('E_USAGE', 'bad fill value', { subject: 'fill', expected: 'a byte', found: String(byte) });
}

/** The dispatch against its kernel and the device: grid, bindings, scalars. */
export function checkDispatch(
  { grid, bindings, scalars }: Dispatch,
  code: Pick<KernelCode, 'name' | 'bindings' | 'scalarBytes'>,
  limits: Limits,
): void {
  const subject = `kernel ${code.name}`;
  const fail = (message: string, expected: string, found: string): never => {
    throw new TuttiError('E_USAGE', message, { subject, expected, found });
  };
  if (grid.some((count, i) => !isCount(count) || count > limits.workgroupCount[i])) {
    const most = `at most ${limits.workgroupCount.join('×')} workgroups`;
    fail('the grid exceeds what the device can dispatch', most, grid.join('×'));
  }
  if (bindings.length !== code.bindings.length) {
    fail('wrong number of buffers', String(code.bindings.length), String(bindings.length));
  }
  const scalarBytes = scalars?.byteLength ?? 0;
  if (scalarBytes !== code.scalarBytes) {
    fail('wrong size of scalar parameters', `${code.scalarBytes} bytes`, `${scalarBytes} bytes`);
  }
  bindings.forEach((range, i) => {
    checkRange(range, `${subject}, buffer ${i}`);
    if (range.offset % limits.storageAlignment !== 0) {
      fail(`buffer ${i} is bound at a bad offset`, `a multiple of ${limits.storageAlignment}`, String(range.offset));
    }
    if (range.bytes > limits.storageBindingBytes) {
      fail(`buffer ${i} is too large to bind`, `at most ${limits.storageBindingBytes} bytes`, `${range.bytes} bytes`);
    }
    for (const other of bindings.slice(0, i)) {
      if (!overlap(range, other)) continue;
      const found = `${range.bytes} bytes at ${range.offset} and ${other.bytes} bytes at ${other.offset}`;
      fail('two bindings overlap', 'disjoint ranges', found);
    }
  });
}

export interface Memory {
  readonly allocatedBytes: number;
  readonly totalBytes: number;
}

/** E_OUT_OF_MEMORY with what was asked for and what there is. */
export const outOfMemory = (
  bytes: number,
  { allocatedBytes, totalBytes }: Memory,
  bufferBytes: number,
  device: string,
  cause?: unknown,
): TuttiError =>
  new TuttiError('E_OUT_OF_MEMORY', `${bytes} bytes do not fit`, {
    subject: device,
    expected: `at most ${Math.max(0, Math.min(totalBytes - allocatedBytes, bufferBytes))} bytes (${allocatedBytes} of ${totalBytes} are in use, ${bufferBytes} in one buffer)`,
    remedy: 'Use a smaller batch, a smaller model or another device.',
    cause,
  });

export function checkAllocation(bytes: number, memory: Memory, bufferBytes: number, device: string): void {
  if (!isCount(bytes)) {
    throw new TuttiError('E_USAGE', 'bad buffer size', { subject: 'allocate', found: String(bytes) });
  }
  if (bytes > bufferBytes || bytes > memory.totalBytes - memory.allocatedBytes) {
    throw outOfMemory(bytes, memory, bufferBytes, device);
  }
}
