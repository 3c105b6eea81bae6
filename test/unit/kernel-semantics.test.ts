/** Hand-written vectors for every op of the Kernel IR: what the comments in `types.ts` promise. */
import { describe, expect, test } from 'vitest';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { parse } from '../../compiler/kernel/parse.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../compiler/numeric.js';

type Element = number | bigint;

function encode(scalar: ScalarType, values: readonly Element[]): ArrayBufferView {
  const numbers = () => values.map(Number);
  switch (scalar) {
    case 'bool':
    case 'u8':
      return Uint8Array.from(numbers());
    case 'i8':
      return Int8Array.from(numbers());
    case 'i16':
      return Int16Array.from(numbers());
    case 'u16':
      return Uint16Array.from(numbers());
    case 'i32':
      return Int32Array.from(numbers());
    case 'u32':
      return Uint32Array.from(numbers());
    case 'i64':
      return BigInt64Array.from(values.map(BigInt));
    case 'u64':
      return BigUint64Array.from(values.map(BigInt));
    case 'f16':
      return Uint16Array.from(numbers().map(f32ToF16));
    case 'bf16':
      return Uint16Array.from(numbers().map(f32ToBf16));
    case 'f32':
      return Float32Array.from(numbers());
    case 'f64':
      return Float64Array.from(numbers());
    default:
      return scalar satisfies never;
  }
}

function decode(scalar: ScalarType, data: ArrayBufferView): Element[] {
  const list = [...(data as unknown as Iterable<Element>)];
  if (scalar === 'f16') return list.map((bits) => f16ToF32(Number(bits)));
  if (scalar === 'bf16') return list.map((bits) => bf16ToF32(Number(bits)));
  return list;
}

/** Applies `expression` over %a, %b, %c to each row of operands of the types. */
function apply(
  expression: string,
  types: readonly ScalarType[],
  result: ScalarType,
  rows: readonly (readonly Element[])[],
): Element[] {
  const names = ['a', 'b', 'c'].slice(0, types.length);
  const count = rows.length;
  const lines = [
    'tutti-kernel 1',
    `kernel @op grid 1, 1, 1 workgroup ${count}, 1, 1 {`,
    ...names.map((name, i) => `buffer @${name} ${types[i]} ${count} read`),
    `buffer @out ${result} ${count} write`,
    '%9: i32 = builtin local_id 0',
    ...names.map((name, i) => `%${i}: ${types[i]} = load @${name}[%9]`),
    `%8: ${result} = ${expression.replace(/%([abc])/g, (_, name) => `%${names.indexOf(name)}`)}`,
    'store @out[%9], %8',
    '}',
  ];
  const out = encode(
    result,
    rows.map(() => 0),
  );
  interpret(parse(lines.join('\n')), [
    ...types.map((type, i) =>
      encode(
        type,
        rows.map((row) => row[i]),
      ),
    ),
    out,
  ]);
  return decode(result, out);
}

const inf = Number.POSITIVE_INFINITY;
const nan = Number.NaN;

/** Rows of operands, the result last. */
function binary(fn: string, type: ScalarType, rows: readonly (readonly Element[])[], result = type): void {
  test(`${fn} ${type}`, () => {
    expect(apply(`${fn} %a, %b`, [type, type], result, rows)).toEqual(rows.map((row) => row[2]));
  });
}
function unary(fn: string, type: ScalarType, rows: readonly (readonly Element[])[], result = type): void {
  test(`${fn} ${type}${result === type ? '' : ` to ${result}`}`, () => {
    expect(apply(`${fn} %a`, [type], result, rows)).toEqual(rows.map((row) => row[1]));
  });
}

describe('integers wrap modulo 2^bits', () => {
  binary('add', 'i8', [
    [127, 1, -128],
    [-128, -1, 127],
    [3, 4, 7],
  ]);
  binary('add', 'u8', [
    [255, 1, 0],
    [200, 100, 44],
  ]);
  binary('add', 'i16', [[32767, 2, -32767]]);
  binary('add', 'u16', [[65535, 2, 1]]);
  binary('add', 'i32', [
    [2147483647, 1, -2147483648],
    [-2147483648, -1, 2147483647],
  ]);
  binary('add', 'u32', [[4294967295, 2, 1]]);
  binary('add', 'i64', [
    [2n ** 63n - 1n, 1n, -(2n ** 63n)],
    [9007199254740993n, 1n, 9007199254740994n],
  ]);
  binary('add', 'u64', [[2n ** 64n - 1n, 2n, 1n]]);
  binary('sub', 'u8', [[0, 1, 255]]);
  binary('sub', 'i32', [[-2147483648, 1, 2147483647]]);
  binary('sub', 'u32', [[0, 1, 4294967295]]);
  binary('sub', 'u64', [[0n, 1n, 2n ** 64n - 1n]]);
  binary('mul', 'i8', [
    [16, 16, 0],
    [-128, -1, -128],
    [11, 12, -124],
  ]);
  binary('mul', 'u16', [[65535, 65535, 1]]);
  // Products beyond 2^53 must still be exact modulo 2^32.
  binary('mul', 'i32', [
    [2147483647, 2147483647, 1],
    [123456789, 987654321, -67153019],
    [-2147483648, -1, -2147483648],
  ]);
  binary('mul', 'u32', [
    [4294967295, 4294967295, 1],
    [4294967295, 4294967294, 2],
  ]);
  binary('mul', 'i64', [
    [2n ** 62n, 2n, -(2n ** 63n)],
    [3037000500n, 3037000500n, -9223372036709301616n],
  ]);
  unary('neg', 'i8', [
    [-128, -128],
    [5, -5],
    [0, 0],
  ]);
  unary('neg', 'u32', [
    [1, 4294967295],
    [0, 0],
  ]);
  unary('neg', 'i64', [[-(2n ** 63n), -(2n ** 63n)]]);
  unary('abs', 'i32', [
    [-5, 5],
    [-2147483648, -2147483648],
  ]);
  unary('abs', 'u8', [[200, 200]]);
  unary('abs', 'i64', [[-7n, 7n]]);
});

describe('division truncates, the remainder has the sign of the dividend', () => {
  const quotients = [
    [7, 2, 3],
    [-7, 2, -3],
    [7, -2, -3],
    [-7, -2, 3],
    [-1, 2, 0],
  ];
  const remainders = [
    [7, 2, 1],
    [-7, 2, -1],
    [7, -2, 1],
    [-7, -2, -1],
    [-6, 3, 0],
  ];
  for (const type of ['i8', 'i16', 'i32'] as const) {
    binary('div', type, quotients);
    binary('rem', type, remainders);
  }
  binary(
    'div',
    'i64',
    quotients.map((row) => row.map(BigInt)),
  );
  binary(
    'rem',
    'i64',
    remainders.map((row) => row.map(BigInt)),
  );
  binary('div', 'u32', [
    [4294967295, 2, 2147483647],
    [4294967295, 4294967295, 1],
  ]);
  binary('rem', 'u32', [[4294967295, 10, 5]]);
  binary('div', 'u64', [[2n ** 64n - 1n, 2n, 2n ** 63n - 1n]]);
  binary('div', 'i32', [
    [-2147483648, 1, -2147483648],
    [-2147483648, 2, -1073741824],
  ]);
  test('breaking the promises of division throws', () => {
    for (const type of ['i8', 'i32', 'u32', 'i64'] as const) {
      expect(() => apply('div %a, %b', [type, type], type, [[1, 0]])).toThrow(/by zero/);
      expect(() => apply('rem %a, %b', [type, type], type, [[1, 0]])).toThrow(/by zero/);
    }
    expect(() => apply('div %a, %b', ['i8', 'i8'], 'i8', [[-128, -1]])).toThrow(/overflows/);
    expect(() => apply('rem %a, %b', ['i64', 'i64'], 'i64', [[-(2n ** 63n), -1n]])).toThrow(/overflows/);
  });
});

describe('bits', () => {
  binary('and', 'u32', [[0xf0f0f0f0, 0xff00ff00, 0xf000f000]]);
  binary('or', 'i8', [[-128, 1, -127]]);
  binary('xor', 'u32', [[0xffffffff, 1, 0xfffffffe]]);
  binary('xor', 'i64', [[-1n, 1n, -2n]]);
  binary('shl', 'i32', [
    [1, 31, -2147483648],
    [3, 30, -1073741824],
    [5, 0, 5],
  ]);
  binary('shl', 'u32', [
    [1, 31, 2147483648],
    [3, 31, 2147483648],
  ]);
  binary('shl', 'u8', [[255, 4, 240]]);
  binary('shl', 'i8', [[1, 7, -128]]);
  binary('shl', 'u64', [[3n, 63n, 2n ** 63n]]);
  binary('shr', 'i32', [
    [-1, 31, -1],
    [-5, 1, -3],
    [7, 1, 3],
  ]);
  binary('shr', 'u32', [
    [0x80000000, 31, 1],
    [0xffffffff, 0, 0xffffffff],
  ]);
  binary('shr', 'i8', [[-128, 7, -1]]);
  binary('shr', 'u16', [[0x8000, 15, 1]]);
  binary('shr', 'i64', [[-(2n ** 63n), 63n, -1n]]);
  binary('shr', 'u64', [[2n ** 63n, 63n, 1n]]);
  unary('not', 'u8', [
    [0, 255],
    [0x0f, 0xf0],
  ]);
  unary('not', 'i32', [
    [0, -1],
    [5, -6],
  ]);
  unary('not', 'u32', [[0, 4294967295]]);
  unary('not', 'u64', [[0n, 2n ** 64n - 1n]]);
  unary('not', 'bool', [
    [0, 1],
    [1, 0],
  ]);
  unary('popcount', 'u32', [
    [0, 0],
    [0xffffffff, 32],
    [0x80000001, 2],
  ]);
  unary('popcount', 'i8', [
    [-1, 8],
    [-128, 1],
  ]);
  unary('popcount', 'u64', [
    [2n ** 64n - 1n, 64n],
    [2n ** 40n + 1n, 2n],
  ]);
  unary('clz', 'u32', [
    [0, 32],
    [1, 31],
    [0xffffffff, 0],
  ]);
  unary('clz', 'u8', [
    [0, 8],
    [1, 7],
    [255, 0],
  ]);
  unary('clz', 'i16', [
    [-1, 0],
    [1, 15],
  ]);
  unary('clz', 'u64', [
    [0n, 64n],
    [1n, 63n],
    [2n ** 63n, 0n],
    [2n ** 32n, 31n],
  ]);
  binary('mulhi', 'u32', [
    [0xffffffff, 0xffffffff, 0xfffffffe],
    [0x80000000, 2, 1],
    [65536, 65536, 1],
    [0xd2511f53, 0x12345678, 0xef4b3b8],
  ]);
  binary('mulhi', 'i32', [
    [-1, -1, 0],
    [-1, 1, -1],
    [-2147483648, -2147483648, 1073741824],
    [2147483647, -2147483648, -1073741824],
  ]);
  binary('and', 'bool', [
    [1, 1, 1],
    [1, 0, 0],
  ]);
  binary('or', 'bool', [
    [0, 0, 0],
    [1, 0, 1],
  ]);
  binary('xor', 'bool', [
    [1, 1, 0],
    [1, 0, 1],
  ]);
});

describe('float arithmetic rounds to nearest even in its type', () => {
  binary(
    'add',
    'f32',
    [
      [16777216, 1, 16777216],
      [16777216, 3, 16777220],
      [1e38, 3e38, inf],
      [inf, -inf, nan],
      [-0, -0, -0],
      [1, -1, 0],
    ].map((row) => row.map((x) => Math.fround(x))),
  );
  binary('add', 'f16', [
    [2048, 1, 2048],
    [2048, 3, 2052],
    [65504, 16, inf],
    [65504, 15, 65504],
  ]);
  binary('add', 'bf16', [
    [256, 1, 256],
    [256, 3, 260],
    [1, 1, 2],
  ]);
  binary('add', 'f64', [
    [2 ** 53, 1, 2 ** 53],
    [0.1, 0.2, 0.30000000000000004],
  ]);
  binary('sub', 'f16', [
    [1, 2 ** -11, 1 - 2 ** -11],
    [2, 2 ** -11, 2],
  ]);
  binary(
    'mul',
    'f32',
    [
      [1e-30, 1e-30, 0],
      [1e-38, 1e-7, Math.fround(Math.fround(1e-38) * Math.fround(1e-7))],
      [1e38, -10, -inf],
      [0, inf, nan],
    ].map((row) => row.map((x) => Math.fround(x))),
  );
  binary('mul', 'f16', [
    [2 ** -12, 2 ** -12, 2 ** -24],
    [2 ** -13, 2 ** -12, 0],
    [3 * 2 ** -13, 2 ** -12, 2 ** -23],
  ]);
  binary('mul', 'bf16', [[1.0078125, 1.0078125, 1.015625]]);
  binary('div', 'f32', [
    [1, 3, Math.fround(1 / 3)],
    [1, 0, inf],
    [-1, 0, -inf],
    [0, 0, nan],
    [1, -0, -inf],
  ]);
  binary('div', 'f16', [[1, 3, 0.333251953125]]);
  binary('rem', 'f32', [
    [5.5, 2, 1.5],
    [-5.5, 2, -1.5],
    [5.5, -2, 1.5],
    [1, inf, 1],
    [1, 0, nan],
    [-4, 2, -0],
  ]);
  binary('rem', 'f64', [[1e300, 3, 1e300 % 3]]);
  unary('sqrt', 'f32', [
    [2, Math.fround(Math.SQRT2)],
    [-1, nan],
    [-0, -0],
    [inf, inf],
  ]);
  unary('sqrt', 'f16', [[2, 1.4140625]]);
  unary('neg', 'f32', [
    [0, -0],
    [-inf, inf],
  ]);
  unary('abs', 'f32', [
    [-0, 0],
    [-inf, inf],
    [nan, nan],
  ]);
  const roundings: readonly (readonly [string, readonly number[]])[] = [
    ['floor', [-2, -1, 1, 2, -0]],
    ['ceil', [-1, -0, 2, 3, -0]],
    ['trunc', [-1, -0, 1, 2, -0]],
    ['round', [-2, -0, 2, 2, -0]],
  ];
  for (const [fn, results] of roundings) {
    for (const type of ['f16', 'bf16', 'f32', 'f64'] as const)
      unary(
        fn,
        type,
        [-1.5, -0.5, 1.5, 2.5, -0].map((x, i) => [x, results[i]]),
      );
  }
  test('fma is fused: one rounding', () => {
    const a = Math.fround(1 + 2 ** -12);
    const rows = [
      [a, a, -1],
      [a, a, 2 ** -60],
    ];
    expect(apply('fma %a, %b, %c', ['f32', 'f32', 'f32'], 'f32', rows)).toEqual([
      2 ** -11 + 2 ** -24,
      1 + 2 ** -11 + 2 ** -23,
    ]);
    expect(apply('fma %a, %b, %c', ['f16', 'f16', 'f16'], 'f16', [[1 + 2 ** -10, 1 - 2 ** -10, -1]])).toEqual([
      -(2 ** -20),
    ]);
    expect(apply('fma %a, %b, %c', ['f64', 'f64', 'f64'], 'f64', [[1 + 2 ** -30, 1 + 2 ** -30, -1]])).toEqual([
      2 ** -29 + 2 ** -60,
    ]);
  });
});

describe('min, max and comparisons', () => {
  for (const type of ['f16', 'bf16', 'f32', 'f64'] as const) {
    binary('min', type, [
      [1, 2, 1],
      [nan, 1, nan],
      [1, nan, nan],
      [-inf, inf, -inf],
    ]);
    binary('max', type, [
      [1, 2, 2],
      [nan, 1, nan],
      [1, nan, nan],
      [-inf, inf, inf],
    ]);
    const values = [
      [1, 2],
      [2, 1],
      [1, 1],
      [nan, 1],
      [nan, nan],
      [0, -0],
      [inf, inf],
    ];
    const expected = {
      eq: [0, 0, 1, 0, 0, 1, 1],
      ne: [1, 1, 0, 1, 1, 0, 0],
      lt: [1, 0, 0, 0, 0, 0, 0],
      le: [1, 0, 1, 0, 0, 1, 1],
      gt: [0, 1, 0, 0, 0, 0, 0],
      ge: [0, 1, 1, 0, 0, 1, 1],
    };
    for (const [fn, results] of Object.entries(expected))
      binary(
        fn,
        type,
        values.map((row, i) => [...row, results[i]]),
        'bool',
      );
  }
  binary('min', 'i32', [[-1, 1, -1]]);
  binary('min', 'u32', [[0xffffffff, 1, 1]]);
  binary('max', 'u64', [[2n ** 64n - 1n, 1n, 2n ** 64n - 1n]]);
  binary('min', 'i64', [[-1n, 1n, -1n]]);
  binary(
    'lt',
    'i64',
    [
      [-1, 0, 1],
      [0, -1, 0],
      [2n ** 60n, 2n ** 60n + 1n, 1],
    ],
    'bool',
  );
  binary('gt', 'u64', [[2n ** 63n, 1n, 1]], 'bool');
  binary('ge', 'u32', [[0x80000000, 1, 1]], 'bool');
  binary('lt', 'i8', [[-128, 127, 1]], 'bool');
  binary(
    'eq',
    'bool',
    [
      [1, 1, 1],
      [1, 0, 0],
    ],
    'bool',
  );
  test('select', () => {
    expect(
      apply('select %a, %b, %c', ['bool', 'f32', 'f32'], 'f32', [
        [1, 2, 3],
        [0, 2, 3],
      ]),
    ).toEqual([2, 3]);
    expect(
      apply('select %a, %b, %c', ['bool', 'i64', 'i64'], 'i64', [
        [1, -1n, 3n],
        [0, -1n, 2n ** 62n],
      ]),
    ).toEqual([-1n, 2n ** 62n]);
  });
});

describe('conversions', () => {
  // Integer to integer wraps.
  unary(
    'convert',
    'i32',
    [
      [300, 44],
      [-1, 255],
      [256, 0],
    ],
    'u8',
  );
  unary(
    'convert',
    'i32',
    [
      [200, -56],
      [-129, 127],
    ],
    'i8',
  );
  unary('convert', 'u32', [[0xffffffff, -1]], 'i32');
  unary('convert', 'i8', [[-1, 65535]], 'u16');
  unary('convert', 'i32', [[-1, 2n ** 64n - 1n]], 'u64');
  unary(
    'convert',
    'i64',
    [
      [2n ** 40n + 5n, 5],
      [-1n, -1],
      [2n ** 31n, -2147483648],
    ],
    'i32',
  );
  unary('convert', 'u64', [[2n ** 64n - 1n, 255]], 'u8');
  unary('convert', 'u64', [[2n ** 63n, -(2n ** 63n)]], 'i64');
  // Integer to float rounds to nearest even, once.
  unary(
    'convert',
    'i32',
    [
      [16777217, 16777216],
      [16777219, 16777220],
      [-2147483648, -2147483648],
    ],
    'f32',
  );
  unary('convert', 'u32', [[4294967295, 4294967296]], 'f32');
  unary(
    'convert',
    'i32',
    [
      [2049, 2048],
      [65519, 65504],
      [65520, inf],
      [-70000, -inf],
    ],
    'f16',
  );
  unary(
    'convert',
    'u16',
    [
      [257, 256],
      [259, 260],
    ],
    'bf16',
  );
  unary(
    'convert',
    'i64',
    [
      [2n ** 60n + 2n ** 36n + 1n, 2 ** 60 + 2 ** 37],
      [-(2n ** 63n), -(2 ** 63)],
    ],
    'f32',
  );
  unary('convert', 'u64', [[2n ** 64n - 1n, 2 ** 64]], 'f64');
  unary(
    'convert',
    'i64',
    [
      [100000n, inf],
      [5n, 5],
    ],
    'f16',
  );
  // Float to float.
  unary(
    'convert',
    'f64',
    [
      [0.1, Math.fround(0.1)],
      [1e39, inf],
      [2 ** -149 * 0.5, 0],
      [2 ** -149 * 0.75, 2 ** -149],
    ],
    'f32',
  );
  unary(
    'convert',
    'f64',
    [
      [2048 + 1 + 2 ** -40, 2050],
      [65520, inf],
      [-(2 ** -25), -0],
    ],
    'f16',
  );
  unary(
    'convert',
    'f16',
    [
      [65504, 65504],
      [2 ** -24, 2 ** -24],
    ],
    'f32',
  );
  unary(
    'convert',
    'f32',
    [
      [1.00390625, 1],
      [1.01171875, 1.015625],
      [nan, nan],
    ],
    'bf16',
  );
  // Float to integer truncates and saturates; NaN gives 0.
  unary(
    'convert',
    'f32',
    [
      [1.9, 1],
      [-1.9, -1],
      [-0.5, 0],
      [3e9, 2147483647],
      [-3e9, -2147483648],
      [nan, 0],
      [inf, 2147483647],
    ],
    'i32',
  );
  unary(
    'convert',
    'f32',
    [
      [-1, 0],
      [5e9, 4294967295],
      [3e9, 3000000000],
      [nan, 0],
    ],
    'u32',
  );
  unary(
    'convert',
    'f32',
    [
      [127.9, 127],
      [128, 127],
      [-129, -128],
    ],
    'i8',
  );
  unary(
    'convert',
    'f16',
    [
      [-3, 0],
      [300, 255],
      [inf, 255],
    ],
    'u8',
  );
  unary(
    'convert',
    'f64',
    [
      [1e19, 2n ** 63n - 1n],
      [-1e19, -(2n ** 63n)],
      [nan, 0n],
      [2 ** 62, 2n ** 62n],
      [-1.5, -1n],
    ],
    'i64',
  );
  unary(
    'convert',
    'f64',
    [
      [-1, 0n],
      [inf, 2n ** 64n - 1n],
      [2 ** 63, 2n ** 63n],
    ],
    'u64',
  );
  // To and from bool.
  unary(
    'convert',
    'f32',
    [
      [0, 0],
      [-0, 0],
      [nan, 1],
      [0.1, 1],
    ],
    'bool',
  );
  unary(
    'convert',
    'i64',
    [
      [0n, 0],
      [2n ** 40n, 1],
    ],
    'bool',
  );
  unary('convert', 'i8', [[-128, 1]], 'bool');
  unary(
    'convert',
    'bool',
    [
      [1, 1],
      [0, 0],
    ],
    'f16',
  );
  unary(
    'convert',
    'bool',
    [
      [1, 1n],
      [0, 0n],
    ],
    'u64',
  );
  unary(
    'bitcast',
    'f32',
    [
      [1, 0x3f800000],
      [-0, 0x80000000],
    ],
    'u32',
  );
  unary('bitcast', 'u32', [[0xff800000, -inf]], 'f32');
  unary('bitcast', 'i8', [[-1, 255]], 'u8');
  unary('bitcast', 'f16', [[1, 0x3c00]], 'u16');
  unary('bitcast', 'bf16', [[1, 0x3f80]], 'i16');
  unary('bitcast', 'f64', [[1, 0x3ff0000000000000n]], 'u64');
  unary('bitcast', 'i64', [[-1n, 2n ** 64n - 1n]], 'u64');
});

describe('functions before expansion', () => {
  const cases: readonly (readonly [string, number, number])[] = [
    ['exp', 1, Math.E],
    ['exp2', 0.5, Math.SQRT2],
    ['log', 10, Math.LN10],
    ['log2', 8, 3],
    ['sin', 1, Math.sin(1)],
    ['cos', 1, Math.cos(1)],
    ['tan', 1, Math.tan(1)],
    ['asin', 0.5, Math.PI / 6],
    ['acos', 0.5, Math.PI / 3],
    ['atan', 1, Math.PI / 4],
    ['sinh', 1, 1.1752011936438014],
    ['cosh', 1, 1.5430806348152437],
    ['asinh', 1, 0.881373587019543],
    ['acosh', 2, 1.3169578969248166],
    ['atanh', 0.5, 0.5493061443340549],
    ['tanh', 0.5, 0.46211715726000974],
    ['erf', 0.5, 0.5204998778130465],
  ];
  for (const [fn, x, y] of cases) unary(fn, 'f32', [[x, Math.fround(y)]]);
  binary('pow', 'f32', [
    [2, 10, 1024],
    [-2, 3, -8],
    [1, nan, 1],
    [0, 0, 1],
    [-8, 0.5, nan],
  ]);
  binary('atan2', 'f32', [
    [1, -1, Math.fround(2.356194490192345)],
    [0, -1, Math.fround(Math.PI)],
    [-0, -1, Math.fround(-Math.PI)],
  ]);
});

test('vectors: splat, extract, build, bitcast of lanes (little endian), vector loads and stores', () => {
  const kernel = parse(`tutti-kernel 1
kernel @v grid 1, 1, 1 workgroup 1, 1, 1 {
  buffer @in u16 4 read
  buffer @words u32 2 write
  buffer @bytes u8 8 write
  %0: i32 = const 0
  %1: u16x4 = load.aligned @in[%0]
  %2: u32x2 = bitcast %1
  store.aligned @words[%0], %2
  %3: u16 = extract %1, 3
  %4: u8 = convert %3
  %5: u8x4 = splat %4
  %6: u8 = extract %5, 2
  %7: u8 = const 7
  %8: u8x4 = build %7, %6, %7, %4
  store.aligned @bytes[%0], %5
  %9: i32 = const 4
  store.aligned @bytes[%9], %8
}`);
  const words = new Uint32Array(2);
  const bytes = new Uint8Array(8);
  interpret(kernel, [Uint16Array.of(1, 2, 3, 0x1ff), words, bytes]);
  expect([...words]).toEqual([0x00020001, 0x01ff0003]);
  expect([...bytes]).toEqual([255, 255, 255, 255, 7, 255, 7, 255]);
});
