/**
 * Parses the text of a kernel (`print.ts`). Names are resolved and must be unique; types, scopes and ranges are left
 * to `verify`. Any other text gives a TuttiError E_IR with line and column.
 *
 *   text   = 'tutti-kernel 1' 'kernel' symbol 'grid' n,n,n 'workgroup' n,n,n ['subgroup' n] '{' item* block '}'
 *   item   = 'source' string | 'buffer' symbol scalar n access | 'scalar' symbol scalar ['[' number ',' number ']']
 *          | 'array' symbol space scalar n | 'tile' … | 'signal' … | 'map' … (parse_engines.ts) | 'helper' symbol '(' defs ')' '->' type '{' block '}'
 *   block  = inst* ['yield' values]         def = %n ':' type ['[' number ',' number ']']
 *   inst   = def '=' expression | 'store' … | 'for' … | 'loop' … | 'if' … | 'barrier'
 *          | 'tile_fill' … (parse_engines.ts)
 */
import { TuttiError } from '../error.js';
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
  type KType,
  type KValue,
  type Lanes,
  type Range,
  type ScalarType,
  scalarTypes,
} from './types.js';

const maxDepth = 200;

/** Reads a kernel from its text; throws TuttiError E_IR with line and column if it is not one. */
export function parse(text: string): KernelFunction {
  return new Parser(text).kernel();
}

type TokenKind = 'word' | 'number' | 'string' | 'value' | 'punctuation' | 'end';
interface Token {
  readonly kind: TokenKind;
  readonly text: string;
  readonly at: number;
}

const skip = /[ \t\r\n]*/y;
const patterns: readonly (readonly [TokenKind, RegExp])[] = [
  ['word', /[A-Za-z_][A-Za-z0-9_]*/y],
  ['number', /-?(?:inf|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)/y],
  ['value', /%[0-9]{1,9}/y],
  ['string', /"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"/y],
  ['punctuation', /->|[-=:,.@()[\]{}]/y],
];

class Parser {
  readonly #text: string;
  #token: Token;
  #end = 0;
  readonly #values = new Map<number, KValue>();
  readonly #memories = new Map<string, KMemory>();
  readonly #scalars = new Map<string, KScalar>();
  readonly #tiles = new Map<string, KTile>();
  readonly #signals = new Map<string, KSignal>();
  readonly #maps = new Map<string, KTensorMap>();
  readonly #reader: EngineReader = this.#engineReader();
  readonly #helpers = new Map<string, HelperFunction>();
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
    this.#token = this.#scan();
  }

  kernel(): KernelFunction {
    const [magic, version] = textHeader.split(' ');
    if (this.#token.text !== 'tutti') this.#fail(`'${textHeader}'`);
    // The header is read as characters: its dash is no token of the grammar.
    if (!this.#text.startsWith(magic, this.#token.at)) this.#fail(`'${textHeader}'`);
    this.#end = this.#token.at + magic.length;
    this.#token = this.#scan();
    if (this.#token.text !== version) this.#fail(`version ${version} of the format`);
    this.#advance();
    this.#expect('kernel');
    const name = this.#symbol();
    this.#expect('grid');
    const grid = this.#triple();
    this.#expect('workgroup');
    const workgroup = this.#triple();
    const subgroupSize = this.#accept('subgroup') ? this.#count() : undefined;
    this.#expect('{');
    const sources: string[] = [];
    while (this.#accept('source')) sources.push(this.#string());
    const params: KParam[] = [];
    for (;;) {
      if (this.#accept('buffer')) params.push(this.#buffer());
      else if (this.#accept('scalar')) params.push(this.#scalarParam());
      else break;
    }
    const arrays: KArray[] = [];
    while (this.#accept('array')) arrays.push(this.#array());
    while (this.#accept('tile')) this.#declared(this.#tiles, () => readTile(this.#reader));
    while (this.#accept('signal')) this.#declared(this.#signals, () => readSignal(this.#reader));
    while (this.#accept('map')) this.#declared(this.#maps, () => readMap(this.#reader));
    while (this.#accept('helper')) this.#helper();
    const body = this.#block();
    this.#expect('}');
    if (this.#token.kind !== 'end') this.#fail('the end of the text');
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

  // --- Tokens ---

  #scan(): Token {
    skip.lastIndex = this.#end;
    skip.exec(this.#text);
    const at = skip.lastIndex;
    if (at >= this.#text.length) {
      this.#end = at;
      return { kind: 'end', text: '', at };
    }
    for (const [kind, pattern] of patterns) {
      pattern.lastIndex = at;
      const match = pattern.exec(this.#text);
      if (match === null) continue;
      this.#end = pattern.lastIndex;
      return { kind, text: match[0], at };
    }
    this.#token = { kind: 'end', text: this.#text[at], at };
    return this.#fail('a token');
  }

  #advance(): Token {
    const token = this.#token;
    this.#token = this.#scan();
    return token;
  }

  #accept(text: string): boolean {
    if (this.#token.text !== text || this.#token.kind === 'string') return false;
    this.#advance();
    return true;
  }

  #expect(text: string): void {
    if (!this.#accept(text)) this.#fail(`'${text}'`);
  }

  #fail(expected: string, token = this.#token): never {
    const before = this.#text.slice(0, token.at);
    const line = before.split('\n').length;
    const column = token.at - before.lastIndexOf('\n');
    const shown = token.text.length > 40 ? `${token.text.slice(0, 40)}…` : token.text;
    throw new TuttiError('E_IR', 'kernel text does not parse', {
      subject: `line ${line}, column ${column}`,
      expected,
      found: token.kind === 'end' && token.text === '' ? 'the end of the text' : `'${shown}'`,
    });
  }

  #take(kind: TokenKind, expected: string): Token {
    if (this.#token.kind !== kind) this.#fail(expected);
    return this.#advance();
  }

  #oneOf<T extends string>(names: readonly T[], what: string): T {
    const found = names.find((name) => name === this.#token.text);
    if (found === undefined || this.#token.kind !== 'word') return this.#fail(what);
    this.#advance();
    return found;
  }

  #string(): string {
    const token = this.#take('string', 'a quoted text');
    try {
      const value: unknown = JSON.parse(token.text);
      if (typeof value === 'string') return value;
    } catch {
      // Reported below: a bad escape.
    }
    return this.#fail('a quoted text with JSON escapes', token);
  }

  #symbol(): string {
    this.#expect('@');
    if (this.#token.kind === 'string') return this.#string();
    return this.#take('word', 'a name').text;
  }

  /** A decimal integer ≥ 0 that a double holds exactly. */
  #count(): number {
    const token = this.#take('number', 'a count');
    if (!/^[0-9]+$/.test(token.text) || !Number.isSafeInteger(Number(token.text))) this.#fail('a count', token);
    return Number(token.text);
  }

  #triple(): readonly [number, number, number] {
    const x = this.#count();
    this.#expect(',');
    const y = this.#count();
    this.#expect(',');
    return [x, y, this.#count()];
  }

  #number(): number {
    if (this.#accept('nan')) return Number.NaN;
    if (this.#accept('inf')) return Number.POSITIVE_INFINITY;
    const { text } = this.#take('number', 'a number');
    return text === '-inf' ? Number.NEGATIVE_INFINITY : Number(text);
  }

  #type(): KType {
    const token = this.#take('word', 'a type');
    const match = /^(bool|i8|u8|i16|u16|i32|u32|i64|u64|f16|bf16|f32|f64)(?:x(2|4|8|16))?$/.exec(token.text);
    if (match === null) return this.#fail('a type', token);
    return { scalar: match[1] as ScalarType, lanes: Number(match[2] ?? 1) as Lanes };
  }

  // --- Declarations ---

  #declare<T extends { readonly name: string }>(map: Map<string, T>, item: T, at: Token): T {
    const all = [this.#memories, this.#scalars, this.#tiles, this.#signals, this.#maps];
    const taken = all.some((names) => names.has(item.name));
    if (taken) this.#fail('a name not declared before', at);
    map.set(item.name, item);
    return item;
  }

  #buffer(): KBuffer {
    const at = this.#token;
    const name = this.#symbol();
    const scalar = this.#oneOf(scalarTypes, 'an element type');
    const length = this.#count();
    const buffer: KBuffer = { kind: 'buffer', name, scalar, length, access: this.#oneOf(accesses, 'an access') };
    this.#declare(this.#memories, buffer, at);
    return buffer;
  }

  #scalarParam(): KScalar {
    const at = this.#token;
    const name = this.#symbol();
    const type = this.#oneOf(paramScalars, 'u32, i32 or f32');
    const range = this.#range();
    const scalar: KScalar = range
      ? { kind: 'scalar', name, scalar: type, range }
      : { kind: 'scalar', name, scalar: type };
    return this.#declare(this.#scalars, scalar, at);
  }

  #array(): KArray {
    const at = this.#token;
    const name = this.#symbol();
    const space = this.#oneOf(spaces, "'shared' or 'private'");
    const scalar = this.#oneOf(scalarTypes, 'an element type');
    const array: KArray = { kind: 'array', name, space, scalar, length: this.#count() };
    this.#declare(this.#memories, array, at);
    return array;
  }

  #declared<T extends { readonly name: string }>(map: Map<string, T>, read: () => T): void {
    const at = this.#token;
    this.#declare(map, read(), at);
  }

  /** What the grammar of engine ops needs of this parser. */
  #engineReader(): EngineReader {
    const named =
      <T>(map: ReadonlyMap<string, T>, what: string) =>
      (): T => {
        const at = this.#token;
        return map.get(this.#symbol()) ?? this.#fail(what, at);
      };
    return {
      accept: (text) => this.#accept(text),
      expect: (text) => this.#expect(text),
      fail: (expected) => this.#fail(expected),
      flag: (name) => this.#flag(name),
      oneOf: (names, what) => this.#oneOf(names, what),
      count: () => this.#count(),
      triple: () => this.#triple(),
      list: (item) => {
        this.#expect('(');
        return this.#list(')', item);
      },
      name: () => this.#symbol(),
      value: () => this.#value(),
      memory: () => this.#memory(),
      tile: named(this.#tiles, 'a tile'),
      signal: named(this.#signals, 'a signal'),
      map: named(this.#maps, 'a tensor map'),
    };
  }

  #helper(): void {
    const at = this.#token;
    const name = this.#symbol();
    this.#expect('(');
    const params = this.#list(')', () => this.#definition());
    this.#expect('->');
    const result = this.#type();
    const body = this.#braced();
    if (this.#helpers.has(name)) this.#fail('a helper not defined before', at);
    this.#helpers.set(name, { name, params, result, body });
  }

  /** Items up to `close`, with commas between. */
  #list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    if (this.#accept(close)) return items;
    do items.push(item());
    while (this.#accept(','));
    this.#expect(close);
    return items;
  }

  // --- Values ---

  #range(): Range | undefined {
    if (!this.#accept('[')) return undefined;
    const min = this.#number();
    this.#expect(',');
    const max = this.#number();
    this.#expect(']');
    return { min, max };
  }

  #definition(): KValue {
    const token = this.#take('value', 'a value to define');
    const id = Number(token.text.slice(1));
    this.#expect(':');
    const type = this.#type();
    const range = this.#range();
    const value: KValue = range === undefined ? { id, type } : { id, type, range };
    if (this.#values.has(id)) this.#fail('a value not defined before', token);
    this.#values.set(id, value);
    return value;
  }

  #value(): KValue {
    const token = this.#take('value', 'a value');
    return this.#values.get(Number(token.text.slice(1))) ?? this.#fail('a value defined before', token);
  }

  #operand(): KValue {
    this.#expect(',');
    return this.#value();
  }

  #memory(): KMemory {
    const at = this.#token;
    const name = this.#symbol();
    return this.#memories.get(name) ?? this.#fail('a buffer or array', at);
  }

  #place(): { readonly memory: KMemory; readonly index: KValue } {
    const memory = this.#memory();
    this.#expect('[');
    const index = this.#value();
    this.#expect(']');
    return { memory, index };
  }

  #flag(name: string): boolean {
    if (!this.#accept('.')) return false;
    this.#expect(name);
    return true;
  }

  // --- Blocks and instructions ---

  #braced(): KBlock {
    this.#expect('{');
    const block = this.#block();
    this.#expect('}');
    return block;
  }

  #block(): KBlock {
    if (++this.#depth > maxDepth) this.#fail(`at most ${maxDepth} nested blocks`);
    const instructions: KInst[] = [];
    const yields: KValue[] = [];
    while (this.#token.text !== '}') {
      if (this.#accept('yield')) {
        do yields.push(this.#value());
        while (this.#accept(','));
        break;
      }
      instructions.push(this.#instruction());
    }
    this.#depth--;
    return { instructions, yields };
  }

  #instruction(): KInst {
    if (this.#token.kind === 'value') {
      const result = this.#definition();
      this.#expect('=');
      return this.#expression(result);
    }
    if (this.#accept('store')) {
      const aligned = this.#flag('aligned');
      return { op: 'store', ...this.#place(), value: this.#operand(), aligned };
    }
    if (this.#accept('barrier')) return { op: 'barrier' };
    const engine = readEngine(this.#reader);
    if (engine) return engine;
    if (this.#accept('for')) {
      const index = this.#definition();
      this.#expect('=');
      const lower = this.#value();
      this.#expect('to');
      const upper = this.#value();
      this.#expect('step');
      const step = this.#count();
      const unroll = this.#accept('unroll');
      const carried = this.#carried();
      const body = this.#braced();
      return { op: 'for', index, lower, upper, step, carried, body, ...(unroll ? { unroll } : {}) };
    }
    if (this.#accept('loop')) {
      const carried = this.#carried();
      const body = this.#braced();
      this.#expect('while');
      return { op: 'loop', carried, body, condition: this.#value() };
    }
    if (this.#accept('if')) {
      const condition = this.#value();
      let results: KValue[] = [];
      if (this.#accept('->')) {
        this.#expect('(');
        results = this.#list(')', () => this.#definition());
      }
      const yes = this.#braced();
      const no = this.#accept('else') ? this.#braced() : { instructions: [], yields: [] };
      return { op: 'if', condition, then: yes, else: no, results };
    }
    return this.#fail('an instruction');
  }

  #carried(): Carried[] {
    if (!this.#accept('carry')) return [];
    this.#expect('(');
    return this.#list(')', () => {
      const inner = this.#definition();
      this.#expect('=');
      const initial = this.#value();
      this.#expect('->');
      return { initial, inner, result: this.#definition() };
    });
  }

  #expression(result: KValue): KInst {
    const at = this.#take('word', 'an operation');
    const op = at.text;
    const unary = unaryFns.find((fn) => fn === op);
    if (unary !== undefined) {
      const fast = this.#flag('fast');
      return { op: 'unary', result, fn: unary, a: this.#value(), ...(fast ? { fast } : {}) };
    }
    const binary = binaryFns.find((fn) => fn === op);
    if (binary !== undefined) {
      const fast = this.#flag('fast');
      return { op: 'binary', result, fn: binary, a: this.#value(), b: this.#operand(), ...(fast ? { fast } : {}) };
    }
    const compare = compareFns.find((fn) => fn === op);
    if (compare !== undefined) return { op: 'compare', result, fn: compare, a: this.#value(), b: this.#operand() };
    switch (op) {
      case 'const':
        return { op, result, value: this.#constant(result.type.scalar) };
      case 'scalar': {
        const name = this.#token;
        return { op, result, param: this.#scalars.get(this.#symbol()) ?? this.#fail('a scalar parameter', name) };
      }
      case 'builtin': {
        const builtin = this.#oneOf(builtins, 'a builtin');
        const dim = this.#token;
        const n = this.#count();
        if (n !== 0 && n !== 1 && n !== 2) return this.#fail('a dimension (0, 1 or 2)', dim);
        return { op, result, builtin, dim: n };
      }
      case 'fma':
        return { op, result, a: this.#value(), b: this.#operand(), c: this.#operand() };
      case 'dot4': {
        const [left, right] = [this.#oneOf(byteTypes, 'i8 or u8'), this.#oneOf(byteTypes, 'i8 or u8')];
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
        this.#expect(',');
        return { op, result, a, lane: this.#count() };
      }
      case 'build': {
        const elements = [this.#value()];
        while (this.#accept(',')) elements.push(this.#value());
        return { op, result, elements };
      }
      case 'load': {
        const aligned = this.#flag('aligned');
        return { op, result, ...this.#place(), aligned };
      }
      case 'atomic':
        return {
          op,
          result,
          fn: this.#oneOf(atomicFns, 'an atomic operation'),
          ...this.#place(),
          value: this.#operand(),
        };
      case 'atomic_compare_exchange':
        return { op, result, ...this.#place(), expected: this.#operand(), value: this.#operand() };
      case 'subgroup': {
        const fn = this.#oneOf(subgroupFns, 'a subgroup operation');
        const a = this.#value();
        this.#expect(',');
        return { op, result, fn, a, delta: this.#count() };
      }
      case 'call': {
        const name = this.#token;
        const callee = this.#helpers.get(this.#symbol()) ?? this.#fail('a helper defined before', name);
        this.#expect('(');
        return { op, result, callee, args: this.#list(')', () => this.#value()) };
      }
      default:
        return this.#fail('an operation', at);
    }
  }

  #constant(scalar: ScalarType): number | bigint {
    if (scalar === 'bool') return this.#oneOf(['true', 'false'], "'true' or 'false'") === 'true' ? 1 : 0;
    if (isFloatScalar(scalar)) return this.#number();
    const token = this.#take('number', 'an integer');
    if (!/^-?[0-9]{1,20}$/.test(token.text)) return this.#fail('an integer', token);
    return scalar === 'i64' || scalar === 'u64' ? BigInt(token.text) : Number(token.text) + 0;
  }
}
