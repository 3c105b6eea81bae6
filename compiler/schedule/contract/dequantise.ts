/**
 * Constant weights of few bits: (q − z)·s, with a scale and perhaps a zero point for each block along k.
 *
 * Folding makes such weights f32 constants, which nobody has computed yet: here their origin is followed back to the
 * packed integers, so that a product reads those. What slices, reshapes and transposes mean is found out by
 * lowering them for an index.
 */
import { type DType, isHalf, isInt, isPacked } from '../../dtype.js';
import { GraphBuilder } from '../../graph/builder.js';
import { elementsOf, numbersOf } from '../../graph/ops/reference/data.js';
import type { ConstantData, Node, Value } from '../../graph/types.js';
import type { KernelBuilder } from '../../kernel/builder.js';
import type { Target } from '../../kernel/target.js';
import { emptyTensor, sizeOf } from '../../tensor.js';
import { Affine, linearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { type Index, shapeOf } from '../tensors.js';
import type { Contraction } from './contraction.js';

/** Where an element of a tensor is: first + row·stride + block·stride + place in the block·stride. */
interface Places {
  readonly data: ConstantData;
  readonly first: number;
  readonly row: number;
  readonly block: number;
  readonly step: number;
}

/** Weights [n][k] of a product's rhs. */
export interface BlockWeights {
  readonly bits: 2 | 4 | 8;
  readonly rows: number;
  readonly k: number;
  readonly block: number;
  readonly levels: Places;
  readonly scales: Places;
  /** A zero point for each block, or one for all. */
  readonly zeros: Places | number;
}

const sizes = [16, 32, 64, 128, 256] as const;

/** The weights behind the rhs of a product, if that is what they are. */
export function blockWeights(group: Group, target: Target, contraction: Contraction): BlockWeights | undefined {
  const { rhs, rhsBatches, n, k, node } = contraction;
  const data = group.constants.get(rhs.value.id);
  if (node.op !== 'dot' || rhsBatches !== 1 || data?.dtype !== 'f32' || !group.reads.includes(rhs.value))
    return undefined;
  const formula = formulaOf(data);
  if (!formula) return undefined;
  for (const block of [...sizes].reverse()) {
    const found = k >= block ? placed(formula, target, contraction, block) : undefined;
    if (found) return { ...found, rows: n, k, block };
  }
  return undefined;
}

/** Weights [n][k] of a product's rhs that are floats of 16 bits, perhaps cast to f32. */
export interface HalfWeights {
  readonly scalar: 'f16' | 'bf16';
  readonly rows: number;
  readonly k: number;
  readonly places: Places;
}

/** The 16-bit floats behind the rhs of a product, if that is what it is. */
export function halfWeights(group: Group, target: Target, contraction: Contraction): HalfWeights | undefined {
  const { rhs, rhsBatches, n, k, node, accumulator } = contraction;
  const data = group.constants.get(rhs.value.id);
  if (node.op !== 'dot' || rhsBatches !== 1 || accumulator !== 'f32' || !data || !group.reads.includes(rhs.value))
    return undefined;
  if (!isHalf(data.dtype) && data.dtype !== 'f32') return undefined;
  const origin = originOf(data, isHalf);
  const [leaf, ...others] = origin.constants;
  const isOnlyViews = origin.nodes.every(({ op }) => views.has(op));
  if (others.length > 0 || !isOnlyViews || !leaf || !isHalf(leaf[1].dtype)) return undefined;
  const value = origin.nodes.flatMap((one) => one.inputs).find(({ id }) => id === leaf[0]) ?? origin.top;
  const places = locate(origin, target, [n, 1, k], ([row, , step]) => rhs.index(Affine.constant(0), row, step))(value);
  return places && { scalar: leaf[1].dtype, rows: n, k, places };
}

// --- the formula -----------------------------------------------------------------------------------------------------

interface Formula extends Origin {
  readonly levels: Value;
  readonly scales: Value;
  /** The one of each element, or the one of all. */
  readonly zeros: Value | number;
}

const views: ReadonlySet<string> = new Set(['reshape', 'transpose', 'slice', 'broadcast', 'cast']);
const followed: ReadonlySet<string> = new Set([...views, 'sub', 'mul']);

/** What a constant was folded from, as a graph. */
interface Origin {
  readonly nodes: readonly Node[];
  readonly constants: ReadonlyMap<number, ConstantData>;
  readonly top: Value;
}

/** The origin of a constant, back to leaves and to what is not followed. */
function originOf(data: ConstantData, isLeaf: (dtype: DType) => boolean): Origin {
  const b = new GraphBuilder('weights');
  const constants = new Map<number, ConstantData>();
  const made = new Map<ConstantData, Value>();
  const build = (from: ConstantData): Value => {
    const known = made.get(from);
    if (known) return known;
    const { origin } = from;
    const stops = !origin || !followed.has(origin.node.op) || isLeaf(from.dtype);
    const value = stops
      ? b.constant(from)
      : b.op(origin.node.op, origin.inputs.map(build), origin.node.attrs as never)[0];
    if (stops) constants.set(value.id, from);
    made.set(from, value);
    return value;
  };
  const top = build(data);
  b.output('top', top);
  return { nodes: b.finish().nodes, constants, top };
}

/** The constant as (levels − zeros)·scales, seen through views. */
function formulaOf(data: ConstantData): Formula | undefined {
  if (!data.origin) return undefined;
  const { nodes, constants, top } = originOf(data, isLevels);
  const producer = (value: Value): Node | undefined => nodes.find(({ outputs }) => outputs[0] === value);
  const leaf = (value: Value): Value | undefined => {
    const node = producer(value);
    if (!node) return value;
    return views.has(node.op) ? leaf(node.inputs[0]) : undefined;
  };
  const inner = (value: Value): Node | undefined => {
    const node = producer(value);
    return node && views.has(node.op) ? inner(node.inputs[0]) : node;
  };
  const product = inner(top);
  if (product?.op !== 'mul') return undefined;
  for (const [integers, scale] of [product.inputs, [...product.inputs].reverse()]) {
    const scales = leaf(scale);
    if (!scales || !['f32', 'f16', 'bf16'].includes(scales.type.dtype)) continue;
    const difference = inner(integers);
    const levels = leaf(difference?.op === 'sub' ? difference.inputs[0] : integers);
    if (!levels || !isLevels(levels.type.dtype)) continue;
    if (difference === undefined) return { nodes, constants, top, levels, scales, zeros: 0 };
    const zero = difference.op === 'sub' ? leaf(difference.inputs[1]) : undefined;
    const zeroData = zero && constants.get(zero.id);
    if (!zero || !zeroData) continue;
    if (sizeOf(shapeOf(zero)) === 1) {
      const only = Number(elementsOf(zeroData.load())[0]);
      if (Number.isInteger(only)) return { nodes, constants, top, levels, scales, zeros: only };
    } else if (isInt(zero.type.dtype)) return { nodes, constants, top, levels, scales, zeros: zero };
  }
  return undefined;
}

const isLevels = (dtype: DType): boolean => isInt(dtype) && (isPacked(dtype) || dtype === 'i8' || dtype === 'u8');

// --- where its elements are ------------------------------------------------------------------------------------------

/** Where elements of the leaves are, from the index of the whole in terms of independent variables. */
function locate(
  { nodes, constants, top }: Origin,
  target: Target,
  extents: readonly [number, number, number],
  indexOf: (variables: readonly Affine[]) => Index,
): (value: Value) => Places | undefined {
  const inputs = nodes.flatMap((node) => node.inputs).filter(({ id }) => constants.has(id));
  const reads = [...new Set([...inputs, ...(nodes.length === 0 ? [top] : [])])];
  const group: Group = { family: 'map', nodes, reads, writes: [top], sides: [], constants, scalars: new Map() };
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  const found = new Map<number, Affine>();
  for (const value of reads) {
    lowering.define(value, (index: Index) => {
      found.set(value.id, linearize(index, shapeOf(value)));
      return zeroOf(b, value);
    });
  }
  // The workgroup's coordinates serve as independent variables.
  const variables = extents.map((extent, dim) => Affine.of(b.builtin('workgroup_id', dim as 0 | 1 | 2, extent), b));
  lowering.value(top, indexOf(variables), 1);
  const known = variables.flatMap(({ terms }) => terms.map(({ atom }) => atom.key));
  return (value) => {
    const address = found.get(value.id);
    const data = constants.get(value.id);
    if (!address || !data || address.terms.some(({ atom }) => !known.includes(atom.key))) return undefined;
    const [row, block, step] = variables.map(({ terms }) =>
      terms.length === 0 ? 0 : (address.terms.find(({ atom }) => atom.key === terms[0].atom.key)?.coefficient ?? 0),
    );
    return { data, first: address.constant, row, block, step };
  };
}

/** Places of everything with blocks of that size, if the formula has such. */
function placed(
  formula: Formula,
  target: Target,
  { rhs, n, k }: Contraction,
  block: number,
): Pick<BlockWeights, 'bits' | 'levels' | 'scales' | 'zeros'> | undefined {
  const { levels, scales, zeros } = formula;
  // Whole blocks, whose places are all there; but what comes after the first one is not known from one alone.
  const blocks = Math.max(Math.floor(k / block), Math.min(2, Math.ceil(k / block)));
  const placesOf = locate(formula, target, [n, blocks, block], ([row, blockAt, step]) =>
    rhs.index(Affine.constant(0), row, blockAt.scale(block).add(step)),
  );
  const [ofLevels, ofScales] = [placesOf(levels), placesOf(scales)];
  const ofZeros = typeof zeros === 'number' ? zeros : placesOf(zeros);
  if (!ofLevels || !ofScales || ofZeros === undefined || ofScales.step !== 0) return undefined;
  if (typeof ofZeros !== 'number' && ofZeros.step !== 0) return undefined;
  const bits = ({ i2: 2, u2: 2, i4: 4, u4: 4, i8: 8, u8: 8 } as const)[levels.type.dtype as 'u4'];
  return bits === undefined ? undefined : { bits, levels: ofLevels, scales: ofScales, zeros: ofZeros };
}

function zeroOf(b: KernelBuilder, { type: { dtype } }: Value) {
  return isInt(dtype)
    ? b.constant(0, isPacked(dtype) ? (dtype.startsWith('i') ? 'i8' : 'u8') : (dtype as 'i32'))
    : b.constant(0, dtype as 'f32');
}

// --- packed ----------------------------------------------------------------------------------------------------------

/** Words of `32 / bits` neighbours along k, low bits first, in tiles of `width` rows. */
export interface PackedBlocks {
  /** Words of a row in a block, elements of a word. */
  readonly words: number;
  readonly each: number;
  readonly blocks: number;
  /** Words from block to block of a tile: of all rows, then the scales as f32, then the zero points as bytes. */
  readonly pitch: number;
  /** The zero point of all blocks, where they have none of their own. */
  readonly zero: number | undefined;
  readonly constant: DerivedConstant;
}

/** Signed levels are stored from 0 on. */
export function packBlocks(weights: BlockWeights, name: string, width: number): PackedBlocks {
  const { bits, rows, k, block, levels, scales, zeros } = weights;
  const each = 32 / bits;
  const words = block / each;
  const blocks = Math.ceil(k / block);
  const tiles = Math.ceil(rows / width);
  const signed = levels.data.dtype.startsWith('i') ? 2 ** (bits - 1) : 0;
  const pitch = words * width + width + (typeof zeros === 'number' ? 0 : width / 4);
  const shape = [tiles * blocks * pitch];
  const load = () => {
    const packed = emptyTensor('i32', shape);
    const target = packed.data as Int32Array;
    const floats = new Float32Array(target.buffer, target.byteOffset, target.length);
    const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength);
    const from = elementsOf(levels.data.load()) as Uint8Array;
    const scale = numbers(scales.data);
    const zero = typeof zeros === 'number' ? undefined : (elementsOf(zeros.data.load()) as Uint8Array);
    for (let row = 0; row < rows; row++) {
      for (let b = 0; b < blocks; b++) {
        const at = (Math.floor(row / width) * blocks + b) * pitch + (row % width);
        const base = levels.first + row * levels.row + b * levels.block;
        const count = Math.min(block, k - b * block);
        for (let i = 0; i < count; i++) {
          const level = from[base + i * levels.step] + signed;
          target[at + Math.floor(i / each) * width] |= level << (bits * (i % each));
        }
        floats[at + words * width] = scale[scales.first + row * scales.row + b * scales.block];
        if (zero && typeof zeros !== 'number') {
          const tile = at - (row % width) + (words + 1) * width;
          bytes[4 * tile + (row % width)] = zero[zeros.first + row * zeros.row + b * zeros.block] + signed;
        }
      }
    }
    return packed;
  };
  return {
    words,
    each,
    blocks,
    pitch,
    zero: typeof zeros === 'number' ? zeros + signed : undefined,
    constant: { kind: 'constant', name: `${name}.blocks${width}`, data: { dtype: 'i32', shape, load } },
  };
}

/** Elements of a constant of floats as f32. */
function numbers(data: ConstantData): Float32Array {
  if (data.dtype === 'f32') return data.load().data as Float32Array;
  const tensor = data.load();
  return Float32Array.from(numbersOf(tensor));
}

/** Rows of 16-bit floats in tiles of `width`: [tile][k][width]. */
export function packHalves({ scalar, rows, k, places }: HalfWeights, name: string, width: number): DerivedConstant {
  const shape = [Math.ceil(rows / width) * k * width];
  const load = () => {
    const packed = emptyTensor(scalar, shape);
    const [target, source] = [packed.data as Uint16Array, places.data.load().data as Uint16Array];
    for (let row = 0; row < rows; row++) {
      const base = places.first + row * places.row;
      const at = Math.floor(row / width) * k * width + (row % width);
      for (let step = 0; step < k; step++) target[at + step * width] = source[base + step * places.step];
    }
    return packed;
  };
  return { kind: 'constant', name: `${name}.halves${width}`, data: { dtype: scalar, shape, load } };
}
