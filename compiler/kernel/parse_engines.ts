/**
 * The grammar of engine ops and their declarations, by what a parser of kernels offers:
 *
 *   tile   = symbol role scalar n,n,n ['subgroups' n]     signal = symbol n
 *   map    = symbol buffer 'offset' n 'dims' (n…) 'strides' (n…) 'box' (n…)
 *   op     = 'tile_load' ['.aligned'] tile, place layout n | 'tile_store' … ['columns' n, n] | 'tile_fill' tile, value
 *          | 'tile_multiply' tile, tile, tile | 'tile_unpack' tile, symbol, n | 'tile_pack' tile, symbol, n
 *          | 'async_copy' place, place, n ['if' value] | 'async_wait' n | …
 *   place  = symbol '[' value ']'
 */
import { bulkOps, type GroupOperand } from './bulk.js';
import type {
  EngineInst,
  KSignal,
  KTensorMap,
  KTile,
  TileAccess,
  TileLayout,
  TileRole,
  TileScalar,
} from './engines.js';
import { allNames } from './names.js';
import type { KArray, KMemory, KValue } from './types.js';

export interface EngineReader {
  /** Takes the word if it comes next. */
  accept(text: string): boolean;
  expect(text: string): void;
  fail(expected: string): never;
  /** `.name` after an op. */
  flag(name: string): boolean;
  oneOf<T extends string>(names: readonly T[], what: string): T;
  count(): number;
  triple(): readonly [number, number, number];
  /** In parentheses. */
  list<T>(item: () => T): readonly T[];
  name(): string;
  value(): KValue;
  memory(): KMemory;
  tile(): KTile;
  signal(): KSignal;
  map(): KTensorMap;
}

const roles = allNames<TileRole>()(['a', 'b', 'accumulator']);
const scalars = allNames<TileScalar>()(['f16', 'bf16', 'tf32', 'f32', 'i8', 'u8', 'i32']);
const layouts = allNames<TileLayout>()(['row', 'column']);
const alongs = allNames<GroupOperand['along']>()(['k', 'row']);
const halves = allNames<'f16' | 'bf16'>()(['f16', 'bf16']);
const changes = allNames<'grow' | 'shrink'>()(['grow', 'shrink']);

export function readTile(r: EngineReader): KTile {
  const name = r.name();
  const role = r.oneOf(roles, "'a', 'b' or 'accumulator'");
  const scalar = r.oneOf(scalars, 'an element type of tiles');
  const [m, n, k] = r.triple();
  const held = r.accept('subgroups') ? { subgroups: r.count() } : {};
  return { kind: 'tile', name, role, m, n, k, scalar, ...held };
}

export const readSignal = (r: EngineReader): KSignal => ({ kind: 'signal', name: r.name(), count: r.count() });

export function readMap(r: EngineReader): KTensorMap {
  const name = r.name();
  const buffer = r.memory();
  if (buffer.kind !== 'buffer') return r.fail('a buffer');
  const numbers = (word: string): readonly number[] => {
    r.expect(word);
    return r.list(() => r.count());
  };
  r.expect('offset');
  const offset = r.count();
  const [dims, strides, box] = [numbers('dims'), numbers('strides'), numbers('box')];
  return { kind: 'tensor_map', name, buffer, offset, dims, strides, box };
}

/** The op that comes next, if it is one of these. */
export function readEngine(r: EngineReader): EngineInst | undefined {
  for (const op of bulkOps) if (r.accept(op)) return readBulk(r, op);
  if (r.accept('tile_fill')) return { op: 'tile_fill', tile: r.tile(), value: operand(r) };
  if (r.accept('tile_load')) return { op: 'tile_load', ...tileAccess(r) };
  if (r.accept('tile_store')) {
    const access = tileAccess(r);
    if (!r.accept('columns')) return { op: 'tile_store', ...access };
    const from = r.count();
    r.expect(',');
    return { op: 'tile_store', ...access, columns: { from, count: r.count() } };
  }
  if (r.accept('tile_multiply')) {
    const accumulator = r.tile();
    r.expect(',');
    const a = r.tile();
    r.expect(',');
    return { op: 'tile_multiply', accumulator, a, b: r.tile() };
  }
  for (const op of ['tile_unpack', 'tile_pack'] as const) {
    if (!r.accept(op)) continue;
    const tile = r.tile();
    r.expect(',');
    const memory = r.memory();
    if (memory.kind !== 'array') return r.fail('an array');
    r.expect(',');
    return { op, tile, memory, from: r.count() };
  }
  if (r.accept('subgroup_barrier')) return { op: 'subgroup_barrier' };
  if (r.accept('async_copy')) {
    const { memory, index } = arrayPlace(r);
    r.expect(',');
    const source = r.memory();
    if (source.kind !== 'buffer') return r.fail('a buffer');
    const from = bracketed(r);
    r.expect(',');
    const copy = { memory, index, source, from, elements: r.count() };
    return { op: 'async_copy', ...copy, ...(r.accept('if') ? { condition: r.value() } : {}) };
  }
  if (r.accept('async_commit')) return { op: 'async_commit' };
  if (r.accept('async_wait')) return { op: 'async_wait', pending: r.count() };
  return undefined;
}

function readBulk(r: EngineReader, op: (typeof bulkOps)[number]): EngineInst {
  const after = <T>(read: () => T): T => {
    r.expect(',');
    return read();
  };
  switch (op) {
    case 'signal_init':
      return { op, ...signalPlace(r), arrivals: after(() => r.count()) };
    case 'signal_expect':
      return { op, ...signalPlace(r), bytes: after(() => r.count()) };
    case 'signal_arrive':
      return { op, ...signalPlace(r) };
    case 'signal_wait':
      return { op, ...signalPlace(r), parity: operand(r) };
    case 'tensor_copy': {
      const target = arrayPlace(r);
      const map = after(() => r.map());
      const at = r.list(() => r.value());
      const { signal, index } = after(() => signalPlace(r));
      return { op, map, at, ...target, signal, signalIndex: index };
    }
    case 'group_multiply': {
      const scalar = r.oneOf(halves, "'f16' or 'bf16'");
      const accumulator = r.tile();
      const a = after(() => (r.accept('tile') ? r.tile() : groupOperand(r)));
      return { op, scalar, accumulator, a, b: after(() => groupOperand(r)) };
    }
    case 'group_wait':
      return { op, pending: r.count() };
    case 'group_fence':
    case 'group_commit':
      return { op };
    case 'registers': {
      const change = r.oneOf(changes, "'grow' or 'shrink'");
      return { op, change, count: r.count() };
    }
    default:
      return op satisfies never;
  }
}

function operand(r: EngineReader): KValue {
  r.expect(',');
  return r.value();
}

function bracketed(r: EngineReader): KValue {
  r.expect('[');
  const index = r.value();
  r.expect(']');
  return index;
}

function arrayPlace(r: EngineReader): { readonly memory: KArray; readonly index: KValue } {
  const memory = r.memory();
  if (memory.kind !== 'array') return r.fail('an array');
  return { memory, index: bracketed(r) };
}

const signalPlace = (r: EngineReader): { readonly signal: KSignal; readonly index: KValue } => ({
  signal: r.signal(),
  index: bracketed(r),
});

function groupOperand(r: EngineReader): GroupOperand {
  const { memory, index } = arrayPlace(r);
  return { memory, index, along: r.oneOf(alongs, "'k' or 'row'"), panel: r.count() };
}

function tileAccess(r: EngineReader): TileAccess {
  const aligned = r.flag('aligned');
  const tile = r.tile();
  r.expect(',');
  const memory = r.memory();
  const index = bracketed(r);
  return { tile, memory, index, layout: r.oneOf(layouts, "'row' or 'column'"), stride: r.count(), aligned };
}
