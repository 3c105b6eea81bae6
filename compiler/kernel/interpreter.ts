/**
 * Runs a kernel: the executable definition of the Kernel IR, against which every renderer is checked.
 *
 * The body is compiled to closures over one register file (doubles, with 64-bit integers as bits of the same slots).
 * A kernel without barriers, subgroup and tile ops runs invocation by invocation. Otherwise the invocations of a workgroup
 * run in lockstep: stretches without such ops invocation by invocation, control flow around them with the set of
 * invocations that take it, so a barrier that not all reach is found.
 */
import { BlockCompiler, hasSync } from './interpreter/control.js';
import { Engines } from './interpreter/engines.js';
import {
  type Code,
  Frame,
  laneSlot,
  linearIdSlot,
  localIdSlot,
  subgroupSizeSlot,
  workgroupIdSlot,
} from './interpreter/frame.js';
import { bindMemories, type Memory, poison } from './interpreter/memory.js';
import type { KernelFunction, KMemory } from './types.js';

export interface InterpretOptions {
  /** Detect invocations that touch one element without a barrier between, at least one writing. Default false. */
  readonly checkRaces?: boolean;
  /** Throw on accesses out of bounds and on broken `aligned` promises. Default true. */
  readonly checkBounds?: boolean;
  /** Check every integer result against its claimed `range`. Default false; `assume` is always checked. */
  readonly checkRanges?: boolean;
}
/**
 * Runs the whole grid of `kernel`.
 *
 * `buffers` are the bytes of the buffer parameters and `scalars` the values of the scalar parameters, each in the
 * order of `kernel.params`; written buffers are changed in place. Undefined contents (fresh arrays, lanes from outside
 * a shuffle's subgroup) read as NaN or all ones. Throws an Error naming kernel and memory on an access out of bounds,
 * a race (if checked), a broken promise (`assume`, division by zero, …) or a barrier in divergent control flow.
 */
export function interpret(
  kernel: KernelFunction,
  buffers: readonly ArrayBufferView[],
  scalars: readonly number[] = [],
  options: InterpretOptions = {},
): void {
  const invocations = kernel.workgroup[0] * kernel.workgroup[1] * kernel.workgroup[2];
  const frames = hasSync(kernel.body) ? invocations : 1;
  const { byMemory, copyBack } = bindMemories(kernel, buffers, frames, options.checkRaces === true);
  const frame = new Frame(kernel, scalars, frames);
  const checks = { bounds: options.checkBounds !== false, ranges: options.checkRanges === true };
  const engines = new Engines(frame, byMemory, checks.bounds);
  const code = new BlockCompiler(frame, byMemory, engines, checks).block(kernel.body);
  try {
    runGrid(frame, byMemory, engines, code);
  } finally {
    for (const restore of copyBack) restore();
  }
}

/** Runs every workgroup in turn, and in it every invocation. */
function runGrid(frame: Frame, memories: ReadonlyMap<KMemory, Memory>, engines: Engines, code: Code): void {
  const { grid, workgroup } = frame.kernel;
  const f = frame.registers.f;
  const size = frame.size;
  const invocations = workgroup[0] * workgroup[1] * workgroup[2];
  const subgroupSize = frame.kernel.subgroupSize ?? 1;
  const bases = Array.from({ length: frame.count }, (_, i) => i * size);
  for (const base of bases) frame.initialize(base);
  const setLocal = (base: number, linear: number): void => {
    f[base + localIdSlot] = linear % workgroup[0];
    f[base + localIdSlot + 1] = Math.floor(linear / workgroup[0]) % workgroup[1];
    f[base + localIdSlot + 2] = Math.floor(linear / (workgroup[0] * workgroup[1]));
    f[base + linearIdSlot] = linear;
    f[base + laneSlot] = linear % subgroupSize;
    f[base + subgroupSizeSlot] = subgroupSize;
  };
  if (code.sync) for (const [linear, base] of bases.entries()) setLocal(base, linear);
  const shared = [...memories.values()].filter(({ memory }) => memory.kind === 'array' && memory.space === 'shared');
  const own = [...memories.values()].filter(({ memory }) => memory.kind === 'array' && memory.space === 'private');
  const tracked = [...memories.values()].flatMap(({ races }) => (races ? [races] : []));
  for (let z = 0; z < grid[2]; z++) {
    for (let y = 0; y < grid[1]; y++) {
      for (let x = 0; x < grid[0]; x++) {
        frame.workgroup.set([x, y, z]);
        frame.epoch++;
        for (const races of tracked) races.beginWorkgroup(frame.epoch);
        for (const { view } of shared) poison(view);
        engines.begin();
        for (const base of bases) f.set(frame.workgroup, base + workgroupIdSlot);
        if (code.sync) {
          for (const { view } of own) poison(view);
          finish(code.run(bases), engines, frame);
          continue;
        }
        for (let linear = 0; linear < invocations; linear++) {
          setLocal(0, linear);
          for (const { view } of own) poison(view);
          code.run(0);
        }
      }
    }
  }
}

/** Runs a workgroup to its end. When all who are left wait, and nothing has come that they wait for, none ever will. */
function finish(run: Iterable<void>, engines: Engines, frame: Frame): void {
  let before = -1;
  for (const _ of run) {
    if (engines.bulk.progress === before)
      throw new Error(`kernel ${frame.kernel.name}: invocations wait for signals that never come`);
    before = engines.bulk.progress;
  }
}
