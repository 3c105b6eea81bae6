/** What `verify` demands of signals, tensor copies and products of warpgroups. */
import {
  type BulkInst,
  type GroupOperand,
  isGroupOp,
  isTile,
  type KSignal,
  type KTensorMap,
  swizzleBlock,
  swizzleRow,
  warpgroup,
} from '../bulk.js';
import type { Target } from '../target.js';
import { isIndex, type KernelFunction, type ScalarType, scalarBits } from '../types.js';

/** Most elements of a box along one dimension, and dimensions of a map. */
const largestBox = 256;
const mostDims = 5;

export const signalProblem = ({ name, count }: KSignal): string | undefined =>
  Number.isSafeInteger(count) && count > 0 ? undefined : `signal ${name} has ${count} barriers`;

/** Why a map is wrong, or undefined. */
export function mapProblem(map: KTensorMap, kernel: KernelFunction): string | undefined {
  const { name, buffer, offset, dims, strides, box } = map;
  if (!kernel.params.includes(buffer)) return `${buffer.name} of ${name} is not declared`;
  if (buffer.access !== 'read') return `${buffer.name} of ${name} is written`;
  const positive = (x: number): boolean => Number.isSafeInteger(x) && x > 0;
  const whole = [...dims, ...strides, ...box].every(positive) && Number.isSafeInteger(offset) && offset >= 0;
  const ranks = dims.length >= 1 && dims.length <= mostDims && box.length === dims.length;
  if (!whole || !ranks || strides.length !== dims.length - 1) return `the shape of ${name} is not one of a tensor`;
  const bytes = scalarBits[buffer.scalar] / 8;
  if ([offset, ...strides].some((elements) => (elements * bytes) % 16 !== 0))
    return `offset or a stride of ${name} is no multiple of 16 bytes`;
  if (box.some((extent) => extent > largestBox) || box[0] * bytes !== 2 * swizzleRow)
    return `a box of ${name} is ${box.join('×')} elements of ${bytes} bytes`;
  const last = strides.reduce((sum, stride, d) => sum + stride * (dims[d + 1] - 1), offset + dims[0] - 1);
  return last < buffer.length ? undefined : `${name} ends beyond ${buffer.name}`;
}

/** Why an op is wrong, or undefined. */
export function bulkProblem(inst: BulkInst, kernel: KernelFunction, target: Target | undefined): string | undefined {
  if (target && !target.features.has('warpgroups')) return `${target.backend} has no warpgroups`;
  if (isGroupOp(inst)) {
    const [x, y, z] = kernel.workgroup;
    const group = warpgroup * (kernel.subgroupSize ?? 0);
    if (group === 0 || (x * y * z) % group !== 0) return 'the workgroup is not whole warpgroups';
  }
  if ('signal' in inst && !kernel.signals.includes(inst.signal)) return `${inst.signal.name} is not declared`;
  switch (inst.op) {
    case 'signal_init':
      return isIndex(inst.index) && inst.arrivals > 0 ? undefined : `${inst.arrivals} arrivals`;
    case 'signal_expect':
      return isIndex(inst.index) && inst.bytes > 0 && inst.bytes < 2 ** 20 ? undefined : `${inst.bytes} bytes`;
    case 'signal_arrive':
      return isIndex(inst.index) ? undefined : 'the index is no integer';
    case 'signal_wait':
      return isIndex(inst.index) && isIndex(inst.parity) ? undefined : 'index or parity is no integer';
    case 'tensor_copy': {
      const { map, at, memory } = inst;
      if (!kernel.maps.includes(map)) return `${map.name} is not declared`;
      if (at.length !== map.dims.length || !at.every((value) => isIndex(value) && scalarBits[value.type.scalar] === 32))
        return `${map.name} needs ${map.dims.length} coordinates of 32 bits`;
      if (memory.space !== 'shared' || memory.scalar !== map.buffer.scalar)
        return `${memory.name} does not take elements of ${map.buffer.name}`;
      return undefined;
    }
    case 'group_multiply': {
      const { accumulator, a, b } = inst;
      const { role, scalar, m, n, k, subgroups } = accumulator;
      if (role !== 'accumulator' || scalar !== 'f32' || subgroups !== warpgroup || m !== 64 || k !== 16)
        return `${accumulator.name} is no accumulator of a warpgroup`;
      if (n % 8 !== 0 || n > 256) return `${accumulator.name} has ${n} columns`;
      if (!isTile(a)) return operandProblem(a, inst.scalar) ?? operandProblem(b, inst.scalar);
      const fits = a.role === 'a' && a.subgroups === warpgroup && a.m === m && a.k === k && a.scalar === inst.scalar;
      return fits ? operandProblem(b, inst.scalar) : `${a.name} is no left operand of a warpgroup`;
    }
    case 'group_wait':
      return inst.pending >= 0 ? undefined : `${inst.pending} pending groups`;
    case 'registers':
      return inst.count % 8 === 0 && inst.count >= 24 && inst.count <= 256 ? undefined : `${inst.count} registers`;
    case 'group_fence':
    case 'group_commit':
      return undefined;
    default:
      return inst satisfies never;
  }
}

function operandProblem({ memory, index, along, panel }: GroupOperand, scalar: ScalarType): string | undefined {
  if (!isIndex(index)) return 'an index is no integer';
  if (memory.space !== 'shared' || (memory.scalar !== scalar && memory.scalar !== 'u16'))
    return `${memory.name} holds ${memory.scalar}`;
  if (memory.length % swizzleBlock !== 0) return `${memory.name} has ${memory.length} elements`;
  return along === 'k' || (panel > 0 && panel % (8 * swizzleRow) === 0) ? undefined : `panels of ${panel} elements`;
}

/** What a copy's target and an operand's start are multiples of, in elements. */
export const boxMultiple = (map: KTensorMap): number => (1024 * 8) / scalarBits[map.buffer.scalar];
