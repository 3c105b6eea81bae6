/**
 * A small product on each kind of matrix that a driver claims, compared with the numbers that must come out: two subgroups
 * multiply rows of their own, from shared memory, one factor by rows and the other by columns, and add the product twice.
 */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { MatrixUnit, TileScalar } from '../../compiler/kernel/engines.js';
import { type KernelFunction, type KValue, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { f32ToBf16, f32ToF16 } from '../../compiler/numeric.js';
import type { Device } from '../backend.js';
import { render } from './render.js';

const subgroups = 2;
const products = 2;

/** Elements that move together: shared memory is then one of vectors, as in the kernels that matter. */
const lanes = 4;

/** Bits that lines of shared memory are whole multiples of, with at least as many between them. */
const alignment = 128;

/** bf16 lies in memory as u16. */
const memoryScalar = (scalar: TileScalar): ScalarType =>
  scalar === 'bf16' ? 'u16' : scalar === 'tf32' ? 'f32' : scalar;

/** Small enough that sums of products are exact in f32; bytes have their sign bit set now and then. */
function element(scalar: TileScalar, i: number): number {
  const value = (i * 37 + (i >> 4)) % 251;
  if (scalar === 'u8') return value;
  return scalar === 'i8' ? value - 125 : (value % 7) - 3;
}

function encoded(scalar: TileScalar, values: readonly number[]): Uint8Array {
  const view =
    scalar === 'f16'
      ? Uint16Array.from(values, f32ToF16)
      : scalar === 'bf16'
        ? Uint16Array.from(values, f32ToBf16)
        : scalar === 'f32'
          ? Float32Array.from(values)
          : scalar === 'i32'
            ? Int32Array.from(values)
            : Uint8Array.from(values, (value) => value & 0xff);
  return new Uint8Array(view.buffer);
}

/** Rows of a, columns of b, rows of the result: lines of `length` elements, without padding in the buffers. */
export function trialKernel(unit: MatrixUnit, width: number): KernelFunction {
  const { m, n, k } = unit;
  const b = new KernelBuilder();
  const invocations = subgroups * width;
  const local = b.builtin('local_id', 0, invocations);
  const matrix = (name: string, scalar: TileScalar, lines: number, length: number, access: 'read' | 'write') => {
    const of = memoryScalar(scalar);
    const buffer = b.buffer(name, of, lines * length, access);
    const pitch = ((Math.ceil((length * scalarBits[of]) / alignment) + 1) * alignment) / scalarBits[of];
    const shared = b.array(`shared_${name}`, 'shared', of, lines * pitch);
    const count = (lines * length) / lanes;
    const each = (body: (plain: KValue, padded: KValue) => void): void => {
      b.for(0, Math.ceil(count / invocations), 1, [], (trip) => {
        const piece = b.add(b.mulc(trip, invocations), local);
        b.if(b.compare('lt', piece, b.constant(count)), () => {
          const at = b.min(piece, b.constant(count - 1));
          const [line, within] = [b.divc(at, length / lanes), b.remc(at, length / lanes)];
          body(b.mulc(at, lanes), b.add(b.mulc(line, pitch), b.mulc(within, lanes)));
        });
      });
    };
    return { buffer, shared, pitch, each };
  };
  const left = matrix('a', unit.a, subgroups * m, k, 'read');
  const right = matrix('b', unit.b, n, k, 'read');
  const out = matrix('out', unit.accumulator, subgroups * m, n, 'write');
  for (const { buffer, shared, each } of [left, right])
    each((plain, padded) => b.store(shared, padded, b.load(buffer, plain, lanes, true), true));
  b.barrier();
  const [a, factor, sums] = (['a', 'b', 'accumulator'] as const).map((role) =>
    b.tile({ name: role, role, m, n, k, scalar: unit[role] }),
  );
  const row = b.mulc(b.divc(local, width), m);
  const place = ({ shared, pitch }: typeof left, line: KValue) =>
    ({ memory: shared, index: b.mulc(line, pitch), stride: pitch, aligned: true }) as const;
  const zero = b.constant(0, unit.accumulator === 'i32' ? 'i32' : 'f32');
  b.engine({ op: 'tile_fill', tile: sums, value: zero });
  b.engine({ op: 'tile_load', tile: a, ...place(left, row), layout: 'row' });
  b.engine({ op: 'tile_load', tile: factor, ...place(right, b.constant(0)), layout: 'column' });
  for (let i = 0; i < products; i++) b.engine({ op: 'tile_multiply', accumulator: sums, a, b: factor });
  b.engine({ op: 'tile_store', tile: sums, ...place(out, row), layout: 'row' });
  b.barrier();
  out.each((plain, padded) => b.store(out.buffer, plain, b.load(out.shared, padded, lanes, true), true));
  return b.finish({
    name: `trial_${unit.a}_${unit.b}`,
    grid: [1, 1, 1],
    workgroup: [invocations, 1, 1],
    subgroupSize: width,
  });
}

/** Whether the device gives the right numbers. Throws where it does not take the kernel. */
async function isRight(device: Device, unit: MatrixUnit): Promise<boolean> {
  const { m, n, k } = unit;
  const rows = subgroups * m;
  const [a, b] = [rows * k, n * k].map((length, side) =>
    Array.from({ length }, (_, i) => element(side === 0 ? unit.a : unit.b, i + side)),
  );
  const expected = Array.from({ length: rows * n }, (_, at) => {
    const [row, column] = [Math.floor(at / n), at % n];
    let sum = 0;
    for (let step = 0; step < k; step++) sum += a[row * k + step] * b[column * k + step];
    return products * sum;
  });
  const data = [encoded(unit.a, a), encoded(unit.b, b), new Uint8Array(4 * rows * n)];
  const [kernel] = await device.loadKernels([render(trialKernel(unit, device.target.subgroup.max), device.target)]);
  const buffers = data.map(({ length }) => device.allocate(length));
  const whole = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
  try {
    const list = await device.record([{ kind: 'dispatch', kernel, grid: [1, 1, 1], bindings: whole }]);
    await device.queue.submit({
      list,
      writes: whole.map((to, i) => ({ to, data: data[i] })),
      reads: [{ from: whole[2], into: data[2] }],
    });
    list.release();
  } finally {
    kernel.release();
    for (const buffer of buffers) buffer.free();
  }
  const wanted = encoded(unit.accumulator, expected);
  return data[2].every((byte, i) => byte === wanted[i]);
}

/** A unit that a device does not compute as it must, and why. */
export interface Failure {
  readonly unit: MatrixUnit;
  readonly reason: string;
}

/** Units of the device's target that fail. */
export async function failingUnits(device: Device): Promise<readonly Failure[]> {
  const failures: Failure[] = [];
  for (const unit of device.target.matrixUnits ?? []) {
    try {
      if (!(await isRight(device, unit))) failures.push({ unit, reason: 'it gives wrong numbers' });
    } catch (error) {
      failures.push({ unit, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return failures;
}
