/** Who an invocation is, and what its subgroup does together. */
import { isFloatScalar, isSignedScalar, type KInst, ktype } from '../../compiler/kernel/types.js';
import type { Scope } from './scope.js';
import { BuiltIn, type Id, Op, MemorySemantics as Semantics, Scope as SpirvScope } from './spirv.js';
import { broadcastsByShuffle } from './target.js';

const u32 = ktype('u32');

export function builtin(scope: Scope, { builtin, dim }: Extract<KInst, { op: 'builtin' }>): Id {
  const asm = scope.asm;
  const word = scope.math.type(u32);
  const vector = asm.typeVector(word, 3);
  const input = (name: keyof typeof BuiltIn, type: Id): Id => {
    let variable = scope.inputs.get(name);
    if (variable === undefined) {
      variable = asm.variable(asm.typePointer('Input', type), 'Input');
      asm.decorate(variable, 'BuiltIn', BuiltIn[name]);
      scope.inputs.set(name, variable);
    }
    return asm.value(Op.Load, type, [variable]);
  };
  switch (builtin) {
    case 'workgroup_id':
      return asm.value(Op.CompositeExtract, word, [input('WorkgroupId', vector), dim]);
    case 'local_id':
      return asm.value(Op.CompositeExtract, word, [input('LocalInvocationId', vector), dim]);
    case 'subgroup_lane':
      asm.capability('GroupNonUniform');
      return input('SubgroupLocalInvocationId', word);
    case 'subgroup_size':
      asm.capability('GroupNonUniform');
      return input('SubgroupSize', word);
    default:
      return builtin satisfies never;
  }
}

/** All arrive, and see what the others wrote to the memory that they share. */
export function barrier({ asm }: Scope, among: 'Workgroup' | 'Subgroup'): void {
  const { AcquireRelease, UniformMemory, WorkgroupMemory, MakeAvailable, MakeVisible } = Semantics;
  if (among === 'Subgroup') asm.capability('GroupNonUniform');
  const memory = among === 'Subgroup' ? WorkgroupMemory : UniformMemory | WorkgroupMemory;
  const shown = asm.isVulkanMemoryModel ? MakeAvailable | MakeVisible : 0;
  const members = asm.uint(SpirvScope[among]);
  asm.emit(Op.ControlBarrier, [members, members, asm.uint(AcquireRelease | memory | shown)]);
}

export function subgroup(scope: Scope, inst: Extract<KInst, { op: 'subgroup' }>): Id {
  const asm = scope.asm;
  const type = scope.math.type(inst.result.type);
  const { scalar } = inst.result.type;
  const subgroup = asm.uint(SpirvScope.Subgroup);
  const a = scope.id(inst.a);
  asm.capability('GroupNonUniform');
  const shuffle = (x: Id, distance: number): Id => {
    asm.capability('GroupNonUniformShuffle');
    return asm.value(Op.GroupNonUniformShuffleXor, type, [subgroup, x, asm.uint(distance)]);
  };
  switch (inst.fn) {
    case 'broadcast':
      if (!broadcastsByShuffle(scope.target)) {
        asm.capability('GroupNonUniformBallot');
        return asm.value(Op.GroupNonUniformBroadcast, type, [subgroup, a, asm.uint(inst.delta)]);
      }
      asm.capability('GroupNonUniformShuffle');
      return asm.value(Op.GroupNonUniformShuffle, type, [subgroup, a, asm.uint(inst.delta)]);
    case 'broadcast_first':
      asm.capability('GroupNonUniformBallot');
      return asm.value(Op.GroupNonUniformBroadcastFirst, type, [subgroup, a]);
    case 'shuffle_xor':
      return shuffle(a, inst.delta);
    case 'shuffle_down':
      asm.capability('GroupNonUniformShuffleRelative');
      return asm.value(Op.GroupNonUniformShuffleDown, type, [subgroup, a, asm.uint(inst.delta)]);
    case 'add':
    case 'min':
    case 'max': {
      const size = scope.kernel.subgroupSize;
      if (isFloatScalar(scalar) && size !== undefined) {
        // A butterfly: the same order on every device, and NaN wins in min and max, which the group operation does not promise.
        let value = a;
        for (let distance = 1; distance < size; distance *= 2) {
          value = scope.math.binary(inst.fn, inst.result.type, { id: value }, { id: shuffle(value, distance) });
        }
        return value;
      }
      asm.capability('GroupNonUniformArithmetic');
      const signed = isSignedScalar(scalar);
      const op =
        inst.fn === 'add'
          ? isFloatScalar(scalar)
            ? Op.GroupNonUniformFAdd
            : Op.GroupNonUniformIAdd
          : inst.fn === 'min'
            ? signed
              ? Op.GroupNonUniformSMin
              : Op.GroupNonUniformUMin
            : signed
              ? Op.GroupNonUniformSMax
              : Op.GroupNonUniformUMax;
      return asm.value(op, type, [subgroup, 0 /* Reduce */, a]);
    }
    default:
      return inst.fn satisfies never;
  }
}
