/**
 * Memory as SPIR-V sees it: a variable for each vector width that a buffer is accessed with, and indices into it.
 */
import {
  type AtomicFn,
  isSignedScalar,
  type KArray,
  type KBuffer,
  type KInst,
  type KMemory,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import type { Scope, View } from './scope.js';
import { type Id, MemoryOperand, Op, Scope as SpirvScope, StorageClass } from './spirv.js';

type Inst<O extends KInst['op']> = Extract<KInst, { op: O }>;

const u32 = ktype('u32');

const atomicOps: Readonly<Record<AtomicFn, readonly [signed: number, unsigned: number]>> = {
  add: [Op.AtomicIAdd, Op.AtomicIAdd],
  min: [Op.AtomicSMin, Op.AtomicUMin],
  max: [Op.AtomicSMax, Op.AtomicUMax],
  and: [Op.AtomicAnd, Op.AtomicAnd],
  or: [Op.AtomicOr, Op.AtomicOr],
  xor: [Op.AtomicXor, Op.AtomicXor],
  exchange: [Op.AtomicExchange, Op.AtomicExchange],
};

/** What a load or store of a memory says in the Vulkan memory model: whether other invocations take part. */
export function sharing(scope: Scope, memory: KMemory): readonly number[] {
  if (!scope.asm.isVulkanMemoryModel) return [];
  const isShared = memory.kind === 'array' ? memory.space === 'shared' : memory.access === 'readwrite';
  return isShared ? [MemoryOperand.NonPrivatePointer] : [];
}

export function viewOf(scope: Scope, memory: KMemory, lanes: number): View {
  const views = scope.names.memory(memory);
  const view = views.find((candidate) => candidate.lanes === lanes) ?? views.find((candidate) => candidate.lanes === 1);
  if (!view) throw new Error(`kernel ${scope.kernel.name}: ${memory.name} is not accessed by ${lanes} lanes`);
  return view;
}

/** Pointer to the view's element that holds scalar element `index + offset`. */
export function place(scope: Scope, memory: KMemory, view: View, index: KValue, offset = 0): Id {
  const asm = scope.asm;
  let at: Id;
  const constant = scope.constants.get(index);
  if (constant !== undefined) at = asm.uint((Number(constant) + offset) / view.lanes);
  else if (view.lanes === 1)
    at = offset === 0 ? elementIndex(scope, index) : plus(scope, elementIndex(scope, index), offset);
  else at = quotient(scope, index, view.lanes) ?? shifted(scope, index, view.lanes);
  return asm.value(
    Op.AccessChain,
    view.pointer,
    memory.kind === 'buffer' ? [view.variable, asm.uint(0), at] : [view.variable, at],
  );
}

function elementIndex(scope: Scope, index: KValue): Id {
  return scope.math.convert(index.type, u32, scope.operand(index));
}

function plus(scope: Scope, id: Id, offset: number): Id {
  return scope.asm.value(Op.IAdd, scope.math.type(u32), [id, scope.asm.uint(offset)]);
}

function shifted(scope: Scope, index: KValue, lanes: number): Id {
  const shift = scope.asm.uint(Math.log2(lanes));
  return scope.asm.value(Op.ShiftRightLogical, scope.math.type(u32), [elementIndex(scope, index), shift]);
}

/**
 * `index / lanes` without a shift, where the way the index was computed shows that it divides: drivers do not see
 * through (4·i) >> 2, since the product might wrap. Indices do not, so dividing the terms is exact.
 */
function quotient(scope: Scope, index: KValue, lanes: number): Id | undefined {
  return divides(scope, index, lanes, 8) ? divided(scope, index, lanes) : undefined;
}

function divides(scope: Scope, value: KValue, lanes: number, depth: number): boolean {
  const constant = scope.constants.get(value);
  if (constant !== undefined) return Number(constant) % lanes === 0;
  const definition = scope.survey.definitions.get(value);
  if (depth === 0 || value.type.scalar !== 'i32' || definition === undefined) return false;
  if (definition.op === 'assume') return divides(scope, definition.a, lanes, depth - 1);
  if (definition.op !== 'binary') return false;
  const { fn, a, b } = definition;
  if (fn === 'mul') return divides(scope, a, lanes, depth - 1) || divides(scope, b, lanes, depth - 1);
  return (fn === 'add' || fn === 'sub') && divides(scope, a, lanes, depth - 1) && divides(scope, b, lanes, depth - 1);
}

function divided(scope: Scope, value: KValue, lanes: number): Id {
  const type = scope.math.type(u32);
  const constant = scope.constants.get(value);
  if (constant !== undefined) return scope.asm.uint(Number(constant) / lanes);
  const definition = scope.survey.definitions.get(value);
  if (definition?.op === 'assume') return divided(scope, definition.a, lanes);
  if (definition?.op !== 'binary') throw new Error('an index that does not divide');
  const { fn, a, b } = definition;
  if (fn !== 'mul') {
    const op = fn === 'add' ? Op.IAdd : Op.ISub;
    return scope.asm.value(op, type, [divided(scope, a, lanes), divided(scope, b, lanes)]);
  }
  const [whole, other] = divides(scope, b, lanes, 8) ? [b, a] : [a, b];
  if (Number(scope.constants.get(whole)) === lanes) return scope.id(other);
  return scope.asm.value(Op.IMul, type, [scope.id(other), divided(scope, whole, lanes)]);
}

export function load(scope: Scope, inst: Inst<'load'>): Id {
  const asm = scope.asm;
  const { type } = inst.result;
  const stored = ktype(memoryScalar(inst.memory), type.lanes);
  const view = viewOf(scope, inst.memory, inst.aligned ? type.lanes : 1);
  const element = scope.math.type(ktype(stored.scalar, view.lanes));
  const operands = sharing(scope, inst.memory);
  const read = (lane?: number): Id =>
    asm.value(Op.Load, element, [place(scope, inst.memory, view, inst.index, lane), ...operands]);
  let value: Id;
  if (view.lanes === type.lanes) value = read();
  else {
    const parts = Array.from({ length: type.lanes }, (_, lane) => read(lane));
    value = asm.value(Op.CompositeConstruct, scope.math.type(stored), parts);
  }
  return scope.math.convert(stored, type, { id: value });
}

export function store(scope: Scope, inst: Inst<'store'>): void {
  const asm = scope.asm;
  const { type } = inst.value;
  const stored = ktype(memoryScalar(inst.memory), type.lanes);
  const value = scope.math.convert(type, stored, scope.operand(inst.value));
  const view = viewOf(scope, inst.memory, inst.aligned ? type.lanes : 1);
  const operands = sharing(scope, inst.memory);
  if (view.lanes === type.lanes) {
    asm.emit(Op.Store, [place(scope, inst.memory, view, inst.index), value, ...operands]);
    return;
  }
  const element = scope.math.type(ktype(stored.scalar));
  for (let lane = 0; lane < type.lanes; lane++) {
    const part = asm.value(Op.CompositeExtract, element, [value, lane]);
    asm.emit(Op.Store, [place(scope, inst.memory, view, inst.index, lane), part, ...operands]);
  }
}

function atomicPlace(scope: Scope, memory: KMemory, index: KValue, type: KType): [pointer: Id, scope: Id] {
  if (type.scalar !== 'i32' && type.scalar !== 'u32') throw new Error(`atomic on ${type.scalar}`);
  // In the Vulkan memory model the device's scope is a feature of its own; one queue is all there is.
  const widest = scope.asm.isVulkanMemoryModel ? SpirvScope.QueueFamily : SpirvScope.Device;
  const among = memory.kind === 'buffer' ? widest : SpirvScope.Workgroup;
  return [place(scope, memory, viewOf(scope, memory, 1), index), scope.asm.uint(among)];
}

export function declareBuffer(
  scope: Scope,
  buffer: KBuffer,
  binding: number,
  widths: ReadonlySet<number> = new Set(),
): void {
  const asm = scope.asm;
  const scalar = memoryScalar(buffer);
  const bits = scalarBits[scalar];
  if (widths.size > 0 && bits === 16) asm.capability('StorageBuffer16BitAccess');
  if (widths.size > 0 && bits === 8) {
    asm.capability('StorageBuffer8BitAccess');
    asm.extension('SPV_KHR_8bit_storage');
  }
  const views: View[] = [];
  for (const lanes of widths) {
    const element = scope.math.type(ktype(scalar, lanes as Lanes));
    const block = asm.typeStorageBlock(element, (bits / 8) * lanes);
    const variable = asm.variable(asm.typePointer('StorageBuffer', block), 'StorageBuffer');
    asm.decorate(variable, 'DescriptorSet', 0);
    asm.decorate(variable, 'Binding', binding);
    asm.decorate(variable, widths.size > 1 ? 'Aliased' : 'Restrict');
    if (buffer.access === 'read') asm.decorate(variable, 'NonWritable');
    // What one invocation wrote before a barrier, others of its workgroup read after it.
    if (buffer.access === 'readwrite' && scope.survey.barriers && !asm.isVulkanMemoryModel)
      asm.decorate(variable, 'Coherent');
    asm.name(variable, lanes === 1 ? buffer.name : `${buffer.name}_x${lanes}`);
    views.push({ variable, pointer: asm.typePointer('StorageBuffer', element), lanes: lanes as Lanes });
  }
  scope.names.setMemory(buffer, views);
}

/** Arrays whose every access has one aligned width are arrays of vectors. */
function arrayType(
  scope: Scope,
  array: KArray,
  widths: ReadonlySet<number> = new Set(),
): { type: Id; element: Id; lanes: Lanes } {
  const [width] = widths;
  const lanes = (widths.size === 1 && array.length % width === 0 ? width : 1) as Lanes;
  const element = scope.math.type(ktype(memoryScalar(array), lanes));
  return { type: scope.asm.typeArray(element, array.length / lanes), element, lanes };
}

export function declareShared(scope: Scope, array: KArray, widths?: ReadonlySet<number>): void {
  const asm = scope.asm;
  const { type, element, lanes } = arrayType(scope, array, widths);
  const variable = asm.variable(asm.typePointer('Workgroup', type), 'Workgroup');
  asm.name(variable, array.name);
  scope.names.setMemory(array, [{ variable, pointer: asm.typePointer('Workgroup', element), lanes }]);
}

export function declarePrivate(scope: Scope, array: KArray, widths?: ReadonlySet<number>): void {
  const asm = scope.asm;
  const { type, element, lanes } = arrayType(scope, array, widths);
  const variable = asm.value(Op.Variable, asm.typePointer('Function', type), [StorageClass.Function]);
  asm.name(variable, array.name);
  scope.names.setMemory(array, [{ variable, pointer: asm.typePointer('Function', element), lanes }]);
}

/** Returns the old value. */
export function atomic(scope: Scope, inst: Inst<'atomic'>): Id {
  const { type } = inst.result;
  const op = atomicOps[inst.fn][isSignedScalar(type.scalar) ? 0 : 1];
  const [at, memoryScope] = atomicPlace(scope, inst.memory, inst.index, type);
  return scope.asm.value(op, scope.math.type(type), [at, memoryScope, scope.asm.uint(0), scope.id(inst.value)]);
}

export function compareExchange(scope: Scope, inst: Inst<'atomic_compare_exchange'>): Id {
  const { type } = inst.result;
  const [at, memoryScope] = atomicPlace(scope, inst.memory, inst.index, type);
  const relaxed = scope.asm.uint(0);
  const operands = [at, memoryScope, relaxed, relaxed, scope.id(inst.value), scope.id(inst.expected)];
  return scope.asm.value(Op.AtomicCompareExchange, scope.math.type(type), operands);
}

/** Bool memory: bytes in buffers, words in arrays, where bytes would need a capability for nothing. */
export function memoryScalar(memory: KMemory): ScalarType {
  if (memory.scalar !== 'bool') return memory.scalar;
  return memory.kind === 'buffer' ? 'u8' : 'u32';
}
