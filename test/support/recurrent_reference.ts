/**
 * RNN, GRU and LSTM as the ONNX specification words them: loops over numbers, in double precision. Nothing here is
 * shared with the compiler.
 */

export type RecurrentKind = 'RNN' | 'GRU' | 'LSTM';

export interface RecurrentCase {
  readonly kind: RecurrentKind;
  readonly steps: number;
  readonly batch: number;
  readonly input: number;
  readonly hidden: number;
  readonly direction: 'forward' | 'reverse' | 'bidirectional';
  readonly layout: 0 | 1;
  readonly clip?: number;
  readonly linearBeforeReset: boolean;
  readonly inputForget: boolean;
  /** All functions in order, and their parameters for those that have some. */
  readonly activations: readonly string[];
  readonly alphas: readonly number[];
  readonly betas: readonly number[];
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly r: readonly number[];
  readonly bias?: readonly number[];
  readonly lengths?: readonly number[];
  readonly initialH?: readonly number[];
  readonly initialC?: readonly number[];
  readonly peepholes?: readonly number[];
}

const functions: Readonly<Record<string, (x: number, alpha: number, beta: number) => number>> = {
  Relu: (x) => Math.max(0, x),
  Tanh: Math.tanh,
  Sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  Affine: (x, alpha, beta) => alpha * x + beta,
  LeakyRelu: (x, alpha) => (x >= 0 ? x : alpha * x),
  ThresholdedRelu: (x, alpha) => (x > alpha ? x : 0),
  ScaledTanh: (x, alpha, beta) => alpha * Math.tanh(beta * x),
  HardSigmoid: (x, alpha, beta) => Math.min(Math.max(alpha * x + beta, 0), 1),
  Elu: (x, alpha) => (x >= 0 ? x : alpha * (Math.exp(x) - 1)),
  Softsign: (x) => x / (1 + Math.abs(x)),
  Softplus: (x) => Math.log(1 + Math.exp(x)),
};
/** Default alpha and beta of the functions that have them. */
const parameters: Readonly<Record<string, readonly [number?, number?]>> = {
  Affine: [1, 0],
  LeakyRelu: [0.01],
  ThresholdedRelu: [1],
  ScaledTanh: [1, 1],
  HardSigmoid: [0.2, 0.5],
  Elu: [1],
};
export const activationNames = Object.keys(functions);
export const takesAlpha = (name: string): boolean => parameters[name]?.[0] !== undefined;
export const takesBeta = (name: string): boolean => parameters[name]?.[1] !== undefined;
const gateCount = { RNN: 1, GRU: 3, LSTM: 4 } as const;

/** Y, Y_h and for LSTM Y_c, row-major in the layout asked for. */
export function recurrentReference(c: RecurrentCase): { y: number[]; h: number[]; c: number[] } {
  const { kind, steps: T, batch: B, input: I, hidden: H, direction, layout } = c;
  const D = direction === 'bidirectional' ? 2 : 1;
  const G = gateCount[kind];
  const functionCount = { RNN: 1, GRU: 2, LSTM: 3 }[kind];
  let [nextAlpha, nextBeta] = [0, 0];
  const acts = c.activations.map((name) => {
    const [alpha = 0, beta = 0] = parameters[name] ?? [];
    const own = takesAlpha(name) ? (c.alphas[nextAlpha++] ?? alpha) : alpha;
    const ownBeta = takesBeta(name) ? (c.betas[nextBeta++] ?? beta) : beta;
    return (x: number) => functions[name](c.clip ? Math.min(Math.max(x, -c.clip), c.clip) : x, own, ownBeta);
  });
  const xAt = (t: number, b: number, i: number) => c.x[(layout === 0 ? t * B + b : b * T + t) * I + i];
  const stateAt = (state: readonly number[] | undefined, d: number, b: number, j: number) =>
    state === undefined ? 0 : state[(layout === 0 ? d * B + b : b * D + d) * H + j];
  const y = new Array<number>(T * D * B * H).fill(0);
  const [lastH, lastC] = [new Array<number>(D * B * H).fill(0), new Array<number>(D * B * H).fill(0)];
  for (let d = 0; d < D; d++) {
    const [f, g = f, h = f] = acts.slice(d * functionCount);
    const backwards = direction === 'reverse' || d === 1;
    for (let b = 0; b < B; b++) {
      const length = c.lengths?.[b] ?? T;
      let state = Array.from({ length: H }, (_, j) => stateAt(c.initialH, d, b, j));
      let cell = Array.from({ length: H }, (_, j) => stateAt(c.initialC, d, b, j));
      for (let s = 0; s < length; s++) {
        const t = backwards ? length - 1 - s : s;
        const row = (gate: number, j: number) => d * G * H + gate * H + j;
        const wx = (gate: number, j: number) => {
          let sum = c.bias ? c.bias[d * 2 * G * H + gate * H + j] : 0;
          for (let i = 0; i < I; i++) sum += xAt(t, b, i) * c.w[row(gate, j) * I + i];
          return sum;
        };
        const rb = (gate: number, j: number) => (c.bias ? c.bias[d * 2 * G * H + (G + gate) * H + j] : 0);
        const rh = (gate: number, j: number, from: readonly number[]) => {
          let sum = 0;
          for (let k = 0; k < H; k++) sum += from[k] * c.r[row(gate, j) * H + k];
          return sum;
        };
        const peep = (which: number, j: number) => (c.peepholes ? c.peepholes[d * 3 * H + which * H + j] : 0);
        const before = state;
        const each = (of: (j: number) => number) => Array.from({ length: H }, (_, j) => of(j));
        const sum = (gate: number) => (j: number) => wx(gate, j) + rh(gate, j, before) + rb(gate, j);
        if (kind === 'RNN') state = each((j) => f(sum(0)(j)));
        else if (kind === 'GRU') {
          const z = each((j) => f(sum(0)(j)));
          const r = each((j) => f(sum(1)(j)));
          const reset = before.map((value, j) => value * r[j]);
          const candidate = each((j) =>
            c.linearBeforeReset
              ? g(wx(2, j) + r[j] * (rh(2, j, before) + rb(2, j)))
              : g(wx(2, j) + rh(2, j, reset) + rb(2, j)),
          );
          state = each((j) => (1 - z[j]) * candidate[j] + z[j] * before[j]);
        } else {
          const old = cell;
          const input = each((j) => f(sum(0)(j) + peep(0, j) * old[j]));
          const forget = each((j) => (c.inputForget ? 1 - input[j] : f(sum(2)(j) + peep(2, j) * old[j])));
          cell = each((j) => forget[j] * old[j] + input[j] * g(sum(3)(j)));
          state = each((j) => f(sum(1)(j) + peep(1, j) * cell[j]) * h(cell[j]));
        }
        for (let j = 0; j < H; j++) y[(layout === 0 ? (t * D + d) * B + b : (b * T + t) * D + d) * H + j] = state[j];
      }
      for (let j = 0; j < H; j++) {
        const at = (layout === 0 ? d * B + b : b * D + d) * H + j;
        lastH[at] = state[j];
        lastC[at] = cell[j];
      }
    }
  }
  return { y, h: lastH, c: lastC };
}
