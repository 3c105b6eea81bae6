/** Kernels that several tests share. */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { type KernelFunction, ktype } from '../../compiler/kernel/types.js';

/** A valid kernel that has every op of the IR, helpers, both array spaces and nested control flow. */
export function everyOp(): KernelFunction {
  const b = new KernelBuilder();
  const input = b.buffer('input', 'f32', 64, 'read');
  const output = b.buffer('output', 'f32', 64, 'write');
  const counters = b.buffer('counters', 'u32', 4, 'readwrite');
  const scale = b.scalar('scale', 'f32');
  const count = b.scalar('count', 'i32');
  const tile = b.array('tile', 'shared', 'f32', 64);
  const own = b.array('own', 'private', 'f16', 4);
  const group = b.builtin('workgroup_id', 0, 2);
  const local = b.builtin('local_id', 0, 32);
  const at = b.add(b.mulc(group, 32), local);
  const x = b.load(input, at);
  const logistic = b.call('logistic', [x], ktype('f32'), ([p]) =>
    b.binary('div', b.constant(1, 'f32'), b.add(b.unary('exp', b.unary('neg', p)), b.constant(1, 'f32'))),
  );
  b.store(tile, local, b.fma(logistic, scale, b.binary('mul', x, x, true)));
  b.barrier();
  const four = b.load(tile, b.mulc(b.binary('and', local, b.constant(7)), 4), 4, true);
  const other = b.build([0, 1, 2, 3].map((lane) => b.extract(four, 3 - lane)));
  const mixed = b.select(b.compare('lt', four, other), four, b.mul(other, b.splat(scale, 4)));
  b.store(own, b.constant(0), b.convert(mixed, 'f16'), true);
  const bits = b.bitcast(b.load(own, b.constant(0), 2, true), ktype('u32'));
  const [sum, last] = b.for(
    0,
    b.constant(8),
    2,
    [x, bits],
    (index, [s, word]) => [b.add(s, b.load(tile, b.add(index, local))), b.binary('xor', word, b.convert(index, 'u32'))],
    { unroll: true },
  );
  const [shifted] = b.loop([last], ([word]) => {
    const next = b.binary('shr', word, b.constant(1, 'u32'));
    return { condition: b.compare('gt', next, b.constant(1000, 'u32')), next: [next] };
  });
  b.atomic('add', counters, b.constant(1), shifted);
  b.compareExchange(counters, b.constant(0), b.constant(0, 'u32'), shifted);
  const total = b.subgroup('add', sum);
  const near = b.subgroup('shuffle_xor', total, 1);
  const inside = b.and(b.compare('ge', count, b.constant(0)), b.compare('lt', count, b.constant(32)));
  const [result] = b.if(
    inside,
    () => [b.load(tile, b.assume(count, 0, 31))],
    () => {
      b.if(b.compare('eq', local, b.constant(0)), () => b.atomic('max', counters, b.constant(2), shifted) && undefined);
      return [near];
    },
  );
  b.store(output, at, result);
  return b.finish({
    name: 'every_op',
    sources: ['Sigmoid_0', '/block/Add'],
    grid: [2, 1, 1],
    workgroup: [32, 1, 1],
    subgroupSize: 32,
  });
}
