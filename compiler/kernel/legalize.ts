/**
 * Rewrites a scheduled kernel for what a target can hold: only types with native arithmetic in values, only its
 * element types in memory, vectors within its lanes, mathematical functions expanded, dead code removed.
 */
import { Lowerer } from './legalize/lowerer.js';
import { isNative, type Storage, storageOf } from './legalize/storage.js';
import { simplify } from './simplify.js';
import { byteMix, isInstruction, type Target } from './target.js';
import { isMathFn, type KernelFunction, type KType, type ScalarType } from './types.js';
import { bodyValuesOf, resultsOf, visitKernel } from './walk.js';

/** The kernel for `target`; the same object if it is fit already. Throws TuttiError E_UNSUPPORTED for 64-bit atomics. */
export function legalize(kernel: KernelFunction, target: Target): KernelFunction {
  return isLegal(kernel, target) ? kernel : simplify(new Lowerer(kernel, target).run());
}

/**
 * How a tensor of element type `scalar` is bound on `target`: the element type of the buffer that kernels declare and
 * how many elements one of its elements holds (½ for 64-bit elements in u32 words). The bytes are those of the host.
 */
export const legalTypeStorage = (scalar: ScalarType, target: Target): Storage => storageOf(scalar, target);

function isLegal(kernel: KernelFunction, target: Target): boolean {
  const fits = ({ scalar, lanes }: KType): boolean => isNative(scalar, target) && lanes <= target.vectorLanes;
  const fitsMemory = (scalar: ScalarType): boolean => storageOf(scalar, target).scalar === scalar;
  let legal =
    kernel.params.every((param) => param.kind === 'scalar' || fitsMemory(param.scalar)) &&
    kernel.arrays.every(({ scalar }) => fitsMemory(scalar)) &&
    kernel.helpers.every(({ params, result }) => fits(result) && params.every(({ type }) => fits(type)));
  visitKernel(kernel, (inst) => {
    if (!legal) return;
    if (inst.op === 'dot4' && !target.byteDots?.has(byteMix(inst.left, inst.right))) legal = false;
    else if ((inst.op === 'unary' || inst.op === 'binary') && isMathFn(inst.fn) && !isInstruction(inst, target))
      legal = false;
    else legal = [...resultsOf(inst), ...bodyValuesOf(inst)].every(({ type }) => fits(type));
  });
  return legal;
}
