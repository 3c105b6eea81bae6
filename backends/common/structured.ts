/**
 * Structured control flow in languages with variables and braces (C, WGSL, MSL).
 *
 * Carried values become variables. What a body sees of them is a snapshot made at its start, so that the assignments at
 * its end cannot disturb each other (values may swap).
 */
import type { Carried, KBlock, KInst, KValue } from '../../compiler/kernel/types.js';

/** Lines of code with indentation. */
export class Lines {
  #lines: string[] = [];
  #indent = 1;

  add(text: string): void {
    this.#lines.push('  '.repeat(this.#indent) + text);
  }
  /** What `write` adds is one step further in. */
  nested(write: () => void): void {
    this.#indent++;
    write();
    this.#indent--;
  }
  /** The lines so far; starts anew at `indent`. */
  take(indent = 1): string[] {
    const lines = this.#lines;
    this.#lines = [];
    this.#indent = indent;
    return lines;
  }
}

/** How a language writes what control flow needs. Values are read as they stand when a method is called. */
export interface Syntax {
  /** Opens a loop that ends only by `breakUnless`. */
  readonly endless: string;
  breakUnless(condition: KValue): string;
  /** Declares the variable of a carried value or result, set to `initial` if given; returns its name. */
  declare(result: KValue, initial?: KValue): string;
  assign(variable: string, value: KValue): void;
  /** Defines `inner` as the variable's value at this point. */
  snapshot(inner: KValue, variable: string): void;
  /** Defines `result` where the statement has ended. */
  settle(result: KValue, variable: string): void;
  condition(value: KValue): string;
  block(block: KBlock): void;
}

/** `header` opens the loop, `index` defines its index within. */
export function writeFor(
  lines: Lines,
  syntax: Syntax,
  inst: Extract<KInst, { op: 'for' }>,
  header: () => string,
  index: () => void,
): void {
  const variables = declareCarried(syntax, inst.carried);
  lines.add(header());
  lines.nested(() => {
    index();
    iterate(syntax, inst.carried, variables, inst.body);
  });
  close(lines, syntax, inst.carried, variables);
}

export function writeLoop(lines: Lines, syntax: Syntax, inst: Extract<KInst, { op: 'loop' }>): void {
  const variables = declareCarried(syntax, inst.carried);
  lines.add(syntax.endless);
  lines.nested(() => {
    iterate(syntax, inst.carried, variables, inst.body);
    lines.add(syntax.breakUnless(inst.condition));
  });
  close(lines, syntax, inst.carried, variables);
}

export function writeIf(lines: Lines, syntax: Syntax, inst: Extract<KInst, { op: 'if' }>): void {
  const variables = inst.results.map((result) => syntax.declare(result));
  const arm = (block: KBlock): void =>
    lines.nested(() => {
      syntax.block(block);
      block.yields.forEach((value, i) => {
        syntax.assign(variables[i], value);
      });
    });
  lines.add(`if (${syntax.condition(inst.condition)}) {`);
  arm(inst.then);
  if (inst.else.instructions.length > 0 || inst.results.length > 0) {
    lines.add('} else {');
    arm(inst.else);
  }
  lines.add('}');
  inst.results.forEach((result, i) => {
    syntax.settle(result, variables[i]);
  });
}

const declareCarried = (syntax: Syntax, carried: readonly Carried[]): readonly string[] =>
  carried.map(({ initial, result }) => syntax.declare(result, initial));

function iterate(syntax: Syntax, carried: readonly Carried[], variables: readonly string[], body: KBlock): void {
  carried.forEach(({ inner }, i) => {
    syntax.snapshot(inner, variables[i]);
  });
  syntax.block(body);
  body.yields.forEach((value, i) => {
    if (value !== carried[i].inner) syntax.assign(variables[i], value);
  });
}

function close(lines: Lines, syntax: Syntax, carried: readonly Carried[], variables: readonly string[]): void {
  lines.add('}');
  carried.forEach(({ result }, i) => {
    syntax.settle(result, variables[i]);
  });
}

/** Names come from models: in a comment they must neither end it early nor hide a line. */
export const commentText = (text: string): string =>
  text
    .replace(/[^\x20-\x7e]/g, '?')
    .replaceAll('*/', '* /')
    .slice(0, 200);
