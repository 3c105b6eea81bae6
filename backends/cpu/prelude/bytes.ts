/** Sums of products of bytes in 32-bit lanes. */
import type { ByteType, Lanes } from '../../../compiler/kernel/types.js';
import type { Prelude } from './index.js';
import { cScalar } from './types.js';
import * as vectors from './vectors.js';

/** c + the products of the four bytes in each 32-bit lane of a and b. */
export function dot4(prelude: Prelude, left: ByteType, right: ByteType, lanes: Lanes): string {
  const name = `dot4_${left}_${right}_x${lanes}`;
  return prelude.define(name, () => {
    const [words, sums] = [prelude.type('u32', lanes), prelude.type('i32', lanes)];
    // Whichever operand is unsigned comes first.
    const [first, second] = left === 'i8' && right === 'u8' ? ['b', 'a'] : ['a', 'b'];
    const byte = (operand: string, type: ByteType, at: number, lane: string) =>
      `(int32_t)(${cScalar(type)})(${operand}${lane} >> ${8 * at})`;
    const lane = (at: string) =>
      [
        `(uint32_t)c${at}`,
        ...[0, 1, 2, 3].map((i) => `(uint32_t)(${byte('a', left, i, at)} * ${byte('b', right, i, at)})`),
      ].join(' + ');
    const plain =
      lanes === 1
        ? `(int32_t)(${lane('')})`
        : `(${sums}){${vectors.each(lanes, (i) => `(int32_t)(${lane(`[${i}]`)})`)}}`;
    const signed = dot4Arm(prelude, left, right, lanes, first, second);
    const mixed = left === right ? '' : dot4Intel(lanes, sums, first, second);
    return `${signed.header}TUTTI_INLINE ${sums} tutti_${name}(${words} a, ${words} b, ${sums} c) {
#if 0
${mixed}${signed.body}#else
  return ${plain};
#endif
}`;
  });
}

function dot4Arm(prelude: Prelude, left: ByteType, right: ByteType, lanes: Lanes, first: string, second: string) {
  if (lanes !== 4) return { header: '', body: '' };
  const [fn, macro, x, y] =
    left !== right
      ? ['vusdotq_s32', '__ARM_FEATURE_MATMUL_INT8', 'uint8x16_t', 'int8x16_t']
      : left === 'i8'
        ? ['vdotq_s32', '__ARM_FEATURE_DOTPROD', 'int8x16_t', 'int8x16_t']
        : ['vdotq_u32', '__ARM_FEATURE_DOTPROD', 'uint8x16_t', 'uint8x16_t'];
  const sums = fn === 'vdotq_u32' ? 'uint32x4_t' : 'int32x4_t';
  return {
    header: `#ifdef ${macro}
#include <arm_neon.h>
#endif
`,
    body: `#elif defined(${macro})
  return (${prelude.type('i32', 4)})${fn}((${sums})c, (${x})${first}, (${y})${second});
`,
  };
}

/** vpdpbusd: unsigned bytes by signed ones, under the names of GCC and of clang. */
function dot4Intel(lanes: Lanes, sums: string, first: string, second: string): string {
  const bits = 32 * lanes;
  if (bits < 128) return '';
  const macro =
    bits === 512
      ? 'defined(__AVX512VNNI__)'
      : '(defined(__AVX512VNNI__) && defined(__AVX512VL__) || defined(__AVXVNNI__))';
  return [`__builtin_ia32_vpdpbusd_v${lanes}si`, `__builtin_ia32_vpdpbusd${bits}`]
    .map(
      (builtin) =>
        `#elif ${macro} && TUTTI_HAS(${builtin})\n  return (${sums})${builtin}(c, (${sums})${first}, (${sums})${second});\n`,
    )
    .join('');
}
