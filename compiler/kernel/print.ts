/**
 * The readable text of a kernel. It is canonical: values are numbered in order of definition and constants are
 * brought into their type, so two kernels with equal text mean the same. That makes the text the content key.
 */
import { isEngineInst } from './engines.js';
import { engineText, mapText, tileText } from './print_engines.js';
import { normalizers } from './semantics.js';
import { type Name, place, printType, symbol } from './text.js';
import type { Carried, KBlock, KernelFunction, KInst, KValue, Range, ScalarType } from './types.js';

/** First line of the text; the number changes with the grammar. */
export const textHeader = 'tutti-kernel 1';

/** Text of a kernel, parsed back by `parse`. */
export function print(kernel: KernelFunction): string {
  const ids = new Map<KValue, number>();
  const name: Name = (value) => {
    let id = ids.get(value);
    if (id === undefined) ids.set(value, (id = ids.size));
    return `%${id}`;
  };
  const lines: string[] = [textHeader];
  const subgroup = kernel.subgroupSize === undefined ? '' : ` subgroup ${kernel.subgroupSize}`;
  lines.push(
    `kernel ${symbol(kernel.name)} grid ${kernel.grid.join(', ')} workgroup ${kernel.workgroup.join(', ')}${subgroup} {`,
  );
  for (const source of kernel.sources) lines.push(`  source ${JSON.stringify(source)}`);
  for (const param of kernel.params) {
    lines.push(
      param.kind === 'buffer'
        ? `  buffer ${symbol(param.name)} ${param.scalar} ${param.length} ${param.access}`
        : `  scalar ${symbol(param.name)} ${param.scalar}${rangeText(param.range)}`,
    );
  }
  for (const array of kernel.arrays) {
    lines.push(`  array ${symbol(array.name)} ${array.space} ${array.scalar} ${array.length}`);
  }
  for (const tile of kernel.tiles) lines.push(`  ${tileText(tile)}`);
  for (const signal of kernel.signals) lines.push(`  signal ${symbol(signal.name)} ${signal.count}`);
  for (const map of kernel.maps) lines.push(`  ${mapText(map)}`);
  for (const helper of kernel.helpers) {
    const params = helper.params.map((param) => definition(param, name)).join(', ');
    lines.push(`  helper ${symbol(helper.name)}(${params}) -> ${printType(helper.result)} {`);
    printBlock(helper.body, name, '    ', lines);
    lines.push('  }');
  }
  printBlock(kernel.body, name, '  ', lines);
  lines.push('}', '');
  return lines.join('\n');
}

/** First line of one instruction with the ids that its values have, for messages. */
export function printInstruction(inst: KInst): string {
  const lines: string[] = [];
  printLines(inst, (value) => `%${value.id}`, '', lines, true);
  return lines[0];
}

const rangeText = (range: Range | undefined): string =>
  range === undefined ? '' : `[${numberText(range.min)}, ${numberText(range.max)}]`;

function definition(value: KValue, name: Name): string {
  return `${name(value)}: ${printType(value.type)}${rangeText(value.range)}`;
}

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (value === Number.POSITIVE_INFINITY) return 'inf';
  if (value === Number.NEGATIVE_INFINITY) return '-inf';
  return Object.is(value, -0) ? '-0' : String(value);
}

function constantText(value: number | bigint, scalar: ScalarType): string {
  switch (scalar) {
    case 'bool':
      return value ? 'true' : 'false';
    case 'f16':
    case 'bf16':
    case 'f32':
    case 'f64':
      return numberText(normalizers[scalar](Number(value)));
    default:
      return typeof value === 'bigint' ? value.toString() : numberText(value + 0);
  }
}

function printBlock(block: KBlock, name: Name, indent: string, lines: string[]): void {
  for (const inst of block.instructions) printLines(inst, name, indent, lines, false);
  if (block.yields.length > 0) lines.push(`${indent}yield ${block.yields.map(name).join(', ')}`);
}

function carriedText(carried: readonly Carried[], name: Name): string {
  if (carried.length === 0) return '';
  const items = carried.map(
    ({ initial, inner, result }) => `${definition(inner, name)} = ${name(initial)} -> ${definition(result, name)}`,
  );
  return ` carry (${items.join(', ')})`;
}

function printLines(inst: KInst, name: Name, indent: string, lines: string[], headOnly: boolean): void {
  const body = (block: KBlock): void => {
    if (!headOnly) printBlock(block, name, `${indent}  `, lines);
  };
  if (isEngineInst(inst)) {
    lines.push(`${indent}${engineText(inst, name)}`);
    return;
  }
  switch (inst.op) {
    case 'for': {
      const bounds = `${name(inst.lower)} to ${name(inst.upper)} step ${inst.step}`;
      const unroll = inst.unroll ? ' unroll' : '';
      const head = `${indent}for ${definition(inst.index, name)} = ${bounds}${unroll}`;
      lines.push(`${head}${carriedText(inst.carried, name)} {`);
      body(inst.body);
      lines.push(`${indent}}`);
      return;
    }
    case 'loop':
      lines.push(`${indent}loop${carriedText(inst.carried, name)} {`);
      body(inst.body);
      lines.push(`${indent}} while ${name(inst.condition)}`);
      return;
    case 'if': {
      const condition = name(inst.condition);
      const results = inst.results.map((result) => definition(result, name)).join(', ');
      lines.push(`${indent}if ${condition}${results === '' ? '' : ` -> (${results})`} {`);
      body(inst.then);
      if (inst.else.instructions.length > 0 || inst.else.yields.length > 0) {
        lines.push(`${indent}} else {`);
        body(inst.else);
      }
      lines.push(`${indent}}`);
      return;
    }
    case 'store': {
      const target = place(inst.memory, inst.index, name);
      lines.push(`${indent}store${inst.aligned ? '.aligned' : ''} ${target}, ${name(inst.value)}`);
      return;
    }
    case 'barrier':
      lines.push(`${indent}barrier`);
      return;
    default: {
      // The operands first: numbering follows the order of definition, and an operand was defined before.
      const right = expression(inst, name);
      lines.push(`${indent}${definition(inst.result, name)} = ${right}`);
    }
  }
}

function expression(inst: Extract<KInst, { readonly result: KValue }>, name: Name): string {
  switch (inst.op) {
    case 'const':
      return `const ${constantText(inst.value, inst.result.type.scalar)}`;
    case 'scalar':
      return `scalar ${symbol(inst.param.name)}`;
    case 'builtin':
      return `builtin ${inst.builtin} ${inst.dim}`;
    case 'unary':
      return `${inst.fn}${inst.fast ? '.fast' : ''} ${name(inst.a)}`;
    case 'binary':
      return `${inst.fn}${inst.fast ? '.fast' : ''} ${name(inst.a)}, ${name(inst.b)}`;
    case 'fma':
      return `fma ${name(inst.a)}, ${name(inst.b)}, ${name(inst.c)}`;
    case 'dot4':
      return `dot4 ${inst.left} ${inst.right} ${name(inst.a)}, ${name(inst.b)}, ${name(inst.c)}`;
    case 'compare':
      return `${inst.fn} ${name(inst.a)}, ${name(inst.b)}`;
    case 'select':
      return `select ${name(inst.condition)}, ${name(inst.a)}, ${name(inst.b)}`;
    case 'convert':
    case 'bitcast':
    case 'splat':
    case 'assume':
      return `${inst.op} ${name(inst.a)}`;
    case 'extract':
      return `extract ${name(inst.a)}, ${inst.lane}`;
    case 'build':
      return `build ${inst.elements.map(name).join(', ')}`;
    case 'load':
      return `load${inst.aligned ? '.aligned' : ''} ${place(inst.memory, inst.index, name)}`;
    case 'atomic':
      return `atomic ${inst.fn} ${place(inst.memory, inst.index, name)}, ${name(inst.value)}`;
    case 'atomic_compare_exchange': {
      const values = `${name(inst.expected)}, ${name(inst.value)}`;
      return `atomic_compare_exchange ${place(inst.memory, inst.index, name)}, ${values}`;
    }
    case 'subgroup':
      return `subgroup ${inst.fn} ${name(inst.a)}, ${inst.delta}`;
    case 'call':
      return `call ${symbol(inst.callee.name)}(${inst.args.map(name).join(', ')})`;
    default:
      return inst satisfies never;
  }
}
