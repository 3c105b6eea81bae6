// Elements of at most a byte on every device of this machine, the virtual CUDA device included: conversions of hard
// values to each type and back, and packed elements moved across byte boundaries. The bytes must be those of the host.
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type DType, dtypes, isInt, isMiniFloat, isPacked } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import { bytesOfTensor, type HostTensor } from '../../compiler/tensor.js';
import { devices, Session, Tensor } from '../../index.js';
import { virtualLibrary } from '../support/cuda.js';

if (existsSync(virtualLibrary)) process.env.TUTTI_CUDA_LIBRARY ??= virtualLibrary;
const { devices: present } = await devices();

const small = dtypes.filter((dtype) => isMiniFloat(dtype) || isPacked(dtype));

/** Rows of 17, so that rows of packed elements start within bytes. */
const [rows, columns] = [29, 17];
const data = Float32Array.from({ length: rows * columns }, (_, i) => {
  const special = [0, -0, Number.NaN, Infinity, -Infinity, 464, 465, 61440, 248, 0.25, 5, 2 ** -10, 3e38, 2 ** -127];
  if (i < special.length) return special[i];
  // Values with few bits on all scales, so that ties are frequent.
  return (i % 2 ? -1 : 1) * (1 + ((i * 7) % 64) / 64) * 2 ** ((i % 37) - 19);
});

function graphOf(dtype: DType): Graph {
  const b = new GraphBuilder(dtype);
  const x = b.input('x', 'f32', [rows, columns]);
  const small = c.cast(b, x, dtype);
  const turned = c.transpose(b, small, [1, 0]);
  b.output('saturating', small);
  if (!isInt(dtype)) b.output('not', c.cast(b, x, dtype, false));
  b.output('back', c.cast(b, small, 'f32'));
  b.output('turned', turned);
  b.output('joined', c.concat(b, [turned, c.slice1(b, turned, 0, 2, 3)], 0));
  b.output('half', c.cast(b, c.slice1(b, small, 1, 3, 11), 'f16'));
  return b.finish();
}

for (const { id } of present) {
  describe(id, () => {
    it.each(small)('%s', { timeout: 120_000 }, async (dtype) => {
      const graph = graphOf(dtype);
      const x: HostTensor = { dtype: 'f32', shape: [rows, columns], data };
      const expected = evaluateGraph(graph, { x });
      await using session = await Session.create(graph, { device: id });
      // Inputs and outputs of the small type itself.
      const results = await session.run({ x: Tensor.fromHost(x) });
      for (const [name, tensor] of expected) {
        expect(bytesOfTensor(results[name].toHost()), name).toEqual(bytesOfTensor(tensor));
      }
    });
  });
}
