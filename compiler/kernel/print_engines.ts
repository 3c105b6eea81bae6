/** The text of matrix tiles, copies, signals and products of warpgroups: declarations and ops. */
import { type BulkInst, type GroupOperand, isBulkInst, isTile, type KTensorMap } from './bulk.js';
import type { EngineInst, KTile, TileInst } from './engines.js';
import { type Name, place, symbol } from './text.js';
import type { KValue } from './types.js';

export function tileText({ name, role, scalar, m, n, k, subgroups }: KTile): string {
  const held = subgroups === undefined ? '' : ` subgroups ${subgroups}`;
  return `tile ${symbol(name)} ${role} ${scalar} ${m}, ${n}, ${k}${held}`;
}

export function mapText({ name, buffer, offset, dims, strides, box }: KTensorMap): string {
  const list = (numbers: readonly number[]): string => `(${numbers.join(', ')})`;
  const shape = `dims ${list(dims)} strides ${list(strides)} box ${list(box)}`;
  return `map ${symbol(name)} ${symbol(buffer.name)} offset ${offset} ${shape}`;
}

export function engineText(inst: EngineInst, name: Name): string {
  if (isBulkInst(inst)) return bulkText(inst, name);
  switch (inst.op) {
    case 'tile_fill':
      return `tile_fill ${symbol(inst.tile.name)}, ${name(inst.value)}`;
    case 'tile_load':
    case 'tile_store':
      return movedText(inst, name);
    case 'tile_unpack':
    case 'tile_pack':
      return `${inst.op} ${symbol(inst.tile.name)}, ${symbol(inst.memory.name)}, ${inst.from}`;
    case 'tile_multiply':
      return `tile_multiply ${[inst.accumulator, inst.a, inst.b].map((tile) => symbol(tile.name)).join(', ')}`;
    case 'async_copy': {
      const places = `${place(inst.memory, inst.index, name)}, ${place(inst.source, inst.from, name)}`;
      return `async_copy ${places}, ${inst.elements}${inst.condition ? ` if ${name(inst.condition)}` : ''}`;
    }
    case 'async_wait':
      return `async_wait ${inst.pending}`;
    case 'async_commit':
    case 'subgroup_barrier':
      return inst.op;
    default:
      return inst satisfies never;
  }
}

function movedText(inst: TileInst & { op: 'tile_load' | 'tile_store' }, name: Name): string {
  const { op, tile, memory, index, stride, layout, aligned } = inst;
  const some = inst.op === 'tile_store' && inst.columns ? ` columns ${inst.columns.from}, ${inst.columns.count}` : '';
  const target = `${symbol(tile.name)}, ${place(memory, index, name)}`;
  return `${op}${aligned ? '.aligned' : ''} ${target} ${layout} ${stride}${some}`;
}

function bulkText(inst: BulkInst, name: Name): string {
  const one = (signal: { readonly name: string }, index: KValue): string => `${symbol(signal.name)}[${name(index)}]`;
  const operand = ({ memory, index, along, panel }: GroupOperand): string =>
    `${place(memory, index, name)} ${along} ${panel}`;
  switch (inst.op) {
    case 'signal_init':
      return `signal_init ${one(inst.signal, inst.index)}, ${inst.arrivals}`;
    case 'signal_expect':
      return `signal_expect ${one(inst.signal, inst.index)}, ${inst.bytes}`;
    case 'signal_arrive':
      return `signal_arrive ${one(inst.signal, inst.index)}`;
    case 'signal_wait':
      return `signal_wait ${one(inst.signal, inst.index)}, ${name(inst.parity)}`;
    case 'tensor_copy': {
      const from = `${symbol(inst.map.name)}(${inst.at.map(name).join(', ')})`;
      return `tensor_copy ${place(inst.memory, inst.index, name)}, ${from}, ${one(inst.signal, inst.signalIndex)}`;
    }
    case 'group_multiply': {
      const left = isTile(inst.a) ? `tile ${symbol(inst.a.name)}` : operand(inst.a);
      return `group_multiply ${inst.scalar} ${symbol(inst.accumulator.name)}, ${left}, ${operand(inst.b)}`;
    }
    case 'group_wait':
      return `group_wait ${inst.pending}`;
    case 'group_fence':
    case 'group_commit':
      return inst.op;
    case 'registers':
      return `registers ${inst.change} ${inst.count}`;
    default:
      return inst satisfies never;
  }
}
