// Keys of stages: equal for equal programs, in other processes too where that can be told.
import { describe, expect, it } from 'vitest';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { exportOnnx, importOnnx } from '../../compiler/frontends/onnx/index.js';
import { StageKeys } from '../../runtime/stage_keys.js';

/** Weights beyond what is told apart by content. */
function model(seed: number, scale = 1): Uint8Array {
  const g = new ModelBuilder('m');
  const large = Float32Array.from({ length: 200 * 200 }, (_, i) => Math.sin(i + seed));
  const x = g.mul(g.input('x', 'f32', [2, 200]), g.constant([scale]));
  g.output('y', g.matmul(x, g.constant(large, [200, 200])));
  return exportOnnx(g.build());
}

const keyOf = (bytes: Uint8Array, know = true) => {
  const graph = importOnnx(bytes);
  const keys = new StageKeys();
  if (know) keys.know(graph);
  return keys.of(graph);
};

describe('keys of stages', () => {
  it('are the same whenever the model is read', () => {
    const first = keyOf(model(0));
    expect(first.lasting).toBe(true);
    expect(keyOf(model(0))).toEqual(first);
  });

  it('name large constants by their place in the model, small ones by content', () => {
    // The model itself is told apart by its digest.
    expect(keyOf(model(1)).text).toBe(keyOf(model(0)).text);
    expect(keyOf(model(0, 2)).text).not.toBe(keyOf(model(0)).text);
  });

  it('do not last where a large constant is not the model’s', () => {
    expect(keyOf(model(0), false).lasting).toBe(false);
    const keys = new StageKeys();
    const [one, other] = [importOnnx(model(0)), importOnnx(model(0))];
    keys.know(one);
    expect(keys.of(other).lasting).toBe(false);
    expect(keys.of(other).text).not.toBe(keys.of(one).text);
    expect(keys.of(one).lasting).toBe(true);
  });
});
