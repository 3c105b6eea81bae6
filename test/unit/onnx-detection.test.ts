// Detectors' operators and Unique with random data: beside ONNX Runtime where it is installed, and as kernels.
import { describe, expect, it } from 'vitest';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { seeded } from '../support/kernel_data.js';
import { f32, i64 } from '../support/onnx_model.js';
import { byKernels, byPeer, byReference, expectSame, type OperatorCase, peer } from '../support/operator_cases.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const c = seeded(5);
const pick = <T>(list: readonly T[]): T => list[c.int(0, list.length - 1)];
/** Multiples of 1/8 in a range. */
const eighths = (shape: readonly number[], low: number, high: number): HostTensor =>
  f32(shape, ...Array.from({ length: sizeOf(shape) }, () => c.int(low * 8, high * 8) / 8));
const scalar = (value: number): HostTensor => f32([1], value);

/** Reference and kernels of one target against what is expected, by default ONNX Runtime's. */
async function check(operator: OperatorCase, what: string, expected?: readonly HostTensor[]): Promise<void> {
  const reference = byReference(operator);
  if (expected !== undefined) expectSame(reference, expected, `${what}, reference`);
  else if (peer !== undefined) expectSame(reference, await byPeer(operator), `${what}, beside ONNX Runtime`);
  const target = pick([testTargets.cpu, testTargets.simt, testTargets.software, minimumTarget]);
  expectSame(await byKernels(operator, target), reference, `${what}, kernels`);
}

describe('NonMaxSuppression', () => {
  for (let round = 0; round < 12; round++) {
    it(`random boxes ${round}`, async () => {
      const [batch, classes, count] = [c.int(1, 2), c.int(1, 3), c.int(1, 40)];
      const centred = c.int(0, 1);
      const corners = eighths([batch, count, 4], 0, 6);
      if (centred === 1)
        for (let i = 2; i < corners.data.length; i += 4) {
          // Sizes, not places.
          (corners.data as Float32Array).set([c.int(1, 24) / 8, c.int(1, 24) / 8], i);
        }
      const optional = [i64(c.int(0, 12)), scalar(c.int(0, 9) / 10), scalar(c.int(-1, 9) / 10)];
      await check(
        {
          op: 'NonMaxSuppression',
          inputs: [corners, eighths([batch, classes, count], 0, 1), ...optional.slice(0, c.int(1, 3))],
          outputs: ['i64'],
          attrs: { center_point_box: BigInt(centred) },
          opset: 11,
          constants: [2],
        },
        `round ${round}`,
      );
    });
  }

  it('gives no rows where none is asked for', () => {
    const boxes = f32([1, 1, 4], 0, 0, 1, 1);
    const [rows] = byReference({ op: 'NonMaxSuppression', inputs: [boxes, f32([1, 1, 1], 1)], outputs: ['i64'] });
    expect(rows.shape).toEqual([0, 3]);
  });
});

describe('RoiAlign', () => {
  for (let round = 0; round < 8; round++) {
    it(`random regions ${round}`, async () => {
      const [images, regions] = [c.int(1, 2), c.int(1, 4)];
      const rois = eighths([regions, 4], 0, 9);
      for (let r = 0; r < regions; r++) {
        const data = rois.data as Float32Array;
        const [p, q] = [data.slice(4 * r, 4 * r + 2), data.slice(4 * r + 2, 4 * r + 4)];
        data.set(
          [0, 1].flatMap((i) => [Math.min(p[i], q[i])]),
          4 * r,
        );
        data.set(
          [0, 1].flatMap((i) => [Math.max(p[i], q[i])]),
          4 * r + 2,
        );
      }
      // ONNX Runtime takes the maximum of interpolated values where ONNX's reference takes that of weighted corners.
      const mode = 'avg';
      await check(
        {
          op: 'RoiAlign',
          inputs: [
            eighths([images, 3, 7, 9], -2, 2),
            rois,
            i64(...Array.from({ length: regions }, () => c.int(0, images - 1))),
          ],
          outputs: ['f32'],
          attrs: {
            mode,
            output_height: BigInt(c.int(1, 4)),
            output_width: BigInt(c.int(1, 4)),
            sampling_ratio: BigInt(c.int(0, 3)),
            spatial_scale: pick([1, 0.5, 1.25]),
            ...(round % 2 === 0 ? { coordinate_transformation_mode: pick(['half_pixel', 'output_half_pixel']) } : {}),
          },
          opset: round % 2 === 0 ? 16 : 10,
        },
        `round ${round}`,
      );
    });
  }
});

/** Deformable convolution as its specification has it, for two spatial axes. */
function deformed(
  [x, w, offset, bias, mask]: readonly (HostTensor | undefined)[],
  {
    strides,
    dilations,
    pads,
    groups,
    offsetGroups,
  }: Record<string, readonly number[]> & { groups: never; offsetGroups: never },
): HostTensor {
  const [batch, channels, height, width] = (x as HostTensor).shape;
  const [outputs, perGroup, kh, kw] = (w as HostTensor).shape;
  const [, , oh, ow] = (offset as HostTensor).shape;
  const [g, og] = [Number(groups), Number(offsetGroups)];
  const at = (t: HostTensor | undefined, ...index: number[]): number =>
    Number(t?.data[index.reduce((flat, i, d) => flat * (t.shape[d] ?? 1) + i, 0)]);
  const pixel = (n: number, ch: number, y: number, xx: number): number =>
    y < 0 || xx < 0 || y >= height || xx >= width ? 0 : at(x, n, ch, y, xx);
  const out: number[] = [];
  for (let n = 0; n < batch; n++)
    for (let o = 0; o < outputs; o++)
      for (let i = 0; i < oh; i++)
        for (let j = 0; j < ow; j++) {
          let total = bias === undefined ? 0 : at(bias, o);
          for (let q = 0; q < perGroup; q++) {
            const ch = Math.floor(o / (outputs / g)) * perGroup + q;
            const part = Math.floor(ch / (channels / og));
            for (let a = 0; a < kh; a++)
              for (let b = 0; b < kw; b++) {
                const tap = (part * kh + a) * kw + b;
                const y = i * strides[0] - pads[0] + a * dilations[0] + at(offset, n, 2 * tap, i, j);
                const xx = j * strides[1] - pads[1] + b * dilations[1] + at(offset, n, 2 * tap + 1, i, j);
                const [y0, x0] = [Math.floor(y), Math.floor(xx)];
                const [fy, fx] = [y - y0, xx - x0];
                const value =
                  (1 - fy) * (1 - fx) * pixel(n, ch, y0, x0) +
                  (1 - fy) * fx * pixel(n, ch, y0, x0 + 1) +
                  fy * (1 - fx) * pixel(n, ch, y0 + 1, x0) +
                  fy * fx * pixel(n, ch, y0 + 1, x0 + 1);
                total += value * at(w, o, q, a, b) * (mask === undefined ? 1 : at(mask, n, tap, i, j));
              }
          }
          out.push(total);
        }
  return f32([batch, outputs, oh, ow], ...out);
}

describe('DeformConv', () => {
  for (let round = 0; round < 6; round++) {
    it(`random offsets ${round}`, async () => {
      const [groups, offsetGroups] = [pick([1, 2]), pick([1, 2])];
      const [strides, dilations] = [
        [c.int(1, 2), c.int(1, 2)],
        [c.int(1, 2), c.int(1, 2)],
      ];
      const pads = [c.int(0, 1), c.int(0, 1), c.int(0, 1), c.int(0, 1)];
      const [kh, kw] = [c.int(1, 3), c.int(1, 2)];
      const places = (size: number, k: number, i: number): number =>
        Math.floor((size + pads[i] + pads[i + 2] - (k - 1) * dilations[i] - 1) / strides[i]) + 1;
      const [oh, ow] = [places(6, kh, 0), places(7, kw, 1)];
      const inputs = [
        eighths([2, 4, 6, 7], -2, 2),
        eighths([4, 4 / groups, kh, kw], -1, 1),
        eighths([2, 2 * offsetGroups * kh * kw, oh, ow], -2, 2),
        round % 2 === 0 ? eighths([4], -1, 1) : undefined,
        round % 3 === 0 ? eighths([2, offsetGroups * kh * kw, oh, ow], 0, 1) : undefined,
      ];
      const ints = (list: readonly number[]): readonly bigint[] => list.map(BigInt);
      await check(
        {
          op: 'DeformConv',
          inputs,
          outputs: ['f32'],
          attrs: {
            strides: ints(strides),
            dilations: ints(dilations),
            pads: ints(pads),
            group: BigInt(groups),
            offset_group: BigInt(offsetGroups),
          },
          opset: 19,
        },
        `round ${round}`,
        [deformed(inputs, { strides, dilations, pads, groups: groups as never, offsetGroups: offsetGroups as never })],
      );
    });
  }
});

describe('Unique', () => {
  for (let round = 0; round < 10; round++) {
    it(`random data ${round}`, async () => {
      const axis = pick([undefined, 0, 1, -1, 2]);
      const shape = axis === undefined ? [c.int(1, 30)] : [c.int(1, 5), c.int(1, 4), c.int(1, 3)];
      const x: HostTensor =
        round % 2 === 0
          ? f32(shape, ...Array.from({ length: sizeOf(shape) }, () => c.int(0, 2) / 2))
          : { dtype: 'i64', shape, data: BigInt64Array.from({ length: sizeOf(shape) }, () => BigInt(c.int(-1, 2))) };
      await check(
        {
          op: 'Unique',
          inputs: [x],
          outputs: [x.dtype, 'i64', 'i64', 'i64'],
          attrs: { sorted: BigInt(c.int(0, 1)), ...(axis === undefined ? {} : { axis: BigInt(axis) }) },
          opset: 11,
        },
        `round ${round}`,
      );
    });
  }

  it('takes all NaN for one value, the greatest, and long vectors in blocks', () => {
    const data = Float32Array.of(Number.NaN, 1, Number.NaN, 0);
    const [y, first, inverse, counts] = byReference({
      op: 'Unique',
      inputs: [{ dtype: 'f32', shape: [4], data }],
      outputs: ['f32', 'i64', 'i64', 'i64'],
    });
    expect([...(y.data as Float32Array)]).toEqual([0, 1, Number.NaN]);
    expect([first, inverse, counts].map((t) => Array.from(t.data as BigInt64Array, Number))).toEqual([
      [3, 1, 0],
      [2, 1, 2, 0],
      [1, 1, 2],
    ]);
    const many = Int32Array.from({ length: 1500 }, (_, i) => (i * 7919) % 611);
    const [distinct] = byReference({
      op: 'Unique',
      inputs: [{ dtype: 'i32', shape: [1500], data: many }],
      outputs: ['i32', 'i64', 'i64', 'i64'],
    });
    expect(distinct.shape).toEqual([611]);
  });
});

describe('TfIdfVectorizer', () => {
  for (let round = 0; round < 8; round++) {
    it(`random pools ${round}`, async () => {
      const [rows, size] = [c.int(1, 3), c.int(1, 9)];
      const unigrams = [2n, 3n, 5n];
      const bigrams = [2n, 3n, 3n, 3n, 5n, 4n, 4n, 2n];
      const trigrams = [2n, 3n, 5n, 4n, 4n, 4n];
      const total = 3 + 4 + 2;
      const order = Array.from({ length: total }, (_, i) => (i * 4 + 1) % 9);
      const [shortest, longest] = pick([
        [1, 1],
        [1, 2],
        [2, 2],
        [2, 3],
        [1, 3],
        [3, 3],
      ] as const);
      const tokens = Int32Array.from({ length: rows * size }, () => c.int(2, 5));
      await check(
        {
          op: 'TfIdfVectorizer',
          inputs: [{ dtype: 'i32', shape: round % 3 === 0 ? [rows * size] : [rows, size], data: tokens }],
          outputs: ['f32'],
          attrs: {
            mode: pick(['TF', 'IDF', 'TFIDF']),
            min_gram_length: BigInt(shortest),
            max_gram_length: BigInt(longest),
            max_skip_count: BigInt(c.int(0, 4)),
            ngram_counts: [0n, 3n, 11n],
            ngram_indexes: order.map(BigInt),
            pool_int64s: [...unigrams, ...bigrams, ...trigrams],
            weights: Array.from({ length: total }, (_, i) => 0.5 + i / 4),
          },
          opset: 9,
        },
        `round ${round}`,
      );
    });
  }
});
