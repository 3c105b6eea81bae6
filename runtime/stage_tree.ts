/**
 * The stages that runs of one shape may pass through, as a tree: what the host reads at the end of a stage decides which
 * comes next. Built while runs walk it, and kept, so that the next run that reads the same finds everything there.
 */

import type { Held, Stage } from '../compiler/passes/stages.js';
import { bytesOfTensor, type HostTensor } from '../compiler/tensor.js';
import type { GraphSignature } from './session_model.js';

type Values = Readonly<Record<string, HostTensor>>;

/** Kept of one tree; a loop that goes on beyond is built anew each time. */
const maximumSteps = 4096;

/** Without a graph: the model's own. */
export type TreeStage = Omit<Stage, 'graph'> & Partial<Pick<Stage, 'graph'>>;

/** A stage in its place. */
export interface Step {
  readonly stage: TreeStage;
  /** By what was read at its end. */
  readonly next: Map<string, Point>;
  /** Under which its executable is found: stages that do the same have the same. */
  readonly key: string;
  /** It is the only one. */
  readonly whole: boolean;
}

type KeyOf = (stage: TreeStage, whole: boolean) => string;

/** Where a stage begins: which one it is may depend on the data of inputs of the model. */
interface Point {
  readonly build: (values: Values) => TreeStage;
  /** By the inputs that were looked at; runs with equal data of these find the same stage. */
  readonly steps: { readonly names: readonly string[]; readonly byData: Map<string, Step> }[];
}

export class StageTree {
  /** The only stage there is, whatever the data; known once a run has been here. */
  only: Step | undefined;
  readonly #root: Point;
  readonly #keyOf: KeyOf;
  #size = 0;

  /**
   * @param build The first stage, given the data of the model's inputs.
   * @param keyOf The key of a stage's executable.
   */
  constructor(build: (values: Values) => TreeStage, keyOf: KeyOf) {
    this.#root = { build, steps: [] };
    this.#keyOf = keyOf;
  }

  first(values: Values): Step {
    return this.#find(this.#root, values);
  }

  /** The step after one that was cut, given what was read. */
  after({ stage, next }: Step, answers: readonly HostTensor[], values: Values): Step {
    const end = stage.next;
    if (end.kind === 'done') throw new Error('nothing comes after the last stage');
    const key = answers.map(digest).join(';');
    let point = next.get(key);
    if (point === undefined) {
      // Copies: what was read may be the caller's.
      const own = answers.map((tensor) => ({ ...tensor, data: tensor.data.slice() }) as HostTensor);
      point = { build: (given) => end.resume(own, given), steps: [] };
      if (this.#size < maximumSteps) next.set(key, point);
    }
    return this.#find(point, values);
  }

  #find(point: Point, values: Values): Step {
    const { build, steps } = point;
    for (const { names, byData } of steps) {
      const step = byData.get(digestOf(names, values));
      if (step !== undefined) return step;
    }
    const stage = build(values);
    const whole = point === this.#root && stage.next.kind === 'done';
    const step: Step = { stage, next: new Map(), key: this.#keyOf(stage, whole), whole };
    if (whole && stage.looked.size === 0) this.only = step;
    if (this.#size >= maximumSteps) return step;
    this.#size++;
    const names = [...stage.looked].sort();
    const entry = steps.find((known) => known.names.join('\n') === names.join('\n')) ?? { names, byData: new Map() };
    if (!steps.includes(entry)) steps.push(entry);
    entry.byData.set(digestOf(names, values), step);
    return step;
  }
}

const digestOf = (names: readonly string[], values: Values): string =>
  names.map((name) => (values[name] === undefined ? '' : digest(values[name]))).join(';');

/** Equal text, equal tensor. What the host looks at is small. */
function digest(tensor: HostTensor): string {
  const type = `${tensor.dtype}[${tensor.shape.join()}]`;
  if (tensor.dtype === 'string') return `${type}${JSON.stringify(tensor.data)}`;
  const bytes = bytesOfTensor(tensor);
  let text = type;
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return text;
}

/** A graph that waits for nothing but sizes of dims, as its only stage. */
export function wholeStage(graph: GraphSignature): TreeStage {
  const outputs = graph.outputs.map(({ name, value }): Held => ({ kind: 'result', name, type: value.type }));
  return {
    inputs: graph.inputs.map(({ name, type }): Held => ({ kind: 'input', name, type })),
    outputs,
    looked: new Set(),
    next: { kind: 'done', outputs: graph.outputs.map(({ name }, i) => ({ name, held: outputs[i] })) },
  };
}
