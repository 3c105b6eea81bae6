/** What `verify` demands of what a kernel declares: grid, workgroup, memory, and the limits of its target. */
import type { Target } from '../target.js';
import { isIntScalar, type KernelFunction, type KMemory, type KParam, scalarBits } from '../types.js';
import { mapProblem, signalProblem } from './bulk.js';
import { tileProblem } from './engines.js';

const isCount = (x: number): boolean => Number.isSafeInteger(x) && x > 0;

/** Why declarations are wrong for any target, or undefined. */
export function declarationProblem(kernel: KernelFunction, memories: Iterable<KMemory>): string | undefined {
  const { grid, workgroup, params, arrays, tiles, signals, maps, helpers, subgroupSize } = kernel;
  if (grid.length !== 3 || !grid.every(isCount)) return `grid ${grid} is not three positive counts`;
  if (workgroup.length !== 3 || !workgroup.every(isCount)) return `workgroup ${workgroup} is not three positive counts`;
  if (subgroupSize !== undefined && !(isCount(subgroupSize) && (subgroupSize & (subgroupSize - 1)) === 0)) {
    return `subgroup size ${subgroupSize}`;
  }
  const names = new Set<string>();
  for (const { name } of [...params, ...arrays, ...tiles, ...signals, ...maps]) {
    if (names.has(name)) return `two parameters, arrays, tiles, signals or maps are called ${name}`;
    names.add(name);
  }
  if (new Set(helpers.map(({ name }) => name)).size !== helpers.length) return 'two helpers have one name';
  for (const { name, length } of memories) {
    if (!isCount(length)) return `length ${length} of ${name} is not a positive count`;
  }
  return firstOf([
    ...params.map(rangeProblem),
    ...tiles.map(tileProblem),
    ...signals.map(signalProblem),
    ...maps.map((map) => mapProblem(map, kernel)),
  ]);
}

function rangeProblem(param: KParam): string | undefined {
  if (param.kind !== 'scalar' || param.range === undefined) return undefined;
  const { name, scalar, range } = param;
  const sane = isIntScalar(scalar) && range.min <= range.max && range.min >= -(2 ** 31) && range.max < 2 ** 32;
  return sane ? undefined : `range [${range.min}, ${range.max}] of ${name} is not an interval of ${scalar}`;
}

/** Which limit of the target the kernel exceeds, or undefined. */
export function limitProblem(
  kernel: KernelFunction,
  { limits, features, subgroup, backend }: Target,
): string | undefined {
  const { grid, workgroup, params, arrays, subgroupSize } = kernel;
  const bytes = ({ scalar, length }: KMemory): number => (scalarBits[scalar] / 8) * length;
  const above = (found: number, limit: number, what: string): string | undefined =>
    found <= limit ? undefined : `${what} is ${found}, ${backend} allows ${limit}`;
  const buffers = params.filter((param) => param.kind === 'buffer');
  const shared = arrays.filter(({ space }) => space === 'shared').reduce((sum, array) => sum + bytes(array), 0);
  const problem = firstOf([
    ...([0, 1, 2] as const).flatMap((dim) => [
      above(grid[dim], limits.workgroupCount[dim], `grid in dimension ${dim}`),
      above(workgroup[dim], limits.workgroupSize[dim], `workgroup in dimension ${dim}`),
    ]),
    above(workgroup[0] * workgroup[1] * workgroup[2], limits.workgroupInvocations, 'workgroup'),
    above(buffers.length, limits.storageBuffers, 'number of buffers'),
    ...buffers.map((buffer) => above(bytes(buffer), limits.storageBindingBytes, `bytes of ${buffer.name}`)),
    above((params.length - buffers.length) * 4, limits.scalarBytes, 'bytes of scalar parameters'),
    above(shared, limits.sharedBytes, 'bytes of shared memory'),
  ]);
  if (problem !== undefined || subgroupSize === undefined) return problem;
  if (!features.has('subgroups')) return `${backend} has no subgroups`;
  const { min, max } = subgroup;
  return subgroupSize >= min && subgroupSize <= max
    ? undefined
    : `subgroup size ${subgroupSize} is not in [${min}, ${max}]`;
}

const firstOf = (problems: readonly (string | undefined)[]): string | undefined =>
  problems.find((problem) => problem !== undefined);
