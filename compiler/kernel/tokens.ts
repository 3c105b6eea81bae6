/** The words of a kernel's text, one ahead: what comes next, and what has to. */
import { TuttiError } from '../error.js';
import type { KType, Lanes, ScalarType } from './types.js';

type TokenKind = 'word' | 'number' | 'string' | 'value' | 'punctuation' | 'end';
export interface Token {
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

export class Tokens {
  readonly #text: string;
  #next: Token;
  #end = 0;

  constructor(text: string) {
    this.#text = text;
    this.#next = this.#scan();
  }

  get next(): Token {
    return this.#next;
  }

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
    this.#next = { kind: 'end', text: this.#text[at], at };
    return this.fail('a token');
  }

  advance(): Token {
    const token = this.#next;
    this.#next = this.#scan();
    return token;
  }

  /** Takes the characters if they come next, whatever tokens they make. */
  acceptCharacters(text: string): boolean {
    if (!this.#text.startsWith(text, this.#next.at)) return false;
    this.#end = this.#next.at + text.length;
    this.#next = this.#scan();
    return true;
  }

  accept(text: string): boolean {
    if (this.#next.text !== text || this.#next.kind === 'string') return false;
    this.advance();
    return true;
  }

  expect(text: string): void {
    if (!this.accept(text)) this.fail(`'${text}'`);
  }

  fail(expected: string, token = this.#next): never {
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

  take(kind: TokenKind, expected: string): Token {
    if (this.#next.kind !== kind) this.fail(expected);
    return this.advance();
  }

  oneOf<T extends string>(names: readonly T[], what: string): T {
    const found = names.find((name) => name === this.#next.text);
    if (found === undefined || this.#next.kind !== 'word') return this.fail(what);
    this.advance();
    return found;
  }

  string(): string {
    const token = this.take('string', 'a quoted text');
    try {
      const value: unknown = JSON.parse(token.text);
      if (typeof value === 'string') return value;
    } catch {
      // Reported below: a bad escape.
    }
    return this.fail('a quoted text with JSON escapes', token);
  }

  symbol(): string {
    this.expect('@');
    if (this.#next.kind === 'string') return this.string();
    return this.take('word', 'a name').text;
  }

  /** A decimal integer ≥ 0 that a double holds exactly. */
  count(): number {
    const token = this.take('number', 'a count');
    if (!/^[0-9]+$/.test(token.text) || !Number.isSafeInteger(Number(token.text))) this.fail('a count', token);
    return Number(token.text);
  }

  triple(): readonly [number, number, number] {
    const x = this.count();
    this.expect(',');
    const y = this.count();
    this.expect(',');
    return [x, y, this.count()];
  }

  number(): number {
    if (this.accept('nan')) return Number.NaN;
    if (this.accept('inf')) return Number.POSITIVE_INFINITY;
    const { text } = this.take('number', 'a number');
    return text === '-inf' ? Number.NEGATIVE_INFINITY : Number(text);
  }

  type(): KType {
    const token = this.take('word', 'a type');
    const match = /^(bool|i8|u8|i16|u16|i32|u32|i64|u64|f16|bf16|f32|f64)(?:x(2|4|8|16))?$/.exec(token.text);
    if (match === null) return this.fail('a type', token);
    return { scalar: match[1] as ScalarType, lanes: Number(match[2] ?? 1) as Lanes };
  }

  flag(name: string): boolean {
    if (!this.accept('.')) return false;
    this.expect(name);
    return true;
  }

  /** Items up to `close`, with commas between. */
  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    if (this.accept(close)) return items;
    do items.push(item());
    while (this.accept(','));
    this.expect(close);
    return items;
  }
}
