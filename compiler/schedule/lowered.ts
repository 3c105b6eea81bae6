/** What a family's lowering hands back: kernels and what their buffers are bound to. */
import type { ConstantData, Value } from '../graph/types.js';
import type { KernelFunction } from '../kernel/types.js';

/** Memory that only the kernels of one group use, between them. */
export interface Temporary {
  readonly kind: 'temporary';
  readonly name: string;
  readonly bytes: number;
}
/** A constant in a form that a schedule wants: packed weights. */
export interface DerivedConstant {
  readonly kind: 'constant';
  readonly name: string;
  readonly data: ConstantData;
  /** Which constant it is a form of, and how to make the same form of another one of that type. */
  readonly derivation?: {
    readonly value: Value;
    of(value: Value, data: ConstantData): DerivedConstant;
  };
}
export type Binding = Value | Temporary | DerivedConstant;

export interface LoweredKernel {
  readonly kernel: KernelFunction;
  /** In the order of the kernel's buffer parameters. */
  readonly bindings: readonly Binding[];
}
