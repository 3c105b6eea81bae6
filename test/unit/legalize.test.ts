/** Legalised kernels leave the same bytes in every buffer as the kernels they come from. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize, legalTypeStorage } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type BinaryFn,
  type CompareFn,
  isFloatScalar,
  isIntScalar,
  isSignedScalar,
  type KernelFunction,
  type KMemory,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
  scalarTypes,
  type UnaryFn,
} from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';

function target(arithmetic: readonly ScalarType[], storage: readonly ScalarType[], vectorLanes: Target['vectorLanes']): Target {
  return {
    backend: 'webgpu',
    arch: 'test',
    style: 'simt',
    limits: {
      workgroupInvocations: 256,
      workgroupSize: [256, 256, 64],
      workgroupCount: [65535, 65535, 65535],
      sharedBytes: 16384,
      storageBuffers: 16,
      storageBindingBytes: 2 ** 27,
      bufferBytes: 2 ** 28,
      storageAlignment: 256,
      scalarBytes: 128,
    },
    features: new Set(),
    arithmetic: new Set(['bool', 'i32', 'u32', 'f32', ...arithmetic]),
    storage: new Set(['i32', 'u32', 'f32', ...storage]),
    vectorLanes,
    vectorRegisters: 0,
    subgroup: { min: 1, max: 1 },
    caches: [],
    parallelism: 1,
    rates: { copyGBs: 1, gflops: 1, dispatchMicroseconds: 1 },
  };
}

const minimum = target([], [], 4);
const targets: Record<string, Target> = {
  minimum,
  'two lanes': target([], [], 2),
  'bytes and halves stored': target(['i64', 'u64'], ['i8', 'u8', 'i16', 'u16', 'f16', 'bool', 'i64', 'u64'], 4),
  'i64 without f64': target(['i64', 'u64', 'f16'], ['i64', 'u64', 'f16'], 4),
  'f64 without i64': target(['f64'], ['f64'], 2),
  'bytes and shorts': target(['i8', 'u8', 'i16', 'u16'], ['i8', 'u8', 'u16'], 8),
  'f16 arithmetic, packed': target(['f16'], [], 4),
};

// --- running -------------------------------------------------------------------------------------------------------

/** Bytes of one element with NaN made canonical, since its sign and payload mean nothing. */
function canonical(bytes: Uint8Array, scalar: ScalarType): Uint8Array {
  const out = bytes.slice();
  const view = new DataView(out.buffer);
  const size = scalarBits[scalar] / 8;
  for (let at = 0; at + size <= out.length; at += size) {
    if (scalar === 'f64' && Number.isNaN(view.getFloat64(at, true))) view.setBigUint64(at, 0x7ff8000000000000n, true);
    if (scalar === 'f32' && Number.isNaN(view.getFloat32(at, true))) view.setUint32(at, 0x7fc00000, true);
    const limit = scalar === 'f16' ? 0x7c00 : scalar === 'bf16' ? 0x7f80 : 0xffff;
    if (isFloatScalar(scalar) && size === 2 && (view.getUint16(at, true) & 0x7fff) > limit) view.setUint16(at, 0x7fff, true);
  }
  return out;
}

const padded = (bytes: Uint8Array): Uint8Array => {
  const out = new Uint8Array(Math.ceil(bytes.length / 8) * 8).fill(0xa5);
  out.set(bytes);
  return out;
};

/** Runs the kernel and its legal form on the same bytes and compares all buffers, padding included. */
function expectSame(kernel: KernelFunction, buffers: readonly Uint8Array[], name: string, label = ''): void {
  const device = targets[name];
  const legal = legalize(kernel, device);
  verify(legal, { stage: 'legal', target: device });
  const before = buffers.map(padded);
  const after = buffers.map(padded);
  interpret(expandMath(kernel), before);
  interpret(legal, after, [], { checkRanges: true });
  const params = kernel.params.filter((param) => param.kind === 'buffer');
  params.forEach((param, i) => {
    const [x, y] = [canonical(before[i], param.scalar), canonical(after[i], param.scalar)];
    const bad = x.findIndex((byte, at) => byte !== y[at]);
    if (bad < 0) return;
    const size = scalarBits[param.scalar] / 8;
    const element = Math.floor(bad / size);
    const hex = (bytes: Uint8Array, width: number) =>
      Buffer.from(bytes.slice(element * width, (element + 1) * width)).reverse().toString('hex');
    const inputs = params
      .map((other, k) => `${other.name} ${hex(padded(buffers[k]), scalarBits[other.scalar] / 8)}`)
      .join(', ');
    expect.fail(`${label} on ${name}: ${param.name}[${element}] is ${hex(y, size)}, not ${hex(x, size)} (${inputs})`);
  });
}

// --- inputs --------------------------------------------------------------------------------------------------------

function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

const layouts: Partial<Record<ScalarType, readonly [exponentBits: number, mantissaBits: number]>> = {
  f16: [5, 10], bf16: [8, 7], f32: [8, 23], f64: [11, 52],
};

/** Random elements of a type with edges: small, powers of two and their neighbours, subnormal, Inf, NaN. */
function elements(scalar: ScalarType, count: number, seed: number): Uint8Array {
  const next = generator(seed);
  const bits = BigInt(scalarBits[scalar]);
  const random = () => (BigInt(next()) << 32n) | BigInt(next());
  const out = new Uint8Array(count * Number(bits / 8n));
  for (let i = 0; i < count; i++) {
    let value = random();
    const layout = layouts[scalar];
    if (scalar === 'bool') value &= 1n;
    else if (layout) {
      const [exponentBits, mantissaBits] = layout;
      const bias = 2 ** (exponentBits - 1) - 1;
      const sign = BigInt(next() & 1) << (bits - 1n);
      const field = (e: number, m: bigint) =>
        sign | (BigInt(e) << BigInt(mantissaBits)) | BigInt.asUintN(mantissaBits, m);
      const ones = (1n << BigInt(mantissaBits)) - 1n;
      const near = bias - 4 + (next() % 9);
      const forms = [
        () => value,
        () => field(near, random()),
        () => field(near, random() & (ones << BigInt(next() % mantissaBits))),
        () => field(Math.min(2 * bias, bias + (next() % 66)), random() & (ones << BigInt(next() % mantissaBits))),
        () => field(0, random() >> BigInt(next() % 64)),
        () => field([0, 0, 2 * bias + 1, 2 * bias + 1, 1, 2 * bias][next() % 6], [0n, 0n, 0n, random(), 0n, ones][next() % 6]),
        () => field(next() % 3, random()),
        () => field(2 * bias - (next() % 3), random()),
      ];
      value = forms[next() % forms.length]();
    } else {
      const forms = [
        () => value,
        () => BigInt(next() % 200) - 100n,
        () => 1n << (random() % bits),
        () => (1n << (random() % bits)) - 1n,
        () => -(1n << (random() % bits)),
        () => value >> (random() % 64n),
      ];
      value = forms[next() % forms.length]();
    }
    let rest = BigInt.asUintN(Number(bits), value);
    for (let k = 0; k < Number(bits / 8n); k++) {
      out[i * Number(bits / 8n) + k] = Number(rest & 255n);
      rest >>= 8n;
    }
  }
  return out;
}

const memoryScalar = (scalar: ScalarType): ScalarType => (scalar === 'bool' ? 'u8' : scalar);
const tensorTypes = scalarTypes.filter((scalar) => scalar !== 'bool');

interface Case {
  readonly label: string;
  readonly from: readonly ScalarType[];
  readonly to: ScalarType;
  readonly lanes: Lanes;
  readonly compute: (b: KernelBuilder, args: readonly KValue[]) => KValue;
}

const COUNT = Number(process.env.TUTTI_LEGALIZE_SAMPLES ?? 320);

/** One element-wise kernel over `COUNT` elements in `lanes` lanes. */
function check(name: string, { label, from, to, lanes, compute }: Case, seed = 1): void {
  const b = new KernelBuilder();
  const inputs = from.map((scalar, i) => b.buffer(`x${i}`, memoryScalar(scalar), COUNT, 'read'));
  const output = b.buffer('y', memoryScalar(to), COUNT, 'write');
  b.for(0, COUNT / lanes, 1, [], (i) => {
    const index = b.mulc(i, lanes);
    const args = inputs.map((memory, k) => {
      const value = b.load(memory, index, lanes, true);
      return from[k] === 'bool' ? b.compare('ne', value, b.constant(0, 'u8', lanes)) : value;
    });
    const value = compute(b, args);
    b.store(output, index, to === 'bool' ? b.convert(value, 'u8') : value, true);
  });
  const kernel = b.finish({ name: 'case', grid: [1, 1, 1], workgroup: [1, 1, 1] });
  const bytes = from.map((scalar, i) => elements(scalar, COUNT, seed + i));
  expectSame(kernel, [...bytes, new Uint8Array((COUNT * scalarBits[to]) / 8)], name, `${label} lanes ${lanes}`);
}

const each = Object.keys(targets);

// --- tests ---------------------------------------------------------------------------------------------------------

describe.each(each)('operations on %s', (name) => {
  const lanesOf: readonly Lanes[] = [1, 4, 16];

  it.each(tensorTypes)('unary %s', (scalar) => {
    const fns: readonly UnaryFn[] = isFloatScalar(scalar)
      ? ['neg', 'abs', 'sqrt', 'floor', 'ceil', 'round', 'trunc']
      : ['neg', 'not', 'abs', 'popcount', 'clz'];
    for (const fn of fns) {
      if (fn === 'abs' && !isSignedScalar(scalar)) continue;
      for (const lanes of lanesOf) {
        check(name, { label: `${fn} ${scalar}`, from: [scalar], to: scalar, lanes, compute: (b, [x]) => b.unary(fn, x) });
      }
    }
  });

  it.each(tensorTypes)('binary %s', (scalar) => {
    const float = isFloatScalar(scalar);
    const fns: readonly BinaryFn[] = float
      ? ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max']
      : ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'];
    for (const fn of fns) {
      for (const lanes of lanesOf) {
        const compute = (b: KernelBuilder, [x, y]: readonly KValue[]): KValue => {
          const c = (value: number) => b.constant(scalarBits[scalar] === 64 && !float ? BigInt(value) : value, scalar, lanes);
          if (float) return b.binary(fn, x, y);
          if (fn === 'shl' || fn === 'shr') return b.binary(fn, x, b.and(y, c(scalarBits[scalar] - 1)));
          if (fn !== 'div' && fn !== 'rem') return b.binary(fn, x, y);
          // Neither zero nor -1.
          return b.binary(fn, x, b.or(b.and(y, c(scalarBits[scalar] === 8 ? 127 : 32767)), c(1)));
        };
        check(name, { label: `${fn} ${scalar}`, from: [scalar, scalar], to: scalar, lanes, compute });
      }
    }
  });

  it.each(tensorTypes)('wide division and shifts by constants %s', (scalar) => {
    if (isFloatScalar(scalar)) return;
    const big = scalarBits[scalar] === 64;
    const divisor = (b: KernelBuilder, y: KValue) => {
      const zero = b.constant(big ? 0n : 0, scalar);
      const minus = b.unary('not', zero);
      const bad = b.or(b.compare('eq', y, zero), isSignedScalar(scalar) ? b.compare('eq', y, minus) : b.compare('eq', y, zero));
      return b.select(bad, b.constant(big ? 3n : 3, scalar), y);
    };
    for (const fn of ['div', 'rem'] as const) {
      check(name, {
        label: `${fn} ${scalar}`, from: [scalar, scalar], to: scalar, lanes: 1,
        compute: (b, [x, y]) => b.binary(fn, x, divisor(b, y)),
      }, 5);
    }
    for (let n = 0; n < scalarBits[scalar]; n += scalarBits[scalar] / 4 - 1) {
      for (const fn of ['shl', 'shr'] as const) {
        check(name, {
          label: `${fn} ${scalar} by ${n}`, from: [scalar], to: scalar, lanes: 1,
          compute: (b, [x]) => b.binary(fn, x, b.constant(big ? BigInt(n) : n, scalar)),
        });
      }
    }
  });

  it.each(tensorTypes)('compare and select %s', (scalar) => {
    for (const fn of ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as readonly CompareFn[]) {
      for (const lanes of lanesOf) {
        check(name, {
          label: `${fn} ${scalar}`, from: [scalar, scalar], to: 'bool', lanes, compute: (b, [x, y]) => b.compare(fn, x, y),
        });
      }
    }
    check(name, {
      label: `select ${scalar}`, from: ['bool', scalar, scalar], to: scalar, lanes: 4,
      compute: (b, [c, x, y]) => b.select(c, x, y),
    });
  });

  it.each(scalarTypes)('convert from %s', (scalar) => {
    for (const to of scalarTypes) {
      for (const lanes of [1, 8] as const) {
        check(name, {
          label: `${scalar} to ${to}`, from: [scalar], to, lanes, compute: (b, [x]) => b.convert(x, to),
        });
      }
    }
  });

  it.each(tensorTypes)('bitcast from %s', (scalar) => {
    for (const to of tensorTypes) {
      const bits = 4 * scalarBits[scalar];
      const lanes = bits / scalarBits[to];
      if (!Number.isInteger(lanes) || lanes > 16) continue;
      const b = new KernelBuilder();
      const x = b.buffer('x', scalar, 64, 'read');
      const y = b.buffer('y', to, 16 * lanes, 'write');
      b.for(0, 16, 1, [], (i) => {
        const value = b.bitcast(b.load(x, b.mulc(i, 4), 4, true), ktype(to, lanes as Lanes));
        b.store(y, b.mulc(i, lanes), value, true);
      });
      const kernel = b.finish({ name: 'bitcast', grid: [1, 1, 1], workgroup: [1, 1, 1] });
      // A NaN's payload need not survive.
      const halves = new Uint16Array(elements(scalar, 64, 9).buffer);
      if (scalar === 'f16' || scalar === 'bf16') halves.forEach((bits, i) => void (halves[i] = bits & 0xbf7f));
      expectSame(kernel, [new Uint8Array(halves.buffer), new Uint8Array(bits * 2)], name, `${scalar} as ${to}`);
    }
  });

  it.each(['f16', 'bf16', 'f32', 'f64'] as const)('fma %s', (scalar) => {
    for (let seed = 0; seed < 4; seed++) {
      check(name, {
        label: `fma ${scalar}`, from: [scalar, scalar, scalar], to: scalar, lanes: seed === 0 ? 4 : 1,
        compute: (b, [x, y, z]) => b.fma(x, y, z),
      }, 20 + seed);
      // Cancellation: x·y - round(x·y).
      check(name, {
        label: `fma ${scalar}`, from: [scalar, scalar], to: scalar, lanes: 1,
        compute: (b, [x, y]) => b.fma(x, y, b.unary('neg', b.mul(x, y))),
      }, 40 + seed);
    }
  });

  it.each(['f16', 'bf16', 'f32', 'f64'] as const)('mathematical functions %s', (scalar) => {
    for (const fn of ['exp', 'log', 'sin', 'tanh', 'erf'] as const) {
      check(name, { label: `${fn} ${scalar}`, from: [scalar], to: scalar, lanes: 4, compute: (b, [x]) => b.unary(fn, x) });
    }
    check(name, {
      label: `pow ${scalar}`, from: [scalar, scalar], to: scalar, lanes: 1, compute: (b, [x, y]) => b.binary('pow', x, y),
    });
  });
});
