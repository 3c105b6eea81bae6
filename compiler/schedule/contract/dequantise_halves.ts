/**
 * Products of few rows with constant weights of f16 or bf16 on a CPU: what counts is that the weights pass from memory once,
 * as they are. They become f32 in registers, in which all is summed.
 */
import type { Target } from '../../kernel/target.js';
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Contraction, multiplyAdd } from './contraction.js';
import { type HalfWeights, packHalves } from './dequantise.js';
import { finishTile } from './finish_tile.js';

/** Rows of the lhs beyond which weights are better converted once. */
const mostRows = 8;
/** Multiply-adds that make up for handing out a task. */
const taskWork = 1 << 17;

export function lowerHalves(
  group: Group,
  target: Target,
  contraction: Contraction,
  weights: HalfWeights,
): LoweredKernel | undefined {
  const { batch, m, n, k, lhs, rhs } = contraction;
  const lanes = target.vectorLanes;
  if (batch !== 1 || m === 0 || m > mostRows || n < lanes || k === 0) return undefined;
  const vectors = Math.max(1, Math.min(8, Math.floor((target.vectorRegisters - 4) / (m + 1))));
  const tileN = lanes * vectors;
  const lowering = new Lowering(group, target, new Map([[rhs.value.id, packHalves(weights, rhs.value.name, tileN)]]));
  const { b } = lowering;
  const sums = b.array('sums', 'shared', 'f32', m * tileN);
  const tiles = Math.ceil(n / tileN);
  const tasks = Math.min(tiles, target.parallelism * 4, Math.max(1, Math.floor((m * n * k) / taskWork)));
  const blockN = Math.ceil(tiles / tasks);
  const grid = lowering.workgroups(Math.ceil(tiles / blockN), (task) =>
    lowering.for(0, blockN, 1, [], (i) =>
      lowering.guarded(task.scale(blockN).add(i), tiles, (tile) => {
        const buffer = lowering.buffer(rhs.value);
        if (!buffer) throw new Error('the packed weights are not bound');
        const zeros = range(m * vectors).map(() => b.constant(0, 'f32', lanes));
        const totals = lowering.for(0, k, 1, zeros, (step, carried) => {
          const base = tile.scale(k).add(step).scale(tileN);
          const columns = range(vectors).map((v) =>
            b.convert(b.load(buffer, base.add(v * lanes).emit(b), lanes, true), 'f32'),
          );
          return range(m).flatMap((row) => {
            const factor = lhs.element(lowering, Affine.constant(0), Affine.constant(row), step, 1);
            return columns.map((column, v) => multiplyAdd(lowering, factor, column, carried[row * vectors + v]));
          });
        });
        totals.forEach((total, at) => {
          b.store(sums, b.constant(at * lanes), total, true);
        });
        finishTile(lowering, group, contraction, { sums, rows: m, vectors, lanes }, Affine.constant(0), tile);
      }),
    ),
  );
  return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
}
