/** Tokens of the graph text format, one line at a time. */
import { TuttiError } from '../error.js';

export type Token =
  | { readonly kind: 'word' | 'value' | 'string' | 'number' | 'bigint' | 'punctuation'; readonly text: string }
  | { readonly kind: 'end'; readonly text: '' };

const pattern =
  /\s*(?:(?<value>%(?:[\w./$-]+|"[^"\\]*(?:\\.[^"\\]*)*"))|(?<string>"[^"\\]*(?:\\.[^"\\]*)*")|(?<bigint>\d+n\b)|(?<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?<word>[A-Za-z_]\w*)|(?<punctuation>[[\](){},:=@*+?-]))/y;
const end: Token = { kind: 'end', text: '' };

export class Lexer {
  readonly #text: string;
  readonly #line: number;
  #at = 0;
  #next: Token;

  constructor(text: string, line: number) {
    this.#text = text;
    this.#line = line;
    this.#next = this.#scan();
  }

  get next(): Token {
    return this.#next;
  }

  take(): Token {
    const token = this.#next;
    this.#next = this.#scan();
    return token;
  }

  /** Takes the token if it is this word or punctuation. */
  accept(text: string): boolean {
    const { kind } = this.#next;
    if (this.#next.text !== text || (kind !== 'word' && kind !== 'punctuation')) return false;
    this.take();
    return true;
  }

  expect(text: string): void {
    if (!this.accept(text)) this.fail('unexpected text', `'${text}'`, this.shown());
  }

  /** Takes a token of a kind and returns its text; strings and quoted value names unquoted. */
  expectKind(kind: 'word' | 'value' | 'string', what: string): string {
    if (this.#next.kind !== kind) this.fail('unexpected text', what, this.shown());
    const { text } = this.take();
    if (kind === 'string') return this.#unquote(text);
    if (kind !== 'value') return text;
    return text[1] === '"' ? this.#unquote(text.slice(1)) : text.slice(1);
  }

  expectEnd(): void {
    if (this.#next.kind !== 'end') this.fail('unexpected text at the end of the line', undefined, this.shown());
  }

  shown(): string {
    return this.#next.kind === 'end' ? 'the end of the line' : `'${this.#next.text.slice(0, 60)}'`;
  }

  fail(message: string, expected?: string, found?: string): never {
    throw new TuttiError('E_IR', message, { subject: `line ${this.#line}`, expected, found });
  }

  #scan(): Token {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (!match?.groups) {
      const rest = this.#text.slice(this.#at).trim();
      if (rest === '' || rest.startsWith('#')) return end;
      return this.fail('unexpected character', undefined, `'${rest.slice(0, 20)}'`);
    }
    this.#at = pattern.lastIndex;
    for (const kind of ['value', 'string', 'bigint', 'number', 'word', 'punctuation'] as const) {
      const text = match.groups[kind];
      if (text !== undefined) return { kind, text };
    }
    return end;
  }

  #unquote(text: string): string {
    try {
      return JSON.parse(text) as string;
    } catch {
      return this.fail('invalid string', undefined, text.slice(0, 60));
    }
  }
}
