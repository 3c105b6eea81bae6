/** The state of writing one kernel as SPIR-V: the module so far, ids by value, what is known of values. */
import type { KernelFunction, KValue, Lanes } from '../../compiler/kernel/types.js';
import type { Target } from '../backend.js';
import { Names } from '../common/names.js';
import { Survey } from '../common/survey.js';
import { Arithmetic, type Operand } from './arithmetic.js';
import { Assembler, type Id, Op } from './spirv.js';

/** How memory is seen through one variable: elements of `lanes` scalars. */
export interface View {
  readonly variable: Id;
  readonly pointer: Id;
  readonly lanes: Lanes;
}

/** A variable of the function, and the type of what it holds. */
export interface Variable {
  readonly variable: Id;
  readonly type: Id;
}

export class Scope {
  readonly kernel: KernelFunction;
  readonly target: Target;
  readonly asm = new Assembler();
  readonly math: Arithmetic;
  readonly names: Names<Id, readonly View[], Id, { readonly index: number; readonly type: Id }, Variable>;
  readonly survey = new Survey();
  /** Values known now: constants, and indices of copies that unrolling makes. */
  readonly constants = this.survey.constants;
  /** Input variables by name. */
  readonly inputs = new Map<string, Id>();
  /** Label of the block that is being written. */
  block: Id = 0;

  constructor(kernel: KernelFunction, target: Target) {
    this.kernel = kernel;
    this.target = target;
    this.math = new Arithmetic(this.asm, target);
    this.names = new Names(kernel);
  }

  id(value: KValue): Id {
    return this.names.value(value);
  }

  operand(value: KValue): Operand {
    return { id: this.id(value), range: value.range, constant: this.constants.get(value) };
  }

  start(label: Id): void {
    this.asm.label(label);
    this.block = label;
  }

  branch(label: Id): void {
    this.asm.emit(Op.Branch, [label]);
  }
}
