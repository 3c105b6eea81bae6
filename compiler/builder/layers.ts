/** Layers of the public builder: matrix products, convolutions, pooling, normalisation, attention. */
import type { DType } from '../dtype.js';
import * as compose from '../graph/compose/index.js';
import { addDims, ceilDivDims, type Dim, floorDivDims, maxDims, mulDims, printShape, subDims } from '../graph/dims.js';
import type { ResizeAttrs, Value, Window } from '../graph/types.js';
import { type Axes, axesOrAll } from './base.js';
import { MovementBuilder } from './movement.js';

/** One number for all spatial axes, or one for each. */
export type Spatial = number | readonly number[];

export interface WindowOptions {
  /** Default 1 (pooling: the size of the window). */
  readonly strides?: Spatial;
  /** Default 1. */
  readonly dilations?: Spatial;
  /**
   * On both sides, or `[low, high]` for each axis, or `same`: as much as keeps ceil(size / stride) places, the odd one
   * at the end. Default 0.
   */
  readonly padding?: Spatial | readonly (readonly [low: number, high: number])[] | 'same';
}

export interface ConvOptions extends WindowOptions {
  /** [O], added to every place. */
  readonly bias?: Value;
  readonly groups?: number;
  /** Element type of the result, default that of x. */
  readonly dtype?: DType;
}

export interface NormOptions {
  /** Default 1e-5. */
  readonly epsilon?: number;
  readonly scale?: Value;
  readonly bias?: Value;
}

export class ModelBuilder extends MovementBuilder {
  // --- matrix products -----------------------------------------------------------------------------------------------

  /** Numpy's matmul: […, m, k] × […, k, n] → […, m, n]; leading axes broadcast. */
  matmul(x: Value, y: Value, dtype?: DType): Value {
    return compose.matmul(this.at('matmul'), x, y, dtype);
  }

  /** x […, in] with weights [out, in] (as PyTorch stores them) and bias [out] → […, out]. */
  linear(x: Value, weight: Value, bias?: Value): Value {
    const g = this.at('linear');
    const product = compose.matmul(g, x, compose.transpose(g, weight, [1, 0]));
    return bias === undefined ? product : compose.add(g, product, bias);
  }

  /**
   * softmax(q·kᵀ·scale + mask)·v over the last two axes: q […, m, d], k […, n, d], v […, n, e] → […, m, e]. A mask of
   * bools keeps where it is true, another is added. `causal`: row i sees columns up to i + n - m.
   */
  attention(
    q: Value,
    k: Value,
    v: Value,
    { mask, causal = false, scale }: { mask?: Value; causal?: boolean; scale?: number } = {},
  ): Value {
    const g = this.at('attention');
    const width = q.type.shape[q.type.shape.length - 1];
    if (scale === undefined && typeof width !== 'number') this.fail('width of heads', 'a number', String(width));
    let scores = compose.matmul(g, q, compose.swapAxes(g, k, -1, -2));
    scores = compose.binaryC(g, 'mul', scores, scale ?? 1 / Math.sqrt(width as number));
    const hide = (keep: Value): Value => {
      const never = compose.scalar(g, Number.NEGATIVE_INFINITY, scores.type.dtype);
      return compose.select3(g, keep, scores, never);
    };
    if (mask !== undefined) scores = mask.type.dtype === 'bool' ? hide(mask) : compose.add(g, scores, mask);
    if (causal) {
      const square = scores.type.shape.slice(-2);
      const [rows, columns] = square;
      const shift = subDims(columns, rows);
      if (typeof shift !== 'number') this.fail('causal mask', 'rows and columns of related size', printShape(square));
      const row = compose.binaryC(g, 'add', compose.iota(g, 'i32', square, 0), shift);
      scores = hide(compose.binary(g, 'le', compose.iota(g, 'i32', square, 1), row));
    }
    return compose.matmul(g, compose.softmax(g, scores, [-1]), v);
  }

  /** Over the last axis unless said. */
  softmax(x: Value, axes: Axes = -1): Value {
    return compose.softmax(this.at('softmax'), x, axesOrAll(x, axes));
  }

  logSoftmax(x: Value, axes: Axes = -1): Value {
    return compose.softmax(this.at('logSoftmax'), x, axesOrAll(x, axes), true);
  }

  // --- convolutions --------------------------------------------------------------------------------------------------

  /** x [N, C, …spatial] with weights [O, C/groups, …kernel] → [N, O, …]. */
  conv(x: Value, weight: Value, options: ConvOptions = {}): Value {
    const g = this.at('conv');
    const { bias, groups = 1, dtype = x.type.dtype } = options;
    const kernel = this.#kernel(weight, x);
    const window = this.#window(x, kernel, options, 1);
    const inputDilation = kernel.map(() => 1);
    const [out] = g.op('conv', [x, weight], { ...window, groups, inputDilation, dtype });
    return this.#perChannel(out, bias);
  }

  /**
   * Transposed convolution: x [N, C, …spatial] with weights [C, O/groups, …kernel] (as ONNX and PyTorch store them) →
   * [N, O, (size - 1)·stride - pads + (kernel - 1)·dilation + 1 + outputPadding].
   */
  convTranspose(x: Value, weight: Value, options: ConvOptions & { readonly outputPadding?: Spatial } = {}): Value {
    const g = this.at('convTranspose');
    const { bias, groups = 1, dtype = x.type.dtype, outputPadding = 0 } = options;
    if (options.padding === 'same') this.fail('padding of a transposed convolution', 'numbers', 'same');
    const kernel = this.#kernel(weight, x);
    const { strides, padLow, padHigh, dilations } = this.#window(x, kernel, options, 1);
    const extra = this.#spatial(outputPadding, kernel.length, 'outputPadding');
    const [channels, perGroup] = weight.type.shape;
    if (typeof channels !== 'number' || typeof perGroup !== 'number' || channels % groups !== 0) {
      this.fail('channels do not divide into groups', `a multiple of ${groups}`, String(channels));
    }
    // As a convolution of the input spread by the strides: kernel flipped, channels exchanged within their group.
    const grouped = compose.reshape(g, weight, [groups, channels / groups, perGroup, ...kernel]);
    const exchanged = compose.reshape(g, compose.swapAxes(g, grouped, 1, 2), [
      groups * perGroup,
      channels / groups,
      ...kernel,
    ]);
    const flipped = kernel.reduce((value, _, i) => compose.reverse(g, value, i + 2), exchanged);
    const reach = kernel.map((size, i) => (size - 1) * dilations[i]);
    const [out] = g.op('conv', [x, flipped], {
      strides: kernel.map(() => 1),
      padLow: reach.map((size, i) => subDims(size, padLow[i])),
      padHigh: reach.map((size, i) => addDims(subDims(size, padHigh[i]), extra[i])),
      dilations,
      groups,
      inputDilation: strides,
      dtype,
    });
    return this.#perChannel(out, bias);
  }

  // --- pooling: x [N, C, …spatial] -----------------------------------------------------------------------------------

  maxPool(x: Value, size: Spatial, options: WindowOptions = {}): Value {
    return this.#pool('maxPool', 'max', x, size, options);
  }

  /** Padding does not count unless `countPadding`. */
  averagePool(x: Value, size: Spatial, options: WindowOptions & { readonly countPadding?: boolean } = {}): Value {
    const sum = this.#pool('averagePool', 'sum', x, size, options);
    const kernel = this.#spatial(size, x.type.shape.length - 2, 'size');
    const { padLow, padHigh } = this.#window(x, kernel, options, kernel);
    const all = kernel.reduce((product, dim) => product * dim, 1);
    const padded = [...padLow, ...padHigh].some((pad) => pad !== 0);
    if (options.countPadding || !padded) return compose.binaryC(this.graph, 'div', sum, all);
    const ones = compose.full(this.graph, 1, x.type.dtype, [1, 1, ...x.type.shape.slice(2)]);
    return compose.div(this.graph, sum, this.#pool('averagePool', 'sum', ones, size, options));
  }

  /** Over all spatial axes, which stay as 1. */
  globalAveragePool(x: Value): Value {
    return compose.mean(this.at('globalAveragePool'), x, this.#spatialAxes(x), true);
  }

  globalMaxPool(x: Value): Value {
    return compose.reduce(this.at('globalMaxPool'), 'max', x, this.#spatialAxes(x), true);
  }

  // --- normalisation -------------------------------------------------------------------------------------------------

  /** By given statistics of each channel (all [C]), as in inference: (x - mean) / √(variance + epsilon)·scale + bias. */
  batchNorm(x: Value, mean: Value, variance: Value, { epsilon = 1e-5, scale, bias }: NormOptions = {}): Value {
    const g = this.at('batchNorm');
    const deviation = compose.unary(g, 'rsqrt', compose.binaryC(g, 'add', variance, epsilon));
    const factor = scale === undefined ? deviation : compose.mul(g, deviation, scale);
    const negative = compose.unary(g, 'neg', compose.mul(g, mean, factor));
    const shift = bias === undefined ? negative : compose.add(g, negative, bias);
    return this.#perChannel(compose.mul(g, x, this.#asChannels(factor, x)), shift);
  }

  /** Over the last axes, as many as scale has (default 1). */
  layerNorm(x: Value, { epsilon = 1e-5, scale, bias }: NormOptions = {}): Value {
    this.at('layerNorm');
    const count = scale?.type.shape.length || bias?.type.shape.length || 1;
    const axes = Array.from({ length: count }, (_, i) => x.type.shape.length - count + i);
    return this.#affine(this.#normalize(x, axes, epsilon, true), scale, bias);
  }

  /** x / √(mean of squares + epsilon) over the last axis. */
  rmsNorm(x: Value, { epsilon = 1e-5, scale, bias }: NormOptions = {}): Value {
    this.at('rmsNorm');
    return this.#affine(this.#normalize(x, [x.type.shape.length - 1], epsilon, false), scale, bias);
  }

  /** x [N, C, …spatial]: over the spatial axes of each channel; scale and bias [C]. */
  instanceNorm(x: Value, { epsilon = 1e-5, scale, bias }: NormOptions = {}): Value {
    const g = this.at('instanceNorm');
    const y = this.#normalize(x, this.#spatialAxes(x), epsilon, true);
    return this.#perChannel(scale === undefined ? y : compose.mul(g, y, this.#asChannels(scale, x)), bias);
  }

  /** x [N, C, …spatial]: over groups of channels together with the spatial axes; scale and bias [C]. */
  groupNorm(x: Value, groups: number, { epsilon = 1e-5, scale, bias }: NormOptions = {}): Value {
    const g = this.at('groupNorm');
    const [batch, channels, ...spatial] = x.type.shape;
    if (typeof channels !== 'number' || channels % groups !== 0) {
      this.fail('channels do not divide into groups', `a multiple of ${groups}`, String(channels));
    }
    const grouped = compose.reshape(g, x, [batch, groups, channels / groups, ...spatial]);
    const axes = grouped.type.shape.map((_, i) => i).slice(2);
    const y = compose.reshape(g, this.#normalize(grouped, axes, epsilon, true), x.type.shape);
    return this.#perChannel(scale === undefined ? y : compose.mul(g, y, this.#asChannels(scale, x)), bias);
  }

  /** Interpolates the spatial axes of x [N, C, …spatial] to new sizes. */
  resize(
    x: Value,
    sizes: readonly number[],
    {
      mode = 'linear',
      coordinates = 'half_pixel',
      antialias = false,
    }: Partial<Pick<ResizeAttrs, 'mode' | 'coordinates' | 'antialias'>> = {},
  ): Value {
    const g = this.at('resize');
    if (coordinates === 'tf_crop_and_resize') this.fail('coordinates of resize', 'no crop', coordinates);
    if (sizes.length !== x.type.shape.length - 2) {
      this.fail('wrong number of sizes', `${x.type.shape.length - 2}`, `${sizes.length}`);
    }
    const [out] = g.op('resize', [x], {
      mode,
      shape: [...x.type.shape.slice(0, 2), ...sizes],
      scales: x.type.shape.map(() => null),
      coordinates,
      nearest: 'round_prefer_floor',
      cubicA: -0.75,
      excludeOutside: false,
      antialias,
      roi: null,
      extrapolation: 0,
    });
    return out;
  }

  // --- internals -----------------------------------------------------------------------------------------------------

  #spatialAxes(x: Value): readonly number[] {
    if (x.type.shape.length < 3) this.fail('wrong rank', '[N, C, …spatial]', printShape(x.type.shape));
    return x.type.shape.map((_, i) => i).slice(2);
  }

  #spatial(given: Spatial, rank: number, what: string): readonly number[] {
    const list = typeof given === 'number' ? new Array<number>(Math.max(0, rank)).fill(given) : given;
    if (list.length !== rank) this.fail(`wrong number of ${what}`, `${rank}`, `${list.length}`);
    return list;
  }

  #kernel(weight: Value, x: Value): readonly number[] {
    const kernel = weight.type.shape.slice(2);
    if (weight.type.shape.length !== x.type.shape.length || kernel.length === 0) {
      const rank = `${Math.max(3, x.type.shape.length)} axes`;
      this.fail('weights of a convolution', rank, printShape(weight.type.shape));
    }
    return kernel.map((dim) => (typeof dim === 'number' ? dim : this.fail('kernel size', 'a number', String(dim))));
  }

  #window(x: Value, kernel: readonly number[], options: WindowOptions, strideDefault: Spatial): Window {
    const rank = x.type.shape.length - 2;
    const strides = this.#spatial(options.strides ?? strideDefault, rank, 'strides');
    const dilations = this.#spatial(options.dilations ?? 1, rank, 'dilations');
    const { padding = 0 } = options;
    if (padding === 'same') {
      const total = x.type.shape.slice(2).map((dim, i): Dim => {
        const last = mulDims(subDims(ceilDivDims(dim, strides[i]), 1), strides[i]);
        return maxDims(0, subDims(addDims(last, (kernel[i] - 1) * dilations[i] + 1), dim));
      });
      const padLow = total.map((pads) => floorDivDims(pads, 2));
      return { strides, dilations, padLow, padHigh: total.map((pads, i) => subDims(pads, padLow[i])) };
    }
    if (typeof padding !== 'number' && padding.some((pads) => typeof pads !== 'number')) {
      if (padding.length !== rank) this.fail('wrong number of pads', `${rank}`, `${padding.length}`);
      const pairs = padding.map((pads) => (typeof pads === 'number' ? ([pads, pads] as const) : pads));
      return { strides, dilations, padLow: pairs.map(([low]) => low), padHigh: pairs.map(([, high]) => high) };
    }
    const pads = this.#spatial(padding as Spatial, rank, 'pads');
    return { strides, dilations, padLow: pads, padHigh: pads };
  }

  #pool(name: string, fn: 'max' | 'sum', x: Value, size: Spatial, options: WindowOptions): Value {
    const g = this.at(name);
    const kernel = this.#spatial(size, this.#spatialAxes(x).length, 'sizes');
    const { strides, dilations, padLow, padHigh } = this.#window(x, kernel, options, kernel);
    const all = <T>(first: T, rest: readonly T[]): T[] => [first, first, ...rest];
    const [out] = g.op('reduce_window', [x], {
      fn,
      window: all(1, kernel),
      strides: all(1, strides),
      dilations: all(1, dilations),
      padLow: all<Dim>(0, padLow),
      padHigh: all<Dim>(0, padHigh),
    });
    return out;
  }

  #normalize(x: Value, axes: readonly number[], epsilon: number, center: boolean): Value {
    return this.graph.op('normalize', [x], { axes, epsilon, center, statistics: false })[0];
  }

  #affine(y: Value, scale: Value | undefined, bias: Value | undefined): Value {
    const scaled = scale === undefined ? y : compose.mul(this.graph, y, scale);
    return bias === undefined ? scaled : compose.add(this.graph, scaled, bias);
  }

  /** [C] → [C, 1, …], so that it broadcasts over x [N, C, …]. */
  #asChannels(vector: Value, x: Value): Value {
    const ones = new Array<number>(Math.max(0, x.type.shape.length - 2)).fill(1);
    return compose.reshape(this.graph, vector, [...vector.type.shape, ...ones]);
  }

  #perChannel(y: Value, bias: Value | undefined): Value {
    return bias === undefined ? y : compose.add(this.graph, y, this.#asChannels(bias, y));
  }
}
