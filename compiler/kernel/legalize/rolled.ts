/**
 * Straight-line functions as a loop over their instructions.
 *
 * Shader compilers inline every call, so that a formula of a hundred software f64 operations becomes tens of thousands
 * of instructions, which take minutes to compile (SwiftShader) or run out of registers. Rolled, the function is a small
 * machine: each kind of operation occurs once, a program says which one comes next, on which of the live values.
 *
 * One turn of the loop fetches the step's code word and constant, picks the operands from the registers, runs the
 * operation and writes its result to a register. A register holds 64 bits whatever the type of the value in it. What
 * no software operation comes before (the reduction of an angle, in 32-bit words) runs ahead of the loop as it is.
 */
import { bitsOfF64 } from '../../numeric.js';
import { KernelBuilder } from '../builder.js';
import { Rebuilder } from '../rebuild.js';
import { type HelperFunction, type KInst, type KValue, ktype, type ScalarType } from '../types.js';
import { operandsOf } from '../walk.js';

/** A code word from its lowest bit: operation, target register, three operand registers, whether to negate. */
const fieldBits = 6;
const fieldValues = 2 ** fieldBits;
const negateBit = 5 * fieldBits;
/** Below so many steps the function is left alone: the machine itself is some hundred instructions. */
const fewSteps = 12;
/** Steps that are fetched by selection; above, by branches. */
const fetchGroup = 16;

type Computation = Extract<KInst, { readonly op: 'unary' | 'binary' | 'compare' | 'select' | 'convert' }>;

/** A computed value, or the 64 bits of a constant. */
type Operand = KValue | bigint;

interface Step {
  /** Absent: the operand is copied. */
  readonly inst: Computation | undefined;
  /** Whether the sign of the second operand, an f64, is flipped: subtraction is addition. */
  readonly negate: boolean;
  readonly result: KValue;
  readonly operands: readonly Operand[];
}

interface Program {
  /** What runs before the loop. */
  readonly prelude: readonly KInst[];
  /** Parameters and results of the prelude that the steps read, in the first registers. */
  readonly inputs: readonly KValue[];
  /** One instruction for each kind of operation, the most frequent first; absent: the copy. */
  readonly operations: readonly (Computation | undefined)[];
  readonly steps: readonly { readonly code: number; readonly constant: bigint }[];
  readonly registers: number;
  /** The register that holds the result at the end. */
  readonly output: number;
}

/** An equal function whose body is a loop; the same one where it is short, has control flow or needs other types. */
export function rolled(helper: HelperFunction): HelperFunction {
  const program = assemble(helper);
  return program ? machine(helper, program) : helper;
}

// --- from instructions to steps ------------------------------------------------------------------------------------

const wide: ReadonlySet<ScalarType> = new Set(['i64', 'u64', 'f64']);
const held: ReadonlySet<ScalarType> = new Set(['bool', 'i32', 'u32', ...wide]);
const fits = ({ type }: KValue): boolean => type.lanes === 1 && held.has(type.scalar);
/** Whether a register's bits mean the same number in either type. */
const sameBits = (a: ScalarType, b: ScalarType): boolean => wide.has(a) === wide.has(b) && a !== 'bool' && b !== 'bool';
/** Whether software computes it, and not only a word or two are picked or changed. */
const isHeavy = (inst: KInst): boolean =>
  (inst.op === 'binary' || (inst.op === 'unary' && inst.fn !== 'neg' && inst.fn !== 'abs')) &&
  inst.result.type.scalar === 'f64';

interface Straight {
  readonly prelude: readonly KInst[];
  readonly steps: readonly Step[];
  readonly output: KValue;
}

/** A straight-line function in parts; undefined where it has something else. */
function partsOf(helper: HelperFunction): Straight | undefined {
  if (!helper.params.every(fits)) return undefined;
  const copies = new Map<KValue, Operand>();
  const source = (value: KValue): Operand => copies.get(value) ?? value;
  const prelude: KInst[] = [];
  const steps: Step[] = [];
  const late = new Set<KValue>();
  for (const inst of helper.body.instructions) {
    if (!('result' in inst) || !fits(inst.result)) return undefined;
    if (inst.op === 'const') copies.set(inst.result, bitsOf(inst.result.type.scalar, inst.value));
    if (!isHeavy(inst) && !operandsOf(inst).some((value) => late.has(value))) {
      prelude.push(inst);
      continue;
    }
    late.add(inst.result);
    switch (inst.op) {
      case 'assume':
        copies.set(inst.result, source(inst.a));
        break;
      case 'bitcast':
        if (!sameBits(inst.a.type.scalar, inst.result.type.scalar)) return undefined;
        copies.set(inst.result, source(inst.a));
        break;
      case 'unary':
      case 'binary':
      case 'compare':
      case 'select':
      case 'convert':
        steps.push(...stepsFor(inst, source));
        break;
      default:
        return undefined;
    }
  }
  const output = source(helper.body.yields[0]);
  return typeof output === 'bigint' ? undefined : { prelude, steps: liveSteps(steps, output), output };
}

/** A step has room for one constant: others are copied to registers before it. */
function stepsFor(inst: Computation, source: (value: KValue) => Operand): readonly Step[] {
  const { canonical, negate } = canonicalize(inst);
  const before: Step[] = [];
  let constant: bigint | undefined;
  const operands = operandsOf(canonical).map((value): Operand => {
    const place = source(value);
    if (typeof place !== 'bigint') return place;
    constant ??= place;
    if (place === constant) return place;
    const result: KValue = { ...value };
    before.push({ inst: undefined, negate: false, result, operands: [place] });
    return result;
  });
  return [...before, { inst: canonical, negate, result: inst.result, operands }];
}

/** One operation serves less and greater, another addition and subtraction. */
function canonicalize(inst: Computation): { readonly canonical: Computation; readonly negate: boolean } {
  if (inst.op === 'compare' && (inst.fn === 'gt' || inst.fn === 'ge')) {
    return { canonical: { ...inst, fn: inst.fn === 'gt' ? 'lt' : 'le', a: inst.b, b: inst.a }, negate: false };
  }
  const subtracts = inst.op === 'binary' && inst.fn === 'sub' && inst.a.type.scalar === 'f64';
  return subtracts ? { canonical: { ...inst, fn: 'add' }, negate: true } : { canonical: inst, negate: false };
}

/** The steps that `output` depends on. */
function liveSteps(steps: readonly Step[], output: KValue): readonly Step[] {
  const needed = new Set<Operand>([output]);
  const live: Step[] = [];
  for (let at = steps.length - 1; at >= 0; at--) {
    if (!needed.has(steps[at].result)) continue;
    for (const operand of steps[at].operands) needed.add(operand);
    live.push(steps[at]);
  }
  return live.reverse();
}

// --- from steps to a program ---------------------------------------------------------------------------------------

function assemble(helper: HelperFunction): Program | undefined {
  const parts = partsOf(helper);
  if (!parts || parts.steps.length < fewSteps) return undefined;
  const { prelude, steps, output } = parts;
  const computed = new Set<Operand>(steps.map(({ result }) => result));
  const read = new Set(steps.flatMap(({ operands }) => operands));
  const inputs = [...read].filter((operand) => typeof operand !== 'bigint' && !computed.has(operand)) as KValue[];
  const operations = operationsOf(steps);
  const { places, registers } = allocate(inputs, steps, output);
  // The constant comes after the registers.
  if (registers + 1 > fieldValues || operations.size > fieldValues) return undefined;
  const words = steps.map((step) => {
    const { number } = operations.get(kindOf(step.inst)) as { number: number };
    const { target, operands } = places.get(step) as Placement;
    const fields = [number, target, ...operands.map((place) => place ?? registers)];
    const code = fields.reduce((sum, value, i) => sum + value * 2 ** (i * fieldBits), step.negate ? 2 ** negateBit : 0);
    return { code, constant: step.operands.find((operand) => typeof operand === 'bigint') ?? 0n };
  });
  return {
    prelude,
    inputs,
    operations: [...operations.values()].map(({ inst }) => inst),
    steps: words,
    registers,
    // Nothing but the result is needed after the last step, so that is what it computes.
    output: (places.get(steps[steps.length - 1]) as Placement).target,
  };
}

const kindOf = (inst: Computation | undefined): string => {
  if (inst === undefined) return 'copy';
  const types = [...operandsOf(inst), inst.result].map(({ type }) => type.scalar).join(' ');
  return 'fn' in inst ? `${inst.op} ${inst.fn} ${types}` : `${inst.op} ${types}`;
};

/** The kinds of operations, numbered by how frequent they are. */
function operationsOf(steps: readonly Step[]): ReadonlyMap<string, { inst: Computation | undefined; number: number }> {
  const counts = new Map<string, { inst: Computation | undefined; count: number }>();
  for (const { inst } of steps) {
    const kind = kindOf(inst);
    counts.set(kind, { inst, count: (counts.get(kind)?.count ?? 0) + 1 });
  }
  const sorted = [...counts].sort(([, a], [, b]) => b.count - a.count);
  return new Map(sorted.map(([kind, { inst }], number) => [kind, { inst, number }]));
}

interface Placement {
  readonly target: number;
  /** Undefined for the constant. */
  readonly operands: readonly (number | undefined)[];
}

/** Gives every value a register from its step to its last use. */
function allocate(
  inputs: readonly KValue[],
  steps: readonly Step[],
  output: KValue,
): { readonly places: ReadonlyMap<Step, Placement>; readonly registers: number } {
  const lastUse = new Map<Operand, number>();
  for (const [at, { operands }] of steps.entries()) for (const operand of operands) lastUse.set(operand, at);
  lastUse.set(output, steps.length);
  const registerOf = new Map<Operand, number>(inputs.map((input, i) => [input, i]));
  const free: number[] = [];
  let registers = inputs.length;
  const places = new Map<Step, Placement>();
  for (const [at, step] of steps.entries()) {
    const operands = step.operands.map((operand) => registerOf.get(operand));
    // The target is written after the operands are read: it may take the place of one that ends here.
    for (const operand of new Set(step.operands)) {
      const register = registerOf.get(operand);
      if (register !== undefined && lastUse.get(operand) === at) free.push(register);
    }
    const target = free.pop() ?? registers++;
    registerOf.set(step.result, target);
    places.set(step, { target, operands });
  }
  return { places, registers };
}

// --- the machine ---------------------------------------------------------------------------------------------------

function machine(helper: HelperFunction, program: Program): HelperFunction {
  const b = new KernelBuilder();
  const args = helper.params.map(({ type }) => b.constant(0, type.scalar));
  b.call(helper.name, args, helper.result, (params) => {
    const prelude = new Prelude(b);
    helper.params.forEach((param, i) => void prelude.set(param, params[i]));
    for (const inst of program.prelude) prelude.copy(inst);
    const inputs = program.inputs.map((input) => toBits(b, prelude.get(input)));
    const initial = Array.from({ length: program.registers }, (_, i) => inputs[i] ?? b.constant(0n, 'u64'));
    const final = b.for(0, program.steps.length, 1, initial, (step, registers) => {
      const [code, constant] = fetch(b, program, step, 0, program.steps.length);
      const codeField = (i: number): KValue => fieldOf(b, code, i);
      const sources = [...registers, constant];
      const [x, second, z] = [2, 3, 4].map((i) => pick(b, sources, codeField(i)));
      const negates = b.compare('ge', code, b.constant(2 ** negateBit, 'u32'));
      const y = b.select(negates, b.binary('xor', second, b.constant(1n << 63n, 'u64')), second);
      const result = execute(b, program.operations, codeField(0), [x, y, z], 0);
      const target = codeField(1);
      return registers.map((register, i) => b.select(b.compare('eq', target, b.constant(i, 'u32')), result, register));
    });
    return fromBits(b, helper.result.scalar, final[program.output]);
  });
  const { helpers } = b.finish({ name: helper.name, grid: [1, 1, 1], workgroup: [1, 1, 1] });
  return helpers[helpers.length - 1];
}

class Prelude extends Rebuilder {
  copy(inst: KInst): void {
    this.instruction(inst);
  }
}

const fieldOf = (b: KernelBuilder, code: KValue, i: number): KValue =>
  b.and(b.binary('shr', code, b.constant(i * fieldBits, 'u32')), b.constant(fieldValues - 1, 'u32'));

/** Code word and constant of a step in [low, high). */
function fetch(b: KernelBuilder, program: Program, step: KValue, low: number, high: number): readonly KValue[] {
  if (high - low > fetchGroup) {
    // Groups start at multiples of their size, so that the step's low bits say which of a group it is.
    const middle = low + Math.ceil((high - low) / 2 / fetchGroup) * fetchGroup;
    return b.if(
      b.compare('lt', step, b.constant(middle)),
      () => fetch(b, program, step, low, middle),
      () => fetch(b, program, step, middle, high),
    );
  }
  const words = program.steps.slice(low, high);
  const within = b.and(b.convert(step, 'u32'), b.constant(fetchGroup - 1, 'u32'));
  return [
    pick(
      b,
      words.map(({ code }) => b.constant(code, 'u32')),
      within,
    ),
    pick(
      b,
      words.map(({ constant }) => b.constant(constant, 'u64')),
      within,
    ),
  ];
}

/** One of `values`: they are halved by the index's bits from the lowest on. */
function pick(b: KernelBuilder, values: readonly KValue[], index: KValue): KValue {
  let left = values;
  for (let bit = 0; left.length > 1; bit++) {
    const odd = b.compare('ne', b.and(index, b.constant(2 ** bit, 'u32')), b.constant(0, 'u32'));
    const next: KValue[] = [];
    for (let i = 0; i < left.length; i += 2) next.push(b.select(odd, left[i + 1] ?? left[i], left[i]));
    left = next;
  }
  return left[0];
}

/** The result of the operation with that number, one of those from `from` on. */
function execute(
  b: KernelBuilder,
  operations: Program['operations'],
  number: KValue,
  operands: readonly KValue[],
  from: number,
): KValue {
  const run = (): KValue => compute(b, operations[from], operands);
  if (from === operations.length - 1) return run();
  const [result] = b.if(
    b.compare('eq', number, b.constant(from, 'u32')),
    () => [run()],
    () => [execute(b, operations, number, operands, from + 1)],
  );
  return result;
}

function compute(b: KernelBuilder, inst: Computation | undefined, bits: readonly KValue[]): KValue {
  if (inst === undefined) return bits[0];
  const [x, y, z] = operandsOf(inst).map(({ type }, i) => fromBits(b, type.scalar, bits[i]));
  const { type } = inst.result;
  switch (inst.op) {
    case 'unary':
      return toBits(b, b.emit({ op: 'unary', fn: inst.fn, a: x }, type));
    case 'binary':
      return toBits(b, b.emit({ op: 'binary', fn: inst.fn, a: x, b: y }, type));
    case 'compare':
      return toBits(b, b.emit({ op: 'compare', fn: inst.fn, a: x, b: y }, type));
    case 'select':
      return toBits(b, b.emit({ op: 'select', condition: x, a: y, b: z }, type));
    case 'convert':
      return toBits(b, b.emit({ op: 'convert', a: x }, type));
    default:
      return inst satisfies never;
  }
}

// --- values in registers -------------------------------------------------------------------------------------------

function bitsOf(scalar: ScalarType, value: number | bigint): bigint {
  if (scalar === 'f64') return bitsOfF64(Number(value));
  return BigInt.asUintN(wide.has(scalar) ? 64 : 32, BigInt(value));
}

function toBits(b: KernelBuilder, value: KValue): KValue {
  const { scalar } = value.type;
  if (wide.has(scalar)) return b.bitcast(value, ktype('u64'));
  return b.convert(scalar === 'i32' ? b.bitcast(value, ktype('u32')) : value, 'u64');
}

function fromBits(b: KernelBuilder, scalar: ScalarType, bits: KValue): KValue {
  if (wide.has(scalar)) return b.bitcast(bits, ktype(scalar));
  return scalar === 'i32' ? b.bitcast(b.convert(bits, 'u32'), ktype('i32')) : b.convert(bits, scalar);
}
