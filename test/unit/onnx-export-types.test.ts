/** Elements of at most a byte through the exporter: constants, inputs, conversions, and the versions that they need. */
import { describe, expect, it } from 'vitest';
import { type DType, dtypes, isInt, isMiniFloat, isPacked } from '../../compiler/dtype.js';
import { decode, exportOnnx, importOnnx } from '../../compiler/frontends/onnx/index.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Graph } from '../../compiler/graph/types.js';
import { scaleRoundings } from '../../compiler/minifloat.js';
import { bind } from '../support/onnx_cases.js';

const small = dtypes.filter((dtype) => isMiniFloat(dtype) || isPacked(dtype));
const numbers = [0, 0.3, 1, -1, 1.4, 1.5, 3, -2, 7.6, 20, -20, 500, 1e6, -1e6, 2 ** -10];
const x = tensorOfNumbers('f32', [numbers.length], numbers);

function graphOf(dtype: DType): Graph {
  const b = new GraphBuilder('small');
  const value = b.input('x', 'f32', x.shape);
  const variants = dtype === 'f8e8m0' ? scaleRoundings : [undefined];
  variants.forEach((rounding, i) => {
    b.output(`saturating${i}`, c.cast(b, value, dtype, true, rounding));
    if (!isInt(dtype)) b.output(`not${i}`, c.cast(b, value, dtype, false, rounding));
  });
  const constant = b.constant(
    tensorOfNumbers(
      dtype,
      [5],
      [1, 0.5, 2, 1, 1].map((v) => (isInt(dtype) ? Math.trunc(v) : v)),
    ),
  );
  b.output('joined', c.concat(b, [c.cast(b, value, dtype), constant], 0));
  b.output('back', c.cast(b, constant, 'f32'));
  return b.finish();
}

/** Opset and IR version in which ONNX has a type, but at least those that we write. */
const versions: Partial<Readonly<Record<DType, readonly [opset: bigint, ir: bigint]>>> = {
  f4e2m1: [23n, 11n],
  f8e8m0: [24n, 12n],
  i2: [25n, 13n],
  u2: [25n, 13n],
};

describe.each(small)('%s', (dtype) => {
  it('means the same when it is read back', () => {
    const graph = graphOf(dtype);
    const bytes = exportOnnx(graph);
    const expected = evaluateGraph(graph, { x });
    const actual = evaluateGraph(bind(importOnnx(bytes, {}), [x]), { x });
    for (const [name, tensor] of expected) expect(actual.get(name), name).toEqual(tensor);
    const { opsetImport, irVersion } = decode('ModelProto', bytes);
    expect([opsetImport[0].version, irVersion]).toEqual(versions[dtype] ?? [21n, 10n]);
  });
});
