/** The steps of a plan as commands of a device, loops written out. */
import type { BufferRange, Command, Kernel } from '../backends/backend.js';
import { type FlatStep, flatSteps, type Location, type Program } from '../compiler/plan.js';

/** `kernels` are the plan's, loaded; `resolve` finds the memory of a location. */
export function commandsOf(
  plan: Program,
  kernels: readonly Kernel[],
  resolve: (location: Location) => BufferRange,
): Command[] {
  // The iterations of a loop share their steps: what a step binds is looked up once.
  const bindings = new Map<FlatStep, readonly BufferRange[]>();
  const commands: Command[] = [];
  for (const { step, iterations } of flatSteps(plan.steps)) {
    switch (step.kind) {
      case 'dispatch': {
        let bound = bindings.get(step);
        if (bound === undefined) bindings.set(step, (bound = step.bindings.map(resolve)));
        commands.push({
          kind: 'dispatch',
          kernel: kernels[step.kernel],
          grid: plan.kernels[step.kernel].grid,
          bindings: bound,
          ...(step.iterations === undefined ? {} : { scalars: wordsOf(step.iterations.map((i) => iterations[i])) }),
        });
        break;
      }
      case 'copy':
        commands.push({ kind: 'copy', from: resolve(step.from), to: resolve(step.to) });
        break;
      case 'fill':
        commands.push({ kind: 'fill', to: resolve(step.to), byte: step.byte });
        break;
      case 'barrier':
        commands.push(step);
        break;
      default:
        step satisfies never;
    }
  }
  return commands;
}

/** Scalar parameters as they are passed: 32 bits each, little-endian. */
function wordsOf(values: readonly number[]): Uint8Array {
  const words = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => {
    words.setInt32(4 * i, value, true);
  });
  return new Uint8Array(words.buffer);
}
