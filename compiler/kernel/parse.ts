import type { KSignal, KTensorMap, KTile } from './engines.js';
import {
  accesses,
  atomicFns,
  binaryFns,
  builtins,
  byteTypes,
  compareFns,
  paramScalars,
  spaces,
  subgroupFns,
  unaryFns,
} from './names.js';
import { type EngineReader, readEngine, readMap, readSignal, readTile } from './parse_engines.js';
import { textHeader } from './print.js';
import { type Token, Tokens } from './tokens.js';
import {
  type Carried,
  type HelperFunction,
  isFloatScalar,
  type KArray,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KParam,
  type KScalar,
  type KValue,
  type Range,
  type ScalarType,
  scalarTypes,
} from './types.js';

const maxDepth = 200;

/** Reads a kernel from its text; throws TuttiError E_IR with line and column if it is not one. */
export function parse(text: string): KernelFunction {
  return new Parser(text).kernel();
}

class Parser {
  readonly #tokens: Tokens;
  readonly #values = new Map<number, KValue>();
  readonly #memories = new Map<string, KMemory>();
  readonly #scalars = new Map<string, KScalar>();
  readonly #tiles = new Map<string, KTile>();
  readonly #signals = new Map<string, KSignal>();
  readonly #maps = new Map<string, KTensorMap>();
  readonly #reader: EngineReader;
  readonly #helpers = new Map<string, HelperFunction>();
  #depth = 0;

  constructor(text: string) {
    this.#tokens = new Tokens(text);
    this.#reader = this.#engineReader();
  }

  kernel(): KernelFunction {
    const [magic, version] = textHeader.split(' ');
    // Its dash is no token of the grammar.
    if (!this.#tokens.acceptCharacters(magic)) this.#tokens.fail(`'${textHeader}'`);
    if (this.#tokens.next.text !== version) this.#tokens.fail(`version ${version} of the format`);
    this.#tokens.advance();
    this.#tokens.expect('kernel');
    const name = this.#tokens.symbol();
    this.#tokens.expect('grid');
    const grid = this.#tokens.triple();
    this.#tokens.expect('workgroup');
    const workgroup = this.#tokens.triple();
    const subgroupSize = this.#tokens.accept('subgroup') ? this.#tokens.count() : undefined;
    this.#tokens.expect('{');
    const sources: string[] = [];
    while (this.#tokens.accept('source')) sources.push(this.#tokens.string());
    const params: KParam[] = [];
    for (;;) {
      if (this.#tokens.accept('buffer')) params.push(this.#buffer());
      else if (this.#tokens.accept('scalar')) params.push(this.#scalarParam());
      else break;
    }
    const arrays: KArray[] = [];
    while (this.#tokens.accept('array')) arrays.push(this.#array());
    while (this.#tokens.accept('tile')) this.#declared(this.#tiles, () => readTile(this.#reader));
    while (this.#tokens.accept('signal')) this.#declared(this.#signals, () => readSignal(this.#reader));
    while (this.#tokens.accept('map')) this.#declared(this.#maps, () => readMap(this.#reader));
    while (this.#tokens.accept('helper')) this.#helper();
    const body = this.#block();
    this.#tokens.expect('}');
    if (this.#tokens.next.kind !== 'end') this.#tokens.fail('the end of the text');
    return {
      name,
      sources,
      grid,
      workgroup,
      params,
      arrays,
      tiles: [...this.#tiles.values()],
      signals: [...this.#signals.values()],
      maps: [...this.#maps.values()],
      helpers: [...this.#helpers.values()],
      body,
      ...(subgroupSize === undefined ? {} : { subgroupSize }),
    };
  }

  // --- Declarations ---

  #declare<T extends { readonly name: string }>(map: Map<string, T>, item: T, at: Token): T {
    const all = [this.#memories, this.#scalars, this.#tiles, this.#signals, this.#maps];
    const taken = all.some((names) => names.has(item.name));
    if (taken) this.#tokens.fail('a name not declared before', at);
    map.set(item.name, item);
    return item;
  }

  #buffer(): KBuffer {
    const at = this.#tokens.next;
    const name = this.#tokens.symbol();
    const scalar = this.#tokens.oneOf(scalarTypes, 'an element type');
    const length = this.#tokens.count();
    const buffer: KBuffer = { kind: 'buffer', name, scalar, length, access: this.#tokens.oneOf(accesses, 'an access') };
    this.#declare(this.#memories, buffer, at);
    return buffer;
  }

  #scalarParam(): KScalar {
    const at = this.#tokens.next;
    const name = this.#tokens.symbol();
    const type = this.#tokens.oneOf(paramScalars, 'u32, i32 or f32');
    const range = this.#range();
    const scalar: KScalar = range
      ? { kind: 'scalar', name, scalar: type, range }
      : { kind: 'scalar', name, scalar: type };
    return this.#declare(this.#scalars, scalar, at);
  }

  #array(): KArray {
    const at = this.#tokens.next;
    const name = this.#tokens.symbol();
    const space = this.#tokens.oneOf(spaces, "'shared' or 'private'");
    const scalar = this.#tokens.oneOf(scalarTypes, 'an element type');
    const array: KArray = { kind: 'array', name, space, scalar, length: this.#tokens.count() };
    this.#declare(this.#memories, array, at);
    return array;
  }

  #declared<T extends { readonly name: string }>(map: Map<string, T>, read: () => T): void {
    const at = this.#tokens.next;
    this.#declare(map, read(), at);
  }

  /** What the grammar of engine ops needs of this parser. */
  #engineReader(): EngineReader {
    const named =
      <T>(map: ReadonlyMap<string, T>, what: string) =>
      (): T => {
        const at = this.#tokens.next;
        return map.get(this.#tokens.symbol()) ?? this.#tokens.fail(what, at);
      };
    const tokens = this.#tokens;
    return {
      accept: (text) => tokens.accept(text),
      expect: (text) => tokens.expect(text),
      fail: (expected) => tokens.fail(expected),
      flag: (name) => tokens.flag(name),
      oneOf: (names, what) => tokens.oneOf(names, what),
      count: () => tokens.count(),
      triple: () => tokens.triple(),
      list: (item) => {
        tokens.expect('(');
        return tokens.list(')', item);
      },
      name: () => tokens.symbol(),
      value: () => this.#value(),
      memory: () => this.#memory(),
      tile: named(this.#tiles, 'a tile'),
      signal: named(this.#signals, 'a signal'),
      map: named(this.#maps, 'a tensor map'),
    };
  }

  #helper(): void {
    const at = this.#tokens.next;
    const name = this.#tokens.symbol();
    this.#tokens.expect('(');
    const params = this.#tokens.list(')', () => this.#definition());
    this.#tokens.expect('->');
    const result = this.#tokens.type();
    const body = this.#braced();
    if (this.#helpers.has(name)) this.#tokens.fail('a helper not defined before', at);
    this.#helpers.set(name, { name, params, result, body });
  }

  // --- Values ---

  #range(): Range | undefined {
    if (!this.#tokens.accept('[')) return undefined;
    const min = this.#tokens.number();
    this.#tokens.expect(',');
    const max = this.#tokens.number();
    this.#tokens.expect(']');
    return { min, max };
  }

  #definition(): KValue {
    const token = this.#tokens.take('value', 'a value to define');
    const id = Number(token.text.slice(1));
    this.#tokens.expect(':');
    const type = this.#tokens.type();
    const range = this.#range();
    const value: KValue = range === undefined ? { id, type } : { id, type, range };
    if (this.#values.has(id)) this.#tokens.fail('a value not defined before', token);
    this.#values.set(id, value);
    return value;
  }

  #value(): KValue {
    const token = this.#tokens.take('value', 'a value');
    return this.#values.get(Number(token.text.slice(1))) ?? this.#tokens.fail('a value defined before', token);
  }

  #operand(): KValue {
    this.#tokens.expect(',');
    return this.#value();
  }

  #memory(): KMemory {
    const at = this.#tokens.next;
    const name = this.#tokens.symbol();
    return this.#memories.get(name) ?? this.#tokens.fail('a buffer or array', at);
  }

  #place(): { readonly memory: KMemory; readonly index: KValue } {
    const memory = this.#memory();
    this.#tokens.expect('[');
    const index = this.#value();
    this.#tokens.expect(']');
    return { memory, index };
  }

  // --- Blocks and instructions ---

  #braced(): KBlock {
    this.#tokens.expect('{');
    const block = this.#block();
    this.#tokens.expect('}');
    return block;
  }

  #block(): KBlock {
    if (++this.#depth > maxDepth) this.#tokens.fail(`at most ${maxDepth} nested blocks`);
    const instructions: KInst[] = [];
    const yields: KValue[] = [];
    while (this.#tokens.next.text !== '}') {
      if (this.#tokens.accept('yield')) {
        do yields.push(this.#value());
        while (this.#tokens.accept(','));
        break;
      }
      instructions.push(this.#instruction());
    }
    this.#depth--;
    return { instructions, yields };
  }

  #instruction(): KInst {
    if (this.#tokens.next.kind === 'value') {
      const result = this.#definition();
      this.#tokens.expect('=');
      return this.#expression(result);
    }
    if (this.#tokens.accept('store')) {
      const aligned = this.#tokens.flag('aligned');
      return { op: 'store', ...this.#place(), value: this.#operand(), aligned };
    }
    if (this.#tokens.accept('barrier')) return { op: 'barrier' };
    const engine = readEngine(this.#reader);
    if (engine) return engine;
    if (this.#tokens.accept('for')) {
      const index = this.#definition();
      this.#tokens.expect('=');
      const lower = this.#value();
      this.#tokens.expect('to');
      const upper = this.#value();
      this.#tokens.expect('step');
      const step = this.#tokens.count();
      const unroll = this.#tokens.accept('unroll');
      const carried = this.#carried();
      const body = this.#braced();
      return { op: 'for', index, lower, upper, step, carried, body, ...(unroll ? { unroll } : {}) };
    }
    if (this.#tokens.accept('loop')) {
      const carried = this.#carried();
      const body = this.#braced();
      this.#tokens.expect('while');
      return { op: 'loop', carried, body, condition: this.#value() };
    }
    if (this.#tokens.accept('if')) {
      const condition = this.#value();
      let results: KValue[] = [];
      if (this.#tokens.accept('->')) {
        this.#tokens.expect('(');
        results = this.#tokens.list(')', () => this.#definition());
      }
      const yes = this.#braced();
      const no = this.#tokens.accept('else') ? this.#braced() : { instructions: [], yields: [] };
      return { op: 'if', condition, then: yes, else: no, results };
    }
    return this.#tokens.fail('an instruction');
  }

  #carried(): Carried[] {
    if (!this.#tokens.accept('carry')) return [];
    this.#tokens.expect('(');
    return this.#tokens.list(')', () => {
      const inner = this.#definition();
      this.#tokens.expect('=');
      const initial = this.#value();
      this.#tokens.expect('->');
      return { initial, inner, result: this.#definition() };
    });
  }

  #expression(result: KValue): KInst {
    const at = this.#tokens.take('word', 'an operation');
    const op = at.text;
    const unary = unaryFns.find((fn) => fn === op);
    if (unary !== undefined) {
      const fast = this.#tokens.flag('fast');
      return { op: 'unary', result, fn: unary, a: this.#value(), ...(fast ? { fast } : {}) };
    }
    const binary = binaryFns.find((fn) => fn === op);
    if (binary !== undefined) {
      const fast = this.#tokens.flag('fast');
      return { op: 'binary', result, fn: binary, a: this.#value(), b: this.#operand(), ...(fast ? { fast } : {}) };
    }
    const compare = compareFns.find((fn) => fn === op);
    if (compare !== undefined) return { op: 'compare', result, fn: compare, a: this.#value(), b: this.#operand() };
    switch (op) {
      case 'const':
        return { op, result, value: this.#constant(result.type.scalar) };
      case 'scalar': {
        const name = this.#tokens.next;
        return {
          op,
          result,
          param: this.#scalars.get(this.#tokens.symbol()) ?? this.#tokens.fail('a scalar parameter', name),
        };
      }
      case 'builtin': {
        const builtin = this.#tokens.oneOf(builtins, 'a builtin');
        const dim = this.#tokens.next;
        const n = this.#tokens.count();
        if (n !== 0 && n !== 1 && n !== 2) return this.#tokens.fail('a dimension (0, 1 or 2)', dim);
        return { op, result, builtin, dim: n };
      }
      case 'fma':
        return { op, result, a: this.#value(), b: this.#operand(), c: this.#operand() };
      case 'dot4': {
        const [left, right] = [this.#tokens.oneOf(byteTypes, 'i8 or u8'), this.#tokens.oneOf(byteTypes, 'i8 or u8')];
        return { op, result, left, right, a: this.#value(), b: this.#operand(), c: this.#operand() };
      }
      case 'select':
        return { op, result, condition: this.#value(), a: this.#operand(), b: this.#operand() };
      case 'convert':
      case 'bitcast':
      case 'splat':
      case 'assume':
        return { op, result, a: this.#value() };
      case 'extract': {
        const a = this.#value();
        this.#tokens.expect(',');
        return { op, result, a, lane: this.#tokens.count() };
      }
      case 'build': {
        const elements = [this.#value()];
        while (this.#tokens.accept(',')) elements.push(this.#value());
        return { op, result, elements };
      }
      case 'load': {
        const aligned = this.#tokens.flag('aligned');
        return { op, result, ...this.#place(), aligned };
      }
      case 'atomic':
        return {
          op,
          result,
          fn: this.#tokens.oneOf(atomicFns, 'an atomic operation'),
          ...this.#place(),
          value: this.#operand(),
        };
      case 'atomic_compare_exchange':
        return { op, result, ...this.#place(), expected: this.#operand(), value: this.#operand() };
      case 'subgroup': {
        const fn = this.#tokens.oneOf(subgroupFns, 'a subgroup operation');
        const a = this.#value();
        this.#tokens.expect(',');
        return { op, result, fn, a, delta: this.#tokens.count() };
      }
      case 'call': {
        const name = this.#tokens.next;
        const callee = this.#helpers.get(this.#tokens.symbol()) ?? this.#tokens.fail('a helper defined before', name);
        this.#tokens.expect('(');
        return { op, result, callee, args: this.#tokens.list(')', () => this.#value()) };
      }
      default:
        return this.#tokens.fail('an operation', at);
    }
  }

  #constant(scalar: ScalarType): number | bigint {
    if (scalar === 'bool') return this.#tokens.oneOf(['true', 'false'], "'true' or 'false'") === 'true' ? 1 : 0;
    if (isFloatScalar(scalar)) return this.#tokens.number();
    const token = this.#tokens.take('number', 'an integer');
    if (!/^-?[0-9]{1,20}$/.test(token.text)) return this.#tokens.fail('an integer', token);
    return scalar === 'i64' || scalar === 'u64' ? BigInt(token.text) : Number(token.text) + 0;
  }
}
