/** Contractions: sums of products. */
import { isFloat } from '../../dtype.js';
import type { InferContext, OpDefinition } from '../definition.js';
import { mulDims } from '../dims.js';
import type { OpKind } from '../types.js';
import { agree, checkAxes, checkDType, checkInteger, checkLength, define, printType } from './common.js';
import { dotGradient } from './gradients/structure.js';
import * as reference from './reference/contraction.js';
import { checkWindow, convolvedDims } from './window.js';

const dot = define<'dot'>({
  kind: 'dot',
  summary: 'Products summed over contracting axes: batch dims, then free dims of the left, then of the right operand',
  arity: 2,
  family: 'contract',
  infer(context) {
    const {
      attrs: { lhsBatch, rhsBatch, lhsContract, rhsContract, dtype },
      inputs: [lhs, rhs],
    } = context;
    checkOperands(context);
    checkAxes(context, [...lhsBatch, ...lhsContract], lhs.shape.length, 'axes of the left operand');
    checkAxes(context, [...rhsBatch, ...rhsContract], rhs.shape.length, 'axes of the right operand');
    checkLength(context, rhsBatch, lhsBatch.length, 'batch axes of the right operand');
    checkLength(context, rhsContract, lhsContract.length, 'contracting axes of the right operand');
    lhsContract.forEach((axis, i) => {
      agree(
        context,
        lhs.shape[axis],
        rhs.shape[rhsContract[i]],
        `contracting dims of ${printType(lhs)} and ${printType(rhs)}`,
      );
    });
    const batch = lhsBatch.map((axis, i) =>
      agree(context, lhs.shape[axis], rhs.shape[rhsBatch[i]], `batch dims of ${printType(lhs)} and ${printType(rhs)}`),
    );
    const free = (shape: typeof lhs.shape, ...bound: readonly number[]) => shape.filter((_, i) => !bound.includes(i));
    return [
      {
        dtype,
        shape: [
          ...batch,
          ...free(lhs.shape, ...lhsBatch, ...lhsContract),
          ...free(rhs.shape, ...rhsBatch, ...rhsContract),
        ],
      },
    ];
  },
  evaluate: ({ attrs, inputs: [lhs, rhs], outputs: [{ shape }] }) => [reference.dot(lhs, rhs, shape, attrs)],
  gradient: dotGradient,
});

const conv = define<'conv'>({
  kind: 'conv',
  summary: 'Grouped convolution of x [N, C, …spatial] with w [O, C/groups, …kernel]; the kernel is not flipped',
  arity: 2,
  family: 'contract',
  infer(context) {
    const {
      attrs,
      inputs: [x, w],
    } = context;
    checkOperands(context);
    const rank = x.shape.length - 2;
    if (rank < 1) context.fail('conv needs spatial axes', 'an input [N, C, …spatial]', printType(x));
    checkLength(context, w.shape, x.shape.length, 'dims of the kernel');
    checkWindow(context, attrs, rank);
    checkLength(context, attrs.inputDilation, rank, 'input dilations');
    for (const step of attrs.inputDilation) checkInteger(context, step, 1, 'input dilation');
    checkInteger(context, attrs.groups, 1, 'number of groups');
    const [outputs, perGroup, ...kernel] = w.shape;
    agree(context, mulDims(perGroup, attrs.groups), x.shape[1], 'channels of kernel · groups and input');
    if (typeof outputs === 'number' && outputs % attrs.groups !== 0) {
      context.fail('output channels do not divide into groups', `a multiple of ${attrs.groups}`, String(outputs));
    }
    return [{ dtype: attrs.dtype, shape: [x.shape[0], outputs, ...convolvedDims(attrs, x.shape.slice(2), kernel)] }];
  },
  evaluate: ({ attrs, inputs: [x, w], outputs: [{ shape }] }) => [reference.conv(x, w, shape, attrs)],
});

function checkOperands(context: InferContext<'dot' | 'conv'>): void {
  const {
    attrs: { dtype },
    inputs: [lhs, rhs],
  } = context;
  checkDType(context, lhs.dtype, 'numeric', 'the left operand');
  checkDType(context, rhs.dtype, 'numeric', 'the right operand');
  checkDType(context, dtype, 'numeric', 'the result');
  if (isFloat(lhs.dtype) !== isFloat(rhs.dtype)) {
    context.fail('operands are float and integer', 'both float or both integer', `${lhs.dtype} and ${rhs.dtype}`);
  }
  if (isFloat(lhs.dtype) && !isFloat(dtype))
    context.fail('float operands with an integer result', 'a float type', dtype);
}

export const contraction = { dot, conv } satisfies { readonly [K in ('dot' | 'conv') & OpKind]: OpDefinition<K> };
