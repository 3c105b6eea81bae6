/**
 * What there is to measure in a model: groups that can be computed in several forms, and programs that run one form of
 * one group alone, on random data.
 */
import { plan } from './compile.js';
import { type DType, isFloat } from './dtype.js';
import type { ConstantData, Graph, Value } from './graph/types.js';
import type { Target } from './kernel/target.js';
import { f32ToBf16, f32ToF16 } from './numeric.js';
import type { Location, Plan, PlannedConstant, PlannedTensor, PlanOptions, PlanStep, Pool } from './plan.js';
import type { Schedule } from './schedule/contract/index.js';
import { signatureOf } from './schedule/forms.js';
import { type Group, nameOf } from './schedule/group.js';
import type { Binding } from './schedule/lowered.js';
import { KernelTable } from './schedule/plan.js';
import { bytesOfBinding, isValue, shapeOf } from './schedule/tasks.js';
import { emptyTensor, type HostTensor } from './tensor.js';

/** A group that has a choice. */
export interface Choice {
  readonly signature: string;
  /** For people. */
  readonly name: string;
  readonly group: Group;
  /** Legal ones, by estimated cost. */
  readonly forms: readonly Schedule[];
  /** How many groups of the model it stands for. */
  readonly count: number;
}

/** The choices of a model, those first that cost most. Groups of loops, which need the loop around them, are left out. */
export function choicesOf(graph: Graph, target: Target, options: PlanOptions): readonly Choice[] {
  const found = new Map<string, Omit<Choice, 'count'>>();
  const counts = new Map<string, number>();
  const prefer = (group: Group, forms: readonly Schedule[]): readonly Schedule[] => {
    if (forms.length < 2 || group.loop !== undefined) return forms;
    const signature = signatureOf(group);
    const shape = group.writes.map((value) => `${value.type.dtype}[${shapeOf(value).join('×')}]`);
    const name = `${nameOf(group)} ${shape.join(', ')}`;
    if (!found.has(signature)) found.set(signature, { signature, name, group, forms });
    return forms;
  };
  const visit = (group: Group): void => {
    if (group.family !== 'contract') return;
    const signature = signatureOf(group);
    counts.set(signature, (counts.get(signature) ?? 0) + 1);
  };
  plan(graph, target, { ...options, prefer, visit });
  const choices = [...found.values()].map((choice) => ({ ...choice, count: counts.get(choice.signature) ?? 1 }));
  const cost = ({ forms, count }: Choice): number => forms[0].cost * count;
  return choices.sort((a, b) => cost(b) - cost(a));
}

/**
 * The group in this form, its inputs random, its results the outputs; undefined if the form finds no room on the target.
 * @throws what lowering does
 */
export function planTrial(group: Group, form: Schedule, target: Target): Plan | undefined {
  const lowered = form.lower();
  if (lowered.length === 0) return undefined;
  const table = new KernelTable(target, undefined);
  const pools: Pool[] = [];
  const constants: PlannedConstant[] = [];
  const places = new Map<Binding, Location>();
  const written = new Set(group.writes);
  const place = (binding: Binding): Location => {
    let location = places.get(binding);
    if (location !== undefined) return location;
    const data = dataOf(binding, group, written);
    const bytes = bytesOfBinding(binding);
    location = { pool: pools.length, offset: 0, bytes };
    pools.push({ kind: data === undefined ? 'arena' : 'constants', bytes: Math.ceil(bytes / 16) * 16 });
    if (data !== undefined) constants.push({ name: `constant${constants.length}`, data, location });
    places.set(binding, location);
    return location;
  };
  const steps = lowered.flatMap(({ kernel, bindings }): PlanStep[] => [
    { kind: 'dispatch', kernel: table.add(kernel), bindings: bindings.map(place), sources: [] },
    { kind: 'barrier' },
  ]);
  const outputs = group.writes.map((value): PlannedTensor => {
    const { dtype } = value.type;
    return { name: value.name, dtype, shape: shapeOf(value), location: place(value) };
  });
  const arenaBytes = pools.reduce((sum, { kind, bytes }) => sum + (kind === 'arena' ? bytes : 0), 0);
  const { kernels } = table;
  const counts = { nodes: group.nodes.length, groups: 1, kernels: kernels.length, dispatches: lowered.length };
  const sizes = { weightsBytes: 0, arenaBytes, largestLiveBytes: arenaBytes, bytesMoved: 0, flops: 0 };
  const report = { ...counts, ...sizes, constantsFolded: 0, times: {}, placement: [] };
  return { target, kernels, steps, pools, constants, inputs: [], outputs, report };
}

/** What is in memory before the kernels run; nothing where they write first. */
function dataOf(binding: Binding, { constants }: Group, written: ReadonlySet<Value>): ConstantData | undefined {
  if (!isValue(binding)) return binding.kind === 'constant' ? binding.data : undefined;
  if (written.has(binding)) return undefined;
  return constants.get(binding.id) ?? randomData(binding.type.dtype, shapeOf(binding));
}

/** Floats around zero as models have them — zeros draw less power than other numbers —, small integers. */
function randomData(dtype: DType, shape: readonly number[]): ConstantData {
  const load = (): HostTensor => {
    const tensor = emptyTensor(dtype, shape);
    const data = tensor.data as Float32Array;
    let state = 0x9e3779b9;
    const next = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    // Of four uniform numbers the sum is near enough to normal.
    const float = (): number => (next() + next() + next() + next() - 2) * Math.sqrt(3);
    const sample = sampler(dtype, float, next);
    for (let i = 0; i < data.length; i++) (data as { [index: number]: unknown })[i] = sample();
    return tensor;
  };
  return { dtype, shape, load };
}

function sampler(dtype: DType, float: () => number, next: () => number): () => number | bigint {
  if (dtype === 'f16') return () => f32ToF16(float());
  if (dtype === 'bf16') return () => f32ToBf16(float());
  if (dtype === 'f32' || dtype === 'f64') return float;
  if (dtype === 'i64' || dtype === 'u64') return () => BigInt(Math.floor(next() * 8));
  // Codes of small floats stay clear of NaN and infinity; bools are 0 or 1.
  return () => Math.floor(next() * (dtype === 'bool' ? 2 : isFloat(dtype) ? 64 : 8));
}
