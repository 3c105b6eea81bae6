/** Cooperative matrices in terms of SPV_NV_cooperative_matrix, which validators of before 2023 know. */
import { capability, Declarations, op } from './matrix_modules.js';
import { encodeModule, type Instruction, textOf } from './spirv_modules.js';

/** As older validators understand it; matrices of bf16 as those of f16, which they do not tell from one another. */
export function inOlderTerms(words: Uint32Array): Uint32Array {
  const known = new Declarations(words);
  let bound = words[3];
  const [yes, no] = [bound++, bound++];
  /** Types that differed in their use only. */
  const same = new Map<number, number>();
  const ids = new Map<string, number>();
  const out: Instruction[] = [];
  let bool: number | undefined;
  const once = (code: number, operands: readonly number[]): void => {
    const [id, ...rest] = operands;
    const key = `${code}:${rest}`;
    const first = ids.get(key);
    if (first === undefined) {
      ids.set(key, id);
      out.push({ op: code, operands: [id, ...rest] });
    } else same.set(id, first);
  };
  const booleans = (): void => {
    if (bool === undefined) {
      bool = bound++;
      out.push({ op: op.typeBool, operands: [bool] });
    }
    out.push({ op: op.constantTrue, operands: [bool, yes] }, { op: op.constantFalse, operands: [bool, no] });
  };
  /** Types are what instructions begin with, and what types are made of. */
  const renamed = ({ op: code, operands }: Instruction): readonly number[] => {
    const isType = (i: number): boolean => {
      if (code < op.typeVoid) return false;
      if (code === op.typeStruct || code === op.typeFunction) return i > 0;
      if (code === op.typePointer) return i === 2;
      return code < op.typePointer || code === op.typeMatrix ? i === 1 && code > op.typeFloat : i === 0;
    };
    return operands.map((id, i) => (isType(i) ? (same.get(id) ?? id) : id));
  };
  let isBody = false;
  for (const inst of known.instructions) {
    const { op: code } = inst;
    const operands = renamed(inst);
    const column = (layout: number): number => (known.uint(layout) === 1 ? yes : no);
    if (code === op.function && !isBody) {
      isBody = true;
      booleans();
    }
    if (code === op.typeBool) bool = operands[0];
    if (code === op.capability && operands[0] === capability.matrix)
      out.push({ op: code, operands: [capability.matrixNv] });
    else if (
      code === op.capability &&
      (operands[0] === capability.bfloat16 || operands[0] === capability.bfloat16Matrix)
    )
      // Once, and Float16 where it is not there for another reason.
      out.push({ op: code, operands: [9] });
    else if (code === op.extension && textOf(operands) === 'SPV_KHR_cooperative_matrix')
      out.push({ op: code, operands: textWords('SPV_NV_cooperative_matrix') });
    else if (code === op.extension && textOf(operands) === 'SPV_KHR_bfloat16') continue;
    else if (code === op.typeFloat) once(code, operands.slice(0, 2));
    else if (code === op.typePointer || code === op.typeFunction) once(code, operands);
    else if (code === op.typeMatrix) once(op.typeMatrixNv, operands.slice(0, 5));
    else if (code === op.matrixLoad) {
      const [type, id, pointer, layout, stride, ...memory] = operands;
      out.push({ op: op.matrixLoadNv, operands: [type, id, pointer, stride, column(layout), ...memory] });
    } else if (code === op.matrixStore) {
      const [pointer, object, layout, stride, ...memory] = operands;
      out.push({ op: op.matrixStoreNv, operands: [pointer, object, stride, column(layout), ...memory] });
    } else if (code === op.matrixMulAdd) out.push({ op: op.matrixMulAddNv, operands: operands.slice(0, 5) });
    else out.push({ op: code, operands });
  }
  return encodeModule(words, out, bound);
}

function textWords(text: string): number[] {
  const bytes = new Uint8Array(Math.ceil((text.length + 1) / 4) * 4);
  bytes.set(new TextEncoder().encode(text));
  return [...new Uint32Array(bytes.buffer)];
}
