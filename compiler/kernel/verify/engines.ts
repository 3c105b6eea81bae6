/** What `verify` demands of matrix tiles and asynchronous copies: shapes, types, roles and what the target has. */

import { isBulkInst, warpgroup } from '../bulk.js';
import {
  type EngineInst,
  engineMemories,
  engineTiles,
  fragmentElements,
  fragmentRows,
  holdsTile,
  type KTile,
  subgroupsOf,
  tileColumns,
  tileMemoryScalar,
  tileRows,
  unitFor,
} from '../engines.js';
import type { Target } from '../target.js';
import { printType } from '../text.js';
import { isIndex, type KernelFunction, type KMemory, scalarBits } from '../types.js';
import { bulkProblem } from './bulk.js';

const accumulators: ReadonlySet<string> = new Set<KTile['scalar']>(['f16', 'f32', 'i32']);

/** Why a tile's declaration is wrong, or undefined. */
export function tileProblem({ name, role, scalar, m, n, k, subgroups = 1 }: KTile): string | undefined {
  const positive = [m, n, k].every((extent) => Number.isSafeInteger(extent) && extent > 0);
  if (!positive) return `tile ${name} takes part in a product of ${m}×${n}×${k}`;
  const held = subgroups === 1 || (subgroups === warpgroup && role !== 'b' && m % warpgroup === 0);
  if (!held) return `tile ${name} of role ${role} is held by ${subgroups} subgroups`;
  if (role === 'accumulator' && !accumulators.has(scalar)) return `accumulator ${name} is of ${scalar}`;
  if (role !== 'accumulator' && scalar === 'i32') return `tile ${name} of role ${role} is of i32`;
  return undefined;
}

/** Why an op is wrong (what its operands' types and the target say, not where it stands), or undefined. */
export function engineProblem(
  inst: EngineInst,
  kernel: KernelFunction,
  memories: ReadonlySet<KMemory>,
  target: Target | undefined,
): string | undefined {
  for (const tile of engineTiles(inst)) if (!kernel.tiles.includes(tile)) return `${tile.name} is not declared`;
  for (const memory of engineMemories(inst)) if (!memories.has(memory)) return `${memory.name} is not declared`;
  if (subgroupsOf(inst) > 0) {
    const problem = subgroupProblem(kernel, subgroupsOf(inst));
    if (problem) return problem;
  }
  if (isBulkInst(inst)) return bulkProblem(inst, kernel, target);
  if (subgroupsOf(inst) === 0 && target && !target.features.has('async_copy'))
    return `${target.backend} has no asynchronous copies`;
  switch (inst.op) {
    case 'tile_fill':
      if (inst.tile.role !== 'accumulator') return 'only accumulators are filled';
      return inst.value.type.scalar === inst.tile.scalar && inst.value.type.lanes === 1
        ? undefined
        : `${inst.tile.name} is filled with ${printType(inst.value.type)}`;
    case 'tile_load':
    case 'tile_store': {
      const { tile, memory, index, stride, layout } = inst;
      if ((tile.subgroups ?? 1) > 1 && inst.op === 'tile_load') return `${tile.name} is not loaded`;
      if (!isIndex(index)) return 'the index is no integer';
      if (memory.kind === 'array' && memory.space !== 'shared') return `${memory.name} is private`;
      if (!holdsTile(memory.scalar, tile))
        return `${memory.name} holds ${memory.scalar}, the tile ${tileMemoryScalar(tile)}`;
      const columns = inst.op === 'tile_store' ? inst.columns : undefined;
      const { from = 0, count = tileColumns(tile) } = columns ?? {};
      if (columns && (tile.subgroups ?? 1) === 1) return `some columns of ${tile.name}, which one subgroup holds`;
      if (from % 8 !== 0 || count % 8 !== 0 || count <= 0 || from < 0 || from + count > tileColumns(tile))
        return `columns ${from} and ${count} on of ${tile.name}`;
      const length = layout === 'row' ? count : tileRows(tile);
      if (!Number.isSafeInteger(stride) || stride < length) return `stride ${stride} is less than ${length}`;
      if (inst.op === 'tile_store' && tile.role !== 'accumulator') return 'only accumulators are stored';
      const forbidden = inst.op === 'tile_load' ? 'write' : 'read';
      return memory.kind === 'buffer' && memory.access === forbidden
        ? `${memory.name} is only ${forbidden === 'read' ? 'read' : 'written'}`
        : undefined;
    }
    case 'tile_unpack':
    case 'tile_pack': {
      const { op, tile, memory, from } = inst;
      if (target && !target.features.has('fragments'))
        return `${target.backend} does not tell who holds what of a tile`;
      if (tile.m / (tile.subgroups ?? 1) !== fragmentRows || kernel.subgroupSize !== 32)
        return `${tile.name} has not ${fragmentRows} rows a subgroup of 32`;
      const rounds = op === 'tile_pack' && tile.role === 'a' && (tile.scalar === 'f16' || tile.scalar === 'bf16');
      if (!rounds && !(tile.role === 'accumulator' && tile.scalar === 'f32'))
        return `${tile.name} of ${tile.scalar} is not ${op === 'tile_pack' ? 'packed' : 'unpacked'}`;
      if (memory.space !== 'private' || memory.scalar !== 'f32') return `${memory.name} is no private array of f32`;
      const last = from + fragmentElements(tile);
      return Number.isSafeInteger(from) && from >= 0 && last <= memory.length
        ? undefined
        : `elements ${from} to ${last - 1} of ${memory.name}`;
    }
    case 'tile_multiply': {
      const { accumulator, a, b } = inst;
      if (accumulator.role !== 'accumulator' || a.role !== 'a' || b.role !== 'b') return 'a tile has another role';
      const shapes = [accumulator, a, b].map(({ m, n, k }) => `${m}×${n}×${k}`);
      if (new Set(shapes).size > 1) return `tiles of products of ${shapes.join(', ')}`;
      if ([accumulator, a, b].some(({ subgroups = 1 }) => subgroups !== 1)) return 'a tile of several subgroups';
      const isInteger = (tile: KTile): boolean => tile.scalar === 'i8' || tile.scalar === 'u8' || tile.scalar === 'i32';
      if (new Set([accumulator, a, b].map(isInteger)).size > 1) return 'integers and floats do not multiply';
      return target && !unitFor(target.matrixUnits, accumulator, a, b)
        ? `${target.backend} does not multiply ${a.scalar} and ${b.scalar} to ${accumulator.scalar} in ${shapes[0]}`
        : undefined;
    }
    case 'async_copy': {
      const { memory, index, source, from, elements, condition } = inst;
      if (!isIndex(index) || !isIndex(from)) return 'an index is no integer';
      if (memory.space !== 'shared') return `${memory.name} is not shared`;
      if (source.access !== 'read') return `${source.name} is written`;
      if (memory.scalar !== source.scalar)
        return `${source.name} holds ${source.scalar}, ${memory.name} ${memory.scalar}`;
      const bytes = (elements * scalarBits[memory.scalar]) / 8;
      if (bytes !== 4 && bytes !== 8 && bytes !== 16) return `a copy of ${bytes} bytes`;
      return condition && !(condition.type.scalar === 'bool' && condition.type.lanes === 1)
        ? 'the condition is no bool'
        : undefined;
    }
    case 'async_wait':
      return Number.isSafeInteger(inst.pending) && inst.pending >= 0 ? undefined : `${inst.pending} pending groups`;
    case 'async_commit':
    case 'subgroup_barrier':
      return undefined;
    default:
      return inst satisfies never;
  }
}

function subgroupProblem(
  { subgroupSize, workgroup: [x, y, z] }: KernelFunction,
  subgroups: number,
): string | undefined {
  if (subgroupSize === undefined) return 'subgroupSize is not set';
  const whole = (x * y * z) % (subgroups * subgroupSize) === 0;
  return whole ? undefined : `a workgroup of ${x * y * z} is not whole subgroups, ${subgroups} at a time`;
}
