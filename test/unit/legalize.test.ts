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

function target(
  arithmetic: readonly ScalarType[],
  storage: readonly ScalarType[],
  vectorLanes: Target['vectorLanes'],
): Target {
  return {
    backend: 'webgpu',
    arch: 'test',
    style: 'simt',
    limits: {
      workgroupInvocations: 256,
      workgroupSize: [256, 256, 64],
      workgroupCount: [65535, 65535, 65535],
      sharedBytes: 16384,
      storageBuffers: 32,
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
    if (isFloatScalar(scalar) && size === 2 && (view.getUint16(at, true) & 0x7fff) > limit)
      view.setUint16(at, 0x7fff, true);
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
      Buffer.from(bytes.slice(element * width, (element + 1) * width))
        .reverse()
        .toString('hex');
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
  f16: [5, 10],
  bf16: [8, 7],
  f32: [8, 23],
  f64: [11, 52],
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
        () =>
          field(
            [0, 0, 2 * bias + 1, 2 * bias + 1, 1, 2 * bias][next() % 6],
            [0n, 0n, 0n, random(), 0n, ones][next() % 6],
          ),
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
        check(name, {
          label: `${fn} ${scalar}`,
          from: [scalar],
          to: scalar,
          lanes,
          compute: (b, [x]) => b.unary(fn, x),
        });
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
          const c = (value: number) =>
            b.constant(scalarBits[scalar] === 64 && !float ? BigInt(value) : value, scalar, lanes);
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
      const bad = b.or(
        b.compare('eq', y, zero),
        isSignedScalar(scalar) ? b.compare('eq', y, minus) : b.compare('eq', y, zero),
      );
      return b.select(bad, b.constant(big ? 3n : 3, scalar), y);
    };
    for (const fn of ['div', 'rem'] as const) {
      check(
        name,
        {
          label: `${fn} ${scalar}`,
          from: [scalar, scalar],
          to: scalar,
          lanes: 1,
          compute: (b, [x, y]) => b.binary(fn, x, divisor(b, y)),
        },
        5,
      );
    }
    for (let n = 0; n < scalarBits[scalar]; n += scalarBits[scalar] / 4 - 1) {
      for (const fn of ['shl', 'shr'] as const) {
        check(name, {
          label: `${fn} ${scalar} by ${n}`,
          from: [scalar],
          to: scalar,
          lanes: 1,
          compute: (b, [x]) => b.binary(fn, x, b.constant(big ? BigInt(n) : n, scalar)),
        });
      }
    }
  });

  it.each(tensorTypes)('compare and select %s', (scalar) => {
    for (const fn of ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as readonly CompareFn[]) {
      for (const lanes of lanesOf) {
        check(name, {
          label: `${fn} ${scalar}`,
          from: [scalar, scalar],
          to: 'bool',
          lanes,
          compute: (b, [x, y]) => b.compare(fn, x, y),
        });
      }
    }
    check(name, {
      label: `select ${scalar}`,
      from: ['bool', scalar, scalar],
      to: scalar,
      lanes: 4,
      compute: (b, [c, x, y]) => b.select(c, x, y),
    });
  });

  it.each(scalarTypes)('convert from %s', (scalar) => {
    for (const to of scalarTypes) {
      for (const lanes of [1, 8] as const) {
        check(name, {
          label: `${scalar} to ${to}`,
          from: [scalar],
          to,
          lanes,
          compute: (b, [x]) => b.convert(x, to),
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
      check(
        name,
        {
          label: `fma ${scalar}`,
          from: [scalar, scalar, scalar],
          to: scalar,
          lanes: seed === 0 ? 4 : 1,
          compute: (b, [x, y, z]) => b.fma(x, y, z),
        },
        20 + seed,
      );
      // Cancellation: x·y - round(x·y).
      check(
        name,
        {
          label: `fma ${scalar}`,
          from: [scalar, scalar],
          to: scalar,
          lanes: 1,
          compute: (b, [x, y]) => b.fma(x, y, b.unary('neg', b.mul(x, y))),
        },
        40 + seed,
      );
    }
  });

  it.each(['f16', 'bf16', 'f32', 'f64'] as const)('mathematical functions %s', (scalar) => {
    for (const fn of ['exp', 'log', 'sin', 'tanh', 'erf'] as const) {
      check(name, {
        label: `${fn} ${scalar}`,
        from: [scalar],
        to: scalar,
        lanes: 4,
        compute: (b, [x]) => b.unary(fn, x),
      });
    }
    check(name, {
      label: `pow ${scalar}`,
      from: [scalar, scalar],
      to: scalar,
      lanes: 1,
      compute: (b, [x, y]) => b.binary('pow', x, y),
    });
  });
});

// --- memory and control --------------------------------------------------------------------------------------------

const finish = (b: KernelBuilder, grid = 1, workgroup = 1): KernelFunction =>
  b.finish({ name: 'case', grid: [grid, 1, 1], workgroup: [workgroup, 1, 1] });
const integer = (b: KernelBuilder, value: number, scalar: ScalarType): KValue =>
  b.constant(scalarBits[scalar] === 64 ? BigInt(value) : value, scalar);

describe.each(each)('memory and control on %s', (name) => {
  it.each(tensorTypes)('neighbouring elements of %s written by different invocations', (scalar) => {
    const length = 61;
    const b = new KernelBuilder();
    const x = b.buffer('x', scalar, length, 'read');
    const y = b.buffer('y', scalar, length, 'write');
    const at = b.add(b.mulc(b.builtin('workgroup_id', 0, 4), 16), b.builtin('local_id', 0, 16));
    b.if(b.compare('lt', at, b.constant(length - 1)), () => b.store(y, at, b.load(x, at)));
    expectSame(finish(b, 4, 16), [elements(scalar, length, 3), elements(scalar, length, 4)], name, `scatter ${scalar}`);
  });

  it.each(tensorTypes)('vectors of %s at any offset', (scalar) => {
    for (const lanes of [2, 4, 8, 16] as const) {
      for (const aligned of [false, true]) {
        for (const offset of aligned ? [0, lanes] : [0, 1, 2, 3]) {
          const b = new KernelBuilder();
          const x = b.buffer('x', scalar, 64, 'read');
          const y = b.buffer('y', scalar, 64, 'readwrite');
          const at = b.add(b.mulc(b.builtin('workgroup_id', 0, 2), 16), b.constant(offset));
          b.store(y, at, b.load(x, at, lanes, aligned), aligned);
          expectSame(finish(b, 2), [elements(scalar, 64, 5), elements(scalar, 64, 6)], name, `${scalar}x${lanes}`);
        }
      }
    }
  });

  it.each(tensorTypes)('shared and private arrays of %s', (scalar) => {
    const b = new KernelBuilder();
    const x = b.buffer('x', scalar, 32, 'read');
    const y = b.buffer('y', scalar, 32, 'write');
    const shared = b.array('tile', 'shared', scalar, 15);
    const own = b.array('own', 'private', scalar, 5);
    const local = b.builtin('local_id', 0, 8);
    const base = b.mulc(b.builtin('workgroup_id', 0, 2), 16);
    const copy = (memory: KMemory, to: KValue, from: KValue) => b.store(memory, to, b.load(x, b.add(base, from)));
    copy(shared, local, local);
    copy(own, b.constant(0), b.addc(local, 8));
    copy(own, b.constant(3), local);
    b.barrier();
    const other = b.sub(b.constant(7), local);
    b.store(y, b.add(base, local), b.load(shared, other));
    b.store(
      y,
      b.add(base, b.addc(local, 8)),
      b.select(b.compare('lt', local, b.constant(4)), b.load(own, b.constant(0)), b.load(own, b.constant(3))),
    );
    expectSame(finish(b, 2, 8), [elements(scalar, 32, 7), elements(scalar, 32, 8)], name, `arrays ${scalar}`);
  });

  it.each(tensorTypes)('values of %s carried through loops, branches and helpers', (scalar) => {
    const b = new KernelBuilder();
    const x = b.buffer('x', scalar, 48, 'read');
    const y = b.buffer('y', scalar, 48, 'write');
    for (const lanes of [1, 4] as const) {
      const at = (i: KValue) => b.mulc(i, lanes);
      const sum = b.for(0, 8, 1, [b.load(x, b.constant(0), lanes)], (i, [value]) => {
        const next = b.load(x, at(i), lanes, lanes > 1);
        const added = b.call(`sum_${lanes}`, [value, next], ktype(scalar, lanes), ([u, v]) => b.add(u, b.mul(v, u)));
        const even = b.compare('eq', b.and(i, b.constant(1)), b.constant(0));
        return b.if(
          even,
          () => [added],
          () => [b.max(next, value)],
        );
      });
      const [, out] = b.loop([b.constant(0), sum[0]], ([count, value]) => ({
        condition: b.compare('lt', count, b.constant(3)),
        next: [b.addc(count, 1), b.sub(value, b.load(x, b.constant(4), lanes, true))],
      }));
      b.store(y, b.constant(lanes * 4), out, true);
    }
    expectSame(finish(b), [elements(scalar, 48, 11), elements(scalar, 48, 12)], name, `carried ${scalar}`);
  });

  it.each(['i64', 'u64', 'i16', 'u8'] as const)('indices and bounds of type %s', (scalar) => {
    const b = new KernelBuilder();
    const x = b.buffer('x', scalar, 16, 'read');
    const y = b.buffer('y', 'i32', 32, 'write');
    const z = b.buffer('z', 'f32', 16, 'read');
    const f = b.buffer('f', 'f32', 16, 'write');
    const c = (value: number) => integer(b, value, scalar);
    b.for(c(0), c(16), 1, [], (i) => {
      // A gather clamps what it reads before it indexes with it.
      const index = b.clamp(b.convert(b.load(x, b.convert(i, 'i32')), 'i32'), 0, 15);
      b.store(f, b.convert(i, 'i32'), b.load(z, index));
      b.store(y, b.convert(i, 'i32'), b.convert(b.mul(i, c(3)), 'i32'));
    });
    // Within 2^53, which is as far as the interpreter counts.
    const bits = scalarBits[scalar];
    const low = b.binary('shr', b.load(x, b.constant(3)), c(bits === 64 ? 16 : 2));
    const count = b.for(low, b.add(low, c(5)), 2, [b.constant(0)], (_, [n]) => [b.addc(n, 1)]);
    b.store(y, b.constant(20), count[0]);
    expectSame(
      finish(b),
      [elements(scalar, 16, 13), new Uint8Array(128), elements('f32', 16, 14), new Uint8Array(64)],
      name,
      'indices',
    );
  });
});

describe('random kernels', () => {
  /** A program is a list of steps; each takes earlier values of its type, chosen by number. */
  const step = fc.record({
    op: fc.nat(11),
    type: fc.nat(scalarTypes.length - 1),
    a: fc.nat(99),
    b: fc.nat(99),
    c: fc.nat(99),
  });
  const program = fc.record({
    steps: fc.array(step, { minLength: 4, maxLength: 24 }),
    lanes: fc.constantFrom<Lanes>(1, 2, 4, 8),
    seed: fc.nat(),
    name: fc.constantFrom(...each),
  });

  it('leave the same bytes', () => {
    fc.assert(
      fc.property(program, ({ steps, lanes, seed, name }) => {
        const length = 4 * lanes;
        const b = new KernelBuilder();
        const inputs = tensorTypes.map((scalar) => b.buffer(`x_${scalar}`, scalar, length, 'read'));
        const outputs = tensorTypes.map((scalar) => b.buffer(`y_${scalar}`, scalar, length, 'write'));
        const at = b.mulc(b.builtin('workgroup_id', 0, 4), lanes);
        const pools = new Map<ScalarType, KValue[]>(scalarTypes.map((scalar) => [scalar, []]));
        tensorTypes.forEach((scalar, i) => {
          const value = b.load(inputs[i], at, lanes, true);
          pools.get(scalar)?.push(value);
          pools.get('bool')?.push(b.compare('lt', value, b.load(inputs[i], b.constant(0), lanes, true)));
        });
        const pick = (scalar: ScalarType, n: number): KValue => {
          const pool = pools.get(scalar) ?? [];
          return pool[pool.length - 1 - (n % pool.length)];
        };
        for (const { op, type, a, b: other, c } of steps) {
          const scalar = scalarTypes[type];
          const [x, y] = [pick(scalar, a), pick(scalar, other)];
          const float = isFloatScalar(scalar);
          const arithmetic: readonly BinaryFn[] = float
            ? ['add', 'sub', 'mul', 'div', 'min', 'max']
            : ['add', 'sub', 'mul', 'and', 'or', 'xor', 'min', 'max'];
          let value: KValue;
          if (op < 4) {
            if (scalar === 'bool') value = b.binary((['and', 'or', 'xor'] as const)[c % 3], x, y);
            else value = b.binary(arithmetic[c % arithmetic.length], x, y);
          } else if (op < 7) value = b.convert(pick(scalarTypes[c % scalarTypes.length], a), scalar);
          else if (op === 7) value = b.select(pick('bool', c), x, y);
          else if (op === 8 && scalar !== 'bool') {
            pools.get('bool')?.push(b.compare((['lt', 'le', 'eq', 'ne'] as const)[c % 4], x, y));
            continue;
          } else if (op === 9 && lanes > 1) value = b.splat(b.extract(x, c % lanes), lanes);
          else if (op === 10 && lanes > 1) {
            value = b.build(Array.from({ length: lanes }, (_, i) => b.extract(i % 2 ? x : y, (i * 3 + c) % lanes)));
          } else if (op === 11 && scalar !== 'bool') {
            const condition = b.extract(pick('bool', c), 0);
            [value] = b.if(
              condition,
              () => [b.add(x, y)],
              () => b.for(0, 3, 1, [x], (_, [v]) => [b.sub(v, y)]),
            );
          } else value = b.unary(scalar === 'bool' ? 'not' : 'neg', x);
          pools.get(scalar)?.push(value);
        }
        tensorTypes.forEach((scalar, i) => void b.store(outputs[i], at, pick(scalar, 0), true));
        const bytes = [...tensorTypes, ...tensorTypes].map((scalar, i) => elements(scalar, length, seed + i));
        expectSame(b.finish({ name: 'random', grid: [4, 1, 1], workgroup: [1, 1, 1] }), bytes, name, 'random');
      }),
      { numRuns: Number(process.env.TUTTI_LEGALIZE_RUNS ?? 250) },
    );
  });
});

describe('legalize', () => {
  it('returns a legal kernel as it is', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'f32', 16, 'readwrite');
    const at = b.builtin('local_id', 0, 16);
    b.store(x, at, b.mul(b.load(x, at), b.constant(3, 'f32')));
    const kernel = finish(b, 1, 16);
    expect(legalize(kernel, minimum)).toBe(kernel);
  });

  it('says what cannot be done: atomics on 64-bit elements', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'i64', 4, 'readwrite');
    b.atomic('add', x, b.constant(0), b.constant(1n, 'i64'));
    expect(() => legalize(finish(b), minimum)).toThrow(/atomic operation on i64 elements of x/);
  });

  it('tells how tensors are bound', () => {
    expect(legalTypeStorage('f16', minimum)).toEqual({ scalar: 'u32', perWord: 2 });
    expect(legalTypeStorage('i8', minimum)).toEqual({ scalar: 'u32', perWord: 4 });
    expect(legalTypeStorage('i64', minimum)).toEqual({ scalar: 'u32', perWord: 0.5 });
    expect(legalTypeStorage('f32', minimum)).toEqual({ scalar: 'f32', perWord: 1 });
    expect(legalTypeStorage('bf16', targets['bytes and shorts'])).toEqual({ scalar: 'u16', perWord: 1 });
  });

  it('narrows 64-bit integers whose range allows it', () => {
    const b = new KernelBuilder();
    const y = b.buffer('y', 'i32', 64, 'write');
    const i = b.convert(b.builtin('local_id', 0, 64), 'i64');
    b.store(
      y,
      b.builtin('local_id', 0, 64),
      b.convert(b.add(b.mul(i, b.constant(5n, 'i64')), b.constant(7n, 'i64')), 'i32'),
    );
    const legal = legalize(finish(b, 1, 64), minimum);
    expect(legal.body.instructions.some((inst) => 'result' in inst && inst.result.type.lanes === 2)).toBe(false);
  });

  it('takes at most a few milliseconds for 500 instructions', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'f16', 1024, 'read');
    const y = b.buffer('y', 'f16', 1024, 'write');
    const at = b.mulc(b.builtin('local_id', 0, 64), 4);
    let value = b.load(x, at, 4, true);
    for (let i = 0; i < 250; i++) value = b.add(b.mul(value, value), b.load(x, b.addc(at, 4 * (i % 100)), 4, true));
    b.store(y, at, value, true);
    const kernel = finish(b, 1, 64);
    legalize(kernel, minimum);
    const times = Array.from({ length: 9 }, () => {
      // Processor time: the wall clock of a busy machine says nothing.
      const start = process.cpuUsage();
      legalize(kernel, minimum);
      return process.cpuUsage(start).user / 1000;
    }).sort((u, v) => u - v);
    if (process.env.TUTTI_LEGALIZE_TIME) console.log('least and median ms', times[0], times[4]);
    expect(times[0]).toBeLessThan(25);
  });
});
