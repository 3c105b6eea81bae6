/** What every device must compute bit for bit as the interpreter does: the tests of a renderer, run on its device. */
import { expect, it } from 'vitest';
import type { Backend, Device } from '../../backends/backend.js';
import {
  accesses,
  bitcasts,
  exchanging,
  flagData,
  flags,
  gridData,
  gridOfThree,
  loops,
  sharing,
  subgroups,
} from './executed_kernels.js';
import { data, type NumberType, type Tolerance } from './kernel_data.js';
import { arithmeticRuns, callingRun, compareRuns, fusedRuns, mathRuns, type Run } from './kernel_runs.js';
import { randomNodes, scheduledRuns } from './scheduled_runs.js';

/** Registers the tests. `device` is asked when they run; `types` are those that it computes in. */
export function testRendered(
  backend: Pick<Backend, 'render'>,
  device: () => Device,
  types: readonly NumberType[],
  tolerance: () => Tolerance = () => ({}),
): void {
  const compare = (runs: readonly Run[]): Promise<string[]> => compareRuns(backend, device(), runs, tolerance());
  const among = <T extends NumberType>(...some: T[]): T[] => some.filter((scalar) => types.includes(scalar));

  for (const scalar of types) {
    it(`computes and converts ${scalar} as the interpreter does`, async () => {
      expect(await compare(arithmeticRuns(scalar, types))).toEqual([]);
    });

    it(`moves ${scalar} through every memory`, async () => {
      const runs = ([1, 2, 4] as const).map((lanes) => ({
        what: `x${lanes}`,
        kernel: accesses(scalar, lanes),
        inputs: [data(scalar, 4, 512)],
      }));
      expect(await compare(runs)).toEqual([]);
    });
  }

  it('runs loops, branches, private arrays and helpers', async () => {
    const inputs = [data('i32', 5, 512)];
    const runs: Run[] = [0, 1, 17, -4].map((limit) => ({
      what: `limit ${limit}`,
      kernel: loops(),
      inputs,
      scalars: [limit],
    }));
    expect(await compare(runs)).toEqual([]);
  });

  it('takes words apart and puts them together', async () => {
    expect(await compare([{ what: 'bitcasts', kernel: bitcasts(types), inputs: [data('u32', 6, 1024)] }])).toEqual([]);
  });

  it('shares memory, and adds atomically', async () => {
    expect(await compare([{ what: 'sharing', kernel: sharing(), inputs: [data('u32', 7, 1024)] }])).toEqual([]);
  });

  it('sees through a barrier what others wrote, covers grids of three dimensions, keeps bools as bytes', async () => {
    const bytes = device().target.storage.has('bool');
    const runs: Run[] = [
      { what: 'exchanging', kernel: exchanging(), inputs: [data('i32', 3, 512)] },
      { what: 'grid', kernel: gridOfThree(), inputs: [gridData], scalars: [-7, 100] },
      { what: 'flags', kernel: flags(bytes), inputs: [flagData(bytes)] },
    ];
    expect(await compare(runs)).toEqual([]);
  });

  it('talks among the lanes of a subgroup', async () => {
    const runs = among('i32', 'u32', 'i64', 'f32', 'f64').map((scalar) => ({
      what: scalar,
      kernel: subgroups(scalar),
      inputs: [data(scalar, 8, 512)],
    }));
    expect(await compare(runs)).toEqual([]);
  });

  it('rounds a fused multiply-add once', async () => {
    expect(await compare(among('f16', 'f32', 'f64').flatMap(fusedRuns))).toEqual([]);
  });

  it('computes mathematical functions as the interpreter does', async () => {
    expect(await compare(among('f32', 'f64', 'f16').flatMap(mathRuns))).toEqual([]);
  });

  it('calls helpers that are functions', async () => {
    expect(await compare(among('f32', 'f64').map(callingRun))).toEqual([]);
  });

  it('runs what the scheduler makes of random nodes of every op', async () => {
    const complaints: string[] = [];
    let count = 0;
    for (const { what, graph, inputs } of randomNodes(4)) {
      const runs = scheduledRuns(graph, inputs, device().target);
      count += runs.length;
      complaints.push(...(await compare(runs)).map((complaint) => `${what}: ${complaint}`));
    }
    expect(count).toBeGreaterThan(100);
    expect(complaints).toEqual([]);
  });
}
